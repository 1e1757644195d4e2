//! What went wrong, told for what it is: whether the operation may have been carried out, and the way out.
//!
//! | what happened | kind |
//! | --- | --- |
//! | no connection; the server refused the command before it ran it | `Unavailable`: certainly not carried out |
//! | the connection broke, or was silent, after the command was given to it | `NoReply`: it may have been; `Unavailable` for one that only reads |
//! | a script failed on its way for a reason that is none of the known ones | `NoReply` |
//! | user, password or rights | `Denied` |
//! | something else lies under the lock's key | `Foreign` |

use redis::{RedisError, ServerError, Value};

use super::script;
use super::url::Config;
use crate::error::{Error, ErrorKind, Result};

/// The reply itself, or the error that the server sent in its place. `what` names what was asked for: the lock, say.
pub(super) fn check(server: &str, what: impl FnOnce() -> String, value: Value) -> Result<Value> {
    match value {
        Value::ServerError(error) => Err(refused(server, &what(), &error)),
        value => Ok(value),
    }
}

/// An error that the server sent.
pub(super) fn refused(server: &str, what: &str, error: &ServerError) -> Error {
    use ErrorKind::{Denied, Foreign, NoReply, Unavailable, Unsupported};
    let detail = error.details().unwrap_or_default();
    let (kind, way_out) = match error.code() {
        "READONLY" => (
            Unavailable,
            "is a replica, which takes no writes: if it was demoted, its successor will be found; else give its master",
        ),
        "LOADING" => (Unavailable, "is loading its data: try again once it has"),
        "OOM" => (Unavailable, "is out of memory and evicts nothing: raise maxmemory, or make room"),
        "BUSY" => (Unavailable, "is busy with somebody's script: wait for it, or end it by SCRIPT KILL"),
        "MASTERDOWN" => (Unavailable, "is a replica that lost its master: wait for it, or give the master's address"),
        "CLUSTERDOWN" => (Unavailable, "belongs to a cluster that is down: see CLUSTER INFO"),
        "TRYAGAIN" => (Unavailable, "is moving the key's slot: try again"),
        "MISCONF" => (Unavailable, "cannot write to its disk and so takes no writes: its log says why"),
        "NOREPLICAS" => {
            (Unavailable, "has fewer replicas than min-replicas-to-write asks for: wait for them, or lower it")
        }
        "NOSCRIPT" => {
            (Unavailable, "forgets scripts as fast as they are loaded: somebody calls SCRIPT FLUSH in a loop")
        }
        "MOVED" | "ASK" | "CROSSSLOT" => (Unsupported, "belongs to a cluster: give it as redis-cluster://"),
        "NOAUTH" => (Denied, "wants a password: give it as redis://:password@host"),
        "WRONGPASS" => (Denied, "does not know this user with this password"),
        "NOPERM" => (Denied, NO_RIGHTS),
        "DENIED" => (Denied, "is in protected mode: set a password, or bind it to this host's address"),
        "WRONGTYPE" | script::FOREIGN => (
            Foreign,
            "has something that is no lock record there; it was left alone: use another name or prefix, or remove it",
        ),
        _ if detail.starts_with("The user executing the script can't") => (Denied, NO_RIGHTS),
        _ if detail.contains("cluster support disabled") => (Unsupported, "is no cluster: give it as redis://"),
        _ if detail.starts_with("max number of clients") => (Unavailable, "takes no more clients: raise maxclients"),
        _ if detail.contains("SCRIPT KILL") => {
            (Unavailable, "had the script killed before it wrote anything: try again")
        }
        _ if detail.contains("script") => (NoReply, "failed while it ran the script, and may have run a part of it"),
        _ => (Unsupported, "refused the command"),
    };
    Error::new(kind, format!("{what}: Redis at {server} {way_out} ({} {detail})", error.code()))
}

const NO_RIGHTS: &str = "does not let this user do what is needed: see tenure::store::Redis for the rights";

/// The reply is not one that it could be.
pub(super) fn unreadable(server: &str, what: &str, error: &Error) -> Error {
    Error::new(error.kind(), format!("{what}: Redis at {server}: {error}"))
}

/// No connection could be made, or not set up.
pub(super) fn unreachable(config: &Config, error: RedisError) -> Error {
    use ErrorKind::{Unavailable, Unsupported};
    let server = &config.server;
    if error.is_timeout() {
        let limit = config.connect_timeout;
        return Error::new(Unavailable, format!("Redis at {server} did not let us in within {limit:?}"));
    }
    if error.is_io_error() {
        let text = error.to_string();
        let way_out =
            if text.contains("certificate") { "; name the authority to trust by ca=path in the URL" } else { "" };
        return Error::with_source(Unavailable, format!("Redis at {server} cannot be reached: {text}{way_out}"), error);
    }
    // Servers and proxies that do not know HELLO may repeat its arguments, and the password is among them.
    let text = error.to_string();
    let is_secret = config.is_secret(&text);
    if is_secret || text.contains("unknown command") || error.kind() == redis::ErrorKind::RESP3NotSupported {
        let words = if is_secret { "its words are left out: they have the password in them" } else { &text };
        let message =
            format!("Redis at {server} knows no HELLO: it is older than 7.0, or the command was renamed ({words})");
        return Error::new(Unsupported, message);
    }
    match ServerError::try_from(error) {
        Ok(error) => refused(server, "connecting", &error),
        Err(_) => Error::new(Unavailable, format!("Redis at {server} cannot be used: {text}")),
    }
}

/// A command was given to a connection that was given up before the reply.
pub(super) fn left(server: &str) -> Error {
    let message = format!(
        "the connection to Redis at {server} was given up before the reply; the command may have been carried out"
    );
    Error::new(ErrorKind::NoReply, message)
}

/// A command was given to a connection, and no reply came.
pub(super) fn no_reply(server: &str, error: RedisError) -> Error {
    let message = silence(server, &error) + "; the command may have been carried out";
    Error::with_source(ErrorKind::NoReply, message, error)
}

/// The same, where the command only reads: then there is nothing that may have been carried out.
pub(super) fn of_reading(server: &str, error: Error) -> Error {
    let cause = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<RedisError>());
    match cause.filter(|_| error.is_ambiguous()) {
        Some(cause) => Error::with_source(ErrorKind::Unavailable, silence(server, cause), cause.clone()),
        None => error,
    }
}

fn silence(server: &str, error: &RedisError) -> String {
    match error.is_timeout() {
        true => format!("Redis at {server} sent no reply in time"),
        false => format!("the connection to Redis at {server} was lost before the reply"),
    }
}
