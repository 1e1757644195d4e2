//! What the server is sent to settle a transaction and what it sends back; `commit.lua` is the other side.
//!
//! ```text
//!   keys    record │ locks … │ those whose values are looked at … │ the others …
//!   checks  the number of a key, and what it is checked for       words  what it is compared with
//!   writes  the number of a key, and how many words follow        words  the command, and what comes behind its key
//! ```

#![allow(unreachable_pub, reason = "the benchmark reaches this module through the `conformance` feature")]

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::Bytes;
use redis::{Cmd, Value};

use super::keys::Keys;
use super::script::Script;
use super::slots::slot_of;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::options::invalid;
use crate::transaction::{Commit, Need, Reason, Settle, Shown, Step, Txid, Verdict, needs};

/// The script that commits.
pub static COMMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("commit.lua")));

/// The script that resolves.
pub static RESOLVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("resolve.lua")));

const EQUAL: u8 = 1;
const ABSENT: u8 = 2;
const INTEGER: u8 = 3;
const KIND: u8 = 4;

/// The command that asks, and all its keys, the record's first. With `acknowledged`, what was decided before is written
/// once more, so that replicas can be asked for it.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] for a transaction that cannot be carried out whatever there is.
pub(super) fn command(keys: &Keys, settle: &Settle, acknowledged: bool) -> Result<(Cmd, Vec<Bytes>)> {
    match settle {
        Settle::Resolve(txid) => {
            let record = Bytes::from(keys.outcome(txid));
            let mut cmd = Cmd::new();
            cmd.arg("EVALSHA").arg(&RESOLVE.sha).arg(1).arg(&record[..]).arg(txid.until()).arg(u8::from(acknowledged));
            Ok((cmd, vec![record]))
        }
        Settle::Commit(commit) => plan(keys, commit, acknowledged),
    }
}

/// The same as it is sent to a server whose keys begin with that prefix.
///
/// # Errors
///
/// As for [`Store::settle`](crate::store::Store::settle).
#[cfg(feature = "conformance")]
pub fn command_for(prefix: &str, settle: &Settle) -> Result<Cmd> {
    command(&Keys::new(prefix), settle, false).map(|(command, _)| command)
}

fn plan(keys: &Keys, commit: &Commit, acknowledged: bool) -> Result<(Cmd, Vec<Bytes>)> {
    let Commit { txid, claims, steps, memory } = commit;
    let needs = needs(steps)?;
    if let Some(key) = steps.iter().map(Step::key).find(|key| keys.are_ours(key)) {
        let message = format!("the key {:?} is one of the locks' own: a transaction leaves these alone", Shown(key));
        return Err(invalid(message));
    }
    let mut all = vec![Bytes::from(keys.outcome(txid))];
    all.extend(claims.iter().map(|claim| Bytes::from(keys.encode(&claim.lock))));
    let mut places: HashMap<&Bytes, u16> = HashMap::new();
    let mut place = |key| {
        *places.entry(key).or_insert_with(|| {
            all.push(Bytes::clone(key));
            all.len() as u16
        })
    };
    // Those first of which the value is looked at.
    for (key, _) in needs.iter().filter(|(_, need)| !matches!(need, Need::Kind(_))) {
        place(key);
    }
    let mut checks = Vec::with_capacity(3 * needs.len());
    let mut words: Vec<Bytes> = Vec::new();
    for (key, need) in &needs {
        checks.extend(place(key).to_le_bytes());
        checks.push(match need {
            Need::Equal(value) => {
                words.push(value.clone());
                EQUAL
            }
            Need::Absent => {
                words.push(Bytes::new());
                ABSENT
            }
            Need::Integer { least, most } => {
                words.extend([least.to_string().into(), most.to_string().into()]);
                INTEGER
            }
            Need::Kind(kind) => {
                words.push(Bytes::from_static(kind.as_bytes()));
                KIND
            }
        });
    }
    let mut writes = Vec::with_capacity(3 * steps.len());
    for step in steps {
        let Step::Write { verb, key, args } = step else { continue };
        let count = u8::try_from(args.len()).map_err(|_| invalid("a step has more words than one command may have"))?;
        writes.extend(place(key).to_le_bytes());
        writes.push(count);
        words.push(Bytes::from_static(verb.name().as_bytes()));
        words.extend(args.iter().cloned());
    }
    let values = needs.iter().filter(|(_, need)| !matches!(need, Need::Kind(_)));
    let values = values.map(|(key, _)| place(key)).max().map_or(0, |last| usize::from(last) - 1 - claims.len());

    let mut head = Vec::with_capacity(13 + 24 * claims.len());
    head.extend((txid.until() as f64).to_le_bytes());
    head.push(acknowledged.into());
    head.extend((claims.len() as u16).to_le_bytes());
    head.extend((values as u16).to_le_bytes());
    for claim in claims {
        head.extend(claim.id.as_bytes());
        head.extend((claim.fence as f64).to_le_bytes());
    }
    let mut cmd = Cmd::new();
    cmd.arg("EVALSHA").arg(&COMMIT.sha).arg(all.len());
    all.iter().for_each(|key| _ = cmd.arg(&key[..]));
    cmd.arg(head).arg(memory.as_millis().max(1) as u64).arg(checks).arg(writes);
    words.iter().for_each(|word| _ = cmd.arg(&word[..]));
    Ok((cmd, all))
}

