//! Gathers the operations of all tasks that are ready at the same moment into one command.
//!
//! ```text
//!   task ──┐                                            ┌──▶ task
//!   task ──┼──▶ queue ──one yield──▶ one EVALSHA ───────┼──▶ task
//!   task ──┘                                            └──▶ task
//!
//!   task ─────────── nothing under way ────────────────────▶ task
//! ```
//!
//! The first call in the queue starts a carrier, a task of its own, that steps back once, so that everyone who is ready
//! comes before it, and then takes the whole queue. It is no caller's future that carries the others' calls: one that is
//! dropped, or simply not polled, concerns nobody else. A lone task does not pay for any of this: where nothing is under
//! way, a call goes straight to the transport.
//!
//! Calls that share a command share its price: for the server to look up and enter the script and to read the clock costs
//! as much as two operations. They share no fate: where the server answers by an error to all of them, each is asked for
//! again alone, which is what the operations are idempotent for.
//!
//! Nor does one fail for another: a record that somebody else has damaged is an error to those who ask for that lock. Who
//! leaves or renews and was refused for a lack of memory shared a call with somebody who enters: it is asked for again alone.
//!
//! A server forgets its scripts when it restarts and at `SCRIPT FLUSH`, and then answers `NOSCRIPT`, which says that
//! the command was not carried out. It is sent again behind the scripts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use redis::{Cmd, Pipeline, ServerErrorKind, Value};

use self::acknowledge::Acknowledged;
use self::carry::pipeline;
use super::script::{Call, Dialect};
use super::transport::Transport;
use crate::env;
use crate::error::{Error, ErrorKind, Result};
use crate::store::gather::{Dropped, Gather, Load};

pub(super) mod acknowledge;
mod carry;

/// Above a transport; clones share it. A server's own error to a command is the command's value.
pub(super) struct Collector<T>(Arc<Shared<T>>);

struct Shared<T> {
    transport: T,
    dialect: Dialect,
    /// What loads the scripts that commands call.
    scripts: Vec<Cmd>,
    /// Whether grants have to be acknowledged by replicas.
    acknowledged: Option<Acknowledged>,
    calls: Arc<Gather<Call, Result<Value>>>,
    /// How many commands were given to the transport and have no answer yet.
    under_way: AtomicUsize,
}

impl<T> Clone for Collector<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Transport> Collector<T> {
    /// `scripts` loads what commands of that dialect call.
    pub(super) fn new(transport: T, dialect: Dialect, scripts: Vec<Cmd>, acknowledged: Option<Acknowledged>) -> Self {
        let (calls, under_way) = (Arc::default(), AtomicUsize::new(0));
        Self(Arc::new(Shared { transport, dialect, scripts, acknowledged, calls, under_way }))
    }

    pub(super) fn transport(&self) -> &T {
        &self.0.transport
    }

    /// Has one operation carried out, together with whatever else is ready to go.
    ///
    /// # Errors
    ///
    /// As [`Transport::one`].
    ///
    /// # Cancel safety
    ///
    /// A call whose caller is gone before it is sent is not sent; other calls are not concerned.
    pub(super) async fn call(&self, call: Call) -> Result<Value> {
        let shared = &self.0;
        let alone = shared.under_way.load(Ordering::Relaxed) == 0 && shared.calls.is_empty();
        if alone && shared.acknowledged.is_none() {
            // In a box, so that the future of the many who queue stays small.
            return Box::pin(shared.carry_one(call)).await;
        }
        self.queue(call).await
    }

    async fn queue(&self, call: Call) -> Result<Value> {
        let carry = |load| _ = env::spawn(self.0.clone().carry_load(load));
        self.0.calls.call(call, carry).await.unwrap_or_else(|dropped| {
            let (kind, message) = match dropped {
                Dropped::Unsent => (ErrorKind::Unavailable, "the runtime ended before the command was sent"),
                Dropped::Sent => {
                    let message =
                        "the runtime that carried the command has ended; the command may have been carried out";
                    (ErrorKind::NoReply, message)
                }
            };
            Err(Error::new(kind, message))
        })
    }

