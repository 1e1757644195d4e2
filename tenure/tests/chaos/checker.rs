//! What must be so of any history.
//!
//! | check | red with |
//! | --- | --- |
//! | holds of one lock do not overlap while certain, as their holders saw it | `planted.rs`; and in the library: a client that ignores its deadline, a quorum that counts votes for different tokens |
//! | who is certain is never refused for the token | the same |
//! | fences rise: who asked after another one was granted has a later token; no two acquisitions have the same | `planted.rs`; tokens that are all the same |
//! | the resource took no older token after a newer one, one token is of one acquisition, and no number that was written is lost | `planted.rs`; tokens that are all the same |
//! | at least 30% of the operations did what they were meant to | `planted.rs` |
//! | after healing everybody gets a lock in time | `planted.rs`; a client that gives up its store after the first error |
//!
//! The first two rest on what a topology assumes; where a nemesis breaks that, they are counted and told. The others hold
//! anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::history::{End, Entry, Held, Micros, Who, by_name};
use crate::resource::Access;

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Findings {
    pub(crate) operations: usize,
    pub(crate) completed: usize,
    pub(crate) held: usize,
    pub(crate) lost: usize,
    pub(crate) timeouts: usize,
    /// The release failed, or said that it was no longer ours.
    pub(crate) unsure: usize,
    pub(crate) failed: usize,
    /// What errors and releases said, and how often.
    pub(crate) reasons: BTreeMap<String, usize>,
    /// Each pair of holds that were certain at the same time, and each certain holder that was refused.
    pub(crate) overlaps: Vec<String>,
    pub(crate) fences: Vec<String>,
    pub(crate) resource: Vec<String>,
    pub(crate) progress: Vec<String>,
}

/// A share of the operations that must do what they were meant to.
const LEAST: f64 = 0.3;

/// Looks at a run, whose trouble ended at `healed`; after that everybody should get a lock within `limit`.
pub(crate) fn check(
    entries: &[Entry],
    accesses: &[Access],
    everybody: &BTreeSet<Who>,
    (healed, limit): (Micros, Micros),
) -> Findings {
    let count = |is: fn(&End) -> bool| entries.iter().filter(|entry| is(&entry.end)).count();
    let mut findings = Findings {
        operations: entries.len(),
        completed: entries.iter().filter(|entry| entry.is_complete()).count(),
        held: entries.iter().filter(|entry| entry.hold.is_some()).count(),
        lost: count(|end| *end == End::Lost),
        timeouts: count(|end| *end == End::Timeout),
        unsure: count(|end| matches!(end, End::Unsure(_))),
        failed: count(|end| matches!(end, End::Failed(_))),
        resource: of_resource(accesses),
        ..Findings::default()
    };
    for entry in entries {
        if let End::Failed(why) | End::Unsure(why) = &entry.end {
            *findings.reasons.entry(why.clone()).or_default() += 1;
        }
    }
    for (name, holds) in by_name(entries) {
        findings.overlaps.extend(overlaps(name, &holds));
        findings.fences.extend(fences(name, &holds));
    }
    let share = findings.completed as f64 / entries.len().max(1) as f64;
    if share < LEAST {
        findings.progress.push(format!("only {:.0}% of {} operations completed", share * 100.0, entries.len()));
    }
    let late = waiting(entries, everybody, healed, limit);
    findings
        .progress
        .extend(late.iter().map(|who| format!("{who:?} got no lock in {} ms after healing", limit / 1_000)));
    findings
}

/// Who got no lock between then and so much later.
pub(crate) fn waiting(entries: &[Entry], everybody: &BTreeSet<Who>, healed: Micros, limit: Micros) -> BTreeSet<Who> {
    let since = healed..healed.saturating_add(limit);
    let got =
        |entry: &&Entry| entry.is_complete() && entry.hold.as_ref().is_some_and(|hold| since.contains(&hold.granted));
    let had: BTreeSet<Who> = entries.iter().filter(got).map(|entry| entry.who).collect();
    everybody.difference(&had).copied().collect()
}

