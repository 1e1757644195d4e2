//! A participant of one's own: files that appear in a folder when a transaction commits, and not before.
//!
//! Run it with `cargo run --example participant`; `tests/participants.rs` tries every promise on it.
//!
//! ```text
//!   folder/report.txt           what was committed
//!   folder/.shares/ID.json      a transaction's share: staged, committed or rolled back, with the files' contents
//!   folder/.shares/fence-LOCK   the newest token of a lock
//! ```
//!
//! Each file is written beside its place, synced, renamed, and the folder synced: it is there as a whole, or not at all. One
//! share is one file, so each step ends with one rename, and can be done again where it was interrupted before.

#![allow(clippy::disallowed_methods, reason = "an example")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tenure::transaction::participant::{Ack, Branch, Did, Refusal, Share, ShareState, Vote};
use tenure::transaction::{Coordinator, Participant};
use tenure::{Error, ErrorKind, Fence, Result};

/// A folder that takes at most so many files.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    most: usize,
}

/// The work: files by name, with their contents.
pub(crate) type Files = BTreeMap<String, String>;

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    branch: Branch,
    state: String,
    forget: bool,
    files: Files,
}

impl Folder {
    pub(crate) fn open(path: impl Into<PathBuf>, most: usize) -> io::Result<Self> {
        let path = path.into();
        fs::create_dir_all(path.join(".shares"))?;
        Ok(Self { path, most })
    }

    /// How many files it still takes.
    pub(crate) fn room(&self) -> io::Result<usize> {
        let staged = self.kept()?.into_iter().filter(|kept| kept.state == "staged");
        let reserved: usize = staged.map(|kept| kept.files.len()).sum();
        let present = fs::read_dir(&self.path)?.filter(|file| file.as_ref().is_ok_and(|file| file.path().is_file()));
        Ok(self.most.saturating_sub(present.count() + reserved))
    }

    /// One step at a time, among all processes.
    fn alone<T>(&self, step: impl FnOnce() -> io::Result<T>) -> Result<T> {
        let run = || {
            let lock = File::create(self.path.join(".shares/lock"))?;
            lock.lock()?;
            step()
        };
        // Half of it may have been done: whoever asks again has it done to the end.
        run().map_err(|error: io::Error| Error::with_source(ErrorKind::NoReply, error.to_string(), error))
    }

    fn shares(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(".shares").join(name)
    }

    fn kept(&self) -> io::Result<Vec<Kept>> {
        let mut all = Vec::new();
        for file in fs::read_dir(self.path.join(".shares"))? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                all.push(serde_json::from_slice::<Kept>(&fs::read(path)?)?);
            }
        }
        all.sort_by_key(|kept| (kept.branch.fence, kept.branch.id));
        Ok(all)
    }

    fn find(&self, branch: &Branch) -> io::Result<Option<Kept>> {
        Ok(self.kept()?.into_iter().find(|kept| kept.branch.id == branch.id))
    }

    fn keep(&self, kept: &Kept) -> io::Result<()> {
        write(&self.shares(format!("{}.json", kept.branch.id)), &serde_json::to_vec(kept)?)
    }

    fn fence_file(&self, lock: &str) -> PathBuf {
        let name: String = lock.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.shares(format!("fence-{name}"))
    }

    fn fence(&self, lock: &str) -> io::Result<Fence> {
        match fs::read_to_string(self.fence_file(lock)) {
            Ok(text) => Ok(Fence::new(text.parse().map_err(io::Error::other)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Fence::NONE),
            Err(error) => Err(error),
        }
    }

    fn stage(&self, branch: &Branch, work: &[u8]) -> io::Result<Vote> {
        let refuse = |refusal| Ok(Vote::Refused(refusal));
        match self.find(branch)?.map(|kept| kept.state) {
            Some(state) if state == "rolled-back" => return refuse(Refusal::RolledBack),
            Some(_) => return Ok(Vote::Prepared),
            None => {}
        }
        let newest = self.fence(&branch.lock)?;
        if newest > branch.fence {
            return refuse(Refusal::Stale { newest });
        }
        let of_lock: Vec<Kept> = self.kept()?.into_iter().filter(|kept| kept.branch.lock == branch.lock).collect();
        let older = of_lock.iter().filter(|kept| kept.branch.fence < branch.fence);
        if let Some(staged) = older.clone().find(|kept| kept.state == "staged") {
            return refuse(Refusal::InDoubt { id: staged.branch.id });
        }
        let Ok(files) = serde_json::from_slice::<Files>(work) else {
            return refuse(Refusal::Unable("the work is no list of files".to_owned()));
        };
        if let Some(name) = files.keys().find(|name| name.contains(['/', '.']) || self.path.join(name).exists()) {
            return refuse(Refusal::Unable(format!("there can be no new file {name:?}")));
        }
        if files.len() > self.room()? {
            return refuse(Refusal::Unable(format!("there is no room for {} files", files.len())));
        }
        write(&self.fence_file(&branch.lock), branch.fence.to_string().as_bytes())?;
        self.keep(&Kept { branch: branch.clone(), state: "staged".to_owned(), forget: false, files })?;
        for gone in older.filter(|kept| kept.forget) {
            fs::remove_file(self.shares(format!("{}.json", gone.branch.id)))?;
        }
        Ok(Vote::Prepared)
    }
}

