//! Where the keys of a cluster lie: slots, who has them, and what the nodes say when somebody asks the wrong one.
//!
//! ```text
//!   key ──CRC16 of its tag──▶ slot, 0 to 16383 ──map──▶ the master that has it
//!                                                └─ MOVED: another one has it · ASK: it is on its way to another one
//! ```
//!
//! See <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.

use redis::{ServerError, Value};

use super::url::Address;

/// How many slots there are.
pub(super) const SLOTS: u16 = 16_384;

/// The slot of a key: of its first tag in braces that is not empty, or else of all of it.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        rest.iter().position(|&byte| byte == b'}').filter(|&length| length > 0).map(|length| &rest[..length])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM: the polynomial 0x1021, nothing reflected, from zero.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| (crc << 8) ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Slots that one master has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: Address,
    pub(super) replicas: Vec<Address>,
}

/// The answer to `CLUSTER SLOTS` of a node that was reached under that host; `None` where it is none.
pub(super) fn ranges(value: &Value, host: &str) -> Option<Vec<Range>> {
    let Value::Array(items) = value else { return None };
    let range = |item: &Value| {
        let Value::Array(fields) = item else { return None };
        let [Value::Int(first), Value::Int(last), nodes @ ..] = &fields[..] else { return None };
        let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
        let mut nodes = nodes.iter().map(|node| address(node, host));
        let master = nodes.next()??;
        (first <= last && last < SLOTS).then(|| Range { first, last, master, replicas: nodes.flatten().collect() })
    };
    items.iter().map(range).collect()
}

fn address(node: &Value, host: &str) -> Option<Address> {
    let Value::Array(fields) = node else { return None };
    let [name, Value::Int(port), ..] = &fields[..] else { return None };
    let port = u16::try_from(*port).ok().filter(|&port| port > 0)?;
    let host = match name {
        Value::BulkString(name) if !name.is_empty() => std::str::from_utf8(name).ok().filter(|name| *name != "?")?,
        // A node that does not know under which name it is reached is reached under this one.
        Value::BulkString(_) | Value::Nil => host,
        _ => return None,
    };
    Some(Address { host: host.to_owned(), port })
}

/// Where a node sends whoever asks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// The slot is that node's.
    Moved(Address),
    /// The slot is on its way to that node, and the key is there already or nowhere.
    Ask(Address),
}

/// What the error of a node that was reached under that host says about where to go; `None` where it says nothing.
pub(super) fn redirect(error: &ServerError, host: &str) -> Option<Redirect> {
    let to = |detail: &str| {
        // An address of IP version 6 has colons of its own.
        let (name, port) = detail.split_whitespace().nth(1)?.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let host = if name.is_empty() || name == "?" { host } else { name };
        Some(Address { host: host.to_owned(), port })
    };
    match error.code() {
        "MOVED" => to(error.details()?).map(Redirect::Moved),
        "ASK" => to(error.details()?).map(Redirect::Ask),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3, "the specification's own example");
        // As `CLUSTER KEYSLOT` answers.
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{}{bar}"), 8_363, "an empty tag is none");
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"{open"), crc16(b"{open") % SLOTS);
    }

    fn parsed(text: &str) -> Value {
        redis::parse_redis_value(text.as_bytes()).unwrap()
    }

    fn at(host: &str, port: u16) -> Address {
        Address { host: host.into(), port }
    }

    #[test]
    fn a_map_is_read_with_hosts_that_a_node_does_not_know() {
        let map = parsed(
            "*2\r\n*4\r\n:0\r\n:5460\r\n*4\r\n$9\r\n127.0.0.1\r\n:7000\r\n$1\r\na\r\n*0\r\n*3\r\n$1\r\n?\r\n:7003\r\n$1\r\nb\r\n\
             *3\r\n:5461\r\n:16383\r\n*4\r\n$-1\r\n:7001\r\n$1\r\nc\r\n*0\r\n",
        );
        let first = Range { first: 0, last: 5_460, master: at("127.0.0.1", 7000), replicas: vec![] };
        let second = Range { first: 5_461, last: 16_383, master: at("here", 7001), replicas: vec![] };
        assert_eq!(ranges(&map, "here"), Some(vec![first, second]));
        assert_eq!(ranges(&Value::Okay, "here"), None);
        assert_eq!(ranges(&parsed("*1\r\n*2\r\n:0\r\n:16384\r\n"), "here"), None);
    }

    #[test]
    fn redirections_are_read() {
        let read = |line: &str| match parsed(line) {
            Value::ServerError(error) => redirect(&error, "here"),
            other => panic!("{other:?}"),
        };
        assert_eq!(read("-MOVED 1 127.0.0.1:7000\r\n"), Some(Redirect::Moved(at("127.0.0.1", 7000))));
        assert_eq!(read("-ASK 1 ::1:7000\r\n"), Some(Redirect::Ask(at("::1", 7000))));
        assert_eq!(read("-MOVED 1 :7000\r\n"), Some(Redirect::Moved(at("here", 7000))));
        assert_eq!(read("-MOVED 1\r\n"), None);
        assert_eq!(read("-TRYAGAIN later\r\n"), None);
    }
}
