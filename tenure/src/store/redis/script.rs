//! What the server is sent and what it sends back: operations, replies and pushed grants. `short.lua` is the other side.

#![allow(unreachable_pub, reason = "tests and benchmarks reach this module through the `conformance` feature")]

use std::borrow::Borrow;
use std::time::Duration;

use bytes::{Buf, Bytes};
use redis::{Cmd, Value};

use super::record::{MAGIC, crowd, number, part, small};
#[cfg(feature = "conformance")]
pub use super::scripts::{APPLY, KEEP};
pub use super::scripts::{Dialect, READ, Script};
use crate::error::{Error, ErrorKind, Result};
use crate::proto::{ClaimId, Grant, Inbox, Micros, Op, Outcome, Owner, Record, Refusal, Reply, Was, micros};
use crate::store::Seen;

/// The code of the error that the scripts answer with when something else lies under the key.
pub const FOREIGN: &str = "TENUREFOREIGN";

/// How many operations one call may carry: enough to share its price, and over in a fraction of a millisecond.
pub const BATCH: usize = 50;

const ACQUIRE: u8 = 1;
const RENEW: u8 = 2;
const RELEASE: u8 = 3;
const HAND_OVER: u8 = 4;

/// One operation on its way to the script: the key, what is asked, and by whom.
#[derive(Clone, Debug)]
pub struct Call {
    /// One after the other.
    parts: Vec<u8>,
    key: usize,
    what: usize,
    /// Whether somebody may enter by it.
    enters: bool,
    /// Whether it is a release.
    leaves: bool,
}

impl Call {
    /// Carries out `op` on the record under `key`. `inbox` is the channel that a later grant is published to; where it is
    /// empty, nothing is.
    pub fn new(key: &[u8], op: &Op, inbox: &str) -> Self {
        let mut parts = Vec::with_capacity(key.len() + size(op, inbox));
        parts.extend(key);
        let key = parts.len();
        match op {
            Op::Acquire(op) => {
                let max = if op.owner.is_some() { op.max } else { 1 };
                parts.push(ACQUIRE);
                let rest = [micros(op.patience), micros(op.memory), max.into(), op.claim.limit().into(), op.fence];
                [micros(op.ttl)].into_iter().chain(rest).for_each(|number| parts.extend(double(number)));
            }
            Op::Renew(op) => {
                parts.push(RENEW);
                parts.extend([micros(op.ttl), op.fence].into_iter().flat_map(double));
            }
            Op::Release(op) => {
                parts.push(RELEASE);
                parts.extend([micros(op.bury), op.fence].into_iter().flat_map(double));
            }
            Op::HandOver(op) => {
                parts.push(HAND_OVER);
                parts.extend([micros(op.ttl), op.fence, micros(op.bury)].into_iter().flat_map(double));
                parts.extend(op.from.as_bytes());
            }
        }
        let what = parts.len();
        match op {
            Op::Acquire(op) => claim(op.id, op.claim.permits(), op.owner.as_ref(), inbox, &op.meta, &mut parts),
            // It has the permits of the claim that it follows.
            Op::HandOver(op) => claim(op.id, 0, op.owner.as_ref(), inbox, &op.meta, &mut parts),
            Op::Renew(op) => parts.extend(op.id.as_bytes()),
            Op::Release(op) => parts.extend(op.id.as_bytes()),
        }
        Self { parts, key, what, enters: matches!(op, Op::Acquire(_)), leaves: matches!(op, Op::Release(_)) }
    }

    /// The key whose record it is about.
    pub fn key(&self) -> &[u8] {
        &self.parts[..self.key]
    }

    /// Whether somebody may enter by it.
    pub(super) fn enters(&self) -> bool {
        self.enters
    }

    /// Whether it was refused for a lack of memory that is no concern of it: it takes none, but shared a call with others.
    pub(super) fn goes_alone(&self, answer: &Value) -> bool {
        !self.enters && matches!(answer, Value::ServerError(error) if error.code() == "OOM")
    }

    /// Whether the answer says that somebody is in, who was not or not for as long.
    pub(super) fn has_gained(&self, answer: &Value) -> bool {
        match timed(answer) {
            Some((_, Answer::AsAsked(_))) => !self.leaves,
            Some((_, Answer::Packed(bytes))) => bytes.first() == Some(&b'H'),
            None => false,
        }
    }

    /// The release of the same claim.
    pub(super) fn undone(&self) -> Self {
        let mut parts = self.parts[..self.key].to_vec();
        parts.push(RELEASE);
        parts.extend([0; 16]);
        let what = parts.len();
        parts.extend(&self.parts[self.what..self.what + 16]);
        Self { parts, key: self.key, what, enters: false, leaves: true }
    }
}

