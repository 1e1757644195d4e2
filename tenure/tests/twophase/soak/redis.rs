//! A transfer by a fenced commit: both accounts and their locks are on one Redis.

use std::collections::BTreeMap;

use tenure::transaction::{Outcome, Txid};
use tenure::{Lock, Locks};

use super::{Book, Told, insist, locks, ms};
use crate::arena::{Bank, Transfer};

pub async fn work(bank: &Bank, book: &mut Book) {
    // Balances are read, and what is not known is asked for, by a way of their own: so the answer may be there before what
    // it is about comes out of the network.
    let (theirs, direct) = (book.locks().await, locks(&bank.redis, ms(1_200)).await);
    let mut data = connection(bank).await;
    loop {
        let transfers = book.next();
        if transfers.is_empty() {
            return;
        }
        for transfer in transfers {
            transact(bank, book, &theirs, &direct, &mut data, &transfer).await;
        }
    }
}

pub async fn connection(bank: &Bank) -> redis::aio::MultiplexedConnection {
    redis::Client::open(&*bank.redis).unwrap().get_multiplexed_async_connection().await.unwrap()
}

pub fn lock(locks: &Locks, bank: &Bank, n: u32) -> Lock {
    locks.mutex(format!("{}/{n}", bank.name)).build().unwrap()
}

async fn transact(
    bank: &Bank,
    book: &mut Book,
    locks: &Locks,
    direct: &Locks,
    data: &mut redis::aio::MultiplexedConnection,
    transfer: &Transfer,
) {
    let Transfer { entry, from, to, cents } = transfer;
    let both = [lock(locks, bank, *from), lock(locks, bank, *to)];
    let keys = [from, to].map(|n| bank.key(*n));
    let (mut tx, [giver, taker]) = insist(async || {
        let tx = locks.begin_transaction(&both).begin().await?;
        let mut ask = redis::cmd("MGET");
        let read: [i64; 2] = tx.protect(ask.arg(&keys).query_async(data)).await?.unwrap();
        Ok((tx, read))
    })
    .await;
    if giver < *cents {
        let _ = tx.rollback().await;
        return;
    }
    book.size.stand_still();
    // What was read is good for as long as the lock is held, so one may write what comes of it, or add.
    match cents % 2 {
        0 => tx.set(&*keys[0], (giver - cents).to_string()).set(&*keys[1], (taker + cents).to_string()),
        _ => tx.expect(&*keys[0], giver.to_string()).incr(&*keys[0], -cents).incr(&*keys[1], *cents),
    };
    tx.sadd(bank.ledger(), &**entry);
    book.plan(transfer, &tx.id().to_string());
    book.disturb();
    let outcome = match tx.commit().await {
        Outcome::Unknown(txid) => {
            book.note(transfer, "unknown");
            insist(async || direct.resolve(&txid).await).await
        }
        outcome => outcome,
    };
    book.note(transfer, if outcome.is_committed() { "committed" } else { "rolled-back" });
}

/// What nobody lived to be told is told now: that settles it.
pub async fn finish(bank: &Bank, told: &mut BTreeMap<String, Told>) {
    let locks = locks(&bank.redis, ms(1_200)).await;
    for told in told.values_mut().filter(|told| told.end.is_none()) {
        let txid: Txid = told.id.parse().unwrap();
        let is_committed = insist(async || locks.resolve(&txid).await).await.is_committed();
        told.end = Some(if is_committed { "committed" } else { "rolled-back" }.to_owned());
    }
}
