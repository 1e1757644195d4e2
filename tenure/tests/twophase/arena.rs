//! A bank with accounts on a Redis and on a Postgres, and what must be so of it whatever happened.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tenure::store::Store;
use tenure::transaction::Coordinator;
use tenure::transaction::journal::PostgresJournal;
use tenure::transaction::participant::{
    PostgresParticipant, RedisOp, RedisParticipant, RedisWork, ShareState, SqlWork, Statement,
};
use tenure::transaction::{Participant, coordinator::Transaction};
use tenure::{Lock, Locks};

use crate::point::{Hook, Hooked};

/// One pair of servers for all trials, each of which has a bank of its own.
pub static SERVERS: LazyLock<Servers> = LazyLock::new(|| {
    let redis = testkit::Redis::start_durable();
    let postgres = testkit::Postgres::start_with(&["max_connections=300"]);
    postgres.psql(&format!(
        "CREATE TABLE account (bank text, n int, cents bigint, PRIMARY KEY (bank, n));
         CREATE TABLE ledger (bank text, entry text, PRIMARY KEY (bank, entry));
         {} {}",
        PostgresJournal::MIGRATION,
        PostgresParticipant::MIGRATION
    ));
    Servers { redis, postgres }
});

pub struct Servers {
    pub redis: testkit::Redis,
    pub postgres: testkit::Postgres,
}

/// Where a bank is, for this process or another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bank {
    pub name: String,
    pub redis: String,
    pub postgres: String,
    /// Of half of which each server has those with an even or odd number.
    pub accounts: u32,
}

/// What every account has at first.
pub const CENTS: i64 = 1_000;

impl Servers {
    /// A new bank.
    pub fn bank(&self, name: &str, accounts: u32) -> Bank {
        for n in (0..accounts).step_by(2) {
            self.redis.command(&["SET", &format!("{name}:{n}"), &CENTS.to_string()]);
        }
        self.postgres.psql(&format!(
            "INSERT INTO account SELECT '{name}', n, {CENTS} FROM generate_series(1, {accounts} - 1, 2) AS n"
        ));
        Bank { name: name.to_owned(), redis: self.redis.url(), postgres: self.postgres.url(), accounts }
    }

    /// The balance of all accounts, and of each side the entries of its ledger.
    pub fn look(&self, bank: &Bank) -> (i64, [BTreeSet<String>; 2]) {
        let name = &bank.name;
        let script = format!(
            "local sum = 0 for n = 0, {} - 1, 2 do sum = sum + redis.call('GET', '{name}:' .. n) end return sum",
            bank.accounts
        );
        let redis: i64 = self.redis.command(&["EVAL", &script, "0"]).trim().trim_start_matches(':').parse().unwrap();
        let postgres = self.postgres.psql(&format!("SELECT sum(cents) FROM account WHERE bank = '{name}'"));
        let postgres: i64 = postgres.trim().parse().unwrap();
        let entries = self.redis.command(&["SMEMBERS", &format!("{name}:ledger")]);
        let entries = entries.lines().filter(|line| !line.starts_with(['*', '$'])).map(str::to_owned).collect();
        let rows = self.postgres.psql(&format!("SELECT entry FROM ledger WHERE bank = '{name}'"));
        (redis + postgres, [entries, rows.lines().map(str::to_owned).collect()])
    }
}

/// A transfer, and what it is called in the ledgers.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub entry: String,
    pub from: u32,
    pub to: u32,
    pub cents: i64,
}

impl Transfer {
    /// Whether that side takes part in it.
    pub fn is_on(&self, side: usize) -> bool {
        [self.from, self.to].iter().any(|n| *n as usize % 2 == side)
    }
}

/// A client of the bank.
pub struct Client {
    pub bank: Bank,
    pub coordinator: Coordinator,
    pub locks: Locks,
    pub redis: RedisParticipant,
    pub postgres: PostgresParticipant,
}