fn size(op: &Op, inbox: &str) -> usize {
    let claim = |owner: &Option<Owner>, meta: &Bytes| {
        32 + owner.as_ref().map_or(0, |owner| owner.as_str().len() + 1) + inbox.len() + meta.len()
    };
    match op {
        Op::Acquire(op) => 49 + claim(&op.owner, &op.meta),
        Op::HandOver(op) => 41 + claim(&op.owner, &op.meta),
        Op::Renew(_) | Op::Release(_) => 17 + 16,
    }
}

/// The part of an entry that the claim brings along, as it is stored.
fn claim(id: ClaimId, permits: u32, owner: Option<&Owner>, inbox: &str, meta: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend(id.as_bytes());
    bytes.extend(double(permits.into()));
    // An owner may have an empty name: nobody is empty, and everybody has a letter before the name.
    let owner = owner.map(Owner::as_str);
    bytes.extend((owner.map_or(0, |owner| 1 + owner.len()) as u16).to_le_bytes());
    if let Some(owner) = owner {
        bytes.push(b'o');
        bytes.extend(owner.as_bytes());
    }
    bytes.extend((2 + inbox.len() as u32 + meta.len() as u32).to_le_bytes());
    bytes.extend((inbox.len() as u16).to_le_bytes());
    bytes.extend(inbox.as_bytes());
    bytes.extend(meta);
}

/// A number as Lua has it.
fn double(number: u64) -> [u8; 8] {
    (number as f64).to_le_bytes()
}

/// Has several operations carried out, at most [`BATCH`], one after the other.
pub fn command(calls: &[Call]) -> Cmd {
    command_in(Dialect::Server, calls)
}

/// The same in any dialect. On a cluster all keys must share a slot.
pub fn command_in(dialect: Dialect, calls: &[impl Borrow<Call>]) -> Cmd {
    let calls = || calls.iter().map(Borrow::borrow);
    let bytes: usize = calls().map(|call: &Call| call.parts.len()).sum();
    let count = calls().count();
    let mut cmd = Cmd::with_capacity(3 + 3 * count, 64 + bytes);
    let [apply, keep] = dialect.scripts();
    let script = if calls().any(|call| call.enters) { apply } else { keep };
    cmd.arg("EVALSHA").arg(&script.sha).arg(count);
    for Call { parts, key, .. } in calls() {
        cmd.arg(&parts[..*key]);
    }
    for Call { parts, key, what, .. } in calls() {
        cmd.arg(&parts[*key..*what]).arg(&parts[*what..]);
    }
    cmd
}

/// The answers to [`command`], one for each call, as each would have had it alone: an error, or the server's clock and the
/// answer. What the server said instead, where it answered to all of them at once.
pub fn replies(calls: usize, value: Value) -> std::result::Result<Vec<Value>, Value> {
    match value {
        value if calls == 1 => Ok(vec![value]),
        Value::Array(mut values) if values.len() == calls + 1 => {
            let now = values.remove(0);
            let timed = |answer| match answer {
                Value::ServerError(_) => answer,
                _ => Value::Array(vec![now.clone(), answer]),
            };
            Ok(values.into_iter().map(timed).collect())
        }
        value => Err(value),
    }
}

/// The answer to one call.
///
/// # Errors
///
/// [`ErrorKind::Foreign`] when something else lies under the key, [`ErrorKind::Corrupt`] when it is no answer.
pub fn reply(op: &Op, value: Value) -> Result<Reply> {
    if matches!(&value, Value::ServerError(error) if error.code() == FOREIGN) {
        return Err(foreign());
    }
    let reply = timed(&value).and_then(|(now, answer)| {
        let outcome = match answer {
            Answer::AsAsked(number) => as_asked(op, now, number),
            Answer::Packed(bytes) => packed(bytes),
        };
        Some(Reply { outcome: outcome?, now })
    });
    reply.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the server's answer is not one that the script gives"))
}

/// An answer without the time.
enum Answer<'a> {
    AsAsked(u64),
    Packed(&'a [u8]),
}

