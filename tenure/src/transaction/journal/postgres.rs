//! A journal in a table of a Postgres database: a row for each entry.

use async_trait::async_trait;
use tokio_postgres::Row;

use super::{Durable, Entry, Journal, Keep, Written, check};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::transaction::postgres::Postgres;

/// A journal in the table `tenure_journal` of a Postgres database, 12 or newer.
///
/// The server has to write to disk before it answers: `fsync=on`, which is asked when it is opened; `synchronous_commit` is
/// set by every connection. Where a standby may take over, it has to be a synchronous one.
///
/// Connections are encrypted where the server offers it, and prove nothing of whom they lead to; with
/// `?sslmode=verify-full&sslrootcert=/path/ca.pem` behind the URL they do. The modes are those of every client of Postgres:
/// `disable`, `prefer`, `require`, `verify-ca` and `verify-full`; without `sslrootcert` the machine's authorities are
/// trusted. Clones share up to eight connections.
#[derive(Clone, Debug)]
pub struct PostgresJournal(Postgres);

impl PostgresJournal {
    /// What makes the table, in SQL; where it is there, it does nothing.
    pub const MIGRATION: &'static str = include_str!("postgres.sql");

    /// The journal in the database at a URL, `postgres://user:password@host:port/database`. The table has to be there:
    /// [`migrate`](Self::migrate) makes it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a URL that cannot be meant, [`ErrorKind::Unavailable`] where there is no server,
    /// [`ErrorKind::Denied`] for a wrong user or password, [`ErrorKind::Unsupported`] with `fsync=off`, or where the server has
    /// no TLS or no certificate such as `sslmode` wants.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub async fn connect(url: &str) -> Result<Self> {
        let server = Postgres::connect(url).await?;
        server.require_fsync("a decision").await?;
        Ok(Self(server))
    }

    /// Makes the table, where it is missing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] where this user may not; otherwise where the server does not answer.
    ///
    /// # Cancel safety
    ///
    /// It may be made.
    pub async fn migrate(&self) -> Result<()> {
        self.0.migrate(Self::MIGRATION).await
    }
}

fn entry(row: &Row) -> Entry {
    Entry { id: row.get(0), version: row.get::<_, i64>(1) as u64, value: row.get(2) }
}

#[async_trait]
impl Journal for PostgresJournal {
    async fn load(&self, id: &str) -> Result<Option<Entry>> {
        const LOAD: &str =
            "SELECT id, version, value FROM tenure_journal WHERE id = $1 AND (expires IS NULL OR expires > now())";
        let row = self.0.by(true, async |client| client.query_opt(LOAD, &[&id]).await).await?;
        Ok(row.as_ref().map(entry))
    }

    async fn write(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written> {
        // What has expired counts as gone, and may still lie there.
        const FIRST: &str = "INSERT INTO tenure_journal AS j (id, version, value, expires)
            VALUES ($1, 1, $2, now() + make_interval(secs => $3))
            ON CONFLICT (id) DO UPDATE SET version = 1, value = excluded.value, expires = excluded.expires
            WHERE j.expires <= now() RETURNING version";
        const NEXT: &str = "UPDATE tenure_journal
            SET version = version + 1, value = $2, expires = now() + make_interval(secs => $3)
            WHERE id = $1 AND version = $4 AND (expires IS NULL OR expires > now()) RETURNING version";
        const SWEEP: &str = "DELETE FROM tenure_journal WHERE id IN
            (SELECT id FROM tenure_journal WHERE expires <= now() LIMIT 20 FOR UPDATE SKIP LOCKED)";
        check(id, value)?;
        let seconds: Option<f64> = match keep {
            Keep::UntilForgotten => None,
            Keep::For(time) => Some(time.as_secs_f64()),
        };
        let write = async |client: &tokio_postgres::Client| match expected {
            None => client.query_opt(FIRST, &[&id, &value, &seconds]).await,
            Some(version) => client.query_opt(NEXT, &[&id, &value, &seconds, &(version as i64)]).await,
        };
        let row = self.0.by(false, write).await?;
        if seconds.is_some() {
            // Who writes what expires takes away what has.
            let _ = self.0.by(true, async |client| client.execute(SWEEP, &[]).await).await;
        }
        Ok(row.map_or(Written::Conflict, |row| Written::Done(row.get::<_, i64>(0) as u64)))
    }

    async fn forget(&self, id: &str, expected: u64) -> Result<bool> {
        const FORGET: &str = "DELETE FROM tenure_journal WHERE id = $1 AND version = $2";
        let count = self.0.by(false, async |client| client.execute(FORGET, &[&id, &(expected as i64)]).await).await?;
        Ok(count == 1)
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        const LIST: &str = "SELECT id, version, value FROM tenure_journal
            WHERE expires IS NULL OR expires > now() ORDER BY id COLLATE \"C\"";
        let rows = self.0.by(true, async |client| client.query(LIST, &[]).await).await?;
        Ok(rows.iter().map(entry).collect())
    }

    async fn unsettled(&self) -> Result<Vec<Entry>> {
        const OPEN: &str =
            "SELECT id, version, value FROM tenure_journal WHERE expires IS NULL ORDER BY id COLLATE \"C\"";
        let rows = self.0.by(true, async |client| client.query(OPEN, &[]).await).await?;
        Ok(rows.iter().map(entry).collect())
    }

    fn location(&self) -> String {
        self.0.location().to_owned()
    }
}

impl Durable for PostgresJournal {}
