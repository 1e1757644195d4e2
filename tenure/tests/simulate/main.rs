//! The whole client, simulated: several processes with several tasks each, which take a few locks in every way there is,
//! over a network and a store on which nothing can be relied, under a paused clock. One seed decides everything.
//!
//! * `scenario.rs` is what is drawn from a seed, from calm weather to disaster;
//! * `network.rs`, which a process reaches through its `wire.rs`, lies between the clients and the store, which is the real [`Memory`](tenure::store::Memory);
//! * `spare.rs` is the second store that some processes go to while the first is away;
//! * `task.rs` is what the tasks do, alone, with `several.rs` locks at once or with `leases.rs`, and what they check on the spot;
//! * `history.rs`, with what it knows of each `lock.rs` and of everyone who is `asking.rs`, watches all that happens;
//! * `play.rs` plays a scenario to its end, and sees that nothing is left behind.
//!
//! What is checked, of any seed:
//!
//! | promise | in which weather |
//! | --- | --- |
//! | what excludes each other is not held at once, as the holders see it (`is_held`); degraded holds apart | all but disaster, where it is counted |
//! | a resource that checks fences never takes an older one after a newer | all |
//! | fences rise strictly in the order of grants; no two holds have the same | all |
//! | the store never lets in more than the limit | all |
//! | a hold is certain when it is given; what is over stays over; `lost` tells it within 3 ms, and only then | all |
//! | a wait ends by its timeout, a try by the time limit of a reply | all where no clock stands still |
//! | a free lock is had within six trips and 8 ms by who waits for it; after a storm, too, when its last trace is gone | all |
//! | who waits is not overtaken, but in the ways that lines of tasks allow | calm |
//! | a release says that the hold was known; only errors that the weather explains come up | calm and breeze |
//! | a degraded hold has no fence, and excludes those of its process; what its claim left at the store is given back | all |
//! | several locks are all held or none is; who waits for several never waits for ever | all |
//! | a lease keeps its fence through every hand; it is gone only when its time is up; a ticket that is void finds nothing | all but disaster; the last in calm and breeze |
//! | everybody has its turn in the end, and `close` returns | all |
//! | then nothing is left: no holder, no place, no watch; when its memory is over, no record | all; at once in calm and breeze |
//! | the same seed tells the same story | all |
//!
//! A process that is paused sends and hears nothing meanwhile, and its tasks look at their holds only afterwards; that its
//! timers are late as well is what a suspend does, which the tests do to all processes at once.
//!
//! `TENURE_CASES` and `TENURE_SEED` say how many seeds are played, and from which on; `cargo xtask simulate` sets them, and
//! CI plays 20,000. A failure prints its scenario, the last lines of its history, and the command to play it again.
//!
//! `bugs/` has the bugs that must be found within CI's seeds, each with what it breaks; `cargo xtask simulate --bugs`
//! plants them one after the other.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

mod asking;
mod grip;
mod history;
mod leases;
mod lock;
mod network;
mod play;
mod scenario;
mod several;
mod spare;
mod task;
mod wire;

use history::Counts;
use play::{Played, play};

/// How many lines of its history are shown of a seed that failed.
const SHOWN: usize = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_promise_is_kept_in_every_weather() {
    let seeds = number("TENURE_CASES").unwrap_or(2_000);
    let first = number("TENURE_SEED").unwrap_or(0);
    let next = AtomicU64::new(0);
    let (failed, total) = (Mutex::new(None::<u64>), Mutex::new(Counts::default()));
    let work = || {
        let mut counts = Counts::default();
        loop {
            let n = next.fetch_add(1, SeqCst);
            if n >= seeds || failed.lock().unwrap().is_some() {
                break;
            }
            let played = play(first + n, false);
            counts.add(&played.counts);
            if played.failure.is_some() {
                let mut failed = failed.lock().unwrap();
                *failed = Some(failed.map_or(first + n, |other| other.min(first + n)));
            }
        }
        total.lock().unwrap().add(&counts);
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let total = *total.lock().unwrap();
    println!("{seeds} seeds from {first}: {total:?}");
    let failed = *failed.lock().unwrap();
    if let Some(seed) = failed {
        panic!("{}", story(&play(seed, true), seed));
    }
    // It is worth its time: what the promises are about comes up.
    let common = [total.waits, total.lost, total.handed_on, total.refused_writes];
    let rarest = common.into_iter().chain([total.together, total.passed, total.degraded]).min();
    assert!(seeds < 2_000 || (rarest > Some(seeds / 20) && total.overlaps > 0), "too tame: {total:?}");
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in 0..200 {
        let (one, two) = (play(seed, true), play(seed, true));
        let differ = one.lines.iter().zip(&two.lines).position(|(one, two)| one != two);
        if let Some(line) = differ {
            panic!("seed {seed}, line {line}:\n{}\n{}", one.lines[line], two.lines[line]);
        }
        assert_eq!(one.lines.len(), two.lines.len(), "seed {seed}");
    }
}

/// What there is to say of a seed that failed.
fn story(played: &Played, seed: u64) -> String {
    let failure =
        played.failure.as_deref().unwrap_or("it failed once, and not again: something besides its seed matters");
    let lines = &played.lines;
    let end = lines.iter().position(|line| line.contains("BROKEN")).map_or(lines.len(), |line| line + 1);
    let shown = lines[end.saturating_sub(SHOWN)..end].join("\n");
    format!(
        "{failure}\n\n{:#?}\n\n{shown}\n\nto play it again: cargo xtask simulate --seeds 1 --seed {seed}",
        played.scenario
    )
}
