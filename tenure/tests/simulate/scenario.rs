//! What is drawn from a seed: the processes, their locks and habits, the network between them and the store, and what
//! goes wrong when.
//!
//! A scenario is data and says all that is needed to understand a failure; it is printed with one.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How bad it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weather {
    /// Every message takes the same time, and all arrive in the order in which they were sent.
    Calm,
    /// Each takes a time of its own, so that they overtake each other; the store's clock drifts by less than 1%.
    Breeze,
    /// They get lost, double or very late, and processes are cut off, paused, suspended or killed, until it clears up.
    Storm,
    /// As in a storm, and the store comes back empty, its clock jumps, or locks are broken: what the design assumes not to happen, or to
    /// be met with fences.
    Disaster,
}

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) weather: Weather,
    pub(crate) processes: Vec<Process>,
    pub(crate) locks: Vec<Spec>,
    /// The shortest and the longest time that a message takes, in ms.
    pub(crate) delay: (u64, u64),
    /// How far the store's clock runs ahead in a second, in µs.
    pub(crate) drift: i64,
    /// Out of a thousand messages.
    pub(crate) odds: Odds,
    /// What happens to all, in order, each so long after the one before.
    pub(crate) events: Vec<(Duration, Happening)>,
    /// When it clears up: from then on it is a breeze.
    pub(crate) clear_at: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// For each task, on whose behalf it acts.
    pub(crate) tasks: Vec<Option<u8>>,
    /// How often each task takes a lock.
    pub(crate) rounds: u32,
    /// Out of a hundred acquisitions, how many are dropped before they end.
    pub(crate) cancels: u32,
    /// Its store is behind a circuit breaker, that opens after so many failures for so long.
    pub(crate) breaker: Option<(u32, Duration)>,
    /// While its store is away, it goes to one of its own.
    pub(crate) fallback: bool,
    /// Out of a hundred acquisitions, how many are of all locks at once, and how many are leases.
    pub(crate) several: u32,
    pub(crate) leases: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) kind: Kind,
    pub(crate) ttl: Duration,
    pub(crate) patience: Duration,
    pub(crate) op_timeout: Duration,
    pub(crate) memory: Duration,
    pub(crate) watchdog: bool,
    pub(crate) interval: Option<Duration>,
    pub(crate) local_hand_off: bool,
    pub(crate) max_hold: Option<Duration>,
    /// So many retries, so far apart.
    pub(crate) retry: Option<(usize, Duration)>,
    /// How many claims an owner may have.
    pub(crate) max: u32,
    /// The longest that it is held on purpose.
    pub(crate) hold: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Mutex,
    ReadWrite,
    Semaphore(u32),
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Odds {
    /// A request or a reply gets lost.
    pub(crate) lost: u32,
    /// A request arrives a second time, perhaps much later.
    pub(crate) twice: u32,
    /// A request or a push arrives much later.
    pub(crate) late: u32,
    /// The store says that it cannot serve now.
    pub(crate) refused: u32,
    /// A push gets lost.
    pub(crate) unpushed: u32,
    /// A push comes that is for nothing.
    pub(crate) spurious: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening {
    /// A process is cut off from the store; loudly, its requests fail at once, else they are never answered.
    Cut { process: usize, time: Duration, loud: bool },
    /// A process does nothing for that time: it neither sends nor hears.
    Pause { process: usize, time: Duration },
    /// The machine of all processes is suspended, and the store's is not.
    Suspend { time: Duration },
    /// A process is no more.
    Kill { process: usize },
    /// The store cannot be reached, and comes back with what it had, or with nothing.
    Down { time: Duration, empty: bool },
    /// Somebody takes a lock away from whoever holds it.
    Break { lock: usize },
    /// The store's clock jumps, in µs.
    Jump { micros: i64 },
}

impl Scenario {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        use Weather::*;
        let weather = [Calm, Calm, Breeze, Breeze, Storm, Storm, Storm, Disaster][rng.random_range(0..8)];
        let scale = 50.0 * 600_f64.powf(rng.random::<f64>());
        let locks: Vec<_> = (0..rng.random_range(1..=2)).map(|_| Spec::draw(rng, weather, scale)).collect();
        let processes: Vec<_> = (0..rng.random_range(1..=4)).map(|_| Process::draw(rng, weather, scale)).collect();
        let shortest = locks.iter().flat_map(|lock| [lock.patience, lock.ttl, lock.op_timeout]).min().expect("a lock");
        // In good weather three attempts fit into any time limit.
        let most = shortest.as_millis() as u64 / if weather >= Storm { 4 } else { 12 };
        let most = most.clamp(1, 2_000);
        let delay = match weather {
            Calm => [(0, 0), (1, 1), (most, most)][rng.random_range(0..3)],
            _ => (0, rng.random_range(1..=most)),
        };
        let rough = weather >= Storm;
        let mut odds = |most: u32| if rough && rng.random_bool(0.6) { rng.random_range(0..=most) } else { 0 };
        let odds = Odds {
            lost: odds(150),
            twice: odds(100),
            late: odds(100),
            refused: odds(100),
            unpushed: odds(500),
            spurious: odds(200),
        };
        let events: Vec<_> = match rough {
            true => (0..rng.random_range(0..6)).map(|_| event(rng, weather, scale, &processes, &locks)).collect(),
            false => Vec::new(),
        };
        let lasts: Duration = events.iter().map(|(after, _)| *after).sum();
        let clear_at = if rough { lasts + ms(scale * rng.random_range(1.0..6.0)) } else { Duration::ZERO };
        let drift = if weather == Calm { 0 } else { rng.random_range(-9_000..=9_000) };
        Self { seed, weather, processes, locks, delay, drift, odds, events, clear_at }
    }

    /// The longest of a time that each lock has.
    pub(crate) fn longest(&self, of: impl Fn(&Spec) -> Duration) -> Duration {
        self.locks.iter().map(of).max().unwrap_or_default()
    }

    /// How much later than usual a message may be, in a storm.
    pub(crate) fn very_late(&self) -> Duration {
        2 * self.longest(|lock| lock.ttl.max(lock.patience))
    }

    /// The longest that a message takes in good weather.
    pub(crate) fn trip(&self) -> Duration {
        Duration::from_millis(self.delay.1)
    }

    /// How long after it cleared up the last trace of the storm is gone: what was held or queued by the dead, what was
    /// under way, what was waiting to try again.
    pub(crate) fn aftermath(&self) -> Duration {
        if self.weather < Weather::Storm {
            return Duration::ZERO;
        }
        let expiry = self.longest(|lock| lock.ttl) + self.longest(|lock| lock.patience);
        let cool_down = self.processes.iter().filter_map(|process| process.breaker).map(|(_, time)| time).max();
        2 * cool_down.unwrap_or_default()
            + self.very_late()
            + 2 * expiry
            + self.longest(|lock| lock.op_timeout)
            + self.set_back()
            + ms(2_500.0)
    }

    /// By how much the store's clock is set back in all.
    pub(crate) fn set_back(&self) -> Duration {
        let back = |(_, happening): &(_, Happening)| match happening {
            Happening::Jump { micros } => Duration::from_micros(micros.min(&0).unsigned_abs()),
            _ => Duration::ZERO,
        };
        self.events.iter().map(back).sum()
    }

    /// Whether holds may overlap, as what exclusion rests on does not hold.
    pub(crate) fn may_overlap(&self) -> bool {
        self.weather == Weather::Disaster
    }

    /// Whether any clock of a process stands still for a while.
    pub(crate) fn stands_still(&self) -> bool {
        let still = |(_, event): &(_, _)| matches!(event, Happening::Suspend { .. } | Happening::Pause { .. });
        self.events.iter().any(still)
    }
}