/// The slot of all those keys, of which the second is the first lock's, where there is one.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] where they lie in several.
pub(super) fn one_slot(keys: &[Bytes]) -> Result<u16> {
    let slot = slot_of(&keys[0]);
    let Some(key) = keys.iter().find(|key| slot_of(key) != slot) else { return Ok(slot) };
    let lock = Shown(&keys[1]);
    Err(invalid(format!(
        "{:?} lies in slot {} and the lock {lock:?} in slot {slot}, and a cluster carries out a transaction in one slot \
         alone: give every key of it the part in braces that the lock's has, as in \"balance:{{account-42}}\" for the \
         lock \"account-42\"",
        Shown(key),
        slot_of(key),
    )))
}

/// The answer to it.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] when it is none.
pub(super) fn verdict(keys: &Keys, value: Value) -> Result<Verdict> {
    if let Value::BulkString(bytes) = &value
        && let Some((b'B', why)) = bytes.split_first()
    {
        let why = String::from_utf8_lossy(why);
        let message = format!(
            "the server refused a command that it had been asked about, after others were carried out, so that a part of the \
             transaction is written: {why}; look at its keys"
        );
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    let read = || {
        let Value::BulkString(bytes) = value else { return None };
        let (letter, rest) = bytes.split_first()?;
        let lock = || -> Option<Key> { keys.decode(rest) };
        let key = || Bytes::copy_from_slice(rest);
        Some(Verdict::RolledBack(match letter {
            b'C' => return Some(Verdict::Committed),
            b'F' => return Some(Verdict::Forgotten),
            b'L' => Reason::NotHeld { lock: lock()? },
            b'O' => Reason::Outdated { lock: lock()? },
            b'X' => Reason::Unexpected { key: key() },
            b'W' => Reason::WrongType { key: key() },
            b'N' => Reason::NoNumber { key: key() },
            b'P' => {
                let space = rest.iter().position(|&byte| byte == b' ')?;
                let command = String::from_utf8_lossy(&rest[..space]).into_owned();
                Reason::Denied { command, key: Bytes::copy_from_slice(&rest[space + 1..]) }
            }
            b'A' => Reason::Resolved,
            b'T' => Reason::TooLate,
            _ => return None,
        }))
    };
    read().ok_or_else(|| Error::new(ErrorKind::Corrupt, "what lies there is no outcome of a transaction"))
}

/// What messages call it.
pub(super) fn name(settle: &Settle) -> String {
    let txid: &Txid = match settle {
        Settle::Commit(commit) => &commit.txid,
        Settle::Resolve(txid) => txid,
    };
    format!("transaction {txid}")
}
