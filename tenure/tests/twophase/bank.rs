//! Many transfers among accounts on both sides, by processes that are killed at random.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tenure::transaction::coordinator::Outcome;

use crate::arena::{Bank, CENTS, Client, Servers, Transfer};

/// What a process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    bank: Bank,
    folder: PathBuf,
    number: u32,
    seed: u64,
    transfers: u64,
}

const ACCOUNTS: u32 = 100;
/// By how many locks the accounts are guarded.
const LOCKS: u32 = 8;

/// The life of such a process: transfers, until there have been enough by all of them.
pub fn teller(order: &str) {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let order: Order = serde_json::from_str(order).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work(order));
}

async fn work(Order { bank, folder, number, seed, transfers }: Order) {
    let mut log = std::fs::File::create(folder.join(format!("{number}.log"))).unwrap();
    let mut random = StdRng::seed_from_u64(seed ^ u64::from(number));
    let client = Client::open(&bank, None).await;
    for count in 0.. {
        let taken = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("taken")).unwrap();
        (&taken).write_all(b".").unwrap();
        if taken.metadata().unwrap().len() > transfers {
            break;
        }
        let (from, step) = (random.random_range(0..ACCOUNTS), random.random_range(1..ACCOUNTS));
        let (to, cents) = ((from + step) % ACCOUNTS, random.random_range(1..400));
        let transfer = Transfer { entry: format!("{number}-{count}"), from, to, cents };
        let lock = client.lock(&(from % LOCKS).to_string(), Duration::from_secs(2));
        let guard = lock.lock().await.unwrap();
        client.coordinator.recover(&guard).await.unwrap();
        let line = |what: &str| format!("{what} {} {from} {to}\n", transfer.entry);
        log.write_all(line("try").as_bytes()).unwrap();
        let outcome = client.put(client.coordinator.begin(&guard), &transfer).commit().await.unwrap();
        let what = match &outcome {
            Outcome::Committed { .. } => "committed",
            Outcome::RolledBack { .. } => "rolled-back",
            _ => "unknown",
        };
        log.write_all(line(what).as_bytes()).unwrap();
        let _ = guard.release().await;
    }
}

/// Has `processes` do `transfers`, kills them `kills` times, and looks whether the bank is in order. What to print.
pub fn run(servers: &Servers, transfers: u64, processes: u32, kills: u32) -> String {
    let seed = std::env::var("TENURE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let (bank, folder) = (servers.bank("bank", ACCOUNTS), tempfile::tempdir().unwrap());
    let start = Instant::now();
    let launch = |number: u32| -> Child {
        let order = Order { bank: bank.clone(), folder: folder.path().to_owned(), number, seed, transfers };
        let order = serde_json::to_string(&order).unwrap();
        let program = std::env::current_exe().unwrap();
        Command::new(program).args(["teller", &order]).stdin(Stdio::null()).spawn().unwrap()
    };
    let mut random = StdRng::seed_from_u64(seed);
    let mut tellers: Vec<Child> = (0..processes).map(launch).collect();
    let (mut number, mut killed) = (processes, 0);
    let taken = || std::fs::metadata(folder.path().join("taken")).map_or(0, |file| file.len());
    while killed < kills && taken() < transfers {
        // Spread over the whole of it.
        let due = transfers * u64::from(killed + 1) / u64::from(kills + 1);
        while taken() < due {
            std::thread::sleep(Duration::from_millis(1));
            assert!(tellers.iter_mut().any(|t| t.try_wait().unwrap().is_none()), "all tellers have ended too early");
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..20)));
        let n = random.random_range(0..tellers.len());
        tellers[n].kill().unwrap();
        tellers[n].wait().unwrap();
        tellers[n] = launch(number);
        (number, killed) = (number + 1, killed + 1);
    }
    for mut teller in tellers {
        assert!(teller.wait().unwrap().success(), "a teller failed; seed {seed}");
    }
    let elapsed = start.elapsed();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::open(&bank, None).await;
        // What the last of the killed have left: everybody else has ended.
        let recovered = client.coordinator.recover_older(Duration::ZERO).await.unwrap();
        assert!(recovered.is_complete(), "seed {seed}: {recovered:?}");
        assert_eq!(client.staged().await, 0, "seed {seed}: something is staged");
        assert_eq!(client.undone().await, Vec::<String>::new(), "seed {seed}");
    });
    let (total, ledgers) = servers.look(&bank);
    assert_eq!(total, i64::from(ACCOUNTS) * CENTS, "seed {seed}: money came or went");
    let told = read(&folder.path().to_owned());
    let counts = compare(&told, &ledgers, seed);
    format!(
        "{transfers} transfers by {processes} processes, {killed} of which were killed, in {:.1} s: {counts}; seed {seed}",
        elapsed.as_secs_f64()
    )
}

/// What the processes wrote down: of each transfer its plan, and its end where it was told.
fn read(folder: &PathBuf) -> BTreeMap<String, (Transfer, Option<String>)> {
    let mut told = BTreeMap::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let [what, entry, from, to] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            let transfer =
                Transfer { entry: entry.to_owned(), from: from.parse().unwrap(), to: to.parse().unwrap(), cents: 0 };
            let told = told.entry(entry.to_owned()).or_insert((transfer, None));
            if what != "try" {
                told.1 = Some(what.to_owned());
            }
        }
    }
    told
}

/// Every transfer is in all ledgers that it belongs to, or in none, and as its teller was told.
fn compare(told: &BTreeMap<String, (Transfer, Option<String>)>, ledgers: &[BTreeSet<String>; 2], seed: u64) -> String {
    let mut counts = BTreeMap::<&str, u64>::new();
    for (entry, (transfer, end)) in told {
        let happened: Vec<bool> =
            (0..2).filter(|side| transfer.is_on(*side)).map(|side| ledgers[side].contains(entry)).collect();
        assert!(happened.iter().all(|is| *is == happened[0]), "seed {seed}: {transfer:?} happened by half");
        match end.as_deref() {
            Some("committed") => assert!(happened[0], "seed {seed}: {transfer:?} was committed and is lost"),
            Some("rolled-back") => assert!(!happened[0], "seed {seed}: {transfer:?} was rolled back and happened"),
            _ => {}
        }
        *counts.entry(end.as_deref().unwrap_or("not told")).or_default() += 1;
    }
    for entry in ledgers.iter().flatten() {
        assert!(told.contains_key(entry), "seed {seed}: nobody asked for {entry}");
    }
    counts.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}
