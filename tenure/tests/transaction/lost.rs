//! Whoever does not hold the lock any more commits nothing, whether it knows or not.

use std::pin::pin;

use tenure::What;
use tenure::transaction::{Claimed, Commit, Settle, Step, Txid, Verdict};

use super::*;

#[tokio::test]
async fn a_lock_that_was_broken_is_noticed_by_the_commit_and_told() {
    let (server, locks) = site().await;
    let guard = mutex(&locks, "a").lock().await.unwrap();
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.set("data", "1");
    let mut events = locks.events();
    client(&server.url()).await.break_lock("a").await.unwrap();
    assert!(guard.is_held(), "nobody has said so yet");
    let id = tx.id().clone();
    assert!(matches!(reason(tx.commit().await), Reason::NotHeld { .. }));
    assert!(!guard.is_held() && !exists(&server, "data"));
    within(guard.lost()).await;
    let event = within(events.recv()).await.unwrap();
    assert!(matches!(event.what, What::Lost { fence, .. } if fence == guard.fence()), "{event}");
    assert!(matches!(reason(locks.resolve(&id).await.unwrap()), Reason::NotHeld { .. }), "it is on record");
}

#[tokio::test]
async fn a_hold_that_is_known_to_be_over_is_refused_without_asking() {
    let (server, proxy, locks) = behind_proxy().await;
    let guard = locks.mutex("a").ttl(ms(50)).watchdog(false).build().unwrap().lock().await.unwrap();
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.set("data", "1");
    within(guard.lost()).await;
    let replies = proxy.replies();
    assert!(matches!(reason(tx.commit().await), Reason::NotHeld { .. }));
    assert_eq!(proxy.replies(), replies);

    let guard = mutex(&locks, "b").lock().await.unwrap();
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.set("data", "1");
    guard.release().await.unwrap();
    let replies = proxy.replies();
    assert!(matches!(reason(tx.commit().await), Reason::NotHeld { .. }));
    assert_eq!(proxy.replies(), replies);
    assert!(!exists(&server, "data"));
}

/// As a process that was stopped for longer than its hold lasts: what it sends arrives when another one is in.
#[tokio::test]
async fn a_commit_that_arrives_after_its_hold_expired_is_refused() {
    let (server, proxy, locks) = behind_proxy().await;
    let lock = locks.mutex("a").ttl(ms(300)).watchdog(false).build().unwrap();
    let mut tx = lock.begin_transaction().begin().await.unwrap();
    tx.set("data", "the late one's");
    proxy.hold_requests(true);
    let commit = tokio::spawn(tx.commit());
    let next = mutex(&client(&server.url()).await, "a").lock().timeout(ms(10_000)).await.unwrap();
    server.command(&["SET", "data", "the next one's"]);
    proxy.hold_requests(false);
    assert!(matches!(reason(within(commit).await.unwrap()), Reason::NotHeld { .. }));
    assert_eq!(get(&server, "data"), "the next one's");
    next.release().await.unwrap();
}

/// Expired, and nobody has swept it away yet.
#[tokio::test]
async fn a_hold_that_has_expired_is_not_held_though_nobody_else_is_in() {
    let (server, proxy, locks) = behind_proxy().await;
    let lock = locks.mutex("a").ttl(ms(200)).watchdog(false).build().unwrap();
    let mut tx = lock.begin_transaction().begin().await.unwrap();
    tx.set("data", "1");
    let guard_end = tokio::time::Instant::now() + ms(220);
    proxy.hold_requests(true);
    let commit = tokio::spawn(tx.commit());
    tokio::time::sleep_until(guard_end).await;
    proxy.hold_requests(false);
    assert!(matches!(reason(within(commit).await.unwrap()), Reason::NotHeld { .. }));
    assert!(!exists(&server, "data"));
}

fn commit_under(lock: &str, id: tenure::proto::ClaimId, fence: u64, bits: u128) -> Settle {
    let lock = Key::new(lock).unwrap();
    let write = Step::Write {
        verb: tenure::transaction::Verb::IncrBy,
        key: bytes::Bytes::from_static(b"count"),
        args: vec![bytes::Bytes::from_static(b"1")],
    };
    Settle::Commit(Commit {
        txid: Txid::new(lock.clone(), u64::MAX >> 12, bits),
        claims: vec![Claimed { lock, id, fence }],
        steps: vec![write],
        memory: Duration::from_secs(60),
    })
}

#[tokio::test]
async fn an_older_fence_is_refused_and_a_newer_one_is_learned_in_every_encoding() {
    let (server, locks) = site().await;
    let store = locks.store().clone();
    let mut bits = 0;
    let mut count = 0;
    for others in [0, 1, 3, 7] {
        let name = format!("pool {others}");
        let pool = locks.semaphore(&*name, 10).build().unwrap();
        let mut crowd = Vec::new();
        for _ in 0..others {
            crowd.push(pool.lock().await.unwrap());
        }
        let guard = pool.lock().await.unwrap();
        let (id, fence) = (guard.id(), guard.fence().get());
        let mut settle = async |fence| {
            bits += 1;
            store.settle(&commit_under(&name, id, fence, bits)).await.unwrap()
        };
        assert!(matches!(settle(fence).await, Verdict::Committed));
        assert!(matches!(settle(fence - 1).await, Verdict::RolledBack(Reason::Outdated { .. })));
        assert!(
            matches!(settle(fence + 3_600_000_000).await, Verdict::RolledBack(Reason::Outdated { .. })),
            "too far ahead"
        );
        let before = store.read(&Key::new(&*name).unwrap()).await.unwrap().record;
        assert!(matches!(settle(fence + 1).await, Verdict::Committed));
        let after = store.read(&Key::new(&*name).unwrap()).await.unwrap().record;
        let mut expected = before.clone();
        expected.fence = fence + 1;
        expected.holders.iter_mut().filter(|entry| entry.id == id).for_each(|entry| entry.fence = fence + 1);
        assert_eq!(after, expected, "{others} others: nothing else has changed");
        assert!(matches!(settle(fence).await, Verdict::RolledBack(Reason::Outdated { .. })), "the one before");
        count += 2;
        assert_eq!(get(&server, "count"), count.to_string());
        // Whoever comes next has a later one.
        let next = pool.lock().await.unwrap();
        assert!(next.fence().get() > fence + 1);
        let ttl = server.command(&["PTTL", &format!("tenure:{{{name}}}")]);
        assert!(!ttl.starts_with(":-1"), "{ttl}");
    }
}

