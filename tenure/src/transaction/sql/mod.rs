//! A database as the protected resource: it keeps the newest token of each resource in a table, and a transaction under
//! an older one is refused.
//!
//! ```text
//!   holder A, token 7     BEGIN  check(7) ✓  UPDATE …  COMMIT
//!   A stands still, its hold expires, B is let in
//!   holder B, token 8                                          BEGIN  check(8) ✓  UPDATE …  COMMIT
//!   A goes on             BEGIN  check(7) ✗  nothing of this transaction can be committed
//! ```
//!
//! The lock may be anywhere, on a Redis say; the database needs to know nothing of it but tokens. A check without the
//! lock is safe: whoever comes late is refused, and holders disturb each other more often. The lock without a check is
//! not: a process that was paused past its hold writes when it wakes up.
//!
//! # How
//!
//! 1. Make the table once, by [`POSTGRES_MIGRATION`] or [`SQLITE_MIGRATION`].
//! 2. Begin each transaction that writes to the resource with `FenceTable::default().check_…(&tx, "account-7", fence)`.
#![cfg_attr(feature = "rusqlite", doc = "    * [`FenceTable::check_rusqlite`] for rusqlite 0.42;")]
#![cfg_attr(feature = "tokio-postgres", doc = "    * [`FenceTable::check_tokio_postgres`] for tokio-postgres 0.7;")]
#![cfg_attr(feature = "sqlx", doc = "    * [`FenceTable::check_sqlx`] for sqlx 0.8 on Postgres;")]
//!     * [`FenceTable::postgres_statement`] and [`FenceTable::sqlite_statement`] for any other client.
//! 3. When it fails, leave the transaction: drop it, or roll it back.
//!
//! Each is behind the feature of the crate's name. **Check first**, before the transaction reads: what was read before
//! the check may be from before an older holder's last write.
//!
//! # What is accepted
//!
//! A token at least as new as the newest that was committed for the resource. An equal one too, as one holder may have
//! several transactions. A check is part of its transaction: when that is rolled back, so is the token.
//!
//! # Two at a time
//!
//! The check locks the resource's row until its transaction ends, so that a second one waits.
//!
//! | on | the second one, when the first has committed |
//! | --- | --- |
//! | Postgres, `READ COMMITTED` (the default) | is measured by the first one's token: an older one is refused, an equal or newer one goes on |
//! | Postgres, `REPEATABLE READ`, `SERIALIZABLE` | fails with SQLSTATE 40001, whatever its token: [`ErrorKind::Unavailable`], to be run again as a whole, and then as above |
//! | SQLite | has waited for `busy_timeout` at most, since only one transaction writes at a time, and is then as above |
//!
//! # How much is kept
//!
//! A row per resource, for ever: a row that is deleted lets every token in. Rows of resources that are gone may be
//! deleted once no transaction of an old holder can come any more; `changed` says when a token was last accepted.

use crate::error::{Error, ErrorKind, Result};
use crate::hold::Fence;

#[cfg(any(feature = "tokio-postgres", feature = "sqlx"))]
mod postgres;
#[cfg(feature = "rusqlite")]
mod rusqlite;
#[cfg(feature = "sqlx")]
mod sqlx;
#[cfg(feature = "tokio-postgres")]
mod tokio_postgres;

/// What makes the table `tenure_fence` in Postgres, 12 or later. It may be run again.
///
/// A check updates its row, and the room left in each page lets Postgres do so without touching the index.
pub const POSTGRES_MIGRATION: &str = "\
CREATE TABLE IF NOT EXISTS tenure_fence (
    resource text PRIMARY KEY,
    fence bigint NOT NULL CHECK (fence > 0),
    changed timestamptz NOT NULL
) WITH (fillfactor = 50);
";

/// What makes the table `tenure_fence` in SQLite, 3.24 or later. It may be run again.
pub const SQLITE_MIGRATION: &str = "\
CREATE TABLE IF NOT EXISTS tenure_fence (
    resource TEXT NOT NULL PRIMARY KEY,
    fence INTEGER NOT NULL CHECK (fence > 0),
    changed TEXT NOT NULL
) WITHOUT ROWID;
";

/// The second of two at a time waits here for the first, and its token is then measured by the one that was committed.
const POSTGRES_CHECK: &str = "\
INSERT INTO tenure_fence AS newest (resource, fence, changed) VALUES ($1, $2, clock_timestamp()) \
ON CONFLICT (resource) DO UPDATE SET fence = excluded.fence, changed = excluded.changed \
WHERE excluded.fence >= newest.fence";

