//! What a deployment is made of: for those who look after one, as `tenure doctor` does.
//!
//! A store's URL names servers, or a file. [`Layout`] says which, and a [`Server`] can be asked anything that its user may:
//!
//! ```no_run
//! # async fn example() -> tenure::Result<()> {
//! use tenure::inspect::Layout;
//!
//! if let Layout::Server(server) = Layout::of("redis://localhost")? {
//!     let answer = server.connect().await?.ask(&["INFO", "server"]).await?;
//!     println!("{}: {}", server.name(), answer.text());
//! }
//! # Ok(())
//! # }
//! ```

use std::fmt;
#[cfg(feature = "sqlite")]
use std::path::PathBuf;
use std::sync::Arc;
#[cfg(feature = "redis")]
use std::time::Duration;

use crate::error::Result;
use crate::store::Store;

#[cfg(feature = "redis")]
pub use crate::store::inspect::{Answer, Server, Session};

/// What a store's URL names. Nothing is opened or connected by looking at it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Layout {
    /// Nothing outside of this process.
    Memory,
    /// A SQLite file, by its absolute path.
    #[cfg(feature = "sqlite")]
    File(PathBuf),
    /// One Redis server.
    #[cfg(feature = "redis")]
    Server(Server),
    /// A master, and those who know where it is.
    #[cfg(feature = "redis")]
    Sentinels {
        /// The Sentinels.
        sentinels: Vec<Server>,
        /// What they call the master.
        master: String,
        /// The login of the data, at the address of a Sentinel: [`Server::at`] leads to the master.
        data: Server,
    },
    /// A cluster, by some of its nodes.
    #[cfg(feature = "redis")]
    Cluster(Vec<Server>),
    /// A quorum.
    #[cfg(feature = "redis")]
    Quorum {
        /// Its nodes, as the URL names them; members that came later are not among them.
        nodes: Vec<Node>,
        /// The longest ttl that any client may ask for.
        longest_ttl: Duration,
    },
    /// A ring, by its nodes as the URL names them.
    #[cfg(feature = "redis")]
    Ring(Vec<Node>),
}

impl Layout {
    /// What that URL names; see [`open`](crate::open) for the URLs that there are.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) where the URL cannot be meant.
    pub fn of(url: &str) -> Result<Self> {
        match url.split(':').next().unwrap_or_default() {
            "memory" if url == "memory:" => Ok(Self::Memory),
            #[cfg(feature = "sqlite")]
            "sqlite" => crate::store::sqlite_path(url).map(Self::File),
            #[cfg(feature = "redis")]
            scheme if scheme.starts_with("redis") => {
                use crate::store::inspect::{Found, find};
                Ok(match find(url)? {
                    Found::Server(server) => Self::Server(server),
                    Found::Sentinels { sentinels, master, data } => Self::Sentinels { sentinels, master, data },
                    Found::Cluster(seeds) => Self::Cluster(seeds),
                })
            }
            #[cfg(feature = "redis")]
            scheme @ ("redlock" | "redlocks" | "ring" | "rings") => {
                let (nodes, longest_ttl) = crate::store::quorum_nodes(url)?;
                let nodes = nodes.into_iter().map(|(name, url)| Node::of(name, url)).collect::<Result<_>>()?;
                Ok(match scheme.starts_with("ring") {
                    true => Self::Ring(nodes),
                    false => Self::Quorum { nodes, longest_ttl },
                })
            }
            scheme => Err(crate::open::unknown(scheme)),
        }
    }
}

/// A node of a quorum or a ring.
#[derive(Clone)]
pub struct Node {
    name: String,
    url: String,
    layout: Layout,
}

impl Node {
    #[cfg(feature = "redis")]
    fn of(name: String, url: String) -> Result<Self> {
        // A quorum within a quorum is looked into as well.
        let layout = Layout::of(&url)?;
        Ok(Self { name, url, layout })
    }

    /// The name under which it is a member.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is made of.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Opens its store.
    ///
    /// # Errors
    ///
    /// As [`open_store`](crate::open_store).
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub async fn open(&self) -> Result<Arc<dyn Store>> {
        crate::open_store(&self.url).await
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("name", &self.name).field("layout", &self.layout).finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_url_is_taken_apart_and_no_password_is_shown() {
        let node = "redis%3A%2F%2Fal%3As3cret%40a%3A1";
        for (url, shape) in [
            ("memory:", "Memory"),
            ("redis://al:s3cret@a", "Server(Server { name: \"a:6379\""),
            ("redis-sentinel://al:s3cret@a,b/main?sentinel_password=s3cret", "Sentinels { sentinels: [Server"),
            ("redis-cluster://al:s3cret@a,b", "Cluster([Server"),
            ("redlock://al:s3cret@a,b,c?longest_ttl=5s", "longest_ttl: 5s"),
            (&format!("redlock:?node={node}&node=memory%3A"), "longest_ttl: 60s"),
            (&format!("ring:?node={node}"), "Ring([Node { name: \"redis://a:1\""),
        ] {
            let shown = format!("{:?}", Layout::of(url).unwrap());
            assert!(shown.contains(shape) && !shown.contains("s3cret"), "{url}: {shown}");
        }
        for url in ["unheard-of:s3cret", "redlock:s3cret@a,b", "redis://al:s3cret@"] {
            let error = Layout::of(url).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
