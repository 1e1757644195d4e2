//! A store behind Sentinels, while its master changes.

#![cfg(feature = "redis")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use std::time::{Duration, Instant};

use tenure::{Fence, Locks};
use testkit::SentinelGroup;

/// Takes and releases the lock until it succeeds; what it is told meanwhile has to be an outage.
async fn cycle(locks: &Locks, name: &str) -> Fence {
    let lock = locks.mutex(name).ttl(Duration::from_secs(2)).build().unwrap();
    let guard = lock.lock().timeout(Duration::from_secs(30)).await.unwrap();
    let fence = guard.fence();
    let _ = guard.release().await;
    fence
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_masters_death_all_goes_on_by_itself_and_fences_rise() {
    let t = Instant::now();
    let mut group = SentinelGroup::start();
    eprintln!("started {:?}", t.elapsed());
    let locks = tenure::open(&group.url()).await.unwrap();
    let before = cycle(&locks, "a").await;
    group.nodes[0].kill();
    let t = Instant::now();
    let after = cycle(&locks, "a").await;
    eprintln!("went on {:?}", t.elapsed());
    assert!(after > before, "{after} after {before}");
    assert_ne!(group.master(), 0);
}
