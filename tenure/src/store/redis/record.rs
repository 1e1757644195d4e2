//! A record as it lies under its key, in either of its encodings: `short.lua` begins with them.

use bytes::{Buf, Bytes};
use redis::Value;

use crate::proto::{ClaimId, Entry, Grave, NEVER, Owner, Record};

/// How every record begins: a name and the version of the encoding.
pub(super) const MAGIC: &[u8] = b"tenure2";

/// A small record: one string, the header and then every entry.
pub(super) fn small(mut bytes: Bytes) -> Option<Record> {
    let mut record = header(&mut bytes)?;
    while !bytes.is_empty() {
        entry(&mut bytes, &mut record)?;
    }
    record.queue.sort_by_key(|entry| entry.ticket);
    Some(record)
}

/// A record with a crowd: a hash, one field the header, one for each entry; the others are indexes of the script's own.
pub(super) fn crowd(fields: Vec<Value>) -> Option<Record> {
    let mut entries = Record::default();
    let mut head = None;
    for pair in fields.chunks_exact(2) {
        let [Value::BulkString(field), Value::BulkString(value)] = pair else { return None };
        let mut value = Bytes::copy_from_slice(value);
        match field.first()? {
            b'h' => head = Some(header(&mut value)?),
            b'e' => entry(&mut value, &mut entries)?,
            b'q' | b'o' => {}
            _ => return None,
        }
    }
    entries.queue.sort_by_key(|entry| entry.ticket);
    Some(Record { holders: entries.holders, queue: entries.queue, buried: entries.buried, ..head? })
}

fn header(bytes: &mut Bytes) -> Option<Record> {
    part(bytes, MAGIC.len()).filter(|magic| magic == MAGIC)?;
    // How many entries follow in a small record, which its length says as well.
    bytes.try_get_u8().ok()?;
    Some(Record {
        memory: number(bytes)?,
        fence: number(bytes)?,
        ticket: signed(bytes)?,
        limit: number(bytes)? as u32,
        alarm: number(bytes)?,
        expires: number(bytes)?,
        ..Record::default()
    })
}

fn entry(bytes: &mut Bytes, record: &mut Record) -> Option<()> {
    let (until, since, fence, ticket) = (number(bytes)?, number(bytes)?, number(bytes)?, signed(bytes)?);
    let id = ClaimId::from_bytes(&part(bytes, 16)?)?;
    let permits = number(bytes)? as u32;
    let length = bytes.try_get_u16_le().ok()?;
    let owner = text(part(bytes, length.into())?)?;
    let owner = owner.strip_prefix('o').map(Owner::new);
    let length = bytes.try_get_u32_le().ok()?;
    let mut meta = part(bytes, length as usize)?;
    let length = meta.try_get_u16_le().ok()?;
    let inbox = text(part(&mut meta, length.into())?)?.into();
    match (permits, fence) {
        (0, _) => record.buried.push(Grave { id, until }),
        (_, 0) => record.queue.push(Entry { id, owner, permits, since, until, fence, ticket, inbox, meta }),
        _ => record.holders.push(Entry { id, owner, permits, since, until, fence, ticket, inbox, meta }),
    }
    Some(())
}

pub(super) fn part(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (bytes.len() >= length).then(|| bytes.split_to(length))
}

/// A whole number, which Lua has as a double.
fn signed(bytes: &mut impl Buf) -> Option<i64> {
    let double = bytes.try_get_f64_le().ok()?;
    (double.fract() == 0.0 && double.abs() <= NEVER as f64).then_some(double as i64)
}

pub(super) fn number(bytes: &mut impl Buf) -> Option<u64> {
    u64::try_from(signed(bytes)?).ok()
}

fn text(bytes: Bytes) -> Option<String> {
    String::from_utf8(bytes.into()).ok()
}
