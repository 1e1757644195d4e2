//! What happens once, when a store is made: TLS, and whether the server will do.

use std::path::Path;

use redis::{Client, Cmd, Pipeline, TlsCertificates, Value};

use super::errors;
use super::script::{APPLY, READ};
use super::transport::Transport;
use super::url::Config;
use crate::error::{Error, ErrorKind, Result};

/// The client crate's view of the server; nothing is connected yet.
pub(super) fn client(config: &Config) -> Result<Client> {
    let invalid =
        |error: redis::RedisError| Error::new(ErrorKind::Invalid, format!("Redis at {}: {error}", config.server));
    if !matches!(config.target.addr(), redis::ConnectionAddr::TcpTls { .. }) {
        return Client::open(config.target.clone()).map_err(invalid);
    }
    // Where the program has chosen a provider of cryptography, or does so at the same moment, its choice stands.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root_cert = config.ca.as_deref().map(authority).transpose()?;
    Client::build_with_tls(config.target.clone(), TlsCertificates { client_tls: None, root_cert }).map_err(invalid)
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
pub(super) fn scripts() -> Vec<Cmd> {
    [&APPLY, &READ].map(|script| redis::cmd("SCRIPT").arg("LOAD").arg(script.source).take()).into()
}

/// Whether the server is one that will do, and lets this user do what is needed. A script that is refused a command of
/// its own halfway would leave half of its work, so the right to publish is tried out here.
pub(super) async fn probe(transport: &impl Transport, server: &str, inbox: &str) -> Result<()> {
    let mut commands = Pipeline::new();
    commands.cmd("HELLO").cmd("PUBLISH").arg(inbox).arg("");
    scripts().into_iter().for_each(|script| _ = commands.add_command(script));
    let mut values = transport.many(&commands).await?.into_iter();
    let hello = errors::check(server, "connecting", values.next().unwrap_or_default())?;
    version(server, hello)?;
    values.try_for_each(|value| errors::check(server, "connecting", value).map(drop))
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
