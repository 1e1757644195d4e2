//! How far the servers' clocks are from this machine's, and from each other.
//!
//! ```text
//!   sent ├───────────┬───────────┤ received      the server's time belongs somewhere in between: the middle, and
//!                    time                        half of the round trip either way
//! ```

use std::time::{Duration, UNIX_EPOCH};

use tenure::Error;
use tenure::inspect::Session;

use super::finding::{Findings, Level};
use crate::{clock, duration};

/// How many times a server is asked; the quickest answer counts.
const ASKED: usize = 5;
/// From where on it is worth a word, and a warning, in microseconds.
const NOTED: i64 = 100_000;
const WARNED: i64 = 1_000_000;

/// By how much a clock is ahead of this machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offset {
    pub(super) micros: i64,
    /// By how much it may be wrong, either way.
    pub(super) error: i64,
}

impl Offset {
    /// How far it is from that one at the least.
    fn from(self, other: Self) -> i64 {
        ((self.micros - other.micros).abs() - self.error - other.error).max(0)
    }
}

/// Asks for the time; `None` where this user may not.
///
/// # Errors
///
/// When there is no answer.
pub(super) async fn measure(session: &Session) -> Result<Option<Offset>, Error> {
    let mut best: Option<Offset> = None;
    for _ in 0..ASKED {
        let (sent, began) = (clock::wall(), clock::now());
        let answer = session.ask(&["TIME"]).await?;
        let trip = clock::now() - began;
        let [seconds, micros] = answer.items() else { return Ok(None) };
        let theirs = seconds.text().parse::<i64>().unwrap_or(0) * 1_000_000 + micros.text().parse::<i64>().unwrap_or(0);
        let half = (trip / 2).as_micros() as i64;
        let ours = sent.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64 + half;
        let offset = Offset { micros: theirs - ours, error: half + 1 };
        best = best.filter(|best| best.error <= offset.error).or(Some(offset));
    }
    Ok(best)
}

const WHY: &str = "Holds do not depend on it, as the store and the holder each count with their own clock. But a token is \
                   at least the clock of the store that mints it: after a failover, or a loss of memory, tokens rise only \
                   if the clocks differ by less than the failover took.";
const FIX: [&str; 1] =
    ["run NTP on all machines: `chronyc tracking` or `timedatectl timesync-status` shows how it fares"];

/// One server against this machine.
pub(super) fn judge(offset: Offset, findings: &mut Findings) {
    let here = Offset { micros: 0, error: 0 };
    let side = if offset.micros < 0 { "behind" } else { "ahead of" };
    let found = format!("{} {side} this machine's, give or take {}", text(offset.micros), text(offset.error));
    findings.add_by(offset.from(here), found);
}

/// The servers against each other: the two that are the furthest apart.
pub(super) fn compare(clocks: &[(String, Offset)], findings: &mut Findings) {
    let pairs = clocks.iter().enumerate().flat_map(|(i, a)| clocks[..i].iter().map(move |b| (a, b)));
    let Some((a, b)) = pairs.max_by_key(|(a, b)| a.1.from(b.1)) else { return };
    let apart = a.1.from(b.1);
    findings.add_by(apart, format!("at least {} between {} and {}, the furthest apart", text(apart), b.0, a.0));
}

impl Findings {
    fn add_by(&mut self, distance: i64, found: String) {
        match distance {
            distance if distance <= NOTED => self.ok("clock", found),
            distance if distance <= WARNED => self.add(Level::Note, "clock", found, WHY, &FIX),
            _ => self.add(Level::Warning, "clock", found, WHY, &FIX),
        }
    }
}

fn text(micros: i64) -> String {
    match micros.unsigned_abs() {
        micros @ 0..10_000 => format!("{:.2}ms", micros as f64 / 1e3),
        micros => duration::text(Duration::from_micros(micros)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(judge: impl Fn(&mut Findings)) -> Level {
        let mut findings = Findings::at("a");
        judge(&mut findings);
        findings.all[0].level
    }

    #[test]
    fn what_may_be_the_way_of_the_message_is_not_held_against_a_clock() {
        for (micros, error, expected) in [
            (0, 100, Level::Ok),
            (-100_000, 1, Level::Ok),
            (200_000, 150_000, Level::Ok),
            (-200_000, 1_000, Level::Note),
            (1_000_500, 1_000, Level::Note),
            (60_000_000, 1_000, Level::Warning),
            (-1_002_000, 1_000, Level::Warning),
        ] {
            assert_eq!(level(|found| judge(Offset { micros, error }, found)), expected, "{micros} ± {error}");
        }
    }

    #[test]
    fn the_two_that_are_the_furthest_apart_count() {
        let clocks = |micros: [i64; 3]| {
            ["a", "b", "c"]
                .iter()
                .zip(micros)
                .map(|(name, micros)| (String::from(*name), Offset { micros, error: 50 }))
                .collect::<Vec<_>>()
        };
        assert_eq!(level(|found| compare(&clocks([0, 90_000, 50_000]), found)), Level::Ok);
        // Each within a second of ours, and more than that from each other.
        let far = clocks([-900_000, 10, 900_000]);
        let mut findings = Findings::at("all");
        compare(&far, &mut findings);
        assert_eq!(findings.all[0].level, Level::Warning);
        assert!(findings.all[0].found.contains("between a and c"), "{:?}", findings.all);
    }
}
