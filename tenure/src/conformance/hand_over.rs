//! Claims that become somebody else's.

use std::time::Duration;

use bytes::Bytes;

use super::Subject;
use super::lock::{Held, LONG, Lock, SHORT, With, eventually, fresh_id, fresh_key, held, mutex, permits};
use crate::proto::{ClaimId, HandOver, Op, Outcome, Owner, Refusal, Was};

fn fresh_owner() -> Owner {
    Owner::new(fresh_key("owner-").as_str())
}

/// A hand-over of that claim to somebody new, which buries nothing.
fn hand_over(from: ClaimId) -> HandOver {
    let (owner, meta) = (Some(fresh_owner()), Bytes::from_static(b"heir"));
    HandOver { id: fresh_id(), from, bury: Duration::ZERO, ttl: LONG, owner, meta, fence: 0 }
}

impl Lock {
    async fn hand_over(&self, op: &HandOver) -> Outcome {
        self.apply(Op::HandOver(op.clone())).await.outcome
    }

    /// Hands over what is in.
    async fn pass_on(&self, op: &HandOver) -> Held {
        let reply = self.apply(Op::HandOver(op.clone())).await;
        held(reply).unwrap_or_else(|| panic!("{op:?} is to succeed: {reply:?}"))
    }
}

/// A claim becomes another owner's in one step, under a later token and for a time of its own. Nobody else gets in, and
/// who waits goes on waiting until the heir leaves. Asked for again, it is the same hold.
///
/// Red with: the token kept; the old claim released and the heir queued; the heir's end that of the old claim.
pub async fn a_hand_over_has_nobody_in_between(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let (old, waits) = (mutex().of(&fresh_owner(), 1).ttl(LONG / 2), mutex().waiting(LONG));
    let before = here.enter(&old).await;
    let queue = here.store.traits().queue;
    if queue {
        there.is_kept_out(&waits).await;
    }
    let op = hand_over(old.id);
    let heir = here.pass_on(&op).await;
    assert!(heir.fence > before.fence && heir.since >= before.since, "{heir:?} after {before:?}");
    // Of several clocks, any may be the one that tells.
    let apart = if queue { 0 } else { SHORT.as_micros() as u64 };
    assert!(heir.until.abs_diff(heir.now + LONG.as_micros() as u64) <= apart, "{heir:?}");
    let expected = (vec![op.id], if queue { vec![waits.id] } else { vec![] });
    // A node that the vote did without hears of it a little later.
    eventually("the heir alone is in", async || (here.who().await == expected).then_some(())).await;
    let entry = &there.read().await.record.holders[0];
    assert_eq!((&entry.owner, &entry.meta, entry.fence), (&op.owner, &op.meta, heir.fence));
    there.is_kept_out(&mutex()).await;
    let again = here.pass_on(&op).await;
    assert_eq!((again.fence, again.since.abs_diff(heir.since) <= apart), (heir.fence, true));

    // Its owner comes in beside it.
    let beside = mutex().of(op.owner.as_ref().expect("it has one"), 2);
    there.enter(&beside).await;
    there.release(beside.id).await;
    assert_eq!(there.release(op.id).await, Was::Holding);
    let next = if queue { there.acquire(&waits).await } else { there.acquire(&mutex()).await };
    assert!(held(next).is_some_and(|next| next.fence > heir.fence), "{next:?}");
}

/// What was handed over is neither renewed nor released by its old id, which cannot be brought back for as long as it is
/// buried; nor can what was given up be handed anything.
///
/// Red with: the old claim left in; nothing buried; a heir that was buried let in.
pub async fn a_handed_over_claim_is_void(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let old = mutex().of(&fresh_owner(), 1);
    let op = HandOver { bury: LONG, ..hand_over(old.id) };
    let gone = Outcome::Gone { was: Was::Unknown };
    here.enter(&old).await;
    there.pass_on(&op).await;
    assert_eq!(here.renew(old.id, LONG).await.outcome, gone);
    assert_eq!(there.renew(old.id, LONG).await.outcome, gone);
    assert_eq!(here.release(old.id).await, Was::Unknown);
    assert_eq!(here.hand_over(&hand_over(old.id)).await, gone);
    let is_out = |outcome| matches!(outcome, Outcome::Refused(Refusal::Buried) | Outcome::Busy { .. });
    assert!(is_out(there.acquire(&old).await.outcome));
    assert_eq!(here.who().await.0, [op.id]);

    let given_up = hand_over(op.id);
    here.release_and_bury(given_up.id, LONG).await;
    assert_eq!(here.hand_over(&given_up).await, Outcome::Refused(Refusal::Buried));
    assert_eq!(there.release(op.id).await, Was::Holding);
    let refused = here.acquire(&old).await.outcome;
    assert_eq!(refused, Outcome::Refused(Refusal::Buried), "also once the lock is free");
}

/// The heir has as many permits as the old claim had.
///
/// Red with: a heir with one permit; with all of them.
pub async fn permits_are_handed_over_as_they_are(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let (old, other) = (permits(2, 4), permits(1, 4));
    lock.enter(&old).await;
    lock.enter(&other).await;
    let op = hand_over(old.id);
    lock.pass_on(&op).await;
    lock.is_kept_out(&permits(2, 4)).await;
    lock.enter(&permits(1, 4)).await;
    lock.is_kept_out(&permits(1, 4)).await;
    let record = lock.read().await.record;
    let entry = record.holders.iter().find(|entry| entry.id == op.id);
    assert_eq!(entry.map(|entry| (entry.permits, record.limit)), Some((2, 4)), "{record:?}");
}

/// An owner with another claim on the lock would be in beside the heir: nothing is handed over, and both stay.
///
/// Red with: its other claims overlooked.
pub async fn only_an_owners_sole_claim_is_handed_over(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let owner = fresh_owner();
    let claims = [(); 2].map(|()| mutex().of(&owner, 2));
    for claim in &claims {
        lock.enter(claim).await;
    }
    let op = hand_over(claims[0].id);
    let refused = lock.hand_over(&op).await;
    assert!(matches!(refused, Outcome::Busy { .. }), "{refused:?}");
    for claim in &claims {
        assert!(held(lock.renew(claim.id, LONG).await).is_some());
    }
    lock.release(claims[1].id).await;
    lock.pass_on(&op).await;
    assert_eq!(lock.who().await.0, [op.id]);
}

/// Nothing comes of handing over what was never held, was released, or has expired.
///
/// Red with: a heir that enters where the old claim is gone.
pub async fn what_is_not_held_is_handed_over_to_nobody(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let gone = Outcome::Gone { was: Was::Unknown };
    assert_eq!(lock.hand_over(&hand_over(fresh_id())).await, gone);
    let released = mutex();
    lock.enter(&released).await;
    lock.release(released.id).await;
    assert_eq!(lock.hand_over(&hand_over(released.id)).await, gone);
    let expires = mutex().ttl(SHORT);
    let until = lock.enter(&expires).await.until;
    let certainly = until + if lock.store.traits().queue { 0 } else { 2 * SHORT.as_micros() as u64 };
    eventually("the hold expires", || async { (lock.read().await.now >= certainly).then_some(()) }).await;
    assert_eq!(lock.hand_over(&hand_over(expires.id)).await, gone);
    assert_eq!(lock.who().await, (vec![], vec![]));
}
