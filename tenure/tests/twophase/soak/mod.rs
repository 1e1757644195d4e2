//! Many transfers among the accounts of a bank, by processes to which the worst happens at random.
//!
//! ```text
//!   tellers ── take, give ────────────▶ the accounts     a teller is killed (-9), and another one takes its place;
//!      │                                                 stands still in the middle, for longer than its hold lasts;
//!      ├── locks ── a network of its own ──▶ Redis       is cut off until what it sent is too late, or loses a reply
//!      └── what was tried, and what became of it ──▶ a file for each teller
//! ```
//!
//! In the end every account has what the ledgers say, the ledgers have what the tellers were told, and nothing is left
//! half done. `redis.rs`, `postgres.rs`, `both.rs` and `sagas.rs` are the ways in which a transfer is made.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tenure::Locks;
use tenure::store::Store;

use crate::arena::{Bank, CENTS, On, Servers, Transfer};

mod both;
mod postgres;
mod redis;
mod sagas;

/// How much of it, and how much goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub transfers: u64,
    pub accounts: u32,
    pub processes: u32,
    /// How many of them are killed; of each other mishap there are about as many.
    pub kills: u32,
}

impl Size {
    /// Whether a mishap comes to pass that may in every transfer.
    fn befalls(self) -> bool {
        rand::random_range(0..self.transfers) < u64::from(self.kills)
    }

    /// Now and then the whole process stands still, for longer than its hold lasts.
    fn stand_still(self) {
        if self.befalls() {
            std::thread::sleep(TTL + ms(rand::random_range(100..1_000)));
        }
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What a process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    bank: Bank,
    folder: PathBuf,
    number: u32,
    seed: u64,
    size: Size,
}

/// By how many locks the accounts are guarded where a transfer is under one.
const GROUPS: u32 = 16;
/// How many transfers a teller takes at a time: where one lock is for a group, all under one hold.
const BATCH: u32 = 8;
/// For how long a dead teller keeps others waiting.
const TTL: Duration = Duration::from_secs(2);
/// The life of a teller: transfers, until there have been enough by all of them.
pub fn teller(order: &str) {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let order: Order = serde_json::from_str(order).unwrap();
    // With one thread, so that nothing renews while it stands still.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (bank, mut book) = (order.bank.clone(), Book::open(order));
        match bank.on {
            On::Redis => redis::work(&bank, &mut book).await,
            On::Postgres => postgres::work(&bank, &mut book).await,
            On::Both => both::work(&bank, &mut book).await,
            On::Saga => sagas::work(&bank, &mut book).await,
        }
    });
}

/// What a teller has to do, how it gets to its locks, and where it writes down what it did. What was written outlives the
/// process; it would take the end of the machine to lose it.
struct Book {
    log: File,
    /// A byte for each transfer that some teller took.
    taken: File,
    random: StdRng,
    number: u32,
    count: u32,
    size: Size,
    link: Arc<testkit::Link>,
}

impl Book {
    fn open(Order { bank, folder, number, seed, size }: Order) -> Self {
        let append = |name: &str| OpenOptions::new().create(true).append(true).open(folder.join(name)).unwrap();
        let random = StdRng::seed_from_u64(seed ^ (u64::from(number) << 32));
        let server = bank.redis.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap();
        let link = Arc::new(testkit::Link::to(server));
        Self { log: append(&format!("{number}.log")), taken: append("taken"), random, number, count: 0, size, link }
    }

    /// Its locks, by its own network. Every other teller gives up sooner than its hold ends.
    async fn locks(&self) -> Locks {
        locks(&format!("redis://127.0.0.1:{}", self.link.port()), self.op_timeout()).await
    }

    fn op_timeout(&self) -> Duration {
        if self.number.is_multiple_of(2) { ms(300) } else { ms(1_200) }
    }

