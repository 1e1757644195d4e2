//! A leader that has steady work: one at a time, and another one soon after it is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use tenure::store::Store;
use tenure::{Fence, Lock, Locks, Result};

use crate::resource::Row;

/// Runs for as long as the process does. A term of office ends when the lock is lost; then it stands for the next one.
pub(crate) async fn lead(lock: Lock, tick: impl AsyncFn(Fence) -> Result<()>) -> Result<()> {
    loop {
        let guard = lock.lock().await?;
        println!("leading, with fence {}", guard.fence());
        let term = async {
            loop {
                if let Err(error) = tick(guard.fence()).await {
                    break error;
                }
            }
        };
        match guard.protect(term).await {
            // The hold is no longer certain, and the work was dropped before anybody else could begin.
            Err(lost) => println!("{lost}"),
            // The work itself failed. Stepping down lets another machine try.
            Ok(error) => println!("stepping down: {error}"),
        }
    }
}

/// Three candidates; the leader falls over twice.
pub(crate) async fn show(store: &Arc<dyn Store>) -> Result<()> {
    let (log, working) = (Arc::new(Row::new(Vec::new())), Arc::new(AtomicU32::new(0)));
    let mut candidates = Vec::new();
    for name in ["a", "b", "c"] {
        let (log, working) = (log.clone(), working.clone());
        let locks = Locks::builder(store.clone()).ttl(Duration::from_secs(1)).build()?;
        let lock = locks.mutex("leader").purpose(name).build()?;
        let tick = async move |fence| {
            assert_eq!(working.fetch_add(1, SeqCst), 0, "there is one leader");
            // Also when the work is dropped in the middle.
            let _done = Done(&working);
            log.update(fence, |log: &mut Vec<(&str, Fence)>| log.push((name, fence)))?;
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(())
        };
        candidates.push((name, Box::pin(lead(lock, tick))));
    }
    for terms in 1..=3 {
        let all = futures_util::future::join_all(candidates.iter_mut().map(|(_, candidate)| candidate.as_mut()));
        let enough = async {
            while log.get().chunk_by(|one, other| one.1 == other.1).count() < terms {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            biased;
            () = enough => {}
            _ = all => unreachable!("a candidate stands for as long as it lives"),
        }
        let leader = log.get().last().expect("somebody leads").0;
        println!("{leader} falls over");
        candidates.retain(|(name, _)| *name != leader);
    }
    let log = log.get();
    assert!(log.is_sorted_by_key(|(_, fence)| *fence), "each term has a later fence");
    Ok(())
}

struct Done<'a>(&'a AtomicU32);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