/// When the server answered, and what: one of several has the two apart, one alone has them in one text, or in one number.
fn timed(value: &Value) -> Option<(Micros, Answer<'_>)> {
    let whole = |number: &i64| u64::try_from(*number).ok();
    match value {
        Value::Int(now) => whole(now).map(|now| (now, Answer::AsAsked(now))),
        Value::BulkString(bytes) => {
            let mut rest = &bytes[..];
            let now = number(&mut rest)?;
            match rest.strip_prefix(b"#") {
                Some(mut rest) => number(&mut rest).map(|number| (now, Answer::AsAsked(number))),
                None => Some((now, Answer::Packed(rest))),
            }
        }
        Value::Array(parts) => match &parts[..] {
            [Value::Int(now), Value::Int(number)] => Some((whole(now)?, Answer::AsAsked(whole(number)?))),
            [Value::Int(now), Value::BulkString(bytes)] => Some((whole(now)?, Answer::Packed(bytes))),
            _ => None,
        },
        _ => None,
    }
}

/// All went as it was asked, and the answer is but one number: the fence of what was acquired, since when what was renewed
/// is in, nothing for what was released.
fn as_asked(op: &Op, now: Micros, answer: u64) -> Option<Outcome> {
    Some(match op {
        Op::Acquire(op) => Outcome::Held { fence: answer, since: now, until: now + micros(op.ttl), waiting: 0 },
        Op::Renew(op) => Outcome::Held { fence: op.fence, since: answer, until: now + micros(op.ttl), waiting: 0 },
        Op::Release(_) => Outcome::Gone { was: Was::Holding },
        Op::HandOver(_) => return None,
    })
}

fn packed(mut bytes: &[u8]) -> Option<Outcome> {
    let kind = bytes.try_get_u8().ok()?;
    let outcome = match kind {
        b'H' => Outcome::Held {
            fence: number(&mut bytes)?,
            since: number(&mut bytes)?,
            until: number(&mut bytes)?,
            waiting: number(&mut bytes)? as u32,
        },
        b'B' => {
            Outcome::Busy { ahead: number(&mut bytes)? as u32, retry_in: Duration::from_micros(number(&mut bytes)?) }
        }
        b'G' => Outcome::Gone {
            was: match bytes.try_get_u8().ok()? {
                b'h' => Was::Holding,
                b'w' => Was::Waiting,
                b'u' => Was::Unknown,
                _ => return None,
            },
        },
        b'R' => Outcome::Refused(match (bytes.try_get_u8().ok()?, number(&mut bytes)? as u32) {
            (b'm', limit) => Refusal::Mismatch { limit },
            (b'd', _) => Refusal::Deadlock,
            (b'f', _) => Refusal::Full,
            (b'b', _) => Refusal::Buried,
            _ => return None,
        }),
        _ => return None,
    };
    bytes.is_empty().then_some(outcome)
}

fn foreign() -> Error {
    let message = "what lies under the lock's key is no lock record of a version known here; it was left alone: use \
                   another name or prefix, or remove it by hand";
    Error::new(ErrorKind::Foreign, message)
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
    let (mut record, now) = stored(value)?;
    // They lie there in no order, and are shown in that of their grants.
    record.holders.sort_by_key(|entry| (entry.since, entry.fence));
    Ok(Seen { record: record.seen_at(now), now })
}

/// The answer to [`read_command`] as it was stored, whoever's time has passed.
///
/// # Errors
///
/// As [`record`].
pub fn stored(value: Value) -> Result<(Record, Micros)> {
    let corrupt = || Error::new(ErrorKind::Corrupt, "the lock's record is damaged");
    let items = match value {
        Value::Array(items) => items,
        Value::ServerError(error) if error.code() == FOREIGN => return Err(foreign()),
        _ => return Err(corrupt()),
    };
    let Ok([seconds, fraction, value]) = <[Value; 3]>::try_from(items) else { return Err(corrupt()) };
    let number = |value| match value {
        Value::BulkString(digits) => std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse::<u64>().ok()),
        _ => None,
    };
    let now = number(seconds).zip(number(fraction)).map(|(seconds, fraction)| seconds * 1_000_000 + fraction);
    let record = match value {
        Value::Nil => Some(Record::default()),
        Value::BulkString(bytes) if bytes.starts_with(MAGIC) => small(bytes.into()),
        Value::Array(fields) => match crowd(fields) {
            Some(record) => Some(record),
            None => return Err(foreign()),
        },
        _ => return Err(foreign()),
    };
    record.zip(now).ok_or_else(corrupt)
}

/// The grant that was published as `payload`. It does not say to which inbox: to the one that it came from.
pub fn grant(payload: &[u8]) -> Option<Grant> {
    let mut payload = Bytes::copy_from_slice(payload);
    let id = ClaimId::from_bytes(&part(&mut payload, 16)?)?;
    let fence = number(&mut payload)?;
    payload.is_empty().then(|| Grant { id, fence, inbox: Inbox::from("") })
}