    /// Now and then a reply is lost, or what is sent from here on comes late: either nobody waits for it any more, but the
    /// hold is still in; or it is still waited for, and the hold is gone.
    fn disturb(&self) {
        if self.size.befalls() {
            self.link.lose(1);
        }
        if self.size.befalls() {
            self.link.cut(true, false);
            let late = 3 * self.op_timeout() + ms(50);
            let late = if late < TTL { late..late + ms(300) } else { TTL + ms(50)..late - ms(500) };
            let (link, late) = (self.link.clone(), rand::random_range(late));
            tokio::spawn(async move {
                tokio::time::sleep(late).await;
                link.heal();
            });
        }
    }

    /// The next transfers, from accounts of one group; none when there have been enough.
    fn next(&mut self) -> Vec<Transfer> {
        self.taken.write_all(&[b'.'; BATCH as usize]).unwrap();
        if self.taken.metadata().unwrap().len() > self.size.transfers.next_multiple_of(u64::from(BATCH)) {
            return Vec::new();
        }
        let group = self.random.random_range(0..GROUPS.min(self.size.accounts));
        (0..BATCH).map(|_| self.draw(group)).collect()
    }

    fn draw(&mut self, group: u32) -> Transfer {
        self.count += 1;
        let accounts = self.size.accounts;
        let members = (accounts - group).div_ceil(GROUPS);
        let from = group + GROUPS * self.random.random_range(0..members);
        let to = (from + self.random.random_range(1..accounts)) % accounts;
        Transfer { entry: format!("{}-{}", self.number, self.count), from, to, cents: self.random.random_range(1..100) }
    }

    /// Writes down a transfer that is about to be tried, under an id by which it can be asked for.
    fn plan(&mut self, transfer: &Transfer, id: &str) {
        let Transfer { entry, from, to, cents } = transfer;
        self.log.write_all(format!("try {entry} {from} {to} {cents} {id}\n").as_bytes()).unwrap();
    }

    /// Writes down what it was told of one.
    fn note(&mut self, transfer: &Transfer, what: &str) {
        self.log.write_all(format!("{what} {}\n", transfer.entry).as_bytes()).unwrap();
    }
}

/// A client of the locks at a URL.
async fn locks(url: &str, op_timeout: Duration) -> Locks {
    let store: Arc<dyn Store> = Arc::new(insist(|| tenure::store::Redis::connect(url)).await);
    Locks::builder(store).ttl(TTL).op_timeout(op_timeout).build().unwrap()
}

