//! A SQLite file does not grow for ever: neither with locks that are used no more, nor with how often they are used.

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::Connection;
use tempfile::TempDir;
use tenure::Key;
use tenure::proto::{Acquire, Claim, ClaimId, Op};
use tenure::store::{Sqlite, Store};

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::Builder::new().prefix("tenure-upkeep-").tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("locks.db");
    (folder, path)
}

/// A reader of `name` for that long, not remembered.
fn acquire(name: &str, id: u128, ttl: Duration, meta: usize) -> (Key, Op) {
    let acquire = Acquire {
        id: ClaimId::new(id),
        claim: Claim::SHARED,
        ttl,
        patience: Duration::ZERO,
        owner: None,
        max: 1,
        memory: Duration::ZERO,
        meta: Bytes::from(vec![b'x'; meta]),
        fence: 0,
    };
    (Key::new(name).unwrap(), Op::Acquire(acquire))
}

fn records(path: &Path) -> u32 {
    Connection::open(path).unwrap().query_row("SELECT count(*) FROM record", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn locks_that_are_used_no_more_leave_the_file() {
    let (_folder, path) = place();
    let store = Sqlite::open(&path).unwrap();
    let used: Vec<_> = (0..1_000).map(|n| acquire(&format!("lock-{n}"), n, Duration::from_secs(1), 0)).collect();
    for answer in store.apply_many(&used).await {
        answer.unwrap();
    }
    assert_eq!(records(&path), 1_000);
    let (key, op) = acquire("in use", 1, Duration::from_secs(100), 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    // Each operation that writes clears away a few.
    for n in 0.. {
        let Op::Acquire(op) = &op else { unreachable!() };
        store.apply(&key, &Op::Acquire(Acquire { ttl: op.ttl + Duration::from_secs(n), ..op.clone() })).await.unwrap();
        if records(&path) == 1 {
            break;
        }
        assert!(Instant::now() < deadline, "{} are left", records(&path));
    }
    assert_eq!(store.scan().await.unwrap(), [key]);
}

#[tokio::test]
async fn the_log_is_cut_while_many_write() {
    let (_folder, path) = place();
    let log = path.with_file_name("locks.db-wal");
    let stores = [Sqlite::open(&path).unwrap(), Sqlite::open(&path).unwrap()];
    let mut longest = 0;
    // 64 MiB in all.
    for id in 0..128 {
        let writes = stores.iter().flat_map(|store| [(store, "a"), (store, "b")]).map(|(store, name)| async move {
            let (key, op) = acquire(&format!("{name}-{id}"), id, Duration::from_secs(100), 128 << 10);
            store.apply(&key, &op).await.unwrap();
        });
        futures_util::future::join_all(writes).await;
        longest = longest.max(std::fs::metadata(&log).unwrap().len());
    }
    assert!(longest < 32 << 20, "the log was {longest} bytes long");
}
