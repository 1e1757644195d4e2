//! What the server is sent and what it sends back: operations, replies, pushed grants, and the record as it lies under
//! its key. `apply.lua` is the other side of each of these encodings.

#![allow(unreachable_pub, reason = "tests and benchmarks reach this module through the `conformance` feature")]

use std::sync::LazyLock;
use std::time::Duration;

use bytes::{Buf, Bytes};
use redis::{Cmd, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::proto::{
    ClaimId, Entry, Grant, Grave, Inbox, Micros, Op, Outcome, Owner, Record, Refusal, Reply, Was, micros,
};
use crate::store::Seen;

/// A script, and the name that the server knows it by once it was loaded.
#[derive(Debug)]
pub struct Script {
    /// For `SCRIPT LOAD`.
    pub source: &'static str,
    /// For `EVALSHA`.
    pub sha: String,
}

impl Script {
    fn new(source: &'static str) -> Self {
        Self { source, sha: sha1_smol::Sha1::from(source).digest().to_string() }
    }
}

/// The script that [`command`] calls.
pub static APPLY: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("apply.lua")));

/// The script that [`read_command`] calls.
pub static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("read.lua")));

/// The code of the error that the scripts answer with when something else lies under the key.
pub const FOREIGN: &str = "TENUREFOREIGN";

/// Carries out `op` on the record under `key`. `inbox` is the channel that a later grant is published to; where it is
/// empty, nothing is.
pub fn command(key: &[u8], op: &Op, inbox: &str) -> Cmd {
    let mut cmd = Cmd::new();
    cmd.arg("EVALSHA").arg(&APPLY.sha).arg(1).arg(key);
    let id = op.id();
    match op {
        Op::Acquire(op) => {
            let mut numbers = Vec::with_capacity(36);
            numbers.extend(op.claim.permits().to_le_bytes());
            numbers.extend(op.claim.limit().to_le_bytes());
            for duration in [op.ttl, op.patience, op.memory] {
                numbers.extend(micros(duration).to_le_bytes());
            }
            numbers.extend(op.max.to_le_bytes());
            // An owner may have an empty name, so nobody is empty and everybody has a letter before the name.
            let owner = op.owner.as_ref().map_or_else(String::new, |owner| format!("o{owner}"));
            cmd.arg("a").arg(id.as_bytes()).arg(numbers).arg(owner).arg(inbox).arg(&op.meta[..])
        }
        Op::Renew(op) => cmd.arg("n").arg(id.as_bytes()).arg(micros(op.ttl)),
        Op::Release(op) => cmd.arg("l").arg(id.as_bytes()).arg(micros(op.bury)),
    };
    cmd
}

/// The answer to [`command`].
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] when it is none.
pub fn reply(value: Value) -> Result<Reply> {
    let corrupt = || Error::new(ErrorKind::Corrupt, "the server's answer is not one that the script gives");
    let Value::Array(items) = value else { return Err(corrupt()) };
    let numbers: Option<Vec<u64>> =
        items.iter().map(|item| if let Value::Int(n) = item { u64::try_from(*n).ok() } else { None }).collect();
    let (outcome, now) = match numbers.as_deref() {
        Some(&[0, now, fence, since, until, waiting]) => {
            (Outcome::Held { fence, since, until, waiting: waiting as u32 }, now)
        }
        Some(&[1, now, ahead, retry_in]) => {
            (Outcome::Busy { ahead: ahead as u32, retry_in: Duration::from_micros(retry_in) }, now)
        }
        Some(&[2, now, was @ 0..=2]) => {
            (Outcome::Gone { was: [Was::Holding, Was::Waiting, Was::Unknown][was as usize] }, now)
        }
        Some(&[3, now, why @ 0..=3, limit]) => {
            let mismatch = Refusal::Mismatch { limit: limit as u32 };
            (Outcome::Refused([mismatch, Refusal::Deadlock, Refusal::Full, Refusal::Buried][why as usize]), now)
        }
        _ => return Err(corrupt()),
    };
    Ok(Reply { outcome, now })
}

/// Asks for the record under `key` and the server's clock, changing nothing.
pub fn read_command(key: &[u8]) -> Cmd {
    let mut cmd = Cmd::new();
    cmd.arg("EVALSHA_RO").arg(&READ.sha).arg(1).arg(key);
    cmd
}

