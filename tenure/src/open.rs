//! From a URL to a store, and to a client of it.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::locks::Locks;
use crate::store::{Memory, Store};

/// A client of the store at `url`, with the default options.
///
/// | store | URL |
/// | --- | --- |
/// | this process | `memory:` |
/// | the processes of one machine | `sqlite:path` |
/// | Redis, Valkey | `redis://[user[:password]@]host[:port][/db]`, `rediss://…`, `redis+unix:///path` |
/// | Redis behind Sentinels | `redis-sentinel://[user[:password]@]sentinel[:port],sentinel,…/master[/db]`, `rediss-sentinel://…` |
/// | several Redis, of which a majority decides (Redlock) | `redlock://[user[:password]@]host[:port],host,…[/db]`, `redlocks://…`, `redlock:?node=URL&node=URL&…` |
/// | keys spread over several stores | `ring://…`, `rings://…`, `ring:?node=URL&…` |
/// | Redis Cluster | `redis-cluster://[user[:password]@]node[:port],node,…`, `rediss-cluster://…` |
///
/// # Errors
///
/// When the URL is not one of those, or the store cannot be reached.
///
/// # Cancel safety
///
/// Nothing is left behind.
pub async fn open(url: &str) -> Result<Locks> {
    Locks::builder(open_store(url).await?).build()
}

/// The store at `url`; see [`open`].
///
/// # Errors
///
/// As [`open`].
///
/// # Cancel safety
///
/// Nothing is left behind.
pub async fn open_store(url: &str) -> Result<Arc<dyn Store>> {
    let scheme = url.split(':').next().unwrap_or_default();
    match scheme {
        "memory" if url == "memory:" => Ok(Arc::new(Memory::new())),
        "memory" => Err(Error::new(ErrorKind::Invalid, "the memory store has no options: give `memory:`")),
        #[cfg(feature = "sqlite")]
        "sqlite" => Ok(Arc::new(crate::store::Sqlite::connect(url).await?)),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redis+unix" | "redis-sentinel" | "rediss-sentinel" => {
            Ok(Arc::new(crate::store::Redis::connect(url).await?))
        }
        #[cfg(feature = "redis")]
        "redis-cluster" | "rediss-cluster" => Ok(Arc::new(crate::store::RedisCluster::connect(url).await?)),
        #[cfg(feature = "redis")]
        "redlock" | "redlocks" => Ok(Arc::new(Box::pin(crate::store::Quorum::connect(url)).await?)),
        #[cfg(feature = "redis")]
        "ring" | "rings" => Ok(Arc::new(Box::pin(crate::store::Ring::connect(url)).await?)),
        _ => Err(unknown(scheme)),
    }
}

pub(crate) fn unknown(scheme: &str) -> Error {
    let known = [
        ("memory: (for this process alone)", true),
        ("sqlite:path", cfg!(feature = "sqlite")),
        ("redis://host", cfg!(feature = "redis")),
        ("rediss://host", cfg!(feature = "redis")),
        ("redis+unix:///path", cfg!(feature = "redis")),
        ("redis-sentinel://host,host,host/master", cfg!(feature = "redis")),
        ("rediss-sentinel://host,host,host/master", cfg!(feature = "redis")),
        ("redis-cluster://host,host,host", cfg!(feature = "redis")),
        ("rediss-cluster://host,host,host", cfg!(feature = "redis")),
        ("redlock://host,host,host", cfg!(feature = "redis")),
        ("ring://host,host", cfg!(feature = "redis")),
    ];
    let known: Vec<&str> = known.iter().filter(|(_, built)| *built).map(|(form, _)| *form).collect();
    // What stands before a colon may be a whole URL without a scheme, with a password in it.
    let named = if scheme.len() <= 16 && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
        format!("no store has the scheme {scheme:?}")
    } else {
        "the store's URL begins with no scheme".to_owned()
    };
    Error::new(ErrorKind::Invalid, format!("{named}: give one of {}", known.join(", ")))
}
