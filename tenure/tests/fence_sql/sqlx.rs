//! By sqlx: the same statement and the same words, so what is tried here is how it gets there.

use sqlx_core::connection::Connection;
use sqlx_core::executor::Executor;
use sqlx_core::query::query;
use sqlx_core::query_scalar::query_scalar;
use sqlx_postgres::{PgConnection, Postgres};
use tenure::transaction::sql::FenceTable;
use tenure::{ErrorKind, Fence};

use crate::postgres::{newest, server, table, until_waiting};
use crate::{NO_TOKENS, a_late_and_a_present_hold, kind, no_names};

async fn connect() -> PgConnection {
    PgConnection::connect(&server().url()).await.expect("the server lets us in")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_was_paused_past_its_hold_writes_nothing_by_sqlx() {
    let table = table("sqlx_paused").await;
    let mut connection = connect().await;
    query::<Postgres>("CREATE TABLE sqlx_account (balance bigint)").execute(&mut connection).await.unwrap();
    query::<Postgres>("INSERT INTO sqlx_account VALUES (100)").execute(&mut connection).await.unwrap();
    let (late, present) = a_late_and_a_present_hold().await;
    for (hold, accepted) in [(&present, true), (&late, false), (&present, true)] {
        let mut tx = connection.begin().await.unwrap();
        let checked = table.check_sqlx(&mut tx, "account-7", hold.fence()).await;
        assert_eq!(kind(checked), (!accepted).then_some(ErrorKind::Lost));
        // Whether or not somebody looks.
        let _ = query("UPDATE sqlx_account SET balance = balance - 10").execute(&mut *tx).await;
        let _ = tx.commit().await;
    }
    let balance: i64 =
        query_scalar::<Postgres, _>("SELECT balance FROM sqlx_account").fetch_one(&mut connection).await.unwrap();
    assert_eq!((balance, newest("sqlx_paused").await), (80, Some(present.fence().get() as i64)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlx_tells_a_conflict_that_is_to_be_run_again() {
    let table = table("sqlx_again").await;
    let (mut one, mut other) = (connect().await, connect().await);
    query::<Postgres>("SET application_name = 'sqlx_again'").execute(&mut other).await.unwrap();
    let mut first = one.begin().await.unwrap();
    table.check_sqlx(&mut first, "r", Fence::new(7)).await.unwrap();
    let checking = table.clone();
    let task = tokio::spawn(async move {
        let mut tx = other.begin().await.unwrap();
        tx.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await.unwrap();
        checking.check_sqlx(&mut tx, "r", Fence::new(8)).await
    });
    until_waiting("sqlx_again", 1).await;
    first.commit().await.unwrap();
    let error = task.await.unwrap().unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("40001"), "{error}");
    assert_eq!(newest("sqlx_again").await, Some(7));
}

#[tokio::test]
async fn sqlx_checks_nothing_outside_of_a_transaction() {
    let table = table("sqlx_outside").await;
    let mut connection = connect().await;
    assert_eq!(kind(table.check_sqlx(&mut connection, "r", Fence::new(1)).await), Some(ErrorKind::Invalid));
    let mut tx = connection.begin().await.unwrap();
    for (fence, expected) in NO_TOKENS {
        assert_eq!(kind(table.check_sqlx(&mut tx, "r", fence).await), Some(expected), "{fence}");
    }
    for name in no_names() {
        assert_eq!(kind(table.check_sqlx(&mut tx, &name, Fence::new(1)).await), Some(ErrorKind::Invalid), "{name:?}");
    }
    tx.rollback().await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let missing = FenceTable::named("nowhere").unwrap();
    assert_eq!(kind(missing.check_sqlx(&mut tx, "r", Fence::new(1)).await), Some(ErrorKind::Missing));
    tx.rollback().await.unwrap();
    assert_eq!(newest("sqlx_outside").await, None);
}
