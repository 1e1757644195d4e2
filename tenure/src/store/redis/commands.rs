//! A server's commands and scripts, for those who keep something else there than locks: a connection that comes back by
//! itself, and errors told for what they are.

use std::collections::BTreeMap;
use std::fmt;

use redis::{Cmd, Value};

use super::target::Target;
use super::transport::{Link, Transport};
use super::url::{Config, Place};
use super::{connect, errors};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Hub;

/// A Redis or Valkey server.
#[derive(Clone)]
pub(crate) struct Commands {
    link: Link,
    server: String,
    prefix: String,
    url: String,
}

/// A Lua script, and the name that servers know it by.
#[derive(Debug)]
pub(crate) struct Script {
    source: &'static str,
    sha: String,
}

impl Script {
    pub(crate) fn new(source: &'static str) -> Self {
        Self { source, sha: sha1_smol::Sha1::from(source).digest().to_string() }
    }
}

impl Commands {
    /// Connects to the one server that the URL names. `what` is what it is wanted for, as messages say it.
    pub(crate) async fn connect(url: &str, what: &str) -> Result<Self> {
        let config = Config::parse(url)?;
        if !matches!(config.place, Place::One(_)) {
            let message =
                format!("{what} is on one Redis server: give it as redis://host, without Sentinel or Cluster");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let (server, prefix, url) = (config.server.clone(), config.prefix.clone(), named(&config, url));
        let target = Target::Fixed(connect::one(&config)?.into());
        let link = Link::new(config, target, Env::system(), Hub::new(), "".into());
        link.open().await?;
        Ok(Self { link, server, prefix, url })
    }

    /// Its address, as messages name it.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// Its URL, without user and password.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What the names of all keys begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Sends one command that only reads.
    pub(crate) async fn ask(&self, what: &str, command: &Cmd) -> Result<Value> {
        let value = self.link.one(command).await.map_err(|error| errors::of_reading(&self.server, error))?;
        errors::check(&self.server, || what.to_owned(), value)
    }

    /// Runs a script on keys of one slot; it is loaded where the server does not have it yet.
    pub(crate) async fn run(&self, what: &str, script: &Script, keys: &[&[u8]], args: &[&[u8]]) -> Result<Value> {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&script.sha).arg(keys.len());
        keys.iter().chain(args).for_each(|arg| _ = call.arg(arg));
        let value = self.link.one(&call).await?;
        let value = match value {
            Value::ServerError(error) if error.code() == "NOSCRIPT" => {
                self.ask(what, redis::cmd("SCRIPT").arg("LOAD").arg(script.source)).await?;
                self.link.one(&call).await?
            }
            value => value,
        };
        errors::check(&self.server, || what.to_owned(), value)
    }

    /// Makes sure that the server keeps whatever it acknowledged. `kept` is what must not be forgotten, as messages say it.
    pub(crate) async fn require_durable(&self, kept: &str) -> Result<()> {
        const SETTINGS: [&str; 5] =
            ["appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory", "maxmemory-policy"];
        let what = "asking whether the server is durable";
        let answer = self.ask(what, redis::cmd("CONFIG").arg("GET").arg(&SETTINGS)).await?;
        let settings: BTreeMap<String, String> = redis::from_redis_value(answer).map_err(|_| self.unreadable(what))?;
        let is = |name: &str, value: &str| settings.get(name).is_some_and(|set| set == value);
        let evicts = !is("maxmemory", "0") && settings.get("maxmemory-policy").is_none_or(|p| p.starts_with("allkeys"));
        let missing: Vec<&str> = [
            (!is("appendonly", "yes"), "appendonly yes"),
            (!is("appendfsync", "always"), "appendfsync always"),
            (!is("no-appendfsync-on-rewrite", "no"), "no-appendfsync-on-rewrite no"),
            (evicts, "maxmemory-policy noeviction"),
        ]
        .into_iter()
        .filter_map(|(lacks, setting)| lacks.then_some(setting))
        .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let message = format!(
            "Redis at {} may forget what it acknowledged, and {kept} must not be forgotten: set {} there, or use Postgres \
             or SQLite",
            self.server,
            missing.join(", ")
        );
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// Something came back that it could not be.
    pub(crate) fn unreadable(&self, what: &str) -> Error {
        let message = format!("{what}: Redis at {} answered with something that it could not be", self.server);
        Error::new(ErrorKind::Corrupt, message)
    }
}

/// The URL of a server, with what leads to the same keys, and without user and password.
fn named(config: &Config, url: &str) -> String {
    let scheme = url.split(':').next().unwrap_or("redis");
    let (Config { server, prefix, .. }, db) = (config, config.login.db());
    let (place, mut options) = match scheme {
        "redis+unix" if db != 0 => (server.clone(), vec![format!("db={db}")]),
        _ if db != 0 => (format!("{server}/{db}"), Vec::new()),
        _ => (server.clone(), Vec::new()),
    };
    if prefix != "tenure" {
        options.push(format!("prefix={prefix}"));
    }
    let mark = if options.is_empty() { "" } else { "?" };
    format!("{scheme}://{place}{mark}{}", options.join("&"))
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands").field("server", &self.server).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
