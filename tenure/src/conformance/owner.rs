//! Owners that come in more than once.

use super::Subject;
use super::lock::{LONG, Lock, With, fresh_key, mutex, reader};
use crate::proto::{Outcome, Owner, Refusal};

fn fresh_owner(name: &str) -> Owner {
    Owner::new(fresh_key(name).as_str())
}

/// Claims of one owner do not exclude each other and have one fence, each has its own end, and others come in only after
/// the last. Claims without an owner are strangers to each other.
///
/// Red with: owners that are not compared; a fence for each; a release that takes all of an owner's claims.
pub async fn an_owner_comes_in_again(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let (one, other) = (fresh_owner("one-"), fresh_owner("other-"));
    let (first, again, inner) = (mutex().of(&one, 3), mutex().of(&one, 3), reader().of(&one, 3));
    let fence = here.enter(&first).await.fence;
    assert_eq!(there.enter(&again).await.fence, fence);
    assert_eq!(there.enter(&inner).await.fence, fence);
    let strangers = [mutex(), reader(), mutex().of(&other, 3)];
    for leaves in [inner, first, again] {
        for stranger in &strangers {
            there.is_kept_out(stranger).await;
        }
        here.release(leaves.id).await;
    }
    assert!(there.enter(&strangers[0]).await.fence > fence);
}

/// An owner has no more claims than it may have, whether in or waiting, and asking again for one is none more.
///
/// Red with: a bound that is not checked; one that does not count those who wait; one that counts a repeated request.
pub async fn how_often_an_owner_comes_in_is_bounded(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let owner = fresh_owner("owner-");
    let claims = [(); 3].map(|()| mutex().of(&owner, 2));
    lock.enter(&claims[0]).await;
    lock.enter(&claims[1]).await;
    assert_eq!(lock.acquire(&claims[2]).await.outcome, Outcome::Refused(Refusal::Full));
    lock.enter(&claims[1]).await;
    lock.release(claims[0].id).await;
    lock.enter(&claims[2]).await;
    for claim in &claims[1..] {
        lock.release(claim.id).await;
    }
    if lock.store.traits().queue {
        lock.enter(&mutex()).await;
        let waiting = claims.map(|claim| claim.waiting(LONG));
        lock.is_kept_out(&waiting[0]).await;
        lock.is_kept_out(&waiting[1]).await;
        lock.is_kept_out(&waiting[1]).await;
        assert_eq!(lock.acquire(&waiting[2]).await.outcome, Outcome::Refused(Refusal::Full));
    }
}

/// An owner that is in comes in again although others wait: they wait for it.
///
/// Red with: an owner that must find the queue empty.
pub async fn an_owner_that_is_in_does_not_queue(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let owner = fresh_owner("owner-");
    let (first, again) = (reader().of(&owner, 3), reader().of(&owner, 3).waiting(LONG));
    let writer = mutex().waiting(LONG);
    lock.enter(&first).await;
    lock.is_kept_out(&writer).await;
    lock.enter(&again).await;
    lock.release(first.id).await;
    lock.is_kept_out(&writer).await;
    lock.release(again.id).await;
    lock.enter(&writer).await;
}

/// A reader that wants to write waits for the readers that are in, before everyone who waited already, and has a later
/// fence then.
///
/// Red with: a place at the back; an upgrade that does not wait; the fence of the reader.
pub async fn an_upgrade_waits_for_the_others(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let owner = fresh_owner("owner-");
    let (read, write) = (reader().of(&owner, 3), mutex().of(&owner, 3).waiting(LONG));
    let (other, writer) = (reader(), mutex().waiting(LONG));
    let fence = lock.enter(&read).await.fence;
    let fence = fence.max(lock.enter(&other).await.fence);
    lock.is_kept_out(&writer).await;
    assert_eq!(lock.is_kept_out(&write).await.0, 0, "it stands before the writer");
    lock.is_kept_out(&reader()).await;
    lock.release(other.id).await;
    lock.is_kept_out(&writer).await;
    assert!(lock.enter(&write).await.fence > fence);
    lock.is_kept_out(&writer).await;
    lock.release(read.id).await;
    lock.is_kept_out(&writer).await;
    lock.release(write.id).await;
    lock.enter(&writer).await;
}

/// When two readers want to write, each would wait for the other: the second is told at once, and the first comes in
/// when the second has left.
///
/// Red with: no look at who waits inside.
pub async fn two_upgrades_are_a_deadlock(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let (one, other) = (fresh_owner("one-"), fresh_owner("other-"));
    let reads = [reader().of(&one, 3), reader().of(&other, 3)];
    let writes = [mutex().of(&one, 3).waiting(LONG), mutex().of(&other, 3).waiting(LONG)];
    here.enter(&reads[0]).await;
    there.enter(&reads[1]).await;
    here.is_kept_out(&writes[0]).await;
    assert_eq!(there.acquire(&writes[1]).await.outcome, Outcome::Refused(Refusal::Deadlock));
    assert_eq!(here.who().await.1, [writes[0].id], "the second takes no place");
    there.release(reads[1].id).await;
    here.enter(&writes[0]).await;
}
