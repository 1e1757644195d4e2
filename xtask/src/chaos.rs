//! `cargo xtask chaos`: real servers under real faults, and a checker of what the clients saw.
//!
//! It is a test program with a command of its own, `tenure/tests/chaos`, which says what it wants.

use std::time::Instant;

use crate::run::{cargo, run};
use crate::{Outcome, servers};

const TEST: &str = "test --quiet --package tenure --all-features --test chaos";

/// Builds the program, and passes everything on to it.
pub(crate) fn main(args: &[&str]) -> Outcome {
    servers::ensure(true)?;
    let mut command = cargo(TEST);
    command.args(["--", "chaos"]).args(args);
    if args.contains(&"--list") || args.contains(&"--json") {
        // Nothing else may stand in the output.
        let good = command.status().is_ok_and(|status| status.success());
        return if good { Ok(String::new()) } else { Err("not every promise was kept".to_owned()) };
    }
    let start = Instant::now();
    run(&mut command)?;
    Ok(format!("all promises kept, in {:.0} s, the build included", start.elapsed().as_secs_f64()))
}
