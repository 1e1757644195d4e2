//! The file of a SQLite store: how it is made, and what is said of one that cannot be used. None is ever deleted.

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use bytes::Bytes;
use rusqlite::Connection;
use tempfile::TempDir;
use tenure::proto::{Acquire, Claim, ClaimId, Op, Outcome, Reply};
use tenure::store::{Sqlite, Store};
use tenure::{Error, ErrorKind, Key, Result};

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::Builder::new().prefix("tenure-file-").tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("locks.db");
    (folder, path)
}

async fn acquire(store: &Sqlite, name: &str) -> Result<Reply> {
    let acquire = Acquire {
        id: ClaimId::new(7),
        claim: Claim::EXCLUSIVE,
        ttl: Duration::from_secs(10),
        patience: Duration::ZERO,
        owner: None,
        max: 1,
        memory: Duration::from_secs(10),
        meta: Bytes::from(vec![b'x'; 500]),
        fence: 0,
    };
    store.apply(&Key::new(name)?, &Op::Acquire(acquire)).await
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display())).mode() & 0o777
}

/// That it says what the file is, names it, and leaves it and everything in its folder alone.
fn refused(path: &Path, kind: ErrorKind, says: &str) {
    let before = fs::read(path).unwrap();
    let error = Sqlite::open(path).expect_err("it cannot be used");
    tells(&error, path, kind, says);
    assert!(fs::read(path).unwrap() == before, "it was changed");
}

fn tells(error: &Error, path: &Path, kind: ErrorKind, says: &str) {
    let message = error.to_string();
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(message.contains(says), "{says:?} in {message:?}");
    assert!(message.contains(path.to_str().unwrap()), "{path:?} in {message:?}");
}

#[tokio::test]
async fn the_file_and_its_folders_are_for_this_user_alone() {
    let (folder, _) = place();
    let path = folder.path().join("state/tenure/locks.db");
    let store = Sqlite::open(&path).unwrap();
    acquire(&store, "a").await.unwrap();
    for file in ["locks.db", "locks.db-wal", "locks.db-shm"] {
        assert_eq!(mode(path.with_file_name(file)), 0o600, "{file}");
    }
    assert_eq!((mode(path.parent().unwrap()), mode(folder.path().join("state"))), (0o700, 0o700));
}

#[tokio::test]
async fn what_is_not_to_be_made_is_not_made() {
    let (folder, path) = place();
    let connect = async |path: &Path, create: &str| {
        Sqlite::connect(&format!("sqlite:{}?create={create}", path.display())).await.map(drop)
    };
    let is_there = |path: &Path| fs::exists(path).unwrap();
    tells(&connect(&path, "nothing").await.unwrap_err(), &path, ErrorKind::Missing, "no store yet");
    assert!(!is_there(&path));
    fs::write(&path, "").unwrap();
    tells(&connect(&path, "nothing").await.unwrap_err(), &path, ErrorKind::Missing, "no store yet");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0, "an empty file is nobody's yet, and stays so");

    let deep = folder.path().join("a/b/locks.db");
    for create in ["nothing", "file"] {
        let says = if create == "file" { "there is no folder" } else { "no store yet" };
        tells(&connect(&deep, create).await.unwrap_err(), &deep, ErrorKind::Missing, says);
        assert!(!is_there(&folder.path().join("a")));
    }
    connect(&path, "file").await.unwrap();
    connect(&path, "nothing").await.expect("it is there by now");
    connect(&deep, "all").await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_there_keeps_its_mode() {
    let (_folder, path) = place();
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    let store = Sqlite::open(&path).expect("an empty file is a fresh one");
    acquire(&store, "a").await.unwrap();
    assert_eq!((mode(&path), mode(path.with_file_name("locks.db-wal"))), (0o660, 0o660));
}

#[tokio::test]
async fn what_is_held_outlives_the_handles() {
    let (_folder, path) = place();
    let url = format!("sqlite://{}?busy_timeout=2s&synchronous=full", path.display());
    let store = Sqlite::connect(&url).await.unwrap();
    assert!(store.traits().durable);
    let first = acquire(&store, "a").await.unwrap();
    drop(store);
    let store = Sqlite::open(&path).unwrap();
    assert!(!store.traits().durable);
    let Outcome::Held { fence, .. } = first.outcome else { panic!("{first:?}") };
    assert_eq!(store.read(&Key::new("a").unwrap()).await.unwrap().record.fence, fence);
    assert_eq!(store.scan().await.unwrap(), [Key::new("a").unwrap()]);
}

#[test]
fn a_file_that_is_no_database_is_left_alone() {
    let (_folder, path) = place();
    for garbage in [&b"#!/bin/sh\necho this is something else\n"[..], &[0x5a; 10_000], b"SQLite format 3\0"] {
        fs::write(&path, garbage).unwrap();
        refused(&path, ErrorKind::Foreign, "is no SQLite database");
    }
}

#[tokio::test]
async fn a_damaged_file_is_left_alone_and_told() {
    let (_folder, path) = place();
    drop(Sqlite::open(&path).unwrap());
    let whole = closed(&path);
    fs::write(&path, &whole[..50]).unwrap();
    refused(&path, ErrorKind::Corrupt, "is damaged");
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refused(&path, ErrorKind::Corrupt, "is damaged");
    let mut damaged = whole.clone();
    damaged[..16].fill(0);
    fs::write(&path, &damaged).unwrap();
    refused(&path, ErrorKind::Foreign, "header is damaged");
    let mut damaged = whole;
    damaged[4096..].fill(0x5a);
    fs::write(&path, &damaged).unwrap();
    refused(&path, ErrorKind::Corrupt, "damaged");
}