const SQLITE_CHECK: &str = "\
INSERT INTO tenure_fence AS newest (resource, fence, changed) VALUES (?1, ?2, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) \
ON CONFLICT (resource) DO UPDATE SET fence = excluded.fence, changed = excluded.changed \
WHERE excluded.fence >= newest.fence";

/// The table in which a database keeps the newest token of each resource: `tenure_fence`, or another name.
///
/// ```
/// use tenure::transaction::sql::FenceTable;
///
/// let table = FenceTable::named("billing.fences")?;
/// assert!(table.postgres_migration().starts_with(r#"CREATE TABLE IF NOT EXISTS "billing"."fences" ("#));
/// assert!(FenceTable::named("fences; DROP TABLE users").is_err());
/// # Ok::<(), tenure::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceTable {
    /// Its name as it stands in statements, in quotes.
    quoted: String,
}

impl Default for FenceTable {
    /// The table `tenure_fence`, in the schema where Postgres looks first.
    fn default() -> Self {
        Self { quoted: DEFAULT.to_owned() }
    }
}

/// The name in the constants above.
const DEFAULT: &str = "tenure_fence";

/// The longest name that Postgres does not cut, in bytes.
const NAME_MAX: usize = 63;

/// The longest name of a resource, in bytes.
const RESOURCE_MAX: usize = 1024;

impl FenceTable {
    /// A table of that name, or `schema.name`: letters, digits and underscores, not a digit first, at most 63 of them
    /// each. Capital and small letters differ in Postgres.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is anything else.
    pub fn named(name: &str) -> Result<Self> {
        let is_word = |word: &str| {
            let rest = word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            (1..=NAME_MAX).contains(&word.len()) && rest && !word.as_bytes()[0].is_ascii_digit()
        };
        let words: Vec<&str> = name.split('.').collect();
        if words.len() > 2 || !words.iter().all(|word| is_word(word)) {
            let message = format!(
                "{name:?} cannot be a table for fences: give \"name\" or \"schema.name\", of letters, digits and \
                 underscores, not a digit first, at most {NAME_MAX} each"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        Ok(Self { quoted: quoted.join(".") })
    }

    /// [`POSTGRES_MIGRATION`] for this table.
    pub fn postgres_migration(&self) -> String {
        self.fill(POSTGRES_MIGRATION)
    }

    /// [`SQLITE_MIGRATION`] for this table.
    pub fn sqlite_migration(&self) -> String {
        self.fill(SQLITE_MIGRATION)
    }

    /// The check as a statement for any client of Postgres, to be run first in a transaction: `$1` is the resource, as
    /// `text`, and `$2` the token, as `bigint`. It affects one row when the token is accepted; when it affects none,
    /// the transaction must be rolled back.
    pub fn postgres_statement(&self) -> String {
        self.fill(POSTGRES_CHECK)
    }

    /// The same for any client of SQLite, with `?1` and `?2`.
    pub fn sqlite_statement(&self) -> String {
        self.fill(SQLITE_CHECK)
    }

    fn fill(&self, statement: &str) -> String {
        statement.replacen(DEFAULT, &self.quoted, 1)
    }
}

/// The token as databases know numbers, once it is one and the resource has a name that can be stored.
#[cfg_attr(not(any(feature = "rusqlite", feature = "tokio-postgres", feature = "sqlx")), allow(dead_code))]
fn token(resource: &str, fence: Fence) -> Result<i64> {
    if resource.is_empty() || resource.len() > RESOURCE_MAX || resource.contains('\0') {
        let start: String = resource.chars().take(24).collect();
        let message = format!(
            "the resource's name {start:?} has {} bytes: give it 1 to {RESOURCE_MAX}, without a zero byte",
            resource.len()
        );
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    if fence == Fence::NONE {
        let message = format!("{resource:?} is not written without a token: the hold is degraded, or was made up");
        return Err(Error::new(ErrorKind::Lost, message));
    }
    i64::try_from(fence.get())
        .map_err(|_| Error::new(ErrorKind::Invalid, format!("no store grants the token {fence}: it is too large")))
}

/// A token that is too old, for who holds it.
#[cfg_attr(not(any(feature = "rusqlite", feature = "tokio-postgres", feature = "sqlx")), allow(dead_code))]
fn stale(resource: &str, fence: Fence, newest: Option<i64>) -> Error {
    let newest = newest.map_or_else(|| "a newer one".to_owned(), |newest| newest.to_string());
    let message = format!(
        "{resource:?} has accepted token {newest}, so {fence} is too old: the hold is over and somebody else had the lock \
         since; roll back, and take the lock again"
    );
    Error::new(ErrorKind::Lost, message)
}
