//! What can be read about a lock by anyone: who holds it, who waits, since when and until when.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::hold::Fence;
use crate::key::Key;
use crate::options::Options;
use crate::proto::{Claim, ClaimId, Entry, Micros};
use crate::store::Seen;

/// A lock as it stood when it was read. Times are on the store's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockInfo {
    /// The lock's name.
    pub name: String,
    /// Out of how many permits the present claims are; `None` for a mutex or a reader-writer lock, and while it is free.
    pub limit: Option<u32>,
    /// The last fence that was handed out; [`Fence::NONE`] when the store remembers none.
    pub fence: Fence,
    /// Who is in, in the order of grants.
    pub holders: Vec<Holder>,
    /// Who waits, the next one first.
    pub waiters: Vec<Holder>,
    /// The store's clock when it was read.
    pub read_at: SystemTime,
    /// It may have been read from a replica that lags.
    pub stale: bool,
}

impl LockInfo {
    pub(crate) fn new(key: &Key, seen: Seen, stale: bool) -> Self {
        let Seen { record, now } = seen;
        let limit = (!record.is_empty() && record.limit != Claim::ALL).then_some(record.limit);
        Self {
            name: key.as_str().to_owned(),
            limit,
            fence: Fence(record.fence),
            holders: record.holders.into_iter().map(Holder::from).collect(),
            waiters: record.queue.into_iter().map(Holder::from).collect(),
            read_at: time(now),
            stale,
        }
    }

    /// Whether anybody is in.
    pub fn is_locked(&self) -> bool {
        !self.holders.is_empty()
    }
}

/// One claim that is in or waits. Times are on the store's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Names the acquisition.
    pub id: ClaimId,
    /// Who claims, where it was named.
    pub owner: Option<String>,
    /// How many permits are claimed; [`Claim::ALL`] for a mutex or a writer.
    pub permits: u32,
    /// When it was let in, or took its place.
    pub since: SystemTime,
    /// When its time passes unless it asks for more.
    pub until: SystemTime,
    /// The token; `None` while it waits.
    pub fence: Option<Fence>,
    /// Host, pid and purpose, where the metadata is of that kind and no longer than the 1 KiB that a claim may have. Whoever
    /// can write to the store can write it: show it, and rest nothing on it.
    pub meta: Option<Meta>,
    /// The metadata as it lies in the store, be it of any length.
    pub raw_meta: Bytes,
}

impl Holder {
    /// The metadata as a value of the claimant's type. Whoever can write to the store can write it: show it, and rest
    /// nothing on it.
    ///
    /// # Errors
    ///
    /// When it is no such value, or longer than the 1 KiB that a claim may have.
    pub fn meta_as<T: DeserializeOwned>(&self, codec: &impl Codec) -> crate::Result<T> {
        let n = self.raw_meta.len();
        if n > Options::META_MAX {
            let message =
                format!("the metadata has {n} bytes, and {} are the most: no client wrote it", Options::META_MAX);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        codec.decode(&self.raw_meta)
    }
}

impl From<Entry> for Holder {
    fn from(entry: Entry) -> Self {
        // What lies there may be anybody's: the cap on writing binds only those who write by this library.
        let readable = entry.meta.len() <= Options::META_MAX;
        Self {
            id: entry.id,
            owner: entry.owner.map(|owner| owner.as_str().to_owned()),
            permits: entry.permits,
            since: time(entry.since),
            until: time(entry.until),
            fence: (entry.fence > 0).then_some(Fence(entry.fence)),
            meta: readable.then(|| serde_json::from_slice(&entry.meta).ok()).flatten(),
            raw_meta: entry.meta,
        }
    }
}

/// Where a holder runs and what for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Meta {
    /// The machine's name.
    pub host: String,
    /// The process id there.
    pub pid: u32,
    /// What the lock is held for, where that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
}

impl Meta {
    /// This process.
    pub(crate) fn here(purpose: Option<String>) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { host, pid: std::process::id(), purpose }
    }

    /// What is stored for a lock with those options.
    pub(crate) fn bytes(options: &Options) -> Bytes {
        // Most locks have no purpose of their own: one text for all of them.
        static PLAIN: LazyLock<Bytes> = LazyLock::new(|| Meta::here(None).encoded());
        match (&options.meta, &options.purpose) {
            (Some(Ok(meta)), _) => meta.clone(),
            (_, None) => PLAIN.clone(),
            (_, Some(purpose)) => Self::here(Some(purpose.clone())).encoded(),
        }
    }

    fn encoded(&self) -> Bytes {
        Bytes::from(serde_json::to_vec(self).expect("text and a number can be encoded"))
    }
}

pub(crate) fn time(at: Micros) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(at)
}
