//! What the history knows of one lock: who is in, who waits, and the tokens it has seen.

use std::collections::{BTreeMap, BTreeSet};

use tenure::proto::{ClaimId, Entry, Record};
use tokio::time::Instant;

use crate::grip::Grip;

#[derive(Default)]
pub(crate) struct Lock {
    pub(crate) holds: Vec<Held>,
    pub(crate) waiting: Vec<Wait>,
    pub(crate) calls: u64,
    /// How many may have it whose holds are not known: they are about to take it together with others, or let it expire.
    pub(crate) engaged: i32,
    /// Who was let in by the store, under which token; a claim may be let in again when it expired.
    pub(crate) grants: BTreeSet<(ClaimId, u64)>,
    /// The tokens in the order in which the store gave them.
    pub(crate) order: BTreeMap<u64, usize>,
    /// The newest of them.
    pub(crate) newest: u64,
    /// The tokens that holders were given, for whom, and whether for all there is.
    pub(crate) given: BTreeMap<u64, (Option<u8>, bool)>,
    /// The newest token that the protected resource has seen, and the place of its grant.
    pub(crate) written: (u64, usize),
    /// Since when nobody holds it and nobody gave up waiting, and whether a hold ended without a release.
    pub(crate) idle_since: Option<Instant>,
    pub(crate) abandoned: bool,
}

/// Who claims how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claimant {
    pub(crate) lock: usize,
    pub(crate) process: usize,
    pub(crate) task: usize,
    pub(crate) owner: Option<u8>,
    pub(crate) permits: u32,
    pub(crate) limit: u32,
    /// It stands in the queue if it has to.
    pub(crate) waits: bool,
    pub(crate) manner: Manner,
}

/// In which way somebody claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Alone,
    /// Together with others.
    Several,
    Lease,
}

pub(crate) struct Held {
    /// Which call it came of.
    pub(crate) call: u64,
    pub(crate) grip: Grip,
    /// It is degraded: the process has it of its own second store.
    pub(crate) spare: bool,
    pub(crate) who: Claimant,
    pub(crate) over: bool,
}

pub(crate) struct Wait {
    pub(crate) call: u64,
    pub(crate) since: Instant,
    /// Who came later and was let in earlier, and when.
    pub(crate) overtaken: Vec<(Claimant, Instant)>,
}

impl Lock {
    /// Takes note of what the store has after an operation, and tells what is wrong with it.
    pub(crate) fn seen(&mut self, record: &Record) -> Option<String> {
        let (mut weights, mut strangers) = (BTreeMap::new(), 0);
        for entry in &record.holders {
            let permits = u64::from(entry.permits);
            match &entry.owner {
                None => strangers += permits,
                Some(owner) => {
                    let most: &mut u64 = weights.entry(owner).or_default();
                    *most = permits.max(*most);
                }
            }
        }
        let mut broken = None;
        let weight = strangers + weights.values().sum::<u64>();
        if weight > u64::from(record.limit) {
            broken = Some(format!("the store let in {weight} permits out of {}", record.limit));
        }
        for entry in &record.holders {
            if !self.grants.insert((entry.id, entry.fence)) {
                continue;
            }
            let same = |other: &&Entry| other.owner == entry.owner && other.fence == entry.fence;
            let shared = entry.owner.is_some() && record.holders.iter().filter(same).count() > 1;
            let before = self.newest.max(self.given.last_key_value().map_or(0, |(fence, _)| *fence));
            // A token that a hold was handed on with is told later, with a renewal.
            let handed_on = self.given.contains_key(&entry.fence)
                && self.grants.iter().any(|(id, fence)| *id == entry.id && *fence < entry.fence);
            if entry.fence <= before && !shared && !handed_on {
                broken = Some(format!("the store granted with fence {} after {before}", entry.fence));
            }
            self.newest = self.newest.max(entry.fence);
            let place = self.order.len();
            self.order.entry(entry.fence).or_insert(place);
        }
        broken
    }

    /// Forgets the guards that are gone, and tells whether a hold came back to life.
    pub(crate) fn look(&mut self) -> bool {
        self.holds.retain(|held| held.grip.is_there());
        let mut revived = false;
        for held in &mut self.holds {
            let is_held = held.grip.is_held();
            revived |= held.over && is_held;
            held.over |= !is_held;
        }
        revived
    }

    /// Nobody has it of the store any more, nor is about to: since now.
    pub(crate) fn idle(&mut self) {
        let free = self.engaged == 0 && self.holds.iter().all(|held| held.over || held.spare);
        self.idle_since = free.then(Instant::now);
    }

    /// The permits that are held, of the store or of a process's second one, an owner's claims counted as the largest of
    /// them.
    pub(crate) fn weight(&self, spare: Option<usize>) -> u64 {
        let there = |held: &&Held| held.spare.then_some(held.who.process) == spare;
        let held = || self.holds.iter().filter(|held| !held.over).filter(there).map(|held| held.who);
        let of = |owner| held().filter(move |who| who.owner == Some(owner)).map(|who| who.permits).max().unwrap_or(0);
        let strangers = held().filter(|who| who.owner.is_none()).map(|who| who.permits);
        (0..3).map(of).chain(strangers).map(u64::from).sum()
    }
}
