//! `cargo xtask tx-soak`: the bank-transfer test at its full size, by each of the ways in which a transfer can be made.
//!
//! It is a test program with a command of its own, `tenure/tests/twophase/soak`.

use std::time::Instant;

use crate::run::{cargo, run};
use crate::{Outcome, servers};

/// Sixteen processes share the machine with their servers, so the library is optimised; no other build is needed for that.
const TEST: &str = "test --quiet --config profile.dev.opt-level=2 --package tenure --all-features --test twophase";
const WAYS: [&str; 4] = ["redis", "postgres", "both", "saga"];

/// `[--on redis|postgres|both|saga] [--transfers N] [--processes P] [--kills K]`
pub(crate) fn main(args: &[&str]) -> Outcome {
    let (mut ways, mut transfers, mut processes, mut kills) = (WAYS.to_vec(), 100_000, 16, 200);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} wants a value: see --help"))?;
        let number = || value.parse::<u32>().map_err(|_| format!("{arg} wants a number, not {value}: see --help"));
        match *arg {
            "--on" if WAYS.contains(value) => ways = vec![value],
            "--on" => return Err(format!("--on is one of {}, not {value}", WAYS.join(", "))),
            "--transfers" => transfers = number()?,
            "--processes" => processes = number()?,
            "--kills" => kills = number()?,
            other => return Err(format!("`cargo xtask tx-soak` does not know {other}: see --help")),
        }
    }
    servers::ensure(true)?;
    let start = Instant::now();
    for way in ways {
        let mut command = cargo(TEST);
        command.args(["--", "soak", way]).args([transfers, processes, kills].map(|number| number.to_string()));
        run(&mut command)?;
    }
    Ok(format!("the bank is in order, after {:.0} s, the build included", start.elapsed().as_secs_f64()))
}
