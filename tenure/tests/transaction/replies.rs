//! Replies that get lost, requests that come late, servers that fall silent, callers that go: it is decided once.

use super::*;

#[tokio::test]
async fn a_lost_reply_is_asked_for_again_and_the_commit_was_carried_out_once() {
    let (server, proxy, locks) = behind_proxy().await;
    let guard = mutex(&locks, "a").lock().await.unwrap();
    for n in 1..=5 {
        let mut tx = guard.begin_transaction().begin().await.unwrap();
        tx.incr("count", 1).rpush("list", "x");
        proxy.lose_reply(1);
        within(tx.commit()).await.committed().unwrap();
        proxy.wait_for_loss();
        assert_eq!(get(&server, "count"), n.to_string());
        assert_eq!(server.command(&["LLEN", "list"]).trim(), format!(":{n}"));
    }
}

#[tokio::test]
async fn a_commit_that_comes_after_its_tombstone_is_refused() {
    let (server, proxy, locks) = behind_proxy().await;
    let guard = mutex(&locks, "a").lock().await.unwrap();
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.set("data", "1");
    let id = tx.id().clone();
    proxy.hold_requests(true);
    let commit = tokio::spawn(tx.commit());
    let elsewhere = client(&server.url()).await;
    let id = id.to_string().parse().unwrap();
    assert!(matches!(reason(elsewhere.resolve(&id).await.unwrap()), Reason::Resolved));
    proxy.hold_requests(false);
    assert!(matches!(reason(within(commit).await.unwrap()), Reason::Resolved));
    assert!(!exists(&server, "data"));
    assert!(matches!(reason(elsewhere.resolve(&id).await.unwrap()), Reason::Resolved));
    assert!(guard.is_held());
}

#[tokio::test]
async fn a_refusal_stands_even_where_the_same_would_be_possible_later() {
    let (server, locks) = site().await;
    let store = locks.store().clone();
    let guard = mutex(&locks, "a").lock().await.unwrap();
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.expect("data", "1").set("data", "2");
    let claim =
        tenure::transaction::Claimed { lock: Key::new("a").unwrap(), id: guard.id(), fence: guard.fence().get() };
    let again = tenure::transaction::Settle::Commit(tenure::transaction::Commit {
        txid: tx.id().clone(),
        claims: vec![claim],
        steps: tx.steps().to_vec(),
        memory: Duration::from_secs(60),
    });
    assert!(matches!(reason(tx.commit().await), Reason::Unexpected { .. }));
    server.command(&["SET", "data", "1"]);
    // As the same request, sent before and late.
    let verdict = store.settle(&again).await.unwrap();
    assert!(matches!(verdict, tenure::transaction::Verdict::RolledBack(Reason::Unexpected { .. })), "{verdict:?}");
    assert_eq!(get(&server, "data"), "1");
}

#[tokio::test]
async fn what_nobody_answers_is_unknown_and_resolved_when_somebody_does() {
    let (server, proxy, locks) = behind_proxy().await;
    let direct = client(&server.url()).await;
    for arrives in [true, false] {
        let guard = locks.mutex("a").op_timeout(ms(60)).build().unwrap().lock().await.unwrap();
        let mut tx = guard.begin_transaction().begin().await.unwrap();
        let key = format!("data {arrives}");
        tx.set(&*key, "1");
        if arrives {
            proxy.silence(true);
        } else {
            proxy.hold_requests(true);
        }
        let id = match within(tx.commit()).await {
            Outcome::Unknown(id) => id,
            other => panic!("{other}"),
        };
        assert_eq!(direct.resolve(&id).await.unwrap().is_committed(), arrives);
        proxy.silence(false);
        proxy.hold_requests(false);
        until("the connection is good again", || async { locks.info("a").await.is_ok() }).await;
        assert_eq!(locks.resolve(&id).await.unwrap().is_committed(), arrives, "and so it stays");
        assert_eq!(exists(&server, &key), arrives);
        drop(guard);
        until("the lock is free", || is_free(&**direct.store(), "a")).await;
    }
}

