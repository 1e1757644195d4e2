//! The store as a whole: many operations at once, what can be read of it, and what is left in it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, future::select, stream::FuturesUnordered};

use super::Subject;
use super::admission::odd_names;
use super::lock::{LONG, Lock, SHORT, With, eventually, fresh_id, fresh_key, mutex, permits, reader};
use crate::env::{Env, spawn};
use crate::error::Result;
use crate::key::Key;
use crate::proto::{Acquire, Claim, Op, Outcome, Owner, Refusal, Release, Reply, Was};

/// A call whose future was dropped is a missing reply: it was carried out or not, a release with a burial settles it, and
/// calls of others are not touched.
///
/// Red with: a store that comes to its end when nobody takes an answer, in most runs; nothing buried.
pub async fn a_dropped_call_leaves_the_lock_sound(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    for round in 0..200 {
        let claim = mutex();
        let op = Op::Acquire(claim.clone());
        let call = here.store.apply(&here.key, &op);
        // Never polled, polled once, and given up further and further on its way.
        if round > 0 {
            let given_up = pin!(async {
                for _ in 1..round * 2 {
                    tokio::task::yield_now().await;
                }
            });
            drop(select(call, given_up).await);
        }
        here.release_and_bury(claim.id, LONG).await;
        assert_eq!(here.acquire(&claim).await.outcome, Outcome::Refused(Refusal::Buried));
        let other = mutex();
        there.enter(&other).await;
        assert_eq!(there.release(other.id).await, Was::Holding);
    }
    // What a minority of nodes has is let go soon after.
    eventually("nothing is left", || async { (here.who().await == (vec![], vec![])).then_some(()) }).await;
}

/// Many operations in one call are answered each by itself and in their order; those that fail or are refused do not
/// touch the others.
///
/// Red with: answers in the reverse order; an end at the first that is refused.
pub async fn many_are_answered_in_their_order(subject: Subject) {
    let store = subject.open().await;
    assert!(store.apply_many(&[]).await.is_empty());
    let keys: Vec<Key> = (0..60).map(|_| fresh_key("many-")).collect();
    for key in keys.iter().step_by(3) {
        Lock { store: store.clone(), key: key.clone() }.enter(&permits(1, 2)).await;
    }
    let claims: Vec<Acquire> = keys.iter().map(|_| mutex()).collect();
    let ops: Vec<(Key, Op)> = keys.iter().cloned().zip(claims.iter().cloned().map(Op::Acquire)).collect();
    for (i, reply) in answers(store.apply_many(&ops).await) {
        match reply.outcome {
            Outcome::Refused(refusal) if i % 3 == 0 => assert_eq!(refusal, Refusal::Mismatch { limit: 2 }),
            Outcome::Held { .. } if i % 3 != 0 => {}
            other => panic!("operation {i}: {other:?}"),
        }
    }
    let ids = claims.iter().enumerate().map(|(i, claim)| if i % 3 == 1 { fresh_id() } else { claim.id });
    let releases = ids.map(|id| Op::Release(Release { id, bury: Duration::ZERO, fence: 0 }));
    let ops: Vec<(Key, Op)> = keys.iter().cloned().zip(releases).collect();
    for (i, reply) in answers(store.apply_many(&ops).await) {
        let was = if i % 3 == 2 { Was::Holding } else { Was::Unknown };
        assert_eq!(reply.outcome, Outcome::Gone { was }, "operation {i}");
    }
}

fn answers(replies: Vec<Result<Reply>>) -> impl Iterator<Item = (usize, Reply)> {
    assert_eq!(replies.len(), 60);
    replies
        .into_iter()
        .enumerate()
        .map(|(i, reply)| (i, reply.unwrap_or_else(|error| panic!("operation {i}: {error}"))))
}

/// Anyone may read who holds and who waits, in order, with owner, permits, times, fence, and what they said about
/// themselves, byte for byte.
///
/// Red with: what they said as text; those who wait left out; a look that shows the expired.
pub async fn reading_shows_who_holds_and_who_waits(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let every_byte: Bytes = (0..=255).collect();
    let owner = Owner::new("an owner: \u{1f512} \0 \"'");
    let first = Acquire { meta: every_byte.clone(), ..permits(2, 3).of(&owner, 5) };
    let second = Acquire { meta: Bytes::from_static(b"second"), ..permits(1, 3) };
    let third = Acquire { meta: every_byte.clone(), ..permits(3, 3).waiting(LONG).of(&Owner::new("third"), 1) };
    let gone = permits(1, 3).waiting(SHORT);
    let (a, b) = (here.enter(&first).await, there.enter(&second).await);
    let asked = here.acquire(&third).await.now;
    here.is_kept_out(&gone).await;

    eventually("the expired are not shown", || async { (there.who().await.1 == [third.id]).then_some(()) }).await;
    let seen = there.read().await;
    let (record, now) = (seen.record, seen.now);
    assert_eq!(record.limit, 3);
    assert_eq!(record.fence, b.fence);
    assert!(b.now <= now && now < b.until);
    let holders: Vec<_> = record.holders.iter().map(|e| (e.id, e.owner.clone(), e.permits, e.since, e.until)).collect();
    let expected = [(first.id, Some(owner), 2, a.since, a.until), (second.id, None, 1, b.since, b.until)];
    assert_eq!(holders, expected);
    assert_eq!((record.holders[0].fence, record.holders[1].fence), (a.fence, b.fence));
    assert_eq!((&record.holders[0].meta, &record.holders[1].meta), (&every_byte, &second.meta));
    let waits = &record.queue[0];
    assert_eq!((waits.id, waits.permits, waits.owner.as_ref().map(Owner::as_str)), (third.id, 3, Some("third")));
    assert_eq!((waits.since, waits.until), (asked, asked + LONG.as_micros() as u64));
    assert_eq!((waits.fence, &waits.meta), (0, &every_byte));
}

