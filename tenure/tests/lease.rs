//! Leases: holds that outlive their process, found again by a ticket. Under a paused clock, and on a real Redis.
//!
//! Bugs that were planted, one at a time, and found: dropping releases; resuming prolongs, or does not ask; the ticket's
//! version, fence or store is not looked at; `Debug` shows the id; a hand-over leaves a heir that nobody knows of, is not asked
//! for again, keeps the old owner's name, or buries nothing; a degraded hold becomes a lease.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Chaos, Fault, client, crowd, ms, run_ready, two_clients};
use tenure::proto::{Op, Outcome, Refusal};
use tenure::store::{Fallback, Store};
use tenure::{ErrorKind, Key, Lease, Locks, Ticket};
use tokio::time::sleep;

const TERM: Duration = Duration::from_secs(10);

async fn lease(locks: &Locks) -> Lease {
    locks.mutex("a").build().unwrap().lease(TERM).await.unwrap()
}

/// What another process reads.
fn sent(lease: &Lease) -> Ticket {
    Ticket::decode(&lease.ticket().encode()).unwrap()
}

fn forged(ticket: &Ticket, from: &str, to: &str) -> Result<Ticket, tenure::Error> {
    let text = ticket.encode();
    assert!(text.contains(from), "{text}");
    Ticket::decode(&text.replace(from, to))
}

