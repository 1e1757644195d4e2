//! What the URL of a quorum or a ring says.
//!
//! ```text
//!   redlock://[user[:password]@]host[:port],host[:port],…[/database][?option=value&…]     and redlocks:// over TLS
//!   redlock:?node=URL&node=URL&option=value                                               nodes of any kind
//!   ring://…  rings://…  ring:?node=URL&…                                                 the same for a ring
//! ```
//!
//! A node's name is its host and port, or its URL without user, password and options. Whoever becomes a member later is
//! reached in the same way under its name: with the user, password and options of the others.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use percent_encoding::percent_decode_str;

use super::lazy::Lazy;
use super::members::Opener;
use super::{Quorum, Ring, RingBuilder, unavailable};
use crate::error::Result;
use crate::options::invalid;
use crate::store::Store;

const FORM: &str = "it has the form redlock://user:password@host:port,host:port,host:port/database?option=value, or \
                    redlock:?node=URL&node=URL with percent-encoded URLs";

/// How the nodes of a URL are reached.
struct Source {
    /// Each node's name.
    names: Vec<String>,
    /// The URL of the node with that name.
    url_of: Arc<dyn Fn(&str) -> String + Send + Sync>,
    options: Vec<(String, String)>,
}

impl Quorum {
    /// The quorum at `url`; most of its nodes must answer now, and the others may come later.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for a URL that cannot be meant, else as the nodes' own stores.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind when the future is dropped.
    pub async fn connect(url: &str) -> Result<Self> {
        let source = Source::parse(url)?;
        let mut builder = Self::builder().opener_of(source.opener());
        for (name, value) in &source.options {
            builder = match name.as_str() {
                "votes" => {
                    let votes = value.parse().map_err(|_| invalid(format!("votes is {value:?}: give a number")))?;
                    builder.votes(votes)
                }
                "node_timeout" => builder.node_timeout(duration(name, value)?),
                "longest_ttl" => builder.longest_ttl(duration(name, value)?),
                "token_memory" => builder.token_memory(duration(name, value)?),
                "view_lease" => builder.view_lease(duration(name, value)?),
                other => return Err(unknown(other, "votes, node_timeout, longest_ttl, token_memory, view_lease")),
            };
        }
        let nodes = source.reach(source.names.len() / 2 + 1).await?;
        nodes.into_iter().fold(builder, |builder, (name, node)| builder.node(name, node)).build()
    }
}

impl Ring {
    /// The ring at `url`; at least one of its stores must answer now, and the others may come later.
    ///
    /// # Errors
    ///
    /// As [`Quorum::connect`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind when the future is dropped.
    pub async fn connect(url: &str) -> Result<Self> {
        let source = Source::parse(url)?;
        let mut builder = RingBuilder::of(source.opener());
        let mut weights = vec![1; source.names.len()];
        for (name, value) in &source.options {
            builder = match name.as_str() {
                "weights" => {
                    let given: Option<Vec<u32>> = value.split(',').map(|weight| weight.parse().ok()).collect();
                    weights = given.filter(|given| given.len() == weights.len()).ok_or_else(|| {
                        invalid(format!(
                            "weights is {value:?}: give one number for each of the {} nodes",
                            weights.len()
                        ))
                    })?;
                    builder
                }
                "node_timeout" => builder.node_timeout(duration(name, value)?),
                "longest_ttl" => builder.longest_ttl(duration(name, value)?),
                "token_memory" => builder.token_memory(duration(name, value)?),
                "view_lease" => builder.view_lease(duration(name, value)?),
                other => return Err(unknown(other, "weights, node_timeout, longest_ttl, token_memory, view_lease")),
            };
        }
        let nodes = source.reach(1).await?.into_iter().zip(weights);
        nodes.fold(builder, |builder, ((name, node), weight)| builder.node(name, weight, node)).build()
    }
}

