//! One connection: how it is made, what is heard on it, and when its server is the wrong one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, Value};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Inner;
use crate::env::{self, Moment};
use crate::error::Result;
use crate::store::redis::run::Run;
use crate::store::redis::url::Address;
use crate::store::redis::{errors, script};

/// One connection.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) connection: MultiplexedConnection,
    pub(super) opened: Moment,
    pub(super) run: Run,
    pub(super) pulse: Arc<Pulse>,
    /// Looks out for its server being the wrong one.
    _lookout: Option<Arc<Lookout>>,
}

#[derive(Default)]
pub(super) struct Pulse {
    /// How many times the server was heard.
    pub(super) beats: AtomicU64,
    /// Whether the connection has ended, or is given up.
    pub(super) over: watch::Sender<bool>,
}

/// A task that goes when this does.
pub(super) struct Lookout(JoinHandle<()>);

impl Drop for Lookout {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Inner {
    pub(super) async fn open(self: &Arc<Self>) -> Result<Line> {
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
        let unreachable = |error| errors::unreachable(&self.config, error);
        let connection = aim.client.get_multiplexed_async_connection_with_config(&options).await;
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

    /// Subscribes to the inbox, and wakes whoever waits: a grant may have been published before.
    pub(super) async fn subscribe(&self, line: &Line) -> Result<()> {
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
}

/// What a server answers.
pub(super) trait Replies {
    /// Whether the server was demoted, so that its name, or whoever tells where the master is, will lead elsewhere.
    fn are_of_a_replica(&self) -> bool;
}

impl Replies for Value {
    fn are_of_a_replica(&self) -> bool {
        matches!(self, Value::ServerError(error) if matches!(error.code(), "READONLY" | "UNBLOCKED"))
    }
}

impl Replies for Vec<Value> {
    fn are_of_a_replica(&self) -> bool {
        self.iter().any(Value::are_of_a_replica)
    }
}
