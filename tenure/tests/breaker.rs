//! The circuit breaker, under a paused clock: what opens it, what it lets through, and how it closes.
//!
//! Bugs that were planted, one at a time, and found: it never closes; refusals count; renewals fail fast; an answer to what
//! was sent before the failures closes it; every claim is a trial; a cancelled trial keeps it open.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Chaos, Fault, crowd, ms, run_ready};
use tenure::env::Env;
use tenure::proto::{Acquire, Claim, ClaimId, Op, Release, Renew};
use tenure::store::{Breaker, BreakerState, Store};
use tenure::{ErrorKind, HoldState, Key, Locks};
use tokio::time::{Instant, sleep};

const COOL: Duration = Duration::from_secs(1);

/// A breaker that opens after three failures, the store behind it, and a client.
fn guarded() -> (Breaker, Chaos, Locks) {
    let env = Env::simulated(7);
    let chaos = Chaos::new(env.clone());
    let breaker = Breaker::builder(Arc::new(chaos.clone())).failures(3).cool_down(COOL).env(env.clone());
    let breaker = breaker.build().unwrap();
    let locks = Locks::builder(Arc::new(breaker.clone())).env(env).build().unwrap();
    (breaker, chaos, locks)
}

fn key() -> Key {
    Key::new("a").unwrap()
}

fn acquire(id: u128) -> Op {
    Op::Acquire(Acquire {
        id: ClaimId::new(id),
        claim: Claim::EXCLUSIVE,
        ttl: ms(30_000),
        patience: Duration::ZERO,
        owner: None,
        max: 1,
        memory: ms(60_000),
        meta: Default::default(),
        fence: 0,
    })
}

fn renew(id: u128) -> Op {
    Op::Renew(Renew { id: ClaimId::new(id), ttl: ms(30_000), fence: 0 })
}

fn release(id: u128) -> Op {
    Op::Release(Release { id: ClaimId::new(id), bury: Duration::ZERO, fence: 0 })
}

