//! The connection: one per store, for commands and pushes alike, so that a push arrives in its order among the replies.
//!
//! ```text
//!            connect                    lost
//!   (none) ──────────▶ up ────────────────────────▶ down ◀─────────────┐
//!                      ▲                             │  attempt failed │ backoff with jitter, for as long as
//!                      └─────────────────────────────┴─────────────────┘ somebody wants a connection
//! ```
//!
//! Nothing is ever sent twice from here. A command that finds no connection waits for the next attempt, never longer
//! than [`PATIENCE`], and fails as certainly not carried out; one that was given to a connection which then broke fails
//! as having got no reply. A connection that said nothing at all while a command waited out its time is replaced.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::watch;

use super::run::Run;
use super::url::Config;
use super::{errors, script};
use crate::env::{self, Env, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Hub;

/// What carries commands to a server and replies back, in order. A server's own error is a value among the replies.
pub(super) trait Transport: Send + Sync + 'static {
    /// Sends one command.
    ///
    /// # Errors
    ///
    /// No reply will come: [`ErrorKind::NoReply`] where the command may have been carried out, any other where it
    /// certainly was not.
    fn one(&self, command: &Cmd) -> impl Future<Output = Result<Value>> + Send;

    /// Sends many in one write; as many replies, in their order.
    ///
    /// # Errors
    ///
    /// As [`one`](Self::one), for all of them.
    fn many(&self, commands: &Pipeline) -> impl Future<Output = Result<Vec<Value>>> + Send;
}

/// Hears what the server pushes on a connection, in its order.
pub(super) trait Listener: Send + Sync + 'static {
    /// A push, or the confirmation of a subscription.
    fn heard(&self, push: &PushInfo);

    /// The connection was lost, and with it what it had subscribed to.
    fn lost(&self);
}

/// How long a command waits for a connection.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait between two attempts to connect: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(400));

/// The connection of one store, which comes back by itself. Clones share it.
#[derive(Clone)]
pub(super) struct Link(Arc<Inner>);

struct Inner {
    env: Env,
    config: Config,
    client: Client,
    hub: Hub,
    inbox: Arc<str>,
    /// Who else hears what is pushed.
    listener: Option<Arc<dyn Listener>>,
    /// Whether grants are awaited: from then on, each connection subscribes to the inbox.
    listens: AtomicBool,
    /// Since when the server has certainly kept all that it acknowledged, on its clock. It never goes back.
    kept_since: AtomicU64,
    state: watch::Sender<State>,
}

struct State {
    line: Option<Line>,
    /// The run of the server that the last connection was to.
    run: Run,
    /// Why there is none, where there is none.
    error: Error,
    /// How many attempts have come to an end.
    attempts: u64,
    /// Whether somebody is at it.
    dialing: bool,
    /// How long to wait before the next attempt.
    backoff: Duration,
}

/// One connection.
#[derive(Clone)]
struct Line {
    connection: MultiplexedConnection,
    opened: Moment,
    run: Run,
    pulse: Arc<Pulse>,
}

#[derive(Default)]
struct Pulse {
    /// How many times the server was heard.
    beats: AtomicU64,
    /// Whether the connection is known to have ended.
    over: AtomicBool,
}

impl Link {
    /// Connects.
    ///
    /// # Errors
    ///
    /// When the first attempt fails: why it did.
    pub(super) async fn open(config: Config, client: Client, env: Env, hub: Hub, inbox: Arc<str>) -> Result<Self> {
        let link = Self::make(config, client, env, hub, inbox, None);
        let line = link.0.open().await?;
        link.0.up(line);
        Ok(link)
    }

    /// A link that connects when the first command wants it, for commands or for the pushes that a listener subscribes
    /// to by commands of its own.
    pub(super) fn lazy(config: Config, client: Client, env: Env, listener: Option<Arc<dyn Listener>>) -> Self {
        Self::make(config, client, env, Hub::new(), "".into(), listener)
    }

