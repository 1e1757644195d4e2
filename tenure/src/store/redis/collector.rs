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
//! On a node of a cluster only calls of one slot can share a command. There the calls that are ready together go as one
//! command for each slot, and all of them in one write.
//!
//! A server forgets its scripts when it restarts and at `SCRIPT FLUSH`, and then answers `NOSCRIPT`, which says that
//! the command was not carried out. It is sent again behind the scripts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use redis::{Cmd, Pipeline, ServerErrorKind, Value};
use tokio::sync::oneshot;

use super::script::{self, BATCH, Call, Dialect};
use super::slots::slot_of;
use super::transport::Transport;
use crate::env;
use crate::error::{Error, ErrorKind, Result};

/// Above a transport; clones share it. A server's own error to a command is the command's value.
pub(super) struct Collector<T>(Arc<Shared<T>>);

struct Shared<T> {
    transport: T,
    dialect: Dialect,
    /// What loads the scripts that commands call.
    scripts: Vec<Cmd>,
    queue: Mutex<Vec<Waiting>>,
    /// How many commands were given to the transport and have no answer yet.
    under_way: AtomicUsize,
}

struct Waiting {
    call: Call,
    reply: oneshot::Sender<Result<Value>>,
}

impl<T> Clone for Collector<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Transport> Collector<T> {
    /// `scripts` loads what commands of that dialect call.
    pub(super) fn new(transport: T, dialect: Dialect, scripts: Vec<Cmd>) -> Self {
        let (queue, under_way) = (Mutex::default(), AtomicUsize::new(0));
        Self(Arc::new(Shared { transport, dialect, scripts, queue, under_way }))
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
        if shared.under_way.load(Ordering::Relaxed) == 0 && shared.queue().is_empty() {
            // In a box, so that the future of the many who queue stays small.
            return Box::pin(shared.carry_one(call)).await;
        }
        let (reply, answer) = oneshot::channel();
        let is_first = {
            let mut queue = shared.queue();
            queue.push(Waiting { call, reply });
            queue.len() == 1
        };
        if is_first {
            env::spawn(Carrier { shared: shared.clone(), is_due: true }.run());
        }
        answer.await.unwrap_or_else(|_| {
            let message = "the runtime that carried the command has ended; the command may have been carried out";
            Err(Error::new(ErrorKind::NoReply, message))
        })
    }

