//! What a commit writes, what it leaves, and what it costs.

use super::*;

#[tokio::test]
async fn all_is_written_in_one_round_trip() {
    let (server, proxy, locks) = behind_proxy().await;
    for command in [
        &["SET", "number", "40"][..],
        &["SET", "old", "x"],
        &["HSET", "hash", "a", "1", "b", "2"],
        &["SADD", "set", "a", "b"],
        &["RPUSH", "list", "m"],
    ] {
        server.command(command);
    }
    let guard = mutex(&locks, "a").lock().await.unwrap();
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.expect("number", "40").expect_absent("nothing").incr("number", 2).set("text", "t").del("old");
    tx.hset("hash", "c", "3").hdel("hash", "a").lpush("list", "f").rpush("list", "l").sadd("set", "c").srem("set", "a");
    tx.zadd("sorted", 1.5, "x").zadd("sorted", f64::INFINITY, "y").set_for("brief", "b", ms(60_000));
    tx.hset("new", "a", "1").hset("new", "b", "2").expire("new", ms(90_000)).set("zero\0key", b"\xff\x00".to_vec());
    let (replies, id) = (proxy.replies(), tx.id().clone());
    assert!(tx.commit().await.is_committed());
    assert_eq!(proxy.replies(), replies + 1, "one round trip");
    assert!(guard.is_held(), "who began on a guard keeps it");
    assert_eq!([get(&server, "number"), get(&server, "text"), get(&server, "brief")], ["42", "t", "b"]);
    assert!(!exists(&server, "old"));
    assert_eq!(text(&server.command(&["HGET", "hash", "c"])), "3");
    assert!(server.command(&["HEXISTS", "hash", "a"]).contains('0'));
    let list = server.command(&["LRANGE", "list", "0", "-1"]);
    assert_eq!(list.lines().filter(|line| ["f", "m", "l"].contains(line)).collect::<Vec<_>>(), ["f", "m", "l"]);
    assert!(server.command(&["SISMEMBER", "set", "c"]).contains('1'));
    assert!(server.command(&["SISMEMBER", "set", "a"]).contains('0'));
    assert_eq!(text(&server.command(&["ZSCORE", "sorted", "x"])), "1.5");
    assert!(server.command(&["PTTL", "brief"]).trim()[1..].parse::<u64>().unwrap() <= 60_000);
    assert!(server.command(&["PTTL", "new"]).trim()[1..].parse::<u64>().unwrap() > 60_000);
    assert!(exists(&server, "zero\0key"));
    assert!(locks.resolve(&id).await.unwrap().is_committed());
    guard.release().await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_takes_its_lock_releases_it_and_one_dropped_or_rolled_back_does_too() {
    let (server, locks) = site().await;
    let lock = mutex(&locks, "a");
    let store = locks.store().clone();
    let begin = || async { lock.begin_transaction().timeout(ms(5_000)).begin().await.unwrap() };
    let mut tx = begin().await;
    tx.set("committed", "1");
    assert!(lock.is_locked().await.unwrap());
    assert!(tx.commit().await.is_committed());
    until("it is released", || is_free(&*store, "a")).await;

    let mut tx = begin().await;
    tx.set("dropped", "1");
    let dropped = tx.id().clone();
    drop(tx);
    until("it is released", || is_free(&*store, "a")).await;

    let mut tx = begin().await;
    tx.set("rolled back", "1");
    assert!(tx.rollback().await.unwrap());
    assert!(is_free(&*store, "a").await);

    assert_eq!(
        [exists(&server, "committed"), exists(&server, "dropped"), exists(&server, "rolled back")],
        [true, false, false]
    );
    assert!(matches!(reason(locks.resolve(&dropped).await.unwrap()), Reason::Resolved));
    let busy = lock.lock().await.unwrap();
    let error = lock.begin_transaction().timeout(ms(30)).begin().await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    busy.release().await.unwrap();
}

#[tokio::test]
async fn several_locks_are_taken_in_order_and_all_have_to_be_held() {
    let (server, locks) = site().await;
    let store = locks.store().clone();
    let all = ["c", "a", "b"].map(|name| mutex(&locks, name));
    let mut tx = locks.begin_transaction(&all).begin().await.unwrap();
    assert_eq!(tx.id().lock().as_str(), "a", "the first in the order of names");
    tx.set("both", "1");
    assert!(tx.commit().await.is_committed());
    for name in ["a", "b", "c"] {
        until("it is released", || is_free(&*store, name)).await;
    }
    for broken in ["a", "b", "c"] {
        let mut tx = locks.begin_transaction(&all).begin().await.unwrap();
        tx.set("half", "1");
        client(&server.url()).await.break_lock(broken).await.unwrap();
        match reason(tx.commit().await) {
            Reason::NotHeld { lock } => assert_eq!(lock.as_str(), broken),
            other => panic!("{other}"),
        }
    }
    assert!(exists(&server, "both") && !exists(&server, "half"));
    let error = locks.begin_transaction(&[]).begin().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn an_outcome_is_kept_for_its_time_and_nothing_of_ours_is_without_an_expiry() {
    let (server, locks) = site().await;
    let lock = mutex(&locks, "a");
    let mut tx = lock.begin_transaction().outcome_memory(ms(1_500)).begin().await.unwrap();
    tx.set("data", "1");
    let brief = tx.id().clone();
    assert!(tx.commit().await.is_committed());
    let tx = lock.begin_transaction().outcome_memory(ms(1_000)).begin().await.unwrap();
    let (late, until_when) = (tx.id().clone(), tx.id().until());
    let mut other = lock.begin_transaction();
    other = other.timeout(ms(1));
    assert!(other.begin().await.is_err());
    assert!(locks.resolve(&brief).await.unwrap().is_committed());
    let parked = mutex(&locks, "b").begin_transaction().begin().await.unwrap().id().clone();
    assert!(matches!(reason(locks.resolve(&parked).await.unwrap()), Reason::Resolved));
    let keys = server.command(&["KEYS", "tenure:*"]);
    let ours: Vec<&str> = keys.lines().filter(|line| line.starts_with("tenure:")).collect();
    assert!(ours.iter().filter(|key| key.starts_with("tenure:tx:{")).count() >= 2, "{ours:?}");
    for key in ours {
        assert!(!server.command(&["PTTL", key]).starts_with(":-1"), "{key} has no expiry");
    }

    until("its time has passed", || async {
        let time = server.command(&["TIME"]);
        let seconds: u64 = time.lines().nth(2).unwrap().parse().unwrap();
        seconds * 1_000_000 > until_when
    })
    .await;
    let mut tx = tx;
    tx.set("late", "1");
    assert!(matches!(reason(tx.commit().await), Reason::TooLate));
    assert!(!exists(&server, "late"));
    assert_eq!(locks.resolve(&late).await.unwrap_err().kind(), ErrorKind::Missing);
    until("it is forgotten", || async {
        locks.resolve(&brief).await.is_err_and(|error| error.kind() == ErrorKind::Missing)
    })
    .await;
    until("nothing is left of it", || async { !server.command(&["KEYS", "tenure:tx:{a}*"]).contains("tenure:tx") })
        .await;
}

#[tokio::test]
async fn forgotten_scripts_are_loaded_again_unseen() {
    let (server, locks) = site().await;
    let guard = mutex(&locks, "a").lock().await.unwrap();
    for n in 1..=3 {
        server.command(&["SCRIPT", "FLUSH"]);
        let mut tx = guard.begin_transaction().begin().await.unwrap();
        tx.incr("count", 1);
        let id = tx.id().clone();
        assert!(tx.commit().await.is_committed());
        server.command(&["SCRIPT", "FLUSH"]);
        assert!(locks.resolve(&id).await.unwrap().is_committed());
        assert_eq!(get(&server, "count"), n.to_string());
    }
}

#[tokio::test]
async fn readers_and_holders_of_permits_commit_in_every_encoding_of_the_record() {
    let (server, locks) = site().await;
    let pool = |locks: &Locks| locks.semaphore("pool", 10).build().unwrap();
    let mut guards = Vec::new();
    // From the fifth on it is a crowd.
    for n in 1..=7 {
        guards.push(pool(&locks).lock().await.unwrap());
        for guard in [&guards[0], &guards[n - 1]] {
            let mut tx = guard.begin_transaction().begin().await.unwrap();
            tx.incr("count", 1);
            tx.commit().await.committed().unwrap();
        }
    }
    assert_eq!(get(&server, "count"), "14");
    locks.break_lock("pool").await.unwrap();
    let mut tx = guards[3].begin_transaction().begin().await.unwrap();
    tx.incr("count", 1);
    assert!(matches!(reason(tx.commit().await), Reason::NotHeld { .. }));
    assert_eq!(get(&server, "count"), "14");
}

#[tokio::test]
async fn guards_of_one_owner_commit_each_until_the_last_is_gone() {
    let (server, locks) = site().await;
    let lock = locks.owner("o").mutex("a").build().unwrap();
    let (first, again) = (lock.lock().await.unwrap(), lock.lock().await.unwrap());
    let mut early = first.begin_transaction().begin().await.unwrap();
    let mut late = first.begin_transaction().begin().await.unwrap();
    first.release().await.unwrap();
    early.incr("count", 1);
    early.commit().await.committed().unwrap();
    again.release().await.unwrap();
    late.incr("count", 1);
    assert!(matches!(reason(late.commit().await), Reason::NotHeld { .. }));
    assert_eq!(get(&server, "count"), "1");
}