impl Source {
    fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once(':').ok_or_else(|| invalid(format!("that is no URL: {FORM}")))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options = Vec::new();
        let mut nodes = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded =
                percent_decode_str(value).decode_utf8().map_err(|_| invalid(format!("{name} is not UTF-8")))?;
            match name {
                "node" => nodes.push(decoded.into_owned()),
                _ => options.push((name.to_owned(), decoded.into_owned(), pair.to_owned())),
            }
        }
        match place.strip_prefix("//") {
            Some(place) if nodes.is_empty() => Self::of_hosts(scheme, place, options),
            None if place.is_empty() && !nodes.is_empty() => Self::of_urls(nodes, options),
            _ => Err(invalid(format!("the URL of the quorum cannot be read: {FORM}"))),
        }
    }

    fn of_hosts(scheme: &str, place: &str, options: Vec<(String, String, String)>) -> Result<Self> {
        let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
        let (login, hosts) = hosts.rsplit_once('@').map_or(("", hosts), |(login, hosts)| (login, hosts));
        let names: Vec<String> = hosts.split(',').filter(|host| !host.is_empty()).map(with_port).collect();
        if names.is_empty() {
            return Err(invalid(format!("the URL of the quorum names no host: {FORM}")));
        }
        let own = ["votes", "weights", "node_timeout", "longest_ttl", "token_memory", "view_lease"];
        let (options, of_nodes): (Vec<_>, Vec<_>) =
            options.into_iter().partition(|(name, ..)| own.contains(&name.as_str()));
        let of_nodes: Vec<String> = of_nodes.into_iter().map(|(.., pair)| pair).collect();
        let tls = if scheme.ends_with('s') { "rediss" } else { "redis" };
        let at = if login.is_empty() { "" } else { "@" };
        let (before, after) = (format!("{tls}://{login}{at}"), format!("/{database}?{}", of_nodes.join("&")));
        let url_of = Arc::new(move |name: &str| format!("{before}{name}{after}"));
        Ok(Self { names, url_of, options: options.into_iter().map(|(name, value, _)| (name, value)).collect() })
    }

    fn of_urls(urls: Vec<String>, options: Vec<(String, String, String)>) -> Result<Self> {
        let names: Vec<String> = urls.iter().map(|url| without_secrets(url)).collect();
        let known: Vec<(String, String)> = names.iter().cloned().zip(urls).collect();
        let url_of = Arc::new(move |name: &str| {
            let known = known.iter().find(|(other, _)| other == name).map(|(_, url)| url.clone());
            known.unwrap_or_else(|| name.to_owned())
        });
        Ok(Self { names, url_of, options: options.into_iter().map(|(name, value, _)| (name, value)).collect() })
    }

    fn opener(&self) -> Opener {
        let url_of = self.url_of.clone();
        Arc::new(move |name| {
            let url = url_of(name);
            Box::pin(async move { crate::open_store(&url).await })
        })
    }

    /// The nodes, of which at least so many answer.
    async fn reach(&self, least: usize) -> Result<Vec<(String, Arc<dyn Store>)>> {
        let nodes: Vec<(String, Arc<Lazy>)> =
            self.names.iter().map(|name| (name.clone(), Arc::new(Lazy::new(name, self.opener())))).collect();
        let reached = join_all(nodes.iter().map(|(_, node)| node.reach())).await;
        let errors: Vec<_> = reached.into_iter().filter_map(Result::err).collect();
        // What no time will mend.
        if let Some(error) = errors.iter().find(|error| !error.is_transient()) {
            return Err(error.clone());
        }
        if nodes.len() - errors.len() < least {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Err(unavailable(format!("too few nodes answer: {}", errors.join("; "))));
        }
        Ok(nodes.into_iter().map(|(name, node)| (name, node as Arc<dyn Store>)).collect())
    }
}

/// The names and URLs of a quorum's or a ring's nodes, and the longest ttl that it grants. The URLs have passwords in them.
pub(crate) fn quorum_nodes(url: &str) -> Result<(Vec<(String, String)>, Duration)> {
    let source = Source::parse(url)?;
    let longest = source.options.iter().find(|(name, _)| name == "longest_ttl");
    let longest = longest.map(|(name, value)| duration(name, value)).transpose()?;
    let nodes = source.names.iter().map(|name| (name.clone(), (source.url_of)(name))).collect();
    Ok((nodes, longest.unwrap_or(super::build::LONGEST_TTL)))
}

fn with_port(host: &str) -> String {
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    if has_port { host.to_owned() } else { format!("{host}:6379") }
}

/// A URL without its user, password and options.
fn without_secrets(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, rest)| rest)),
        None => url.to_owned(),
    }
}

fn duration(name: &str, value: &str) -> Result<Duration> {
    let (number, unit) = value.split_at(value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len()));
    let number = number.parse::<u32>().ok();
    let duration = number.and_then(|number| match unit {
        "ms" => Some(Duration::from_millis(number.into())),
        "s" => Some(Duration::from_secs(number.into())),
        "m" => Some(Duration::from_secs(60 * u64::from(number))),
        _ => None,
    });
    duration.ok_or_else(|| invalid(format!("{name} is {value:?}: give a time, as in 500ms, 2s or 1m")))
}

fn unknown(name: &str, known: &str) -> crate::error::Error {
    invalid(format!("a quorum has no option {name:?}: it has {known}, and with hosts those of redis://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_become_nodes_and_secrets_stay_out_of_their_names() {
        let source = Source::parse("redlock://al:s%40cret@a,b:7000,[::1]:7001/2?votes=3&prefix=shop").unwrap();
        assert_eq!(source.names, ["a:6379", "b:7000", "[::1]:7001"]);
        assert_eq!(source.options, [("votes".to_owned(), "3".to_owned())]);
        let url = "redis%3A%2F%2Fal%3As%2540cret%40a%3A1%2F0%3Fprefix%3Dx";
        let source = Source::parse(&format!("ring:?node={url}&node=memory%3A&weights=1,2")).unwrap();
        assert_eq!(source.names, ["redis://a:1/0", "memory:"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_repeating_it() {
        for url in ["redlock:", "redlock://", "redlock://?votes=2", "redlock://a?node=memory%3A", "redlock:s3cret@a,b"]
        {
            let error = Source::parse(url).map(drop).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