impl Process {
    fn draw(rng: &mut StdRng, weather: Weather, scale: f64) -> Self {
        let owned = [0.0, 0.0, 0.5][rng.random_range(0..3)];
        let many = if rng.random_bool(0.1) { 6 } else { 3 };
        let tasks = (0..rng.random_range(1..=many)).map(|_| rng.random_bool(owned).then(|| rng.random_range(0..3)));
        let tasks = tasks.collect();
        let breaker = (weather >= Weather::Storm && rng.random_bool(0.3))
            .then(|| (rng.random_range(1..=5), ms(scale * rng.random_range(0.1..2.0))));
        let fallback = weather >= Weather::Storm && rng.random_bool(0.25);
        let (rounds, cancels) = (rng.random_range(1..=4), [0, 10, 50][rng.random_range(0..3)]);
        let (several, leases) = ([0, 0, 10, 40][rng.random_range(0..4)], [0, 0, 0, 30][rng.random_range(0..4)]);
        Self { tasks, rounds, cancels, breaker, fallback, several, leases }
    }
}

impl Spec {
    fn draw(rng: &mut StdRng, weather: Weather, scale: f64) -> Self {
        let kind = match rng.random_range(0..8) {
            0..4 => Kind::Mutex,
            4..6 => Kind::ReadWrite,
            _ => Kind::Semaphore(rng.random_range(2..=4)),
        };
        // Long enough to see a storm through, or not.
        let long = if weather >= Weather::Storm { 5.0 } else { 2.0 };
        let mut span = |from: f64, to: f64| ms((scale * rng.random_range(from..to)).max(12.0));
        let ttl = span(1.0, 2.0).max(ms(50.0));
        let (patience, op_timeout, hold) = (span(0.3, 3.0), span(0.3, 3.0), span(0.05, long));
        let watchdog = rng.random_bool(0.7);
        let interval = rng.random_bool(0.2).then(|| ttl.mul_f64(rng.random_range(0.2..0.6)));
        let memory = ms(1_000.0 * [1.0, 10.0, 60.0][rng.random_range(0..3)]);
        let max_hold = rng.random_bool(0.1).then(|| hold.mul_f64(rng.random_range(0.3..1.2)));
        let retry = rng.random_bool(0.1).then(|| (rng.random_range(0..4), hold.mul_f64(rng.random_range(0.1..2.0))));
        let (local_hand_off, max) = (rng.random_bool(0.7), rng.random_range(1..=4));
        Self { kind, ttl, patience, op_timeout, memory, watchdog, interval, local_hand_off, max_hold, retry, max, hold }
    }
}

