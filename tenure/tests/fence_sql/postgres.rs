//! By tokio-postgres: what is accepted, and what two transactions at a time do to each other.

use std::sync::OnceLock;

use tenure::transaction::sql::FenceTable;
use tenure::{ErrorKind, Fence};
use testkit::Postgres;
use tokio_postgres::{Client, IsolationLevel, NoTls};

use crate::{a_late_and_a_present_hold, kind};

/// One server for all tests, each of which has tables of its own. It ends with this process.
pub(crate) fn server() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(Postgres::start_fast)
}

pub(crate) async fn connect() -> Client {
    let (client, connection) = tokio_postgres::connect(&server().url(), NoTls).await.expect("the server lets us in");
    tokio::spawn(async move { _ = connection.await });
    client
}

/// A fresh table of that name.
pub(crate) async fn table(name: &str) -> FenceTable {
    let table = FenceTable::named(name).expect("it is a name");
    let client = connect().await;
    // Twice, as a deployment may.
    client.batch_execute(&table.postgres_migration()).await.expect("the table is made");
    client.batch_execute(&table.postgres_migration()).await.expect("the table is there");
    table
}

/// One transaction with nothing but the check.
async fn transact(client: &mut Client, table: &FenceTable, fence: Fence) -> tenure::Result<()> {
    let tx = client.transaction().await.expect("it begins");
    table.check_tokio_postgres(&tx, "r", fence).await?;
    tx.commit().await.expect("it commits");
    Ok(())
}

pub(crate) async fn newest(name: &str) -> Option<i64> {
    let client = connect().await;
    let rows = client.query(&format!("SELECT fence FROM {name}"), &[]).await.expect("the table is there");
    rows.first().map(|row| row.get(0))
}