/// What comes of it, however often the network stands in the way.
async fn insist<T>(mut attempt: impl AsyncFnMut() -> tenure::Result<T>) -> T {
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if error.is_transient() || error.is_ambiguous() || error.is_lost() => {
                tokio::time::sleep(ms(5)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// What the tellers wrote down of a transfer.
#[derive(Debug)]
struct Told {
    transfer: Transfer,
    id: String,
    end: Option<String>,
    was_unknown: bool,
}

/// Has a bank work under all that, and looks whether it is in order. What to print.
pub fn run(servers: &Servers, on: On, size: Size) -> String {
    let seed = std::env::var("TENURE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let Size { transfers, accounts, processes, kills } = size;
    let (bank, folder) = (servers.bank_on(on, &format!("soak-{on:?}"), accounts), tempfile::tempdir().unwrap());
    let start = Instant::now();
    let launch = |number: u32| -> Child {
        let order = Order { bank: bank.clone(), folder: folder.path().to_owned(), number, seed, size };
        let order = serde_json::to_string(&order).unwrap();
        let program = std::env::current_exe().unwrap();
        Command::new(program).args(["teller", &order]).stdin(Stdio::null()).spawn().unwrap()
    };
    let mut random = StdRng::seed_from_u64(seed);
    let mut tellers: Vec<Child> = (0..processes).map(launch).collect();
    let (mut number, mut killed) = (processes, 0);
    let taken = || std::fs::metadata(folder.path().join("taken")).map_or(0, |file| file.len());
    while tellers.iter_mut().any(|teller| teller.try_wait().unwrap().is_none()) {
        std::thread::sleep(ms(1));
        // Spread over the whole of it.
        if killed == kills || taken() < transfers * u64::from(killed + 1) / u64::from(kills + 1) {
            continue;
        }
        std::thread::sleep(ms(random.random_range(0..20)));
        let n = random.random_range(0..tellers.len());
        tellers[n].kill().unwrap();
        tellers[n].wait().unwrap();
        tellers[n] = launch(number);
        (number, killed) = (number + 1, killed + 1);
    }
    for teller in &mut tellers {
        assert!(teller.wait().unwrap().success(), "a teller failed; seed {seed}");
    }
    let elapsed = start.elapsed().as_secs_f64();
    let mut told = read(folder.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match on {
            On::Redis => redis::finish(&bank, &mut told).await,
            On::Postgres => {}
            On::Both => both::finish(&bank).await,
            On::Saga => sagas::finish(&bank, &mut told).await,
        }
    });
    let counts = compare(servers, &bank, &told, seed);
    let rate = transfers as f64 / elapsed;
    format!(
        "{on:?}: {transfers} transfers by {processes} processes, {killed} of which were killed, in {elapsed:.1} s \
         ({rate:.0}/s): {counts}; seed {seed}"
    )
}

/// What the processes wrote down, by the entry in the ledger.
fn read(folder: &Path) -> BTreeMap<String, Told> {
    let mut told = BTreeMap::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        for line in std::fs::read_to_string(path).unwrap().lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["try", entry, from, to, cents, id] => {
                    let [from, to] = [from, to].map(|n| n.parse().unwrap());
                    let transfer = Transfer { entry: entry.to_owned(), from, to, cents: cents.parse().unwrap() };
                    told.insert(entry.to_owned(), Told { transfer, id: id.to_owned(), end: None, was_unknown: false });
                }
                ["unknown", entry] => told.get_mut(entry).expect("it was planned").was_unknown = true,
                [what, entry] => told.get_mut(entry).expect("it was planned").end = Some(what.to_owned()),
                _ => panic!("{line:?}"),
            }
        }
    }
    told
}

/// Every transfer is in all ledgers that it belongs to, or in none, and as its teller was told; and every account has what
/// comes of those that are.
fn compare(servers: &Servers, bank: &Bank, told: &BTreeMap<String, Told>, seed: u64) -> String {
    let (balances, ledgers) = servers.look(bank);
    let mut expected: BTreeMap<u32, i64> = (0..bank.accounts).map(|n| (n, CENTS)).collect();
    let mut counts = BTreeMap::<&str, u64>::new();
    for (entry, Told { transfer, end, was_unknown, .. }) in told {
        let sides = (0..2).filter(|side| bank.takes_part(*side, transfer));
        let happened: Vec<bool> = sides.map(|side| ledgers[side].contains(entry)).collect();
        assert!(happened.iter().all(|is| *is == happened[0]), "seed {seed}: {transfer:?} happened by half");
        match end.as_deref() {
            Some("committed") => assert!(happened[0], "seed {seed}: {transfer:?} was committed and is lost"),
            Some("rolled-back") => assert!(!happened[0], "seed {seed}: {transfer:?} was rolled back and happened"),
            _ => {}
        }
        if happened[0] {
            *expected.get_mut(&transfer.from).unwrap() -= transfer.cents;
            *expected.get_mut(&transfer.to).unwrap() += transfer.cents;
        }
        *counts.entry("unknown at first").or_default() += u64::from(*was_unknown);
        *counts.entry(end.as_deref().unwrap_or("not told")).or_default() += 1;
    }
    for entry in ledgers.iter().flatten() {
        assert!(told.contains_key(entry), "seed {seed}: nobody asked for {entry}");
    }
    assert_eq!(balances.values().sum::<i64>(), i64::from(bank.accounts) * CENTS, "seed {seed}: money came or went");
    assert_eq!(balances, expected, "seed {seed}: an account has not what the ledgers say");
    counts.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}
