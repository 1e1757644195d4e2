//! What a Redis URL says.
//!
//! ```text
//!   redis://[user[:password]@]host[:port][/database][?option=value&…]
//!   redis+unix:///path/of/socket[?db=1&user=…&password=…&option=value&…]
//!   redis-sentinel://[user[:password]@]sentinel[:26379],sentinel,…/master[/database][?option=value&…]
//!   redis-cluster://[user[:password]@]node[:6379],node,…[?option=value&…]
//!   rediss://…  rediss-sentinel://…  rediss-cluster://…                        the same over TLS, every connection
//! ```
//!
//! | option | meaning | without it |
//! | --- | --- | --- |
//! | `prefix` | what the names of all keys begin with: 1 to 64 of `A-Z a-z 0-9 - _ . : /` | `tenure` |
//! | `connect_timeout` | how long one attempt to connect may take, as `500ms` or `2s` | `2s` |
//! | `response_timeout` | how long a reply may take; a connection that says nothing for as long is replaced | `1500ms` |
//! | `replicas` | how many replicas have to acknowledge a grant, 0 to 32 | `0` |
//! | `read` | `replica`: what is only looked at comes from a replica; Sentinel and Cluster only | `master` |
//! | `sentinel_user`, `sentinel_password` | the login at the Sentinels; user and password are those at the data | none |
//! | `ca` | a PEM file with the certificates to trust instead of the public ones; with TLS only | |
//!
//! A URL has a password in it, so nothing here ever repeats one: messages name the part that is wrong.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use redis::io::tcp::TcpSettings;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};
use url::Url;

use crate::error::{Error, ErrorKind, Result};

mod address;
mod options;

pub(super) use address::Address;
use options::Options;

/// What a URL says, checked.
#[derive(Clone)]
pub(super) struct Config {
    /// The server or the servers, as messages name them.
    pub(super) server: String,
    pub(super) place: Place,
    pub(super) tls: bool,
    /// User, password and database where the data is.
    pub(super) login: RedisConnectionInfo,
    pub(super) prefix: String,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    /// How many replicas have to acknowledge a grant.
    pub(super) replicas: u32,
    /// Whether what is only looked at comes from a replica.
    pub(super) read_replica: bool,
    pub(super) ca: Option<PathBuf>,
}