#[tokio::test(start_paused = true)]
async fn a_lease_outlives_its_value_and_its_client_and_ends_with_its_term() {
    let (ours, theirs, store) = two_clients();
    let lease = lease(&ours).await;
    assert!(lease.remaining() > ms(9_890) && lease.remaining() < TERM, "{:?}", lease.remaining());
    drop(lease);
    ours.close().await;
    drop(ours);
    sleep(ms(9_900)).await;
    assert_eq!(crowd(&store, "a").await, (1, 0));
    assert!(theirs.mutex("a").build().unwrap().try_lock().await.unwrap().is_none());
    sleep(ms(101)).await;
    assert!(theirs.mutex("a").build().unwrap().try_lock().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_ticket_finds_the_lease_in_another_process_without_prolonging_it() {
    let (ours, theirs, store) = two_clients();
    let lease = lease(&ours).await;
    let (fence, ticket) = (lease.fence(), sent(&lease));
    assert_eq!(&ticket, lease.ticket());
    drop(lease);
    sleep(ms(4_000)).await;
    let mut lease = theirs.resume(ticket).await.unwrap();
    assert_eq!((lease.fence(), lease.name(), lease.is_held()), (fence, "a", true));
    assert!(lease.remaining() < ms(6_000) && lease.remaining() > ms(5_900), "{:?}", lease.remaining());
    lease.refresh().await.unwrap();
    assert!(lease.remaining() > ms(9_890));
    sleep(ms(9_000)).await;
    assert!(lease.is_held() && crowd(&store, "a").await == (1, 0));
    assert!(lease.release().await.unwrap());
    assert_eq!(crowd(&store, "a").await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_over_is_told_lost_and_released_once() {
    let (ours, theirs, _store) = two_clients();
    let mut lease = lease(&ours).await;
    let again = theirs.resume(sent(&lease)).await.unwrap();
    assert!(lease.release().await.unwrap());
    assert!(!again.release().await.unwrap() && !lease.release().await.unwrap());
    assert_eq!(lease.refresh().await.unwrap_err().kind(), ErrorKind::Lost);
    let error = theirs.resume(sent(&lease)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert!(error.to_string().starts_with("the store has no such lease on the lock \"a\": it has expired,"), "{error}");

    let expired = self::lease(&ours).await;
    sleep(TERM).await;
    assert!(!expired.is_held());
    assert_eq!(theirs.resume(sent(&expired)).await.unwrap_err().kind(), ErrorKind::Lost);
    let next = theirs.mutex("a").build().unwrap().try_lock().await.unwrap().expect("nothing was brought back");
    assert!(!expired.release().await.unwrap(), "it cannot touch its successor");
    assert!(next.refresh().await.is_ok() && next.fence() > expired.fence());
}

#[tokio::test(start_paused = true)]
async fn forged_and_foreign_tickets_are_refused() {
    let (ours, _theirs, _store) = two_clients();
    let lease = lease(&ours).await;
    let ticket = sent(&lease);
    let refused = |ticket: Result<Ticket, tenure::Error>| ticket.unwrap_err();
    for (from, to) in [
        ("\"version\":1", "\"version\":2"),
        ("\"name\":\"a\"", "\"name\":\"\""),
        ("\"term_ms\":10000", "\"term_ms\":99999999999"),
        ("\"permits\":", "\"permits\":0,\"limit\":1,\"x\":"),
        ("\"owner\":\"", "\"owner\":7,\"x\":\""),
        ("{", "["),
    ] {
        let error = refused(forged(&ticket, from, to));
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let id = ticket.encode().split("\"id\":\"").nth(1).unwrap()[..32].to_owned();
        assert!(!format!("{error} {error:?}").contains(&id), "an error tells no secret: {error:?}");
    }
    // What could have been issued is for the store to judge.
    let fence = format!("\"fence\":{}", ticket.fence());
    let error = ours.resume(forged(&ticket, &fence, "\"fence\":7").unwrap()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("about the fence"), "{error}");
    let elsewhere = forged(&ticket, "\"name\":\"a\"", "\"name\":\"b\"").unwrap();
    assert_eq!(ours.resume(elsewhere).await.unwrap_err().kind(), ErrorKind::Lost);
    let error = ours.resume(forged(&ticket, "\"memory\"", "\"redis\"").unwrap()).await.unwrap_err();
    assert_eq!(error.to_string(), "the lease on \"a\" is of a redis store, and this is a memory store: open that one");
    let (other, _) = client();
    assert_eq!(other.resume(ticket).await.unwrap_err().kind(), ErrorKind::Lost, "another store of the kind");
    assert!(lease.is_held() && lease.release().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn nothing_that_is_printed_shows_the_claims_id() {
    let (ours, _theirs, store) = two_clients();
    let lease = lease(&ours).await;
    let seen = ours.info("a").await.unwrap();
    let id = seen.holders[0].id.to_string();
    let ticket = lease.ticket();
    assert!(ticket.encode().contains(&id), "the ticket itself has it");
    let printed = format!("{ticket} {ticket:?} {lease:?}");
    assert!(!printed.contains(&id) && printed.contains("\"a\""), "{printed}");
    assert_eq!(ticket.to_string(), format!("a lease of 10s on the lock \"a\" with fence {}", lease.fence()));
    assert_eq!(crowd(&store, "a").await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lease_becomes_a_guard_that_is_renewed_and_released() {
    let (ours, theirs, store) = two_clients();
    let lease = lease(&ours).await;
    let guard = theirs.resume(sent(&lease)).await.unwrap().into_guard();
    assert_eq!(guard.fence(), lease.fence());
    sleep(ms(60_000)).await;
    assert!(guard.is_held() && crowd(&store, "a").await == (1, 0));
    drop(guard);
    run_ready().await;
    sleep(ms(1)).await;
    assert_eq!(crowd(&store, "a").await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_lets_nobody_in_between_and_voids_the_old_ticket() {
    let (ours, theirs, store) = two_clients();
    let lease = lease(&ours).await;
    let (old, fence) = (sent(&lease), lease.fence());
    let waiter = tokio::spawn(theirs.mutex("a").build().unwrap().lock().into_future());
    run_ready().await;
    let next = lease.hand_over().await.unwrap();
    assert_eq!((crowd(&store, "a").await, waiter.is_finished()), ((1, 1), false));
    assert!(next.remaining() > ms(9_890) && next.fence() > fence && next.ticket().owner() != old.owner());
    assert_eq!(ours.resume(old).await.unwrap_err().kind(), ErrorKind::Lost);
    let next = theirs.resume(sent(&next)).await.unwrap();
    let fence = next.fence();
    assert!(next.release().await.unwrap());
    assert!(waiter.await.unwrap().unwrap().fence() > fence);
}

#[tokio::test(start_paused = true)]
async fn an_heir_that_is_named_may_come_in_and_the_former_owner_may_not() {
    let (ours, theirs, _store) = two_clients();
    let lock = ours.owner("ann").mutex("a").build().unwrap();
    let lease = lock.lease(TERM).await.unwrap();
    let (ticket, fence) = (sent(&lease), lease.fence());
    let second = lock.try_lease(TERM).await.unwrap().unwrap();
    let error = lease.hand_over_to("ben").await.unwrap_err();
    let expected = "the owner \"ann\" has other claims on the lock \"a\", and nobody else may be in beside them: release \
                    them, and hand over then";
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::ReentryLimit, expected));
    assert!(second.release().await.unwrap());
    let lease = ours.resume(ticket).await.expect("it is as it was");
    let lease = lease.hand_over_to("ben").await.unwrap();
    assert_eq!(lease.ticket().owner(), "ben");
    assert!(lock.try_lock().await.unwrap().is_none(), "ann is a stranger now");
    let inner = theirs.owner("ben").mutex("a").build().unwrap().try_lock().await.unwrap().expect("ben is in");
    assert!(inner.fence() == lease.fence() && lease.fence() > fence);
    drop(inner);
    let error = lease.hand_over_to("").await.unwrap_err();
    assert_eq!(error.to_string(), "an owner's name of 0 bytes: give 1 to 256");
}

#[tokio::test(start_paused = true)]
async fn a_guard_of_what_was_handed_over_learns_that_it_is_lost() {
    let (ours, theirs, _store) = two_clients();
    let lease = lease(&ours).await;
    let guard = theirs.resume(sent(&lease)).await.unwrap().into_guard();
    let next = lease.hand_over().await.unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(guard.lost().await, tenure::Loss::Gone);
    assert!(!guard.is_held() && start.elapsed() < TERM, "by its next renewal, after {:?}", start.elapsed());
    assert!(!guard.release().await.unwrap() && next.is_held());
    assert!(ours.resume(sent(&next)).await.is_ok(), "the loser ended nothing of its heir's");
}

#[tokio::test(start_paused = true)]
async fn a_late_request_for_what_was_handed_over_does_not_bring_it_back() {
    let (ours, _theirs, store) = two_clients();
    store.fault(Fault::LoseReply);
    let asking = tokio::spawn(ours.mutex("a").build().unwrap().lease(TERM).into_future());
    run_ready().await;
    store.fault(Fault::None);
    let lease = asking.await.unwrap().unwrap();
    let id = ours.info("a").await.unwrap().holders[0].id;
    let next = lease.hand_over().await.unwrap();
    assert!(next.release().await.unwrap());
    let acquire = store.take_ops().into_iter().find(|op| matches!(op, Op::Acquire(acquire) if acquire.id == id));
    let reply = store.apply(&Key::new("a").unwrap(), &acquire.unwrap()).await.unwrap();
    assert_eq!(reply.outcome, Outcome::Refused(Refusal::Buried));
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_fails_or_is_cancelled_leaves_one_claim_at_the_most() {
    let (ours, _theirs, store) = two_clients();
    let lease = self::lease(&ours).await;
    let ticket = sent(&lease);
    store.fault(Fault::Refuse);
    assert_eq!(lease.hand_over().await.unwrap_err().kind(), ErrorKind::Unavailable);
    store.fault(Fault::None);
    let lease = ours.resume(ticket).await.expect("the lease is as it was");
    assert_eq!(crowd(&store, "a").await, (1, 0));

    // Of a store that only answers the third time, the answer counts; of one that does not, nothing stays.
    store.fault(Fault::LoseReply);
    let answers = async {
        sleep(ms(20)).await;
        store.fault(Fault::None);
    };
    let (handed_over, ()) = tokio::join!(lease.hand_over(), answers);
    let lease = handed_over.unwrap();
    assert_eq!(crowd(&store, "a").await, (1, 0));
    store.fault(Fault::LoseReply);
    let error = lease.hand_over().await.unwrap_err();
    assert!(error.is_ambiguous() && error.to_string().contains("may have been handed over"), "{error}");
    store.fault(Fault::None);
    ours.close().await;
    assert_eq!(crowd(&store, "a").await, (0, 0), "nobody knows of it");
    let mut done = false;
    for k in 1.. {
        let (ours, theirs, store) = two_clients();
        let lease = self::lease(&ours).await;
        let ticket = sent(&lease);
        store.yields(2);
        let mut future = Box::pin(lease.hand_over());
        for _ in 0..k {
            let polled = std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await;
            if polled.is_ready() {
                done = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(future);
        store.yields(0);
        ours.close().await;
        let (holders, waiting) = crowd(&store, "a").await;
        assert!(holders <= 1 && waiting == 0, "cancelled after {k} polls: {holders} claims");
        assert!(done || holders == 0 || theirs.resume(ticket).await.is_ok(), "the heir stays, after {k} polls");
        if done {
            assert_eq!(holders, 1);
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_waited_for_has_its_whole_term() {
    let (ours, theirs, store) = two_clients();
    let guard = ours.mutex("a").build().unwrap().lock().await.unwrap();
    let lock = theirs.mutex("a").build().unwrap();
    assert!(lock.try_lease(TERM).await.unwrap().is_none());
    assert!(lock.lease(TERM).timeout(ms(50)).await.unwrap_err().is_timeout());
    let waiter = tokio::spawn(lock.lease(TERM).into_future());
    run_ready().await;
    guard.release().await.unwrap();
    let lease = waiter.await.unwrap().unwrap();
    assert!(lease.remaining() > ms(9_890), "{:?}", lease.remaining());
    sleep(ms(9_000)).await;
    assert!(lease.is_held());
    assert_eq!(crowd(&store, "a").await, (1, 0));
    let error = lock.lease(ms(1)).await.unwrap_err();
    assert_eq!(error.to_string(), "term of 1ms is out of range: give 10ms to 7d");
}

#[tokio::test(start_paused = true)]
async fn what_is_degraded_is_no_lease() {
    let env = tenure::env::Env::simulated(7);
    let (first, second) = (Chaos::new(env.clone()), Chaos::new(env.clone()));
    let store = Fallback::with_env(Arc::new(first.clone()), Arc::new(second.clone()), env.clone());
    let locks = Locks::builder(Arc::new(store)).env(env).build().unwrap();
    first.fault(Fault::Refuse);
    let error = locks.mutex("a").build().unwrap().try_lease(TERM).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    locks.close().await;
    assert_eq!(crowd(&second, "a").await, (0, 0));
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn on_redis_a_lease_passes_from_client_to_client_and_survives_them() {
    let server = testkit::Redis::start();
    let open = async || tenure::open(&server.url()).await.unwrap();
    let ours = open().await;
    let lock = ours.mutex("a").build().unwrap();
    let lease = lock.lease(TERM).await.unwrap();
    let (text, fence) = (lease.ticket().encode(), lease.fence());
    drop((lease, lock));
    ours.close().await;
    drop(ours);

    let theirs = open().await;
    assert!(theirs.mutex("a").build().unwrap().try_lock().await.unwrap().is_none());
    let mut lease = theirs.resume(Ticket::decode(&text).unwrap()).await.unwrap();
    lease.refresh().await.unwrap();
    assert!(lease.fence() == fence && lease.remaining() > ms(9_000) && lease.remaining() < TERM);
    let next = lease.hand_over_to("the next").await.unwrap();
    let holders = theirs.info("a").await.unwrap().holders;
    assert_eq!((holders.len(), holders[0].owner.as_deref()), (1, Some("the next")));
    assert!(next.fence() > fence);
    assert_eq!(theirs.resume(Ticket::decode(&text).unwrap()).await.unwrap_err().kind(), ErrorKind::Lost);
    assert!(next.release().await.unwrap() && !next.release().await.unwrap());
    assert!(!theirs.info("a").await.unwrap().is_locked());
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_comes_too_late_is_no_lease() {
    let (locks, store) = client();
    let lease = locks.mutex("a").build().unwrap().lease(ms(500)).await.unwrap();
    store.delay(ms(600));
    assert!(lease.hand_over().await.unwrap_err().is_lost());
    store.delay(ms(0));
    locks.close().await;
    assert_eq!(crowd(&store, "a").await, (0, 0));
}
