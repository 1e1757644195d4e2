//! Who waits, in what order they come in, and how they learn of it.

use std::time::Duration;

use super::Subject;
use super::lock::{LONG, Lock, SHORT, With, eventually, held, mutex, reader};
use crate::env::Env;
use crate::proto::{Outcome, Was};
use crate::store::Push;

/// Those who wait come in in the order in which they came, and know how many stand before them.
///
/// Red with: a queue that is served from its end.
pub async fn the_queue_is_served_in_order(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let first = mutex();
    here.enter(&first).await;
    let waiting = [(); 4].map(|()| mutex().waiting(LONG));
    for (i, claim) in waiting.iter().enumerate() {
        let lock = if i % 2 == 0 { &there } else { &here };
        assert_eq!(lock.is_kept_out(claim).await.0, i as u32, "how many stand before it");
    }
    let mut holder = first.id;
    for (i, claim) in waiting.iter().enumerate() {
        assert_eq!(here.release(holder).await, Was::Holding);
        for later in &waiting[i + 1..] {
            there.is_kept_out(later).await;
        }
        assert_eq!(there.enter(claim).await.waiting as usize, waiting.len() - i - 1);
        holder = claim.id;
    }
}

/// Nobody comes in past those who wait, even where there would be room.
///
/// Red with: a newcomer that need not find the queue empty.
pub async fn a_newcomer_does_not_overtake(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let (first, writer, late) = (reader(), mutex().waiting(LONG), reader().waiting(LONG));
    lock.enter(&first).await;
    lock.is_kept_out(&writer).await;
    lock.is_kept_out(&reader()).await;
    assert_eq!(lock.is_kept_out(&late).await.0, 1);
    lock.release(first.id).await;
    lock.is_kept_out(&late).await;
    lock.enter(&writer).await;
    lock.release(writer.id).await;
    lock.enter(&late).await;
}

/// Who waits and asks again keeps its place, for as long again as it has patience, and never for less than before.
///
/// Red with: a second request that goes to the back; one that leaves the deadline; one that shortens it.
pub async fn asking_again_keeps_the_place(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let (next, last) = (mutex().waiting(LONG), mutex().waiting(LONG));
    lock.enter(&mutex()).await;
    for claim in [&next, &last] {
        lock.is_kept_out(claim).await;
    }
    let before = lock.read().await.record.queue[0].until;
    let again = lock.acquire(&next).await;
    assert!(matches!(again.outcome, Outcome::Busy { ahead: 0, .. }), "{again:?}");
    let queue = lock.read().await.record.queue;
    assert_eq!(queue.iter().map(|entry| entry.id).collect::<Vec<_>>(), [next.id, last.id]);
    assert!(queue[0].until >= again.now + LONG.as_micros() as u64 && queue[0].until > before);
    lock.is_kept_out(&next.clone().waiting(SHORT)).await;
    assert!(lock.read().await.record.queue[0].until >= queue[0].until, "its deadline came nearer");
}

/// A place that is not asked for any more goes when its patience is over, at the head, in the middle and at the end,
/// and no sooner.
///
/// Red with: a sweep of the head alone; a sweep of the holders alone.
pub async fn a_place_expires_wherever_it_is(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let holder = mutex();
    lock.enter(&holder).await;
    let claims = [SHORT, LONG, SHORT, LONG, SHORT].map(|patience| mutex().waiting(patience));
    let mut deadline = 0;
    for claim in &claims {
        let reply = lock.acquire(claim).await;
        assert!(matches!(reply.outcome, Outcome::Busy { .. }), "{reply:?}");
        deadline = reply.now + SHORT.as_micros() as u64;
    }
    let patient = [claims[1].id, claims[3].id];
    let now = eventually("the three that are not patient go", || async {
        let seen = lock.read().await;
        let left: Vec<_> = seen.record.queue.iter().map(|entry| entry.id).collect();
        (left == patient).then_some(seen.now)
    });
    let now = now.await;
    assert!(now >= deadline, "the last of them went {} µs too soon", deadline - now);
    // The rule itself must have seen them go, not only the one who looks.
    lock.release(holder.id).await;
    assert_eq!(lock.who().await, (vec![patient[0]], vec![patient[1]]));
}

