//! How a command ends: exit codes, and the one line that says why.
//!
//! The codes that are ours keep clear of the command's own: those below 128 are of sysexits.h, timeout(1) and env(1).

use std::fmt;

use tenure::ErrorKind;

use crate::text;

/// It was answered no.
pub(crate) const DECLINED: u8 = 1;
/// Nothing was asked for, so help was printed, as most commands have it.
pub(crate) const NOTHING: u8 = 2;
/// The command line cannot be meant (EX_USAGE).
pub(crate) const USAGE: u8 = 64;
/// The store cannot be reached, or does not do what it should (EX_UNAVAILABLE).
pub(crate) const STORE: u8 = 69;
/// The system refuses what it should not: no process, no pipe (EX_OSERR).
pub(crate) const SYSTEM: u8 = 71;
/// The lock is busy (EX_TEMPFAIL).
pub(crate) const BUSY: u8 = 75;
/// The hold was lost before the command ended (EX_PROTOCOL, which has no better use here).
pub(crate) const LOST: u8 = 76;
/// `tenure doctor` found something worse than a note (EX_CONFIG).
pub(crate) const FOUND: u8 = 78;
/// The command was ended because its time was over, as timeout(1) has it.
pub(crate) const MAX_HOLD: u8 = 124;
/// The command cannot be run, as env(1) has it.
pub(crate) const CANNOT_RUN: u8 = 126;
/// The command cannot be found, as env(1) has it.
pub(crate) const NOT_FOUND: u8 = 127;

/// The code of something that signal `number` ended.
pub(crate) fn signalled(number: i32) -> u8 {
    128u8.saturating_add(number as u8)
}

/// Why nothing came of it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// What is printed after `tenure: `; nothing, where it was said already.
    pub(crate) message: String,
}

/// What every part of the command returns.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    pub(crate) fn system(what: &str, error: impl fmt::Display) -> Self {
        Self::new(SYSTEM, format!("{what}: {error}"))
    }
}

impl From<tenure::Error> for Failure {
    fn from(error: tenure::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Invalid | ErrorKind::Mismatch => USAGE,
            ErrorKind::Timeout => BUSY,
            ErrorKind::Lost => LOST,
            _ => STORE,
        };
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !message.contains(&cause_text) {
                message += &format!(": {cause_text}");
            }
            source = cause.source();
        }
        // A store's message may carry what others wrote into the store.
        Self::new(code, text::printable(&message))
    }
}
