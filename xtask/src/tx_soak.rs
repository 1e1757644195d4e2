//! `cargo xtask tx-soak`: the bank-transfer test at its full size.
//!
//! It is a test program with a command of its own, `tenure/tests/twophase`.

use std::time::Instant;

use crate::run::{cargo, run};
use crate::{Outcome, servers};

const TEST: &str = "test --quiet --package tenure --features redis,postgres --test twophase";

/// `[--transfers N] [--processes P] [--kills K]`
pub(crate) fn main(args: &[&str]) -> Outcome {
    let (mut transfers, mut processes, mut kills) = (100_000, 16, 200);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().and_then(|value| value.parse::<u64>().ok());
        let value = value.ok_or_else(|| format!("{arg} wants a number: see --help"))?;
        match *arg {
            "--transfers" => transfers = value,
            "--processes" => processes = value,
            "--kills" => kills = value,
            other => return Err(format!("`cargo xtask tx-soak` does not know {other}: see --help")),
        }
    }
    servers::ensure(true)?;
    let start = Instant::now();
    let mut command = cargo(TEST);
    command.args(["--", "soak"]).args([transfers, processes, kills].map(|number| number.to_string()));
    run(&mut command)?;
    Ok(format!("the bank is in order, after {:.0} s, the build included", start.elapsed().as_secs_f64()))
}
