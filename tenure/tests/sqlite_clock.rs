//! The clock of a SQLite file: one for all processes, whatever the wall clock does, and never back.

#![cfg(all(feature = "sqlite", target_os = "linux"))]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rusqlite::Connection;
use tempfile::TempDir;
use tenure::Key;
use tenure::proto::{Acquire, Claim, ClaimId, Micros, Op, Outcome, Release, Reply};
use tenure::store::{Sqlite, Store};

const HOUR: Micros = 3_600_000_000;

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::Builder::new().prefix("tenure-clock-").tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("locks.db");
    (folder, path)
}

fn wall() -> Micros {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as Micros
}

async fn now(store: &Sqlite) -> Micros {
    store.read(&Key::new("a").unwrap()).await.unwrap().now
}

/// Acquires and releases without a trace, and returns the fence.
async fn fence(store: &Sqlite, id: u128) -> u64 {
    let (key, id) = (Key::new("a").unwrap(), ClaimId::new(id));
    let acquire = Acquire {
        id,
        claim: Claim::EXCLUSIVE,
        ttl: Duration::from_millis(20),
        patience: Duration::ZERO,
        owner: None,
        max: 1,
        memory: Duration::ZERO,
        meta: Bytes::new(),
        fence: 0,
    };
    let Reply { outcome: Outcome::Held { fence, .. }, .. } = store.apply(&key, &Op::Acquire(acquire)).await.unwrap()
    else {
        panic!("it is free")
    };
    store.apply(&key, &Op::Release(Release { id, bury: Duration::ZERO, fence: 0 })).await.unwrap();
    fence
}

fn sql(path: &Path, sql: &str) -> Vec<(String, i64, i64)> {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(sql).unwrap();
    let mut rows = connection.prepare("SELECT boot, zero, seen FROM clock").unwrap();
    rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_fresh_file_goes_by_the_wall_clock_and_its_stores_agree() {
    let (_folder, path) = place();
    let stores = [Sqlite::open(&path).unwrap(), Sqlite::open(&path).unwrap()];
    let mut last = wall() - 1;
    for round in 0..100 {
        let now = now(&stores[round % 2]).await;
        assert!(now > last, "{now} after {last}");
        last = now;
    }
    assert!(last.abs_diff(wall()) < 1_000_000, "{last}, and the wall clock {}", wall());
}

#[tokio::test]
async fn a_wall_clock_that_is_set_changes_nothing() {
    let (_folder, path) = place();
    drop(Sqlite::open(&path).unwrap());
    // As though the wall clock had been an hour ahead when the file was made, and was set right since.
    sql(&path, &format!("UPDATE clock SET zero = zero + {HOUR}"));
    for _ in 0..2 {
        let ahead = now(&Sqlite::open(&path).unwrap()).await - wall();
        assert!(ahead.abs_diff(HOUR) < 1_000_000, "{ahead}");
    }
}

#[tokio::test]
async fn a_start_of_the_machine_takes_the_wall_clock_anew() {
    let (_folder, path) = place();
    drop(Sqlite::open(&path).unwrap());
    sql(&path, "UPDATE clock SET boot = 'another', zero = 0");
    let store = Sqlite::open(&path).unwrap();
    assert!(now(&store).await.abs_diff(wall()) < 1_000_000);
    let clocks = sql(&path, "");
    assert!(clocks.len() == 1 && clocks[0].0 != "another", "{clocks:?}");
}

/// The machine was started with its wall clock in the past, so to speak.
#[tokio::test]
async fn time_never_goes_back_and_fences_rise_over_a_start_of_the_machine() {
    let (_folder, path) = place();
    let store = Sqlite::open(&path).unwrap();
    sql(&path, &format!("UPDATE clock SET zero = zero + {HOUR}"));
    drop(store);
    let store = Sqlite::open(&path).unwrap();
    let count = || Connection::open(&path).unwrap().query_row("SELECT count(*) FROM record", [], |row| row.get(0));
    let mut before = fence(&store, 1).await;
    assert!(before > wall() + HOUR / 2);
    for id in 2.. {
        if count() == Ok(0) {
            break;
        }
        assert!(id < 10_000, "the record is not forgotten");
        before = fence(&store, id).await;
    }
    drop(store);
    sql(&path, "UPDATE clock SET boot = 'another', zero = 0");
    let store = Sqlite::open(&path).unwrap();
    let after = fence(&store, 0).await;
    assert!(after > before, "{after} after {before}");
}
