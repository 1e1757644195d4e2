//! What a hold is: a fence, an end, and an id that nothing else answers to.

use std::time::Duration;

use super::Subject;
use super::lock::{LONG, Lock, SHORT, With, eventually, fresh_id, held, mutex, reader};
use crate::proto::{Acquire, Micros, Op, Outcome, Refusal, Release, Renew, Was};

/// Each hold has a later fence than every hold before it, whoever has it and however it came about.
///
/// Red with: the fence that there was.
pub async fn fences_rise(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let mut last = 0;
    for round in 0..10 {
        let lock = if round % 3 == 0 { &there } else { &here };
        let claims = if round % 2 == 0 { vec![mutex()] } else { vec![reader(), reader(), reader()] };
        for claim in &claims {
            let fence = lock.enter(claim).await.fence;
            assert!(fence > last, "{fence} after {last}");
            last = fence;
        }
        for claim in &claims {
            here.release(claim.id).await;
        }
    }
}

/// A fence is later than those of before also where the record was forgotten in between: it is at least the store's
/// clock.
///
/// Red with: the last fence plus one, whatever the clock.
pub async fn fences_rise_across_the_records_end(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let mut last = 0;
    for memory in [Duration::ZERO, SHORT] {
        let claim = Acquire { memory, ..mutex() };
        let held = lock.enter(&claim).await;
        // Of several clocks, which one it is not behind is open.
        let is_late = held.fence >= held.since || !lock.store.traits().queue;
        assert!(held.fence > last && is_late, "{held:?} after {last}");
        last = held.fence;
        lock.release(claim.id).await;
        eventually("the record is forgotten", || async { (lock.read().await.record.fence == 0).then_some(()) }).await;
    }
    let fence = lock.enter(&mutex()).await.fence;
    assert!(fence > last, "{fence} after {last}, which was forgotten");
}

/// A claim may be handed on without asking the store, under tokens of its own: a renewal or release that tells the
/// newest has the next grant's later still. A token ahead of the clock is none.
///
/// Red with: the token overlooked; believed whatever it is.
pub async fn a_token_minted_elsewhere_is_taken_over(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let claim = mutex();
    let first = lock.enter(&claim).await;
    let later = |by| Op::Renew(Renew { id: claim.id, ttl: LONG, fence: first.fence + by });
    let in_a_year = held(lock.apply(later(365 * 86_400 * 1_000_000)).await);
    assert_eq!(in_a_year.expect("it is in").fence, first.fence);
    let renewed = eventually("the clock passes the token", async || {
        held(lock.apply(later(10)).await).filter(|held| held.fence > first.fence)
    });
    assert_eq!(renewed.await.fence, first.fence + 10);
    assert_eq!(lock.read().await.record.fence, first.fence + 10);
    eventually("the clock passes the next token", async || (lock.read().await.now > first.fence + 20).then_some(()))
        .await;
    lock.apply(Op::Release(Release { id: claim.id, bury: Duration::ZERO, fence: first.fence + 20 })).await;
    let next = lock.enter(&mutex()).await.fence;
    assert!(next > first.fence + 20, "{next} after {}", first.fence + 20);
}

/// The same request again finds the hold that there is: one holder, one fence, one release.
///
/// Red with: a second entry for a known id.
pub async fn acquiring_twice_is_once(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let claim = reader();
    let (first, second) = (here.enter(&claim).await, there.enter(&claim).await);
    let apart = if here.store.traits().queue { 0 } else { SHORT.as_micros() as u64 };
    assert!(first.since.abs_diff(second.since) <= apart, "{first:?} {second:?}");
    // Where there is a vote, another voter may propose a later one.
    let is_same = if here.store.traits().queue { first.fence == second.fence } else { first.fence <= second.fence };
    assert!(is_same, "{first:?} {second:?}");
    assert!(first.until <= second.until);
    let entry = &here.read().await.record.holders;
    assert!(entry.len() == 1 && entry[0].until.abs_diff(second.until) <= apart, "{entry:?}");
    assert_eq!(here.release(claim.id).await, Was::Holding);
    here.enter(&mutex()).await;
}

/// A renewal makes the hold last for its ttl from now on, and never for less than it would have.
///
/// Red with: a renewal that changes nothing; one that sets the end as it comes.
pub async fn a_renewal_extends_and_never_shortens(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let claim = mutex();
    let before = lock.enter(&claim).await;
    let reply = lock.renew(claim.id, LONG * 2).await;
    let longer = held(reply).expect("it is held");
    assert_eq!(longer.until, longer.now + (LONG * 2).as_micros() as u64);
    assert_eq!((longer.fence, longer.since), (before.fence, before.since));
    // Several nodes have several clocks, any of which may be the one that tells.
    let apart = if lock.store.traits().queue { 0 } else { SHORT.as_micros() as u64 };
    let is_as_long = |until: Micros| assert!(until.abs_diff(longer.until) <= apart, "{until} is not {}", longer.until);
    let reply = lock.renew(claim.id, SHORT).await;
    is_as_long(held(reply).expect("it is held").until);
    is_as_long(lock.read().await.record.holders[0].until);
    let reply = lock.acquire(&claim.clone().ttl(SHORT)).await;
    is_as_long(held(reply).expect("asking again does not shorten either").until);
}

