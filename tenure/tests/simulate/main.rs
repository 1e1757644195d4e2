//! The whole client, simulated.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

mod history;
mod network;
mod play;
mod scenario;
mod task;

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
    println!("{seeds} seeds from {first}: {:?}", total.lock().unwrap());
    let failed = *failed.lock().unwrap();
    if let Some(seed) = failed {
        panic!("{}", story(&play(seed, true), seed));
    }
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
