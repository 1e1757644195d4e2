//! How grants reach who waits: by sharded pub/sub, which stays within the shard that has the lock.
//!
//! ```text
//!   first Busy          SSUBSCRIBE confirmed           slot moved, connection lost
//!   ──────────▶ detached ──────────────────▶ attached ──────────────────────────┐
//!                  ▲                             │ nobody waits for a while      │
//!                  └─────────────────────────────┼───────────────────────────────┘
//!                                                ▼ SUNSUBSCRIBE
//! ```
//!
//! A lock that this process waits for has an inbox, a channel in the lock's own slot. Until it is attached, and each time
//! it was detached, its claims ask by their timers; when it is attached they are woken, for a grant may have gone by.
//!
//! Only what a node says by its pushes counts as attached or detached, for its replies may be one off; see `node.rs`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redis::{PushInfo, PushKind, Value};

use super::node::Node;
use super::topology::Topology;
use crate::env::{self, Env, Moment};
use crate::key::Key;
use crate::proto::ClaimId;
use crate::store::Hub;
use crate::store::redis::keys::Keys;
use crate::store::redis::script;
use crate::store::redis::slots::slot_of;
use crate::store::redis::transport::{Listener, Transport};
use crate::store::redis::url::Address;

/// How often inboxes are looked after; one that nobody wants is kept for one to two of these, for it may be wanted again.
const SWEEP: Duration = Duration::from_secs(1);
/// The pauses between two attempts to attach: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

pub(super) struct Inboxes {
    env: Env,
    keys: Keys,
    hub: Hub,
    /// Names the inboxes of this store among those of others.
    bits: u128,
    topology: Arc<Topology>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    by_key: HashMap<Key, Inbox>,
    by_channel: HashMap<Arc<str>, Key>,
    /// Whether somebody looks after them.
    swept: bool,
}

struct Inbox {
    channel: Arc<str>,
    slot: u16,
    /// Who waits.
    claims: HashSet<ClaimId>,
    /// Where it is subscribed to.
    at: Option<Address>,
    /// When that was confirmed.
    since: Moment,
    /// Whether somebody sees to it that it is.
    attaching: bool,
    /// Whether nobody waited at the last sweep.
    idle: bool,
}

impl Inboxes {
    pub(super) fn new(env: Env, keys: Keys, hub: Hub, topology: Arc<Topology>) -> Self {
        let bits = env.bits();
        Self { env, keys, hub, bits, topology, open: Mutex::default() }
    }

    pub(super) fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// The channel of a lock's grants to this store.
    pub(super) fn channel(&self, key: &Key) -> String {
        self.keys.inbox_in_slot(key, self.bits)
    }

    /// Has the grant to a claim delivered from now on, whose request was sent then. Returns at once; the claim is woken
    /// when it is so.
    pub(super) fn listen(self: &Arc<Self>, key: &Key, id: ClaimId, sent: Moment) {
        let mut open = self.open();
        if !open.by_key.contains_key(key) {
            let channel: Arc<str> = self.channel(key).into();
            let slot = slot_of(channel.as_bytes());
            open.by_channel.insert(channel.clone(), key.clone());
            let inbox =
                Inbox { channel, slot, claims: HashSet::new(), at: None, since: sent, attaching: false, idle: false };
            open.by_key.insert(key.clone(), inbox);
        }
        let Some(inbox) = open.by_key.get_mut(key) else { return };
        inbox.claims.insert(id);
        inbox.idle = false;
        let missed = inbox.at.is_some() && inbox.since > sent;
        let attach = inbox.at.is_none() && !std::mem::replace(&mut inbox.attaching, true);
        let sweep = !std::mem::replace(&mut open.swept, true);
        drop(open);
        if missed {
            self.hub.wake(id);
        }
        if attach {
            self.attach(key.clone());
        }
        if sweep {
            env::spawn(Sweeper(Arc::downgrade(self)).run(self.env.clone()));
        }
    }

