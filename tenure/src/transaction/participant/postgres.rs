//! A Postgres database that takes part: by tables of staged shares, and not by `PREPARE TRANSACTION`, which is off by
//! default, holds its row locks until it is settled, and keeps the database from cleaning up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use tokio_postgres::Transaction;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use super::work::{Param, SqlWork, Statement};
use super::{Ack, Branch, Did, Participant, Refusal, Share, ShareState, Vote};
use crate::error::{Error, ErrorKind, Result};
use crate::hold::Fence;
use crate::transaction::postgres::{Postgres, Step};

/// A Postgres database, 12 or newer, that does its share of a transaction. Its work is a [`SqlWork`].
///
/// Its shares are in the tables `tenure_share` and `tenure_share_fence`, in rows under its name. Each step is one SQL
/// transaction; those of one lock come one after the other, those of different locks side by side.
///
/// Connections are encrypted where the server offers it, and prove nothing of whom they lead to; with
/// `?sslmode=verify-full&sslrootcert=/path/ca.pem` behind the URL they do. The modes are those of every client of Postgres:
/// `disable`, `prefer`, `require`, `verify-ca` and `verify-full`; without `sslrootcert` the machine's authorities are
/// trusted. Clones share up to eight connections.
#[derive(Clone, Debug)]
pub struct PostgresParticipant {
    name: String,
    server: Postgres,
    /// How often it was told to forget.
    forgotten: Arc<AtomicU32>,
}

/// Every so many times, what is left of locks that nobody uses any more is looked for.
const SWEEP_EVERY: u32 = 256;

impl PostgresParticipant {
    /// What makes the tables, in SQL; where they are there, it does nothing.
    pub const MIGRATION: &'static str = include_str!("postgres.sql");

    /// The participant `name` in the database at a URL, `postgres://user:password@host:port/database`. The tables have to
    /// be there: [`migrate`](Self::migrate) makes them.
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
    pub async fn connect(name: impl Into<String>, url: &str) -> Result<Self> {
        let server = Postgres::connect(url).await?;
        server.require_fsync("what was prepared").await?;
        Ok(Self { name: name.into(), server, forgotten: Arc::default() })
    }

    /// Makes the tables, where they are missing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] where this user may not; otherwise where the server does not answer.
    ///
    /// # Cancel safety
    ///
    /// They may be made.
    pub async fn migrate(&self) -> Result<()> {
        self.server.migrate(Self::MIGRATION).await
    }

    /// Takes the row of the lock, so that nobody else is at it, and gives the newest token, `fence` among them.
    async fn enter(&self, tx: &Transaction<'_>, lock: &str, fence: u64) -> Result<u64> {
        const ENTER: &str = "INSERT INTO tenure_share_fence AS f (participant, lock, fence) VALUES ($1, $2, $3)
            ON CONFLICT (participant, lock) DO UPDATE SET fence = GREATEST(f.fence, excluded.fence), used = now()
            RETURNING fence";
        let row = tx.query_one(ENTER, &[&self.name, &lock, &(fence as i64)]).await;
        row.map(|row| row.get::<_, i64>(0) as u64).map_err(|error| self.server.explain(error))
    }

    async fn find(&self, tx: &Transaction<'_>, branch: &Branch) -> Result<Option<(ShareState, SqlWork)>> {
        const FIND: &str = "SELECT state, work FROM tenure_share WHERE participant = $1 AND id = $2";
        let row = tx.query_opt(FIND, &[&self.name, &branch.id.to_string()]).await;
        let Some(row) = row.map_err(|error| self.server.explain(error))? else { return Ok(None) };
        let work: Option<&[u8]> = row.get(1);
        let work = work.map(|work| self.read(work)).transpose()?.unwrap_or_default();
        Ok(Some((state(row.get(0)), work)))
    }

    fn read(&self, work: &[u8]) -> Result<SqlWork> {
        serde_json::from_slice(work).map_err(|error| {
            let message = format!("the work for {:?} is no SqlWork: {error}", self.name);
            Error::new(ErrorKind::Invalid, message)
        })
    }

