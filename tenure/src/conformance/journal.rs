//! Every promise that a journal keeps, as a function that tries it: for whoever writes a [`Journal`].
//!
//! ```
//! use tenure::conformance::journal::check;
//! use tenure::transaction::journal::Memory;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let memory = Memory::new();
//! // Two handles of one journal, as two processes have them.
//! check(&memory, &memory.clone(), "run-1").await;
//! # }
//! ```

use std::time::Duration;

use futures_util::future::join_all;

use crate::env::Env;
use crate::transaction::journal::{Entry, ID_MAX, Journal, Keep, VALUE_MAX, Written};

const NO_END: Keep = Keep::UntilForgotten;

/// Tries everything, by two handles of one journal. `run` is what the ids begin with: another one for each time.
///
/// # Panics
///
/// Where a promise is broken: which.
pub async fn check(one: &dyn Journal, other: &dyn Journal, run: &str) {
    of_two_who_saw_the_same_one_writes(one, other, &format!("{run}/race")).await;
    a_write_sees_what_it_expects(one, other, &format!("{run}/expect")).await;
    what_is_forgotten_is_gone(one, other, &format!("{run}/forget")).await;
    what_is_settled_goes_by_itself(one, &format!("{run}/expire")).await;
    everything_is_listed(one, other, &format!("{run}/list")).await;
    odd_ids_and_values_come_back(one, run).await;
}

/// Of many who write at once and expect the same, one succeeds, and its value is there.
///
/// Red with: the comparison left out of any of the journals.
pub async fn of_two_who_saw_the_same_one_writes(one: &dyn Journal, other: &dyn Journal, id: &str) {
    for round in 0..5 {
        let seen = one.load(id).await.expect("it can be read").map(|entry| entry.version);
        let values: Vec<String> = (0..8).map(|n| format!("{round}-{n}")).collect();
        let writes = values.iter().enumerate().map(|(n, value)| {
            let journal = if n % 2 == 0 { one } else { other };
            journal.write(id, seen, value.as_bytes(), NO_END)
        });
        let written: Vec<Written> = join_all(writes).await.into_iter().map(|w| w.expect("it can be written")).collect();
        let winners: Vec<usize> = (0..8).filter(|&n| written[n] != Written::Conflict).collect();
        assert_eq!(winners.len(), 1, "of eight who expected {seen:?} as many wrote: {written:?}");
        let entry = other.load(id).await.expect("it can be read").expect("it was written");
        assert_eq!(entry.value, values[winners[0]].as_bytes(), "what is there is not what the winner wrote");
        assert_eq!(
            Written::Done(entry.version),
            written[winners[0]],
            "it has another version than the winner was told"
        );
        assert_eq!(entry.version, seen.unwrap_or(0) + 1, "a version is one more than the one before");
    }
}

/// What is there is written over only by whoever names its version, and what is not there by whoever expects nothing.
pub async fn a_write_sees_what_it_expects(one: &dyn Journal, other: &dyn Journal, id: &str) {
    let write = async |journal: &dyn Journal, expected, value: &str| {
        journal.write(id, expected, value.as_bytes(), NO_END).await.expect("it can be written")
    };
    assert_eq!(write(one, Some(1), "a").await, Written::Conflict, "nothing is there, and version 1 was expected");
    assert_eq!(one.load(id).await.expect("it can be read"), None, "a conflict wrote");
    assert_eq!(write(one, None, "a").await, Written::Done(1));
    assert_eq!(write(other, None, "b").await, Written::Conflict, "something is there, and nothing was expected");
    assert_eq!(write(other, Some(1), "b").await, Written::Done(2));
    assert_eq!(write(one, Some(1), "c").await, Written::Conflict, "version 2 is there, and version 1 was expected");
    let entry = Entry { id: id.to_owned(), version: 2, value: b"b".to_vec() };
    assert_eq!(one.load(id).await.expect("it can be read"), Some(entry));
}

/// What was forgotten is gone, for whoever names its version and nobody else.
pub async fn what_is_forgotten_is_gone(one: &dyn Journal, other: &dyn Journal, id: &str) {
    assert!(!one.forget(id, 1).await.expect("it can be asked"), "nothing was there to forget");
    one.write(id, None, b"a", NO_END).await.expect("it can be written");
    one.write(id, Some(1), b"b", NO_END).await.expect("it can be written");
    assert!(!other.forget(id, 1).await.expect("it can be asked"), "version 2 was forgotten in place of version 1");
    assert!(other.load(id).await.expect("it can be read").is_some());
    assert!(other.forget(id, 2).await.expect("it can be asked"));
    assert_eq!(one.load(id).await.expect("it can be read"), None);
    assert_eq!(one.write(id, Some(2), b"late", NO_END).await.expect("it can be asked"), Written::Conflict);
}

