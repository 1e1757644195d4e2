//! What a server says no to, and how that is told: certainly not carried out, by whose fault, and the way out.

use std::time::Duration;

use tenure::ErrorKind;
use tenure::proto::{Renew, Was};
use tenure::store::Store;
use testkit::Fake;

use super::*;

async fn refused(store: &Redis, kind: ErrorKind, words: &str) -> Error {
    let error = within(Duration::from_secs(5), store.apply(&key("a"), &acquire(1))).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(words), "{error}");
    error
}

#[tokio::test]
async fn what_is_not_ours_is_named_and_left_alone() {
    let server = testkit::Redis::start();
    let store = connect(&server.url()).await;
    let foreign: [(&[&str], &[&str]); 4] = [
        (&["SET", "tenure:{a}", "somebody's"], &["GET", "tenure:{a}"]),
        (&["RPUSH", "tenure:{a}", "somebody's"], &["LRANGE", "tenure:{a}", "0", "-1"]),
        (&["HSET", "tenure:{a}", "somebody", "1"], &["HGETALL", "tenure:{a}"]),
        (&["SADD", "tenure:{a}", "somebody's"], &["SMEMBERS", "tenure:{a}"]),
    ];
    for (put, look) in foreign {
        server.command(put);
        let before = server.command(look);
        let error = refused(&store, ErrorKind::Foreign, "\"a\"").await;
        assert!(error.to_string().contains("left alone"), "{error}");
        for op in [release(1), attempt(2)] {
            assert_eq!(store.apply(&key("a"), &op).await.unwrap_err().kind(), ErrorKind::Foreign, "{put:?}");
        }
        let error = store.read(&key("a")).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Foreign && error.to_string().contains("\"a\""), "{put:?}: {error}");
        assert_eq!(server.command(look), before);
        assert_eq!(server.command(&["PTTL", "tenure:{a}"]), ":-1\r\n");
        server.command(&["DEL", "tenure:{a}"]);
    }
    hold(&store, "a", 1).await;
}

#[tokio::test]
async fn one_foreign_value_is_nobody_elses_trouble() {
    let server = testkit::Redis::start();
    let store = connect(&server.url()).await;
    server.command(&["RPUSH", "tenure:{b}", "somebody's"]);
    let ops = ["a", "b", "c"].map(|name| (key(name), acquire(1)));
    let kinds: Vec<_> =
        store.apply_many(&ops).await.into_iter().map(|reply| reply.map_err(|error| error.kind()).is_ok()).collect();
    assert_eq!(kinds, [true, false, true]);
}

#[tokio::test]
async fn a_replica_takes_no_locks() {
    let master = testkit::Redis::start();
    let port = master.port().to_string();
    let replica = testkit::Redis::start_with(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]);
    until("the replica is in step", async || {
        replica.command(&["INFO", "replication"]).contains("master_link_status:up")
    })
    .await;
    let store = connect(&replica.url()).await;
    refused(&store, ErrorKind::Unavailable, "replica").await;
    hold(&connect(&master.url()).await, "a", 1).await;
    until("a replica can be read", async || {
        store.read(&key("a")).await.is_ok_and(|seen| seen.record.holders.len() == 1)
    })
    .await;

    // One that lost its master, and is not to serve what is stale.
    replica.command(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    drop(master);
    until("the replica knows", async || replica.command(&["INFO", "replication"]).contains("master_link_status:down"))
        .await;
    refused(&store, ErrorKind::Unavailable, "lost its master").await;
}

#[tokio::test]
async fn a_full_server_refuses_before_it_writes_and_still_lets_go() {
    let server = testkit::Redis::start();
    let store = connect(&server.url()).await;
    hold(&store, "b", 1).await;
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    refused(&store, ErrorKind::Unavailable, "maxmemory").await;
    assert_eq!(server.command(&["EXISTS", "tenure:{a}"]), ":0\r\n");
    // Who is in stays in for as long as it wants, and leaves when it wants, also in company.
    let renew = Op::Renew(Renew { id: ClaimId::new(1), ttl: Duration::from_secs(60), fence: 0 });
    assert!(is_held(store.apply(&key("b"), &renew).await.unwrap().outcome));
    let mixed = [(key("c"), acquire(2)), (key("b"), release(1))];
    let replies = store.apply_many(&mixed).await;
    assert_eq!(replies[0].as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(replies[1].as_ref().unwrap().outcome, Outcome::Gone { was: Was::Holding });
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    hold(&store, "a", 1).await;
}

#[tokio::test]
async fn too_few_replicas_are_told() {
    let server = testkit::Redis::start();
    let store = connect(&server.url()).await;
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    refused(&store, ErrorKind::Unavailable, "min-replicas-to-write").await;
}

#[tokio::test]
async fn somebodys_endless_script_is_told_and_survived() {
    let server = testkit::Redis::start_with(&["--busy-reply-threshold", "50"]);
    let store = connect(&server.url()).await;
    let port = server.port();
    let endless = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(b"EVAL \"while true do end\" 0\r\n").unwrap();
        stream.read(&mut [0; 64]).unwrap()
    });
    until("the server is busy", async || store.ping().await.is_err_and(|error| error.to_string().contains("BUSY")))
        .await;
    refused(&store, ErrorKind::Unavailable, "SCRIPT KILL").await;
    server.command(&["SCRIPT", "KILL"]);
    endless.join().unwrap();
    hold(&store, "a", 1).await;
}

