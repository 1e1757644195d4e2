//! Grants that replicas have to acknowledge: the operations and one `WAIT` for all of them in one pipeline.
//!
//! ```text
//!   EVALSHA … EVALSHA … WAIT k ──▶ k or more: every answer is good
//!                              └─▶ fewer: who was let in is let out again, by a release, and told how many it were
//! ```
//!
//! The number is compared each time: that some replica acknowledged is not enough where two were asked for, and neither
//! is that there once were two.
//!
//! What holds already is never let out. A renewal that was not acknowledged is an error, and the hold is as certain as it
//! was: until the time that replicas know of. To release it would let the next one in beside a holder who is certain.
//! Nor is an heir, who follows a holder: it stays in, and nobody is told. After a failover the old claim may be what is
//! there, and a hand-over that is asked for again goes on from either.
//!
//! A server keeps all that comes behind a `WAIT` on the same connection waiting, so there is one under way at a time, and
//! whoever comes meanwhile goes with the next.

use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::sync::{Mutex, MutexGuard, oneshot};

use super::carry::pipeline;
use super::{Collector, FLUSHES, Shared, is_noscript};
use crate::env;
use crate::error::{Error, ErrorKind, Result};
use crate::store::redis::script::{self, BATCH, Call};
use crate::store::redis::transport::Transport;

/// How many replicas have to acknowledge, and who is waiting for them.
pub(in crate::store::redis) struct Acknowledged {
    replicas: u32,
    /// How long they may take.
    patience: Duration,
    turn: Mutex<()>,
}

/// The right to be the one that waits.
pub(super) type Turn<'a> = MutexGuard<'a, ()>;

/// Replicas that take longer have to be taken for gone: all else waits behind them.
const PATIENCE: Duration = Duration::from_millis(500);

impl Acknowledged {
    /// By that many replicas, if any. They have no longer than half of what the connection has for a reply.
    pub(in crate::store::redis) fn by(replicas: u32, response_timeout: Duration) -> Option<Self> {
        let patience = PATIENCE.min(response_timeout / 2).max(Duration::from_millis(1));
        (replicas > 0).then(|| Self { replicas, patience, turn: Mutex::default() })
    }

    pub(super) async fn turn(&self) -> Turn<'_> {
        self.turn.lock().await
    }
}

/// An answer, and how many replicas acknowledged what it says.
struct Answer {
    value: Value,
    replicas: u32,
}

impl<T: Transport> Collector<T> {
    /// A task carries it, as it carries grants: a caller's future may not be polled, and all others would wait for it.
    pub(super) async fn settle_acknowledged(&self, command: redis::Cmd) -> Result<Value> {
        let (shared, (reply, answer)) = (self.0.clone(), oneshot::channel());
        env::spawn(async move {
            let Some(by) = &shared.acknowledged else { return };
            let turn = by.turn().await;
            if !reply.is_closed() {
                let value = shared.settle_and_wait(by, &command).await;
                drop(turn);
                let _ = reply.send(value);
            }
        });
        answer.await.unwrap_or_else(|_| {
            let message = "the runtime that carried the transaction has ended; it may have been carried out";
            Err(Error::new(ErrorKind::NoReply, message))
        })
    }
}

impl<T: Transport> Shared<T> {
    /// A transaction that too few know may be gone after a failover, or not: it is not certain, and asked for again.
    async fn settle_and_wait(&self, by: &Acknowledged, command: &redis::Cmd) -> Result<Value> {
        let mut scripts: &[redis::Cmd] = &[];
        for _ in 0..=FLUSHES {
            let mut pipeline = pipeline(scripts, std::slice::from_ref(command));
            pipeline.cmd("WAIT").arg(by.replicas).arg(by.patience.as_millis() as u64);
            let mut values = self.exchange(&pipeline).await?;
            let replicas: u32 = values.pop().and_then(|value| redis::from_redis_value(value).ok()).unwrap_or(0);
            let value = values.pop().unwrap_or_default();
            if is_noscript(&value) {
                scripts = &self.scripts;
                continue;
            }
            let decided = matches!(value, Value::BulkString(_));
            return if decided && replicas < by.replicas { Err(by.not_settled(replicas)) } else { Ok(value) };
        }
        Err(Error::new(ErrorKind::Unavailable, "the server forgets scripts as fast as they are loaded"))
    }