/// What is kept for a time goes, what is to stay stays, and a write decides anew which of them it is.
///
/// Red with: an expiry that a later write does not take back.
pub async fn what_is_settled_goes_by_itself(journal: &dyn Journal, id: &str) {
    let (short, stays) = (Keep::For(Duration::from_millis(60)), format!("{id}/stays"));
    journal.write(id, None, b"done", short).await.expect("it can be written");
    journal.write(&stays, None, b"done", short).await.expect("it can be written");
    // It may have gone by now, on a slow machine: then there is nothing to say about it.
    let kept = journal.write(&stays, Some(1), b"again", NO_END).await.expect("it can be written");
    let env = Env::system();
    let start = env.now();
    while journal.load(id).await.expect("it can be read").is_some() {
        assert!(env.now() - start < Duration::from_secs(10), "it was to be kept for 60 ms, and is there after 10 s");
        env.sleep(Duration::from_millis(5)).await;
    }
    let listed = journal.list().await.expect("it can be listed");
    assert!(listed.iter().all(|entry| entry.id != id), "what has expired is listed");
    let unsettled = journal.unsettled().await.expect("it can be listed");
    assert!(unsettled.iter().all(|entry| entry.id != id), "what is kept for a time is listed as unsettled");
    let is_listed = unsettled.iter().any(|entry| entry.id == stays);
    assert_eq!(is_listed, kept != Written::Conflict, "what is kept until it is forgotten is not listed as unsettled");
    let there = journal.load(&stays).await.expect("it can be read").is_some();
    assert_eq!(there, kept != Written::Conflict, "what is to be kept until it is forgotten went by itself");
    assert_eq!(journal.write(id, Some(1), b"late", NO_END).await.expect("it can be asked"), Written::Conflict);
}

/// All that is there is listed, once, by id.
pub async fn everything_is_listed(one: &dyn Journal, other: &dyn Journal, start: &str) {
    let ids: Vec<String> = (0..40).map(|n| format!("{start}/{n:02}")).collect();
    for id in &ids {
        one.write(id, None, id.as_bytes(), NO_END).await.expect("it can be written");
    }
    let mut listed = other.list().await.expect("it can be listed");
    assert!(listed.is_sorted_by(|a, b| a.id < b.id), "they are not in the order of their ids, each once");
    listed.retain(|entry| ids.contains(&entry.id));
    let expected: Vec<Entry> =
        ids.iter().map(|id| Entry { id: id.clone(), version: 1, value: id.clone().into_bytes() }).collect();
    assert_eq!(listed, expected);
    one.forget(&ids[0], 1).await.expect("it can be asked");
    one.write(&ids[1], Some(1), b"done", Keep::For(Duration::from_secs(3600))).await.expect("it can be written");
    let mut unsettled = other.unsettled().await.expect("it can be listed");
    unsettled.retain(|entry| ids.contains(&entry.id));
    assert_eq!(unsettled, expected[2..], "unsettled is what is kept until it is forgotten");
}

/// Ids of any characters are ids, and any bytes are a value; what is too long is refused.
pub async fn odd_ids_and_values_come_back(journal: &dyn Journal, run: &str) {
    for odd in ["}{", "%7D", "a b\u{7}", "*?[x]", "ü—✓"] {
        let id = format!("{run}/{odd}");
        let value: Vec<u8> = (0..=255).collect();
        journal.write(&id, None, &value, NO_END).await.expect("it can be written");
        let entry = Entry { id: id.clone(), version: 1, value };
        assert_eq!(journal.load(&id).await.expect("it can be read"), Some(entry.clone()));
        assert!(journal.list().await.expect("it can be listed").contains(&entry), "{id:?} is not listed as it is");
    }
    let too_long = "x".repeat(ID_MAX + 1);
    for (id, value) in [("", vec![]), (&*too_long, vec![]), ("x", vec![0; VALUE_MAX + 1])] {
        let error = journal.write(id, None, &value, NO_END).await.expect_err("it cannot be written");
        assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{error}");
    }
}
