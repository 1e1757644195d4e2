//! Records in a SQLite file: the locks of all processes of one machine, without a server.
//!
//! ```text
//!   tasks ──ops──▶ one thread per store ──one transaction for all that gathered──▶ the file (WAL)
//!     ▲                │
//!     └────answers─────┴──grants──▶ the inboxes of other processes
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use async_trait::async_trait;
use tokio::sync::oneshot;

use self::clock::Clock;
use self::file::File;
use self::inbox::{Receiver, Sender};
use self::options::{Options, Synchronous};
use self::worker::{Answer, Ask, Job, Worker};
use super::{Hub, Seen, Store, Traits, Watch};
use crate::env::spawn_thread;
use crate::error::{Error, ErrorKind, Result};
use crate::health::NodeHealth;
use crate::key::Key;
use crate::proto::{ClaimId, Op, Reply};
use crate::transaction::{Settle, Verdict, refused};

mod clock;
mod file;
mod inbox;
mod options;
mod worker;

/// A store in a SQLite file, `sqlite:path`: for every process of one machine that opens the same file.
///
/// | URL | file |
/// | --- | --- |
/// | `sqlite:locks.db` | in the current folder |
/// | `sqlite:/run/app/locks.db`, `sqlite:///run/app/locks.db` | from the root; `%20` is a space |
///
/// | option | |
/// | --- | --- |
/// | `?busy_timeout=1500ms` | how long another process's transaction is waited for before an operation is given up |
/// | `?synchronous=normal` | or `full`: each transaction is on the disk before it is answered |
/// | `?create=all` | what is made where it is missing: the file with its folders; `file`: it alone; or `nothing` |
///
/// The file is made, and its folder too, for this user alone (modes 0600 and 0700); one that is there keeps its mode, so
/// it can be shared with a group. Whoever can read it can release what is held in it.
///
/// # What to know
///
/// * The machine must be one: SQLite's shared memory does not reach over a network file system, nor the clock.
/// * With `synchronous=normal`, what was acknowledged survives the end of every process, by `kill -9` too. A power cut
///   or a crash of the system may take the last moments with it, as it takes the processes that held the locks. Fences go
///   on rising, for the clock does. Where something outside of the machine relies on an acknowledged hold or release,
///   `full` is right, and each transaction waits for the disk.
/// * The file must stay where it is while it is in use. When it is removed or replaced, every operation fails with
///   [`ErrorKind::Corrupt`] and says so.
/// * On Linux, setting the wall clock changes nothing: the time is that since the machine started, plus an offset that is
///   kept in the file. Elsewhere it is the wall clock, and grants are not pushed.
/// * Pushes travel between processes of one network namespace. Across containers that share the file they do not
///   arrive, and a waiting process asks again from time to time, as after any lost push.
///
/// Clones share one connection and one thread, which end with the last of them.
#[derive(Clone)]
pub struct Sqlite(Arc<Inner>);

struct Inner {
    path: PathBuf,
    durable: bool,
    hub: Hub,
    receiver: Receiver,
    jobs: mpsc::Sender<Job>,
}

