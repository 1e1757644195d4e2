//! At most so many workers at once, over all machines: a semaphore.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use tenure::store::Store;
use tenure::{Locks, Result};

/// How many videos may be encoded at the same time, wherever.
const SLOTS: u32 = 3;

pub(crate) async fn encode(locks: &Locks, video: u32, encoder: impl AsyncFn(u32)) -> Result<()> {
    let guard = locks.semaphore("encoders", SLOTS).ttl(Duration::from_secs(5)).build()?.lock().await?;
    // A worker whose permit is lost stops, as somebody else has it soon.
    guard.protect(encoder(video)).await?;
    guard.release().await?;
    Ok(())
}

/// Two machines and twenty videos.
pub(crate) async fn show(store: &Arc<dyn Store>) -> Result<()> {
    let machines = [Locks::builder(store.clone()).build()?, Locks::builder(store.clone()).build()?];
    let (now, most, done) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let encoder = async |_: u32| {
        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
        now.fetch_sub(1, SeqCst);
        done.fetch_add(1, SeqCst);
    };
    let all = (0..20).map(|video| encode(&machines[video as usize % 2], video, &encoder));
    futures_util::future::join_all(all).await.into_iter().collect::<Result<()>>()?;
    let (most, done) = (most.into_inner(), done.into_inner());
    println!("{done} videos, at most {most} at once");
    assert_eq!((most, done), (SLOTS, 20), "no slot is given twice, and none lies idle");
    Ok(())
}
