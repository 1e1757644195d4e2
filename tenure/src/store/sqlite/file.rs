//! The file: made, recognised, locked, and its errors told for what they are.
//!
//! Many processes may come to a fresh file at the same moment, so every step here may find it half made by another: each
//! looks first, takes the write lock where something is missing, and looks again.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::options::{Create, Options, Synchronous};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// "tenu": what the header of our files says they are.
const APPLICATION_ID: i64 = 0x7465_6e75;
/// The version of what is in them.
const VERSION: i64 = 1;

/// By how many bytes the write-ahead log grows before it is cut.
const LOG_GROWS_BY: u64 = 8 << 20;

/// A record is to be looked at once it is `due`, whether it has expired. In a clock, `zero` is the time when the
/// machine's stood at zero, and `seen` the time that was last noted.
const SCHEMA: &str = "
    CREATE TABLE record (name TEXT PRIMARY KEY, value BLOB NOT NULL, expires INTEGER NOT NULL, due INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
    CREATE INDEX record_due ON record (due);
    CREATE TABLE clock (boot TEXT, namespace TEXT, zero INTEGER NOT NULL, seen INTEGER NOT NULL,
        PRIMARY KEY (boot, namespace)) STRICT, WITHOUT ROWID;
";

#[derive(Debug)]
pub(super) struct File {
    connection: Connection,
    path: PathBuf,
    busy_timeout: Duration,
    env: Env,
    /// The write-ahead log, and the length at which it is to be cut.
    log: PathBuf,
    log_limit: u64,
}

impl File {
    /// Opens the file, and makes it and its folder where they are missing and may be made.
    pub(super) fn open(options: &Options) -> Result<Self> {
        let path = options.path.clone();
        match options.create {
            Create::Nothing => look_for(&path)?,
            Create::File => create(&path, false)?,
            Create::All => create(&path, true)?,
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(|error| explain(&path, error))?;
        let mut log = path.clone().into_os_string();
        log.push("-wal");
        let (env, log, busy_timeout) = (Env::system(), log.into(), options.busy_timeout);
        let file = Self { connection, path, busy_timeout, env, log, log_limit: LOG_GROWS_BY };
        file.set_up(options)?;
        Ok(file)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn set_up(&self, options: &Options) -> Result<()> {
        // Waiting for others is done here: SQLite's own waits grow too long for a lock, and do not cover every step.
        self.retry(|connection| connection.busy_timeout(Duration::ZERO))?;
        let fresh = self.is_fresh()?;
        if fresh && options.create == Create::Nothing {
            return Err(missing(&self.path));
        }
        if self.retry(|connection| connection.is_readonly("main"))? {
            return Err(self.read_only(None));
        }
        if fresh {
            let mode: String = self.retry(|c| c.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)))?;
            if mode != "wal" {
                let message = format!(
                    "the file system of {} has no shared memory, which SQLite needs for many processes: use a local disk",
                    self.path.display()
                );
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            let tx = self.write()?;
            if self.is_fresh()? {
                let marks = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};");
                tx.execute_batch(&(SCHEMA.to_owned() + &marks)).map_err(|error| self.explain(error))?;
            }
            tx.commit().map_err(|error| self.explain(error))?;
        }
        let level = match options.synchronous {
            Synchronous::Normal => "NORMAL",
            Synchronous::Full => "FULL",
        };
        let settings = format!("PRAGMA synchronous = {level}; PRAGMA wal_autocheckpoint = 0");
        self.retry(|connection| connection.execute_batch(&settings))
    }

    /// Whether nothing is in the file yet.
    ///
    /// # Errors
    ///
    /// When what is in it is not ours.
    fn is_fresh(&self) -> Result<bool> {
        let sql = "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
                   FROM pragma_application_id, pragma_user_version";
        let read =
            |connection: &Connection| connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let (application, version, tables): (i64, i64, i64) = self.retry(read)?;
        let path = self.path.display();
        let message = match (application, version) {
            (APPLICATION_ID, VERSION) => return Ok(false),
            (0, 0) if tables == 0 => return Ok(true),
            (APPLICATION_ID, _) => {
                format!("{path} was made by another version: its format is {version}, here it is {VERSION}")
            }
            _ => format!("{path} is a SQLite database of something else; it was left alone: name another file"),
        };
        Err(Error::new(ErrorKind::Foreign, message))
    }

    /// Begins a transaction that reads. Writers do not hold it up.
    pub(super) fn read(&self) -> Result<Transaction<'_>> {
        self.retry(|connection| {
            let tx = Transaction::new_unchecked(connection, TransactionBehavior::Deferred)?;
            // It begins in truth with the first that it reads.
            tx.prepare_cached("SELECT 1 FROM clock")?.exists([])?;
            Ok(tx)
        })
    }

    /// Begins a transaction that writes, once no other process is in one.
    pub(super) fn write(&self) -> Result<Transaction<'_>> {
        self.retry(|connection| Transaction::new_unchecked(connection, TransactionBehavior::Immediate))
    }

    /// Moves what has gathered in the log to the file and cuts the log short, where it has grown long.
    ///
    /// By itself SQLite does after a commit what can be done beside others. Where many processes keep writing that is
    /// never the whole: the log grows without bound, and each further commit waits for the disk.
    pub(super) fn checkpoint(&mut self) {
        let length = || std::fs::metadata(&self.log).map_or(0, |log| log.len());
        self.log_limit = self.log_limit.min(length() + LOG_GROWS_BY);
        if length() < self.log_limit {
            return;
        }
        let cut = "PRAGMA busy_timeout = 100; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA busy_timeout = 0";
        let done = self.connection.execute_batch(cut);
        // Where somebody keeps reading what is old it cannot be cut yet: once it has grown, it is tried again.
        self.log_limit = length() + LOG_GROWS_BY;
        tracing::debug!(path = %self.path.display(), left = length(), ?done, "checkpoint");
    }

    /// That the path still leads to this file: who comes next would make or find another, and grant what is held here.
    pub(super) fn check_in_place(&self) -> Result<()> {
        #[cfg(unix)]
        {
            let mut moved = 0;
            self.retry(|c| c.file_control(Some("main"), rusqlite::FileControl::HasMoved(&mut moved)))?;
            if moved != 0 {
                let message = format!(
                    "{} was removed or replaced while in use: what was held in it is lost; end every process that uses \
                     it, and start again",
                    self.path.display()
                );
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        }
        Ok(())
    }

    fn retry<'a, T>(&'a self, mut attempt: impl FnMut(&'a Connection) -> rusqlite::Result<T>) -> Result<T> {
        let deadline = self.env.now() + self.busy_timeout;
        let mut pause = Duration::from_micros(50);
        loop {
            match attempt(&self.connection) {
                Err(error) if is_busy(&error) && self.env.now() < deadline => {
                    self.env.pause(self.env.jitter(pause));
                    pause = (pause * 2).min(Duration::from_millis(2));
                }
                done => return done.map_err(|error| self.explain(error)),
            }
        }
    }

    /// What a statement's failure means. Whatever it was part of is rolled back.
    pub(super) fn explain(&self, error: rusqlite::Error) -> Error {
        if is_busy(&error) {
            let message = format!(
                "another process kept {} locked for {:?}: end the transaction that it has open there (fuser tells which \
                 process it is), or wait for longer with ?busy_timeout=",
                self.path.display(),
                self.busy_timeout
            );
            return Error::with_source(ErrorKind::Unavailable, message, error);
        }
        explain(&self.path, error)
    }

    /// What a commit's failure means: it may have reached the disk, and be found there by the next who opens the file.
    pub(super) fn explain_commit(&self, error: rusqlite::Error) -> Error {
        if is_busy(&error) {
            return self.explain(error);
        }
        let message = format!("{} may or may not have been written: {error}", self.path.display());
        Error::with_source(ErrorKind::NoReply, message, error)
    }

    fn read_only(&self, source: Option<rusqlite::Error>) -> Error {
        read_only(&self.path, source)
    }
}

