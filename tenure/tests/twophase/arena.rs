//! A bank with accounts on a Redis and on a Postgres, and what must be so of it whatever happened.

use std::collections::{BTreeMap, BTreeSet};
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
         {} {} {}",
        tenure::transaction::sql::POSTGRES_MIGRATION,
        PostgresJournal::MIGRATION,
        PostgresParticipant::MIGRATION
    ));
    let _watchman = testkit::watch(redis.pid(), redis.dir());
    Servers { redis, postgres, _watchman }
});

pub struct Servers {
    pub redis: testkit::Redis,
    pub postgres: testkit::Postgres,
    /// Of the Redis, which is in a `static` as well.
    _watchman: std::process::Child,
}

/// Which way a bank goes about it, and so where it has its accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum On {
    /// Fenced commits, on Redis alone.
    Redis,
    /// The user's own SQL, on Postgres alone.
    Postgres,
    /// In two phases: those with an even number on Redis, the others on Postgres.
    Both,
    /// Sagas, on Redis alone.
    Saga,
}

/// Where a bank is, for this process or another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bank {
    pub name: String,
    pub on: On,
    pub redis: String,
    pub postgres: String,
    pub accounts: u32,
}

impl Bank {
    /// Which server has that account: 0 is Redis, 1 Postgres.
    pub fn side(&self, n: u32) -> usize {
        match self.on {
            On::Redis | On::Saga => 0,
            On::Postgres => 1,
            On::Both => n as usize % 2,
        }
    }

    /// Whether that side has a part in it.
    pub fn takes_part(&self, side: usize, transfer: &Transfer) -> bool {
        [transfer.from, transfer.to].iter().any(|n| self.side(*n) == side)
    }

    fn on_side(&self, side: usize) -> impl Iterator<Item = u32> {
        (0..self.accounts).filter(move |n| self.side(*n) == side)
    }

    /// Under which key Redis has an account, and the ledger.
    pub fn key(&self, n: u32) -> String {
        format!("{}:{n}", self.name)
    }

    pub fn ledger(&self) -> String {
        format!("{}:ledger", self.name)
    }
}

/// What every account has at first.
pub const CENTS: i64 = 1_000;

impl Servers {
    /// A new bank, across both.
    pub fn bank(&self, name: &str, accounts: u32) -> Bank {
        self.bank_on(On::Both, name, accounts)
    }

    pub fn bank_on(&self, on: On, name: &str, accounts: u32) -> Bank {
        let (redis, postgres) = (self.redis.url(), self.postgres.url());
        let bank = Bank { name: name.to_owned(), on, redis, postgres, accounts };
        for n in bank.on_side(0) {
            self.redis.command(&["SET", &bank.key(n), &CENTS.to_string()]);
        }
        let rows: Vec<String> = bank.on_side(1).map(|n| format!("('{name}', {n}, {CENTS})")).collect();
        if !rows.is_empty() {
            self.postgres.psql(&format!("INSERT INTO account VALUES {}", rows.join(", ")));
        }
        bank
    }

    /// The balance of each account, and of each side the entries of its ledger.
    pub fn look(&self, bank: &Bank) -> (BTreeMap<u32, i64>, [BTreeSet<String>; 2]) {
        let name = &bank.name;
        let lines = |command: &[&str]| -> Vec<String> {
            let reply = self.redis.command(command);
            reply.lines().filter(|line| !line.starts_with(['*', '$'])).map(str::to_owned).collect()
        };
        let mut balances = BTreeMap::new();
        for n in bank.on_side(0) {
            balances.insert(n, lines(&["GET", &bank.key(n)])[0].parse().unwrap());
        }
        for row in self.postgres.psql(&format!("SELECT n, cents FROM account WHERE bank = '{name}'")).lines() {
            let (n, cents) = row.split_once('|').unwrap();
            balances.insert(n.parse().unwrap(), cents.parse().unwrap());
        }
        let rows = self.postgres.psql(&format!("SELECT entry FROM ledger WHERE bank = '{name}'"));
        let entries = lines(&["SMEMBERS", &bank.ledger()]);
        (balances, [entries.into_iter().collect(), rows.lines().map(str::to_owned).collect()])
    }
}

/// A transfer, and what it is called in the ledgers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transfer {
    pub entry: String,
    pub from: u32,
    pub to: u32,
    pub cents: i64,
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
        let (bank, key) = (&self.bank.name, |n: &u32| self.bank.key(*n));
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
        if self.bank.takes_part(0, transfer) {
            redis = redis.commit(RedisOp::SetAdd { key: self.bank.ledger(), member: entry.clone() });
            tx = tx.work("redis", redis);
        }
        if self.bank.takes_part(1, transfer) {
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