impl Sqlite {
    /// The store in the file at `path`, which is made if it is missing.
    ///
    /// This blocks the calling thread: for a millisecond, or up to the busy timeout where others keep the file locked.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::Denied`] when this user may not write to the file or its folder;
    /// * [`ErrorKind::Foreign`] when the file is something else, or of another version;
    /// * [`ErrorKind::Corrupt`] when it is damaged;
    /// * [`ErrorKind::Unavailable`] when others kept it locked, or the disk is full;
    /// * [`ErrorKind::Invalid`] when no file can have that path;
    /// * [`ErrorKind::Missing`] when it is not there, nor its folder, and by `?create=` it is not to be made.
    ///
    /// ```
    /// # fn main() -> tenure::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("locks.db");
    /// let store = tenure::store::Sqlite::open(path)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::with(&Options::new(path.as_ref())?)
    }

    /// The store at a URL, `sqlite:path?option=value`.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), and [`ErrorKind::Invalid`] when the URL names no file or an unknown option.
    ///
    /// # Cancel safety
    ///
    /// The file may be made although the future was dropped.
    pub async fn connect(url: &str) -> Result<Self> {
        let options = Options::parse(url)?;
        let path = options.path.clone();
        let (tell, opened) = oneshot::channel();
        spawn("tenure-open", &path, move || drop(tell.send(Self::with(&options))))?;
        opened.await.map_err(|_| ended(&path, ErrorKind::Unavailable))?
    }

    fn with(options: &Options) -> Result<Self> {
        let file = File::open(options)?;
        let clock = Clock::of(&file)?;
        let (hub, receiver, sender) = (Hub::new(), Receiver::bind(), Sender::new());
        let worker = Worker { file, clock, hub: hub.clone(), inbox: receiver.name().clone(), sender };
        let (jobs, gathered) = mpsc::channel();
        let (path, durable) = (options.path.clone(), options.synchronous == Synchronous::Full);
        spawn("tenure-sqlite", &path, move || worker.run(&gathered))?;
        Ok(Self(Arc::new(Inner { path, durable, hub, receiver, jobs })))
    }

    async fn ask(&self, ask: Ask) -> Result<Answer> {
        let (tell, answer) = oneshot::channel();
        let sent = self.0.jobs.send(Job { ask, tell });
        sent.map_err(|_| ended(&self.0.path, ErrorKind::Unavailable))?;
        answer.await.map_err(|_| ended(&self.0.path, ErrorKind::NoReply))?
    }

    async fn ask_to_apply(&self, ops: Vec<(Key, Op)>) -> Result<Vec<Result<Reply>>> {
        let Answer::Applied(replies) = self.ask(Ask::Apply(ops)).await? else { unreachable!("not what was asked") };
        Ok(replies)
    }
}

fn spawn(name: &str, path: &Path, run: impl FnOnce() + Send + 'static) -> Result<()> {
    spawn_thread(name, run).map_err(|error| {
        let message = format!("there can be no thread for {}: {error}", path.display());
        Error::with_source(ErrorKind::Unavailable, message, error)
    })
}

fn ended(path: &Path, kind: ErrorKind) -> Error {
    Error::new(kind, format!("the thread for {} came to an early end", path.display()))
}

// For others who keep something else in a file of their own.
pub(crate) use self::file::{create as sqlite_create, explain as sqlite_explain};

/// The file of a `sqlite:` URL, how long others are waited for, and whether it may be made, and with its folders.
pub(crate) fn sqlite_options(url: &str) -> Result<(PathBuf, std::time::Duration, (bool, bool))> {
    let options = Options::parse(url)?;
    let create = (options.create != options::Create::Nothing, options.create == options::Create::All);
    Ok((options.path, options.busy_timeout, create))
}

/// The file of a `sqlite:` URL, by its absolute path.
pub(crate) fn sqlite_path(url: &str) -> Result<PathBuf> {
    Options::parse(url).map(|options| options.path)
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.0.path).field("hub", &self.0.hub).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        self.ask_to_apply(vec![(key.clone(), op.clone())]).await?.remove(0)
    }

    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        match self.ask_to_apply(ops.to_vec()).await {
            Ok(replies) => replies,
            Err(error) => ops.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn settle(&self, _settle: &Settle) -> Result<Verdict> {
        Err(refused(self.traits().kind))
    }

    fn watch(&self, _key: &Key, id: ClaimId) -> Watch {
        self.0.receiver.listen(&self.0.hub);
        self.0.hub.watch(id)
    }

    async fn read(&self, key: &Key) -> Result<Seen> {
        let Answer::Seen(seen) = self.ask(Ask::Read(key.clone())).await? else { unreachable!("not what was asked") };
        Ok(seen)
    }

    async fn scan(&self) -> Result<Vec<Key>> {
        let Answer::Keys(keys) = self.ask(Ask::Scan).await? else { unreachable!("not what was asked") };
        Ok(keys)
    }

    async fn ping(&self) -> Result<()> {
        self.ask(Ask::Ping).await.map(drop)
    }

    fn nodes(&self) -> Vec<NodeHealth> {
        Vec::new()
    }

    fn traits(&self) -> Traits {
        let push = !self.0.receiver.name().is_empty();
        Traits {
            kind: "sqlite",
            queue: true,
            fence: true,
            push,
            durable: self.0.durable,
            transaction: false,
            stale_reads: false,
            kept_since: 0,
            members: 0,
        }
    }
}