    fn make(
        config: Config,
        client: Client,
        env: Env,
        hub: Hub,
        inbox: Arc<str>,
        listener: Option<Arc<dyn Listener>>,
    ) -> Self {
        let error = unconnected(&config, "not connected yet");
        let (run, backoff) = (Run::default(), Duration::ZERO);
        let (state, _) = watch::channel(State { line: None, run, error, attempts: 0, dialing: false, backoff });
        let (listens, kept_since) = (AtomicBool::new(false), AtomicU64::new(0));
        Self(Arc::new(Inner { env, config, client, hub, inbox, listener, listens, kept_since, state }))
    }

    /// Has grants delivered from now on. Returns at once; everyone who waits is woken when it is so.
    pub(super) fn listen(&self) {
        if self.0.listens.load(Ordering::Relaxed) || self.0.listens.swap(true, Ordering::AcqRel) {
            return;
        }
        let link = self.clone();
        env::spawn(async move {
            // A connection that is yet to come subscribes by itself.
            let Ok(line) = link.line().await else { return };
            if link.0.subscribe(&line).await.is_err() {
                link.0.lost(&line.pulse);
            }
        });
    }

    /// Since when the server has certainly kept all that it acknowledged, on its clock. Asked after a reply, it is never
    /// earlier than what holds for that reply.
    pub(super) fn kept_since(&self) -> u64 {
        self.0.kept_since.load(Ordering::Acquire)
    }

    async fn line(&self) -> Result<Line> {
        if let Some(line) = self.0.state.borrow().line.clone() {
            return Ok(line);
        }
        let mut changes = self.0.state.subscribe();
        let seen = changes.borrow_and_update().attempts;
        self.0.dial();
        let settled = changes.wait_for(|state| state.line.is_some() || state.attempts > seen);
        let settled = self.0.env.timeout(PATIENCE, settled).await;
        match settled {
            Some(Ok(state)) => state.line.clone().ok_or_else(|| state.error.clone()),
            Some(Err(_)) | None => Err(self.0.state.borrow().error.clone()),
        }
    }

    async fn send<T>(&self, exchange: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>) -> Result<T> {
        let Line { connection, pulse, .. } = self.line().await?;
        let beats = pulse.beats.load(Ordering::Relaxed);
        match exchange(connection).await {
            Ok(replies) => {
                pulse.beats.fetch_add(1, Ordering::Relaxed);
                Ok(replies)
            }
            Err(error) => {
                let silent = pulse.beats.load(Ordering::Relaxed) == beats;
                if silent || !error.is_timeout() {
                    self.0.lost(&pulse);
                }
                Err(errors::no_reply(&self.0.config.server, error))
            }
        }
    }
}

impl Transport for Link {
    async fn one(&self, command: &Cmd) -> Result<Value> {
        self.send(async move |mut connection| connection.send_packed_command(command).await).await
    }

    async fn many(&self, commands: &Pipeline) -> Result<Vec<Value>> {
        self.send(async move |mut connection| connection.send_packed_commands(commands, 0, commands.len()).await).await
    }
}

impl Inner {
    async fn open(self: &Arc<Self>) -> Result<Line> {
        let pulse = Arc::new(Pulse::default());
        let (inner, heart) = (Arc::downgrade(self), pulse.clone());
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(Some(self.config.response_timeout))
            .set_push_sender(move |push: PushInfo| {
                if let Some(inner) = inner.upgrade() {
                    inner.pushed(&heart, push);
                }
                Ok::<_, redis::aio::SendError>(())
            });
        let connection = self.client.get_multiplexed_async_connection_with_config(&options).await;
        let unreachable = |error| errors::unreachable(&self.config, error);
        let mut connection = connection.map_err(unreachable)?;
        let asked = Run::questions();
        let answers = connection.send_packed_commands(&asked, 0, asked.len()).await.map_err(unreachable)?;
        let line = Line { connection, opened: self.env.now(), run: Run::of(&answers), pulse };
        if self.listens.load(Ordering::Acquire) {
            self.subscribe(&line).await?;
        }
        Ok(line)
    }

    fn pushed(self: &Arc<Self>, pulse: &Arc<Pulse>, push: PushInfo) {
        pulse.beats.fetch_add(1, Ordering::Relaxed);
        if let Some(listener) = &self.listener {
            listener.heard(&push);
        }
        match (push.kind, push.data.as_slice()) {
            (PushKind::Message, [_channel, Value::BulkString(payload)]) => {
                if let Some(grant) = script::grant(payload) {
                    self.hub.deliver(&grant);
                }
            }
            (PushKind::Disconnection, _) => {
                pulse.over.store(true, Ordering::Release);
                self.lost(pulse);
            }
            _ => {}
        }
    }