#[tokio::test]
async fn a_server_that_loads_its_data_is_told_and_waited_for() {
    let mut server = testkit::Redis::start_with(&["--save", "3600 1000000", "--key-load-delay", "0"]);
    let store = connect(&server.url()).await;
    server.command(&["DEBUG", "POPULATE", "1000"]);
    server.command(&["SAVE"]);
    server.kill();
    let restarted = std::thread::spawn(move || {
        server.restart();
        server
    });
    until("it takes locks again", async || store.apply(&key("a"), &acquire(1)).await.is_ok()).await;
    drop(restarted.join().unwrap());
}

#[tokio::test]
async fn what_a_real_server_is_hard_to_bring_to_is_told_as_well() {
    let cases = [
        ("LOADING Redis is loading the dataset in memory", ErrorKind::Unavailable, "loading"),
        ("MISCONF Redis is configured to save RDB snapshots", ErrorKind::Unavailable, "disk"),
        ("CLUSTERDOWN The cluster is down", ErrorKind::Unavailable, "CLUSTER INFO"),
        ("MOVED 1 127.0.0.1:1", ErrorKind::Unsupported, "cluster"),
        ("NOAUTH Authentication required.", ErrorKind::Denied, "password"),
        ("ERR Error running script: user_script:1: oops", ErrorKind::NoReply, "part of it"),
        ("ERR unknown command 'EVALSHA'", ErrorKind::Unsupported, "EVALSHA"),
        ("NOSCRIPT No matching script.", ErrorKind::Unavailable, "SCRIPT FLUSH"),
    ];
    for (line, kind, words) in cases {
        let server = Fake::start(move |command| match &*command[0] {
            "HELLO" => Fake::hello("7.2.0"),
            "EVALSHA" if command.len() < 12 => format!("-{line}\r\n"),
            _ => "+OK\r\n".into(),
        });
        refused(&connect(&server.url()).await, kind, words).await;
    }
}

/// Red with: metadata that is decoded at any length; the same in `meta_as` alone.
#[tokio::test]
async fn metadata_that_no_client_writes_is_not_read_and_harms_nobody() {
    let server = testkit::Redis::start();
    let locks = tenure::open(&server.url()).await.unwrap();
    let told = |purpose: usize| format!(r#"{{"host":"h","pid":1,"purpose":"{}"}}"#, "x".repeat(purpose)).into_bytes();
    let fits = told(1_024 - told(0).len());
    let metas =
        [(fits.clone(), true), (told(fits.len()), false), (vec![0xff; 1_024], false), (vec![b'['; 1 << 20], false)];
    for (id, (meta, is_read)) in (1..).zip(metas) {
        let claim = Acquire { meta: meta.clone().into(), ..claim(id) };
        assert!(is_held(locks.store().apply(&key("a"), &Op::Acquire(claim)).await.unwrap().outcome));
        let info = locks.info("a").await.unwrap();
        let holder = &info.holders[0];
        assert!(holder.raw_meta == meta, "the code that asks for them gets all {} bytes", meta.len());
        assert_eq!(holder.meta.is_some(), is_read, "{} bytes", meta.len());
        let decoded = holder.meta_as::<tenure::Meta>(&tenure::Json);
        assert!(if is_read { decoded.is_ok() } else { decoded.is_err_and(|error| error.kind() == ErrorKind::Corrupt) });
        assert_eq!(locks.list().await.unwrap().len(), 1);
        assert_eq!(locks.break_lock("a").await.unwrap().len(), 1, "it can be broken as any other");
    }
}
