//! By rusqlite, on a file.

use rusqlite::{Connection, TransactionBehavior::*, params};
use tempfile::TempDir;
use tenure::transaction::sql::{FenceTable, SQLITE_MIGRATION};
use tenure::{ErrorKind, Fence, Result};

use crate::{NO_TOKENS, a_late_and_a_present_hold, kind, no_names};

pub(crate) fn database() -> (TempDir, Connection) {
    let folder = tempfile::Builder::new().prefix("tenure-fence-").tempdir().expect("a temporary folder can be made");
    let connection = open(&folder);
    // Twice, as a deployment may.
    connection.execute_batch(SQLITE_MIGRATION).expect("the table is made");
    connection.execute_batch(SQLITE_MIGRATION).expect("the table is there");
    (folder, connection)
}

pub(crate) fn open(folder: &TempDir) -> Connection {
    let connection = Connection::open(folder.path().join("app.db")).expect("the file can be opened");
    connection.busy_timeout(std::time::Duration::from_secs(20)).expect("it is a duration");
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).expect("it is a file");
    connection
}

fn transact(connection: &mut Connection, fence: u64) -> Result<()> {
    let tx = connection.transaction_with_behavior(Immediate).expect("it begins");
    FenceTable::default().check_rusqlite(&tx, "r", Fence::new(fence))?;
    tx.commit().expect("it commits");
    Ok(())
}

fn newest(connection: &Connection) -> Option<i64> {
    connection.query_row("SELECT max(fence) FROM tenure_fence", [], |row| row.get(0)).expect("the table is there")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_was_paused_past_its_hold_writes_nothing_to_sqlite() {
    let (_folder, mut connection) = database();
    connection.execute_batch("CREATE TABLE account (balance); INSERT INTO account VALUES (100)").unwrap();
    let (late, present) = a_late_and_a_present_hold().await;
    for (hold, accepted) in [(&present, true), (&late, false), (&present, true)] {
        let tx = connection.transaction_with_behavior(Immediate).unwrap();
        let checked = FenceTable::default().check_rusqlite(&tx, "account-7", hold.fence());
        assert_eq!(kind(checked), (!accepted).then_some(ErrorKind::Lost));
        if accepted {
            tx.execute("UPDATE account SET balance = balance - 10", []).unwrap();
            tx.commit().unwrap();
        }
    }
    let balance: i64 = connection.query_row("SELECT balance FROM account", [], |row| row.get(0)).unwrap();
    assert_eq!((balance, newest(&connection)), (80, Some(present.fence().get() as i64)));
}

#[test]
fn sqlite_accepts_a_token_again_and_no_older_one() {
    let (_folder, mut connection) = database();
    for (fence, accepted) in [(5, true), (5, true), (4, false), (7, true), (6, false), (7, true), (1, false)] {
        assert_eq!(kind(transact(&mut connection, fence)), (!accepted).then_some(ErrorKind::Lost), "token {fence}");
    }
    assert_eq!(newest(&connection), Some(7));
    let refused = transact(&mut connection, 6).unwrap_err();
    assert!(refused.to_string().contains("has accepted token 7, so 6 is too old"), "{refused}");
}

#[test]
fn sqlite_keeps_no_token_of_a_transaction_that_is_rolled_back() {
    let (_folder, mut connection) = database();
    let tx = connection.transaction_with_behavior(Immediate).unwrap();
    FenceTable::default().check_rusqlite(&tx, "r", Fence::new(9)).unwrap();
    drop(tx);
    assert_eq!(newest(&connection), None);
    let mut tx = connection.transaction_with_behavior(Immediate).unwrap();
    let savepoint = tx.savepoint().unwrap();
    FenceTable::default().check_rusqlite(&savepoint, "r", Fence::new(9)).unwrap();
    drop(savepoint);
    FenceTable::default().check_rusqlite(&tx, "r", Fence::new(3)).unwrap();
    tx.commit().unwrap();
    assert_eq!(newest(&connection), Some(3));
}

#[test]
fn sqlite_checks_nothing_outside_of_a_transaction() {
    let (_folder, mut connection) = database();
    let table = FenceTable::default();
    assert_eq!(kind(table.check_rusqlite(&connection, "r", Fence::new(1))), Some(ErrorKind::Invalid));
    let tx = connection.transaction().unwrap();
    for (fence, expected) in NO_TOKENS {
        assert_eq!(kind(table.check_rusqlite(&tx, "r", fence)), Some(expected), "{fence}");
    }
    for name in no_names() {
        assert_eq!(kind(table.check_rusqlite(&tx, &name, Fence::new(1))), Some(ErrorKind::Invalid), "{name:?}");
    }
    tx.commit().unwrap();
    assert_eq!(newest(&connection), None);
}

#[test]
fn sqlite_tells_a_table_that_is_missing_or_of_another_make() {
    let (_folder, mut connection) = database();
    connection
        .execute_batch("CREATE TABLE columns_differ (a); CREATE TABLE no_key (resource, fence, changed)")
        .unwrap();
    let tx = connection.transaction().unwrap();
    let check = |name: &str| kind(FenceTable::named(name).unwrap().check_rusqlite(&tx, "r", Fence::new(1)));
    assert_eq!(check("nowhere"), Some(ErrorKind::Missing));
    assert_eq!(check("columns_differ"), Some(ErrorKind::Foreign));
    assert_eq!(check("no_key"), Some(ErrorKind::Foreign));
    tx.execute_batch(&FenceTable::named("main.Other_1").unwrap().sqlite_migration()).unwrap();
    assert_eq!(check("Other_1"), None);
}

#[test]
fn sqlite_tells_when_another_transaction_writes() {
    let (folder, mut one) = database();
    let mut other = open(&folder);
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    // It has read what the first one is about to change.
    let late = other.transaction_with_behavior(Deferred).unwrap();
    late.query_row("SELECT count(*) FROM tenure_fence", params![], |_| Ok(())).unwrap();
    let writing = one.transaction_with_behavior(Immediate).unwrap();
    let check = |tx: &Connection| FenceTable::default().check_rusqlite(tx, "r", Fence::new(2));
    assert_eq!(kind(check(&late)), Some(ErrorKind::Unavailable), "it would have to wait");
    check(&writing).unwrap();
    writing.commit().unwrap();
    let error = check(&late).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("run the whole transaction again"), "{error}");
}