    fn attach(self: &Arc<Self>, key: Key) {
        let attacher = Attacher { inboxes: Arc::downgrade(self), key, done: false };
        env::spawn(attacher.run(self.env.clone()));
    }

    /// Attaches anew all inboxes of which `is_off` says that they are not where they should be.
    fn detach(self: &Arc<Self>, is_off: impl Fn(&Inbox, &Address) -> bool) {
        let mut detached = Vec::new();
        for (key, inbox) in &mut self.open().by_key {
            if inbox.at.as_ref().is_some_and(|at| is_off(inbox, at)) {
                inbox.at = None;
            }
            if inbox.at.is_none() && !std::mem::replace(&mut inbox.attaching, true) {
                detached.push(key.clone());
            }
        }
        detached.into_iter().for_each(|key| self.attach(key));
    }

    fn attached(&self, channel: &[u8], at: &Address) {
        let mut open = self.open();
        let Open { by_key, by_channel, .. } = &mut *open;
        let key = std::str::from_utf8(channel).ok().and_then(|channel| by_channel.get(channel));
        let Some(inbox) = key.and_then(|key| by_key.get_mut(key)) else {
            // Nobody wanted it any more when it was confirmed.
            drop(open);
            return self.unsubscribe(channel, at);
        };
        if inbox.at.as_ref() == Some(at) {
            return;
        }
        (inbox.at, inbox.since) = (Some(at.clone()), self.env.now());
        let claims: Vec<ClaimId> = inbox.claims.iter().copied().collect();
        drop(open);
        claims.into_iter().for_each(|id| self.hub.wake(id));
    }

    /// Lets go of inboxes that nobody wants, and sees after the others. Whether there are any.
    fn sweep(self: &Arc<Self>) -> bool {
        let (mut unwanted, mut checked) = (Vec::new(), HashMap::new());
        let mut open = self.open();
        let Open { by_key, by_channel, swept } = &mut *open;
        by_key.retain(|_, inbox| {
            inbox.claims.retain(|id| self.hub.is_waiting(*id));
            let wanted = !inbox.claims.is_empty() || !inbox.idle;
            inbox.idle = inbox.claims.is_empty();
            if !wanted {
                by_channel.remove(&inbox.channel);
                unwanted.push((inbox.channel.clone(), inbox.at.clone()));
            }
            wanted
        });
        *swept = !by_key.is_empty();
        let more = *swept;
        drop(open);
        for (channel, at) in unwanted {
            at.into_iter().for_each(|at| self.unsubscribe(channel.as_bytes(), &at));
        }
        self.follow();
        for inbox in self.open().by_key.values() {
            if let Some(node) = inbox.at.as_ref().and_then(|at| self.topology.known(at)) {
                checked.insert(node.address.clone(), (node, inbox.channel.clone()));
            }
        }
        for (node, channel) in checked.into_values() {
            env::spawn(check(self.topology.clone(), node, channel));
        }
        more
    }

    fn unsubscribe(&self, channel: &[u8], at: &Address) {
        let Some(node) = self.topology.known(at) else { return };
        let command = redis::cmd("SUNSUBSCRIBE").arg(channel).take();
        env::spawn(async move {
            let _ = node.pushes.one(&command).await;
        });
    }

