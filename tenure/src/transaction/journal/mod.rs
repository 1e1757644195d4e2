//! Where coordinators and sagas write what they must not forget.
//!
//! A [`Journal`] keeps a value under each id, and changes it by compare-and-set: whoever writes says which version of the
//! value it has seen, and of two who saw the same, one succeeds. A decision is taken by such a write, so it is taken once.
//!
//! ```
//! use tenure::transaction::journal::{Journal, Keep, Memory, Written};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> tenure::Result<()> {
//! let journal = Memory::new();
//! assert_eq!(journal.write("order-7", None, b"begun", Keep::UntilForgotten).await?, Written::Done(1));
//! assert_eq!(journal.write("order-7", Some(1), b"paid", Keep::UntilForgotten).await?, Written::Done(2));
//! // Somebody who has not seen that it is paid.
//! assert_eq!(journal.write("order-7", Some(1), b"undone", Keep::UntilForgotten).await?, Written::Conflict);
//! assert_eq!(journal.load("order-7").await?.unwrap().value, b"paid");
//! # Ok(())
//! # }
//! ```
//!
//! # Durable or not
//!
//! What a two-phase coordinator decided has to be found again, whatever fails: some of those who took part may have acted
//! on it already. So it takes a [`Durable`] journal alone, and that is a matter of types:
//!
//! | journal | | [`Durable`] |
//! | --- | --- | --- |
//! | `PostgresJournal` (feature `postgres`) | a table, for all who reach the database | yes: each commit is on the disk before it is answered |
//! | [`SqliteJournal`] | a file, for the processes of one machine | yes: each write is on the disk before it is answered |
//! | [`RedisJournal`] | a Redis server | no: a crash of the server may lose its last writes |
//! | [`DurableRedis`] | the same, by [`RedisJournal::durable`] | yes: the server was asked, and says that it writes to disk before it answers |
//! | [`Memory`] | this process, for tests | no |
//!
//! # Nothing without an expiry, but this
//!
//! A lock's record always has an expiry. What is not settled yet has none here, on purpose ([`Keep::UntilForgotten`]): with
//! presumed abort, no record means *aborted*, so an expiry would undo a decision that was taken, on the day when those who
//! still have to hear of it come back. Such records are as many as there are transactions in doubt; `tenure tx ls` shows
//! them, and recovery settles them. What is settled is kept [`For`](Keep::For) a while and then goes by itself.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use self::memory::Memory;
#[doc(hidden)]
pub use self::memory::Presumed;
#[cfg(feature = "postgres")]
pub use self::postgres::PostgresJournal;
#[cfg(feature = "redis")]
pub use self::redis::{DurableRedis, RedisJournal};
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteJournal;

/// Where records of transactions are kept.
///
/// # Contract
///
/// * `write` and `forget` compare and change in one atomic step, in the order of some one history per id.
/// * An error of kind [`NoReply`](ErrorKind::NoReply) says that the change may have been, or may yet be, made. Whoever gets
///   it reads what is there, and never assumes. Any other error says that it never will be.
/// * Nothing is ever sent twice from here, and no time limit is set beyond what the transport needs.
/// * Ids are 1 to [`ID_MAX`] bytes long, and are never used again for something else.
///
/// # Cancel safety
///
/// For every method: who drops its future knows as much as after [`NoReply`](ErrorKind::NoReply), and reads what is there.
/// `write` and `forget` happen as a whole, then or later, or never will; `load`, `list` and `unsettled` only look. Nobody
/// else's calls are harmed.
#[async_trait]
pub trait Journal: Debug + Send + Sync + 'static {
    /// What is there under `id`, if anything.
    async fn load(&self, id: &str) -> Result<Option<Entry>>;

    /// Writes `value` under `id`, if what is there is of version `expected`; `None`: if nothing is there.
    async fn write(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written>;

    /// Removes what is there under `id`, if it is of version `expected`; says whether it was.
    async fn forget(&self, id: &str, expected: u64) -> Result<bool>;

    /// All that is there, by id. What comes or goes meanwhile may be missing or among it.
    async fn list(&self) -> Result<Vec<Entry>>;

    /// Those of them that are kept until they are forgotten, by id: as many as are not settled, however many are.
    async fn unsettled(&self) -> Result<Vec<Entry>>;

    /// Where it is, as messages name it: without a password.
    fn location(&self) -> String;
}

