//! The hosts of a URL that names several: `host[:port],host,[::1]:7000`.

use std::fmt;

use super::{FORM, decoded, invalid};
use crate::error::Result;

/// A server's host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in super::super) struct Address {
    pub(in super::super) host: String,
    pub(in super::super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The URL with one host in the place of all, and the hosts.
pub(super) fn lift(text: &str) -> Result<(String, &str)> {
    let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid(format!("the Redis URL has no '//': {FORM}")))?;
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (login, hosts) = authority.rfind('@').map_or(("", authority), |at| authority.split_at(at + 1));
    Ok((format!("{scheme}://{login}hosts{tail}"), hosts))
}

/// The hosts, each with its port or that one. What is wrong is named by its place in the list, for it may be the piece of a
/// password that was not percent-encoded.
pub(super) fn list(hosts: &str, port: u16) -> Result<Vec<Address>> {
    let mut addresses = Vec::new();
    for (n, text) in (1..).zip(hosts.split(',')) {
        let wrong = |why: &str| invalid(format!("host {n} of the Redis URL {why}: give host:port,host:port"));
        let (host, given) = match text.strip_prefix('[').map(|text| text.split_once(']')) {
            Some(Some((host, ""))) => (host, None),
            Some(Some((host, rest))) => {
                (host, Some(rest.strip_prefix(':').ok_or_else(|| wrong("has something after its ']'"))?))
            }
            Some(None) => return Err(wrong("has no ']'")),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let given = given.map(str::parse).transpose().map_err(|_| wrong("has a port that is no number up to 65535"))?;
        let host = decoded(host, "a host")?;
        if host.is_empty() {
            return Err(wrong("is empty"));
        }
        let address = Address { host, port: given.unwrap_or(port) };
        if addresses.contains(&address) {
            return Err(wrong("is there twice"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// As messages name them.
pub(super) fn joined(addresses: &[Address]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