#[tokio::test]
async fn who_waits_or_was_buried_holds_nothing() {
    use tenure::proto::{Acquire, Claim, ClaimId, Op, Release};
    let (server, locks) = site().await;
    let store = locks.store().clone();
    let guard = mutex(&locks, "a").lock().await.unwrap();
    let key = Key::new("a").unwrap();
    let waits = ClaimId::new(7);
    let acquire = Acquire {
        id: waits,
        claim: Claim::EXCLUSIVE,
        ttl: Duration::from_secs(30),
        patience: Duration::from_secs(30),
        owner: None,
        max: 1,
        memory: Duration::from_secs(60),
        meta: Default::default(),
        fence: 0,
    };
    store.apply(&key, &Op::Acquire(acquire)).await.unwrap();
    let buried = ClaimId::new(8);
    let release = Release { id: buried, bury: Duration::from_secs(30), fence: 0 };
    store.apply(&key, &Op::Release(release)).await.unwrap();
    for (n, id) in [waits, buried, ClaimId::new(9)].into_iter().enumerate() {
        for fence in [0, guard.fence().get()] {
            let verdict =
                store.settle(&commit_under("a", id, fence, 2 * n as u128 + u128::from(fence > 0))).await.unwrap();
            assert!(matches!(verdict, Verdict::RolledBack(Reason::NotHeld { .. })), "{verdict:?}");
        }
    }
    assert!(!exists(&server, "count"));
}

#[tokio::test]
async fn a_hold_that_was_handed_on_within_the_process_commits_and_the_one_before_does_not() {
    let (server, locks) = site().await;
    let store = locks.store().clone();
    let lock = mutex(&locks, "a");
    let first = lock.lock().await.unwrap();
    let mut stale = first.begin_transaction().begin().await.unwrap();
    stale.set("data", "stale");
    let (id, fence) = (first.id(), first.fence().get());
    let calls_before = calls(&server);
    let mut next = pin!(lock.lock().into_future());
    begins_to_wait(next.as_mut()).await;
    // While another one writes to that server, the clock goes on: a fence stays behind it.
    server.command(&["PING"]);
    assert!(first.release().await.unwrap());
    let second = within(next).await.unwrap();
    assert_eq!((second.id(), second.fence().get()), (id, fence + 1), "it was handed on");
    assert_eq!(calls(&server), calls_before, "and the store knows nothing of it");
    assert!(matches!(reason(stale.commit().await), Reason::NotHeld { .. }));

    let mut tx = second.begin_transaction().begin().await.unwrap();
    tx.incr("count", 1);
    tx.commit().await.committed().unwrap();
    let record = store.read(&Key::new("a").unwrap()).await.unwrap().record;
    assert_eq!((record.fence, record.holders[0].fence), (fence + 1, fence + 1), "the store learned it");
    // As a request of the first that was on its way all the while.
    let verdict = store.settle(&commit_under("a", id, fence, 1)).await.unwrap();
    assert!(matches!(verdict, Verdict::RolledBack(Reason::Outdated { .. })), "{verdict:?}");
    assert_eq!(get(&server, "count"), "1");
    assert!(second.is_held());
    second.release().await.unwrap();
}

#[tokio::test]
async fn a_hold_is_not_handed_on_while_a_commit_under_it_may_still_come() {
    let (server, proxy, locks) = behind_proxy().await;
    let lock = mutex(&locks, "a");
    let first = lock.lock().await.unwrap();
    let mut tx = first.begin_transaction().begin().await.unwrap();
    tx.set("data", "the first one's");
    let id = tx.id().clone();
    let mut next = pin!(lock.lock().into_future());
    begins_to_wait(next.as_mut()).await;
    proxy.hold_requests(true);
    // It is sent with the first poll, and its reply cannot come.
    {
        let mut commit = pin!(tx.commit());
        begins_to_wait(commit.as_mut()).await;
    }
    drop(first);
    for _ in 0..100 {
        tokio::task::yield_now().await;
        // Nobody may be in before the commit is over.
        begins_to_wait(next.as_mut()).await;
    }
    proxy.hold_requests(false);
    let second = within(next).await.unwrap();
    let outcome = locks.resolve(&id).await.unwrap();
    assert_eq!(outcome.is_committed(), exists(&server, "data"));
    let mut tx = second.begin_transaction().begin().await.unwrap();
    tx.set("data", "the second one's");
    tx.commit().await.committed().unwrap();
    assert_eq!(get(&server, "data"), "the second one's");
}
