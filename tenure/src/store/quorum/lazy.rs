//! A node that could not be reached when the quorum was made, and is tried again whenever it is asked.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::members::Opener;
use crate::error::{Error, ErrorKind, Result};
use crate::health::NodeHealth;
use crate::key::Key;
use crate::proto::{ClaimId, Op, Reply};
use crate::store::{Hub, Seen, Store, Traits, Watch};
use crate::transaction::{Settle, Verdict};

pub(super) struct Lazy {
    name: String,
    open: Opener,
    store: OnceCell<Arc<dyn Store>>,
}

impl Lazy {
    pub(super) fn new(name: &str, open: Opener) -> Self {
        Self { name: name.to_owned(), open, store: OnceCell::new() }
    }

    /// Whether it was reached; why not, otherwise.
    pub(super) async fn reach(&self) -> Result<&Arc<dyn Store>> {
        let opened = self.store.get_or_try_init(|| (self.open)(&self.name)).await;
        // Whatever was in the way, nothing was sent.
        opened.map_err(|error| match error.kind() {
            ErrorKind::NoReply => Error::with_source(ErrorKind::Unavailable, error.to_string(), error),
            _ => error,
        })
    }
}

impl fmt::Debug for Lazy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lazy").field("name", &self.name).field("store", &self.store.get()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Lazy {
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        self.reach().await?.apply(key, op).await
    }

    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        match self.reach().await {
            Ok(store) => store.apply_many(ops).await,
            Err(error) => ops.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn settle(&self, settle: &Settle) -> Result<Verdict> {
        self.reach().await?.settle(settle).await
    }

    /// Where it was not reached yet, nothing will come.
    fn watch(&self, key: &Key, id: ClaimId) -> Watch {
        self.store.get().map_or_else(|| Hub::new().watch(id), |store| store.watch(key, id))
    }

    async fn read(&self, key: &Key) -> Result<Seen> {
        self.reach().await?.read(key).await
    }

    async fn scan(&self) -> Result<Vec<Key>> {
        self.reach().await?.scan().await
    }

    async fn ping(&self) -> Result<()> {
        self.reach().await?.ping().await
    }

    fn nodes(&self) -> Vec<NodeHealth> {
        Vec::new()
    }

    /// One that was never reached has kept nothing.
    fn traits(&self) -> Traits {
        let unknown = Traits {
            kind: "unreached",
            queue: true,
            fence: true,
            push: true,
            durable: false,
            transaction: false,
            stale_reads: false,
            kept_since: u64::MAX,
            members: 0,
        };
        self.store.get().map_or(unknown, |store| store.traits())
    }
}
