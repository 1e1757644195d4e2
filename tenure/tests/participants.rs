//! Every participant keeps every promise of a participant.

#![cfg(all(feature = "redis", feature = "postgres"))]
#![allow(missing_docs, reason = "a test")]

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use tenure::conformance::participant::{Bench, check};
use tenure::transaction::Participant;
use tenure::transaction::coordinator::{Coordinator, Outcome};
use tenure::transaction::journal::SqliteJournal;
use tenure::transaction::participant::{
    Branch, PostgresParticipant, RedisOp, RedisParticipant, RedisWork, Refusal, SqlWork, Statement, Vote,
};
use tenure::{ErrorKind, Fence};

#[path = "../examples/participant.rs"]
mod files;

struct InFolder {
    folder: files::Folder,
    names: AtomicU32,
}

#[async_trait]
impl Bench for InFolder {
    fn taking(&self, count: u32) -> Vec<u8> {
        let name = |_| (format!("file-{}", self.names.fetch_add(1, Ordering::Relaxed)), "content".to_owned());
        serde_json::to_vec(&(0..count).map(name).collect::<files::Files>()).unwrap()
    }

    async fn left(&self) -> u32 {
        self.folder.room().unwrap() as u32
    }
}

#[tokio::test]
async fn the_example_keeps_the_promises_of_a_participant() {
    let place = tempfile::tempdir().unwrap();
    let open = || files::Folder::open(place.path(), 100).unwrap();
    let bench = InFolder { folder: open(), names: AtomicU32::new(0) };
    check(&open(), &bench, "run").await;
    let present = std::fs::read_dir(place.path()).unwrap().filter(|file| file.as_ref().unwrap().path().is_file());
    assert_eq!(present.count(), 5, "the files of the one transaction that was committed");
}

struct InRedis<'a>(&'a testkit::Redis);

#[async_trait]
impl Bench for InRedis<'_> {
    fn taking(&self, count: u32) -> Vec<u8> {
        let (key, by) = ("stock".to_owned(), count.into());
        let work = RedisWork::new().reserve(RedisOp::Take { key: key.clone(), by }).rollback(RedisOp::Add { key, by });
        work.commit(RedisOp::SetAdd { key: "taken".into(), member: count.to_string() }).into()
    }

    async fn left(&self) -> u32 {
        self.0.command(&["GET", "stock"]).lines().nth(1).unwrap().trim().parse().unwrap()
    }
}

#[tokio::test]
async fn redis_keeps_the_promises_of_a_participant() {
    let server = testkit::Redis::start_durable();
    server.command(&["SET", "stock", "100"]);
    let participant = RedisParticipant::connect("stock", &server.url()).await.unwrap();
    check(&participant, &InRedis(&server), "run").await;
    assert!(server.command(&["SCARD", "taken"]).starts_with(":2"), "the commits were carried out");
    // What nobody can ask for any more expires.
    let ttl = server.command(&["PTTL", "tenure:share:stock:run/forget"]);
    assert!(!ttl.starts_with(":-"), "all is forgotten, and it stays for ever: {ttl}");
    let ttl = server.command(&["PTTL", "tenure:share:stock:run/once"]);
    assert!(ttl.starts_with(":-1"), "somebody may ask for it, and it expires: {ttl}");
}

#[tokio::test]
async fn redis_tries_all_of_a_step_before_it_does_any_of_it() {
    let server = testkit::Redis::start_durable();
    server.command(&["SET", "stock", "10"]);
    server.command(&["SADD", "set", "x"]);
    // Numbers to others, but not to INCRBY.
    server.command(&["MSET", "hex", "0x10", "zero", "007", "point", "1.0"]);
    let add = |key: &str| RedisOp::Add { key: key.into(), by: 1 };
    let participant = RedisParticipant::connect("stock", &server.url()).await.unwrap();
    let take = |by| RedisOp::Take { key: "stock".into(), by };
    let set = RedisOp::Set { key: "a".into(), value: "text".into() };
    let works = [
        RedisWork::new().reserve(take(6)).reserve(take(6)),
        RedisWork::new().reserve(take(6)).reserve(RedisOp::Push { key: "set".into(), value: "y".into() }),
        RedisWork::new().reserve(take(6)).commit(RedisOp::Add { key: "set".into(), by: 1 }),
        RedisWork::new().reserve(take(6)).commit(set).commit(RedisOp::Add { key: "a".into(), by: 1 }),
        RedisWork::new().reserve(take(6)).reserve(add("hex")),
        RedisWork::new().reserve(take(6)).reserve(add("zero")),
        RedisWork::new().reserve(take(6)).reserve(add("point")),
        RedisWork::new().reserve(take(-1)),
        // It could not be given back.
        RedisWork::new().reserve(take(6)).rollback(add("set")),
        RedisWork::new().reserve(take(6)).commit(RedisOp::Add { key: "stock".into(), by: 1 << 53 }),
    ];
    for (n, work) in works.into_iter().enumerate() {
        let branch = Branch { id: format!("{n:032x}").parse().unwrap(), lock: "l".into(), fence: Fence::new(1) };
        let vote = participant.prepare(&branch, &Vec::from(work)).await.unwrap();
        assert!(matches!(vote, Vote::Refused(_)), "{n} was prepared");
        assert!(server.command(&["GET", "stock"]).contains("10"), "{n} was done by half");
    }
}

