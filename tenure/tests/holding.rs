//! What a holder is told, and when, under a paused clock.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use common::{Fault, client, crowd, ms, run_ready, two_clients};
use tenure::{ErrorKind, Fence, HoldState, Loss, What, Why};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_hold_lasts_for_as_long_as_its_guard_lives() {
    let (locks, store) = client();
    let guard = locks.mutex("a").ttl(ms(300)).build().unwrap().lock().await.unwrap();
    for _ in 0..100 {
        tokio::time::sleep(ms(100)).await;
        assert!(guard.is_held() && crowd(&store, "a").await == (1, 0));
    }
    drop(guard);
    run_ready().await;
    tokio::time::sleep(ms(1)).await;
    assert_eq!(crowd(&store, "a").await, (0, 0), "dropping it released it");
}

#[tokio::test(start_paused = true)]
async fn without_a_watchdog_a_hold_is_told_lost_at_its_local_deadline() {
    let (locks, store) = client();
    let guard = locks.mutex("a").ttl(ms(1_000)).watchdog(false).build().unwrap().lock().await.unwrap();
    let start = Instant::now();
    assert_eq!(guard.lost().await, Loss::Expired);
    assert!((ms(980)..ms(1_000)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!((guard.state(), guard.is_held(), guard.remaining()), (HoldState::Lost, false, ms(0)));
    assert_eq!(crowd(&store, "a").await, (1, 0), "the store has it still: nobody else can be in");
    assert_eq!(guard.refresh().await.unwrap_err().kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_cannot_be_renewed_is_suspect_first_and_lost_before_the_store_gives_it_away() {
    for fault in [Fault::Refuse, Fault::Hang] {
        let (locks, store) = client();
        let guard = locks.mutex("a").ttl(ms(3_000)).build().unwrap().lock().await.unwrap();
        let mut events = locks.events();
        store.fault(fault);
        let start = Instant::now();
        let mut seen = Vec::new();
        assert_eq!(guard.lost().await, Loss::Expired);
        assert!((ms(2_950)..ms(3_000)).contains(&start.elapsed()), "{fault:?}: {:?}", start.elapsed());
        while let Ok(Some(event)) = tokio::time::timeout(ms(0), events.recv()).await {
            seen.push(event.what);
        }
        seen.retain(|what| !matches!(what, What::NodeDown { .. }));
        assert!(matches!(&seen[..], [What::Suspect { .. }, What::Lost { loss: Loss::Expired, .. }]), "{seen:?}");
        assert_eq!(locks.metrics().lost, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_makes_a_hold_suspect_and_then_held_again() {
    let (locks, store) = client();
    let guard = locks.mutex("a").ttl(ms(3_000)).build().unwrap().lock().await.unwrap();
    store.fault(Fault::Refuse);
    tokio::time::sleep(ms(1_500)).await;
    assert_eq!((guard.state(), guard.is_held()), (HoldState::Suspect, true));
    store.fault(Fault::None);
    tokio::time::sleep(ms(500)).await;
    assert_eq!(guard.state(), HoldState::Held);
    assert!(guard.remaining() > ms(2_000), "{:?}", guard.remaining());
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_the_store_no_longer_has_is_told_at_the_next_renewal() {
    let (ours, theirs, _store) = two_clients();
    let guard = ours.mutex("a").ttl(ms(3_000)).build().unwrap().lock().await.unwrap();
    let lost = guard.lost();
    let broken = theirs.break_lock("a").await.unwrap();
    assert_eq!(broken.iter().map(|holder| holder.id).collect::<Vec<_>>(), [guard.id()]);
    let start = Instant::now();
    assert_eq!(lost.await, Loss::Gone);
    assert!(start.elapsed() <= ms(1_001), "{:?}", start.elapsed());
    assert!(theirs.mutex("a").build().unwrap().try_lock().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn protected_work_is_dropped_when_the_hold_is_lost() {
    let (locks, store) = client();
    let guard = locks.mutex("a").ttl(ms(1_000)).build().unwrap().lock().await.unwrap();
    assert_eq!(guard.protect(async { 7 }).await.unwrap(), 7);
    store.fault(Fault::Refuse);
    let error = guard.protect(std::future::pending::<()>()).await.unwrap_err();
    assert!(error.is_lost());
    assert_eq!(error.to_string(), "the lock \"a\" is no longer held: no renewal came through in time");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_comes_too_late_does_not_bring_a_lost_hold_back() {
    let (locks, store) = client();
    let guard = locks.mutex("a").ttl(ms(1_000)).watchdog(false).build().unwrap().lock().await.unwrap();
    tokio::time::sleep(ms(500)).await;
    guard.refresh().await.unwrap();
    assert!(guard.remaining() > ms(950), "{:?}", guard.remaining());
    guard.lost().await;
    store.fault(Fault::None);
    assert!(guard.refresh().await.is_err());
    assert!(!guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_release_that_failed_goes_on_in_the_background() {
    let (locks, store) = client();
    let guard = locks.mutex("a").build().unwrap().lock().await.unwrap();
    store.fault(Fault::Refuse);
    assert_eq!(guard.release().await.unwrap_err().kind(), ErrorKind::Unavailable);
    tokio::time::sleep(ms(2_000)).await;
    assert_eq!(crowd(&store, "a").await, (1, 0));
    store.fault(Fault::None);
    locks.close().await;
    assert_eq!(crowd(&store, "a").await, (0, 0));
    assert_eq!(locks.mutex("a").build().unwrap().try_lock().await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_release_takes_its_place_before_renewals_and_is_never_told_lost() {
    let (locks, store) = client();
    let mut events = locks.events();
    for _ in 0..50 {
        let guard = locks.mutex("a").ttl(ms(30)).build().unwrap().lock().await.unwrap();
        store.yields(3);
        tokio::time::sleep(ms(9)).await;
        guard.release().await.unwrap();
        store.yields(0);
    }
    drop(locks);
    while let Some(event) = events.recv().await {
        assert!(!matches!(event.what, What::Lost { .. } | What::Suspect { .. }), "{event}");
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_holds_are_renewed_in_batches_and_none_is_lost() {
    let (locks, store) = client();
    let mut guards = Vec::new();
    for n in 0..10_000 {
        guards.push(locks.mutex(format!("lock-{n}")).ttl(ms(3_000)).build().unwrap().lock().await.unwrap());
    }
    tokio::time::sleep(ms(30_000)).await;
    assert!(guards.iter().all(|guard| guard.state() == HoldState::Held));
    let renewals = locks.metrics().renewals;
    assert!((300_000..330_000).contains(&renewals), "about one a second each: {renewals}");
    assert!(store.take_ops().len() >= 300_000);
}

#[tokio::test(start_paused = true)]
async fn renewals_that_are_due_one_after_the_other_go_together() {
    let (locks, store) = client();
    store.delay(ms(1));
    let mut guards = Vec::new();
    for n in 0..100 {
        let lock = locks.mutex(format!("lock {n}")).ttl(ms(30_000)).build().unwrap();
        guards.push(lock.lock().await.unwrap());
    }
    store.take_sends();
    tokio::time::sleep(ms(11_000)).await;
    let sends = store.take_sends();
    // They are due over a tenth of a second, of which each send takes a quarter.
    let renewals: usize = sends.iter().map(|send| send.ops.len()).sum();
    assert_eq!(renewals, 100);
    assert!(
        sends.len() <= 5,
        "{} sends: {:?}",
        sends.len(),
        sends.iter().map(|send| send.ops.len()).collect::<Vec<_>>()
    );
}

#[tokio::test(start_paused = true)]
async fn events_and_metrics_tell_the_whole_story() {
    let (ours, theirs, _store) = two_clients();
    let mut events = theirs.events();
    let guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
    assert!(theirs.mutex("a").build().unwrap().try_lock().await.unwrap().is_none());
    let waiter = tokio::spawn(theirs.mutex("a").build().unwrap().lock().into_future());
    tokio::time::sleep(ms(250)).await;
    guard.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    let fence = guard.fence();
    tokio::time::sleep(ms(500)).await;
    guard.release().await.unwrap();
    let mut next = async || events.recv().await.unwrap().what;
    assert_eq!(next().await, What::NotAcquired { waited: ms(0), why: Why::Busy });
    assert_eq!(next().await, What::Waiting { ahead: 0 });
    assert_eq!(next().await, What::Acquired { fence, waited: ms(250), pushed: true });
    assert_eq!(next().await, What::Released { held: ms(500), was_ours: true });
    let metrics = theirs.metrics();
    assert_eq!((metrics.acquired, metrics.failed, metrics.released, metrics.timeouts), (1, 1, 1, 0));
    assert_eq!((metrics.average_hold, metrics.wait.sum, metrics.hold.count), (ms(500), ms(250), 1));
    let text = metrics.to_string();
    assert!(text.contains("tenure_acquired_total 1\n") && text.contains("tenure_hold_seconds_sum 0.5\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn anyone_can_read_who_holds_and_who_waits() {
    let (ours, theirs, _store) = two_clients();
    let lock = ours.owner("job-42").mutex("a").purpose("nightly report").build().unwrap();
    let guard = lock.lock().await.unwrap();
    let waiter = tokio::spawn(theirs.mutex("a").build().unwrap().lock().into_future());
    run_ready().await;
    let info = theirs.info("a").await.unwrap();
    assert_eq!((info.holders.len(), info.waiters.len(), info.is_locked(), info.stale), (1, 1, true, false));
    let holder = &info.holders[0];
    assert_eq!((holder.owner.as_deref(), holder.fence), (Some("job-42"), Some(guard.fence())));
    let meta = holder.meta.as_ref().unwrap();
    assert_eq!((meta.pid, meta.purpose.as_deref()), (std::process::id(), Some("nightly report")));
    assert_eq!(info.waiters[0].fence, None);
    assert_eq!(theirs.list().await.unwrap(), [info]);
    assert_eq!(guard.info().owner, "job-42");
    drop(waiter);
    assert!(guard.fence() > Fence::NONE);
}

#[tokio::test(start_paused = true)]
async fn metadata_of_ones_own_type_is_seen_by_others_and_never_trusted() {
    let (ours, theirs, _store) = two_clients();
    let told = ("invoice", 42_u64);
    let lock = ours.mutex("a").meta_as(&tenure::Json, &told).build().unwrap();
    let _guard = lock.lock().await.unwrap();
    let info = theirs.info("a").await.unwrap();
    assert_eq!(info.holders[0].meta_as::<(String, u64)>(&tenure::Json).unwrap(), ("invoice".to_owned(), 42));
    let error = info.holders[0].meta_as::<u64>(&tenure::Json).unwrap_err();
    assert_eq!(error.kind(), tenure::ErrorKind::Corrupt, "{error}");
    let by_no_text = std::collections::BTreeMap::from([((1, 2), 3)]);
    let error = ours.mutex("a").meta_as(&tenure::Json, &by_no_text).build().unwrap_err();
    assert_eq!(error.kind(), tenure::ErrorKind::Invalid, "{error}");
    let error = ours.mutex("a").meta_as(&tenure::Json, &"x".repeat(1_025)).build().unwrap_err();
    assert!(error.to_string().contains("1027 bytes: give at most 1024"), "{error}");
}