/// A journal that has what it acknowledged after any crash that leaves its disk whole.
///
/// A promise that the compiler cannot check: implement it for a journal of your own only where each write is on the disk,
/// or on several machines, before it is answered, and nothing that was not to expire is ever dropped.
pub trait Durable: Journal {}

/// The longest id, in bytes.
pub const ID_MAX: usize = 256;

/// The longest value, in bytes: 1 MiB.
pub const VALUE_MAX: usize = 1 << 20;

/// What is kept under an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The id.
    pub id: String,
    /// 1 for what was written first, and one more with each write.
    pub version: u64,
    /// What was written last.
    pub value: Vec<u8>,
}

/// For how long an entry is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Until somebody removes it: for all that is not settled.
    UntilForgotten,
    /// For that long from now, by the journal's clock, to the millisecond: for what is settled.
    For(Duration),
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is written; the version that it made.
    Done(u64),
    /// What is there is not of the version that was expected; nothing changed.
    Conflict,
}

/// The journal at `url`: `sqlite:path`, `postgres://user:password@host/database`, or a `redis://`, `rediss://` or `redis+unix://` server.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] for a URL that cannot be meant, otherwise those of the journal it names.
///
/// # Cancel safety
///
/// A file may be made although the future was dropped.
pub async fn open_journal(url: &str) -> Result<Arc<dyn Journal>> {
    match url.split(':').next().unwrap_or_default() {
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redis+unix" => Ok(Arc::new(RedisJournal::connect(url).await?)),
        _ => Ok(open_durable(url).await?),
    }
}

/// The same, where it is durable.
///
/// # Errors
///
/// As [`open_journal`], and [`ErrorKind::Unsupported`] where the journal is not durable: how to make it so.
///
/// # Cancel safety
///
/// As [`open_journal`].
pub async fn open_durable(url: &str) -> Result<Arc<dyn Durable>> {
    match url.split(':').next().unwrap_or_default() {
        #[cfg(feature = "sqlite")]
        "sqlite" => Ok(Arc::new(SqliteJournal::connect(url).await?)),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redis+unix" => Ok(Arc::new(RedisJournal::connect(url).await?.durable().await?)),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => Ok(Arc::new(PostgresJournal::connect(url).await?)),
        _ => Err(unknown()),
    }
}

fn unknown() -> Error {
    let known = [
        ("sqlite:path", cfg!(feature = "sqlite")),
        ("redis://host", cfg!(feature = "redis")),
        ("postgres://host/database", cfg!(feature = "postgres")),
    ];
    let known: Vec<&str> = known.iter().filter(|(_, built)| *built).map(|(form, _)| *form).collect();
    Error::new(ErrorKind::Invalid, format!("no journal has a URL of that scheme: give one of {}", known.join(", ")))
}

/// The lock that a record is under, as far as can be told of one that cannot be read.
pub(super) fn lock_of(entry: &Entry) -> Option<String> {
    #[derive(Deserialize)]
    struct Head {
        lock: String,
    }
    serde_json::from_slice::<Head>(&entry.value).ok().map(|head| head.lock)
}

/// That it can be an id, and a value.
fn check(id: &str, value: &[u8]) -> Result<()> {
    if id.is_empty() || id.len() > ID_MAX {
        let message = format!("a journal's id of {} bytes: give 1 to {ID_MAX}", id.len());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    if value.len() > VALUE_MAX {
        let message = format!("the record {id:?} has {} bytes, and a journal takes {VALUE_MAX} at most", value.len());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

#[async_trait]
impl<J: Journal + ?Sized> Journal for Arc<J> {
    async fn load(&self, id: &str) -> Result<Option<Entry>> {
        (**self).load(id).await
    }

    async fn write(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written> {
        (**self).write(id, expected, value, keep).await
    }

    async fn forget(&self, id: &str, expected: u64) -> Result<bool> {
        (**self).forget(id, expected).await
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        (**self).list().await
    }

    async fn unsettled(&self) -> Result<Vec<Entry>> {
        (**self).unsettled().await
    }

    fn location(&self) -> String {
        (**self).location()
    }
}

impl<J: Durable + ?Sized> Durable for Arc<J> {}
