//! What a Redis URL says.
//!
//! ```text
//!   redis://[user[:password]@]host[:port][/database][?option=value&…]
//!   rediss://…                                                         the same over TLS
//!   redis+unix:///path/of/socket[?db=1&user=…&password=…&option=value&…]
//! ```
//!
//! | option | meaning | without it |
//! | --- | --- | --- |
//! | `prefix` | what the names of all keys begin with: 1 to 64 of `A-Z a-z 0-9 - _ . : /` | `tenure` |
//! | `connect_timeout` | how long one attempt to connect may take, as `500ms` or `2s` | `2s` |
//! | `response_timeout` | how long a reply may take; a connection that says nothing for as long is replaced | `1500ms` |
//! | `ca` | a PEM file with the certificates to trust instead of the public ones; `rediss` only | |
//!
//! A URL has a password in it, so nothing here ever repeats one: messages name the part that is wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use redis::io::tcp::TcpSettings;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};
use url::Url;

use crate::error::{Error, ErrorKind, Result};

/// What a URL says, checked.
#[derive(Clone)]
pub(super) struct Config {
    /// The server, as messages name it.
    pub(super) server: String,
    /// The same for the client crate, with user, password and database.
    pub(super) target: ConnectionInfo,
    pub(super) prefix: String,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) ca: Option<PathBuf>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("server", &self.server).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Config {
    /// Whether `text` has the password in it, and so must not be shown.
    pub(super) fn is_secret(&self, text: &str) -> bool {
        self.target.redis_settings().password().is_some_and(|password| !password.is_empty() && text.contains(password))
    }

    /// # Errors
    ///
    /// [`ErrorKind::Invalid`], which names the part that is wrong and what would do.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let url =
            Url::parse(text).map_err(|error| invalid(format!("the Redis URL cannot be read ({error}): {FORM}")))?;
        if url.fragment().is_some() || url.path().contains('@') || url.query().is_some_and(|query| query.contains('@'))
        {
            return Err(invalid(format!("the Redis URL has a '#', or an '@' after the host: {FORM}")));
        }
        let (unix, tls) = match url.scheme() {
            "redis" => (false, false),
            "rediss" => (false, true),
            "redis+unix" => (true, false),
            _ => return Err(invalid(format!("the URL's scheme is not one of redis, rediss, redis+unix: {FORM}"))),
        };
        let mut options = Options::of(&url, unix, tls)?;

        let (addr, server, database, user, password) = if unix {
            let path = decoded(url.path(), "the socket's path")?;
            if url.has_host() || path.len() < 2 {
                return Err(invalid(
                    "a redis+unix URL has three slashes and the socket's path: redis+unix:///run/redis.sock",
                ));
            }
            let login = (options.take("user"), options.take("password"));
            (ConnectionAddr::Unix(path.clone().into()), path, options.take("db"), login.0, login.1)
        } else {
            let host = url.host_str().filter(|host| !host.is_empty());
            let host = host.ok_or_else(|| invalid(format!("the Redis URL has no host: {FORM}")))?;
            let host = decoded(host.trim_start_matches('[').trim_end_matches(']'), "the host")?;
            let port = url.port().unwrap_or(6379);
            let server = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            let addr = match tls {
                true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
                false => ConnectionAddr::Tcp(host, port),
            };
            let database = Some(url.path().trim_matches('/')).filter(|path| !path.is_empty()).map(str::to_owned);
            let user = Some(url.username()).filter(|user| !user.is_empty());
            let user = user.map(|user| decoded(user, "the user")).transpose()?;
            let password = url.password().map(|password| decoded(password, "the password")).transpose()?;
            (addr, server, database, user, password)
        };
        let database = database.map_or(Ok(0), |text| text.parse::<u16>());
        let database = database.map_err(|_| invalid("the database is no number from 0 to 65535"))?;

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

        let response_timeout = options.duration("response_timeout", Duration::from_millis(1_500))?;
        let target = addr.into_connection_info().map_err(|error| invalid(error.to_string()))?;
        let target = target.set_redis_settings(login).set_tcp_settings(tcp(response_timeout));
        Ok(Self {
            server,
            target,
            prefix: prefix(options.take("prefix"))?,
            connect_timeout: options.duration("connect_timeout", Duration::from_secs(2))?,
            response_timeout,
            ca: options.take("ca").map(PathBuf::from),
        })
    }
}

const FORM: &str = "it has the form redis://:password@host:port/database, with a user before the colon if there is one, and \
                    characters such as @ : / ? # % in a user or password are percent-encoded";

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

