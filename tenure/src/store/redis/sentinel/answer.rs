//! What a Sentinel says, and when several say the same.

use std::collections::HashMap;
use std::fmt;

use redis::{FromRedisValue, Value};

use super::super::url::Address;
use crate::error::{Error, ErrorKind};

/// What one Sentinel says about the master.
pub(super) enum Answer {
    /// There it is, since the failover of that number.
    Master { address: Address, epoch: u64 },
    /// It knows none of that name.
    Unknown,
    /// It says nothing that could be believed, or nothing at all.
    Failed(Error),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master { address, epoch } => write!(f, "{address} since failover {epoch}"),
            Self::Unknown => f.write_str("knows no such master"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// The address that a majority of `all` gives with one and the same epoch, if there is one.
pub(super) fn agreed<'a>(all: usize, answers: impl Iterator<Item = &'a Answer>) -> Option<&'a Address> {
    let mut votes: HashMap<(&Address, u64), usize> = HashMap::new();
    for answer in answers {
        let Answer::Master { address, epoch } = answer else { continue };
        let count = votes.entry((address, *epoch)).or_default();
        *count += 1;
        if *count > all / 2 {
            return Some(address);
        }
    }
    None
}

/// The answers to `SENTINEL GET-MASTER-ADDR-BY-NAME` and `SENTINEL MASTER`, which have to name one and the same address: the
/// Sentinel that leads a failover is for a while ahead of itself with the first, and with the epoch.
pub(super) fn named_master(values: Vec<Value>) -> Answer {
    let failed = |message: String| Answer::Failed(Error::new(ErrorKind::Unavailable, message));
    let Ok([first, second]) = <[Value; 2]>::try_from(values) else { return failed("no answer to a question".into()) };
    let master = match (&first, &second) {
        (Value::Nil, _) => return Answer::Unknown,
        (Value::ServerError(error), _) | (_, Value::ServerError(error)) => {
            return failed(format!("{} {}", error.code(), error.details().unwrap_or_default()));
        }
        _ => Fields::of(second),
    };
    let address: Option<Address> =
        redis::from_redis_value(first).ok().map(|(host, port): (String, u16)| Address { host, port });
    let epoch = master.get("config-epoch").and_then(|epoch| epoch.parse().ok());
    match (address, master.address(), epoch) {
        (Some(address), Some(same), Some(epoch)) if address == same => Answer::Master { address, epoch },
        (Some(address), Some(other), Some(_)) => failed(format!("is leading a failover from {other} to {address}")),
        _ => failed("its answer is none that a Sentinel gives".into()),
    }
}

/// The answer to `SENTINEL REPLICAS`: those that are up and follow their master.
pub(super) fn fit_replicas(value: Value) -> Vec<Address> {
    let Value::Array(replicas) = value else { return Vec::new() };
    let fields = replicas.into_iter().map(Fields::of);
    let fit = fields.filter(|replica| {
        let down = |flags: &str| flags.split(',').any(|flag| flag.ends_with("_down") || flag == "disconnected");
        replica.get("flags").is_some_and(|flags| !down(flags)) && replica.get("master-link-status") == Some("ok")
    });
    fit.filter_map(|replica| replica.address()).collect()
}

/// What `+switch-master` says: where the master of that name is now. The text is its name, the old address, the new one.
pub(super) fn switched(master: &str, text: &[u8]) -> Option<Address> {
    let text = std::str::from_utf8(text).ok()?;
    let words: Vec<&str> = text.strip_prefix(master)?.strip_prefix(' ')?.split(' ').collect();
    let [_, _, host, port] = words[..] else { return None };
    Some(Address { host: host.into(), port: port.parse().ok()? })
}

/// What a Sentinel tells of one server.
struct Fields(HashMap<String, String>);

impl Fields {
    fn of(value: Value) -> Self {
        Self(HashMap::from_redis_value(value).unwrap_or_default())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn address(&self) -> Option<Address> {
        Some(Address { host: self.get("ip")?.to_owned(), port: self.get("port")?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16, epoch: u64) -> Answer {
        Answer::Master { address: Address { host: "a".into(), port }, epoch }
    }

    fn majority(all: usize, answers: &[Answer]) -> Option<u16> {
        agreed(all, answers.iter()).map(|address| address.port)
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn told(first: (&str, &str), second: (&str, &str), epoch: &str) -> Answer {
        let master = [("ip", second.0), ("port", second.1), ("config-epoch", epoch)].map(|(k, v)| (text(k), text(v)));
        named_master(vec![Value::Array(vec![text(first.0), text(first.1)]), Value::Map(master.into())])
    }

    #[test]
    fn a_majority_of_all_has_to_agree_on_address_and_epoch() {
        assert_eq!(majority(3, &[at(1, 1), at(1, 1)]), Some(1), "the third need not be waited for");
        assert_eq!(majority(3, &[at(1, 1)]), None, "one of three");
        assert_eq!(majority(3, &[at(1, 1), Answer::Unknown, at(2, 1)]), None);
        assert_eq!(majority(3, &[at(1, 1), at(1, 2)]), None, "one of them is not there yet");
        assert_eq!(majority(4, &[at(1, 1), at(1, 1)]), None, "half of them is no majority");
        assert_eq!(majority(3, &[at(1, 1), at(2, 2), at(2, 2)]), Some(2));
        assert_eq!(majority(1, &[at(1, 0)]), Some(1));
    }

    #[test]
    fn a_sentinel_that_does_not_agree_with_itself_is_not_believed() {
        let answer = told(("a", "1"), ("a", "1"), "7");
        assert!(matches!(&answer, Answer::Master { address, epoch: 7 } if address.port == 1), "{answer}");
        let answer = told(("a", "2"), ("a", "1"), "8");
        assert!(matches!(&answer, Answer::Failed(_)), "the new epoch with the old address: {answer}");
        assert!(answer.to_string().contains("from a:1 to a:2"), "{answer}");
        assert!(matches!(told(("a", "1"), ("a", "1"), "x"), Answer::Failed(_)));
        assert!(matches!(named_master(vec![Value::Nil, text("x")]), Answer::Unknown));
        assert!(matches!(named_master(vec![]), Answer::Failed(_)));
    }

    #[test]
    fn only_replicas_that_follow_are_fit() {
        let replica = |port: &str, flags: &str, link: &str| {
            let fields = [("ip", "a"), ("port", port), ("flags", flags), ("master-link-status", link)];
            Value::Map(fields.map(|(k, v)| (text(k), text(v))).into())
        };
        let all = [
            replica("1", "slave", "ok"),
            replica("2", "s_down,slave,disconnected", "ok"),
            replica("3", "slave", "err"),
            replica("4", "slave,disconnected", "ok"),
        ];
        let fit: Vec<u16> = fit_replicas(Value::Array(all.into())).iter().map(|address| address.port).collect();
        assert_eq!(fit, [1]);
    }

    #[test]
    fn a_switch_is_heard_by_whom_it_concerns() {
        let port = |text: &str| switched("my master", text.as_bytes()).map(|address| address.port);
        assert_eq!(port("my master 127.0.0.1 1 127.0.0.1 2"), Some(2));
        assert_eq!(port("my master2 127.0.0.1 1 127.0.0.1 2"), None);
        assert_eq!(port("another 127.0.0.1 1 127.0.0.1 2"), None);
        assert_eq!(port("my master 127.0.0.1 1"), None);
    }
}
