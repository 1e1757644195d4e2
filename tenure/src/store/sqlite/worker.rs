//! The thread that a store's operations are carried out on.
//!
//! SQLite blocks, and a transaction costs many times what an operation in it does. So the operations of all tasks come
//! here through one channel, and whatever has gathered while the last transaction ran is carried out in the next one.
//! Answers and grants leave once it is committed.

use std::sync::mpsc;

use rusqlite::{OptionalExtension, Transaction, params};
use tokio::sync::oneshot;

use super::clock::Clock;
use super::file::File;
use super::inbox::Sender;
use crate::error::Result;
use crate::key::Key;
use crate::proto::{At, Grant, Inbox, Micros, Op, Reply};
use crate::store::atomic::{Step, decode, step};
use crate::store::{Hub, Seen};

/// Jobs in one transaction, so that nobody waits for ever longer ones.
const MOST: usize = 256;

/// A record is looked at this often, in microseconds, whether it has expired.
const LOOK_EVERY: Micros = 60_000_000;

/// Something to do, and whom to tell how it went.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) ask: Ask,
    pub(super) tell: oneshot::Sender<Result<Answer>>,
}

#[derive(Debug)]
pub(super) enum Ask {
    Apply(Vec<(Key, Op)>),
    Read(Key),
    Scan,
    Ping,
}

#[derive(Debug)]
pub(super) enum Answer {
    Applied(Vec<Result<Reply>>),
    Seen(Seen),
    Keys(Vec<Key>),
    Pong,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) file: File,
    pub(super) clock: Clock,
    pub(super) hub: Hub,
    pub(super) inbox: Inbox,
    pub(super) sender: Sender,
}

impl Worker {
    /// Works until the last handle of the store is gone.
    pub(super) fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        let (mut batch, mut turn) = (Vec::new(), 0_u64);
        while let Ok(job) = jobs.recv() {
            batch.push(job);
            gather(&mut batch, jobs);
            match self.carry_out(&mut batch, jobs) {
                Ok((answers, grants)) => {
                    // Before the answers: a process may end as soon as it has its own.
                    self.push(&grants);
                    for (job, answer) in batch.drain(..).zip(answers) {
                        // Whoever does not listen any more takes it for a missing reply.
                        let _ = job.tell.send(answer);
                    }
                }
                Err(error) => batch.drain(..).for_each(|job| drop(job.tell.send(Err(error.clone())))),
            }
            // The first time at once, for processes that never do more than a little.
            if turn.is_multiple_of(64) {
                self.file.checkpoint();
            }
            turn += 1;
        }
    }

    fn carry_out(
        &mut self,
        batch: &mut Vec<Job>,
        jobs: &mpsc::Receiver<Job>,
    ) -> Result<(Vec<Result<Answer>>, Vec<Grant>)> {
        let file = &self.file;
        file.check_in_place()?;
        let writes = batch.iter().any(|job| matches!(job.ask, Ask::Apply(_)));
        let tx = if writes { file.write() } else { file.read() }?;
        if writes {
            // The write lock may have been long in coming.
            gather(batch, jobs);
        }
        let mut work = Work { tx: &tx, clock: &mut self.clock, inbox: &self.inbox, grants: Vec::new(), written: 0 };
        let answers = work.carry_out(batch).map_err(|error| file.explain(error))?;
        let grants = work.grants;
        tx.commit().map_err(|error| file.explain_commit(error))?;
        Ok((answers, grants))
    }

    fn push(&self, grants: &[Grant]) {
        let (ours, others): (Vec<_>, Vec<_>) = grants.iter().cloned().partition(|grant| grant.inbox == self.inbox);
        ours.iter().for_each(|grant| self.hub.deliver(grant));
        self.sender.send(&others);
    }
}

/// Adds what has come in the meantime, and drops what nobody waits for any more.
fn gather(batch: &mut Vec<Job>, jobs: &mpsc::Receiver<Job>) {
    batch.extend(jobs.try_iter().take(MOST.saturating_sub(batch.len())));
    batch.retain(|job| !job.tell.is_closed());
}