/// Every name that is in use is listed as it was given, once, and the list is sorted.
///
/// Red with: names as they are stored; a list in any order.
pub async fn scanning_lists_every_name(subject: Subject) {
    let store = subject.open().await;
    let mut names = odd_names();
    for key in &names {
        Lock { store: store.clone(), key: key.clone() }.enter(&mutex()).await;
    }
    let listed = subject.open().await.scan().await.expect("the store can be scanned");
    assert!(listed.is_sorted(), "{listed:?}");
    let ours: Vec<Key> = listed.into_iter().filter(|key| names.contains(key)).collect();
    names.sort();
    assert_eq!(ours, names);
}

/// What nobody holds or awaits is remembered for its `memory`, and then nothing of it is left to be seen.
///
/// Red with: a record that is kept; one that goes with its last claim.
pub async fn an_unused_lock_is_forgotten(subject: Subject) {
    let here = Lock::fresh(&subject).await;
    let there = here.elsewhere(&subject).await;
    let memory = SHORT * 2;
    // One is released, the other expires.
    for ttl in [LONG, SHORT] {
        let claim = Acquire { memory, ..mutex().ttl(ttl) };
        let held = here.enter(&claim).await;
        let ends = match ttl {
            LONG => here.release_and_bury(claim.id, Duration::ZERO).await.1,
            _ => held.until,
        };
        let forgotten = ends + memory.as_micros() as u64;
        // Several nodes have several clocks, any of which may be the one that tells.
        let apart = if here.store.traits().queue { 0 } else { SHORT.as_micros() as u64 };
        let gone_at = eventually("it is forgotten", || async {
            let (seen, is_listed) = (there.read().await, there.is_listed().await);
            assert!(
                seen.now + apart >= forgotten || seen.record.fence == held.fence,
                "forgotten too soon: {seen:?}, {forgotten}"
            );
            (!is_listed && seen.record.fence == 0 && seen.record.is_empty()).then_some(seen.now)
        });
        let late = gone_at.await.saturating_sub(forgotten);
        assert!(late < 2_000_000, "forgotten {late} µs late");
    }
}

/// Tasks by the dozen, over several handles, in two kinds of lock: never are more in than may be, each comes in as often
/// as it wants, and each fence is later than that of who was in before.
///
/// Red with: a claim that fits without those who are in being counted; a store that loads and writes without a lock.
pub async fn a_crowd_never_overlaps(subject: Subject) {
    let lock = Lock::fresh(&subject).await;
    let other = Lock { key: fresh_key("crowd-"), ..lock.elsewhere(&subject).await };
    for (lock, claim, most) in [(lock, Claim::EXCLUSIVE, 1), (other, permits(1, 3).claim, 3)] {
        let crowd = Arc::new(Crowd { most, ..Crowd::default() });
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let handle = lock.elsewhere(&subject).await;
            tasks.extend((0..8).map(|_| visit(handle.clone(), claim, crowd.clone())));
        }
        let mut done: FuturesUnordered<_> =
            tasks.into_iter().map(|task| spawn(task).expect("a tokio runtime")).collect();
        // It ends with the first that fails, whichever it is, for the others would wait for it.
        while let Some(done) = done.next().await {
            done.expect("everyone in a crowd comes to their end");
        }
        assert_eq!(crowd.visits.load(SeqCst), 32 * VISITS);
        assert_eq!(lock.who().await, (vec![], vec![]));
    }
}

const VISITS: u64 = 4;

#[derive(Default)]
struct Crowd {
    most: u64,
    inside: AtomicU64,
    visits: AtomicU64,
    last_fence: AtomicU64,
}

async fn visit(lock: Lock, kind: Claim, crowd: Arc<Crowd>) {
    let env = Env::system();
    let push = lock.store.traits().push;
    for _ in 0..VISITS {
        let claim = Acquire { claim: kind, ..reader().waiting(LONG) };
        let mut watch = lock.store.watch(&lock.key, claim.id);
        let deadline = env.now() + LONG;
        let fence = loop {
            let millis = match lock.acquire(&claim).await.outcome {
                Outcome::Held { fence, .. } => break fence,
                Outcome::Busy { .. } if push => 50,
                // Those at the front ask sooner.
                Outcome::Busy { ahead, .. } => 2 + 2 * u64::from(ahead),
                other => panic!("neither let in nor kept out: {other:?}"),
            };
            assert!(env.now() < deadline, "kept out for {LONG:?}");
            env.timeout(Duration::from_millis(millis), watch.next()).await;
        };
        let inside = crowd.inside.fetch_add(1, SeqCst) + 1;
        assert!(inside <= crowd.most, "{inside} are in, and {} may be", crowd.most);
        let before = crowd.last_fence.fetch_max(fence, SeqCst);
        assert!(crowd.most > 1 || before < fence, "{fence} came in after {before}");
        tokio::task::yield_now().await;
        crowd.visits.fetch_add(1, SeqCst);
        crowd.inside.fetch_sub(1, SeqCst);
        lock.release(claim.id).await;
    }
}