    async fn put(&self, tx: &Transaction<'_>, branch: &Branch, state: &str, work: Option<&[u8]>) -> Result<()> {
        const PUT: &str = "INSERT INTO tenure_share (participant, id, lock, fence, state, work)
            VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (participant, id) DO UPDATE SET state = excluded.state, work = excluded.work";
        let (id, fence) = (branch.id.to_string(), branch.fence.get() as i64);
        let put = tx.execute(PUT, &[&self.name, &id, &branch.lock, &fence, &state, &work]).await;
        put.map(drop).map_err(|error| self.server.explain(error))
    }

    async fn stage(&self, tx: &Transaction<'_>, branch: &Branch, work: &[u8]) -> Result<Step<Vote>> {
        const OLDER: &str = "SELECT id FROM tenure_share
            WHERE participant = $1 AND lock = $2 AND fence < $3 AND state = 'staged' LIMIT 1";
        const FORGET: &str =
            "DELETE FROM tenure_share WHERE participant = $1 AND lock = $2 AND fence < $3 AND finished IS NOT NULL";
        let explain = |error| self.server.explain(error);
        let refuse = |refusal| Ok(Step::Undo(Vote::Refused(refusal)));
        let newest = self.enter(tx, &branch.lock, branch.fence.get()).await?;
        match self.find(tx, branch).await? {
            Some((ShareState::Staged | ShareState::Committed, _)) => return Ok(Step::Undo(Vote::Prepared)),
            Some((ShareState::RolledBack, _)) => return refuse(Refusal::RolledBack),
            None => {}
        }
        if newest > branch.fence.get() {
            return refuse(Refusal::Stale { newest: Fence::new(newest) });
        }
        let of_lock = (&self.name, &branch.lock, branch.fence.get() as i64);
        let older = tx.query_opt(OLDER, &[of_lock.0, of_lock.1, &of_lock.2]).await.map_err(explain)?;
        if let Some(row) = older {
            return refuse(Refusal::InDoubt { id: row.get::<_, String>(0).parse()? });
        }
        let parsed = match self.read(work) {
            Ok(work) => work,
            Err(error) => return refuse(Refusal::Unable(error.to_string())),
        };
        let done = match self.run(tx, &parsed.reserve).await {
            Ok(()) => self.would_do(tx, &parsed.commit).await,
            failed => failed,
        };
        let done = match done {
            Ok(()) => self.would_do(tx, &parsed.rollback).await,
            failed => failed,
        };
        match done {
            Ok(()) => {}
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => return refuse(Refusal::Unable(error.to_string())),
        }
        self.put(tx, branch, "staged", Some(work)).await?;
        tx.execute(FORGET, &[of_lock.0, of_lock.1, &of_lock.2]).await.map_err(explain)?;
        Ok(Step::Keep(Vote::Prepared))
    }

    /// Whether the statements would do now; nothing of them stays.
    async fn would_do(&self, tx: &Transaction<'_>, statements: &[Statement]) -> Result<()> {
        if statements.is_empty() {
            return Ok(());
        }
        let explain = |error| self.server.explain(error);
        tx.batch_execute("SAVEPOINT tenure_trial").await.map_err(explain)?;
        self.run(tx, statements).await?;
        tx.batch_execute("ROLLBACK TO SAVEPOINT tenure_trial; RELEASE SAVEPOINT tenure_trial").await.map_err(explain)
    }

    async fn run(&self, tx: &Transaction<'_>, statements: &[Statement]) -> Result<()> {
        for statement in statements {
            let params: Vec<&(dyn ToSql + Sync)> = statement.params.iter().map(|param| param as _).collect();
            let count = tx.execute(&statement.sql, &params).await.map_err(|error| self.server.explain(error))?;
            if let Some(expected) = statement.rows.filter(|&expected| expected != count) {
                let message = format!("{:?} was about {count} rows in place of {expected}", statement.sql);
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        }
        Ok(())
    }
}

fn state(text: &str) -> ShareState {
    match text {
        "staged" => ShareState::Staged,
        "committed" => ShareState::Committed,
        _ => ShareState::RolledBack,
    }
}

#[async_trait]
impl Participant for PostgresParticipant {
    fn name(&self) -> &str {
        &self.name
    }

    fn location(&self) -> String {
        self.server.location().to_owned()
    }

    async fn prepare(&self, branch: &Branch, work: &[u8]) -> Result<Vote> {
        self.server.within(async |tx| self.stage(tx, branch, work).await).await
    }