    /// Has many operations carried out, in as few commands as may be; their answers in their order.
    pub(super) async fn call_many(&self, calls: &[Call]) -> Vec<Result<Value>> {
        if self.0.acknowledged.is_some() {
            return join_all(calls.iter().map(|call| self.queue(call.clone()))).await;
        }
        join_all(calls.chunks(self.0.most()).map(|batch| self.0.carry(batch))).await.into_iter().flatten().collect()
    }

    /// Sends any command.
    ///
    /// # Errors
    ///
    /// As [`Transport::one`].
    pub(super) async fn command(&self, command: &Cmd) -> Result<Value> {
        self.0.command(command).await
    }

    /// Whether writes have to be acknowledged by replicas.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.0.acknowledged.is_some()
    }

    /// Sends a command that settles a transaction, and has it acknowledged by as many replicas as it has to be.
    ///
    /// # Errors
    ///
    /// As [`Transport::one`]; [`ErrorKind::NoReply`] too where too few replicas acknowledged it.
    pub(super) async fn settle(&self, command: Cmd) -> Result<Value> {
        match self.is_acknowledged() {
            false => self.0.command(&command).await,
            true => self.settle_acknowledged(command).await,
        }
    }

    /// Sends a command right behind what prepares the connection for it.
    ///
    /// # Errors
    ///
    /// As [`Transport::one`].
    pub(super) async fn command_behind(&self, before: &str, command: &Cmd) -> Result<Value> {
        self.0.behind(&[redis::cmd(before)], command).await
    }
}

impl<T: Transport> Shared<T> {
    /// Takes what waits to the transport and the answers to their callers.
    async fn carry_load(self: Arc<Self>, load: Load<Call, Result<Value>>) {
        tokio::task::yield_now().await;
        if let Some(by) = &self.acknowledged {
            let turn = by.turn().await;
            let (calls, replies): (Vec<_>, Vec<_>) = load.take().into_iter().map(|one| (one.call, one.reply)).unzip();
            let values = self.carry_acknowledged(by, turn, &calls).await;
            return replies.into_iter().zip(values).for_each(|(reply, value)| reply.send(value));
        }
        let waiting = load.take();
        let mut batches = Vec::with_capacity(waiting.len().div_ceil(self.most()));
        let mut waiting = waiting.into_iter().peekable();
        while waiting.peek().is_some() {
            let batch: (Vec<_>, Vec<_>) = waiting.by_ref().take(self.most()).map(|one| (one.call, one.reply)).unzip();
            batches.push(batch);
        }
        join_all(batches.into_iter().map(async |(calls, replies)| {
            let values = self.carry(&calls).await;
            replies.into_iter().zip(values).for_each(|(reply, value)| reply.send(value));
        }))
        .await;
    }

    async fn exchange(&self, pipeline: &Pipeline) -> Result<Vec<Value>> {
        let _under_way = UnderWay::begin(&self.under_way);
        self.transport.many(pipeline).await
    }

    async fn command(&self, command: &Cmd) -> Result<Value> {
        self.behind(&[], command).await
    }

    /// Sends a command behind what prepares it, again behind the scripts where the server lacks them. Somebody may call
    /// `SCRIPT FLUSH` in between.
    async fn behind(&self, before: &[Cmd], command: &Cmd) -> Result<Value> {
        let _under_way = UnderWay::begin(&self.under_way);
        let last = std::slice::from_ref(command);
        let mut value = match before {
            [] => self.transport.one(command).await?,
            _ => self.transport.many(&pipeline(before, last)).await?.pop().unwrap_or_default(),
        };
        for _ in 0..FLUSHES {
            if !is_noscript(&value) {
                break;
            }
            let before = [&self.scripts, before].concat();
            let mut values = self.transport.many(&pipeline(&before, last)).await?;
            value = values.pop().unwrap_or_default();
            // Where the scripts cannot be loaded, that is what the caller has to know.
            let refused = values.into_iter().find(|loaded| matches!(loaded, Value::ServerError(_)));
            if let Some(refused) = refused.filter(|_| is_noscript(&value)) {
                return Ok(refused);
            }
        }
        Ok(value)
    }
}

/// How often the scripts may be flushed while a command is on its way to them.
const FLUSHES: usize = 3;

fn is_noscript(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

/// Counts a command as under way for as long as it lives.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
