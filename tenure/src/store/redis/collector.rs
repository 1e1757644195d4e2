//! Gathers the commands of all tasks that are ready at the same moment into one write.
//!
//! ```text
//!   task ──┐                                            ┌──▶ task
//!   task ──┼──▶ queue ──one yield──▶ one pipeline ──────┼──▶ task
//!   task ──┘                                            └──▶ task
//!
//!   task ─────────── nothing under way ────────────────────▶ task
//! ```
//!
//! The first command in the queue starts a carrier, a task of its own, that steps back once, so that everyone who is
//! ready comes before it, and then takes the whole queue. It is no caller's future that carries the others' commands:
//! one that is dropped, or simply not polled, concerns nobody else. A lone task does not pay for any of this: where
//! nothing is under way, a command goes straight to the transport.
//!
//! A server forgets its scripts when it restarts and at `SCRIPT FLUSH`, and then answers `NOSCRIPT`, which says that
//! the command was not carried out. Those commands are sent again behind the scripts, once for all of a batch.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{Cmd, Pipeline, ServerErrorKind, Value};
use tokio::sync::oneshot;

use super::transport::Transport;
use crate::env;
use crate::error::{Error, ErrorKind, Result};

/// Above a transport; clones share it. A server's own error to a command is the command's value.
pub(super) struct Collector<T>(Arc<Shared<T>>);

struct Shared<T> {
    transport: T,
    /// What loads the scripts that commands call.
    scripts: Vec<Cmd>,
    queue: Mutex<Vec<Waiting>>,
    /// How many commands were given to the transport and have no answer yet.
    under_way: AtomicUsize,
}

struct Waiting {
    command: Cmd,
    reply: oneshot::Sender<Result<Value>>,
}

impl<T> Clone for Collector<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Transport> Collector<T> {
    pub(super) fn new(transport: T, scripts: Vec<Cmd>) -> Self {
        let (queue, under_way) = (Mutex::default(), AtomicUsize::new(0));
        Self(Arc::new(Shared { transport, scripts, queue, under_way }))
    }

    pub(super) fn transport(&self) -> &T {
        &self.0.transport
    }

    /// Sends one command, together with whatever else is ready to go.
    ///
    /// # Errors
    ///
    /// As [`Transport::one`].
    ///
    /// # Cancel safety
    ///
    /// A command whose caller is gone before it is sent is not sent; other commands are not concerned.
    pub(super) async fn call(&self, command: Cmd) -> Result<Value> {
        let shared = &self.0;
        if shared.under_way.load(Ordering::Relaxed) == 0 && shared.queue().is_empty() {
            return shared.carry_one(command).await;
        }
        let (reply, answer) = oneshot::channel();
        let is_first = {
            let mut queue = shared.queue();
            queue.push(Waiting { command, reply });
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

    /// Sends many commands in one write; their answers in their order.
    pub(super) async fn call_many(&self, commands: Pipeline) -> Vec<Result<Value>> {
        self.0.carry_many(commands).await
    }
}

impl<T: Transport> Shared<T> {
    fn queue(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn carry_one(&self, command: Cmd) -> Result<Value> {
        let _under_way = UnderWay::begin(&self.under_way, 1);
        let value = self.transport.one(&command).await?;
        if !is_noscript(&value) {
            return Ok(value);
        }
        let mut values = vec![Ok(value)];
        self.with_scripts(std::slice::from_ref(&command), &mut values).await;
        values.swap_remove(0)
    }

    async fn carry_many(&self, commands: Pipeline) -> Vec<Result<Value>> {
        let _under_way = UnderWay::begin(&self.under_way, commands.len());
        match self.transport.many(&commands).await {
            Err(error) => vec![Err(error); commands.len()],
            Ok(values) => {
                let mut values: Vec<_> = values.into_iter().map(Ok).collect();
                if values.iter().flatten().any(is_noscript) {
                    let commands: Vec<_> = commands.cmd_iter().cloned().collect();
                    self.with_scripts(&commands, &mut values).await;
                }
                values
            }
        }
    }

    /// Loads the scripts and sends again what came back for want of them. Somebody may call `SCRIPT FLUSH` in between.
    async fn with_scripts(&self, commands: &[Cmd], values: &mut [Result<Value>]) {
        for _ in 0..FLUSHES {
            let lacking = |value: &Result<Value>| value.as_ref().is_ok_and(is_noscript);
            let again: Vec<usize> = (0..values.len()).filter(|&i| lacking(&values[i])).collect();
            if again.is_empty() {
                return;
            }
            let mut pipeline = Pipeline::with_capacity(self.scripts.len() + again.len());
            let resent = again.iter().map(|&i| &commands[i]);
            self.scripts.iter().chain(resent).for_each(|command| _ = pipeline.add_command(command.clone()));
            match self.transport.many(&pipeline).await {
                Err(error) => again.iter().for_each(|&i| values[i] = Err(error.clone())),
                Ok(mut answers) => {
                    // Where the scripts cannot be loaded, that is what their callers have to know.
                    let refused =
                        answers.drain(..self.scripts.len()).find(|loaded| matches!(loaded, Value::ServerError(_)));
                    for (i, answer) in again.into_iter().zip(answers) {
                        values[i] = Ok(refused.clone().filter(|_| is_noscript(&answer)).unwrap_or(answer));
                    }
                }
            }
        }
    }
}

/// How often the scripts may be flushed while a command is on its way to them.
const FLUSHES: usize = 3;

fn is_noscript(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
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
        if waiting.len() == 1 {
            let Waiting { command, reply } = waiting.swap_remove(0);
            let _ = reply.send(self.shared.carry_one(command).await);
            return;
        }
        let (mut pipeline, mut replies) = (Pipeline::with_capacity(waiting.len()), Vec::with_capacity(waiting.len()));
        for Waiting { command, reply } in waiting {
            pipeline.add_command(command);
            replies.push(reply);
        }
        if !replies.is_empty() {
            for (reply, value) in replies.into_iter().zip(self.shared.carry_many(pipeline).await) {
                let _ = reply.send(value);
            }
        }
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

/// Counts commands as under way for as long as it lives.
struct UnderWay<'a>(&'a AtomicUsize, usize);

impl<'a> UnderWay<'a> {
    fn begin(count: &'a AtomicUsize, n: usize) -> Self {
        count.fetch_add(n, Ordering::Relaxed);
        Self(count, n)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
