//! Every journal keeps every promise of a journal, and says whether it is durable.

#![cfg(all(feature = "redis", feature = "sqlite", feature = "postgres"))]
#![allow(missing_docs, reason = "a test")]

use tenure::ErrorKind;
use tenure::conformance::journal::check;
use tenure::transaction::journal::{
    Journal, Keep, Memory, PostgresJournal, RedisJournal, SqliteJournal, Written, open_durable, open_journal,
};

#[tokio::test]
async fn memory_keeps_the_promises_of_a_journal() {
    let memory = Memory::new();
    check(&memory, &memory.clone(), "run").await;
}

#[tokio::test]
async fn a_sqlite_file_keeps_the_promises_of_a_journal() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("deep/journal.db").display());
    let (one, other) = (SqliteJournal::connect(&url).await.unwrap(), SqliteJournal::connect(&url).await.unwrap());
    check(&one, &other, "run").await;
    drop((one, other));
    // What is there survives its handles.
    let again = SqliteJournal::connect(&url).await.unwrap();
    assert_eq!(again.load("run/expect").await.unwrap().unwrap().version, 2);
}

#[tokio::test]
async fn redis_keeps_the_promises_of_a_journal() {
    let server = testkit::Redis::start();
    let url = format!("{}?prefix=shop", server.url());
    let (one, other) = (RedisJournal::connect(&url).await.unwrap(), RedisJournal::connect(&url).await.unwrap());
    check(&one, &other, "run").await;
    assert!(server.command(&["EXISTS", "shop:journal:{run/expect}"]).contains(":1"));
    // Scripts that were forgotten are loaded again.
    server.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(one.write("run/flushed", None, b"", Keep::UntilForgotten).await.unwrap(), Written::Done(1));
}

#[tokio::test]
async fn postgres_keeps_the_promises_of_a_journal() {
    let server = testkit::Postgres::start();
    let (one, other) = (
        PostgresJournal::connect(&server.url()).await.unwrap(),
        PostgresJournal::connect(&server.url()).await.unwrap(),
    );
    let error = one.load("a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
    let (first, second) = tokio::join!(one.migrate(), other.migrate());
    first.and(second).unwrap();
    check(&one, &other, "run").await;
}

#[tokio::test]
async fn postgres_counts_as_durable_only_where_it_writes_before_it_answers() {
    let server = testkit::Postgres::start_fast();
    let error = open_durable(&server.url()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("fsync"), "{error}");
    let wrong = server.url().replace("postgres:", "nobody:s3cret");
    let error = open_durable(&wrong).await.unwrap_err();
    assert!(!error.to_string().contains("s3cret") && !format!("{error:?}").contains("s3cret"), "{error:?}");
}

#[tokio::test]
async fn redis_counts_as_durable_only_where_it_writes_before_it_answers() {
    let server = testkit::Redis::start_durable();
    let durable = open_durable(&server.url()).await.unwrap();
    assert_eq!(durable.write("a", None, b"decided", Keep::UntilForgotten).await.unwrap(), Written::Done(1));
    for (setting, value, fine) in [
        ("appendonly", "no", "yes"),
        ("appendfsync", "everysec", "always"),
        ("maxmemory-policy", "allkeys-lru", "volatile-lru"),
    ] {
        server.command(&["CONFIG", "SET", "maxmemory", "100mb"]);
        server.command(&["CONFIG", "SET", setting, value]);
        let error = open_durable(&server.url()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(setting), "{setting}: {error}");
        assert!(open_journal(&server.url()).await.is_ok(), "as a journal that is not durable it will do");
        server.command(&["CONFIG", "SET", setting, fine]);
        open_durable(&server.url()).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_durable_redis_acknowledged_survives_its_crash() {
    let mut server = testkit::Redis::start_durable();
    let journal = open_durable(&server.url()).await.unwrap();
    journal.write("a", None, b"decided", Keep::UntilForgotten).await.unwrap();
    server.restart();
    let again = open_durable(&server.url()).await.unwrap();
    assert_eq!(again.load("a").await.unwrap().unwrap().value, b"decided");
}

#[tokio::test]
async fn a_file_of_locks_is_no_journal_and_urls_that_name_none_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let locks = folder.path().join("locks.db");
    drop(tenure::store::Sqlite::open(&locks).unwrap());
    let error = open_journal(&format!("sqlite:{}", locks.display())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
    let absent = format!("sqlite:{}?create=nothing", folder.path().join("absent.db").display());
    assert_eq!(open_journal(&absent).await.unwrap_err().kind(), ErrorKind::Missing);
    let error = open_journal("etcd://al:s3cret@host").await.unwrap_err().to_string();
    assert!(error.contains("sqlite:path") && !error.contains("s3cret"), "{error}");
    let error = open_journal("redis-sentinel://al:s3cret@host/main").await.unwrap_err().to_string();
    assert!(!error.contains("s3cret"), "{error}");
    let server = testkit::Redis::start();
    server.command(&["SET", "tenure:journal:{a}", "somebody's"]);
    let journal = open_journal(&server.url()).await.unwrap();
    let error = journal.write("a", None, b"", Keep::UntilForgotten).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign, "{error}");
}
