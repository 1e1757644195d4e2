//! What has to be so, before the first write, for every write to be carried out.
//!
//! A step works on what the steps before it left under its key. So of each key it is known here, without the store, what
//! may lie there at first: nothing needs to be said of one that is set or removed before anything else; a hash has to be a
//! hash, or nothing; a number has to be one, and not so large that one of the additions would carry it past 64 bits. Two
//! that contradict each other are refused without asking.

use std::collections::HashMap;

use bytes::Bytes;

use super::outcome::Shown;
use super::step::{Step, Verb};
use crate::error::Result;
use crate::options::invalid;

/// What has to lie under a key before the first write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// That string.
    Equal(Bytes),
    /// Nothing.
    Absent,
    /// A whole number in these bounds, or nothing, which is 0.
    Integer { least: i64, most: i64 },
    /// Something of that type, or nothing.
    Kind(&'static str),
}

/// How many steps a transaction may have, and how many bytes: it keeps the server from all else for as long as it takes.
const STEPS: usize = 1_000;
const BYTES: usize = 4 << 20;
/// The longest expiry, in milliseconds: a hundred years.
const LONGEST: u64 = 100 * 366 * 24 * 3600 * 1000;

/// What is known of a key after some steps.
enum Known {
    /// What was there at first, plus this; and the least and the most that it was on the way.
    Counted { now: i128, least: i128, most: i128 },
    /// Something of that type.
    Kind(&'static str),
    /// A string that is no number.
    Text,
    /// That number.
    Number(i64),
    /// Nothing.
    Absent,
}

/// What has to be so under which key, in the order of the steps.
///
/// # Errors
///
/// For steps that cannot all be carried out whatever lies under their keys, and for more than there may be.
pub(crate) fn needs(steps: &[Step]) -> Result<Vec<(&Bytes, Need)>> {
    let size: usize = steps.iter().map(Step::size).sum();
    if steps.len() > STEPS || size > BYTES {
        let n = steps.len();
        return Err(invalid(format!(
            "a transaction of {n} steps and {size} bytes keeps the store from all else for too long: give it at most \
             {STEPS} steps and {BYTES} bytes, or make several of it"
        )));
    }
    let (mut needs, mut known) = (Vec::new(), HashMap::<&Bytes, (Known, Option<usize>)>::new());
    for step in steps {
        let (verb, key, args) = match step {
            Step::Expect { key, value } => {
                needs.push((key, value.clone().map_or(Need::Absent, Need::Equal)));
                continue;
            }
            Step::Write { verb, key, args } => (*verb, key, args),
        };
        check_words(verb, key, args)?;
        let (before, need) = known.remove(key).map_or((None, None), |(before, need)| (Some(before), need));
        let (after, need) = match (verb, before) {
            (Verb::PExpire, None) => continue,
            (Verb::PExpire, Some(before)) => (before, need),
            (Verb::Del, _) => (Known::Absent, need),
            (Verb::Set, _) => (number(&args[0]).map_or(Known::Text, Known::Number), need),
            (Verb::IncrBy, before) => {
                let by = number(&args[0]).unwrap_or_default();
                let start = || needs.len();
                match before {
                    None => {
                        let (by, need) = (i128::from(by), start());
                        needs.push((key, Need::Integer { least: i64::MIN, most: i64::MAX }));
                        (Known::Counted { now: by, least: by.min(0), most: by.max(0) }, Some(need))
                    }
                    Some(Known::Counted { now, least, most }) => {
                        let now = now + i128::from(by);
                        (Known::Counted { now, least: least.min(now), most: most.max(now) }, need)
                    }
                    Some(Known::Absent) => (Known::Number(by), need),
                    Some(Known::Number(number)) => {
                        let sum = number.checked_add(by).ok_or_else(|| contradiction(verb, key))?;
                        (Known::Number(sum), need)
                    }
                    Some(Known::Text | Known::Kind(_)) => return Err(contradiction(verb, key)),
                }
            }
            (_, before) => {
                let kind = verb.kind().expect("all others are a type's");
                match before {
                    None => needs.push((key, Need::Kind(kind))),
                    Some(Known::Absent) => {}
                    Some(Known::Kind(before)) if before == kind => {}
                    Some(_) => return Err(contradiction(verb, key)),
                }
                (Known::Kind(kind), need)
            }
        };
        if let (Known::Counted { least, most, .. }, Some(need)) = (&after, need) {
            let fit = |bound: i128| i64::try_from(bound).map_err(|_| contradiction(verb, key));
            let (least, most) = (fit(i128::from(i64::MIN) - least)?, fit(i128::from(i64::MAX) - most)?);
            needs[need].1 = Need::Integer { least, most };
        }
        known.insert(key, (after, need));
    }
    Ok(needs)
}

fn check_words(verb: Verb, key: &Bytes, args: &[Bytes]) -> Result<()> {
    let refused = |why: String| Err(invalid(format!("{} of {:?}: {why}", verb.name(), Shown(key))));
    let millis = match (verb, args) {
        (Verb::PExpire, [millis]) | (Verb::Set, [_, _, millis]) => millis,
        (Verb::ZAdd, args) if args.iter().step_by(2).any(|score| &score[..] == b"NaN") => {
            return refused("a score has to be a number".into());
        }
        _ => return Ok(()),
    };
    match number(millis).and_then(|millis| u64::try_from(millis).ok()) {
        Some(1..=LONGEST) => Ok(()),
        _ => refused("give it 1 ms to 100 years".into()),
    }
}

/// The number that a value is, as the store reads it: no sign but a minus, no zeros in front.
fn number(value: &[u8]) -> Option<i64> {
    let number = std::str::from_utf8(value).ok()?.parse::<i64>().ok()?;
    (number.to_string().as_bytes() == value).then_some(number)
}

fn contradiction(verb: Verb, key: &Bytes) -> crate::error::Error {
    invalid(format!(
        "{} of {:?} cannot be carried out after what the transaction does there before: use one type per key, and numbers \
         of 64 bits",
        verb.name(),
        Shown(key)
    ))
}
