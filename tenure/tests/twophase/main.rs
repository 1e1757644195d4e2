//! Two-phase transactions between a real Redis and a real Postgres, with everything failing that can; and a bank by each of
//! the ways in which something can be done as a whole.
//!
//! * `arena.rs` the servers, a bank on both of them, and what must be so of it in the end;
//! * `point.rs` every persisted step of a transaction, and how something is made to happen before or after it;
//! * `crash.rs` a process that kills itself there (SIGKILL), and two that recover at once;
//! * `late.rs` every message once so late that all is over, and the lock lost at each step;
//! * `soak/` many transfers by many processes that are killed at random; `cargo xtask tx-soak` does more of them.

#![allow(missing_docs, unreachable_pub, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use arena::On;

mod arena;
mod crash;
mod late;
mod point;
mod soak;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["worker", order] => {
            crash::worker(order);
            ExitCode::SUCCESS
        }
        ["teller", order] => {
            soak::teller(order);
            ExitCode::SUCCESS
        }
        ["soak", on, transfers, processes, kills] => {
            let number = |text: &str| text.parse::<u32>().expect("three numbers: transfers, processes, kills");
            let (_, on) = BANKS.into_iter().find(|(name, _)| name == on).expect("redis, postgres, both or saga");
            let (processes, kills) = (number(processes), number(kills));
            let size = soak::Size { transfers: number(transfers).into(), accounts: 100, processes, kills };
            println!("{}", soak::run(&arena::SERVERS, on, size));
            ExitCode::SUCCESS
        }
        _ => tests(),
    }
}

const BANKS: [(&str, On); 4] =
    [("redis", On::Redis), ("postgres", On::Postgres), ("both", On::Both), ("saga", On::Saga)];

/// With so few accounts that whoever comes too late meets somebody else.
const SMALL: soak::Size = soak::Size { transfers: 800, accounts: 12, processes: 6, kills: 10 };

fn tests() -> ExitCode {
    let trial = |name: String, run: fn(&str), point: &'static str| {
        Trial::test(name, move || {
            run(point);
            Ok(())
        })
    };
    let crashes = point::ALL.iter().map(|point| trial(format!("crash::{point}"), crash::at, point));
    let late = point::CALLS.iter().map(|call| trial(format!("late::{call}"), late::a_message, call));
    let lost = point::ALL.iter().map(|point| trial(format!("lost::{point}"), late::the_lock, point));
    let bank = |(name, on): (&str, On)| {
        Trial::test(format!("bank::{name}"), move || {
            println!("{}", soak::run(&arena::SERVERS, on, SMALL));
            Ok(())
        })
    };
    let trials = BANKS.into_iter().map(bank).chain(crashes).chain(late).chain(lost).collect();
    let mut arguments = Arguments::from_args();
    // They wait more than they work.
    arguments.test_threads = arguments.test_threads.or(Some(4));
    libtest_mimic::run(&arguments, trials).exit_code()
}
