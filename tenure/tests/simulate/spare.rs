//! What a process goes to while the store is away: a memory of its own, behind a [`Fallback`](tenure::store::Fallback).

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::FutureExt;
use tenure::env::Env;
use tenure::proto::{ClaimId, Micros, Op, Reply};
use tenure::store::{Memory, Seen, Store, Traits, Watch};
use tenure::{Key, Result};

use crate::network::World;
use crate::wire::number_of;

/// The second store of a process. It takes note of what each claim that goes there leaves at the first.
#[derive(Clone)]
pub(crate) struct Spare {
    world: World,
    pub(crate) process: usize,
    pub(crate) memory: Memory,
    left: Arc<Mutex<Vec<Left>>>,
}

/// What the first store had of a claim when that came here.
struct Left {
    key: Key,
    id: ClaimId,
    /// A late copy of a request may bring it back: then it is another one.
    since: Micros,
}

impl Spare {
    pub(crate) fn new(world: &World, process: usize, env: &Env) -> Self {
        Self { world: world.clone(), process, memory: Memory::with_env(env.clone()), left: Arc::default() }
    }

    fn note(&self, key: &Key, op: &Op) {
        let Op::Acquire(acquire) = op else { return };
        if let Some(since) = self.since(key, acquire.id) {
            self.left.lock().expect("no panic").push(Left { key: key.clone(), id: acquire.id, since });
        }
    }

    /// Since when the first store has something of a claim.
    fn since(&self, key: &Key, id: ClaimId) -> Option<Micros> {
        let seen = self.world.memory().read(key).now_or_never().expect("it does not wait").expect("it does not fail");
        let mut entries = seen.record.holders.iter().chain(&seen.record.queue);
        entries.find(|entry| entry.id == id).map(|entry| entry.since)
    }

    /// What the first store still has of a claim that came here, and ought to have been given back.
    pub(crate) fn stray(&self) -> Option<String> {
        if self.world.is_dead(self.process) {
            return None;
        }
        let left = self.left.lock().expect("no panic");
        let stray = left.iter().find(|left| self.since(&left.key, left.id) == Some(left.since))?;
        Some(format!("claim {} of p{} on lock {}", stray.id, self.process, number_of(&stray.key)))
    }
}

impl fmt::Debug for Spare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spare {{ process: {} }}", self.process)
    }
}

#[async_trait]
impl Store for Spare {
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        self.note(key, op);
        self.memory.apply(key, op).await
    }

    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        ops.iter().for_each(|(key, op)| self.note(key, op));
        self.memory.apply_many(ops).await
    }

    async fn settle(&self, settle: &tenure::transaction::Settle) -> Result<tenure::transaction::Verdict> {
        self.memory.settle(settle).await
    }

    fn watch(&self, key: &Key, id: ClaimId) -> Watch {
        self.memory.watch(key, id)
    }

    async fn read(&self, key: &Key) -> Result<Seen> {
        self.memory.read(key).await
    }

    async fn scan(&self) -> Result<Vec<Key>> {
        self.memory.scan().await
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    fn nodes(&self) -> Vec<tenure::NodeHealth> {
        Vec::new()
    }

    fn traits(&self) -> Traits {
        self.memory.traits()
    }
}
