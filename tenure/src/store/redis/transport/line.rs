//! A link's present connection, and what is known of it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::env::Moment;
use crate::error::Error;
use crate::store::redis::run::Run;

pub(super) struct State {
    pub(super) line: Option<Line>,
    /// The run of the server that the last connection was to.
    pub(super) run: Run,
    /// Why there is none, where there is none.
    pub(super) error: Error,
    /// How many attempts have come to an end.
    pub(super) attempts: u64,
    /// Whether somebody is at it.
    pub(super) dialing: bool,
    /// How long to wait before the next attempt.
    pub(super) backoff: Duration,
}

/// One connection.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) connection: MultiplexedConnection,
    pub(super) opened: Moment,
    pub(super) run: Run,
    pub(super) pulse: Arc<Pulse>,
    /// Looks out for its server being the wrong one.
    pub(super) _lookout: Option<Arc<Lookout>>,
}

#[derive(Default)]
pub(super) struct Pulse {
    /// How many times the server was heard.
    pub(super) beats: AtomicU64,
    /// Whether the connection has ended, or is given up.
    pub(super) over: watch::Sender<bool>,
}

/// A task that goes when this does.
pub(super) struct Lookout(pub(super) JoinHandle<()>);

impl Drop for Lookout {
    fn drop(&mut self) {
        self.0.abort();
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