/// One transaction at work. A SQLite error undoes all of it; what concerns a single operation is in its answer.
struct Work<'a> {
    tx: &'a Transaction<'a>,
    clock: &'a mut Clock,
    inbox: &'a Inbox,
    grants: Vec<Grant>,
    written: usize,
}

impl Work<'_> {
    fn carry_out(&mut self, batch: &[Job]) -> rusqlite::Result<Vec<Result<Answer>>> {
        let answers = batch.iter().map(|job| self.answer(&job.ask)).collect::<rusqlite::Result<_>>()?;
        if self.written > 0 {
            self.purge()?;
        }
        Ok(answers)
    }

    fn answer(&mut self, ask: &Ask) -> rusqlite::Result<Result<Answer>> {
        Ok(match ask {
            Ask::Apply(ops) => {
                let replies = ops.iter().map(|(key, op)| self.apply(key, op));
                Ok(Answer::Applied(replies.collect::<rusqlite::Result<_>>()?))
            }
            Ask::Read(key) => {
                let (value, now) = (self.load(key)?, self.clock.now());
                let record = decode(key, value.as_deref());
                record.map(|record| Answer::Seen(Seen { record: record.seen_at(now), now }))
            }
            Ask::Scan => self.scan()?.into_iter().map(Key::new).collect::<Result<_>>().map(Answer::Keys),
            Ask::Ping => Ok(Answer::Pong),
        })
    }

    fn apply(&mut self, key: &Key, op: &Op) -> rusqlite::Result<Result<Reply>> {
        let value = self.load(key)?;
        let at = At { now: self.clock.now(), inbox: self.inbox };
        let Step { reply, write, grants } = match step(key, value.as_deref(), op, at.clone()) {
            Ok(step) => step,
            Err(error) => return Ok(Err(error)),
        };
        if let Some((value, expires)) = write {
            // `due` stays as it is: an index that changes with each operation would double what is written.
            let sql = "INSERT INTO record (name, value, expires, due) VALUES (?1, ?2, ?3, min(?3, ?4))
                       ON CONFLICT (name) DO UPDATE SET value = excluded.value, expires = excluded.expires";
            let due = at.now + LOOK_EVERY;
            self.tx.prepare_cached(sql)?.execute(params![key.as_str(), value, expires as i64, due as i64])?;
            self.written += 1;
        }
        self.grants.extend(grants);
        Ok(Ok(reply))
    }

    fn load(&self, key: &Key) -> rusqlite::Result<Option<Vec<u8>>> {
        let mut find = self.tx.prepare_cached("SELECT value FROM record WHERE name = ?1")?;
        find.query_row([key.as_str()], |row| row.get(0)).optional()
    }

    fn scan(&self) -> rusqlite::Result<Vec<String>> {
        // Names compare byte by byte, here as in Rust.
        let mut names = self.tx.prepare_cached("SELECT name FROM record WHERE expires > ?1 ORDER BY name")?;
        names.query_map([self.clock.now() as i64], |row| row.get(0))?.collect()
    }

    /// Looks at more records than were written whether they have expired, so that none gather, and never at many at once.
    fn purge(&mut self) -> rusqlite::Result<()> {
        let now = self.clock.now();
        let mut due =
            self.tx.prepare_cached("SELECT name, expires FROM record WHERE due <= ?1 ORDER BY due LIMIT ?2")?;
        let due = due.query_map([now as i64, 2 * self.written as i64 + 8], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let due = due.collect::<rusqlite::Result<Vec<(String, i64)>>>()?;
        let mut forgotten = 0;
        for (name, expires) in due {
            if expires <= now as i64 {
                self.tx.prepare_cached("DELETE FROM record WHERE name = ?1")?.execute([name])?;
                forgotten += 1;
            } else {
                let due = expires.min((now + LOOK_EVERY) as i64);
                self.tx.prepare_cached("UPDATE record SET due = ?2 WHERE name = ?1")?.execute(params![name, due])?;
            }
        }
        // A forgotten record took its last fence along; the clock, from which the next one comes, must not go back.
        self.clock.note(self.tx, now, forgotten > 0)
    }
}
