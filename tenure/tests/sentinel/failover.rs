//! The master dies, freezes, is cut off or is replaced; in each case by another one that the Sentinels agree on.

use tenure::proto::Was;
use tenure::{ErrorKind, What};
use testkit::SentinelGroup;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn after_the_masters_death_holds_go_on_by_themselves_and_fences_rise() {
    let mut group = SentinelGroup::start();
    let locks = tenure::open(&format!("{}?replicas=1", group.url())).await.unwrap();
    let guard = locks.mutex("held").ttl(Duration::from_secs(15)).build().unwrap().lock().await.unwrap();
    let before = cycle(&locks, "a").await;
    let mut events = locks.events();
    group.nodes[0].kill();
    let after = cycle(&locks, "a").await;
    assert!(after > before, "{after} after {before}");
    assert_ne!(group.master(), 0);
    // A replica had acknowledged the hold, and it was the one that took over, or else had it from that one.
    let renewed = async { while !matches!(events.recv().await.unwrap().what, What::Renewed { .. }) {} };
    within(Duration::from_secs(15), renewed).await;
    assert!(guard.is_held());
    assert!(locks.mutex("held").build().unwrap().try_lock().await.unwrap().is_none());

    // The old one comes back as a master, which nobody believes, and is made a replica.
    group.nodes[0].restart();
    let last = cycle(&locks, "a").await;
    assert!(last > after, "{last} after {after}");
    assert!(guard.release().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_failover_is_followed() {
    let group = SentinelGroup::start();
    let locks = tenure::open(&group.url()).await.unwrap();
    let (mut last, mut master) = (cycle(&locks, "a").await, 0);
    // Twice, so that it is left again where it went to.
    for _ in 0..2 {
        group.nodes[master].wait_for_replicas(2);
        let start = Instant::now();
        while group.master() == master {
            assert!(start.elapsed() < Duration::from_secs(60), "it never came about");
            group.fail_over();
            let next = cycle(&locks, "a").await;
            assert!(next > last, "{next} after {last}");
            last = next;
        }
        master = group.master();
        let next = cycle(&locks, "a").await;
        assert!(next > last, "{next} after {last}");
        last = next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_master_is_left_when_the_sentinels_say_so() {
    let group = SentinelGroup::start();
    // It would be waited for a minute; what ends the wait is what the Sentinels say.
    let store = connect(&format!("{}?response_timeout=60s", group.url())).await;
    let before = fence(&store, "a", 1).await.unwrap();
    store.apply(&key("a"), &release(1)).await.unwrap();
    group.nodes[0].pause();
    let start = Instant::now();
    let error = fence(&store, "a", 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoReply, "it may yet be carried out there: {error}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let after = fence_in_time(&store, "a", 2).await;
    assert!(after > before, "{after} after {before}");

    group.nodes[0].resume();
    let reply = store.apply(&key("a"), &release(2)).await.unwrap();
    assert_eq!(reply.outcome, tenure::proto::Outcome::Gone { was: Was::Holding });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_frozen_master_grants_when_it_wakes_is_noticed_by_the_replicas_that_are_gone() {
    let group = SentinelGroup::start();
    // They know of no Sentinels, and so stay with the old master for as long as it answers.
    let direct = |options: &str| format!("{}?response_timeout=60s{options}", group.nodes[0].url());
    let (bare, counted) = (connect(&direct("")).await, connect(&direct("&replicas=1")).await);
    let theirs = connect_in_time(&format!("{}?replicas=1", group.url())).await;
    fence(&counted, "warm", 1).await.unwrap();
    group.nodes[0].pause();
    let asked = tokio::spawn(async move { fence(&counted, "a", 1).await });
    let asked_bare = tokio::spawn(async move { fence(&bare, "b", 1).await });
    group.master_after(0);
    for (name, id) in [("a", 2), ("b", 2)] {
        fence_in_time(&theirs, name, id).await;
    }
    group.nodes[0].resume();
    // Without replicas=1 it is granted twice, which is why the option is there; with it, never.
    let bare = within(Duration::from_secs(30), asked_bare).await.unwrap();
    assert!(bare.is_ok(), "the old master did not carry out what it was sent, so that nothing was tried: {bare:?}");
    let counted = within(Duration::from_secs(30), asked).await.unwrap();
    let error = counted.expect_err("granted twice");
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_replicas_that_lagged_loses_no_acknowledged_grant_and_fences_rise() {
    let group = SentinelGroup::start_behind_proxy();
    let proxy = group.proxy.as_ref().unwrap();
    let direct = |options: &str| format!("{}?{options}", group.nodes[0].url());
    let (bare, counted) = (connect(&direct("")).await, connect(&direct("replicas=1")).await);
    fence(&counted, "acknowledged", 1).await.unwrap();
    // From here on the replicas hear nothing any more, and neither do the Sentinels.
    proxy.silence(true);
    let lost = fence(&bare, "a", 1).await.unwrap();
    let error = fence(&counted, "b", 1).await.unwrap_err();
    assert!(error.to_string().contains("by 0 of the 1"), "{error}");

    let new = group.master_after(0);
    let theirs = connect_in_time(&group.url()).await;
    let reply = theirs.apply(&key("acknowledged"), &attempt(2)).await.unwrap();
    assert!(matches!(reply.outcome, Outcome::Busy { .. }), "{reply:?} of node {new}");
    let fence_of_next = fence(&theirs, "a", 2).await.unwrap();
    assert!(fence_of_next > lost, "the grant is lost, and its fence is older: {fence_of_next} after {lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_of_the_sentinels_may_be_away_and_no_more() {
    let group = SentinelGroup::start();
    group.sentinels[0].pause();
    let start = Instant::now();
    let store = connect(&group.url()).await;
    assert!(start.elapsed() < Duration::from_secs(1), "the silent one is not waited for: {:?}", start.elapsed());
    fence(&store, "a", 1).await.unwrap();

    group.sentinels[1].pause();
    let error = refusal(&format!("{}?connect_timeout=300ms", group.url())).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    for silent in &group.sentinels[..2] {
        assert!(error.to_string().contains(&format!("127.0.0.1:{}: ", silent.port())), "{error}");
    }
    assert!(error.to_string().contains("300ms") && error.to_string().contains("2 of 3 have to"), "{error}");
    // Who is connected already stays so.
    store.ping().await.unwrap();

    group.sentinels[0].resume();
    connect_in_time(&group.url()).await;
    group.sentinels[1].resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_it_is_the_same() {
    let mut group = SentinelGroup::start_with_tls();
    let locks = tenure::open(&group.url()).await.unwrap();
    let before = cycle(&locks, "a").await;
    group.nodes[0].kill();
    let after = cycle(&locks, "a").await;
    assert!(after > before, "{after} after {before}");

    let error = refusal(group.url().split('?').next().unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("certificate") && error.to_string().contains("ca=path"), "{error}");
}