#[tokio::test]
async fn redis_takes_part_only_where_it_writes_before_it_answers() {
    let server = testkit::Redis::start();
    let error = RedisParticipant::connect("stock", &server.url()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("appendfsync always"), "{error}");
}

#[tokio::test]
async fn what_is_staged_though_it_was_done_is_done_again_by_the_next_holder() {
    let server = testkit::Redis::start_durable();
    server.command(&["SET", "stock", "100"]);
    let place = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::connect(&format!("sqlite:{}/journal.db", place.path().display())).await.unwrap();
    let participant = RedisParticipant::connect("stock", &server.url()).await.unwrap();
    let coordinator = Coordinator::new(journal).participant(participant).unwrap();
    let lock = tenure::open("memory:").await.unwrap().mutex("l").build().unwrap();
    let (guard, work) = (lock.lock().await.unwrap(), InRedis(&server).taking(5));
    let outcome = coordinator.begin(&guard).work("stock", work.clone()).commit().await.unwrap();
    let Outcome::Committed { id, .. } = outcome else { panic!("{outcome:?}") };

    // Its data comes from a copy that was made between the two steps.
    let share = format!("s0{} {}", guard.fence(), String::from_utf8(work).unwrap());
    server.command(&["HSET", "tenure:share:stock:l", &id.to_string(), &share]);
    server.command(&["SREM", "taken", "5"]);
    guard.release().await.unwrap();
    let guard = lock.lock().await.unwrap();
    let recovered = coordinator.recover(&guard).await.unwrap();
    assert!(recovered.is_complete(), "{recovered:?}");
    assert!(server.command(&["SISMEMBER", "taken", "5"]).starts_with(":1"), "it is still staged");
}

struct InPostgres<'a>(&'a testkit::Postgres);

#[async_trait]
impl Bench for InPostgres<'_> {
    fn taking(&self, count: u32) -> Vec<u8> {
        let (take, give) = ("UPDATE stock SET n = n - $1 WHERE n >= $1", "UPDATE stock SET n = n + $1");
        let work = SqlWork::new().reserve(Statement::new(take).param(count).rows(1));
        let work = work.rollback(Statement::new(give).param(count).rows(1));
        work.commit(Statement::new("INSERT INTO taken VALUES ($1)").param(count)).into()
    }

    async fn left(&self) -> u32 {
        self.0.psql("SELECT n FROM stock").trim().parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_the_promises_of_a_participant() {
    let server = testkit::Postgres::start();
    server.psql("CREATE TABLE stock (n int); INSERT INTO stock VALUES (100); CREATE TABLE taken (n int)");
    let participant = PostgresParticipant::connect("stock", &server.url()).await.unwrap();
    participant.migrate().await.unwrap();
    check(&participant, &InPostgres(&server), "run").await;
    assert_eq!(
        server.psql("SELECT count(*) FROM taken").trim(),
        "2",
        "the commits were carried out, and nothing tried"
    );
    // What could not be given back is not taken.
    let give_back = Statement::new("UPDATE stock SET n = n + 5 WHERE n < 0").rows(1);
    let work = SqlWork::new().reserve(Statement::new("UPDATE stock SET n = n - 5")).rollback(give_back);
    let branch = Branch { id: format!("{:032x}", 7).parse().unwrap(), lock: "l".into(), fence: Fence::new(1) };
    let vote = participant.prepare(&branch, &Vec::from(work)).await.unwrap();
    assert!(matches!(vote, Vote::Refused(Refusal::Unable(_))), "{vote:?}");
    assert_eq!(server.psql("SELECT n FROM stock").trim(), "95");
    let error = PostgresParticipant::connect("stock", "postgres://nobody:s3cret@127.0.0.1:1/x").await.unwrap_err();
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