    /// Has many operations carried out, in as few commands as may be; their answers in their order.
    pub(super) async fn call_many(&self, calls: &[Call]) -> Vec<Result<Value>> {
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

    /// Sends a command to a node that is taking over its key's slot.
    ///
    /// # Errors
    ///
    /// As [`Transport::one`].
    pub(super) async fn command_asking(&self, command: &Cmd) -> Result<Value> {
        self.0.behind(&[redis::cmd("ASKING")], command).await
    }
}

impl<T: Transport> Shared<T> {
    fn queue(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls may be carried together.
    fn most(&self) -> usize {
        match self.dialect {
            Dialect::Server => BATCH,
            // As many commands as there are slots among them, in one write.
            Dialect::Shard => 10 * BATCH,
        }
    }

    async fn carry_one(&self, call: Call) -> Result<Value> {
        self.command(&script::command_in(self.dialect, &[call])).await
    }

    /// Sends the calls in as few commands as may be, and those in one write.
    async fn carry(&self, calls: &[Call]) -> Vec<Result<Value>> {
        let groups = self.groups(calls);
        let command = |group: &Vec<usize>| {
            let calls: Vec<&Call> = group.iter().map(|&n| &calls[n]).collect();
            script::command_in(self.dialect, &calls)
        };
        let commands: Vec<Cmd> = groups.iter().map(command).collect();
        let values = match self.commands(&commands).await {
            Ok(values) => values,
            Err(error) => return vec![Err(error); calls.len()],
        };
        let mut answers: Vec<Option<Result<Value>>> = calls.iter().map(|_| None).collect();
        for (group, value) in groups.into_iter().zip(values) {
            match value.map(|value| script::replies(group.len(), value)) {
                Ok(Ok(values)) => group.into_iter().zip(values).for_each(|(n, value)| answers[n] = Some(Ok(value))),
                Ok(Err(value)) if is_redirect(&value) => {
                    group.into_iter().for_each(|n| answers[n] = Some(Ok(value.clone())));
                }
                // Each is asked for again alone.
                Ok(Err(_)) => {}
                Err(error) => group.into_iter().for_each(|n| answers[n] = Some(Err(error.clone()))),
            }
        }
        join_all(answers.into_iter().zip(calls).map(async |(answer, call)| match answer {
            Some(answer) => answer,
            None => self.command(&script::command_in(self.dialect, &[call])).await,
        }))
        .await
    }

    /// Which calls can share a command, by their places, in their order.
    fn groups(&self, calls: &[Call]) -> Vec<Vec<usize>> {
        if self.dialect == Dialect::Server {
            return vec![(0..calls.len()).collect()];
        }
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut open: HashMap<u16, usize> = HashMap::new();
        for (n, call) in calls.iter().enumerate() {
            let group = open.entry(slot_of(call.key())).or_insert(groups.len());
            if groups.get(*group).is_none_or(|group| group.len() == BATCH) {
                *group = groups.len();
                groups.push(Vec::new());
            }
            groups[*group].push(n);
        }
        groups
    }

    /// Sends commands in one write.
    async fn commands(&self, commands: &[Cmd]) -> Result<Vec<Result<Value>>> {
        if let [command] = commands {
            return Ok(vec![Ok(self.command(command).await?)]);
        }
        let values = {
            let _under_way = UnderWay::begin(&self.under_way);
            self.transport.many(&pipeline(&[], commands)).await?
        };
        if values.iter().any(is_noscript) {
            // Whether it helps is told by the commands that follow.
            let _ = self.transport.many(&pipeline(&self.scripts, &[])).await;
        }
        let settled = values.into_iter().zip(commands).map(async |(value, command)| match is_noscript(&value) {
            false => Ok(value),
            true => self.command(command).await,
        });
        Ok(join_all(settled).await)
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

fn pipeline(before: &[Cmd], commands: &[Cmd]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(before.len() + commands.len());
    before.iter().chain(commands).for_each(|command| _ = pipeline.add_command(command.clone()));
    pipeline
}

/// How often the scripts may be flushed while a command is on its way to them.
const FLUSHES: usize = 3;

fn is_noscript(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

/// Whether another node is to be asked, which holds for all the calls of a command.
fn is_redirect(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if matches!(error.code(), "MOVED" | "ASK"))
}

/// Takes the queue to the transport and the answers to their callers.
struct Carrier<T: Transport> {
    shared: Arc<Shared<T>>,
    /// Whether the queue still waits for it.
    is_due: bool,
}

impl<T: Transport> Carrier<T> {
    async fn run(mut self) {
        tokio::task::yield_now().await;
        self.is_due = false;
        let mut waiting = std::mem::take(&mut *self.shared.queue());
        waiting.retain(|one| !one.reply.is_closed());
        let most = self.shared.most();
        let mut batches = Vec::with_capacity(waiting.len().div_ceil(most));
        let mut waiting = waiting.into_iter().peekable();
        while waiting.peek().is_some() {
            let batch: (Vec<_>, Vec<_>) = waiting.by_ref().take(most).map(|one| (one.call, one.reply)).unzip();
            batches.push(batch);
        }
        join_all(batches.into_iter().map(async |(calls, replies)| {
            for (reply, value) in replies.into_iter().zip(self.shared.carry(&calls).await) {
                let _ = reply.send(value);
            }
        }))
        .await;
    }
}

impl<T: Transport> Drop for Carrier<T> {
    /// The runtime may end before the queue is taken, or there may be none.
    fn drop(&mut self) {
        if self.is_due {
            for Waiting { reply, .. } in std::mem::take(&mut *self.shared.queue()) {
                let error = Error::new(ErrorKind::Unavailable, "the runtime ended before the command was sent");
                let _ = reply.send(Err(error));
            }
        }
    }
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