async fn open(breaker: &Breaker, chaos: &Chaos) {
    chaos.fault(Fault::Refuse);
    for n in 0..3 {
        assert_eq!(breaker.state(), BreakerState::Closed, "after {n} failures");
        breaker.apply(&key(), &acquire(90 + n)).await.unwrap_err();
    }
    assert_eq!(breaker.state(), BreakerState::Open { retry_in: COOL });
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_refuses_claims_without_sending_them_and_says_why() {
    let (breaker, chaos, _locks) = guarded();
    open(&breaker, &chaos).await;
    chaos.fault(Fault::None);
    let error = breaker.apply(&key(), &acquire(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Unavailable, false));
    assert_eq!(
        error.to_string(),
        "the circuit breaker of the memory store is open after 3 failures in a row; nothing was sent, and the next \
         request passes in 1s; its last failure: the test refuses"
    );
    assert_eq!(breaker.read(&key()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(breaker.scan().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(chaos.take_ops(), []);
}

#[tokio::test(start_paused = true)]
async fn after_the_cool_down_one_claim_is_the_trial_and_its_answer_closes_the_breaker() {
    let (breaker, chaos, _locks) = guarded();
    open(&breaker, &chaos).await;
    sleep(COOL).await;
    chaos.fault(Fault::None);
    chaos.yields(1);
    let (name, ours, theirs) = (key(), acquire(1), acquire(2));
    let (first, second) = tokio::join!(breaker.apply(&name, &ours), breaker.apply(&name, &theirs));
    first.unwrap();
    assert!(second.unwrap_err().to_string().contains("passes when one that is on its way was answered"));
    assert_eq!(chaos.take_ops(), [acquire(1)]);
    assert_eq!(breaker.state(), BreakerState::Closed);
    breaker.apply(&name, &release(1)).await.unwrap();
    breaker.apply(&name, &acquire(2)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_fails_opens_it_again_for_a_whole_cool_down() {
    let (breaker, chaos, _locks) = guarded();
    open(&breaker, &chaos).await;
    sleep(COOL).await;
    breaker.apply(&key(), &acquire(1)).await.unwrap_err();
    assert_eq!(breaker.state(), BreakerState::Open { retry_in: COOL });
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_is_cancelled_or_never_ends_does_not_keep_it_open() {
    let (breaker, chaos, _locks) = guarded();
    open(&breaker, &chaos).await;
    sleep(COOL).await;
    chaos.fault(Fault::Hang);
    assert!(tokio::time::timeout(ms(1), breaker.apply(&key(), &acquire(1))).await.is_err());
    assert_eq!(breaker.state(), BreakerState::Open { retry_in: ms(0) }, "cancelled: the next may try");

    let hanging = breaker.clone();
    let task = tokio::spawn(async move { hanging.apply(&key(), &acquire(2)).await });
    run_ready().await;
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    sleep(COOL).await;
    chaos.fault(Fault::None);
    breaker.apply(&key(), &acquire(3)).await.expect("another trial is let through");
    assert_eq!(breaker.state(), BreakerState::Closed);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_failure_and_a_quick_cancellation_is_none() {
    let (breaker, chaos, _locks) = guarded();
    chaos.fault(Fault::Hang);
    for id in 0..10 {
        assert!(tokio::time::timeout(ms(249), breaker.apply(&key(), &acquire(id))).await.is_err());
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    for id in 0..3 {
        assert!(tokio::time::timeout(ms(251), breaker.apply(&key(), &acquire(id))).await.is_err());
    }
    assert_eq!(breaker.state(), BreakerState::Open { retry_in: COOL });
    let error = breaker.apply(&key(), &acquire(11)).await.unwrap_err();
    assert!(error.to_string().ends_with("it fell silent"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn refusals_are_answers_and_never_open_it() {
    let (breaker, chaos, _locks) = guarded();
    chaos.fault(Fault::Foreign);
    for id in 0..10 {
        assert_eq!(breaker.apply(&key(), &acquire(id)).await.unwrap_err().kind(), ErrorKind::Foreign);
    }
    chaos.fault(Fault::None);
    breaker.apply(&key(), &acquire(1)).await.unwrap();
    for id in 2..10 {
        breaker.apply(&key(), &acquire(id)).await.expect("busy is an answer");
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn only_failures_in_a_row_open_it() {
    let (breaker, chaos, _locks) = guarded();
    for round in 0..10 {
        chaos.fault(Fault::LoseReply);
        for _ in 0..2 {
            assert!(breaker.apply(&key(), &acquire(round)).await.unwrap_err().is_ambiguous());
        }
        chaos.fault(Fault::None);
        breaker.apply(&key(), &release(round)).await.unwrap();
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn renewals_releases_and_pings_pass_an_open_breaker_and_an_answer_to_them_closes_it() {
    for op in [renew(1), release(1)] {
        let (breaker, chaos, _locks) = guarded();
        breaker.apply(&key(), &acquire(1)).await.unwrap();
        open(&breaker, &chaos).await;
        breaker.apply(&key(), &op).await.unwrap_err();
        assert_eq!(breaker.state(), BreakerState::Open { retry_in: COOL }, "its failing changes nothing");
        chaos.fault(Fault::None);
        breaker.apply(&key(), &op).await.unwrap();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }
    let (breaker, chaos, _locks) = guarded();
    open(&breaker, &chaos).await;
    breaker.ping().await.unwrap();
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_the_renewals_pass_and_the_claims_do_not() {
    let (breaker, chaos, _locks) = guarded();
    breaker.apply(&key(), &acquire(1)).await.unwrap();
    open(&breaker, &chaos).await;
    chaos.fault(Fault::None);
    chaos.take_ops();
    let ops = [(key(), acquire(2)), (key(), renew(1)), (key(), acquire(3)), (key(), release(1))];
    let replies = breaker.apply_many(&ops).await;
    assert_eq!(replies.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false, true]);
    assert_eq!(chaos.take_ops(), [renew(1), release(1)]);
    assert!(breaker.apply_many(&[]).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_what_was_sent_before_the_failures_does_not_close_it() {
    let (breaker, chaos, _locks) = guarded();
    breaker.apply(&key(), &acquire(1)).await.unwrap();
    chaos.yields(1_000);
    let early = breaker.clone();
    let early = tokio::spawn(async move { early.apply(&key(), &renew(1)).await });
    run_ready().await;
    chaos.yields(0);
    tokio::time::advance(ms(1)).await;
    open(&breaker, &chaos).await;
    early.await.unwrap().expect("it was on its way before");
    assert_eq!(breaker.state(), BreakerState::Open { retry_in: COOL });
}

#[tokio::test(start_paused = true)]
async fn a_hold_lives_through_an_outage_behind_a_breaker_as_without_one() {
    let (breaker, chaos, locks) = guarded();
    let guard = locks.mutex("a").ttl(ms(3_000)).build().unwrap().lock().await.unwrap();
    chaos.fault(Fault::Refuse);
    for _ in 0..20 {
        locks.mutex("b").build().unwrap().try_lock().await.unwrap_err();
        sleep(ms(100)).await;
    }
    assert!(matches!(breaker.state(), BreakerState::Open { .. }) && guard.is_held());
    chaos.fault(Fault::None);
    sleep(ms(400)).await;
    assert_eq!(guard.state(), HoldState::Held, "it was renewed before the cool-down was over");
    assert_eq!(breaker.state(), BreakerState::Closed, "and that closed the breaker");
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_waits_notices_that_the_store_is_back() {
    let (breaker, chaos, locks) = guarded();
    open(&breaker, &chaos).await;
    let waiter = tokio::spawn(locks.mutex("a").build().unwrap().lock().into_future());
    sleep(ms(5_000)).await;
    assert_eq!((chaos.take_ops(), waiter.is_finished()), (vec![], false));
    chaos.fault(Fault::None);
    let back = Instant::now();
    let guard = waiter.await.unwrap().unwrap();
    assert!(back.elapsed() <= COOL + ms(1_001), "{:?}", back.elapsed());
    assert_eq!((breaker.state(), crowd(&chaos, "a").await), (BreakerState::Closed, (1, 0)));
    guard.release().await.unwrap();
}

#[test]
fn thresholds_that_cannot_be_meant_are_refused_by_name() {
    let refusal = |change: fn(tenure::store::BreakerBuilder) -> tenure::store::BreakerBuilder| {
        let chaos = Breaker::builder(Arc::new(tenure::store::Memory::new()));
        change(chaos).build().unwrap_err().to_string()
    };
    assert_eq!(refusal(|b| b.failures(0)), "failures of 0 is out of range: give 1 to 1000000");
    assert_eq!(refusal(|b| b.cool_down(Duration::ZERO)), "cool_down of 0s is out of range: give 1ms to 1h");
    assert_eq!(refusal(|b| b.silence(Duration::ZERO)), "silence of 0s is out of range: give 1ms to 10m");
}
