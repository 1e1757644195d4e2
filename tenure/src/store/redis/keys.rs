//! Names of locks as keys of Redis: `prefix:{encoded name}`.
//!
//! The braces are a hash tag: whatever belongs to one lock lies in one slot of a cluster. So that no name can open a tag
//! of its own, braces are percent-encoded in it, and so are control characters, which no terminal should be shown, and
//! `%` itself. Two names never share a key.

use percent_encoding::percent_decode_str;

use crate::key::Key;
use crate::transaction::Txid;

/// The keys of one store.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// Where the record of a lock lies.
    pub(super) fn encode(&self, key: &Key) -> String {
        use std::fmt::Write;
        let mut place = String::with_capacity(self.prefix.len() + key.as_str().len() + 3);
        place.push_str(&self.prefix);
        place.push_str(":{");
        let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'{' | b'}' | b'%');
        if key.as_str().bytes().all(is_plain) {
            place.push_str(key.as_str());
            place.push('}');
            return place;
        }
        for c in key.as_str().chars() {
            if c.is_control() || matches!(c, '{' | '}' | '%') {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(place, "%{byte:02X}");
                }
            } else {
                place.push(c);
            }
        }
        place.push('}');
        place
    }

    /// The lock whose record lies at `place`; `None` where no lock's does.
    pub(super) fn decode(&self, place: &[u8]) -> Option<Key> {
        let name =
            std::str::from_utf8(place).ok()?.strip_prefix(&self.prefix)?.strip_prefix(":{")?.strip_suffix('}')?;
        let key = Key::new(percent_decode_str(name).decode_utf8().ok()?.into_owned()).ok()?;
        (self.encode(&key).as_bytes() == place).then_some(key)
    }

    /// What `SCAN` is to match. A prefix has no character that means something there.
    pub(super) fn pattern(&self) -> String {
        format!("{}:{{*}}", self.prefix)
    }

    /// Where the outcome of a transaction lies: in the slot of its lock's record.
    pub(super) fn outcome(&self, txid: &Txid) -> String {
        let place = self.encode(txid.lock());
        format!("{}:tx{}:{:032x}", self.prefix, &place[self.prefix.len()..], txid.bits())
    }

    /// Whether it is a key of locks or of transactions.
    pub(super) fn are_ours(&self, key: &[u8]) -> bool {
        let rest = key.strip_prefix(self.prefix.as_bytes());
        self.decode(key).is_some() || rest.is_some_and(|rest| rest.starts_with(b":tx:{"))
    }

    /// The channel on which one store is told of its grants.
    pub(super) fn inbox(&self, bits: u128) -> String {
        format!("{}:inbox:{bits:032x}", self.prefix)
    }

    /// The channel on which one store is told of the grants of one lock, in the slot of its record.
    pub(super) fn inbox_in_slot(&self, key: &Key, bits: u128) -> String {
        let place = self.encode(key);
        format!("{}:inbox{}:{bits:032x}", self.prefix, &place[self.prefix.len()..])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::redis::slots::slot_of;
    use proptest::prelude::*;

    #[test]
    fn names_are_readable_and_braces_cannot_open_a_tag() {
        let keys = Keys::new("tenure");
        let place = |name: &str| keys.encode(&Key::new(name).unwrap());
        assert_eq!(place("nightly report/é"), "tenure:{nightly report/é}");
        assert_eq!(place("}{"), "tenure:{%7D%7B}");
        assert_eq!(place("100%\n\u{85}"), "tenure:{100%25%0A%C2%85}");
        assert_eq!(keys.decode(b"tenure:{a%7d}"), None, "which is not how we write it");
        assert_eq!(keys.decode(b"tenure:{}"), None);
        assert_eq!(keys.decode(b"tenure:inbox"), None);
    }

    #[test]
    fn an_inbox_lies_in_the_slot_of_its_lock_whatever_that_is_called() {
        let keys = Keys::new("tenure");
        for name in ["a", "}{", "{b}", "{}", "a{", "é}"] {
            let key = Key::new(name).unwrap();
            let (place, inbox) = (keys.encode(&key), keys.inbox_in_slot(&key, 7));
            assert_eq!(slot_of(place.as_bytes()), slot_of(inbox.as_bytes()), "{place} {inbox}");
            assert!(inbox.starts_with("tenure:inbox:{"), "{inbox}");
        }
        for name in ["a", "}{", "{b}", "a{", "é}"] {
            let key = Key::new(name).unwrap();
            let (place, outcome) = (keys.encode(&key), keys.outcome(&Txid::new(key, 1, 7)));
            assert_eq!(slot_of(place.as_bytes()), slot_of(outcome.as_bytes()), "{place} {outcome}");
            assert!(keys.are_ours(place.as_bytes()) && keys.are_ours(outcome.as_bytes()));
            assert_eq!(keys.decode(outcome.as_bytes()), None, "it is no lock");
        }
        assert!(!keys.are_ours(b"tenure:a") && !keys.are_ours(b"tenure:tx:a") && !keys.are_ours(b"a"));
        let slots: BTreeSet<_> = (0..100).map(|n| slot_of(format!("tenure:{{{n}}}").as_bytes())).collect();
        assert!(slots.len() > 90, "locks are spread");
    }

    proptest! {
        #[test]
        fn two_names_never_share_a_key(a in "[{}%\n0-9A-Fa-é\u{80}]{1,12}", b in "[{}%\n0-9A-Fa-é\u{80}]{1,12}") {
            let keys = Keys::new("p");
            let (a, b) = (Key::new(a).unwrap(), Key::new(b).unwrap());
            let place = keys.encode(&a);
            prop_assert_eq!(keys.decode(place.as_bytes()), Some(a.clone()));
            prop_assert_eq!(place == keys.encode(&b), a == b);
            prop_assert_eq!(place.matches(['{', '}']).count(), 2);
        }
    }
}
