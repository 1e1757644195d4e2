//! The one clock that the processes on a file go by.
//!
//! On Linux it is the time since the machine was started, which never jumps and goes on through suspend, plus an offset
//! that whoever comes first after a start takes from the wall clock and writes into the file. So it counts microseconds
//! since the epoch, all processes agree on it, and setting the wall clock ends no hold and prolongs none. Elsewhere it is
//! the wall clock.
//!
//! The file also notes how late it has been, so that a machine which starts with its wall clock in the past goes on from
//! there: holds of before end in time, and fences rise.

use rusqlite::{OptionalExtension, Transaction, params};

use super::file::File;
use crate::env::{Boot, Env};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::Micros;

/// How much later it must be before it is noted again.
const NOTE_EVERY: Micros = 60_000_000;

#[derive(Debug)]
pub(super) struct Clock {
    env: Env,
    /// What the clock showed when the machine's stood at zero; `None`: the wall clock is used.
    zero: Option<i64>,
    /// The time that was last noted.
    noted: Micros,
}

impl Clock {
    /// The clock of that file, started if nobody has since the machine was.
    pub(super) fn of(file: &File) -> Result<Self> {
        let env = Env::system();
        let boot = env.boot().map_err(|error| {
            let message = format!(
                "/proc/sys/kernel/random/boot_id cannot be read, so the processes on {} could not agree on the time: \
                 mount /proc: {error}",
                file.path().display()
            );
            Error::with_source(ErrorKind::Unsupported, message, error)
        })?;
        let zero = boot.map(|boot| Self::zero(file, &boot, &env)).transpose()?;
        Ok(Self { env, zero, noted: 0 })
    }

    fn zero(file: &File, boot: &Boot, env: &Env) -> Result<i64> {
        let explain = |error| file.explain(error);
        if let Some(zero) = find(&file.read()?, boot).map_err(explain)? {
            return Ok(zero);
        }
        let tx = file.write()?;
        // Somebody may have been faster.
        let zero = match find(&tx, boot).map_err(explain)? {
            Some(zero) => zero,
            None => start(&tx, boot, env).map_err(explain)?,
        };
        tx.commit().map_err(explain)?;
        Ok(zero)
    }

    pub(super) fn now(&self) -> Micros {
        match self.zero {
            Some(zero) => self.env.now().0.saturating_add_signed(zero),
            None => self.env.wall(),
        }
    }

    /// Notes how late it is, once in a while or where `must` says so.
    pub(super) fn note(&mut self, tx: &Transaction<'_>, now: Micros, must: bool) -> rusqlite::Result<()> {
        if must || now >= self.noted + NOTE_EVERY {
            tx.prepare_cached("UPDATE clock SET seen = max(seen, ?1)")?.execute([now as i64])?;
            self.noted = now;
        }
        Ok(())
    }
}

fn find(tx: &Transaction<'_>, boot: &Boot) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT zero FROM clock WHERE boot = ?1 AND namespace = ?2";
    tx.query_row(sql, [&boot.id, &boot.namespace], |row| row.get(0)).optional()
}

fn start(tx: &Transaction<'_>, boot: &Boot, env: &Env) -> rusqlite::Result<i64> {
    let seen: i64 = tx.query_row("SELECT ifnull(max(seen), 0) FROM clock", [], |row| row.get(0))?;
    let zero = seen.max(env.wall() as i64) - env.now().0 as i64;
    tx.execute("DELETE FROM clock WHERE boot <> ?1", [&boot.id])?;
    tx.execute("INSERT INTO clock VALUES (?1, ?2, ?3, ?4)", params![boot.id, boot.namespace, zero, seen])?;
    Ok(zero)
}