/// Where the data is to be found.
#[derive(Clone)]
pub(super) enum Place {
    /// There.
    One(ConnectionAddr),
    /// Where these Sentinels say that the master of that name is.
    Sentinel { sentinels: Vec<Address>, login: Box<RedisConnectionInfo>, master: String },
    /// At the nodes that these nodes tell of.
    Cluster { seeds: Vec<Address> },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    One,
    Unix,
    Sentinel,
    Cluster,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("server", &self.server).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Config {
    /// Whether `text` has a password in it, and so must not be shown.
    pub(super) fn is_secret(&self, text: &str) -> bool {
        let holds = |login: &RedisConnectionInfo| {
            login.password().is_some_and(|password| !password.is_empty() && text.contains(password))
        };
        holds(&self.login) || matches!(&self.place, Place::Sentinel { login, .. } if holds(login))
    }

    /// How a server of this deployment is reached, under the TLS that the URL asks for.
    pub(super) fn addr(&self, Address { host, port }: &Address) -> ConnectionAddr {
        match self.tls {
            true => ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(host.clone(), *port),
        }
    }

    /// The same with a login, as the client crate wants it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] where that crate finds that the address cannot be meant.
    pub(super) fn target(&self, addr: ConnectionAddr, login: &RedisConnectionInfo) -> Result<ConnectionInfo> {
        let target = addr.into_connection_info().map_err(|error| invalid(error.to_string()))?;
        Ok(target.set_redis_settings(login.clone()).set_tcp_settings(tcp(self.response_timeout)))
    }

    /// # Errors
    ///
    /// [`ErrorKind::Invalid`], which names the part that is wrong and what would do.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let scheme = text.split(':').next().unwrap_or_default();
        let (form, tls) = match scheme {
            "redis" => (Form::One, false),
            "rediss" => (Form::One, true),
            "redis+unix" => (Form::Unix, false),
            "redis-sentinel" => (Form::Sentinel, false),
            "rediss-sentinel" => (Form::Sentinel, true),
            "redis-cluster" => (Form::Cluster, false),
            "rediss-cluster" => (Form::Cluster, true),
            _ => return Err(invalid(format!("the URL's scheme is not one of {}: {FORM}", SCHEMES.join(", ")))),
        };
        // A list of hosts is none that `Url` knows: it is read apart.
        let (text, hosts) = match form {
            Form::Sentinel | Form::Cluster => address::lift(text)?,
            Form::One | Form::Unix => (text.to_owned(), ""),
        };
        let url =
            Url::parse(&text).map_err(|error| invalid(format!("the Redis URL cannot be read ({error}): {FORM}")))?;
        if url.fragment().is_some() || url.path().contains('@') || url.query().is_some_and(|query| query.contains('@'))
        {
            return Err(invalid(format!("the Redis URL has a '#', or an '@' after the host: {FORM}")));
        }
        let mut options = Options::of(&url, form, tls)?;
        let parts: Vec<&str> = url.path().trim_matches('/').split('/').filter(|part| !part.is_empty()).collect();
        let (place, server, database) = match form {
            Form::Unix => {
                let path = decoded(url.path(), "the socket's path")?;
                if url.has_host() || path.len() < 2 {
                    return Err(invalid(
                        "a redis+unix URL has three slashes and the socket's path: redis+unix:///run/redis.sock",
                    ));
                }
                (Place::One(ConnectionAddr::Unix(path.clone().into())), path, options.take("db"))
            }
            Form::One => {
                let host = url.host_str().filter(|host| !host.is_empty());
                let host = host.ok_or_else(|| invalid(format!("the Redis URL has no host: {FORM}")))?;
                let host = decoded(host.trim_start_matches('[').trim_end_matches(']'), "the host")?;
                let address = Address { host, port: url.port().unwrap_or(6379) };
                let server = address.to_string();
                let addr = match (tls, address) {
                    (true, Address { host, port }) => {
                        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
                    }
                    (false, Address { host, port }) => ConnectionAddr::Tcp(host, port),
                };
                let database = Some(url.path().trim_matches('/')).filter(|path| !path.is_empty());
                (Place::One(addr), server, database.map(str::to_owned))
            }
            Form::Sentinel => {
                let sentinels = address::list(hosts, 26_379)?;
                let (master, database) = match parts[..] {
                    [master] => (decoded(master, "the master's name")?, None),
                    [master, database] => (decoded(master, "the master's name")?, Some(database.to_owned())),
                    _ => return Err(invalid(format!("after the Sentinels comes the master's name: {SENTINEL_FORM}"))),
                };
                let server = format!("{master} (Sentinels {})", address::joined(&sentinels));
                let login = (options.take("sentinel_user"), options.take("sentinel_password"));
                let login = Box::new(info(login.0, login.1, 0));
                (Place::Sentinel { sentinels, login, master }, server, database)
            }
            Form::Cluster => {
                if !parts.is_empty() {
                    return Err(invalid("a redis-cluster URL has no path: a cluster has one database"));
                }
                let seeds = address::list(hosts, 6379)?;
                let server = format!("the cluster of {}", address::joined(&seeds));
                (Place::Cluster { seeds }, server, None)
            }
        };
        let database = database.map_or(Ok(0), |text| text.parse::<u16>());
        let database = database.map_err(|_| invalid("the database is no number from 0 to 65535"))?;
        let (user, password) = match form {
            Form::Unix => (options.take("user"), options.take("password")),
            Form::One | Form::Sentinel | Form::Cluster => {
                let user = Some(url.username()).filter(|user| !user.is_empty());
                let user = user.map(|user| decoded(user, "the user")).transpose()?;
                (user, url.password().map(|password| decoded(password, "the password")).transpose()?)
            }
        };
        Ok(Self {
            server,
            place,
            tls,
            login: info(user, password, database),
            prefix: options.prefix()?,
            connect_timeout: options.duration("connect_timeout", Duration::from_secs(2))?,
            response_timeout: options.duration("response_timeout", Duration::from_millis(1_500))?,
            replicas: options.replicas()?,
            read_replica: options.read_replica()?,
            ca: options.take("ca").map(PathBuf::from),
        })
    }
}

const SCHEMES: [&str; 7] =
    ["redis", "rediss", "redis+unix", "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster"];

const FORM: &str = "it has the form redis://:password@host:port/database, with a user before the colon if there is one, and \
                    characters such as @ : / ? # % in a user or password are percent-encoded";

const SENTINEL_FORM: &str = "redis-sentinel://user:password@host:26379,host,host/master";

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

fn decoded(text: &str, what: &str) -> Result<String> {
    let text = percent_decode_str(text).decode_utf8();
    Ok(text.map_err(|_| invalid(format!("{what} in the Redis URL is not UTF-8 once it is decoded")))?.into_owned())
}

/// How to introduce oneself to a server.
fn info(user: Option<String>, password: Option<String>, database: u16) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_db(database.into())
        .set_lib_name("tenure", env!("CARGO_PKG_VERSION"));
    // A user whose password does not matter must still be named to the server, which takes a password with it.
    if let Some(password) = password.or_else(|| user.as_ref().map(|_| String::new())) {
        login = login.set_password(password);
    }
    if let Some(user) = user {
        login = login.set_username(user);
    }
    login
}

/// A dead peer is noticed by the kernel after the same time in which a silent one is given up by us.
fn tcp(user_timeout: Duration) -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(user_timeout);
    #[cfg(not(target_os = "linux"))]
    let _ = user_timeout;
    settings
}

#[cfg(test)]
mod tests;
