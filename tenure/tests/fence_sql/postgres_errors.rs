//! What is said when Postgres cannot check, and that nothing passes then.

use tenure::transaction::sql::FenceTable;
use tenure::{ErrorKind, Fence};

use crate::postgres::{connect, newest, server, table};
use crate::{NO_TOKENS, kind, no_names};

#[tokio::test]
async fn what_is_no_token_or_no_name_is_refused() {
    let table = table("no_tokens").await;
    let mut client = connect().await;
    let tx = client.transaction().await.unwrap();
    for (fence, expected) in NO_TOKENS {
        assert_eq!(kind(table.check_tokio_postgres(&tx, "r", fence).await), Some(expected), "{fence}");
    }
    for name in no_names() {
        let checked = table.check_tokio_postgres(&tx, &name, Fence::new(1)).await;
        assert_eq!(kind(checked), Some(ErrorKind::Invalid), "{name:?}");
    }
    tx.commit().await.unwrap();
    assert_eq!(newest("no_tokens").await, None);
}

#[tokio::test]
async fn a_missing_table_names_its_migration() {
    let mut client = connect().await;
    for name in ["nowhere", "no_schema.fences"] {
        let tx = client.transaction().await.unwrap();
        let table = FenceTable::named(name).unwrap();
        let error = table.check_tokio_postgres(&tx, "r", Fence::new(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
        assert!(error.to_string().contains("POSTGRES_MIGRATION"), "{error}");
        // The transaction has failed, and that is told too.
        let error = table.check_tokio_postgres(&tx, "r", Fence::new(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

#[tokio::test]
async fn a_table_of_another_make_is_foreign() {
    let mut client = connect().await;
    client
        .batch_execute(
            "CREATE TABLE foreign_columns (a int); CREATE TABLE foreign_key (resource text, fence bigint, changed timestamptz)",
        )
        .await
        .unwrap();
    for name in ["foreign_columns", "foreign_key"] {
        let tx = client.transaction().await.unwrap();
        let checked = FenceTable::named(name).unwrap().check_tokio_postgres(&tx, "r", Fence::new(1)).await;
        assert_eq!(kind(checked), Some(ErrorKind::Foreign), "{name}");
    }
}

#[tokio::test]
async fn who_may_not_write_is_denied() {
    let table = table("denied").await;
    let mut client = connect().await;
    client.batch_execute("CREATE ROLE reader; GRANT SELECT ON denied TO reader").await.unwrap();
    let tx = client.transaction().await.unwrap();
    tx.batch_execute("SET LOCAL ROLE reader").await.unwrap();
    assert_eq!(kind(table.check_tokio_postgres(&tx, "r", Fence::new(1)).await), Some(ErrorKind::Denied));
    drop(tx);
    let tx = client.build_transaction().read_only(true).start().await.unwrap();
    assert_eq!(kind(table.check_tokio_postgres(&tx, "r", Fence::new(1)).await), Some(ErrorKind::Denied));
}

#[tokio::test]
async fn a_wait_that_is_cut_short_accepts_nothing() {
    let table = table("cut_short").await;
    let (mut one, mut other) = (connect().await, connect().await);
    let first = one.transaction().await.unwrap();
    table.check_tokio_postgres(&first, "r", Fence::new(1)).await.unwrap();
    for setting in ["lock_timeout", "statement_timeout"] {
        let tx = other.transaction().await.unwrap();
        tx.batch_execute(&format!("SET LOCAL {setting} = '20ms'")).await.unwrap();
        let error = table.check_tokio_postgres(&tx, "r", Fence::new(2)).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("cut short"), "{error}");
    }
    first.commit().await.unwrap();
    assert_eq!(newest("cut_short").await, Some(1));
}

#[tokio::test]
async fn two_that_wait_for_each_other_are_told() {
    let table = table("deadlock").await;
    let (mut one, mut other) = (connect().await, connect().await);
    let first = one.transaction().await.unwrap();
    let second = other.transaction().await.unwrap();
    table.check_tokio_postgres(&first, "a", Fence::new(1)).await.unwrap();
    table.check_tokio_postgres(&second, "b", Fence::new(1)).await.unwrap();
    for tx in [&first, &second] {
        tx.batch_execute("SET LOCAL deadlock_timeout = '20ms'").await.unwrap();
    }
    let crossed = async |tx: tokio_postgres::Transaction<'_>, resource| {
        let checked = table.check_tokio_postgres(&tx, resource, Fence::new(1)).await;
        tx.rollback().await.unwrap();
        checked
    };
    let outcomes = tokio::join!(crossed(first, "b"), crossed(second, "a"));
    let errors: Vec<_> = [outcomes.0, outcomes.1].into_iter().filter_map(Result::err).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].is_transient() && errors[0].to_string().contains("40P01"), "{errors:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_accepts_nothing() {
    let table = table("broken").await;
    let mut client = connect().await;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let tx = client.transaction().await.unwrap();
    server().psql(&format!("SELECT pg_terminate_backend({pid}, 5000)"));
    let error = table.check_tokio_postgres(&tx, "r", Fence::new(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(newest("broken").await, None);
}
