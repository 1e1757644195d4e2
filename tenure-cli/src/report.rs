//! What `run` says about itself on stderr: as text, more or less of it, or as JSON lines.

use std::fmt;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use serde::Serialize;

use crate::args::How;
use crate::duration;
use crate::out::say;
use crate::text::{Paint, count, json};

/// Something to be said. Names and metadata in it are printable already.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum News {
    /// The lock is busy, and that was not to be waited for, or for no longer.
    Busy { name: String, held_by: Vec<String> },
    /// The lock is waited for.
    Waiting { name: String, held_by: Vec<String>, ahead: usize },
    /// The lock could be had now.
    Free { name: String },
    /// The lock is held by what runs us.
    Nested { name: String, fence: u64 },
    /// The store has failed for some time while we wait.
    StoreAway { name: String, error: String },
    /// It answers again, and we still wait.
    StoreBack { name: String },
    /// Our place could not be given up; it will expire, and so will a hold of which we do not know.
    NotLeft { name: String, place_ms: u64, hold_ms: u64 },
    /// The lock is held.
    Acquired { name: String, fence: u64, waited_ms: u64, deadline_ms: u64 },
    /// Renewing fails, and the hold ends soon.
    InDoubt { name: String, remaining_ms: u64 },
    /// The hold is over.
    Lost { name: String, reason: String },
    /// The command has held the lock for as long as it may.
    MaxHold { name: String, held_ms: u64 },
    /// The command's group was sent a signal.
    Told { name: String, signal: &'static str },
    /// The command was stopped, and we stop with it.
    Suspended { name: String, remaining_ms: u64 },
    /// The lock was released.
    Released { name: String, held_ms: u64, was_ours: bool },
    /// The lock could not be released; it will expire.
    NotReleased { name: String, error: String },
}

/// Says an error, as JSON or as text; `code` is the exit code, where it ends the process.
pub(crate) fn say_error(message: &str, code: Option<u8>, as_json: bool) {
    #[derive(Serialize)]
    struct Error<'a> {
        event: &'static str,
        code: Option<u8>,
        message: &'a str,
    }
    if as_json {
        say(&json(&Error { event: "error", code, message }));
    } else {
        say(&format!("{} {message}", Paint::on(&stderr()).red("tenure:")));
    }
}

/// Says it, or does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    quiet: bool,
    verbose: bool,
    json: bool,
}

impl Report {
    pub(crate) fn new(how: &How, json: bool) -> Self {
        Self { quiet: how.quiet, verbose: how.verbose, json }
    }

    /// Whether a line that is drawn over and over is wanted and can be had.
    pub(crate) fn may_draw(self) -> bool {
        !self.quiet && !self.json && stderr().is_terminal()
    }

    /// Whether it speaks to machines.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    pub(crate) fn say(self, news: &News) {
        match () {
            () if self.quiet && !news.is_error() => {}
            () if self.json => say(&json(news)),
            () if self.verbose || news.is_bad() => say(&format!("tenure: {news}")),
            () => {}
        }
    }
}

impl News {
    /// Whether it is to be told even to those who want to hear of errors alone.
    fn is_error(&self) -> bool {
        match self {
            News::InDoubt { .. } | News::Lost { .. } | News::NotReleased { .. } => true,
            // Nor would it ever be otherwise.
            News::Nested { .. } => true,
            News::Released { was_ours, .. } => !was_ours,
            _ => false,
        }
    }

    /// Whether everybody else wants to know.
    fn is_bad(&self) -> bool {
        match self {
            News::Free { .. } | News::Waiting { .. } | News::Acquired { .. } | News::Told { .. } => false,
            News::Released { was_ours, .. } => !was_ours,
            _ => true,
        }
    }
}

/// ` by a, b and 3 others`, or nothing.
pub(crate) fn by(holders: &[String]) -> String {
    match holders {
        [] => String::new(),
        [one] => format!(" by {one}"),
        [one, two] => format!(" by {one} and {two}"),
        [one, two, others @ ..] => format!(" by {one}, {two} and {}", count(others.len(), "other")),
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |ms: &u64| duration::text(Duration::from_millis(*ms));
        match self {
            News::Busy { name, held_by } => write!(f, "{name} is busy: held{}", by(held_by)),
            News::Waiting { name, held_by, ahead } => {
                write!(f, "waiting for {name}, held{}; {ahead} ahead", by(held_by))
            }
            News::Free { name } => write!(f, "{name} is free"),
            News::Nested { name, fence } => write!(
                f,
                "{name} is held, with fence {fence}, by a command that this one runs under: unless that ends first, \
                 this waits for itself; use another name, or -n"
            ),
            News::StoreAway { name, error } => write!(f, "the store is away; still waiting for {name}: {error}"),
            News::StoreBack { name } => write!(f, "the store is back; still waiting for {name}"),
            News::NotLeft { name, place_ms, hold_ms } => write!(
                f,
                "the store does not answer: our place for {name} lapses by itself within {}, and a hold that it may \
                 yet grant within {}",
                time(place_ms),
                time(hold_ms)
            ),
            News::Acquired { name, fence, waited_ms, .. } => {
                write!(f, "holding {name} with fence {fence} after {}", time(waited_ms))
            }
            News::InDoubt { name, remaining_ms } => {
                write!(f, "renewing {name} fails; the hold is certain for another {}", time(remaining_ms))
            }
            News::Lost { name, reason } => write!(f, "{name} is lost: {reason}"),
            News::MaxHold { name, held_ms } => write!(f, "{name} was held for {}: ending the command", time(held_ms)),
            News::Told { signal, .. } => write!(f, "sent {signal} to the command's process group"),
            News::Suspended { name, remaining_ms } => {
                write!(f, "suspended; the hold on {name} lapses in {}", time(remaining_ms))
            }
            News::Released { name, held_ms, was_ours: true } => write!(f, "released {name} after {}", time(held_ms)),
            News::Released { name, held_ms, was_ours: false } => {
                write!(f, "{name} was no longer ours when it was released after {}", time(held_ms))
            }
            News::NotReleased { name, error } => write!(f, "{name} will expire, for it could not be released: {error}"),
        }
    }
}
