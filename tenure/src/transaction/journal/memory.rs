//! A journal in this process's memory, for tests and models.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{Durable, Entry, Journal, Keep, Written, check};
use crate::env::Env;
use crate::error::Result;
use crate::proto::{Micros, micros};

/// A journal in this process's memory. Clones share it; with the last of them it is gone.
#[derive(Clone, Debug)]
pub struct Memory {
    env: Env,
    entries: Arc<Mutex<BTreeMap<String, Kept>>>,
}

#[derive(Debug)]
struct Kept {
    entry: Entry,
    expires: Option<Micros>,
}

impl Memory {
    /// An empty journal.
    pub fn new() -> Self {
        Self::with_env(Env::system())
    }

    /// The same under another clock.
    pub fn with_env(env: Env) -> Self {
        Self { env, entries: Arc::default() }
    }

    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<String, Kept>, Micros) -> T) -> T {
        let now = self.env.wall();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, kept| kept.expires.is_none_or(|expires| now < expires));
        look(&mut entries, now)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Journal for Memory {
    async fn load(&self, id: &str) -> Result<Option<Entry>> {
        Ok(self.with(|entries, _| entries.get(id).map(|kept| kept.entry.clone())))
    }

    async fn write(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written> {
        check(id, value)?;
        Ok(self.with(|entries, now| {
            let present = entries.get(id).map(|kept| kept.entry.version);
            if present != expected {
                return Written::Conflict;
            }
            let version = present.unwrap_or(0) + 1;
            let expires = match keep {
                Keep::UntilForgotten => None,
                Keep::For(time) => Some(now.saturating_add(micros(time))),
            };
            let entry = Entry { id: id.to_owned(), version, value: value.to_vec() };
            entries.insert(id.to_owned(), Kept { entry, expires });
            Written::Done(version)
        }))
    }

    async fn forget(&self, id: &str, expected: u64) -> Result<bool> {
        Ok(self.with(|entries, _| {
            let is_it = entries.get(id).is_some_and(|kept| kept.entry.version == expected);
            if is_it {
                entries.remove(id);
            }
            is_it
        }))
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        Ok(self.with(|entries, _| entries.values().map(|kept| kept.entry.clone()).collect()))
    }

    async fn unsettled(&self) -> Result<Vec<Entry>> {
        let open = |entries: &mut BTreeMap<String, Kept>, _| {
            entries.values().filter(|kept| kept.expires.is_none()).map(|kept| kept.entry.clone()).collect()
        };
        Ok(self.with(open))
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}

/// For tests and models: takes any journal for a durable one.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct Presumed<J>(pub J);

#[async_trait]
impl<J: Journal> Journal for Presumed<J> {
    async fn load(&self, id: &str) -> Result<Option<Entry>> {
        self.0.load(id).await
    }

    async fn write(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written> {
        self.0.write(id, expected, value, keep).await
    }

    async fn forget(&self, id: &str, expected: u64) -> Result<bool> {
        self.0.forget(id, expected).await
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        self.0.list().await
    }

    async fn unsettled(&self) -> Result<Vec<Entry>> {
        self.0.unsettled().await
    }

    fn location(&self) -> String {
        self.0.location()
    }
}

impl<J: Journal> Durable for Presumed<J> {}
