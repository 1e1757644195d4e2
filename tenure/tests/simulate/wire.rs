//! The store as a process sees it: what it sends goes through the [`World`].

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tenure::proto::{ClaimId, Op, Reply};
use tenure::store::{Seen, Store, Traits, Watch};
use tenure::{Key, Result};

use crate::network::World;

/// The store as a process sees it.
pub(crate) struct Wire {
    pub(crate) world: World,
    pub(crate) process: usize,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire {{ process: {} }}", self.process)
    }
}

#[async_trait]
impl Store for Wire {
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        let replies = self.world.send(self.process, Arc::new([(key.clone(), op.clone())])).await?;
        Ok(replies[0])
    }

    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        match self.world.send(self.process, ops.into()).await {
            Ok(replies) => replies.into_iter().map(Ok).collect(),
            Err(error) => ops.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn settle(&self, _settle: &tenure::transaction::Settle) -> Result<tenure::transaction::Verdict> {
        Err(tenure::Error::new(tenure::ErrorKind::Unsupported, "there are no transactions in this network"))
    }

    fn watch(&self, key: &Key, id: ClaimId) -> Watch {
        self.world.watch(self.process, key, id)
    }

    async fn read(&self, key: &Key) -> Result<Seen> {
        self.world.memory().read(key).await
    }

    async fn scan(&self) -> Result<Vec<Key>> {
        self.world.memory().scan().await
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    fn nodes(&self) -> Vec<tenure::NodeHealth> {
        Vec::new()
    }

    fn traits(&self) -> Traits {
        self.world.memory().traits()
    }
}

/// The name of a lock, and the lock of a name.
pub(crate) fn name_of_lock(lock: usize) -> String {
    lock.to_string()
}

pub(crate) fn number_of(key: &Key) -> usize {
    key.as_str().parse().expect("locks are called by their numbers")
}

pub(crate) fn name_of(op: &Op) -> String {
    let id = op.id().to_string();
    let id = &id[..6];
    match op {
        Op::Acquire(acquire) => format!("Acquire {id} for {:?}, patience {:?}", acquire.ttl, acquire.patience),
        Op::Renew(renew) => format!("Renew {id} for {:?}", renew.ttl),
        Op::HandOver(op) => format!("HandOver {id} from {} for {:?}", &op.from.to_string()[..6], op.ttl),
        Op::Release(release) => format!("Release {id}, buried for {:?}", release.bury),
    }
}
