//! `cargo xtask`: what one does with this workspace beyond building it. It rests on the standard library alone, for it
//! is the first thing that a fresh machine compiles.
//!
//! | file | for |
//! | --- | --- |
//! | `test.rs` | `cargo xtask test`: the servers, then every test |
//! | `servers.rs`, `install.sh` | which servers the tests need, and how a missing one is installed |
//! | `ci.rs` | `cargo xtask ci`: the steps that a change must pass |
//! | `tree.rs` | its first step: what the source files must look like |
//! | `simulate.rs` | `cargo xtask simulate`: the client under random weather, and the bugs that this has to find |
//! | `chaos.rs` | `cargo xtask chaos`: real servers under real faults |
//! | `tx_soak.rs` | `cargo xtask tx-soak`: transfers by each kind of transaction, by processes that are killed |
//! | `bench.rs` | `cargo xtask bench`: the benchmarks, as one table |
//! | `run.rs` | running a command |

#![allow(clippy::disallowed_methods, reason = "this program lives in real time")]

mod bench;
mod chaos;
mod ci;
mod run;
mod servers;
mod simulate;
mod test;
mod tree;
mod tx_soak;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask: tests, checks and benchmarks of tenure

  cargo xtask test [--no-install] [-- FILTER…]
      Runs every test: unit, integration and documentation tests with all features, after a check that the library
      builds without features and with each alone, and then the models, in a build of their own with loom. Servers that the tests need are installed as Debian packages where
      they are missing (as root, or by sudo; their services are not started); --no-install stops there instead.
      With a FILTER, just the tests whose name contains it.
  cargo xtask ci [STEP…]
      Everything that a change must pass, or just the steps named.
  cargo xtask simulate [--seeds N] [--seed S] [--bugs [NAME…]]
      Plays N seeds from S on, 20000 from 0 where nothing is said: the whole client in a simulated network. A seed that
      breaks a promise is printed with its story and the command to play it again. With --bugs, plants one known bug
      after the other in a copy of the tree, and sees to it that each is found.
  cargo xtask chaos [--topology T]… [--nemesis N]… [--seconds S] [--seed X] [--json] [--keep] [--list]
      Real servers, three processes of clients, and a nemesis that strikes for S seconds, 10 where nothing is said; then
      what the clients saw is checked. All pairs of what is named, or all there are. --list shows which those are; --json
      prints an object for each run in place of a line,
      with the folder of the histories where --keep keeps them.
  cargo xtask tx-soak [--on redis|postgres|both|saga] [--transfers N] [--processes P] [--kills K]
      N transfers among accounts by P processes, K of which are killed: 100000, 16 and 200 where nothing is said. Others
      stand still, or have their messages held back. By fenced commits on a Redis, by the check of tokens on a Postgres, in
      two phases on both, and by sagas; one after the other where none is named. Then every account has what the
      ledgers say, nothing that was told committed is lost, and nothing is left half done.
  cargo xtask bench [NAME…]
      Runs the benchmarks one after the other and ends with a table of their figures.

Examples:
  cargo xtask test                     everything
  cargo xtask test -- hand_off         the tests with `hand_off` in their name
  cargo xtask ci clippy docs           two steps of the checks
  cargo xtask simulate --seeds 1 --seed 7
                                       one seed, with its story if it fails
  cargo xtask chaos --topology quorum3 --nemesis kill-empty
                                       ten seconds in which nodes lose all that they know
  cargo xtask bench                    every benchmark
";

/// What a command ends with: its closing line, for its output or for its errors.
type Outcome = Result<String, String>;

fn main() -> ExitCode {
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).expect("the workspace is where it was built");
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        [.., "-h" | "--help"] | ["help", ..] => Ok(HELP.trim_end().to_owned()),
        ["test", rest @ ..] => test::main(rest),
        ["ci", steps @ ..] => ci::main(steps),
        ["simulate", rest @ ..] => simulate::main(rest),
        ["chaos", rest @ ..] => chaos::main(rest),
        ["tx-soak", rest @ ..] => tx_soak::main(rest),
        ["bench", names @ ..] => bench::main(names),
        [] => Err(HELP.trim_end().to_owned()),
        [other, ..] => Err(format!(
            "there is no `cargo xtask {other}`; there are test, ci, simulate, chaos, tx-soak and bench: see --help"
        )),
    };
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(line) => {
            eprintln!("{line}");
            ExitCode::FAILURE
        }
    }
}