#[tokio::test]
async fn what_may_have_been_done_and_is_forgotten_is_never_told_to_be_rolled_back() {
    let (server, proxy, locks) = behind_proxy().await;
    let guard = locks.mutex("a").op_timeout(ms(1_500)).build().unwrap().lock().await.unwrap();
    let mut tx = guard.begin_transaction().outcome_memory(ms(1_000)).begin().await.unwrap();
    tx.set("data", "1");
    proxy.refuse(true);
    proxy.lose_reply(1);
    let commit = tokio::spawn(tx.commit());
    until("it was done, and nobody was told", || async { exists(&server, "data") }).await;
    let records = || server.command(&["KEYS", "tenure:tx:*"]);
    until("its record is gone", || async { records().starts_with("*0") }).await;
    let before = calls(&server);
    proxy.refuse(false);
    until("it is asked for again", || async { calls(&server) > before }).await;
    let outcome = within(commit).await.unwrap();
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome}");
}

#[tokio::test]
async fn a_server_that_is_away_refuses_and_one_that_dies_after_it_answered_keeps_what_it_wrote_to_disk() {
    let mut server = testkit::Redis::start_durable();
    let locks = client(&server.url()).await;
    let guard = mutex(&locks, "a").lock().await.unwrap();
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.set("data", "1").rpush("list", "x");
    let id = tx.id().clone();
    tx.commit().await.committed().unwrap();
    server.kill();
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.set("late", "1");
    let outcome = within(tx.commit()).await;
    assert!(!outcome.is_committed(), "{outcome}");
    server.restart();
    until("it can be asked", || async { locks.info("a").await.is_ok() }).await;
    assert!(locks.resolve(&id).await.unwrap().is_committed());
    assert!(exists(&server, "data") && exists(&server, "list") && !exists(&server, "late"));
}

#[tokio::test]
async fn a_commit_cancelled_at_any_point_is_all_or_nothing_and_the_lock_is_free() {
    for lose in [false, true] {
        let (server, proxy, locks) = behind_proxy().await;
        let store = locks.store().clone();
        let mut points = 0;
        for k in 0.. {
            let name = format!("a{k}");
            let mut tx = mutex(&locks, &name).begin_transaction().begin().await.unwrap();
            let keys = [format!("first {k}"), format!("second {k}")];
            tx.set(&*keys[0], "1").sadd(&*keys[1], "m");
            let id = tx.id().clone();
            if lose {
                proxy.lose_reply(1);
            }
            let ended = within(cancelled_after(k, tx.commit())).await;
            points = k;
            let written = locks.resolve(&id).await.unwrap().is_committed();
            until("the lock is free", || is_free(&*store, &name)).await;
            assert_eq!(locks.resolve(&id).await.unwrap().is_committed(), written);
            assert_eq!([exists(&server, &keys[0]), exists(&server, &keys[1])], [written, written], "at point {k}");
            if let Some(outcome) = ended {
                assert_eq!(outcome.is_committed(), written);
                break;
            }
        }
        assert!(points > 0, "there were await points to cancel at");
    }
}

#[tokio::test]
async fn a_beginning_cancelled_at_any_point_leaves_the_lock_free() {
    let (_server, locks) = site().await;
    let store = locks.store().clone();
    for k in 0.. {
        let all = ["a", "b"].map(|name| mutex(&locks, name));
        let begun = within(cancelled_after(k, locks.begin_transaction(&all).begin())).await;
        let ended = begun.is_some();
        drop(begun);
        for name in ["a", "b"] {
            until("the lock is free", || is_free(&*store, name)).await;
        }
        if ended {
            break;
        }
    }
}

#[tokio::test]
async fn a_rollback_cancelled_at_any_point_leaves_nothing_and_the_locks_free() {
    let (server, locks) = site().await;
    let store = locks.store().clone();
    for k in 0.. {
        let all = ["a", "b"].map(|name| mutex(&locks, name));
        let mut tx = locks.begin_transaction(&all).begin().await.unwrap();
        tx.set("data", "1");
        let ended = within(cancelled_after(k, tx.rollback())).await;
        for name in ["a", "b"] {
            until("the lock is free", || is_free(&*store, name)).await;
        }
        assert!(!exists(&server, "data"), "at point {k}");
        if let Some(were_ours) = ended {
            assert!(were_ours.unwrap() && k > 1, "there were await points to cancel at");
            break;
        }
    }
}

