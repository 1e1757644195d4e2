//! That every commit is told: by an event, and in the figures.
//!
//! Bugs that were planted, and found: a future that is dropped and tells nothing; a time that does not pass; a lost lock that is
//! counted as late.

use tenure::{Event, Metrics, What};

use super::*;

/// The next event that tells of a commit.
async fn next(events: &mut tenure::Events) -> What {
    loop {
        let Event { name, what, .. } = within(events.recv()).await.unwrap();
        if matches!(what, What::Committed { .. } | What::RolledBack { .. } | What::CommitUnknown { .. }) {
            assert_eq!(name.as_str(), "a");
            return what;
        }
    }
}

fn counts(metrics: &Metrics) -> [u64; 4] {
    [metrics.committed, metrics.rolled_back, metrics.commits_unknown, metrics.commit.count]
}

#[tokio::test]
async fn every_commit_is_told_by_an_event_and_counted_with_how_long_it_took() {
    let (_server, proxy, locks) = behind_proxy().await;
    let mut events = locks.events();
    let guard = locks.mutex("a").op_timeout(ms(60)).build().unwrap().lock().await.unwrap();
    let begin = async || guard.begin_transaction().begin().await.unwrap();

    let mut tx = begin().await;
    let id = tx.set("data", "1").id().clone();
    tx.commit().await.committed().unwrap();
    let told = next(&mut events).await;
    assert!(matches!(&told, What::Committed { txid, took } if *txid == id && !took.is_zero()), "{told:?}");

    let mut tx = begin().await;
    let id = tx.expect("data", "2").id().clone();
    assert!(matches!(reason(tx.commit().await), Reason::Unexpected { .. }));
    let told = next(&mut events).await;
    let why = "what lies under \"data\" is not what was expected";
    assert!(matches!(&told, What::RolledBack { txid, why: told, .. } if *txid == id && told == why), "{told:?}");

    // What nobody wanted any more, and what nobody began.
    begin().await.rollback().await.unwrap();
    drop(begin().await);
    assert_eq!(counts(&locks.metrics()), [1, 1, 0, 2]);

    proxy.hold_requests(true);
    let tx = begin().await;
    let id = tx.id().clone();
    assert!(matches!(within(tx.commit()).await, Outcome::Unknown(_)));
    let told = next(&mut events).await;
    assert!(matches!(&told, What::CommitUnknown { txid, took } if *txid == id && *took >= ms(60)), "{told:?}");

    let tx = begin().await;
    let id = tx.id().clone();
    assert!(cancelled_after(1, tx.commit()).await.is_none());
    let told = next(&mut events).await;
    assert!(matches!(&told, What::CommitUnknown { txid, .. } if *txid == id), "{told:?}");
    let metrics = locks.metrics();
    assert_eq!(counts(&metrics), [1, 1, 2, 4]);
    assert!(metrics.commit.sum >= ms(60), "{:?}", metrics.commit);
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn the_facade_is_told_why_a_commit_came_to_nothing() {
    let server = testkit::Redis::start();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let exporter = recorder.handle();
    let store = within(Redis::connect(&server.url())).await.unwrap();
    let locks = Locks::builder(Arc::new(store)).recorder(Arc::new(recorder)).build().unwrap();
    let guard = mutex(&locks, "a").lock().await.unwrap();
    let begin = async || guard.begin_transaction().begin().await.unwrap();
    let mut tx = begin().await;
    tx.set("data", "text");
    tx.commit().await.committed().unwrap();
    for n in 0..4 {
        let mut tx = begin().await;
        match n {
            0 => _ = tx.expect_absent("data"),
            1 => _ = tx.incr("data", 1),
            2 => _ = locks.resolve(tx.id()).await.unwrap(),
            _ => _ = locks.break_lock("a").await.unwrap(),
        }
        assert!(!tx.commit().await.is_committed());
    }
    let text = exporter.render();
    assert!(text.contains("tenure_committed_total 1\n"), "{text}");
    for outcome in ["unexpected", "refused", "resolved", "lost"] {
        let line = format!("tenure_rolled_back_total{{outcome=\"{outcome}\"}} 1\n");
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    assert!(text.contains("tenure_commit_seconds_count 5"), "{text}");
}
