//! A transfer as a saga: the giver's account, then the taker's, each by a service that does nothing twice under one key.
//!
//! Some fail: for want of money, now and then for no reason, and some are refused at the second step, before its work or
//! after. What was done is undone then, by whoever holds the lock by that time.

use std::collections::BTreeMap;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use tenure::transaction::journal::{Journal, PostgresJournal};
use tenure::transaction::{Call, Failure, Saga, SagaState, SagaStatus};
use tenure::{Guard, Locks};

use super::redis::connection;
use super::{Book, GROUPS, Size, Told, insist, locks, ms};
use crate::arena::{Bank, Transfer};

/// Does it once under a key, and never after it was undone; an account does not go below nothing.
/// KEYS: what was done under which key, the account, the ledger. ARGV: the key, by how much, the entry or nothing.
const DO: &str = "
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 1 end
if redis.call('GET', KEYS[2]) + ARGV[2] < 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], 'done')
redis.call('INCRBY', KEYS[2], ARGV[2])
if ARGV[3] ~= '' then redis.call('SADD', KEYS[3], ARGV[3]) end
return 1";

/// Undoes it once, if it was done, and sees to it that it is not done later.
/// KEYS as above. ARGV: the key, by how much, the entry or nothing, and the key of what is undone.
const UNDO: &str = "
if redis.call('HSETNX', KEYS[1], ARGV[1], 'done') == 0 then return 1 end
if redis.call('HSETNX', KEYS[1], ARGV[4], 'undone') == 1 then return 1 end
redis.call('INCRBY', KEYS[2], ARGV[2])
if ARGV[3] ~= '' then redis.call('SREM', KEYS[3], ARGV[3]) end
return 1";

struct Shop {
    bank: Bank,
    data: MultiplexedConnection,
    size: Option<Size>,
}

/// One attempt at the step that adds to an account.
async fn step(call: Call<Shop>, is_second: bool) -> Result<(), Failure> {
    let Shop { bank, data, size } = call.context();
    let Transfer { entry, from, to, cents } = call.input()?;
    let (n, by) = if is_second { (to, cents) } else { (from, -cents) };
    let (script, by) = if call.is_undo() { (UNDO, -by) } else { (DO, by) };
    let is_refused = is_second && !call.is_undo() && cents % 8 == 0;
    if is_refused && cents % 16 == 0 {
        return Err(Failure::fatal("this one is refused"));
    }
    if cents % 10 == 3 && call.attempt() == 1 {
        return Err(Failure::transient("try again"));
    }
    size.iter().for_each(|size| size.stand_still());
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(3).arg(format!("{}:done", bank.name)).arg(bank.key(n)).arg(bank.ledger());
    command.arg(call.key()).arg(by).arg(if is_second { &*entry } else { "" }).arg(call.action_key());
    match command.query_async::<u8>(&mut data.clone()).await? {
        0 => Err(Failure::fatal("there is not enough")),
        _ if is_refused => Err(Failure::fatal("this one is refused, too late")),
        _ => Ok(()),
    }
}

async fn saga(bank: &Bank, size: Option<Size>) -> Saga<Shop> {
    let shop = Shop { bank: bank.clone(), data: connection(bank).await, size };
    let saga = Saga::builder("transfer").step("take", |call| step(call, false), |call| step(call, false)).step(
        "give",
        |call| step(call, true),
        |call| step(call, true),
    );
    saga.retry(5, ms(1)).build(shop, Arc::new(journal(bank).await)).unwrap()
}

async fn journal(bank: &Bank) -> PostgresJournal {
    PostgresJournal::connect(&bank.postgres).await.unwrap()
}

/// The lock of a group, when what an earlier holder left behind is done.
async fn enter(saga: &Saga<Shop>, locks: &Locks, bank: &Bank, group: u32) -> Guard {
    let lock = locks.mutex(format!("{}/{group}", bank.name)).build().unwrap();
    insist(async || {
        let guard = lock.lock().await?;
        for (id, resumed) in saga.resume_all(&guard).await? {
            assert!(resumed?.is_settled(), "{id} was resumed, and has not ended");
        }
        Ok(guard)
    })
    .await
}

pub async fn work(bank: &Bank, book: &mut Book) {
    let (saga, locks) = (saga(bank, Some(book.size)).await, book.locks().await);
    loop {
        let transfers = book.next();
        let Some(first) = transfers.first() else { return };
        let guard = enter(&saga, &locks, bank, first.from % GROUPS).await;
        for transfer in transfers {
            book.plan(&transfer, &transfer.entry);
            book.disturb();
            match saga.run(&transfer.entry, &transfer, &guard).await {
                Ok(status) => book.note(&transfer, end(&status)),
                Err(error) if error.is_lost() => book.note(&transfer, "unknown"),
                Err(error) => panic!("{error:?}"),
            }
        }
        let _ = guard.release().await;
    }
}

fn end(status: &SagaStatus) -> &'static str {
    match status.state() {
        SagaState::Completed => "committed",
        SagaState::Compensated => "rolled-back",
        state => panic!("{} is {state}", status.id()),
    }
}

/// What the last of the killed have left is gone on with. Then all have ended, as their tellers were told.
pub async fn finish(bank: &Bank, told: &mut BTreeMap<String, Told>) {
    let (saga, locks) = (saga(bank, None).await, locks(&bank.redis, ms(1_200)).await);
    for group in 0..GROUPS {
        drop(enter(&saga, &locks, bank, group).await);
    }
    for entry in journal(bank).await.list().await.unwrap() {
        let Some(status) = SagaStatus::parse(&entry.value).unwrap() else { continue };
        if status.saga() != "transfer" || !status.lock().starts_with(&format!("{}/", bank.name)) {
            continue;
        }
        let told = told.get_mut(status.id()).unwrap_or_else(|| panic!("nobody asked for {status:?}"));
        let end = end(&status);
        let before = told.end.replace(end.to_owned());
        assert!(before.is_none_or(|before| before == end), "{status:?} was told otherwise");
    }
    // The others were never begun.
    for told in told.values_mut() {
        told.end.get_or_insert_with(|| "rolled-back".to_owned());
    }
}
