//! A client does not remember the locks it has had to do with: after 50,000 distinct names in every way in which one can
//! have to do with a lock, it takes no more memory than after 10,000. `NAMES=1000000 cargo test --release` takes a million.
//!
//! It measures the process, so it is the only test of its program.
//!
//! A bug that was planted, and found: an owner's holds that are not forgotten.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use std::future::IntoFuture;
use std::time::Duration;

use common::{Chaos, ms, run_ready, two_clients};
use tenure::Locks;
use testkit::bench::resident_bytes;

/// Less than a name and a pointer to it.
const BYTES: f64 = 24.0;

#[tokio::test(start_paused = true)]
async fn names_leave_nothing_behind() {
    let names = std::env::var("NAMES").map_or(50_000, |names| names.parse().expect("a number"));
    let (ours, theirs, store) = two_clients();
    let _events = ours.events();
    visit(&ours, &theirs, &store, 0..names / 5).await;
    let before = resident_bytes();
    visit(&ours, &theirs, &store, names / 5..names).await;
    let grown = resident_bytes().saturating_sub(before) as f64;
    let each = grown / (names - names / 5) as f64;
    println!("{each:.1} bytes for each of {names} names");
    assert!(each <= BYTES, "{each} bytes stay of each of {names} names");
    let metrics = ours.metrics();
    assert_eq!((metrics.held, metrics.waiting), (0, 0));
}

async fn visit(ours: &Locks, theirs: &Locks, store: &Chaos, names: std::ops::Range<usize>) {
    for n in names {
        let name = format!("a name that is as long as names are, and takes its room: {n}");
        // The store forgets it at once, and what it knew of it with it.
        let lock = ours.mutex(name.as_str()).fence_memory(Duration::ZERO).build().unwrap();
        match n % 8 {
            0 => assert!(lock.lock().await.unwrap().release().await.unwrap()),
            1 => drop(lock.try_lock().await.unwrap()),
            2 => {
                // Handed on, and given up in line.
                let guard = lock.lock().await.unwrap();
                let waits = [tokio::spawn(lock.lock().into_future()), tokio::spawn(lock.lock().into_future())];
                tokio::task::yield_now().await;
                waits[1].abort();
                tokio::time::sleep(ms(1)).await;
                drop(guard);
                let [next, _] = waits;
                drop(next.await.unwrap());
            }
            3 => {
                let other = theirs.mutex(name.as_str()).fence_memory(Duration::ZERO).build().unwrap();
                let guard = other.lock().await.unwrap();
                assert!(lock.try_lock().await.unwrap().is_none());
                assert!(lock.lock().timeout(ms(1)).await.is_err());
                drop(guard);
            }
            4 => {
                let job = ours.owner(format!("job {n}")).mutex(name.as_str()).fence_memory(Duration::ZERO);
                let job = job.build().unwrap();
                let guards = [job.lock().await.unwrap(), job.lock().await.unwrap()];
                drop(guards);
            }
            5 => {
                let lease = lock.lease(ms(100)).await.unwrap();
                assert!(lease.release().await.unwrap());
            }
            6 => {
                let guard = lock.lock().await.unwrap();
                theirs.break_lock(&name).await.unwrap();
                assert!(guard.refresh().await.is_err());
            }
            _ => drop(ours.lock_all(&[lock]).await.unwrap()),
        }
        if n.is_multiple_of(64) {
            run_ready().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            // The test's own notes.
            drop((store.take_ops(), store.take_sends()));
        }
    }
    // Whatever was buried is forgotten when its time has passed.
    tokio::time::sleep(Duration::from_secs(120)).await;
    run_ready().await;
}
