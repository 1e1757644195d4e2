//! One node of a cluster: a connection for commands, and one for pushes where somebody waits.
//!
//! The two are apart because of what a node does when it gives a slot away: it ends the subscriptions of that slot unasked,
//! and its word of that looks like the reply to a command. On a connection with commands all later replies would then be
//! taken for those of the commands before them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::env::Env;
use crate::error::Result;
use crate::store::Hub;
use crate::store::redis::collector::Collector;
use crate::store::redis::connect;
use crate::store::redis::script::Dialect;
use crate::store::redis::target::Target;
use crate::store::redis::transport::{Link, Listener};
use crate::store::redis::url::{Address, Config};

pub(super) struct Node {
    pub(super) address: Address,
    /// As messages name it.
    pub(super) name: String,
    pub(super) collector: Collector<Link>,
    /// Nothing goes over it but subscriptions. It connects when there is one.
    pub(super) pushes: Link,
    /// How long the node takes for a batch, in microseconds; see [`took`](Self::took).
    usual: AtomicU64,
}

impl Node {
    /// The node at that address; nothing is connected yet.
    pub(super) fn new(config: &Config, address: &Address, env: &Env, listener: Arc<dyn Listener>) -> Result<Self> {
        let name = address.to_string();
        let config = Config { server: name.clone(), ..config.clone() };
        let client = connect::client(&config, config.target(config.addr(address), &config.login)?)?;
        let target = || Target::Fixed(client.clone().into());
        let commands = Link::new(config.clone(), target(), env.clone(), Hub::new(), "".into());
        Ok(Self {
            address: address.clone(),
            name,
            collector: Collector::new(commands, Dialect::Shard, connect::scripts(Dialect::Shard), None),
            pushes: Link::heard_by(config, target(), env.clone(), listener),
            usual: AtomicU64::new(0),
        })
    }

    /// Takes note of how long an answer took: what is longer than usual becomes usual at once, what is shorter bit by bit.
    pub(super) fn took(&self, time: Duration) {
        let (time, usual) = (time.as_micros() as u64, self.usual.load(Relaxed));
        self.usual.store(time.max(usual - usual / 8 + time / 8), Relaxed);
    }

    /// How long it may take for a batch at least, before the batches of others go on without it.
    pub(super) fn grace(&self) -> Duration {
        Duration::from_micros(8 * self.usual.load(Relaxed)).max(LEAST_GRACE)
    }
}

const LEAST_GRACE: Duration = Duration::from_millis(200);
