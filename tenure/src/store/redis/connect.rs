//! What happens once, when a store is made: TLS, and whether the server will do.

use std::path::Path;

use redis::{Client, Cmd, ConnectionInfo, Pipeline, TlsCertificates, Value};

use super::commit::{COMMIT, RESOLVE};
use super::errors;
use super::keys::Keys;
use super::script::{Dialect, READ};
use super::transport::Transport;
use super::url::{Config, Place};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;

/// The one server that the URL names.
///
/// # Errors
///
/// Where it names more.
pub(super) fn one(config: &Config) -> Result<Client> {
    match &config.place {
        Place::One(addr) => client(config, config.target(addr.clone(), &config.login)?),
        Place::Cluster { .. } => {
            let message =
                "a cluster is a store of its own: connect to it by tenure::store::RedisCluster, or tenure::open";
            Err(Error::new(ErrorKind::Unsupported, message))
        }
        Place::Sentinel { master, .. } => {
            let message = format!("where {master:?} is has to be asked for: no one server is named");
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }
}

/// The client crate's view of a server; nothing is connected yet.
pub(super) fn client(config: &Config, target: ConnectionInfo) -> Result<Client> {
    let invalid =
        |error: redis::RedisError| Error::new(ErrorKind::Invalid, format!("Redis at {}: {error}", config.server));
    if !matches!(target.addr(), redis::ConnectionAddr::TcpTls { .. }) {
        return Client::open(target).map_err(invalid);
    }
    // Where the program has chosen a provider of cryptography, or does so at the same moment, its choice stands.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root_cert = config.ca.as_deref().map(authority).transpose()?;
    Client::build_with_tls(target, TlsCertificates { client_tls: None, root_cert }).map_err(invalid)
}

fn authority(path: &Path) -> Result<Vec<u8>> {
    let error = |why: String| Error::new(ErrorKind::Invalid, format!("ca={}: {why}", path.display()));
    let pem = std::fs::read(path).map_err(|e| error(e.to_string()))?;
    // A file without any would be taken for a file that trusts nobody.
    match pem.windows(27).any(|window| window == b"-----BEGIN CERTIFICATE-----") {
        true => Ok(pem),
        false => Err(error("has no certificate in it: it should be a PEM file".into())),
    }
}

/// What loads the scripts.
pub(super) fn scripts(dialect: Dialect) -> Vec<Cmd> {
    let [apply, keep] = dialect.scripts();
    [apply, keep, &READ, &COMMIT, &RESOLVE]
        .map(|script| redis::cmd("SCRIPT").arg("LOAD").arg(script.source).take())
        .into()
}

/// Asks whether this user may call what is listed in ARGV, each a command with its arguments, parted by spaces: a script
/// that is refused a command of its own halfway would leave half of its work.
const RIGHTS: &str = "for _, line in ipairs(ARGV) do
  local words = {}
  for word in string.gmatch(line, '%S+') do words[#words + 1] = word end
  if not redis.acl_check_cmd(unpack(words)) then return redis.error_reply('NOPERM ' .. line) end
end";

/// Whether the server is one that will do, and lets this user do what is needed, and `also` what these options want.
pub(super) async fn probe(
    dialect: Dialect,
    transport: &impl Transport,
    server: &str,
    keys: &Keys,
    inbox: &str,
    also: &[&str],
) -> Result<()> {
    let mut commands = Pipeline::new();
    commands.cmd("HELLO");
    scripts(dialect).into_iter().for_each(|script| _ = commands.add_command(script));
    commands.cmd("SCRIPT").arg("LOAD").arg(RIGHTS);
    let sha = sha1_smol::Sha1::from(RIGHTS).digest().to_string();
    let key = keys.encode(&Key::new("rights")?);
    commands.cmd("EVALSHA").arg(sha);
    match dialect {
        Dialect::Server => commands.arg(1).arg(&key),
        // Its slot may be another node's.
        Dialect::Shard => commands.arg(0),
    };
    needed(dialect, &key, inbox).iter().for_each(|line| _ = commands.arg(line));
    also.iter().for_each(|line| _ = commands.arg(line));
    let mut values = transport.many(&commands).await?.into_iter();
    let hello = errors::check(server, || "connecting".into(), values.next().unwrap_or_default())?;
    version(server, hello)?;
    values.try_for_each(|value| errors::check(server, || "connecting".into(), value).map(drop))
}

fn needed(dialect: Dialect, key: &str, inbox: &str) -> Vec<String> {
    let of_keys = ["MGET", "TYPE", "HGETALL", "DEL"].map(|command| format!("{command} {key}"));
    let of_fields = ["HGET", "HMGET", "HDEL", "PEXPIREAT"].map(|command| format!("{command} {key} 0"));
    let with_values = [
        format!("SET {key} -"),
        format!("SETRANGE {key} 0 -"),
        format!("HSET {key} - -"),
        format!("EVALSHA_RO - 1 {key}"),
    ];
    let of_none = ["TIME", "PING", "SCAN 0"].map(str::to_owned);
    let of_pushes = match dialect {
        Dialect::Server => vec![format!("PUBLISH {inbox} -"), format!("SUBSCRIBE {inbox}")],
        Dialect::Shard => {
            let channels =
                [format!("SPUBLISH {inbox} -"), format!("SSUBSCRIBE {inbox}"), format!("SUNSUBSCRIBE {inbox}")];
            channels.into_iter().chain(["ASKING", "CLUSTER SLOTS", "CLUSTER INFO"].map(str::to_owned)).collect()
        }
    };
    of_keys.into_iter().chain(of_fields).chain(with_values).chain(of_none).chain(of_pushes).collect()
}

fn version(server: &str, hello: Value) -> Result<()> {
    let hello: std::collections::HashMap<String, Value> = redis::from_redis_value(hello).unwrap_or_default();
    let version: String =
        hello.get("version").and_then(|text| redis::from_redis_value_ref(text).ok()).unwrap_or_default();
    match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        Some(7..) => Ok(()),
        _ => {
            let message = format!("Redis at {server} is of version {version:?}: 7.0 is the oldest that will do");
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_scripts_is_asked_for() {
        for dialect in [Dialect::Server, Dialect::Shard] {
            let needed = needed(dialect, "key", "inbox");
            for script in dialect.scripts().into_iter().chain([&*READ, &*COMMIT, &*RESOLVE]) {
                let calls = script.source.split("call('").skip(1).filter_map(|rest| rest.split('\'').next());
                for command in calls {
                    assert!(needed.iter().any(|line| line.split(' ').next() == Some(command)), "{command}");
                }
            }
        }
    }
}
