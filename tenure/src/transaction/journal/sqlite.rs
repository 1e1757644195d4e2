//! A journal in a SQLite file: each write is on the disk before it is answered.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::{Durable, Entry, Journal, Keep, Written, check};
use crate::env::{Env, spawn_thread};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::micros;
use crate::store::{sqlite_create, sqlite_explain, sqlite_options};

/// "tenj": what the header of our files says they are.
const APPLICATION_ID: i64 = 0x7465_6e6a;
/// The version of what is in them.
const VERSION: i64 = 1;

/// Times are microseconds of the wall clock.
const SCHEMA: &str = "
    CREATE TABLE entry (id TEXT PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL, expires INTEGER)
        STRICT, WITHOUT ROWID;
    CREATE INDEX entry_expires ON entry (expires) WHERE expires IS NOT NULL;
    CREATE INDEX entry_unsettled ON entry (id) WHERE expires IS NULL;
";

/// A journal in a SQLite file, for the processes of one machine. The file is the journal's alone: locks in a SQLite file have
/// another one.
///
/// Its URL is that of [`store::Sqlite`](crate::store::Sqlite), `sqlite:path` with `busy_timeout` and `create`; `synchronous` is
/// always `full`. Clones share one connection and one thread, which end with the last of them.
#[derive(Clone)]
pub struct SqliteJournal {
    path: Arc<PathBuf>,
    jobs: mpsc::Sender<Job>,
    env: Env,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

impl SqliteJournal {
    /// The journal at a URL, `sqlite:path`. The file is made where it is missing, for this user alone.
    ///
    /// # Errors
    ///
    /// Those of [`store::Sqlite::connect`](crate::store::Sqlite::connect); [`ErrorKind::Foreign`] where the file is one
    /// of locks.
    ///
    /// # Cancel safety
    ///
    /// The file may be made although the future was dropped.
    pub async fn connect(url: &str) -> Result<Self> {
        let (path, busy_timeout, (create, with_folders)) = sqlite_options(url)?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, opened) = oneshot::channel();
        let path = Arc::new(path);
        let place = path.clone();
        let work = move || {
            let made = if create { sqlite_create(&place, with_folders) } else { Ok(()) };
            match made.and_then(|()| open(&place, busy_timeout)) {
                Ok(mut connection) => {
                    let _ = tell.send(Ok(()));
                    queue.into_iter().for_each(|job| job(&mut connection));
                }
                Err(error) => _ = tell.send(Err(error)),
            }
        };
        spawn_thread("tenure-journal", work).map_err(|error| {
            let message = format!("there can be no thread for {}: {error}", path.display());
            Error::with_source(ErrorKind::Unavailable, message, error)
        })?;
        opened.await.map_err(|_| ended(&path, ErrorKind::Unavailable))??;
        Ok(Self { path, jobs, env: Env::system() })
    }

    /// Does `work` in a transaction, which ends with it.
    async fn write_in<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.path.clone();
        self.on_thread(move |connection| {
            let explain = |error| sqlite_explain(&path, error);
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(explain)?;
            let done = work(&tx).map_err(explain)?;
            tx.commit().map_err(|error| {
                let message = format!("{} may or may not have been written: {error}", path.display());
                Error::with_source(ErrorKind::NoReply, message, error)
            })?;
            Ok(done)
        })
        .await
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (tell, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| _ = tell.send(work(connection)));
        self.jobs.send(job).map_err(|_| ended(&self.path, ErrorKind::Unavailable))?;
        answer.await.map_err(|_| ended(&self.path, ErrorKind::NoReply))?
    }
}

