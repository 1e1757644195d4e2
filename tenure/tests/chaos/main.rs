//! Real servers, real processes, real faults, and a checker of what the clients saw.
//!
//! ```text
//!   process of clients ─┐                    ┌─ link ── redis-server
//!   process of clients ─┼── locks, by URL ───┼─ link ── redis-server      ◀── nemesis
//!   process of clients ─┘                    └─ link ── redis-server
//!        │      └── reads and writes with its token ──▶ a resource that refuses older ones
//!        └── history ──▶ checker
//! ```
//!
//! As a test it runs a short selection, and shows that the checker sees what it is to see. `cargo xtask chaos` runs the
//! rest. A seed decides what is done and when it is meant to be; how the machine's processes take turns it cannot decide,
//! so a run is repeated in kind, not in each step.
//!
//! * `topology.rs` is what is deployed, `nemesis.rs` what is done to it, `faults.rs`, `failover.rs` and `members.rs` how;
//! * `worker.rs` is a process of clients, `crowd.rs` all of them, `resource.rs` what they protect;
//! * `history.rs` is what they tell, `checker.rs` what must be so of it, `planted.rs` where it is not;
//! * `run.rs` does one run and reports.

#![allow(missing_docs, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "it needs /proc and LD_PRELOAD"))]

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};

mod chance;
mod checker;
mod crowd;
mod failover;
mod faults;
mod history;
mod members;
mod nemesis;
mod planted;
mod resource;
mod run;
mod topology;
mod worker;

use nemesis::Nemesis;
use run::{Plan, run};
use topology::Topology;

/// What runs with all other tests: each topology, a pause, a lost reply, a failover, a change of members.
const SHORT: &[(Topology, Nemesis)] = &[
    (Topology::Single, Nemesis::LoseReply),
    (Topology::Quorum3, Nemesis::Members),
    (Topology::Quorum5, Nemesis::StopMinority),
    (Topology::Ring3, Nemesis::KillKeep),
    (Topology::Sentinel, Nemesis::Failover),
    (Topology::Cluster, Nemesis::SlotMigration),
];

/// Ctrl-C: everything ends in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interrupted;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED.load(Relaxed)
}

/// Sleeps, unless all is to end.
pub(crate) fn rest(length: Duration) -> Result<(), Interrupted> {
    let until = Instant::now() + length;
    while !is_interrupted() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
    Err(Interrupted)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["worker", order] => {
            worker::main(order);
            ExitCode::SUCCESS
        }
        ["chaos", rest @ ..] => {
            heed_signals();
            command(rest)
        }
        _ => tests(),
    }
}

