//! Many processes of `tenure run` on one lock, adding to one number, while some of them are killed and some are stopped.
//!
//! ```text
//!   16 threads, each:   tenure run counter -- exclusion worker …    until 200 of them have ended well
//!                          └─ worker: logs that it is in, reads the number, waits a little, writes it plus one, logs
//! ```
//!
//! *Without stops* the number lies in a plain file that nothing else protects, and holds may not overlap at all, whoever
//! is killed with `kill -9`, waiting or holding.
//!
//! *With stops* some are stopped for longer than their hold lasts, in the middle of their work, which no lock can prevent
//! from overlapping. The resource then has to check the fence: it refuses whoever comes with one older than the newest
//! it has seen, in reading as well as in writing, each under a file lock of its own. No update may get lost.
//!
//! Everything is judged by the log of the workers, which they append to line by line, with a clock that all of them share.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod support;

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};

use support::{Running, Store, eventually};

const PROCESSES: usize = 16;
const ROUNDS: usize = 200;
const TTL: Duration = Duration::from_millis(700);

/// The resource refused the worker's fence.
const REFUSED: u8 = 10;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("worker") {
        let (folder, part) = (arguments.next().expect("a folder"), arguments.next().expect("a part to play"));
        return Worker::new(Path::new(&folder), &part).work();
    }
    let trials = |name: &str, store: fn() -> Store| {
        let trial = |promise: &str, stops| Trial::test(format!("{name}::{promise}"), move || contend(&store(), stops));
        [
            trial("holds_never_overlap_whoever_is_killed", false),
            trial("no_update_is_lost_where_fences_are_checked", true),
        ]
    };
    let trials = [trials("sqlite", Store::sqlite), trials("redis", Store::redis)].into_iter().flatten();
    // One after the other: each of them is a crowd by itself.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

// -- the crowd -------------------------------------------------------------------------------------------------------

/// What happens to one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Nothing,
    KilledWhileItWaits,
    KilledWhileItHolds,
    Stopped,
}

impl Fate {
    /// Some of each, spread over the rounds so that no two fall together.
    fn of(process: usize, round: usize, stops: bool) -> Self {
        match (process * 37 + round * 11) % 400 {
            0 => Self::KilledWhileItHolds,
            100 => Self::KilledWhileItWaits,
            200 if stops => Self::Stopped,
            _ => Self::Nothing,
        }
    }
}

fn contend(store: &Store, stops: bool) -> Result<(), Failed> {
    let start = Instant::now();
    std::fs::write(store.path("number"), format!("{:020} {:020}", 0, 0)).expect("the file can be written");
    let kills = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for process in 0..PROCESSES {
            let kills = &kills;
            scope.spawn(move || {
                let (mut round, mut done) = (0, 0);
                while done < ROUNDS {
                    let fate = Fate::of(process, round, stops);
                    done += usize::from(one_run(store, &format!("{process}-{round}"), fate, stops, kills));
                    round += 1;
                    assert!(round < 2 * ROUNDS, "process {process} ended well {done} times in {round}");
                }
            });
        }
    });
    eventually("nobody holds or waits any more", || store.counts("counter") == (0, 0));
    let verdict = judge(store, stops, kills.into_inner());
    println!("{verdict}, {:.1?}", start.elapsed());
    Ok(())
}

/// Whether it ended well.
fn one_run(store: &Store, run: &str, fate: Fate, stops: bool, kills: &AtomicUsize) -> bool {
    let this = std::env::current_exe().expect("this program has a path");
    let folder = store.dir.path().to_str().expect("the path is text").to_owned();
    let part = match (fate, stops) {
        (Fate::Nothing | Fate::KilledWhileItWaits, false) => "plain",
        (Fate::Nothing | Fate::KilledWhileItWaits, true) => "checked",
        (_, false) => "plain-slow",
        (_, true) => "checked-slow",
    };
    let ttl = format!("{}ms", TTL.as_millis());
    let this = this.to_str().expect("the path is text");
    let mut command = store.tenure(&["run", "-q", "--ttl", &ttl, "counter", "--", this, "worker", &folder, part]);
    // That its hold was lost is what is to happen to one that is stopped, and news with any other.
    let stderr = if fate == Fate::Stopped { Stdio::null() } else { Stdio::inherit() };
    let mut running = Running::start(command.env("RUN", run).stderr(stderr));
    let marker = store.path(&format!("in-{run}"));
    match fate {
        Fate::Nothing => {}
        Fate::KilledWhileItWaits => {
            std::thread::sleep(Duration::from_millis(25));
            kills.fetch_add(1, Ordering::Relaxed);
            running.signal(Signal::KILL);
        }
        Fate::KilledWhileItHolds => {
            support::wait_for_file(&marker);
            kills.fetch_add(1, Ordering::Relaxed);
            running.signal(Signal::KILL);
        }
        Fate::Stopped => {
            support::wait_for_file(&marker);
            running.signal(Signal::STOP);
            std::thread::sleep(TTL * 3 / 2);
            running.signal(Signal::CONT);
        }
    }
    running.child().wait().expect("it can be waited for").success()
}

// -- the verdict -----------------------------------------------------------------------------------------------------

/// One worker's lines of the log.
#[derive(Debug, Default)]
struct Stay {
    fence: u64,
    from: u64,
    to: u64,
    wrote: Option<u64>,
    /// It was stopped, or it was overtaken.
    refused: bool,
    slow: bool,
}