fn overlaps(name: &str, holds: &[(&Entry, &Held)]) -> Vec<String> {
    let mut found = Vec::new();
    let mut certain: Vec<_> =
        holds.iter().filter_map(|(entry, hold)| hold.certain.map(|interval| (interval, *entry, *hold))).collect();
    certain.sort_by_key(|(interval, ..)| *interval);
    let mut longest: Option<((Micros, Micros), &Entry, &Held)> = None;
    for (interval, entry, hold) in certain {
        if let Some((before, other, other_hold)) = longest.filter(|(before, ..)| interval.0 < before.1) {
            found.push(format!(
                "{name}: {:?} under {} was certain from {} to {} µs, {:?} under {} from {} to {}",
                other.who, other_hold.fence, before.0, before.1, entry.who, hold.fence, interval.0, interval.1
            ));
        }
        if longest.is_none_or(|(before, ..)| before.1 < interval.1) {
            longest = Some((interval, entry, hold));
        }
        if hold.refused {
            found.push(format!("{name}: {:?} was certain of {} and was refused", entry.who, hold.fence));
        }
    }
    found
}

fn fences(name: &str, holds: &[(&Entry, &Held)]) -> Vec<String> {
    let mut found = Vec::new();
    let (mut granted, mut called) = (holds.to_vec(), holds.to_vec());
    granted.sort_by_key(|(_, hold)| hold.granted);
    called.sort_by_key(|(entry, _)| entry.called);
    let (mut before, mut newest) = (granted.iter().peekable(), 0);
    for (entry, hold) in called {
        while let Some((_, earlier)) = before.next_if(|(_, earlier)| earlier.granted < entry.called) {
            newest = newest.max(earlier.fence);
        }
        if hold.fence <= newest {
            found.push(format!("{name}: {:?} asked after {newest} was granted, and got {}", entry.who, hold.fence));
        }
    }
    let mut owners: BTreeMap<u64, &Entry> = BTreeMap::new();
    for (entry, hold) in holds {
        if let Some(other) = owners.insert(hold.fence, entry) {
            found.push(format!("{name}: {:?} and {:?} both had {}", other.who, entry.who, hold.fence));
        }
    }
    found
}

fn of_resource(accesses: &[Access]) -> Vec<String> {
    let mut found = Vec::new();
    let mut latest: BTreeMap<&str, (&Access, u64)> = BTreeMap::new();
    for access in accesses {
        let Access { name, fence, id, wrote } = access;
        let mut value = 0;
        if let Some((last, number)) = latest.get(name.as_str()) {
            value = *number;
            if *fence < last.fence {
                found.push(format!("{name}: {fence} was let in after {}", last.fence));
            }
            if *fence == last.fence && *id != last.id {
                found.push(format!("{name}: two acquisitions, {id:x} and {:x}, came with {fence}", last.id));
            }
        }
        if wrote.is_some_and(|wrote| wrote != value + 1) {
            found.push(format!("{name}: under {fence} a number was written that does not follow {value}"));
        }
        latest.insert(name, (access, wrote.unwrap_or(value)));
    }
    found
}

impl Findings {
    /// What broke a promise, where holds may overlap or may not.
    pub(crate) fn violations(&self, may_overlap: bool) -> Vec<&String> {
        let overlaps = if may_overlap { &[][..] } else { &self.overlaps };
        overlaps.iter().chain(&self.fences).chain(&self.resource).chain(&self.progress).collect()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = self.completed as f64 * 100.0 / self.operations.max(1) as f64;
        let Self { operations, held, lost, timeouts, unsure, failed, overlaps, .. } = self;
        let fences = self.fences.len() + self.resource.len();
        write!(f, "{operations} operations, {share:.0}% complete, {held} holds, {lost} lost, ")?;
        write!(f, "{timeouts} timeouts, {unsure} unsure, {failed} errors; ")?;
        write!(f, "{} overlaps, {fences} fence violations", overlaps.len())
    }
}
