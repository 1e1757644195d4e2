//! What a process goes to while the store is away: a memory of its own, behind a [`Fallback`](tenure::store::Fallback).

use std::fmt;

use async_trait::async_trait;
use tenure::env::Env;
use tenure::proto::{ClaimId, Op, Reply};
use tenure::store::{Memory, Seen, Store, Traits, Watch};
use tenure::{Key, Result};

use crate::network::World;

/// The second store of a process. The world is told of each claim that went there.
#[derive(Clone)]
pub(crate) struct Spare {
    world: World,
    pub(crate) process: usize,
    pub(crate) memory: Memory,
}

impl Spare {
    pub(crate) fn new(world: &World, process: usize, env: &Env) -> Self {
        Self { world: world.clone(), process, memory: Memory::with_env(env.clone()) }
    }

    fn note(&self, key: &Key, op: &Op) {
        if let Op::Acquire(acquire) = op {
            self.world.diverted(self.process, key, acquire.id);
        }
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

    fn traits(&self) -> Traits {
        self.memory.traits()
    }
}