/// The answer to [`read_command`]: the record as it stands at the server's clock.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] when it is none, [`ErrorKind::Foreign`] when the value is of another version.
pub fn record(value: Value) -> Result<Seen> {
    let (record, now) = stored(value)?;
    Ok(Seen { record: record.seen_at(now), now })
}

/// The answer to [`read_command`] as it was stored, whoever's time has passed.
///
/// # Errors
///
/// As [`record`].
pub fn stored(value: Value) -> Result<(Record, Micros)> {
    let corrupt = || Error::new(ErrorKind::Corrupt, "the lock's record is damaged");
    let Value::Array(items) = value else { return Err(corrupt()) };
    let Ok([seconds, fraction, value]) = <[Value; 3]>::try_from(items) else { return Err(corrupt()) };
    let number = |value| match value {
        Value::BulkString(digits) => std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse::<u64>().ok()),
        _ => None,
    };
    let now = number(seconds).zip(number(fraction)).map(|(seconds, fraction)| seconds * 1_000_000 + fraction);
    let record = match value {
        Value::Nil => Some(Record::default()),
        Value::BulkString(bytes) if !bytes.starts_with(MAGIC) => {
            let message = "what lies under the lock's key is no lock record of a version known here; it was left alone";
            return Err(Error::new(ErrorKind::Foreign, message));
        }
        Value::BulkString(bytes) => small(bytes.into()),
        _ => None,
    };
    record.zip(now).ok_or_else(corrupt)
}

/// The grant that was published as `payload`. It does not say to which inbox: to the one that it came from.
pub fn grant(payload: &[u8]) -> Option<Grant> {
    let (id, fence) = payload.split_first_chunk::<16>()?;
    let fence = u64::from_le_bytes(fence.try_into().ok()?);
    Some(Grant { id: ClaimId::from_bytes(id)?, fence, inbox: Inbox::from("") })
}

// -- the record under its key --------------------------------------------------------------------------------------

/// How a small record, and the header of a large one, begins: a name and the version of the encoding.
const MAGIC: &[u8] = b"tenure1";

/// A small record: one string, the header and then every entry.
fn small(mut bytes: Bytes) -> Option<Record> {
    let mut record = header(&mut bytes)?;
    while !bytes.is_empty() {
        entry(&mut bytes, &mut record)?;
    }
    record.queue.sort_by_key(|entry| entry.ticket);
    Some(record)
}

fn header(bytes: &mut Bytes) -> Option<Record> {
    part(bytes, MAGIC.len()).filter(|magic| magic == MAGIC)?;
    let record = Record {
        fence: bytes.try_get_u64_le().ok()?,
        limit: bytes.try_get_u32_le().ok()?,
        ticket: bytes.try_get_i64_le().ok()?,
        alarm: bytes.try_get_u64_le().ok()?,
        memory: bytes.try_get_u64_le().ok()?,
        expires: bytes.try_get_u64_le().ok()?,
        ..Record::default()
    };
    // What the script keeps for its own use: the latest grave, three counts, the weight of those in, the head's place.
    part(bytes, 36)?;
    Some(record)
}

fn entry(bytes: &mut Bytes, record: &mut Record) -> Option<()> {
    let id = ClaimId::from_bytes(&part(bytes, 16)?)?;
    let permits = bytes.try_get_u32_le().ok()?;
    let since = bytes.try_get_u64_le().ok()?;
    let until = bytes.try_get_u64_le().ok()?;
    let fence = bytes.try_get_u64_le().ok()?;
    let ticket = bytes.try_get_i64_le().ok()?;
    let length = bytes.try_get_u16_le().ok()?;
    let owner = text(part(bytes, length.into())?)?;
    let owner = owner.strip_prefix('o').map(Owner::new);
    let length = bytes.try_get_u16_le().ok()?;
    let inbox = text(part(bytes, length.into())?)?.into();
    let length = bytes.try_get_u32_le().ok()?;
    let meta = part(bytes, length as usize)?;
    match (permits, fence) {
        (0, _) => record.buried.push(Grave { id, until }),
        (_, 0) => record.queue.push(Entry { id, owner, permits, since, until, fence, ticket, inbox, meta }),
        _ => record.holders.push(Entry { id, owner, permits, since, until, fence, ticket, inbox, meta }),
    }
    Some(())
}

fn part(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (bytes.len() >= length).then(|| bytes.split_to(length))
}

fn text(bytes: Bytes) -> Option<String> {
    String::from_utf8(bytes.into()).ok()
}
