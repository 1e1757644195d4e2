//! The command `tenure`: runs commands under a lock that other machines see, and shows who holds what.
//!
//! ```text
//!   tenure run NAME -- CMD          main thread: one runtime, one task for each wait
//!     ├── open the store, take the lock              run.rs, waiting.rs
//!     ├── tenure __exec … CMD ──exec──▶ CMD          child.rs, exec.rs: its own group, dies with us
//!     ├── signals in, stops and the end out, loss    supervise.rs, loss.rs, terminal.rs
//!     └── release; the command's exit code is ours   exit.rs
//! ```

mod args;
mod child;
mod clock;
mod commands;
mod doctor;
mod duration;
mod exec;
mod exit;
mod exporter;
mod help;
mod look;
mod loss;
mod out;
mod quorum;
mod report;
mod run;
mod signals;
mod store;
mod supervise;
mod terminal;
mod text;
mod tx;
mod waiting;
mod watch;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::args::Cli;
use crate::exit::{NOTHING, Result, USAGE};
use crate::report::say_error;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|argument| argument == exec::NAME) {
        return exec::run(arguments);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let as_json = cli.json;
    match start(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            say_error(&failure.message, Some(failure.code), as_json);
            ExitCode::from(failure.code)
        }
    }
}

/// Ends with what the command line came to instead of something to do: help, or what is wrong with it.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = Cli::command().print_help();
        return ExitCode::from(NOTHING);
    }
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let message = error.render().to_string();
    let message = message.strip_prefix("error: ").unwrap_or(&message).trim_end();
    let as_json = std::env::args_os().take_while(|argument| argument != "--").any(|argument| argument == "--json");
    say_error(message, Some(USAGE), as_json);
    ExitCode::from(USAGE)
}

fn start(cli: Cli) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| exit::Failure::system("the runtime cannot be started", error))?;
    let result = runtime.block_on(commands::run(cli));
    // A store that still waits for something in a thread of its own is not worth waiting for.
    runtime.shutdown_background();
    result
}