#[tokio::test]
async fn a_resolution_cancelled_at_any_point_is_the_same_when_it_is_asked_for_again() {
    for lose in [false, true] {
        let (server, proxy, locks) = behind_proxy().await;
        let elsewhere = client(&server.url()).await;
        let guard = mutex(&locks, "a").lock().await.unwrap();
        for committed in [false, true] {
            for k in 0.. {
                let key = format!("data {committed} {k}");
                let mut tx = guard.begin_transaction().begin().await.unwrap();
                tx.set(&*key, "1");
                let (id, mut tx) = (tx.id().clone(), Some(tx));
                if committed {
                    within(tx.take().unwrap().commit()).await.committed().unwrap();
                }
                if lose {
                    proxy.lose_reply(1);
                }
                let ended = within(cancelled_after(k, locks.resolve(&id))).await;
                // The tombstone may be left, and may not: then the commit is still carried out.
                let outcome = match tx {
                    Some(tx) => within(tx.commit()).await,
                    None => within(elsewhere.resolve(&id)).await.unwrap(),
                };
                assert_eq!(outcome.is_committed(), exists(&server, &key), "at point {k}");
                assert!(outcome.is_committed() || !committed, "at point {k}");
                assert_eq!(elsewhere.resolve(&id).await.unwrap().is_committed(), outcome.is_committed());
                if let Some(resolved) = ended {
                    assert_eq!(resolved.unwrap().is_committed(), outcome.is_committed());
                    assert!(k > 0, "there were await points to cancel at");
                    break;
                }
            }
        }
        assert!(guard.is_held());
    }
}

#[tokio::test]
async fn protection_cancelled_at_any_point_drops_the_work_and_nothing_else() {
    let (server, locks) = site().await;
    let guard = mutex(&locks, "a").lock().await.unwrap();
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.set("data", "1");
    let alive = Arc::new(());
    for k in 0.. {
        let work = async |alive: Arc<()>| {
            for _ in 0..6 {
                tokio::task::yield_now().await;
            }
            drop(alive);
        };
        let ended = within(cancelled_after(k, tx.protect(work(alive.clone())))).await;
        assert_eq!(Arc::strong_count(&alive), 1, "the work is gone at point {k}");
        assert!(tx.is_held() && guard.is_held());
        if let Some(worked) = ended {
            assert!(worked.is_ok() && k > 6, "there were await points to cancel at");
            break;
        }
    }
    within(tx.commit()).await.committed().unwrap();
    assert_eq!(get(&server, "data"), "1", "what was staged before is committed");
}

#[tokio::test]
async fn many_at_the_same_time_are_each_carried_out_once() {
    let (server, proxy, locks) = behind_proxy().await;
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let lock = mutex(&locks, &format!("lock {}", n % 3));
            tokio::spawn(async move {
                for _ in 0..5 {
                    let mut tx = lock.begin_transaction().begin().await.unwrap();
                    tx.incr("count", 1);
                    tx.commit().await.committed().unwrap();
                }
            })
        })
        .collect();
    proxy.lose_reply(40);
    for task in tasks {
        // A begin may fail with the connection that is lost under it, and a commit settles itself.
        let _ = within(task).await;
    }
    let count: usize = get(&server, "count").parse().unwrap();
    let keys = server.command(&["KEYS", "tenure:tx:*"]);
    let records = keys.lines().filter(|line| line.starts_with("tenure:tx:")).count();
    assert!(count > 20 && count == records, "{count} {records}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_have_to_acknowledge_where_they_have_to_acknowledge_grants() {
    let master = testkit::Redis::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replica = testkit::Redis::start_with(&["--replicaof", &format!("127.0.0.1 {}", master.port())]);
    master.wait_for_replicas(1);
    let locks = client(&format!("{}?replicas=1", master.url())).await;
    let guard = locks.mutex("a").op_timeout(ms(400)).build().unwrap().lock().await.unwrap();
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.set("data", "1");
    tx.commit().await.committed().unwrap();
    assert_eq!(get(&replica, "data"), "1");

    master.command(&["SCRIPT", "FLUSH"]);
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.set("data", "2");
    replica.pause();
    let id = match within(tx.commit()).await {
        Outcome::Unknown(id) => id,
        other => panic!("{other}"),
    };
    assert_eq!(get(&master, "data"), "2", "the master has it, and could lose it");
    assert!(locks.resolve(&id).await.unwrap_err().is_ambiguous(), "nor is it settled");
    // On another connection nothing was written before it is asked there.
    let elsewhere = client(&format!("{}?replicas=1", master.url())).await;
    assert!(elsewhere.resolve(&id).await.unwrap_err().is_ambiguous());
    replica.resume();
    until("the replica is back", || async { elsewhere.resolve(&id).await.is_ok() }).await;
    assert!(elsewhere.resolve(&id).await.unwrap().is_committed());
    assert_eq!(get(&replica, "data"), "2");
}