/// The bytes of a file that nobody has open any more.
fn closed(path: &Path) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while path.with_file_name("locks.db-wal").exists() {
        assert!(Instant::now() < deadline, "the store does not close its file");
        thread::sleep(Duration::from_millis(1));
    }
    fs::read(path).unwrap()
}

#[tokio::test]
async fn damage_to_one_record_is_told_and_no_other_touched() {
    let (_folder, path) = place();
    let store = Sqlite::open(&path).unwrap();
    acquire(&store, "sound").await.unwrap();
    acquire(&store, "damaged").await.unwrap();
    Connection::open(&path).unwrap().execute("UPDATE record SET value = x'00' WHERE name = 'damaged'", []).unwrap();
    let error = acquire(&store, "damaged").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Foreign);
    assert!(error.to_string().contains("\"damaged\""), "{error}");
    let many = ["sound", "damaged", "new"].map(|name| (Key::new(name).unwrap(), op()));
    let answers: Vec<bool> = store.apply_many(&many).await.iter().map(Result::is_ok).collect();
    assert_eq!(answers, [true, false, true]);
}

fn op() -> Op {
    Op::Renew(tenure::proto::Renew { id: ClaimId::new(7), ttl: Duration::from_secs(10), fence: 0 })
}

#[test]
fn a_database_of_something_else_is_left_alone() {
    for marks in ["", "PRAGMA application_id = 1234", "PRAGMA user_version = 1", "PRAGMA journal_mode = WAL"] {
        let (_folder, path) = place();
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(&format!("{marks}; CREATE TABLE record (name TEXT)")).unwrap();
        drop(connection);
        refused(&path, ErrorKind::Foreign, "something else");
    }
}

#[test]
fn a_file_of_another_version_is_left_alone() {
    let (_folder, path) = place();
    drop(Sqlite::open(&path).unwrap());
    closed(&path);
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 2").unwrap();
    refused(&path, ErrorKind::Foreign, "another version");
}

#[tokio::test]
async fn a_wait_for_another_process_is_bounded_and_told() {
    let (_folder, path) = place();
    let store = Sqlite::connect(&format!("sqlite:{}?busy_timeout=200ms", path.display())).await.unwrap();
    acquire(&store, "a").await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    let start = Instant::now();
    let error = acquire(&store, "a").await.unwrap_err();
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    tells(&error, &path, ErrorKind::Unavailable, "?busy_timeout=");
    assert!(!store.read(&Key::new("a").unwrap()).await.unwrap().record.is_empty(), "readers need not wait");
    Sqlite::open(&path).expect("nor does who opens it");

    other.execute_batch("ROLLBACK").unwrap();
    acquire(&store, "a").await.unwrap();
}

#[tokio::test]
async fn opening_a_fresh_file_that_is_locked_is_bounded() {
    let (_folder, path) = place();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let url = format!("sqlite:{}?busy_timeout=100ms", path.display());
    let error = Sqlite::connect(&url).await.unwrap_err();
    tells(&error, &path, ErrorKind::Unavailable, "kept");
    other.execute_batch("ROLLBACK").unwrap();
    Sqlite::connect(&url).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_removed_in_use_is_told() {
    let (_folder, path) = place();
    for replaced in [false, true] {
        let store = Sqlite::open(&path).unwrap();
        acquire(&store, "a").await.unwrap();
        for file in ["locks.db", "locks.db-wal", "locks.db-shm"] {
            fs::remove_file(path.with_file_name(file)).unwrap();
        }
        let fresh = replaced.then(|| Sqlite::open(&path).unwrap());
        let error = acquire(&store, "a").await.unwrap_err();
        tells(&error, &path, ErrorKind::Corrupt, "removed or replaced");
        if let Some(fresh) = fresh {
            acquire(&fresh, "a").await.unwrap();
        }
    }
}

#[test]
fn a_file_that_may_not_be_written_is_told() {
    let (folder, path) = place();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    drop(Sqlite::open(&path).unwrap());
    closed(&path);
    for (folder_mode, file_mode, what) in
        [(0o555, 0o666, "its folder"), (0o777, 0o444, "the file"), (0o555, 0o444, "both")]
    {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(folder_mode)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(file_mode)).unwrap();
        let error = as_somebody(|| Sqlite::open(&path)).expect_err(what);
        tells(&error, &path, ErrorKind::Denied, "cannot be written");
    }
    let missing = folder.path().join("missing.db");
    let error = as_somebody(|| Sqlite::open(&missing)).unwrap_err();
    tells(&error, &missing, ErrorKind::Denied, "cannot be made");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Modes say nothing to root, so there it is done on a thread that is root no more.
fn as_somebody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let somebody = rustix::thread::Uid::from_raw(65_534);
    let thread = || {
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_res_uid(somebody, somebody, somebody).expect("root may become anybody");
        }
        work()
    };
    thread::scope(|scope| scope.spawn(thread).join().expect("it does not panic"))
}

#[test]
fn a_path_that_no_file_can_have_is_refused() {
    let (folder, path) = place();
    let error = Sqlite::open(folder.path()).unwrap_err();
    tells(&error, folder.path(), ErrorKind::Invalid, "cannot be made");
    fs::write(&path, "").unwrap();
    let below = path.join("locks.db");
    tells(&Sqlite::open(&below).unwrap_err(), &below, ErrorKind::Invalid, "cannot be made");
    assert_eq!(Sqlite::open(":memory:").unwrap_err().kind(), ErrorKind::Invalid);
}