/// Waits until as many sessions wait for a lock of another one of this name.
pub(crate) async fn until_waiting(application: &str, sessions: i64) {
    let client = connect().await;
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'";
    for _ in 0..5_000 {
        if client.query_one(count, &[&application]).await.expect("it can be asked").get::<_, i64>(0) == sessions {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    panic!("nobody waits for {application}");
}

async fn named(application: &str) -> Client {
    let client = connect().await;
    client.batch_execute(&format!("SET application_name = '{application}'")).await.expect("it is set");
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_was_paused_past_its_hold_writes_nothing() {
    let table = table("paused").await;
    let mut client = connect().await;
    client
        .batch_execute("CREATE TABLE account (id int, balance int); INSERT INTO account VALUES (7, 100)")
        .await
        .unwrap();
    let (late, present) = a_late_and_a_present_hold().await;
    for (hold, accepted) in [(&present, true), (&late, false), (&present, true)] {
        let tx = client.transaction().await.unwrap();
        let checked = table.check_tokio_postgres(&tx, "account-7", hold.fence()).await;
        assert_eq!(kind(checked), (!accepted).then_some(ErrorKind::Lost));
        if accepted {
            tx.execute("UPDATE account SET balance = balance - 10 WHERE id = 7", &[]).await.unwrap();
            tx.commit().await.unwrap();
        }
    }
    let balance: i32 = client.query_one("SELECT balance FROM account", &[]).await.unwrap().get(0);
    assert_eq!((balance, newest("paused").await), (80, Some(present.fence().get() as i64)));
}

#[tokio::test]
async fn a_token_is_accepted_again_and_an_older_one_is_not() {
    let table = table("again").await;
    let mut client = connect().await;
    for (fence, accepted) in
        [(5, true), (5, true), (4, false), (7, true), (6, false), (5, false), (7, true), (1, false)]
    {
        let checked = transact(&mut client, &table, Fence::new(fence)).await;
        assert_eq!(kind(checked), (!accepted).then_some(ErrorKind::Lost), "token {fence}");
    }
    assert_eq!(newest("again").await, Some(7));
    let refused = transact(&mut client, &table, Fence::new(6)).await.unwrap_err();
    assert!(refused.to_string().contains("has accepted token 7, so 6 is too old"), "{refused}");
}

#[tokio::test]
async fn resources_know_nothing_of_each_other() {
    let table = table("apart").await;
    let mut client = connect().await;
    let tx = client.transaction().await.unwrap();
    for (resource, fence) in [("a", 9), ("b", 3), ("a'; DROP TABLE apart; --", 1)] {
        table.check_tokio_postgres(&tx, resource, Fence::new(fence)).await.unwrap();
    }
    tx.commit().await.unwrap();
    let count: i64 = client.query_one("SELECT count(*) FROM apart", &[]).await.unwrap().get(0);
    assert_eq!(count, 3);
}

#[tokio::test]
async fn a_transaction_that_is_rolled_back_leaves_no_token() {
    let table = table("rolled_back").await;
    let mut client = connect().await;
    let tx = client.transaction().await.unwrap();
    table.check_tokio_postgres(&tx, "r", Fence::new(9)).await.unwrap();
    drop(tx);
    assert_eq!(newest("rolled_back").await, None);
    transact(&mut client, &table, Fence::new(3)).await.unwrap();
    let tx = client.transaction().await.unwrap();
    table.check_tokio_postgres(&tx, "r", Fence::new(9)).await.unwrap();
    tx.rollback().await.unwrap();
    transact(&mut client, &table, Fence::new(4)).await.unwrap();
    assert_eq!(newest("rolled_back").await, Some(4));
}

#[tokio::test]
async fn a_refusal_that_nobody_looked_at_commits_nothing() {
    let table = table("unseen").await;
    let mut client = connect().await;
    client.batch_execute("CREATE TABLE unseen_writes (n int)").await.unwrap();
    transact(&mut client, &table, Fence::new(9)).await.unwrap();
    let tx = client.transaction().await.unwrap();
    tx.execute("INSERT INTO unseen_writes VALUES (1)", &[]).await.unwrap();
    let _ = table.check_tokio_postgres(&tx, "r", Fence::new(8)).await;
    let _ = tx.execute("INSERT INTO unseen_writes VALUES (2)", &[]).await;
    let _ = tx.commit().await;
    let count: i64 = client.query_one("SELECT count(*) FROM unseen_writes", &[]).await.unwrap().get(0);
    assert_eq!(count, 0);
}

/// The second of two waits for the first; `READ COMMITTED`, with a row that is there before and with none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_at_a_time_the_second_is_measured_by_the_first() {
    let cases = [
        ("newer_first", 8, true, 7, Some(ErrorKind::Lost), 8),
        ("newer_gives_up", 8, false, 7, None, 7),
        ("older_first", 7, true, 8, None, 8),
        ("equal", 8, true, 8, None, 8),
    ];
    for (name, first, commits, second, outcome, left) in cases {
        for there_before in [false, true] {
            let name = format!("two_{name}_{there_before}");
            let table = table(&name).await;
            let (mut one, mut other) = (connect().await, named(&name).await);
            if there_before {
                transact(&mut one, &table, Fence::new(1)).await.unwrap();
            }
            let tx = one.transaction().await.unwrap();
            table.check_tokio_postgres(&tx, "r", Fence::new(first)).await.unwrap();
            let task = tokio::spawn(async move { transact(&mut other, &table, Fence::new(second)).await });
            until_waiting(&name, 1).await;
            if commits {
                tx.commit().await.unwrap();
            } else {
                tx.rollback().await.unwrap();
            }
            assert_eq!(kind(task.await.unwrap()), outcome, "{name}");
            assert_eq!(newest(&name).await, Some(left), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn above_read_committed_the_second_is_told_to_run_again() {
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        for there_before in [false, true] {
            let name = format!("again_{level:?}_{there_before}").to_lowercase();
            let table = table(&name).await;
            let (mut one, mut other) = (connect().await, named(&name).await);
            if there_before {
                transact(&mut one, &table, Fence::new(1)).await.unwrap();
            }
            let tx = one.transaction().await.unwrap();
            table.check_tokio_postgres(&tx, "r", Fence::new(7)).await.unwrap();
            let checking = table.clone();
            let task = tokio::spawn(async move {
                let mut outcomes = Vec::new();
                for fence in [8, 8, 7] {
                    let tx = other.build_transaction().isolation_level(level).start().await.unwrap();
                    let checked = checking.check_tokio_postgres(&tx, "r", Fence::new(fence)).await;
                    if checked.is_ok() {
                        tx.commit().await.unwrap();
                    }
                    outcomes.push(checked);
                }
                outcomes
            });
            until_waiting(&name, 1).await;
            tx.commit().await.unwrap();
            let outcomes = task.await.unwrap();
            let first = outcomes[0].as_ref().unwrap_err();
            assert!(first.is_transient() && first.to_string().contains("40001"), "{name}: {first}");
            let kinds: Vec<_> = outcomes.into_iter().map(kind).collect();
            assert_eq!(kinds, [Some(ErrorKind::Unavailable), None, Some(ErrorKind::Lost)], "{name}");
        }
    }
}
