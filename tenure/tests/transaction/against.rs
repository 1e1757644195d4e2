//! What stands against a commit, each time with a write before it that must not be there afterwards.

use tenure::transaction::Transaction;

use super::*;

async fn attempt(locks: &Locks, stage: impl FnOnce(&mut Transaction)) -> Outcome {
    let mut tx = mutex(locks, "a").begin_transaction().begin().await.unwrap();
    tx.set("before", "1");
    stage(&mut tx);
    tx.set("after", "1");
    let id = tx.id().clone();
    let outcome = tx.commit().await;
    assert!(!locks.resolve(&id).await.unwrap().is_committed());
    outcome
}

#[tokio::test]
async fn a_value_a_type_or_a_number_that_does_not_fit() {
    let (server, locks) = site().await;
    server.command(&["SET", "text", "one"]);
    server.command(&["SET", "most", "9223372036854775807"]);
    server.command(&["SET", "least", "-9223372036854775808"]);
    server.command(&["HSET", "hash", "f", "v"]);
    for bad in ["007", " 7", "+7", "-0", "7.0", "", "9223372036854775808", "-"] {
        server.command(&["SET", "bad", bad]);
        let outcome = attempt(&locks, |tx| _ = tx.incr("bad", 1)).await;
        assert!(matches!(reason(outcome), Reason::NoNumber { .. }), "{bad:?}");
    }
    type Case = (&'static str, fn(&mut Transaction), fn(&Reason) -> bool);
    let cases: &[Case] = &[
        ("another value", |tx| _ = tx.expect("text", "two"), |why| matches!(why, Reason::Unexpected { .. })),
        ("no value", |tx| _ = tx.expect("none", "two"), |why| matches!(why, Reason::Unexpected { .. })),
        ("no string", |tx| _ = tx.expect("hash", "two"), |why| matches!(why, Reason::Unexpected { .. })),
        ("a string", |tx| _ = tx.expect_absent("text"), |why| matches!(why, Reason::Unexpected { .. })),
        ("a hash", |tx| _ = tx.expect_absent("hash"), |why| matches!(why, Reason::Unexpected { .. })),
        // What it sets itself was not there before.
        ("its own", |tx| _ = tx.set("none", "1").expect("none", "1"), |why| matches!(why, Reason::Unexpected { .. })),
        ("hset", |tx| _ = tx.hset("text", "f", "v"), |why| matches!(why, Reason::WrongType { .. })),
        ("hdel", |tx| _ = tx.hdel("text", "f"), |why| matches!(why, Reason::WrongType { .. })),
        ("lpush", |tx| _ = tx.lpush("hash", "f"), |why| matches!(why, Reason::WrongType { .. })),
        ("rpush", |tx| _ = tx.rpush("text", "f"), |why| matches!(why, Reason::WrongType { .. })),
        ("sadd", |tx| _ = tx.sadd("hash", "f"), |why| matches!(why, Reason::WrongType { .. })),
        ("srem", |tx| _ = tx.srem("text", "f"), |why| matches!(why, Reason::WrongType { .. })),
        ("zadd", |tx| _ = tx.zadd("hash", 1.0, "f"), |why| matches!(why, Reason::WrongType { .. })),
        ("incr", |tx| _ = tx.incr("hash", 1), |why| matches!(why, Reason::WrongType { .. })),
        ("past the most", |tx| _ = tx.incr("most", 1), |why| matches!(why, Reason::NoNumber { .. })),
        ("there and back", |tx| _ = tx.incr("most", 1).incr("most", -1), |why| matches!(why, Reason::NoNumber { .. })),
        ("past the least", |tx| _ = tx.incr("least", -1), |why| matches!(why, Reason::NoNumber { .. })),
    ];
    for (name, stage, is_why) in cases {
        let why = reason(attempt(&locks, stage).await);
        assert!(is_why(&why), "{name}: {why}");
        assert!(!exists(&server, "before") && !exists(&server, "after"), "{name}");
    }
    let mut tx = mutex(&locks, "a").begin_transaction().begin().await.unwrap();
    tx.incr("most", -1)
        .incr("most", 1)
        .incr("least", i64::MAX)
        .incr("least", 1)
        .del("hash")
        .sadd("hash", "m")
        .del("text");
    tx.incr("text", 7);
    tx.commit().await.committed().unwrap();
    assert_eq!([get(&server, "most"), get(&server, "least"), get(&server, "text")], ["9223372036854775807", "0", "7"]);
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_without_asking() {
    let (server, proxy, locks) = behind_proxy().await;
    let guard = mutex(&locks, "a").lock().await.unwrap();
    let replies = proxy.replies();
    type Case = (&'static str, fn(&mut Transaction));
    let cases: &[Case] = &[
        ("after what the transaction does there before", |tx| _ = tx.set("k", "text").incr("k", 1)),
        ("after what the transaction does there before", |tx| _ = tx.hset("k", "f", "v").sadd("k", "m")),
        ("after what the transaction does there before", |tx| _ = tx.sadd("k", "m").incr("k", 1)),
        ("after what the transaction does there before", |tx| _ = tx.set("k", "9223372036854775807").incr("k", 1)),
        ("a score has to be a number", |tx| _ = tx.zadd("k", f64::NAN, "m")),
        ("1 ms to 100 years", |tx| _ = tx.expire("k", Duration::ZERO)),
        ("1 ms to 100 years", |tx| _ = tx.set_for("k", "v", Duration::MAX)),
        ("one of the locks' own", |tx| _ = tx.del("tenure:{a}")),
        ("one of the locks' own", |tx| _ = tx.set("tenure:tx:{a}:0", "C")),
        ("at most 1000 steps", |tx| _ = (0..=1_000).fold(tx, |tx, n| tx.set(format!("k{n}"), "v"))),
        ("4194304 bytes", |tx| _ = tx.set("k", vec![b'x'; 5 << 20])),
    ];
    for (words, stage) in cases {
        let mut tx = guard.begin_transaction().begin().await.unwrap();
        tx.set("before", "1");
        stage(&mut tx);
        let error = failure(tx.commit().await);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(proxy.replies(), replies, "nobody was asked");
    assert!(!exists(&server, "before"));
    // As many as there may be are no trouble.
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    (0..500).for_each(|n| _ = tx.set(format!("k{n}"), "v").incr(format!("n{n}"), 1));
    (0..3_000).for_each(|n| _ = tx.sadd("many", format!("m{n}")).sadd("many", format!("m{n}")));
    let error = failure(tx.commit().await);
    assert!(error.to_string().contains("at most 1000 steps"), "{error}");
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    (0..480).for_each(|n| _ = tx.set(format!("k{n}"), "v").incr(format!("n{n}"), 1));
    (0..3_000).for_each(|n| _ = tx.sadd("many", format!("m{n}")));
    tx.commit().await.committed().unwrap();
    assert_eq!(server.command(&["SCARD", "many"]).trim(), ":3000");
    assert_eq!(get(&server, "n479"), "1");
}

#[tokio::test]
async fn a_server_without_memory_refuses_all_of_it() {
    let (server, locks) = site().await;
    let lock = mutex(&locks, "a");
    // A removal first: alone it would be let through, and make the rest look harmless.
    server.command(&["SET", "kept", "1"]);
    let mut tx = lock.begin_transaction().begin().await.unwrap();
    tx.del("kept").set("before", "1");
    let id = tx.id().clone();
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = failure(tx.commit().await);
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("out of memory"), "{error}");
    assert!(exists(&server, "kept") && !exists(&server, "before"));
    assert!(matches!(reason(locks.resolve(&id).await.unwrap()), Reason::Resolved), "it can be settled all the same");
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
}

#[tokio::test]
async fn a_user_who_may_not_do_all_of_it_does_nothing_of_it() {
    let (server, admin) = site().await;
    let rights = "ACL SETUSER some on >secret ~tenure:* &tenure:inbox:* +evalsha +evalsha_ro +script|load +publish +subscribe \
                  +scan +ping +time +mget +set +setrange +del +type +pexpireat +hget +hmget +hgetall +hset +hdel ~data:* ~other:* +incrby";
    server.command(&rights.split_whitespace().collect::<Vec<_>>());
    let url = server.url().replace("redis://", "redis://some:secret@");
    let locks = client(&url).await;
    let mut tx = mutex(&locks, "a").begin_transaction().begin().await.unwrap();
    tx.set("data:1", "1").incr("data:2", 1).rpush("data:3", "x");
    match reason(tx.commit().await) {
        Reason::Denied { command, key } => assert_eq!((&command[..], &key[..]), ("RPUSH", &b"data:3"[..])),
        other => panic!("{other}"),
    }
    let mut tx = mutex(&locks, "a").begin_transaction().begin().await.unwrap();
    tx.set("data:1", "1").set("elsewhere", "1");
    let error = failure(tx.commit().await);
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    // What goes by another set of rights than the script itself counts, too.
    server.command(&[
        "ACL",
        "SETUSER",
        "some",
        "~third:*",
        "resetkeys",
        "~tenure:*",
        "%R~data:*",
        "(~data:* +evalsha +mget)",
    ]);
    let mut tx = mutex(&locks, "a").begin_transaction().begin().await.unwrap();
    tx.set("data:1", "1");
    assert!(!tx.commit().await.is_committed());
    assert!(!exists(&server, "data:1") && !exists(&server, "data:2"));
    drop(admin);
}

#[tokio::test]
async fn stores_without_data_say_so_and_what_to_do() {
    use tenure::store::{Fallback, Memory, Quorum, Ring};
    let memory = || Arc::new(Memory::new()) as Arc<dyn Store>;
    let quorum = Quorum::builder().node("a", memory()).node("b", memory()).node("c", memory()).build().unwrap();
    let ring = Ring::builder().node("a", 1, memory()).build().unwrap();
    let stores: [(Arc<dyn Store>, &str); 4] = [
        (memory(), "no data but locks"),
        (Arc::new(quorum), "no one place"),
        (Arc::new(ring), "many stores"),
        (Arc::new(Fallback::new(memory(), memory())), "no data but locks"),
    ];
    for (store, words) in stores {
        assert!(!store.traits().transaction);
        let locks = Locks::builder(store.clone()).build().unwrap();
        let error = mutex(&locks, "a").begin_transaction().begin().await.unwrap_err();
        assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains(words), "{error}");
        let txid = "a@1.0123456789abcdef0123456789abcdef".parse().unwrap();
        assert_eq!(locks.resolve(&txid).await.unwrap_err().kind(), ErrorKind::Unsupported);
        let settle = tenure::transaction::Settle::Resolve(txid);
        assert_eq!(store.settle(&settle).await.unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

#[tokio::test]
async fn less_than_the_lock_is_not_enough() {
    use tenure::store::{Fallback, Memory};
    let mut server = testkit::Redis::start();
    let primary = Redis::connect(&server.url()).await.unwrap();
    let store = Fallback::new(Arc::new(primary), Arc::new(Memory::new()));
    let locks = Locks::new(store);
    let lock = mutex(&locks, "a");
    let mut tx = lock.begin_transaction().begin().await.unwrap();
    tx.set("data", "1");
    tx.commit().await.committed().unwrap();
    assert_eq!(get(&server, "data"), "1", "through to the primary");
    server.kill();
    let guard = within(lock.lock().into_future()).await.unwrap();
    assert!(guard.is_degraded());
    let error = guard.begin_transaction().begin().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("degraded"), "{error}");
    drop(guard);
    let error = within(lock.begin_transaction().begin()).await.unwrap_err();
    assert!(error.to_string().contains("degraded"), "{error}");
}
