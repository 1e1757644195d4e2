//! What comes after a URL's `?`: which options there are, and what each may say.

use std::collections::BTreeMap;
use std::time::Duration;

use url::Url;

use super::{Form, decoded, invalid};
use crate::error::Result;

/// The options that a URL gives, each known and given once.
pub(super) struct Options(BTreeMap<String, String>);

/// More replicas than anybody waits for.
const REPLICAS_MOST: u32 = 32;

impl Options {
    pub(super) fn of(url: &Url, form: Form, tls: bool) -> Result<Self> {
        let mut known = vec!["prefix", "connect_timeout", "response_timeout", "replicas"];
        known.extend(match form {
            Form::One => &[][..],
            Form::Unix => &["db", "user", "password"],
            Form::Sentinel => &["read", "sentinel_user", "sentinel_password"],
            Form::Cluster => &["read"],
        });
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

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    pub(super) fn duration(&mut self, name: &str, default: Duration) -> Result<Duration> {
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

    pub(super) fn prefix(&mut self) -> Result<String> {
        let prefix = self.take("prefix").unwrap_or_else(|| "tenure".into());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
        match (1..=64).contains(&prefix.len()) && prefix.bytes().all(plain) {
            true => Ok(prefix),
            false => {
                Err(invalid(format!("the prefix {prefix:?} will not do: give it 1 to 64 of A-Z a-z 0-9 - _ . : /")))
            }
        }
    }

    pub(super) fn replicas(&mut self) -> Result<u32> {
        let Some(text) = self.take("replicas") else { return Ok(0) };
        let number = text.parse().ok().filter(|number| *number <= REPLICAS_MOST);
        number.ok_or_else(|| invalid(format!("replicas is {text:?}: give it a number from 0 to {REPLICAS_MOST}")))
    }

    pub(super) fn read_replica(&mut self) -> Result<bool> {
        match self.take("read").as_deref() {
            None | Some("master") => Ok(false),
            Some("replica") => Ok(true),
            Some(text) => Err(invalid(format!("read is {text:?}: give it master or replica"))),
        }
    }
}
