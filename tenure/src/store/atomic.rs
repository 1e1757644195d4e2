//! A store out of anything that can load a value and swap it if it is unchanged.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Hub, Seen, Store, Traits, Watch};
use crate::error::{Error, ErrorKind, Result};
use crate::health::NodeHealth;
use crate::key::Key;
use crate::proto::{At, ClaimId, Grant, Inbox, Micros, Op, Record, Reply};
use crate::transaction::{Settle, Verdict, refused};

/// A place that keeps one value per key and swaps it if nobody else has in between.
///
/// What must hold: `load` and `swap` of one key are linearizable; `swap` succeeds only where the value is the one that
/// was loaded as `version`; `now` never runs backwards by more than clocks do. The value is opaque bytes.
///
/// # Cancel safety
///
/// For every method: a `swap` whose future is dropped happens as a whole, then or later, or never will; who loads again
/// sees which, and one that comes late fails if another one came before it. `load`, `keys` and `ping` only look. Nobody
/// else's calls are harmed.
#[async_trait]
pub trait Register: std::fmt::Debug + Send + Sync + 'static {
    /// The value under `key`, if there is one, and the register's clock.
    async fn load(&self, key: &Key) -> Result<Loaded>;

    /// Puts `value` under `key` if what lies there is still `version`, and says whether it did. The register may forget
    /// the value once `expires` has passed, and should.
    async fn swap(&self, key: &Key, version: u64, value: Vec<u8>, expires: Micros) -> Result<bool>;

    /// The keys that have a value.
    async fn keys(&self) -> Result<Vec<Key>>;

    /// Where other processes push this one's grants to; empty where there is no such way.
    fn inbox(&self) -> Inbox;

    /// Who waits in this process. Whatever arrives at the inbox is delivered here.
    fn hub(&self) -> &Hub;

    /// Sends a grant to its inbox, which may be this process's own. It may get lost, and must not block.
    fn push(&self, grant: &Grant);

    /// Whether the register answers at all.
    async fn ping(&self) -> Result<()>;

    /// What a store on this register can do.
    fn traits(&self) -> Traits;
}

/// What [`Register::load`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The value, if there is one.
    pub value: Option<Vec<u8>>,
    /// Names this state of the key, including the state of having no value.
    pub version: u64,
    /// The register's clock, in microseconds since the Unix epoch.
    pub now: Micros,
}

/// What an operation makes of a stored value; see [`step`].
#[derive(Clone, Debug)]
pub struct Step {
    /// The answer.
    pub reply: Reply,
    /// What is to be stored instead, and when it may be forgotten; `None`: the value stays as it is.
    pub write: Option<(Vec<u8>, Micros)>,
    /// Whom to tell once it is stored.
    pub grants: Vec<Grant>,
}

/// The rule as a function on stored bytes: for stores that have a transaction of their own to run it in.
///
/// # Errors
///
/// [`ErrorKind::Foreign`] when the value is not one that this function wrote.
pub fn step(key: &Key, value: Option<&[u8]>, op: &Op, at: At<'_>) -> Result<Step> {
    let before = decode(key, value)?;
    let mut record = before.clone();
    let (reply, grants) = record.apply(op, at);
    let write = (record != before).then(|| (encode(&record), record.expires));
    Ok(Step { reply, write, grants })
}

/// The first byte of every stored record: the version of its encoding.
const VERSION: u8 = 1;

fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    rmp_serde::encode::write(&mut bytes, record).expect("a record has nothing that cannot be encoded");
    bytes
}

/// The record that `value` holds: a fresh one where there is no value.
///
/// # Errors
///
/// [`ErrorKind::Foreign`] when the value is not one that [`step`] wrote.
pub(crate) fn decode(key: &Key, value: Option<&[u8]>) -> Result<Record> {
    match value {
        None => Ok(Record::default()),
        Some([VERSION, bytes @ ..]) => rmp_serde::from_slice(bytes).map_err(|error| foreign(key, Some(error))),
        Some(_) => Err(foreign(key, None)),
    }
}

fn foreign(key: &Key, source: Option<rmp_serde::decode::Error>) -> Error {
    let message = format!(
        "what lies under the lock {key:?} is no lock record of a version known here; it was left alone: use another name \
         or prefix, or remove it by hand"
    );
    match source {
        Some(source) => Error::with_source(ErrorKind::Foreign, message, source),
        None => Error::new(ErrorKind::Foreign, message),
    }
}

/// A [`Store`] on a [`Register`]: it runs the rule here and swaps the result in, again where somebody was faster.
#[derive(Debug)]
pub struct Atomic<R> {
    register: Arc<R>,
}

impl<R> Atomic<R> {
    /// A store on that register.
    pub fn new(register: R) -> Self {
        Self { register: Arc::new(register) }
    }
}

/// How often a swap may find that somebody was faster before the operation is given up.
const RACES: usize = 1_000;

impl<R: Register> Atomic<R> {
    async fn apply_once(&self, key: &Key, op: &Op) -> Result<Reply> {
        let inbox = self.register.inbox();
        for _ in 0..RACES {
            let loaded = self.register.load(key).await?;
            let at = At { now: loaded.now, inbox: &inbox };
            let Step { reply, write, grants } = step(key, loaded.value.as_deref(), op, at)?;
            let done = match write {
                None => true,
                Some((value, expires)) => self.register.swap(key, loaded.version, value, expires).await?,
            };
            if done {
                grants.iter().for_each(|grant| self.register.push(grant));
                return Ok(reply);
            }
        }
        let message = format!("{RACES} others in a row were faster to change the lock {key:?}");
        Err(Error::new(ErrorKind::Unavailable, message))
    }
}

#[async_trait]
impl<R: Register> Store for Atomic<R> {
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        self.apply_once(key, op).await
    }

    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        futures_util::future::join_all(ops.iter().map(|(key, op)| self.apply_once(key, op))).await
    }

    async fn settle(&self, _settle: &Settle) -> Result<Verdict> {
        Err(refused(self.traits().kind))
    }

    fn watch(&self, _key: &Key, id: ClaimId) -> Watch {
        self.register.hub().watch(id)
    }

    async fn read(&self, key: &Key) -> Result<Seen> {
        let Loaded { value, now, .. } = self.register.load(key).await?;
        let record = decode(key, value.as_deref())?.seen_at(now);
        Ok(Seen { record, now })
    }

    async fn scan(&self) -> Result<Vec<Key>> {
        let mut keys = self.register.keys().await?;
        keys.sort();
        Ok(keys)
    }

    async fn ping(&self) -> Result<()> {
        self.register.ping().await
    }

    fn nodes(&self) -> Vec<NodeHealth> {
        Vec::new()
    }

    fn traits(&self) -> Traits {
        self.register.traits()
    }
}
