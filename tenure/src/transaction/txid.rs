//! The name of a transaction: enough to find what became of it, from anywhere.
//!
//! ```text
//!   account-42@655f2c1a3b4c5.0123456789abcdef0123456789abcdef
//!   └─ lock ─┘ └─ until ──┘ └────────── random ────────────┘
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::key::Key;
use crate::proto::Micros;

/// Names one transaction. Print it, log it, keep it with what it is about: [`Locks::resolve`](crate::Locks::resolve) says
/// what became of it.
///
/// It carries the name of the (first) lock, beside whose record the outcome lies, 128 random bits, and until when, on the
/// store's clock, the transaction may be committed. It is text without white space, and serialised as such. Who has it can
/// settle the transaction, and nothing else.
///
/// ```
/// use tenure::transaction::Txid;
///
/// let txid: Txid = "account-42@655f2c1a3b4c5.0123456789abcdef0123456789abcdef".parse()?;
/// assert_eq!(txid.lock().as_str(), "account-42");
/// # Ok::<(), tenure::transaction::InvalidTxid>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Txid {
    lock: Key,
    until: Micros,
    bits: u128,
}

impl Txid {
    /// The transaction of those bits, which must come from a source of randomness, under that lock. No commit of it is
    /// carried out once the store's clock is past `until`, in microseconds since the Unix epoch.
    pub fn new(lock: Key, until: Micros, bits: u128) -> Self {
        Self { lock, until, bits }
    }

    /// The lock beside whose record the outcome lies.
    pub fn lock(&self) -> &Key {
        &self.lock
    }

    /// Until when, on the store's clock, the transaction may be committed; microseconds since the Unix epoch.
    pub fn until(&self) -> Micros {
        self.until
    }

    /// What tells it from all others under the same lock.
    pub fn bits(&self) -> u128 {
        self.bits
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.lock.as_str().chars() {
            match c {
                '%' => f.write_str("%25")?,
                c if c.is_control() || c.is_whitespace() => {
                    c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(f, "%{byte:02X}"))?;
                }
                c => write!(f, "{c}")?,
            }
        }
        write!(f, "@{:x}.{:032x}", self.until, self.bits)
    }
}

impl fmt::Debug for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that names no transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidTxid(String);

impl fmt::Display for InvalidTxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} names no transaction: give it as it was printed, lock@time.id", self.0)
    }
}

impl std::error::Error for InvalidTxid {}

impl FromStr for Txid {
    type Err = InvalidTxid;

    fn from_str(text: &str) -> Result<Self, InvalidTxid> {
        let parse = || {
            let (lock, rest) = text.rsplit_once('@')?;
            let (until, bits) = rest.split_once('.')?;
            let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let lock = Key::new(plain(lock)?).ok()?;
            let until = Some(until).filter(|text| is_hex(text)).and_then(|text| u64::from_str_radix(text, 16).ok())?;
            let bits = Some(bits).filter(|text| text.len() == 32 && is_hex(text));
            Some(Self { lock, until, bits: u128::from_str_radix(bits?, 16).ok()? })
        };
        // One transaction has one name.
        parse().filter(|txid| txid.to_string() == text).ok_or_else(|| InvalidTxid(text.chars().take(400).collect()))
    }
}

/// The name as it was before it was printed.
fn plain(name: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(name.len()), name.as_bytes());
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

impl Serialize for Txid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Txid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_printed_is_read_again_and_has_no_white_space(name in "\\PC{1,40}|[@%.\n \u{85}a]{1,12}", until: u64, bits: u128) {
            let Ok(lock) = Key::new(name) else { return Ok(()) };
            let txid = Txid::new(lock, until, bits);
            let text = txid.to_string();
            prop_assert!(!text.contains(char::is_whitespace) && !text.contains(char::is_control), "{}", text);
            prop_assert_eq!(text.parse::<Txid>(), Ok(txid.clone()));
            let json = serde_json::to_string(&txid).unwrap();
            prop_assert_eq!(serde_json::from_str::<Txid>(&json).unwrap(), txid);
        }
    }

    #[test]
    fn what_was_never_printed_is_refused() {
        let id = "0123456789abcdef0123456789abcdef";
        let bad = [
            String::new(),
            format!("@1.{id}"),
            format!("a@1{id}"),
            format!("a@+1.{id}"),
            format!("a@01.{id}"),
            format!("a@1.{}", &id[1..]),
            format!("a@1.{}", id.to_uppercase()),
            format!("a%2@1.{id}"),
            format!("%61@1.{id}"),
            format!("a b@1.{id}"),
        ];
        for text in bad {
            let error = text.parse::<Txid>().expect_err(&text).to_string();
            assert!(error.contains("as it was printed"), "{error}");
        }
    }
}