fn decoded(text: &str, what: &str) -> Result<String> {
    let text = percent_decode_str(text).decode_utf8();
    Ok(text.map_err(|_| invalid(format!("{what} in the Redis URL is not UTF-8 once it is decoded")))?.into_owned())
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

fn prefix(given: Option<String>) -> Result<String> {
    let prefix = given.unwrap_or_else(|| "tenure".into());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    match (1..=64).contains(&prefix.len()) && prefix.bytes().all(plain) {
        true => Ok(prefix),
        false => Err(invalid(format!("the prefix {prefix:?} will not do: give it 1 to 64 of A-Z a-z 0-9 - _ . : /"))),
    }
}

struct Options(BTreeMap<String, String>);

impl Options {
    fn of(url: &Url, unix: bool, tls: bool) -> Result<Self> {
        let mut known = vec!["prefix", "connect_timeout", "response_timeout"];
        known.extend(if unix { &["db", "user", "password"][..] } else { &[] });
        known.extend(tls.then_some("ca"));
        let mut options = BTreeMap::new();
        for pair in url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name, "an option")?, decoded(value, "an option")?);
            if !known.contains(&name.as_str()) {
                let scheme = url.scheme();
                return Err(invalid(format!("{scheme} URLs have no option {name:?}: they have {}", known.join(", "))));
            }
            if options.insert(name.clone(), value).is_some() {
                return Err(invalid(format!("the option {name:?} is given twice")));
            }
        }
        Ok(Self(options))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    fn duration(&mut self, name: &str, default: Duration) -> Result<Duration> {
        let Some(text) = self.take(name) else { return Ok(default) };
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let unit = match unit {
            "ms" => Some(1),
            "s" => Some(1_000),
            _ => None,
        };
        let millis = unit.zip(number.parse::<u64>().ok()).and_then(|(unit, number)| number.checked_mul(unit));
        let millis = millis.filter(|millis| (1..=3_600_000).contains(millis));
        let message = || invalid(format!("{name} is {text:?}: give it 1ms to 3600s, as in 500ms or 2s"));
        millis.map(Duration::from_millis).ok_or_else(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(url: &str) -> String {
        let error = Config::parse(url).expect_err(url);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        format!("{error} {error:?}")
    }

    #[test]
    fn every_part_of_a_url_arrives() {
        let config =
            Config::parse("redis://al%40ice:p%2Fw%25@example.org:7000/3?prefix=my:app&response_timeout=250ms").unwrap();
        let login = config.target.redis_settings();
        assert_eq!((login.username(), login.password(), login.db()), (Some("al@ice"), Some("p/w%"), 3));
        assert_eq!(*config.target.addr(), ConnectionAddr::Tcp("example.org".into(), 7000));
        assert_eq!((&*config.prefix, &*config.server), ("my:app", "example.org:7000"));
        assert_eq!(config.response_timeout, Duration::from_millis(250));

        let config = Config::parse("redis://[::1]").unwrap();
        assert_eq!(*config.target.addr(), ConnectionAddr::Tcp("::1".into(), 6379));
        assert_eq!(config.server, "[::1]:6379");
        assert_eq!((config.target.redis_settings().password(), &*config.prefix), (None, "tenure"));

        let config = Config::parse("redis+unix:///run/my%20redis?db=2&user=bob&password=a%26+b").unwrap();
        let login = config.target.redis_settings();
        assert_eq!((login.username(), login.password(), login.db()), (Some("bob"), Some("a&+b"), 2));
        assert_eq!(*config.target.addr(), ConnectionAddr::Unix("/run/my redis".into()));

        let config = Config::parse("rediss://:pw@example.org?ca=/etc/ca.pem").unwrap();
        assert!(matches!(config.target.addr(), ConnectionAddr::TcpTls { insecure: false, .. }));
        assert_eq!(config.ca, Some("/etc/ca.pem".into()));
    }

    #[test]
    fn a_user_without_a_password_is_still_named_to_the_server() {
        let config = Config::parse("redis://alice@localhost").unwrap();
        assert_eq!(config.target.redis_settings().password(), Some(""));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let error = message("redis://localhost?retries=3");
        assert!(
            error.contains("\"retries\"") && error.contains("prefix, connect_timeout, response_timeout"),
            "{error}"
        );
        assert!(message("redis://localhost?ca=/x").contains("\"ca\""), "without TLS it would be ignored");
        assert!(message("redis://localhost?db=1").contains("\"db\""));
        assert!(message("redis://localhost?prefix=a&prefix=b").contains("twice"));
        assert!(message("redis://localhost?prefix=a*b").contains("a*b"));
        assert!(message("redis://localhost?prefix=").contains("1 to 64"));
        assert!(message("redis://localhost?response_timeout=soon").contains("\"soon\""));
        assert!(message("redis://localhost?connect_timeout=0s").contains("1ms to 3600s"));
        assert!(message("redis://localhost/one").contains("database"));
        assert!(message("redis://localhost/65536").contains("database"));
        assert!(message("http://localhost").contains("redis, rediss, redis+unix"));
        assert!(message("redis:///0").contains("host"));
        assert!(message("redis+unix://host/path").contains("three slashes"));
    }

    #[test]
    fn a_password_is_never_repeated() {
        let hidden =
            ["redis://u:hunter2@h:x", "redis://u:1/hunter2@h", "redis://:#hunter2@h", "redis://u:1?hunter2=3@h"];
        for url in hidden {
            assert!(!message(url).contains("hunter2"), "{url}");
        }
        for url in ["redis://u:hunter2@h/one", "redis://u:hunter2@h?a=b", "redis+unix:///p?password=hunter2&a=b"] {
            assert!(!message(url).contains("hunter2"), "{url}");
        }
        let config = Config::parse("redis://u:hunter2@h").unwrap();
        assert!(!format!("{config:?} {:?}", config.target).contains("hunter2"));
        assert!(config.is_secret("unknown command 'HELLO', with args: '3' 'AUTH' 'u' 'hunter2'"));
    }
}
