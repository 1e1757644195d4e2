//! What happened: one entry for each operation of each task, in a file for each process.
//!
//! All times are microseconds on `CLOCK_MONOTONIC`, which all processes of a machine have in common.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Microseconds since some start, the same for all processes.
pub(crate) type Micros = u64;

pub(crate) fn now() -> Micros {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// Which task of which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Who(pub(crate) u32, pub(crate) u32);

/// One acquisition and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) who: Who,
    /// Names the acquisition: no other one of the run has the number.
    pub(crate) id: u64,
    pub(crate) name: String,
    /// When it was asked for.
    pub(crate) called: Micros,
    pub(crate) end: End,
    /// When all was over.
    pub(crate) ended: Micros,
    /// What was held, if anything.
    pub(crate) hold: Option<Held>,
}

/// A hold as its holder saw it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) fence: u64,
    /// When the holder had it.
    pub(crate) granted: Micros,
    /// The first and the last moment at which it was looked at and certain, if there was one.
    pub(crate) certain: Option<(Micros, Micros)>,
    /// A write that was asked for and answered while the hold was certain was refused for its token.
    pub(crate) refused: bool,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    /// It was held, and certain until its release, which said that it was ours.
    Released,
    /// It was held, and lost.
    Lost,
    /// It was held and certain, and its release failed or said that it was no longer ours.
    Unsure(String),
    /// Somebody else had it, and it was not waited for.
    Busy,
    /// It was waited for in vain.
    Timeout,
    Failed(String),
}

impl Entry {
    /// Whether it did what it was meant to.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.end, End::Released | End::Busy)
    }
}

/// All entries so far, in the order in which they ended. A line that is just being written is left out.
pub(crate) fn read(folder: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    for file in std::fs::read_dir(folder).expect("the folder is there") {
        let path = file.expect("the folder can be read").path();
        if path.extension().is_some_and(|extension| extension == "history") {
            let text = std::fs::read_to_string(&path).expect("a history can be read");
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            entries.extend(whole.lines().map(|line| serde_json::from_str::<Entry>(line).expect("it was written so")));
        }
    }
    entries.sort_by_key(|entry| entry.ended);
    entries
}

/// The entries of each lock that held it.
pub(crate) fn by_name(entries: &[Entry]) -> BTreeMap<&str, Vec<(&Entry, &Held)>> {
    let mut names: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for entry in entries {
        if let Some(hold) = &entry.hold {
            names.entry(&entry.name).or_default().push((entry, hold));
        }
    }
    names
}