    async fn commit(&self, branch: &Branch) -> Result<Ack> {
        let step = async |tx: &Transaction<'_>| {
            self.enter(tx, &branch.lock, 0).await?;
            match self.find(tx, branch).await? {
                Some((ShareState::Staged, work)) => {
                    self.run(tx, &work.commit).await?;
                    self.put(tx, branch, "committed", None).await?;
                    Ok(Step::Keep(Ack::Done))
                }
                Some((ShareState::Committed, _)) => Ok(Step::Undo(Ack::Done)),
                Some((ShareState::RolledBack, _)) => Ok(Step::Undo(Ack::Heuristic(Did::RollBack))),
                None => Ok(Step::Undo(Ack::Heuristic(Did::Lose))),
            }
        };
        self.server.within(step).await
    }

    async fn rollback(&self, branch: &Branch) -> Result<Ack> {
        let step = async |tx: &Transaction<'_>| {
            let newest = self.enter(tx, &branch.lock, 0).await?;
            match self.find(tx, branch).await? {
                Some((ShareState::Staged, work)) => {
                    self.run(tx, &work.rollback).await?;
                    self.put(tx, branch, "rolled-back", None).await?;
                    Ok(Step::Keep(Ack::Done))
                }
                Some((ShareState::RolledBack, _)) => Ok(Step::Undo(Ack::Done)),
                Some((ShareState::Committed, _)) => Ok(Step::Undo(Ack::Heuristic(Did::Commit))),
                // Its prepare is refused for its token.
                None if newest > branch.fence.get() => Ok(Step::Undo(Ack::Done)),
                None => {
                    self.put(tx, branch, "rolled-back", None).await?;
                    Ok(Step::Keep(Ack::Done))
                }
            }
        };
        self.server.within(step).await
    }

    async fn forget(&self, branch: &Branch) -> Result<()> {
        // Of locks that nobody has used for a week: nothing of theirs is under way any more.
        const SWEEP: &str = "WITH gone AS (DELETE FROM tenure_share_fence AS f WHERE participant = $1
                AND used < now() - interval '7 days' AND NOT EXISTS (SELECT FROM tenure_share AS s
                    WHERE s.participant = f.participant AND s.lock = f.lock AND s.finished IS NULL)
                RETURNING lock)
            DELETE FROM tenure_share WHERE participant = $1 AND lock IN (SELECT lock FROM gone)";
        const FORGET: &str =
            "DELETE FROM tenure_share WHERE participant = $1 AND id = $2 AND fence < $3 AND state <> 'staged'";
        const FINISH: &str =
            "UPDATE tenure_share SET finished = now() WHERE participant = $1 AND id = $2 AND state <> 'staged'";
        let step = async |tx: &Transaction<'_>| {
            let newest = self.enter(tx, &branch.lock, 0).await? as i64;
            let id = branch.id.to_string();
            tx.execute(FORGET, &[&self.name, &id, &newest]).await.map_err(|error| self.server.explain(error))?;
            tx.execute(FINISH, &[&self.name, &id]).await.map_err(|error| self.server.explain(error))?;
            Ok(Step::Keep(()))
        };
        self.server.within(step).await?;
        if self.forgotten.fetch_add(1, Ordering::Relaxed).is_multiple_of(SWEEP_EVERY) {
            let _ = self.server.by(true, async |client| client.execute(SWEEP, &[&self.name]).await).await;
        }
        Ok(())
    }

    async fn list(&self, lock: Option<&str>) -> Result<Vec<Share>> {
        const LIST: &str = "SELECT id, lock, fence, state FROM tenure_share
            WHERE participant = $1 AND finished IS NULL AND lock = COALESCE($2, lock) ORDER BY fence, id";
        let rows = self.server.by(true, async |client| client.query(LIST, &[&self.name, &lock]).await).await?;
        let share = |row: &tokio_postgres::Row| {
            let id = row.get::<_, String>(0).parse()?;
            let branch = Branch { id, lock: row.get(1), fence: Fence::new(row.get::<_, i64>(2) as u64) };
            Ok(Share { branch, state: state(row.get(3)) })
        };
        rows.iter().map(share).collect()
    }
}

/// As text, which the server reads as whatever type it wants.
impl ToSql for Param {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        if let Self::Bytes(_) = self { Format::Binary } else { Format::Text }
    }

    to_sql_checked!();
}
