//! Who fits beside whom.

use super::Subject;
use super::lock::{LONG, Lock, With, eventually, fresh_key, mutex, permits, reader};
use crate::key::Key;
use crate::proto::{Claim, Outcome, Refusal, Was};

/// While an exclusive claim is in nobody else is, whatever they claim and wherever they ask.
///
/// Red with: a claim that fits without those who are in being counted.
pub async fn exclusive_claims_exclude_each_other(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let (first, second) = (mutex(), mutex());
    here.enter(&first).await;
    there.is_kept_out(&second).await;
    there.is_kept_out(&reader()).await;
    assert_eq!(here.release(first.id).await, Was::Holding);
    there.enter(&second).await;
    here.is_kept_out(&first).await;
}

/// Readers are in together, and a writer only without them.
///
/// Red with: a reader that takes all permits.
pub async fn shared_claims_share(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let (first, second) = (reader(), reader());
    here.enter(&first).await;
    there.enter(&second).await;
    here.is_kept_out(&mutex()).await;
    here.release(first.id).await;
    here.is_kept_out(&mutex()).await;
    there.release(second.id).await;
    here.enter(&mutex()).await;
}

/// The permits of a semaphore are never more than its limit, and may be all of it.
///
/// Red with: a limit of one permit more.
pub async fn a_semaphore_counts_permits(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let first = permits(2, 5);
    here.enter(&first).await;
    there.enter(&permits(2, 5)).await;
    here.is_kept_out(&permits(2, 5)).await;
    there.enter(&permits(1, 5)).await;
    here.is_kept_out(&permits(1, 5)).await;
    here.release(first.id).await;
    here.is_kept_out(&permits(3, 5)).await;
    here.enter(&permits(2, 5)).await;
}

/// A lock in use with one limit refuses claims on another, says which it has, and takes any once it is free.
///
/// Red with: a limit that is not compared.
pub async fn another_limit_is_a_mismatch(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let holder = mutex();
    lock.enter(&holder).await;
    let refused = lock.acquire(&permits(1, 3).waiting(LONG)).await.outcome;
    assert_eq!(refused, Outcome::Refused(Refusal::Mismatch { limit: Claim::ALL }));
    lock.release(holder.id).await;
    lock.enter(&permits(1, 3)).await;
    let refused = lock.acquire(&mutex()).await.outcome;
    assert_eq!(refused, Outcome::Refused(Refusal::Mismatch { limit: 3 }));
}

/// A claim without patience leaves nothing behind where it is busy, and gives up a place that it had.
///
/// Red with: a place for whoever is kept out; a place that is kept.
pub async fn trying_takes_no_place(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let (holder, trying, waiting) = (mutex(), mutex(), mutex().waiting(LONG));
    lock.enter(&holder).await;
    lock.is_kept_out(&trying).await;
    lock.is_kept_out(&waiting).await;
    lock.is_kept_out(&mutex()).await;
    if lock.store.traits().queue {
        assert_eq!(lock.who().await, (vec![holder.id], vec![waiting.id]));
    }
    let given_up = lock.acquire(&crate::proto::Acquire { patience: std::time::Duration::ZERO, ..waiting }).await;
    assert!(matches!(given_up.outcome, Outcome::Busy { .. }), "{given_up:?}");
    lock.release(holder.id).await;
    // What a minority of nodes has is let go soon after.
    eventually("nothing is left", || async { (lock.who().await == (vec![], vec![])).then_some(()) }).await;
}

/// Names that differ in anything are different locks.
///
/// Red with: names that are trimmed, cut at 255 bytes, decoded from percents, or compared without case.
pub async fn two_names_are_two_locks(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let names = odd_names();
    for (i, key) in names.iter().enumerate() {
        let lock = Lock { key: key.clone(), ..if i % 2 == 0 { here.clone() } else { there.clone() } };
        let reply = lock.acquire(&mutex()).await;
        assert!(matches!(reply.outcome, Outcome::Held { .. }), "{key:?} is taken by another of {names:?}");
    }
    for key in names {
        Lock { key, ..here.clone() }.is_kept_out(&mutex()).await;
    }
}

/// Fresh names that have given encodings trouble, alike in pairs.
pub(super) fn odd_names() -> Vec<Key> {
    let tag = fresh_key("");
    let tag = tag.as_str();
    let odd = [
        "a", "A", " a", "a ", "a b", "a%20b", "a+b", "a\tb", "}{", "{a}", "{", "%", "%25", "%%", "*", "?", "[a]", "/",
        "../a", "a/b", "a\\b", "a:b", ":", "'", "\"", "\n", "\r\n", "\0", "\u{7f}", "é", "e\u{301}", "ключ", "🔒",
        "\u{202e}", "NULL",
    ];
    let mut names: Vec<String> = vec![tag.to_owned()];
    names.extend(odd.iter().map(|odd| format!("{odd}{tag}")));
    names.extend(odd.iter().map(|odd| format!("{tag}{odd}")));
    // The longest that may be, equal but for the last byte, and so long only once encoded.
    let fill = Key::MAX - tag.len() - 1;
    names.extend(["y", "z"].map(|last| format!("{tag}{}{last}", "x".repeat(fill))));
    names.push(format!("{tag}{}", "%".repeat(fill + 1)));
    names.into_iter().map(|name| Key::new(name).expect("none is too long")).collect()
}
