//! Sixteen writers with random tokens, on a few resources: in the order in which writes were committed, the tokens of a
//! resource never go down.
//!
//! A write goes into a history with a number that is drawn while the resource's row is locked, so the numbers of one
//! resource are in the order of its commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rusqlite::{TransactionBehavior, params};
use tenure::transaction::sql::FenceTable;
use tenure::{ErrorKind, Fence};
use tokio_postgres::IsolationLevel;

use crate::{postgres, sqlite};

const WRITERS: u64 = 16;
const WRITES: u64 = 30;
const RESOURCES: u64 = 3;

/// What became of the writes of one writer.
#[derive(Debug, Default)]
struct Tally {
    committed: usize,
    refused: usize,
    again: usize,
}

impl Tally {
    fn add(&mut self, checked: &tenure::Result<()>) {
        match checked.as_ref().map_err(|error| error.kind()) {
            Ok(()) => self.committed += 1,
            Err(ErrorKind::Lost) => self.refused += 1,
            Err(ErrorKind::Unavailable) => self.again += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// A resource, and a token that is newer or older than others which are drawn at about the same time.
fn draw(random: &mut StdRng, drawn: &AtomicU64) -> (String, Fence) {
    let fence = drawn.fetch_add(1, Relaxed) / 4 + random.random_range(1..16);
    (format!("r{}", random.random_range(0..RESOURCES)), Fence::new(fence))
}

fn seed() -> u64 {
    let given = std::env::var("TENURE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("TENURE_SEED={seed}");
    seed
}

/// Checks the history, in its order.
fn check(history: &[(String, i64)], tallies: &[Tally]) {
    let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
    for (resource, fence) in history {
        let before = newest.insert(resource, *fence).unwrap_or(0);
        assert!(before <= *fence, "{resource}: {fence} was committed after {before}: {history:?}");
    }
    let committed: usize = tallies.iter().map(|tally| tally.committed).sum();
    assert_eq!(committed, history.len(), "what was committed is in the history, and nothing else");
    let refused: usize = tallies.iter().map(|tally| tally.refused).sum();
    assert!(committed > 30 && refused > 30, "both have to happen: {tallies:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_the_tokens_that_were_committed_never_go_down() {
    let table = postgres::table("crowd").await;
    let client = postgres::connect().await;
    let history = "CREATE TABLE crowd_history (n bigserial, resource text, fence bigint)";
    client.batch_execute(history).await.unwrap();
    let (seed, drawn) = (seed(), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write_to_postgres(table.clone(), seed.wrapping_add(writer), drawn.clone())))
        .collect();
    let mut tallies = Vec::new();
    for writer in writers {
        tallies.push(writer.await.unwrap());
    }
    let rows = client.query("SELECT resource, fence FROM crowd_history ORDER BY n", &[]).await.unwrap();
    let history: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    check(&history, &tallies);
    assert!(tallies.iter().any(|tally| tally.again > 0), "some were to be run again: {tallies:?}");
}

async fn write_to_postgres(table: FenceTable, seed: u64, drawn: Arc<AtomicU64>) -> Tally {
    let (mut random, mut tally) = (StdRng::seed_from_u64(seed), Tally::default());
    let mut client = postgres::connect().await;
    for _ in 0..WRITES {
        let (resource, fence) = draw(&mut random, &drawn);
        let levels = [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead, IsolationLevel::Serializable];
        let level = levels[random.random_range(0..3)];
        let tx = client.build_transaction().isolation_level(level).start().await.unwrap();
        let checked = table.check_tokio_postgres(&tx, &resource, fence).await;
        if checked.is_ok() {
            let write = "INSERT INTO crowd_history (resource, fence) VALUES ($1, $2)";
            tx.execute(write, &[&resource, &(fence.get() as i64)]).await.unwrap();
            // Some change their mind.
            if random.random_ratio(1, 8) {
                tx.rollback().await.unwrap();
                continue;
            }
            tx.commit().await.unwrap();
        }
        tally.add(&checked);
    }
    tally
}

#[test]
fn on_sqlite_the_tokens_that_were_committed_never_go_down() {
    let (folder, connection) = sqlite::database();
    let history = "CREATE TABLE history (n INTEGER PRIMARY KEY AUTOINCREMENT, resource, fence)";
    connection.execute_batch(history).unwrap();
    let (seed, folder, drawn) = (seed(), &folder, &AtomicU64::new(0));
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || write_to_sqlite(&mut sqlite::open(folder), seed.wrapping_add(writer), drawn))
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let mut rows = connection.prepare("SELECT resource, fence FROM history ORDER BY n").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    check(&rows.map(Result::unwrap).collect::<Vec<_>>(), &tallies);
}

fn write_to_sqlite(connection: &mut rusqlite::Connection, seed: u64, drawn: &AtomicU64) -> Tally {
    let (mut random, mut tally) = (StdRng::seed_from_u64(seed), Tally::default());
    for _ in 0..WRITES {
        let (resource, fence) = draw(&mut random, drawn);
        let behavior = [TransactionBehavior::Immediate, TransactionBehavior::Deferred][random.random_range(0..2)];
        let tx = connection.transaction_with_behavior(behavior).unwrap();
        let checked = FenceTable::default().check_rusqlite(&tx, &resource, fence);
        if checked.is_ok() {
            let write = "INSERT INTO history (resource, fence) VALUES (?1, ?2)";
            tx.execute(write, params![resource, fence.get() as i64]).unwrap();
            tx.commit().unwrap();
        }
        tally.add(&checked);
    }
    tally
}