    /// Goes where the slots are now.
    fn follow(self: &Arc<Self>) {
        self.detach(|inbox, at| self.topology.owner(inbox.slot).is_some_and(|owner| owner.address != *at));
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Subscribes once more to what is subscribed to. A master that became a replica does not tell its subscribers, and goes on
/// serving them as its new master tells it, but refuses to be asked; and a connection that nothing is sent over would not
/// be known to have gone deaf.
async fn check(topology: Arc<Topology>, node: Arc<Node>, channel: Arc<str>) {
    let reply = node.pushes.one(redis::cmd("SSUBSCRIBE").arg(&*channel)).await;
    if let Err(_) | Ok(Value::ServerError(_)) = reply {
        topology.refresh();
    }
}

/// Subscribes to one inbox, until it is attached or nobody wants it.
struct Attacher {
    inboxes: Weak<Inboxes>,
    key: Key,
    done: bool,
}

impl Attacher {
    async fn run(mut self, env: Env) {
        let mut pause = PAUSE.0;
        while let Some((node, channel)) = self.next() {
            let reply = match node {
                Some(node) => node.pushes.one(redis::cmd("SSUBSCRIBE").arg(&*channel)).await.ok(),
                None => None,
            };
            self.done = self.is_attached();
            if self.done {
                return;
            }
            // The slot has moved, or its node is away.
            let Some(inboxes) = self.inboxes.upgrade() else { return };
            let mut refreshed = inboxes.topology.refresh();
            drop(inboxes);
            if let Some(Value::ServerError(error)) = &reply {
                tracing::debug!(%error, lock = %self.key, "grants are not pushed yet; whoever waits asks again in time");
            }
            env.timeout(pause, refreshed.changed()).await;
            env.sleep(env.jitter(pause)).await;
            pause = (2 * pause).min(PAUSE.1);
        }
    }

    /// Where to subscribe to what.
    fn next(&self) -> Option<(Option<Arc<Node>>, Arc<str>)> {
        let inboxes = self.inboxes.upgrade()?;
        let open = inboxes.open();
        let inbox = open.by_key.get(&self.key)?;
        Some((inboxes.topology.owner(inbox.slot), inbox.channel.clone()))
    }

    fn is_attached(&self) -> bool {
        let Some(inboxes) = self.inboxes.upgrade() else { return true };
        let mut open = inboxes.open();
        let Some(inbox) = open.by_key.get_mut(&self.key) else { return true };
        inbox.attaching = inbox.at.is_none();
        !inbox.attaching
    }
}

impl Drop for Attacher {
    /// The runtime may end first; the next sweep, or whoever waits next, begins anew.
    fn drop(&mut self) {
        if !self.done
            && let Some(inboxes) = self.inboxes.upgrade()
            && let Some(inbox) = inboxes.open().by_key.get_mut(&self.key)
        {
            inbox.attaching = false;
        }
    }
}

/// Looks after the inboxes for as long as there are any.
struct Sweeper(Weak<Inboxes>);

impl Sweeper {
    async fn run(self, env: Env) {
        let Some(mut refreshed) = self.0.upgrade().map(|inboxes| inboxes.topology.refreshes()) else { return };
        let mut due = env.now() + SWEEP;
        loop {
            let left = due - env.now();
            if let Some(Ok(())) = env.timeout(left, refreshed.changed()).await {
                let Some(inboxes) = self.0.upgrade() else { return };
                inboxes.follow();
                continue;
            }
            match self.0.upgrade().map(|inboxes| inboxes.sweep()) {
                Some(true) => due = env.now() + SWEEP,
                Some(false) | None => return,
            }
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        if let Some(inboxes) = self.0.upgrade() {
            inboxes.open().swept = false;
        }
    }
}

/// Hears what one node pushes.
pub(super) struct Ears {
    pub(super) inboxes: Weak<Inboxes>,
    pub(super) node: Address,
}

impl Listener for Ears {
    fn heard(&self, push: &PushInfo) {
        let Some(inboxes) = self.inboxes.upgrade() else { return };
        match (&push.kind, push.data.as_slice()) {
            (PushKind::SMessage, [_channel, Value::BulkString(payload)]) => {
                if let Some(grant) = script::grant(payload) {
                    inboxes.hub.deliver(&grant);
                }
            }
            (PushKind::SSubscribe, [Value::BulkString(channel), ..]) => inboxes.attached(channel, &self.node),
            (PushKind::SUnsubscribe, [Value::BulkString(channel), ..]) => {
                inboxes.detach(|inbox, at| *at == self.node && inbox.channel.as_bytes() == channel);
            }
            _ => {}
        }
    }

    fn lost(&self) {
        let Some(inboxes) = self.inboxes.upgrade() else { return };
        inboxes.detach(|_, at| *at == self.node);
    }
}
