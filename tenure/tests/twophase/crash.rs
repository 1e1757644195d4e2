//! A process that is killed at a point of a transaction, and what comes after it.

use std::process::{Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tenure::transaction::coordinator::Outcome;

use crate::arena::{Bank, CENTS, Client, SERVERS, Transfer};
use crate::point::{Act, Hook, is_decided};

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    bank: Bank,
    point: String,
}

/// Kills its process at a point.
#[derive(Debug)]
struct Dying {
    point: String,
}

impl Dying {
    async fn look(&self, point: String) {
        if point == self.point {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Hook for Dying {
    async fn before(&self, call: &str) -> Act {
        self.look(format!("before {call}")).await;
        Act::Go
    }

    async fn after(&self, call: &str) {
        self.look(format!("after {call}")).await;
    }

    fn keep(&self, _: BoxFuture<'static, ()>) {}
}

pub fn transfer(entry: &str) -> Transfer {
    Transfer { entry: entry.to_owned(), from: 0, to: 1, cents: 100 }
}

/// The life of such a process.
pub fn worker(order: &str) {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let Order { bank, point } = serde_json::from_str(order).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::open(&bank, Some(Arc::new(Dying { point }))).await;
        let guard = client.only_lock().lock().await.unwrap();
        let tx = client.put(client.coordinator.begin(&guard), &transfer("t1"));
        println!("{:?}", tx.commit().await.unwrap());
    });
}

/// A process is killed at that point, and two recover at once what it left.
pub fn at(point: &str) {
    let bank = SERVERS.bank(&format!("crash-{}", point.replace(' ', "-")), 2);
    let order = serde_json::to_string(&Order { bank: bank.clone(), point: point.to_owned() }).unwrap();
    let program = std::env::current_exe().unwrap();
    let worker = Command::new(program).args(["worker", &order]).stdin(Stdio::null()).output().unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&worker.status);
    assert_eq!(signal, Some(9), "it was not killed at {point:?}: {worker:?}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (one, other) = tokio::join!(Client::open(&bank, None), Client::open(&bank, None));
        // It need not run out: that is what fences are for.
        one.locks.break_lock(&format!("{}/bank", bank.name)).await.unwrap();
        let guard = one.only_lock().lock().await.unwrap();
        // Whoever recovers beside the holder does not hold anything.
        let beside = other.coordinator.clone();
        let beside = async { beside.recover(&guard).await };
        let (first, second) = tokio::join!(one.coordinator.recover(&guard), beside);
        let (first, second) = (first.unwrap(), second.unwrap());
        assert!(first.is_complete() && second.is_complete(), "{first:?} {second:?}");
        let expected: &[&str] = if is_decided(point) { &["t1"] } else { &[] };
        settled(&one, expected, point).await;
        // The next one goes on as ever, and then nothing of the first is left anywhere.
        let tx = one.put(one.coordinator.begin(&guard), &transfer("t2")).commit().await.unwrap();
        assert!(matches!(&tx, Outcome::Committed { pending, .. } if pending.is_empty()), "{tx:?}");
        let expected: Vec<&str> = expected.iter().copied().chain(["t2"]).collect();
        settled(&one, &expected, point).await;
        let rows = format!("SELECT count(*) FROM tenure_share WHERE lock = '{}/bank'", bank.name);
        assert_eq!(SERVERS.postgres.psql(&rows).trim(), "1", "{point}: more is kept than the last transaction");
        let fields = SERVERS.redis.command(&["HLEN", &format!("tenure:share:redis:{}/bank", bank.name)]);
        assert_eq!(fields.trim(), ":3", "{point}: more is kept than the last transaction");
    });
}

/// All is over: what is in the ledgers, on both sides, has happened, and nothing else.
pub async fn settled(client: &Client, expected: &[&str], point: &str) {
    let (balances, ledgers) = SERVERS.look(&client.bank);
    assert_eq!(
        balances.values().sum::<i64>(),
        i64::from(client.bank.accounts) * CENTS,
        "{point}: money came or went: {ledgers:?}"
    );
    for ledger in ledgers {
        assert_eq!(ledger.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{point}");
    }
    assert_eq!(client.remains().await, Vec::<String>::new(), "{point}");
    assert_eq!(client.undone().await, Vec::<String>::new(), "{point}");
}