fn judge(store: &Store, stops: bool, kills: usize) -> String {
    let log = std::fs::read_to_string(store.path("log")).expect("there is a log");
    let stays = stays(&log);
    for pair in stays.windows(2) {
        let [earlier, later] = pair else { unreachable!() };
        assert!(earlier.fence < later.fence, "a fence for each: {pair:?}");
        assert!(earlier.from < later.from, "in the order of their fences: {pair:?}");
        let may_overlap = stops && earlier.slow;
        assert!(may_overlap || earlier.to < later.from, "no two at once: {pair:?}");
    }
    let written: Vec<u64> = stays.iter().filter_map(|stay| stay.wrote).collect();
    for pair in written.windows(2) {
        assert!(pair[0] < pair[1], "an update was lost: {} was written after {}", pair[1], pair[0]);
    }
    let (number, _) = parse(&std::fs::read_to_string(store.path("number")).expect("there is a number"));
    // Whoever was killed between its write and its line in the log has added one all the same.
    let unlogged = number - written.len() as u64;
    assert!(unlogged <= kills as u64, "the number is {number} after {} updates", written.len());
    assert!(written.len() >= PROCESSES * ROUNDS, "{} updates", written.len());
    let refused = stays.iter().filter(|stay| stay.refused).count();
    assert!(!stops || refused > 0, "some came too late and were refused");
    if let Some(redis) = &store.redis {
        for key in redis.command(&["KEYS", "*"]).lines().filter(|line| line.contains("counter")) {
            let left = redis.command(&["PTTL", key]);
            assert!(left.trim().trim_start_matches(':').parse::<i64>().is_ok_and(|left| left > 0), "{key}: {left}");
        }
    }
    format!("{} updates, {kills} killed, {refused} refused", written.len())
}

fn stays(log: &str) -> Vec<Stay> {
    let mut stays = std::collections::BTreeMap::<u64, Stay>::new();
    for line in log.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [fence, time, what, value] = fields.as_slice() else { panic!("{line:?}") };
        let number = |text: &str| text.parse::<u64>().unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let stay = stays.entry(number(fence)).or_default();
        stay.fence = number(fence);
        stay.to = number(time);
        match *what {
            "in" => {
                assert_eq!(stay.from, 0, "one worker for each fence: {line}");
                stay.from = number(time);
                stay.slow = value.ends_with("slow");
            }
            "wrote" => stay.wrote = Some(number(value)),
            "refused" => stay.refused = true,
            _ => {}
        }
    }
    stays.into_values().collect()
}

/// The number, and the newest fence that the resource has seen.
fn parse(text: &str) -> (u64, u64) {
    let (number, fence) = text.split_once(' ').unwrap_or_else(|| panic!("{text:?}"));
    (number.parse().expect("a number"), fence.trim().parse().expect("a fence"))
}

// -- the worker ------------------------------------------------------------------------------------------------------

struct Worker {
    folder: PathBuf,
    part: String,
    fence: u64,
    log: File,
}

impl Worker {
    fn new(folder: &Path, part: &str) -> Self {
        let fence = std::env::var("TENURE_FENCE").expect("there is a fence").parse().expect("it is a number");
        let log = OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("the log can be opened");
        Self { folder: folder.to_owned(), part: part.to_owned(), fence, log }
    }

    fn work(mut self) -> ExitCode {
        self.note("in", &self.part.clone());
        let Some(number) = self.read() else { return self.refused() };
        if self.part.ends_with("slow") {
            let run = std::env::var("RUN").expect("the run has a name");
            File::create(self.folder.join(format!("in-{run}"))).expect("the marker can be made");
            std::thread::sleep(TTL + Duration::from_millis(100));
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !self.write(number + 1) {
            return self.refused();
        }
        self.note("wrote", &(number + 1).to_string());
        ExitCode::SUCCESS
    }

    fn refused(mut self) -> ExitCode {
        self.note("refused", "-");
        ExitCode::from(REFUSED)
    }

    /// The number, unless the resource has seen a newer fence.
    fn read(&self) -> Option<u64> {
        let mut file = self.resource();
        let (number, newest) = contents(&mut file);
        if !self.part.starts_with("checked") {
            return Some(number);
        }
        self.is_current(newest).then(|| put(&file, number, self.fence)).map(|()| number)
    }

    /// Whether it was written.
    fn write(&self, number: u64) -> bool {
        let mut file = self.resource();
        let (_, newest) = contents(&mut file);
        let may = !self.part.starts_with("checked") || self.is_current(newest);
        if may {
            put(&file, number, self.fence);
        }
        may
    }

    fn is_current(&self, newest: u64) -> bool {
        self.fence >= newest
    }

    /// The file; locked where the resource checks, so that its check and its write are one step.
    fn resource(&self) -> File {
        let file =
            OpenOptions::new().read(true).write(true).open(self.folder.join("number")).expect("it can be opened");
        if self.part.starts_with("checked") {
            file.lock().expect("it can be locked");
        }
        file
    }

    fn note(&mut self, what: &str, value: &str) {
        let time = clock_gettime(ClockId::Monotonic);
        let nanos = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
        let line = format!("{} {nanos} {what} {value}\n", self.fence);
        self.log.write_all(line.as_bytes()).expect("the log can be written");
    }
}

fn contents(file: &mut File) -> (u64, u64) {
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("it can be read");
    parse(&text)
}

/// In one call, which a kill does not tear.
fn put(file: &File, number: u64, fence: u64) {
    file.write_all_at(format!("{number:020} {fence:020}").as_bytes(), 0).expect("it can be written");
}
