//! Money from one account to another in one Redis, as one step: both balances change or neither, whoever dies and when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tenure::inspect::{Answer, Layout, Session};
use tenure::transaction::Outcome;
use tenure::{Error, ErrorKind, Locks, Result};

/// Moves the amount, once for each order: `false` where there is too little on the account.
pub(crate) async fn transfer(bank: &Bank, from: u32, to: u32, amount: i64, order: u32) -> Result<bool> {
    let accounts = [from, to].map(|account| bank.locks.mutex(format!("account-{account}")).build());
    let accounts = accounts.into_iter().collect::<Result<Vec<_>>>()?;
    // Takes the locks in the order of their names, so two transfers never wait for each other in a ring.
    let mut tx = bank.locks.begin_transaction(&accounts).begin().await?;
    if bank.number(&format!("order:{order}")).await?.is_some() {
        tx.rollback().await?;
        return Ok(true);
    }
    let balance = bank.number(&format!("balance:{from}")).await?.unwrap_or(0);
    if balance < amount {
        tx.rollback().await?;
        return Ok(false);
    }
    tx.rpush("ledger", order.to_string());
    // What was read is still so, also for those who write without the lock.
    tx.expect(format!("balance:{from}"), balance.to_string());
    tx.incr(format!("balance:{from}"), -amount).incr(format!("balance:{to}"), amount);
    // Whoever sends the order again finds that it is done.
    tx.set_for(format!("order:{order}"), amount.to_string(), Duration::from_secs(24 * 3600));
    match tx.commit().await {
        // Whether it was written is found out, never assumed.
        Outcome::Unknown(txid) => bank.locks.resolve(&txid).await?.committed()?,
        outcome => outcome.committed()?,
    }
    Ok(true)
}

/// A machine of the bank.
pub(crate) struct Bank {
    locks: Locks,
    redis: Session,
}

impl Bank {
    async fn open(url: &str) -> Result<Self> {
        let Layout::Server(server) = Layout::of(url)? else {
            return Err(Error::new(ErrorKind::Unsupported, "this recipe is for one Redis: give redis://host"));
        };
        let locks = Locks::builder(tenure::open_store(url).await?).ttl(Duration::from_secs(2)).build()?;
        Ok(Self { locks, redis: server.connect().await? })
    }

    async fn number(&self, key: &str) -> Result<Option<i64>> {
        Ok(self.redis.ask(&["GET", key]).await?.text().parse().ok())
    }
}

/// Two machines, five accounts of 100, and 60 orders. Each third time the one that carries an order out dies in the
/// middle, and every order is sent again.
pub(crate) async fn show(url: &str) -> Result<()> {
    let banks = Arc::new([Bank::open(url).await?, Bank::open(url).await?]);
    for account in 0..5 {
        banks[0].redis.ask(&["SET", &format!("balance:{account}"), "100"]).await?;
    }
    let carry_out = async |order: u32| {
        let from = order % 4;
        // Most of it is saved, so that not every order can be carried out.
        let (to, amount) = (if order.is_multiple_of(3) { (from + 1) % 4 } else { 4 }, i64::from(20 + order * 7 % 80));
        if order.is_multiple_of(3) {
            let dying = transfer(&banks[0], from, to, amount, order);
            // Somewhere between its first request and its last.
            let _ = tokio::time::timeout(Duration::from_micros(u64::from(order) * 400), dying).await;
        }
        let done = transfer(&banks[1], from, to, amount, order).await?;
        // Somebody is impatient.
        transfer(&banks[0], from, to, amount, order).await.map(|again| u32::from(done || again))
    };
    let done = futures_util::future::join_all((0..60).map(carry_out)).await.into_iter().sum::<Result<u32>>()?;
    let ledger = banks[0].redis.ask(&["LRANGE", "ledger", "0", "-1"]).await?;
    let (entries, orders) = (ledger.items().len(), ledger.items().iter().map(Answer::text).collect::<BTreeSet<_>>());
    let mut balances = Vec::new();
    for account in 0..5 {
        balances.push(banks[0].number(&format!("balance:{account}")).await?.unwrap_or(0));
    }
    println!("{done} orders; balances: {balances:?}");
    assert_eq!((entries, orders.len()), (done as usize, done as usize), "each order that is said to be done was, once");
    assert_eq!(balances.iter().sum::<i64>(), 500, "no money came or went");
    assert!(balances.iter().all(|balance| *balance >= 0), "nobody owes any");
    Ok(())
}