    /// Subscribes to the inbox, and wakes whoever waits: a grant may have been published before.
    async fn subscribe(&self, line: &Line) -> Result<()> {
        let subscribed = line.connection.clone().subscribe(&*self.inbox).await;
        match subscribed {
            Ok(()) => {}
            Err(error) if error.is_io_error() => return Err(errors::no_reply(&self.config.server, error)),
            Err(error) => {
                let error = errors::unreachable(&self.config, error);
                tracing::warn!(%error, "grants are not pushed; whoever waits asks again in time");
            }
        }
        self.hub.wake_all();
        Ok(())
    }

    fn up(self: &Arc<Self>, line: Line) {
        let pulse = line.pulse.clone();
        self.state.send_modify(|state| {
            self.kept_since.fetch_max(line.run.kept_since(&state.run), Ordering::AcqRel);
            state.run = line.run.clone();
            state.line = Some(line);
            state.attempts += 1;
            state.dialing = false;
        });
        // It may have ended before anyone could be told that it was there.
        if pulse.over.load(Ordering::Acquire) {
            self.lost(&pulse);
        }
    }

    /// Gives up a connection, if it is still the present one, and has the next one made.
    fn lost(self: &Arc<Self>, pulse: &Arc<Pulse>) {
        let now = self.env.now();
        let was_present = self.state.send_if_modified(|state| {
            let Some(line) = state.line.take_if(|line| Arc::ptr_eq(&line.pulse, pulse)) else { return false };
            // The first attempt is made at once, except after a connection that was lost as soon as it was there.
            let short = now - line.opened < Duration::from_secs(1);
            state.backoff = if short { next(state.backoff) } else { Duration::ZERO };
            state.error = unconnected(&self.config, "the connection was lost");
            true
        });
        if was_present {
            if let Some(listener) = &self.listener {
                listener.lost();
            }
            self.dial();
        }
    }

    /// Sees to it that somebody is making a connection.
    fn dial(self: &Arc<Self>) {
        if !self.state.send_if_modified(|state| {
            let idle = state.line.is_none() && !state.dialing;
            state.dialing |= idle;
            idle
        }) {
            return;
        }
        let dialer = Dialer(Arc::downgrade(self));
        env::spawn(dialer.run());
    }
}

fn unconnected(config: &Config, why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("Redis at {}: {why}", config.server))
}

fn next(backoff: Duration) -> Duration {
    (2 * backoff).clamp(BACKOFF.0, BACKOFF.1)
}

/// Makes a connection, for as long as somebody wants one and the store lives.
struct Dialer(Weak<Inner>);

impl Dialer {
    async fn run(mut self) {
        let mut first = true;
        while let Some((env, backoff)) = self.0.upgrade().map(|inner| (inner.env.clone(), inner.state.borrow().backoff))
        {
            env.sleep(env.jitter(backoff)).await;
            let Some(inner) = self.0.upgrade() else { return };
            // A waiting command holds a receiver; whoever registered at the hub waits for a push.
            let unwanted = |state: &mut State| {
                let unwanted = !first && inner.state.receiver_count() == 0 && inner.hub.is_empty();
                state.dialing &= !unwanted;
                unwanted
            };
            if inner.state.send_if_modified(unwanted) {
                return self.done();
            }
            first = false;
            match inner.open().await {
                Ok(line) => {
                    self.done();
                    return inner.up(line);
                }
                Err(error) => inner.state.send_modify(|state| {
                    (state.error, state.backoff) = (error, next(state.backoff));
                    state.attempts += 1;
                }),
            }
        }
    }

    fn done(&mut self) {
        self.0 = Weak::new();
    }
}

impl Drop for Dialer {
    /// The runtime may end before the connection is made; whoever comes next begins anew, on a runtime of its own.
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.state.send_if_modified(|state| {
                let undone = std::mem::take(&mut state.dialing);
                state.attempts += u64::from(undone);
                undone
            });
        }
    }
}
