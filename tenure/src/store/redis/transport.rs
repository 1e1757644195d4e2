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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::watch;

use self::dialer::Dialer;
use self::line::{Line, Lookout, Pulse, Replies, State};
use super::run::Run;
use super::target::Target;
use super::url::{Address, Config};
use super::{errors, script};
use crate::env::{self, Env};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Hub;

mod dialer;
mod inbox;
mod line;

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
    target: Arc<Target>,
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

impl Link {
    /// A link that connects when it is first needed.
    pub(super) fn new(config: Config, target: Target, env: Env, hub: Hub, inbox: Arc<str>) -> Self {
        Self::make(config, target, env, (hub, inbox), None)
    }

    /// The same for the pushes of a listener, who subscribes to them by commands of its own, and hears when they end.
    pub(super) fn heard_by(config: Config, target: Target, env: Env, listener: Arc<dyn Listener>) -> Self {
        Self::make(config, target, env, (Hub::new(), "".into()), Some(listener))
    }

    fn make(
        config: Config,
        target: Target,
        env: Env,
        (hub, inbox): (Hub, Arc<str>),
        listener: Option<Arc<dyn Listener>>,
    ) -> Self {
        let error = unconnected(&config, "not connected yet");
        let (run, backoff) = (Run::default(), Duration::ZERO);
        let (state, _) = watch::channel(State { line: None, run, error, attempts: 0, dialing: false, backoff });
        let (target, listens, kept_since) = (target.into(), AtomicBool::new(false), AtomicU64::new(0));
        Self(Arc::new(Inner { env, config, target, hub, inbox, listener, listens, kept_since, state }))
    }

    /// Connects now.
    ///
    /// # Errors
    ///
    /// When the first attempt fails: why it did.
    pub(super) async fn open(&self) -> Result<()> {
        let line = self.0.open().await?;
        self.0.up(line);
        Ok(())
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

    async fn send<T: Replies>(&self, exchange: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>) -> Result<T> {
        let Line { connection, pulse, .. } = self.line().await?;
        let (beats, mut over) = (pulse.beats.load(Ordering::Relaxed), pulse.over.subscribe());
        let replies = tokio::select! {
            biased;
            replies = exchange(connection) => replies,
            // Who waits for a reply from a server that is left need not wait out its silence.
            _ = over.wait_for(|over| *over) => return Err(errors::left(&self.0.config.server)),
        };
        match replies {
            Ok(replies) => {
                pulse.beats.fetch_add(1, Ordering::Relaxed);
                if replies.are_of_a_replica() {
                    self.0.lost(&pulse);
                }
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
        let aim = self.target.aim().await?;
        let connection = aim.client.get_multiplexed_async_connection_with_config(&options).await;
        let unreachable = |error| errors::unreachable(&self.config, error);
        let mut connection = connection.map_err(unreachable)?;
        self.target.confirm(&self.config, &aim, &connection).await?;
        let asked = Run::questions();
        let answers = connection.send_packed_commands(&asked, 0, asked.len()).await.map_err(unreachable)?;
        let lookout = aim.address.and_then(|address| self.look_out(address, pulse.clone())).map(Arc::new);
        let line = Line { connection, opened: self.env.now(), run: Run::of(&answers), pulse, _lookout: lookout };
        if self.listens.load(Ordering::Acquire) {
            self.subscribe(&line).await?;
        }
        Ok(line)
    }

    /// Leaves the server as soon as it is not the right one any more.
    fn look_out(self: &Arc<Self>, address: Address, pulse: Arc<Pulse>) -> Option<Lookout> {
        let (inner, target) = (Arc::downgrade(self), self.target.clone());
        let task = env::spawn(async move {
            target.moved(&address).await;
            if let Some(inner) = inner.upgrade() {
                tracing::info!(server = %inner.config.server, from = %address, "the master has moved");
                inner.lost(&pulse);
            }
        });
        task.map(Lookout)
    }

    fn pushed(self: &Arc<Self>, pulse: &Arc<Pulse>, push: PushInfo) {
        pulse.beats.fetch_add(1, Ordering::Relaxed);
        if let Some(listener) = &self.listener {
            listener.heard(&push);
        }
        match (push.kind, push.data.as_slice()) {
            (PushKind::Message, [_channel, Value::BulkString(payload)]) => {
                match script::grant(payload) {
                    // Nobody has made sure yet that the replicas know of it, as an answer to a request would have.
                    Some(grant) if self.config.replicas > 0 => self.hub.wake(grant.id),
                    Some(grant) => self.hub.deliver(&grant),
                    None => {}
                }
            }
            (PushKind::Disconnection, _) => {
                self.lost(pulse);
            }
            _ => {}
        }
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
        let is_over = *pulse.over.borrow();
        if is_over {
            self.lost(&pulse);
        }
    }

    /// Gives up a connection, if it is still the present one, and has the next one made.
    fn lost(self: &Arc<Self>, pulse: &Arc<Pulse>) {
        pulse.over.send_replace(true);
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