/// That there is a file.
fn look_for(path: &Path) -> Result<()> {
    match path.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(missing(path)),
        Err(error) => Err(unmakeable(path, "looked at", error)),
    }
}

fn missing(path: &Path) -> Error {
    Error::new(ErrorKind::Missing, format!("there is no store yet at {}", path.display()))
}

/// Makes an empty file for this user alone; SQLite gives those that it puts beside it the same mode.
pub(crate) fn create(path: &Path, with_folders: bool) -> Result<()> {
    // Closing any handle of a file ends every lock that this process has on it (POSIX would have it so), so none may be
    // opened beside SQLite's: only that of a file which nobody else here can have open yet.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _only = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);

    let (mut folder, mut file) = (std::fs::DirBuilder::new(), std::fs::OpenOptions::new());
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        folder.mode(0o700);
        file.mode(0o600);
    }
    let parent = path.parent().unwrap_or(path);
    let has_folder = if with_folders { folder.recursive(true).create(parent) } else { Ok(()) };
    match has_folder.and_then(|()| file.write(true).create_new(true).open(path)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_file() => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !with_folders => {
            let (path, parent) = (path.display(), parent.display());
            let message = format!("{path} cannot be made: there is no folder {parent}: make it, or name another file");
            Err(Error::with_source(ErrorKind::Missing, message, error))
        }
        Err(error) => Err(unmakeable(path, "made", error)),
    }
}

fn unmakeable(path: &Path, done: &str, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        _ => ErrorKind::Invalid,
    };
    let message =
        format!("{} cannot be {done}: {error}: name a file in a folder that you may write in", path.display());
    Error::with_source(kind, message, error)
}

/// `PROTOCOL` is what is said when very many open the file at once.
fn is_busy(error: &rusqlite::Error) -> bool {
    use ErrorCode::{DatabaseBusy, DatabaseLocked, FileLockingProtocolFailed};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked | FileLockingProtocolFailed))
}

pub(crate) fn explain(path: &Path, error: rusqlite::Error) -> Error {
    let shown = path.display();
    let (kind, message) = match error.sqlite_error_code() {
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            return read_only(path, Some(error));
        }
        Some(ErrorCode::NotADatabase) => (
            ErrorKind::Foreign,
            format!("{shown} is no SQLite database, or its header is damaged; it was left alone: name another file"),
        ),
        Some(ErrorCode::DatabaseCorrupt) => (
            ErrorKind::Corrupt,
            format!("{shown} is damaged; it was left alone: end every process that uses it, and move it away"),
        ),
        Some(ErrorCode::DiskFull) => (ErrorKind::Unavailable, format!("the disk of {shown} is full: make room on it")),
        Some(ErrorCode::SystemIoFailure) => {
            (ErrorKind::Unavailable, format!("the disk of {shown} does not serve: {error}"))
        }
        _ => (ErrorKind::Corrupt, format!("{shown} is not as it was made: {error}")),
    };
    Error::with_source(kind, message, error)
}

fn read_only(path: &Path, source: Option<rusqlite::Error>) -> Error {
    let message = format!(
        "{} cannot be written: let this user write to it, to its folder and to the files beside it that end in -wal and \
         -shm, or name another file",
        path.display()
    );
    match source {
        Some(source) => Error::with_source(ErrorKind::Denied, message, source),
        None => Error::new(ErrorKind::Denied, message),
    }
}