impl Client {
    pub async fn open(bank: &Bank, hook: Option<Arc<dyn Hook>>) -> Self {
        let redis = RedisParticipant::connect("redis", &bank.redis).await.unwrap();
        let postgres = PostgresParticipant::connect("postgres", &bank.postgres).await.unwrap();
        let journal = PostgresJournal::connect(&bank.postgres).await.unwrap();
        let coordinator = match hook {
            None => with(Coordinator::new(journal), redis.clone(), postgres.clone()),
            Some(hook) => {
                let hooked = Hooked { inner: journal, hook: hook.clone() };
                let of_redis = Hooked { inner: redis.clone(), hook: hook.clone() };
                let of_postgres = Hooked { inner: postgres.clone(), hook };
                with(Coordinator::new(hooked), of_redis, of_postgres)
            }
        };
        let store: Arc<dyn Store> = Arc::new(tenure::store::Redis::connect(&bank.redis).await.unwrap());
        let locks = Locks::builder(store).build().unwrap();
        Self { bank: bank.clone(), coordinator, locks, redis, postgres }
    }

    /// A lock of this bank. What is killed holds it for a ttl.
    pub fn lock(&self, name: &str, ttl: Duration) -> Lock {
        self.locks.mutex(format!("{}/{name}", self.bank.name)).ttl(ttl).build().unwrap()
    }

    /// The lock of a bank with two accounts: nobody waits for it to run out.
    pub fn only_lock(&self) -> Lock {
        self.lock("bank", Duration::from_secs(30))
    }

    /// Gives each side its part of the transfer.
    pub fn put<'a>(&self, mut tx: Transaction<'a>, transfer: &Transfer) -> Transaction<'a> {
        let Transfer { entry, from, to, cents } = transfer;
        let (bank, key) = (&self.bank.name, |n: &u32| format!("{}:{n}", self.bank.name));
        let (mut redis, mut postgres) = (RedisWork::new(), SqlWork::new());
        let add = |n: &u32| {
            let add = "UPDATE account SET cents = cents + $1 WHERE bank = $2 AND n = $3";
            Statement::new(add).param(*cents).param(&**bank).param(*n).rows(1)
        };
        match from % 2 {
            0 => {
                redis = redis.reserve(RedisOp::Take { key: key(from), by: *cents });
                redis = redis.rollback(RedisOp::Add { key: key(from), by: *cents });
            }
            _ => {
                let take = "UPDATE account SET cents = cents - $1 WHERE bank = $2 AND n = $3 AND cents >= $1";
                let take = Statement::new(take).param(*cents).param(&**bank).param(*from).rows(1);
                postgres = postgres.reserve(take).rollback(add(from));
            }
        }
        match to % 2 {
            0 => redis = redis.commit(RedisOp::Add { key: key(to), by: *cents }),
            _ => postgres = postgres.commit(add(to)),
        }
        if transfer.is_on(0) {
            redis = redis.commit(RedisOp::SetAdd { key: format!("{bank}:ledger"), member: entry.clone() });
            tx = tx.work("redis", redis);
        }
        if transfer.is_on(1) {
            let insert = Statement::new("INSERT INTO ledger VALUES ($1, $2)").param(&**bank).param(&**entry);
            tx = tx.work("postgres", postgres.commit(insert));
        }
        tx
    }

    /// What is staged in this bank, or not to be forgotten yet: descriptions.
    pub async fn remains(&self) -> Vec<String> {
        let (redis, postgres) = tokio::join!(self.redis.list(None), self.postgres.list(None));
        let start = format!("{}/", self.bank.name);
        let shares = redis.unwrap().into_iter().chain(postgres.unwrap());
        shares.filter(|share| share.branch.lock.starts_with(&start)).map(|share| format!("{share:?}")).collect()
    }

    /// What is staged in this bank.
    pub async fn staged(&self) -> usize {
        let (redis, postgres) = tokio::join!(self.redis.list(None), self.postgres.list(None));
        let start = format!("{}/", self.bank.name);
        let shares = redis.unwrap().into_iter().chain(postgres.unwrap());
        shares.filter(|share| share.state == ShareState::Staged && share.branch.lock.starts_with(&start)).count()
    }

    /// Those of this bank's transactions that are not done.
    pub async fn undone(&self) -> Vec<String> {
        let start = format!("{}/", self.bank.name);
        let records = self.coordinator.list().await.unwrap().into_iter();
        let undone = records.filter(|r| r.branch.lock.starts_with(&start) && !r.state.is_done());
        undone.map(|record| format!("{record:?}")).collect()
    }
}

fn with(coordinator: Coordinator, redis: impl Participant, postgres: impl Participant) -> Coordinator {
    let coordinator = coordinator.participant(redis).unwrap().participant(postgres).unwrap();
    coordinator.retention(Duration::from_secs(10))
}
