//! Where a connection goes to: asked anew for each attempt, since with Sentinels the answer changes.
//!
//! ```text
//!   aim ──▶ connect ──▶ confirm: the server is what it was taken for ──▶ in use ──▶ moved: leave it
//! ```

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{Client, Value};

use super::sentinel::Sentinels;
use super::url::{Address, Config};
use super::{connect, errors};
use crate::error::{Error, ErrorKind, Result};

/// Where a link's connection goes to.
pub(super) enum Target {
    /// One server, whatever it may be.
    Fixed(Box<Client>),
    /// The master that the Sentinels agree on.
    Master(Arc<Sentinels>),
    /// One of its replicas, and the master where no replica is fit.
    Replica(Arc<Sentinels>),
}

/// A server to connect to.
pub(super) struct Aim {
    pub(super) client: Client,
    /// What the Sentinels call it; `None` where nobody was asked.
    pub(super) address: Option<Address>,
}

impl Target {
    /// The server to connect to now.
    ///
    /// # Errors
    ///
    /// Where the Sentinels cannot be asked, or do not agree.
    pub(super) async fn aim(&self) -> Result<Aim> {
        let (sentinels, address) = match self {
            Self::Fixed(client) => return Ok(Aim { client: (**client).clone(), address: None }),
            Self::Master(sentinels) => (sentinels, sentinels.master().await?),
            Self::Replica(sentinels) => match sentinels.replica().await {
                Some(address) => (sentinels, address),
                None => (sentinels, sentinels.master().await?),
            },
        };
        let config = sentinels.config();
        let client = connect::client(config, config.target(config.addr(&address), &config.login)?)?;
        Ok(Aim { client, address: Some(address) })
    }

    /// Makes sure that a server which was named as a master takes itself for one: Sentinels may be ahead of it, or behind.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] where it does not.
    pub(super) async fn confirm(&self, config: &Config, aim: &Aim, connection: &MultiplexedConnection) -> Result<()> {
        let (Self::Master(_), Some(address)) = (self, &aim.address) else { return Ok(()) };
        // Unlike ROLE it wants no right of its own.
        let hello = connection.clone().send_packed_command(&redis::cmd("HELLO")).await;
        let hello =
            errors::check(&config.server, || "connecting".into(), hello.map_err(|e| errors::unreachable(config, e))?)?;
        let fields: std::collections::HashMap<String, Value> = redis::from_redis_value(hello).unwrap_or_default();
        let role: String =
            fields.get("role").and_then(|role| redis::from_redis_value_ref(role).ok()).unwrap_or_default();
        match &*role {
            "master" => Ok(()),
            role => {
                let message = format!(
                    "Redis at {}: the Sentinels name {address}, which takes itself for a {role}: a failover is under way",
                    config.server
                );
                Err(Error::new(ErrorKind::Unavailable, message))
            }
        }
    }

    /// Completes once a server that was aimed at is not the right one any more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(super) async fn moved(&self, from: &Address) {
        match self {
            Self::Fixed(_) => std::future::pending().await,
            Self::Master(sentinels) => sentinels.master_moved(from).await,
            Self::Replica(sentinels) => sentinels.replica_gone(from).await,
        }
    }
}
