//! Records in this process: for tests, examples, and locks that need not leave it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Hub, Seen, Store, Traits, Watch};
use crate::env::Env;
use crate::error::Result;
use crate::health::NodeHealth;
use crate::key::Key;
use crate::proto::{At, ClaimId, Inbox, Micros, Op, Record, Reply};
use crate::transaction::{Settle, Verdict, refused};

/// A store in memory, `memory:`. Clones share the records; nothing is kept when the last one goes.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

struct Inner {
    env: Env,
    hub: Hub,
    inbox: Inbox,
    records: Mutex<Records>,
}

#[derive(Default)]
struct Records {
    by_key: HashMap<Key, Record>,
    /// Records are looked through for forgotten ones when there are this many: twice as many as were left the last time.
    purge_at: usize,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::with_env(Env::system())
    }

    /// An empty store with a clock of its own: for tests under a paused clock.
    pub fn with_env(env: Env) -> Self {
        let (hub, inbox, records) = (Hub::new(), Inbox::from(""), Mutex::default());
        Self(Arc::new(Inner { env, hub, inbox, records }))
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_now(&self, key: &Key, op: &Op) -> Reply {
        let now = self.0.env.wall();
        let mut records = self.records();
        records.purge(now);
        let record = records.by_key.entry(key.clone()).or_default();
        let (reply, grants) = record.apply(op, At { now, inbox: &self.0.inbox });
        if record.expires <= now {
            records.by_key.remove(key);
        }
        drop(records);
        grants.iter().for_each(|grant| self.0.hub.deliver(grant));
        reply
    }
}

impl Records {
    fn purge(&mut self, now: Micros) {
        if self.by_key.len() > self.purge_at {
            self.by_key.retain(|_, record| record.expires > now);
            self.purge_at = 2 * self.by_key.len() + 64;
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("records", &self.records().by_key.len())
            .field("waiting", &self.0.hub.len())
            .finish()
    }
}

#[async_trait]
impl Store for Memory {
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        Ok(self.apply_now(key, op))
    }

    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        ops.iter().map(|(key, op)| Ok(self.apply_now(key, op))).collect()
    }

    async fn settle(&self, _settle: &Settle) -> Result<Verdict> {
        Err(refused(self.traits().kind))
    }

    fn watch(&self, _key: &Key, id: ClaimId) -> Watch {
        self.0.hub.watch(id)
    }

    async fn read(&self, key: &Key) -> Result<Seen> {
        let now = self.0.env.wall();
        let record = self.records().by_key.get(key).cloned().unwrap_or_default().seen_at(now);
        Ok(Seen { record, now })
    }

    async fn scan(&self) -> Result<Vec<Key>> {
        let now = self.0.env.wall();
        let records = self.records();
        let live = records.by_key.iter().filter(|(_, record)| record.expires > now);
        let mut keys: Vec<Key> = live.map(|(key, _)| key.clone()).collect();
        keys.sort();
        Ok(keys)
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    fn nodes(&self) -> Vec<NodeHealth> {
        Vec::new()
    }

    fn traits(&self) -> Traits {
        Traits {
            kind: "memory",
            queue: true,
            fence: true,
            push: true,
            durable: false,
            transaction: false,
            stale_reads: false,
            kept_since: 0,
            members: 0,
        }
    }
}