/// A renewal of what is not held says that it is gone and leaves everything as it is: never held, released, expired, or
/// still waiting.
///
/// Red with: a renewal that lets its claim in.
pub async fn a_renewal_never_recreates(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let gone = Outcome::Gone { was: Was::Unknown };
    let claim = mutex();
    assert_eq!(lock.renew(claim.id, LONG).await.outcome, gone);
    lock.enter(&claim).await;
    lock.release(claim.id).await;
    assert_eq!(lock.renew(claim.id, LONG).await.outcome, gone);

    let expires = mutex().ttl(SHORT);
    let until = lock.enter(&expires).await.until;
    let certainly = until + if lock.store.traits().queue { 0 } else { 2 * SHORT.as_micros() as u64 };
    eventually("the hold expires", || async { (lock.read().await.now >= certainly).then_some(()) }).await;
    assert_eq!(lock.renew(expires.id, LONG).await.outcome, gone);
    assert_eq!(lock.who().await, (vec![], vec![]));

    let (holder, waits) = (mutex(), mutex().waiting(LONG));
    lock.enter(&holder).await;
    if lock.store.traits().queue {
        lock.is_kept_out(&waits).await;
        assert_eq!(lock.renew(waits.id, LONG).await.outcome, Outcome::Gone { was: Was::Waiting });
        assert_eq!(lock.who().await, (vec![holder.id], vec![waits.id]));
    }
}

/// A release says what there was to release, and the second time nothing; nor does it end what came in since.
///
/// Red with: a release that removes the first holder, whoever it is.
pub async fn releasing_twice_is_once(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let (first, second, third) = (mutex(), mutex(), mutex().waiting(LONG));
    lock.enter(&first).await;
    assert_eq!(lock.release(first.id).await, Was::Holding);
    lock.enter(&second).await;
    assert_eq!(lock.release(first.id).await, Was::Unknown);
    lock.is_kept_out(&third).await;
    if lock.store.traits().queue {
        assert_eq!(lock.release(third.id).await, Was::Waiting);
        assert_eq!(lock.release(third.id).await, Was::Unknown);
        assert_eq!(lock.who().await.1, []);
    }
    assert_eq!(lock.who().await.0, [second.id]);
}

/// A release ends its own claim among many, whichever it is, and an unknown id ends none.
///
/// Red with: a release that removes the last of the holders; one that empties the queue.
pub async fn a_release_touches_no_other_claim(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let readers = [(); 3].map(|()| reader());
    let writers = [(); 3].map(|()| mutex().waiting(LONG));
    for claim in &readers {
        lock.enter(claim).await;
    }
    for claim in &writers {
        lock.is_kept_out(claim).await;
    }
    let ids = |claims: &[&Acquire]| claims.iter().map(|claim| claim.id).collect::<Vec<_>>();
    let [r1, r2, r3] = &readers;
    let [w1, w2, w3] = &writers;
    assert_eq!(lock.release(fresh_id()).await, Was::Unknown);
    lock.release(r2.id).await;
    let queued = lock.store.traits().queue;
    // Where there is no queue, who waits may stand somewhere all the same.
    let are_in_and_wait = |who: (Vec<_>, Vec<_>), waiting: &[&Acquire]| {
        assert_eq!(who.0, ids(&[r1, r3]));
        assert!(!queued || who.1 == ids(waiting), "{who:?}");
    };
    are_in_and_wait(lock.who().await, &[w1, w2, w3]);
    lock.release(w2.id).await;
    are_in_and_wait(lock.who().await, &[w1, w3]);
}

/// A release that buries its id keeps a request that was still under way from coming back, for as long as it says. No
/// other id is buried with it.
///
/// Red with: nothing buried; a grave that lasts; one for everyone.
pub async fn a_buried_claim_stays_out(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let (late, soon) = (mutex(), mutex());
    assert_eq!(here.release_and_bury(late.id, LONG).await.0, Was::Unknown);
    assert_eq!(there.acquire(&late).await.outcome, Outcome::Refused(Refusal::Buried));
    let (_, buried_at) = here.release_and_bury(soon.id, SHORT).await;
    let until = buried_at + SHORT.as_micros() as u64;
    let back = eventually("the grave ends", || async {
        let reply = there.acquire(&soon).await;
        match reply.outcome {
            Outcome::Refused(Refusal::Buried) => {
                assert!(reply.now < until, "still buried after its time: {reply:?}");
                None
            }
            _ => held(reply),
        }
    });
    let apart = if here.store.traits().queue { 0 } else { SHORT.as_micros() as u64 };
    assert!(back.await.now + apart >= until);
    let (was, _) = here.release_and_bury(soon.id, LONG).await;
    assert_eq!(was, Was::Holding, "what is in is released and buried");
    assert_eq!(there.acquire(&soon).await.outcome, Outcome::Refused(Refusal::Buried));
    there.enter(&mutex()).await;
}

/// A hold that is not renewed is over at its end and not before, and whoever is told to come back is not sent away for
/// longer than that.
///
/// Red with: nothing swept; a sweep that is a millisecond early; an alarm that is late.
pub async fn an_expired_hold_lets_the_next_in(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let (dies, next) = (mutex().ttl(SHORT * 2), mutex());
    // Several nodes have several clocks, and let it in one after the other.
    let apart = if here.store.traits().queue { 0 } else { SHORT.as_micros() as u64 };
    let until = here.enter(&dies).await.until + apart;
    let entered = eventually("the next comes in", || async {
        let reply = there.acquire(&next).await;
        if let Outcome::Busy { retry_in, .. } = reply.outcome {
            assert!(reply.now < until, "kept out after the end: {reply:?}, {until}");
            assert!(
                reply.now + retry_in.as_micros() as u64 <= until + 1_000,
                "sent away for too long: {reply:?}, {until}"
            );
        }
        held(reply)
    });
    let entered = entered.await;
    assert!(entered.now + 2 * apart >= until, "{} µs too soon", until - entered.now);
    assert_eq!(here.release(dies.id).await, Was::Unknown);
}