/// Writes a file as a whole, and returns when it is on the disk.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(path.parent().expect("a file is in a folder"))?.sync_all()
}

#[async_trait]
impl Participant for Folder {
    fn name(&self) -> &str {
        "folder"
    }

    fn location(&self) -> String {
        self.path.display().to_string()
    }

    async fn prepare(&self, branch: &Branch, work: &[u8]) -> Result<Vote> {
        self.alone(|| self.stage(branch, work))
    }

    async fn commit(&self, branch: &Branch) -> Result<Ack> {
        self.alone(|| match self.find(branch)? {
            None => Ok(Ack::Heuristic(Did::Lose)),
            Some(kept) if kept.state == "rolled-back" => Ok(Ack::Heuristic(Did::RollBack)),
            Some(kept) if kept.state == "committed" => Ok(Ack::Done),
            Some(kept) => {
                for (name, content) in &kept.files {
                    write(&self.path.join(name), content.as_bytes())?;
                }
                self.keep(&Kept { state: "committed".to_owned(), files: Files::new(), ..kept })?;
                Ok(Ack::Done)
            }
        })
    }

    async fn rollback(&self, branch: &Branch) -> Result<Ack> {
        self.alone(|| {
            match self.find(branch)? {
                Some(kept) if kept.state == "committed" => return Ok(Ack::Heuristic(Did::Commit)),
                Some(kept) if kept.state == "rolled-back" => return Ok(Ack::Done),
                // A prepare that comes late is refused for its token.
                None if self.fence(&branch.lock)? > branch.fence => return Ok(Ack::Done),
                _ => {}
            }
            let (branch, state) = (branch.clone(), "rolled-back".to_owned());
            self.keep(&Kept { branch, state, forget: false, files: Files::new() })?;
            Ok(Ack::Done)
        })
    }

    async fn forget(&self, branch: &Branch) -> Result<()> {
        self.alone(|| match self.find(branch)? {
            Some(kept) if kept.state != "staged" && self.fence(&branch.lock)? > branch.fence => {
                fs::remove_file(self.shares(format!("{}.json", kept.branch.id)))
            }
            Some(kept) if kept.state != "staged" => self.keep(&Kept { forget: true, ..kept }),
            _ => Ok(()),
        })
    }

    async fn list(&self, lock: Option<&str>) -> Result<Vec<Share>> {
        let share = |kept: Kept| {
            let state = match kept.state.as_str() {
                "staged" => ShareState::Staged,
                "committed" => ShareState::Committed,
                _ => ShareState::RolledBack,
            };
            Share { branch: kept.branch, state }
        };
        let is_meant = |kept: &Kept| !kept.forget && lock.is_none_or(|lock| lock == kept.branch.lock);
        self.alone(|| Ok(self.kept()?.into_iter().filter(is_meant).map(share).collect()))
    }
}

#[allow(dead_code, reason = "the tests include this file for its participant")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let place = std::env::temp_dir().join(format!("tenure-participant-{}", std::process::id()));
    let folder = Folder::open(place.join("files"), 2).expect("a folder can be made");
    let journal = format!("sqlite:{}", place.join("journal.db").display());
    let journal = tenure::transaction::journal::open_durable(&journal).await?;
    let coordinator = Coordinator::new(journal).participant(folder)?;

    let locks = tenure::open("memory:").await?;
    let guard = locks.mutex("reports").build()?.lock().await?;
    coordinator.recover(&guard).await?;
    for names in [["monday", "tuesday"], ["wednesday", "thursday"]] {
        let files: Files = names.map(|name| (name.to_owned(), format!("the report of {name}"))).into();
        let work = serde_json::to_vec(&files).expect("text can be written");
        let outcome = coordinator.begin(&guard).work("folder", work).commit().await?;
        println!("{names:?}: {outcome:?}");
    }
    guard.release().await?;
    let _ = fs::remove_dir_all(place);
    Ok(())
}