fn open(path: &Path, busy_timeout: Duration) -> Result<Connection> {
    let explain = |error| sqlite_explain(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(|error| match path.exists() {
        true => explain(error),
        false => Error::new(ErrorKind::Missing, format!("there is no journal yet at {}", path.display())),
    })?;
    connection.busy_timeout(busy_timeout).map_err(explain)?;
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL").map_err(explain)?;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(explain)?;
    let marks = "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
                 FROM pragma_application_id, pragma_user_version";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let (application, version, tables): (i64, i64, i64) = tx.query_row(marks, [], read).map_err(explain)?;
    match (application, version) {
        (APPLICATION_ID, VERSION) => {}
        (0, 0) if tables == 0 => {
            let marks = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};");
            tx.execute_batch(&(SCHEMA.to_owned() + &marks)).map_err(explain)?;
        }
        _ => {
            let message = format!(
                "{} is a SQLite file of something else than a journal (locks have a file of their own), or of another \
                 version; it was left alone: name another file",
                path.display()
            );
            return Err(Error::new(ErrorKind::Foreign, message));
        }
    }
    tx.commit().map_err(explain)?;
    Ok(connection)
}

fn ended(path: &Path, kind: ErrorKind) -> Error {
    Error::new(kind, format!("the thread for {} came to an early end", path.display()))
}

/// What is there and has not expired.
const LIVE: &str = "SELECT id, version, value FROM entry WHERE (expires IS NULL OR expires > ?1)";

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry { id: row.get(0)?, version: row.get::<_, i64>(1)? as u64, value: row.get(2)? })
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn load(&self, id: &str) -> Result<Option<Entry>> {
        let (path, id, now) = (self.path.clone(), id.to_owned(), self.env.wall() as i64);
        self.on_thread(move |connection| {
            let found = connection.query_row(&format!("{LIVE} AND id = ?2"), params![now, id], entry).optional();
            found.map_err(|error| sqlite_explain(&path, error))
        })
        .await
    }

    async fn write(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written> {
        check(id, value)?;
        let (id, value, now) = (id.to_owned(), value.to_vec(), self.env.wall() as i64);
        let expires = match keep {
            Keep::UntilForgotten => None,
            Keep::For(time) => Some(now.saturating_add(i64::try_from(micros(time)).unwrap_or(i64::MAX))),
        };
        self.write_in(move |tx| {
            tx.execute("DELETE FROM entry WHERE expires <= ?1", [now])?;
            let version = "SELECT version FROM entry WHERE id = ?1";
            let present: Option<i64> = tx.query_row(version, [&id], |row| row.get(0)).optional()?;
            if present.map(|version| version as u64) != expected {
                return Ok(Written::Conflict);
            }
            let version = present.unwrap_or(0) + 1;
            let put = "INSERT OR REPLACE INTO entry (id, version, value, expires) VALUES (?1, ?2, ?3, ?4)";
            tx.execute(put, params![id, version, value, expires])?;
            Ok(Written::Done(version as u64))
        })
        .await
    }

    async fn forget(&self, id: &str, expected: u64) -> Result<bool> {
        let (id, expected) = (id.to_owned(), expected as i64);
        let remove = "DELETE FROM entry WHERE id = ?1 AND version = ?2";
        self.write_in(move |tx| Ok(tx.execute(remove, params![id, expected])? == 1)).await
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        let (path, now) = (self.path.clone(), self.env.wall() as i64);
        self.on_thread(move |connection| {
            let read = || -> rusqlite::Result<Vec<Entry>> {
                connection.prepare(&format!("{LIVE} ORDER BY id"))?.query_map([now], entry)?.collect()
            };
            read().map_err(|error| sqlite_explain(&path, error))
        })
        .await
    }

    async fn unsettled(&self) -> Result<Vec<Entry>> {
        const OPEN: &str = "SELECT id, version, value FROM entry WHERE expires IS NULL ORDER BY id";
        let path = self.path.clone();
        self.on_thread(move |connection| {
            let read = || -> rusqlite::Result<Vec<Entry>> { connection.prepare(OPEN)?.query_map([], entry)?.collect() };
            read().map_err(|error| sqlite_explain(&path, error))
        })
        .await
    }

    fn location(&self) -> String {
        format!("SQLite at {}", self.path.display())
    }
}

impl Durable for SqliteJournal {}

impl fmt::Debug for SqliteJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteJournal").field("path", &self.path).finish_non_exhaustive()
    }
}