    /// Sends the calls, and has who was let in without enough replicas knowing let out again.
    pub(super) async fn carry_acknowledged(
        &self,
        by: &Acknowledged,
        turn: Turn<'_>,
        calls: &[Call],
    ) -> Vec<Result<Value>> {
        let answers = match self.send_and_wait(by, calls).await {
            Ok(answers) => answers,
            Err(error) => return vec![Err(error); calls.len()],
        };
        drop(turn);
        let is_short = |call: &Call, answer: &Answer| answer.replicas < by.replicas && call.has_gained(&answer.value);
        let entered = calls.iter().zip(&answers).filter(|(call, answer)| call.enters() && is_short(call, answer));
        let entered: Vec<Call> = entered.map(|(call, _)| call.undone()).collect();
        let mut undone = self.give_back(&entered).await.into_iter();
        let judged = calls.iter().zip(answers).map(|(call, answer)| match is_short(call, &answer) {
            false => Ok(answer.value),
            true if call.enters() => Err(by.too_few(answer.replicas, undone.next().is_some_and(|undone| undone))),
            true => Err(by.not_renewed(answer.replicas)),
        });
        judged.collect()
    }

    /// What the server lacks a script for is sent again behind the scripts; what it refused as a whole, one by one.
    async fn send_and_wait(&self, by: &Acknowledged, calls: &[Call]) -> Result<Vec<Answer>> {
        let mut answers: Vec<Option<Answer>> = calls.iter().map(|_| None).collect();
        let mut batches: Vec<(usize, &[Call])> = calls.chunks(BATCH).enumerate().map(|(n, c)| (n * BATCH, c)).collect();
        let mut scripts: &[redis::Cmd] = &[];
        for round in 0..=FLUSHES + 1 {
            let mut pipeline = Pipeline::with_capacity(scripts.len() + batches.len() + 1);
            scripts.iter().for_each(|script| _ = pipeline.add_command(script.clone()));
            batches.iter().for_each(|(_, calls)| _ = pipeline.add_command(script::command(calls)));
            pipeline.cmd("WAIT").arg(by.replicas).arg(by.patience.as_millis() as u64);
            let mut values = self.exchange(&pipeline).await?;
            let replicas = values.pop().and_then(|value| redis::from_redis_value(value).ok()).unwrap_or(0);
            let mut values = values.into_iter().skip(scripts.len());
            let mut again = Vec::new();
            for (at, calls) in batches {
                let value = values.next().unwrap_or_default();
                if is_noscript(&value) && round <= FLUSHES {
                    scripts = &self.scripts;
                    again.push((at, calls));
                    continue;
                }
                match script::replies(calls.len(), value) {
                    Ok(values) => {
                        for ((n, value), call) in (at..).zip(values).zip(calls.chunks(1)) {
                            match calls.len() > 1 && call[0].goes_alone(&value) {
                                true => again.push((n, call)),
                                false => answers[n] = Some(Answer { value, replicas }),
                            }
                        }
                    }
                    Err(_) => again.extend((at..).zip(calls.chunks(1))),
                }
            }
            batches = again;
            if batches.is_empty() {
                break;
            }
        }
        let none = || Answer { value: Value::Nil, replicas: 0 };
        Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(none)).collect())
    }

    /// Lets them out again; for each whether that is certain.
    async fn give_back(&self, releases: &[Call]) -> Vec<bool> {
        let mut undone = Vec::with_capacity(releases.len());
        for batch in releases.chunks(BATCH) {
            let values = self.carry(batch).await;
            undone.extend(
                values.into_iter().map(|value| value.is_ok_and(|value| !matches!(value, Value::ServerError(_)))),
            );
        }
        undone
    }
}

impl Acknowledged {
    fn too_few(&self, replicas: u32, undone: bool) -> Error {
        let asked = self.replicas;
        tracing::warn!(replicas, asked, undone, "a grant was acknowledged by too few replicas and is given back");
        let message = format!("the grant was acknowledged by {replicas} of the {asked} replicas that it has to be");
        match undone {
            true => Error::new(ErrorKind::Unavailable, format!("{message}, and was given back")),
            false => Error::new(ErrorKind::NoReply, format!("{message}, and whether it was given back is not known")),
        }
    }

    fn not_settled(&self, replicas: u32) -> Error {
        let asked = self.replicas;
        let message =
            format!("the transaction was acknowledged by {replicas} of the {asked} replicas that it has to be");
        Error::new(ErrorKind::NoReply, message)
    }

    fn not_renewed(&self, replicas: u32) -> Error {
        let asked = self.replicas;
        tracing::warn!(replicas, asked, "a renewal or hand-over was acknowledged by too few replicas");
        let message = format!(
            "the renewal or hand-over was acknowledged by {replicas} of the {asked} replicas that it has to be: the others know \
             how it was before"
        );
        Error::new(ErrorKind::NoReply, message)
    }
}
