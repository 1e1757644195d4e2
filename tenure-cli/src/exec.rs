//! `tenure __exec PARENT FOREGROUND JSON CMD ARGS…`: the last step between us and the command.
//!
//! It runs in the command's process, makes it die with us, takes the terminal for it, and becomes it. All of that has to
//! happen between fork and exec, where only a program of its own can do it without unsafe code.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{getpgrp, getppid};

use crate::exit::{CANNOT_RUN, NOT_FOUND, USAGE, signalled};
use crate::report::say_error;
use crate::terminal::Terminal;
use crate::text::printable;

/// The name of the hidden subcommand.
pub(crate) const NAME: &str = "__exec";

/// The arguments that come before the command.
pub(crate) fn arguments(foreground: bool, as_json: bool) -> [String; 4] {
    let [foreground, as_json] = [foreground, as_json].map(|flag| u8::from(flag).to_string());
    [NAME.to_owned(), std::process::id().to_string(), foreground, as_json]
}

/// Becomes the command; returns only if it cannot.
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut number = || arguments.next()?.to_str()?.parse::<i32>().ok();
    let (Some(parent), Some(foreground), Some(as_json)) = (number(), number(), number()) else {
        return ExitCode::from(USAGE);
    };
    let Some(program) = arguments.next() else { return ExitCode::from(USAGE) };

    // Tied to the thread that spawned us, which is the main one. It is KILL, because nobody would be left to see to it
    // that a TERM is heeded before the hold ends.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    if getppid().is_none_or(|pid| pid.as_raw_nonzero().get() != parent) {
        return ExitCode::from(signalled(9));
    }
    if foreground == 1
        && let Some(mut terminal) = Terminal::open()
    {
        terminal.give(getpgrp());
    }

    let error = Command::new(&program).args(arguments).exec();
    let why = error.to_string();
    let why = why.split(" (os error").next().unwrap_or_default();
    let code = if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN };
    say_error(&format!("{}: {why}", printable(&program.to_string_lossy())), Some(code), as_json == 1);
    ExitCode::from(code)
}
