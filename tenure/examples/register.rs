//! A store of one's own, out of one file: what can load a value, and swap it if it is unchanged, is a [`Register`], and
//! [`Atomic`] makes a store of it.
//!
//! Run it with `cargo run --example register`; `tests/stores.rs` tries every promise on it.

#![allow(clippy::disallowed_methods, reason = "an example has the time from the system")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tenure::proto::{Acquire, Claim, ClaimId, Grant, Inbox, Micros, Op, Release};
use tenure::store::{Atomic, Hub, Loaded, Register, Store, Traits};
use tenure::{Error, ErrorKind, Key, Result};

/// All values in one file, for the processes of one machine. It is written anew with each change, so it is for a few
/// locks; and the calls block for as long as that takes.
#[derive(Debug)]
pub(crate) struct OneFile {
    path: PathBuf,
    hub: Hub,
}

#[derive(Default, Serialize, Deserialize)]
struct Contents {
    changes: u64,
    values: BTreeMap<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Value {
    version: u64,
    expires: Micros,
    bytes: Bytes,
}

impl OneFile {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), hub: Hub::new() }
    }

    /// What has not expired. The file is only ever replaced as a whole, so this needs no lock.
    fn read(&self) -> Result<Contents> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::default()),
            bytes => bytes.map_err(|error| self.failed(error))?,
        };
        let mut contents: Contents = rmp_serde::from_slice(&bytes).map_err(|error| self.failed(error))?;
        contents.values.retain(|_, value| value.expires > now());
        Ok(contents)
    }

    /// The right to replace it, until what this returns is closed, as it also is when the process dies.
    fn lock(&self) -> io::Result<File> {
        let file = File::create(self.path.with_extension("lock"))?;
        file.lock()?;
        Ok(file)
    }

    fn replace(&self, contents: &Contents) -> Result<()> {
        let new = self.path.with_extension("new");
        let bytes = rmp_serde::to_vec(contents).map_err(|error| self.failed(error))?;
        fs::write(&new, bytes).and_then(|()| fs::rename(&new, &self.path)).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::with_source(ErrorKind::Unavailable, format!("{}: {error}", self.path.display()), error)
    }
}

fn now() -> Micros {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as Micros
}

#[async_trait]
impl Register for OneFile {
    async fn load(&self, key: &Key) -> Result<Loaded> {
        let value = self.read()?.values.remove(key.as_str());
        // No value at all is a version too.
        let version = value.as_ref().map_or(0, |value| value.version);
        Ok(Loaded { value: value.map(|value| value.bytes.into()), version, now: now() })
    }

    async fn swap(&self, key: &Key, version: u64, bytes: Vec<u8>, expires: Micros) -> Result<bool> {
        let _lock = self.lock().map_err(|error| self.failed(error))?;
        let mut contents = self.read()?;
        if contents.values.get(key.as_str()).map_or(0, |value| value.version) != version {
            return Ok(false);
        }
        // Versions count the changes of the whole file, so that none comes again, not for a forgotten key either.
        contents.changes += 1;
        let value = Value { version: contents.changes, expires, bytes: bytes.into() };
        contents.values.insert(key.as_str().to_owned(), value);
        self.replace(&contents)?;
        Ok(true)
    }

    async fn keys(&self) -> Result<Vec<Key>> {
        self.read()?.values.into_keys().map(Key::new).collect()
    }

    fn inbox(&self) -> Inbox {
        Inbox::from("")
    }

    fn hub(&self) -> &Hub {
        &self.hub
    }

    /// There is no way to other processes: theirs ask again, as `traits` tells them to.
    fn push(&self, grant: &Grant) {
        self.hub.deliver(grant);
    }

    async fn ping(&self) -> Result<()> {
        self.read().map(drop)
    }

    fn traits(&self) -> Traits {
        Traits {
            kind: "one-file",
            queue: true,
            fence: true,
            push: false,
            durable: false,
            transaction: false,
            stale_reads: false,
            kept_since: 0,
            members: 0,
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let store = Atomic::new(OneFile::new(std::env::temp_dir().join("tenure-example")));
    let lock = Key::new("nightly-report")?;
    let id = ClaimId::new(0x_7e57); // In earnest: 128 random bits, new for each acquisition.
    let acquire = Acquire {
        id,
        claim: Claim::EXCLUSIVE,
        ttl: Duration::from_secs(30),
        patience: Duration::ZERO,
        owner: None,
        max: 1,
        memory: Duration::from_secs(60),
        meta: Bytes::from_static(b"the example"),
        fence: 0,
    };
    println!("acquire: {:?}", store.apply(&lock, &Op::Acquire(acquire)).await?.outcome);
    println!("holders: {:?}", store.read(&lock).await?.record.holders);
    let release = Release { id, bury: Duration::ZERO, fence: 0 };
    println!("release: {:?}", store.apply(&lock, &Op::Release(release)).await?.outcome);
    Ok(())
}