/// What leaves lets the next in at once, without the next having to ask.
///
/// Red with: nobody let in after an answer; fences by the clock alone, for two in one microsecond.
pub async fn a_release_lets_the_next_in(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let (first, second, third) = (mutex(), reader().waiting(LONG), reader().waiting(LONG));
    let before = here.enter(&first).await;
    there.is_kept_out(&second).await;
    there.is_kept_out(&third).await;
    here.release(first.id).await;
    let seen = there.read().await;
    let fences: Vec<u64> = seen.record.holders.iter().map(|entry| entry.fence).collect();
    assert_eq!(here.who().await, (vec![second.id, third.id], vec![]));
    assert!(before.fence < fences[0] && fences[0] < fences[1], "{} then {fences:?}", before.fence);
    assert_eq!(there.enter(&second).await.fence, fences[0]);
}

/// The claim that is let in is told so in its own process, and no other claim is: with its fence, or by being woken, where a
/// grant counts only once it was asked for.
///
/// A push may be lost, so one of ten may be.
///
/// Red with: nothing delivered; a fence of one less; delivery to everyone.
pub async fn a_grant_is_pushed_to_its_claim(subject: Subject) {
    let env = Env::system();
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let mut lost = 0;
    for round in 0..10 {
        // To another process, and within one.
        let waiter = if round % 2 == 0 { &there } else { &here };
        let (holder, next, last) = (mutex(), mutex().waiting(LONG), mutex().waiting(LONG));
        here.enter(&holder).await;
        let mut pushes = waiter.store.watch(&waiter.key, next.id);
        let mut none = waiter.store.watch(&waiter.key, last.id);
        waiter.is_kept_out(&next).await;
        waiter.is_kept_out(&last).await;
        here.release(holder.id).await;
        let told = env.timeout(Duration::from_secs(1), async {
            loop {
                let push = pushes.next().await;
                let seen = waiter.read().await.record.holders;
                let is_in = seen.iter().find(|entry| entry.id == next.id).map(|entry| entry.fence);
                match (push, is_in) {
                    (Push::Granted(fence), _) | (Push::Changed, Some(fence)) => return fence,
                    (Push::Changed, None) => {}
                }
            }
        });
        let (told, fence) = (told.await, waiter.enter(&next).await.fence);
        lost += usize::from(told.is_none());
        assert_eq!(told.unwrap_or(fence), fence, "the fence that was pushed, and the one of the hold");
        let stray = env.timeout(Duration::from_millis(1), none.next()).await;
        assert!(!matches!(stray, Some(Push::Granted(_))), "the claim behind it was told {stray:?}");
        for claim in [last, next] {
            waiter.release(claim.id).await;
        }
    }
    assert!(lost <= 1, "{lost} of 10 pushes did not arrive");
}

/// A claim that was let in while it waited is in until the deadline of its place, which its owner counts by itself; when
/// it asks again it has its whole ttl.
///
/// Red with: a hold for the ttl from the start; a confirmation that does not extend.
pub async fn a_grant_holds_until_its_places_deadline(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let (first, second) = (mutex(), mutex().waiting(LONG / 2).ttl(LONG * 2));
    lock.enter(&first).await;
    lock.is_kept_out(&second).await;
    let deadline = lock.read().await.record.queue[0].until;
    lock.release(first.id).await;
    let granted = lock.read().await.record.holders[0].clone();
    assert_eq!((granted.id, granted.until), (second.id, deadline));
    let confirmed = lock.enter(&second).await;
    assert_eq!((confirmed.fence, confirmed.since), (granted.fence, granted.since), "it is the same hold");
    assert_eq!(confirmed.until, confirmed.now + second.ttl.as_micros() as u64);
}

/// A claim that was let in and does not confirm is out at its place's deadline, and the one behind it is in.
///
/// Red with: a hold for the ttl from the start.
pub async fn an_unconfirmed_grant_passes_on(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let (first, dead, alive) = (mutex(), mutex().waiting(SHORT * 4), mutex().waiting(LONG));
    here.enter(&first).await;
    let deadline = here.acquire(&dead).await.now + (SHORT * 4).as_micros() as u64;
    there.is_kept_out(&alive).await;
    here.release(first.id).await;
    let next = eventually("the claim behind the dead one comes in", || async {
        let reply = there.acquire(&alive).await;
        assert!(held(reply).is_some() || reply.now < deadline, "still kept out after the deadline: {reply:?}");
        held(reply)
    });
    let next = next.await;
    assert!(next.now >= deadline, "{} µs too soon", deadline - next.now);
    assert_eq!(here.who().await, (vec![alive.id], vec![]));
}
