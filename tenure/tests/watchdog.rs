//! When holds are renewed, in which order, how often it is tried again, and what ends them for good: under a paused clock.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use std::time::Duration;

use common::{Chaos, Fault, client, crowd, ms, run_ready};
use tenure::proto::Op;
use tenure::{Guard, HoldState, Locks, Loss, What};
use tokio::time::{Instant, sleep, timeout};

async fn hold(locks: &Locks, name: &str, ttl: Duration) -> Guard {
    locks.mutex(name).ttl(ttl).build().unwrap().lock().await.unwrap()
}

/// The time between the renewals that are sent from now on, for that long.
async fn gaps(store: &Chaos, time: Duration) -> Vec<Duration> {
    store.take_sends();
    sleep(time).await;
    let sends: Vec<_> = store.take_sends().into_iter().filter(common::Send::is_renewal).map(|send| send.at).collect();
    sends.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn renewals_come_at_a_third_of_the_ttl_sooner_when_the_store_is_slow_and_then_again_at_a_third() {
    let (locks, store) = client();
    let guard = hold(&locks, "a", ms(3_000)).await;
    let about = |gap: Duration, expected: u64| (ms(expected - 5)..ms(expected + 5)).contains(&gap);
    assert!(gaps(&store, ms(20_000)).await.iter().all(|gap| about(*gap, 1_000)));

    store.delay(ms(450));
    sleep(ms(60_000)).await;
    // Steady round trips of 450 ms: five of them are 2,250 of the 2,968 that a renewal is good for.
    let slow = gaps(&store, ms(20_000)).await;
    assert!(slow.iter().all(|gap| about(*gap, 718)), "{slow:?}");
    assert_eq!(guard.state(), HoldState::Held);

    store.delay(ms(0));
    sleep(ms(60_000)).await;
    assert!(gaps(&store, ms(20_000)).await.iter().all(|gap| about(*gap, 1_000)));
}

#[tokio::test(start_paused = true)]
async fn renewals_come_sooner_when_the_store_fails_often_and_then_again_at_a_third() {
    let (locks, store) = client();
    let guard = hold(&locks, "a", ms(30_000)).await;
    // Somebody else of this client is refused, and let in and released, by turns.
    let busy = locks.mutex("b").build().unwrap();
    for turn in 0..200 {
        store.fault(if turn % 2 == 0 { Fault::Refuse } else { Fault::None });
        drop(busy.try_lock().await);
        sleep(ms(10)).await;
    }
    store.fault(Fault::None);
    let rate = locks.health()[0].failure_rate;
    assert!((0.25..0.4).contains(&rate), "{rate}");
    guard.refresh().await.unwrap();
    store.take_sends();
    sleep(ms(8_000)).await;
    assert!(store.take_sends().iter().any(common::Send::is_renewal), "within 8 s, not 10");
    sleep(ms(300_000)).await;
    assert!(gaps(&store, ms(60_000)).await.iter().all(|gap| *gap > ms(9_500)));
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_fixed_interval_stays_fixed() {
    let (locks, store) = client();
    let lock = locks.mutex("a").ttl(ms(3_000)).watchdog_interval(ms(500)).build().unwrap();
    let _guard = lock.lock().await.unwrap();
    store.delay(ms(450));
    sleep(ms(30_000)).await;
    let gaps = gaps(&store, ms(20_000)).await;
    assert!(gaps.iter().all(|gap| (ms(495)..ms(505)).contains(gap)), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn three_attempts_fit_before_the_deadline_however_slow_the_store_had_been() {
    for delay in [0, 20, 100, 250, 450] {
        for fault in [Fault::Refuse, Fault::Hang] {
            let (locks, store) = client();
            store.delay(ms(delay));
            let guard = hold(&locks, "a", ms(3_000)).await;
            sleep(ms(60_000)).await;
            // After this, nothing is under way.
            guard.refresh().await.unwrap();
            store.fault(fault);
            store.take_sends();
            assert_eq!(guard.lost().await, Loss::Expired);
            let lost = Instant::now();
            let sends: Vec<_> = store.take_sends().into_iter().filter(common::Send::is_renewal).collect();
            let left: Vec<_> = sends.iter().map(|send| lost - send.at).collect();
            assert!(sends.len() >= 3, "{fault:?} with {delay} ms: attempts with {left:?} left");
            // The third had the time that an answer would have taken.
            assert!(left[2] > ms(delay), "{fault:?} with {delay} ms: attempts with {left:?} left");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_the_store_hangs_on_takes_no_other_with_it() {
    let (locks, store) = client();
    let mut guards = Vec::new();
    for n in 0..150 {
        guards.push(hold(&locks, &format!("lock-{n}"), ms(3_000)).await);
    }
    let other = locks.mutex("of-another-batch").ttl(ms(3_000)).watchdog_interval(ms(600)).build().unwrap();
    let other = other.lock().await.unwrap();
    store.hang_on(|name| name == "lock-7");
    let mut events = locks.events();
    assert_eq!(guards[7].lost().await, Loss::Expired);
    while let Ok(Some(event)) = timeout(ms(0), events.recv()).await {
        assert!(event.name.as_str() != other.name() || matches!(event.what, What::Renewed { .. }), "{event}");
    }
    drop(guards.remove(7));
    for _ in 0..20 {
        sleep(ms(500)).await;
        assert!(guards.iter().all(Guard::is_held));
    }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_is_due_at_once_does_not_time_itself_out() {
    let (locks, store) = client();
    let mut guards = Vec::new();
    for n in 0..10_000 {
        guards.push(hold(&locks, &format!("lock-{n}"), ms(3_000)).await);
    }
    let mut events = locks.events();
    // All of them take the store 1.5 s, and 2 s are left when they are due.
    store.cost(Duration::from_micros(150));
    sleep(ms(20_000)).await;
    assert_eq!(guards.iter().filter(|guard| !guard.is_held()).count(), 0);
    while let Ok(Some(event)) = timeout(ms(0), events.recv()).await {
        assert!(matches!(event.what, What::Renewed { .. }), "{event}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_dead_node_of_five_takes_no_lock_of_the_others_with_it() {
    let (locks, store) = client();
    let mut guards = Vec::new();
    for n in 0..3_000 {
        guards.push(hold(&locks, &format!("lock-{n}"), ms(3_000)).await);
    }
    store.hang_on(|name| name.ends_with(['3', '8']));
    sleep(ms(10_000)).await;
    let (dead, alive): (Vec<_>, Vec<_>) = guards.iter().partition(|guard| guard.name().ends_with(['3', '8']));
    assert_eq!((dead.len(), alive.len()), (600, 2_400));
    assert_eq!(alive.iter().filter(|guard| !guard.is_held()).count(), 0);
    assert!(!dead.iter().any(|guard| guard.is_held()));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_doubt_goes_first_and_the_earliest_deadline_before_others() {
    let (locks, store) = client();
    let mut guards = Vec::new();
    for (name, ttl) in [("e", 9_000), ("d", 5_000), ("c", 1_900), ("b", 1_800), ("a", 1_700)] {
        let lock = locks.mutex(name).ttl(ms(ttl)).watchdog_interval(ms(500)).build().unwrap();
        guards.push(lock.lock().await.unwrap());
    }
    store.take_sends();
    sleep(ms(510)).await;
    let order = |sends: Vec<common::Send>| -> Vec<String> {
        let renewals = sends.into_iter().filter(common::Send::is_renewal).flat_map(|send| send.keys);
        renewals.map(|key| key.to_string()).collect()
    };
    assert_eq!(order(store.take_sends()), ["a", "b", "c", "d", "e"]);

    // One is in doubt, of which the deadline is the last.
    store.fault(Fault::Refuse);
    let error = guards[0].refresh().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(guards[0].state(), HoldState::Suspect);
    store.fault(Fault::None);
    // All of them are late by then, as after a pause of the process.
    store.take_sends();
    tokio::time::advance(ms(1_050)).await;
    run_ready().await;
    assert_eq!(order(store.take_sends())[0], "e");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_counts_as_a_renewal() {
    let (locks, store) = client();
    let lock = locks.mutex("a").ttl(ms(3_000)).watchdog_interval(ms(1_000)).build().unwrap();
    let guard = lock.lock().await.unwrap();
    sleep(ms(900)).await;
    guard.refresh().await.unwrap();
    store.take_sends();
    sleep(ms(950)).await;
    assert!(store.take_sends().is_empty(), "the next is a third of the ttl after it");
    sleep(ms(100)).await;
    assert_eq!(store.take_sends().len(), 1);

    // In doubt, it is certain again, and not tried again before its time.
    store.fault(Fault::Refuse);
    sleep(ms(1_500)).await;
    assert_eq!(guard.state(), HoldState::Suspect);
    store.fault(Fault::None);
    guard.refresh().await.unwrap();
    assert_eq!((guard.state(), guard.remaining()), (HoldState::Held, ms(2_968)));
    store.take_sends();
    sleep(ms(900)).await;
    assert!(store.take_sends().is_empty());
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_after_a_later_one_came_through_is_no_news() {
    let (locks, store) = client();
    let guard = hold(&locks, "a", ms(3_000)).await;
    store.fault(Fault::Hang);
    sleep(ms(1_100)).await;
    store.fault(Fault::None);
    guard.refresh().await.unwrap();
    let mut events = locks.events();
    // Within this the one that hangs is given up.
    sleep(ms(900)).await;
    assert_eq!(guard.state(), HoldState::Held);
    assert!(timeout(ms(0), events.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_keeps_a_hold_without_a_watchdog_and_its_loss_is_told_by_the_new_deadline() {
    let (locks, store) = client();
    let guard = locks.mutex("a").ttl(ms(1_000)).watchdog(false).build().unwrap().lock().await.unwrap();
    let start = Instant::now();
    sleep(ms(600)).await;
    guard.refresh().await.unwrap();
    store.fault(Fault::Refuse);
    assert!(guard.refresh().await.unwrap_err().is_transient());
    store.take_sends();
    assert_eq!(guard.lost().await, Loss::Expired);
    assert!((ms(1_580)..ms(1_600)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(!store.take_sends().iter().any(common::Send::is_renewal), "nobody asked for a watchdog");
}

#[tokio::test(start_paused = true)]
async fn a_hold_ends_at_max_hold_and_is_released_in_the_store() {
    let (locks, store) = client();
    for (ttl, limit) in [(3_000, 10_000), (3_000, 500), (3_000, 3_001)] {
        let lock = locks.mutex("a").ttl(ms(ttl)).max_hold(ms(limit)).build().unwrap();
        let guard = lock.lock().await.unwrap();
        let (start, mut events) = (Instant::now(), locks.events());
        assert_eq!(guard.lost().await, Loss::MaxHold);
        assert!((ms(limit - 1)..=ms(limit + 1)).contains(&start.elapsed()), "{:?} of {limit} ms", start.elapsed());
        assert_eq!((guard.state(), guard.is_held(), guard.remaining()), (HoldState::Lost, false, ms(0)));
        assert!(guard.refresh().await.unwrap_err().to_string().contains("max_hold"));
        run_ready().await;
        assert_eq!(crowd(&store, "a").await, (0, 0), "others can be in");
        let next = lock.try_lock().await.unwrap().unwrap();
        store.take_ops();
        drop(guard);
        run_ready().await;
        assert_eq!(store.take_ops(), [], "it is released once");
        assert!(next.is_held() && next.release().await.unwrap());
        let mut told = Vec::new();
        while let Ok(Some(event)) = timeout(ms(0), events.recv()).await {
            told.push(event.what);
        }
        told.retain(|what| !matches!(what, What::Renewed { .. } | What::Acquired { .. }));
        assert!(matches!(told[..], [What::Lost { loss: Loss::MaxHold, .. }, What::Released { .. }]), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_release_at_max_hold_does_not_come_through_the_stores_time_ends_soon_after() {
    let (locks, store) = client();
    let guard = locks.mutex("a").ttl(ms(3_000)).max_hold(ms(10_000)).build().unwrap().lock().await.unwrap();
    sleep(ms(9_900)).await;
    store.fault(Fault::Hang);
    assert_eq!(guard.lost().await, Loss::MaxHold);
    assert_eq!(crowd(&store, "a").await, (1, 0));
    sleep(ms(100)).await;
    assert_eq!(crowd(&store, "a").await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn max_hold_ends_a_hold_that_is_not_renewed_only_if_its_ttl_is_longer() {
    let (locks, _store) = client();
    let build = |limit| locks.mutex("a").ttl(ms(1_000)).watchdog(false).max_hold(limit).build().unwrap();
    assert_eq!(build(ms(400)).lock().await.unwrap().lost().await, Loss::MaxHold);
    assert_eq!(build(ms(4_000)).lock().await.unwrap().lost().await, Loss::Expired);
    let error = locks.mutex("a").max_hold(Duration::ZERO).build().unwrap_err();
    assert!(error.to_string().contains("max_hold"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn health_tells_how_the_node_fares_and_events_when_that_turns() {
    let (locks, store) = client();
    store.delay(ms(40));
    let (guard, _other) = (hold(&locks, "a", ms(3_000)).await, hold(&locks, "b", ms(9_000)).await);
    sleep(ms(30_000)).await;
    let health = locks.health().remove(0);
    assert!(health.up && health.failures == 0 && health.failure_rate == 0.0, "{health:?}");
    assert!((ms(38)..ms(42)).contains(&health.latency) && health.deviation < ms(5), "{health:?}");
    assert_eq!((health.holds, health.soonest_deadline), (2, Some(guard.remaining())), "{health:?}");
    assert_eq!(serde_json::from_str::<tenure::NodeHealth>(&serde_json::to_string(&health).unwrap()).unwrap(), health);

    let mut events = locks.events();
    let mut turns = async || loop {
        let event = timeout(ms(60_000), events.recv()).await.expect("it turns").unwrap();
        if matches!(event.what, What::NodeDown { .. } | What::NodeUp) {
            return event.to_string();
        }
    };
    store.fault(Fault::Refuse);
    assert_eq!(turns().await, "node memory is down: the test refuses");
    let health = locks.health().remove(0);
    assert!(!health.up && health.failures >= 3 && health.failure_rate > 0.3, "{health:?}");
    store.fault(Fault::None);
    assert_eq!(turns().await, "node memory is up again");
    assert!(locks.health()[0].up && guard.is_held());
    let renewed = store.take_ops().into_iter().filter(|op| matches!(op, Op::Renew(_))).count();
    assert!(renewed > 0);
}
