//! What may not happen, whatever else does: more in than may be, and tokens that do not rise.
//!
//! A hold counts for as long as its holder is certain of it, by its own clock and without asking anybody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tenure::{Guard, Lock, Result};

/// All holds that were granted.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Mutex<HashMap<String, Story>>>);

/// What happened to one lock.
#[derive(Default)]
struct Story {
    holds: Vec<Weak<Guard>>,
    fences: Vec<u64>,
}

impl History {
    /// Waits for the lock, of which at most `limit` claims may be in at once, and notes the grant.
    pub(crate) async fn lock(&self, lock: &Lock, limit: usize, timeout: Duration) -> Result<Arc<Guard>> {
        let before = self.latest(lock.name());
        let guard = lock.lock().timeout(timeout).await?;
        Ok(self.granted(guard, limit, before))
    }

    /// Takes the lock if it is free, and notes the grant.
    pub(crate) async fn try_lock(&self, lock: &Lock, limit: usize) -> Result<Option<Arc<Guard>>> {
        let before = self.latest(lock.name());
        Ok(lock.try_lock().await?.map(|guard| self.granted(guard, limit, before)))
    }

    /// How many grants there were.
    pub(crate) fn grants(&self) -> usize {
        self.0.lock().unwrap().values().map(|story| story.fences.len()).sum()
    }

    /// The latest token that was granted.
    pub(crate) fn latest(&self, name: &str) -> u64 {
        let stories = self.0.lock().unwrap();
        stories.get(name).and_then(|story| story.fences.iter().max().copied()).unwrap_or(0)
    }

    /// Of a claim that was asked for when the latest token was `before`.
    fn granted(&self, guard: Guard, limit: usize, before: u64) -> Arc<Guard> {
        let guard = Arc::new(guard);
        let mut stories = self.0.lock().unwrap();
        let story = stories.entry(guard.name().to_owned()).or_default();
        let fence = guard.fence().get();
        assert!(fence > before, "token {fence} is not later than {before}, which was granted before it was asked for");
        let last = story.fences.last().copied().unwrap_or(0);
        assert!(limit > 1 || fence > last, "token {fence} was granted after {last}");
        assert!(!story.fences.contains(&fence), "token {fence} was given twice");
        story.fences.push(fence);
        story.holds.retain(|hold| hold.strong_count() > 0);
        let others = story.holds.iter().filter_map(Weak::upgrade).filter(|other| other.is_held()).count();
        assert!(others < limit, "{} are in of {limit} that may be, the last under token {fence}", others + 1);
        story.holds.push(Arc::downgrade(&guard));
        guard
    }
}

/// Ends a hold, and waits for that.
pub(crate) async fn release(guard: Arc<Guard>) {
    if let Ok(guard) = Arc::try_unwrap(guard) {
        let _ = guard.release().await;
    }
}