fn tests() -> ExitCode {
    heed_signals();
    let planted = planted::PLANTED.iter().map(|(name, check)| {
        Trial::test(format!("checker::{name}"), move || {
            check();
            Ok(())
        })
    });
    let short = SHORT.iter().map(|&(topology, nemesis)| {
        Trial::test(format!("{topology}::{nemesis}"), move || {
            let seed = std::env::var("TENURE_SEED").ok().and_then(|seed| seed.parse().ok());
            // A change of members takes some seconds, and one that joined has to leave.
            let seconds = if nemesis == Nemesis::Members { 8 } else { 5 };
            let plan = Plan { topology, nemesis, seconds, seed: seed.unwrap_or(1), keep: false };
            let report = run(plan).map_err(|Interrupted| "interrupted")?;
            println!("{}", report.text());
            if report.is_good() { Ok(()) } else { Err(report.text().into()) }
        })
    });
    let trials = planted.chain(short).collect();
    let mut arguments = Arguments::from_args();
    // They wait more than they work.
    arguments.test_threads = arguments.test_threads.or(Some(3));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// `[--list] [--topology T]… [--nemesis N]… [--seconds S] [--seed X] [--json] [--keep]`
fn command(args: &[&str]) -> ExitCode {
    let asked = match Asked::read(args) {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    if asked.list {
        list();
        return ExitCode::SUCCESS;
    }
    let mut good = true;
    for plan in asked.plans() {
        let Ok(report) = run(plan) else {
            eprintln!("interrupted; all processes are ended");
            return ExitCode::FAILURE;
        };
        good &= report.is_good();
        let json = asked.json.then(|| serde_json::to_string(&report).expect("it can be written"));
        println!("{}", json.unwrap_or_else(|| report.text()));
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Debug, Default)]
struct Asked {
    topologies: Vec<Topology>,
    nemeses: Vec<Nemesis>,
    seconds: Option<u64>,
    seed: Option<u64>,
    json: bool,
    keep: bool,
    list: bool,
}

impl Asked {
    fn read(args: &[&str]) -> Result<Self, String> {
        let (mut asked, mut args) = (Self::default(), args.iter());
        while let Some(arg) = args.next() {
            match *arg {
                "--json" => asked.json = true,
                "--keep" => asked.keep = true,
                "--list" => asked.list = true,
                "--topology" | "--nemesis" | "--seconds" | "--seed" => {
                    let value = *args.next().ok_or_else(|| format!("{arg} wants a value"))?;
                    let unknown = || format!("{arg} {value:?} is none of those that there are: see --list");
                    match *arg {
                        "--topology" => asked.topologies.push(Topology::named(value).ok_or_else(unknown)?),
                        "--nemesis" => asked.nemeses.push(Nemesis::named(value).ok_or_else(unknown)?),
                        _ => {
                            let number = value.parse().map_err(|_| format!("{arg} wants a number, not {value:?}"))?;
                            *(if *arg == "--seed" { &mut asked.seed } else { &mut asked.seconds }) = Some(number);
                        }
                    }
                }
                other => return Err(format!("`cargo xtask chaos` does not know {other}: see --help")),
            }
        }
        if let ([topology], [nemesis]) = (&asked.topologies[..], &asked.nemeses[..])
            && !nemesis.fits(*topology)
        {
            return Err(format!("{nemesis} cannot be done to {topology}: see --list"));
        }
        Ok(asked)
    }

    /// All that fit together of those named; all there are where none is.
    fn plans(&self) -> Vec<Plan> {
        let topologies = if self.topologies.is_empty() { &Topology::ALL[..] } else { &self.topologies };
        let every: Vec<Nemesis> = Nemesis::all().collect();
        let nemeses = if self.nemeses.is_empty() { &every } else { &self.nemeses };
        let (seconds, seed) = (self.seconds.unwrap_or(10), self.seed.unwrap_or(1));
        let pairs = topologies.iter().flat_map(|topology| nemeses.iter().map(move |nemesis| (*topology, *nemesis)));
        let fit = pairs.filter(|(topology, nemesis)| nemesis.fits(*topology));
        fit.map(|(topology, nemesis)| Plan { topology, nemesis, seconds, seed, keep: self.keep }).collect()
    }
}

fn list() {
    let names: String = Topology::ALL.iter().map(|topology| format!("{:16}", topology.name())).collect();
    println!("{:19}{names}", "");
    for nemesis in Nemesis::all() {
        let mark = |topology: &Topology| match (nemesis.fits(*topology), nemesis.breaks(*topology)) {
            (false, _) => "-",
            (true, None) => "x",
            (true, Some(_)) => "o",
        };
        let marks: String = Topology::ALL.iter().map(|topology| format!("{:16}", mark(topology))).collect();
        println!("{:19}{marks} {}", nemesis.name(), nemesis.does());
    }
    println!("\nx: holds must not overlap; o: they may, and are counted; -: cannot be done");
}

/// SIGINT and SIGTERM end a run in order, so that it takes its processes along.
fn heed_signals() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be built").block_on(async {
            let terminate = tokio::signal::unix::SignalKind::terminate();
            let mut terminate = tokio::signal::unix::signal(terminate).expect("a signal can be heeded");
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            INTERRUPTED.store(true, Relaxed);
        });
    });
}