fn event(
    rng: &mut StdRng,
    weather: Weather,
    scale: f64,
    processes: &[Process],
    locks: &[Spec],
) -> (Duration, Happening) {
    let after = ms(scale * rng.random_range(0.0..3.0));
    let process = rng.random_range(0..processes.len());
    let time = ms(scale * rng.random_range(0.1..4.0));
    let kinds = if weather == Weather::Disaster { 14 } else { 8 };
    let happening = match rng.random_range(0..kinds) {
        0..2 => Happening::Cut { process, time, loud: rng.random() },
        2..4 => Happening::Pause { process, time },
        4..6 => Happening::Suspend { time },
        6 => Happening::Kill { process },
        7 => Happening::Down { time, empty: false },
        // It takes a while to come back, so that its clock is ahead of the tokens it forgot.
        8..10 => Happening::Down { time: time.max(ms(20.0)), empty: true },
        10..12 => Happening::Break { lock: rng.random_range(0..locks.len()) },
        _ => {
            // A lock remembers its last token for as long as its clock may be set back.
            let back = locks.iter().map(|lock| lock.memory.min(lock.ttl)).min().expect("a lock") / 6;
            let back = back.as_micros() as i64;
            Happening::Jump { micros: rng.random_range(-back..=4 * back) }
        }
    };
    (after, happening)
}

impl Kind {
    pub(crate) fn limit(self) -> u32 {
        if let Kind::Semaphore(limit) = self { limit } else { u32::MAX }
    }
}

pub(crate) fn ms(millis: f64) -> Duration {
    Duration::from_millis(millis as u64)
}
