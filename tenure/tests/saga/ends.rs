//! How sagas end, and what they refuse to go on with.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use tenure::transaction::journal::Memory;
use tenure::transaction::{Call, Failure, Saga, SagaBuilder, SagaState, StepState};
use tenure::{Error, ErrorKind, Locks, What};
use tokio::time::Instant;

use crate::common::{Fault, client, ms, two_clients};
use crate::shop::{Counts, Declined, counts, hold, nothing, order, pay, refund, refuse};

#[tokio::test(start_paused = true)]
async fn failed_attempts_are_made_again_at_the_delays_that_were_given() {
    let (counts, (locks, _store)) = (counts(2, 0), client());
    let saga = order().backoff(|| [ms(1_000), ms(5_000)].into_iter()).build(counts.clone(), Arc::new(Memory::new()));
    let (saga, guard, start) = (saga.unwrap(), hold(&locks).await, Instant::now());
    let status = saga.run("42", &"a lamp", &guard).await.unwrap();
    assert_eq!((status.state(), status.steps()[0].attempts), (SagaState::Completed, 3));
    assert!((ms(6_000)..ms(6_010)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(status.output::<u32>("pay").unwrap(), Some(7));
    assert_eq!(status.output::<u32>("send").unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn when_the_delays_end_or_an_error_is_final_the_saga_is_compensated_with_the_failed_step() {
    let twice = || order().retry(1, ms(10));
    for (failing, saga, attempts, error) in [
        (9, twice(), 2, "no answer"),
        (9, twice().fatal_on::<io::Error>(), 1, "no answer"),
        (9, twice().fatal_on::<Declined>(), 2, "no answer"),
        (0, twice().step("stock", refuse, nothing), 1, "sold out"),
    ] {
        let (counts, (locks, _store)) = (counts(failing, 0), client());
        let saga = saga.build(counts.clone(), Arc::new(Memory::new())).unwrap();
        let status = saga.run("42", &"a lamp", &hold(&locks).await).await.unwrap();
        assert_eq!(status.state(), SagaState::Compensated);
        assert_eq!(status.cause().unwrap().error, error);
        assert_eq!((counts.acted.load(SeqCst), counts.undone.load(SeqCst)), (attempts, 1), "{status}");
        assert!(status.steps().iter().all(|step| step.state == StepState::Undone));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_policy_an_action_has_six_attempts_and_a_compensation_thirteen() {
    let (counts, (locks, _store)) = (counts(99, 99), client());
    let saga = order().build(counts.clone(), Arc::new(Memory::new())).unwrap();
    let start = Instant::now();
    let status = saga.run("42", &"a lamp", &hold(&locks).await).await.unwrap();
    assert_eq!(status.state(), SagaState::Stuck);
    assert_eq!((counts.acted.load(SeqCst), counts.undone.load(SeqCst)), (6, 13));
    assert!((ms(60_000)..ms(180_000)).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_saga_that_is_stuck_is_told_and_tried_again_by_hand() {
    let (counts, (locks, _store), journal) = (counts(0, 2), client(), Arc::new(Memory::new()));
    let saga = order().step("stock", refuse, nothing).undo_backoff(|| [ms(10)].into_iter());
    let saga = saga.build(counts.clone(), journal.clone()).unwrap();
    let (guard, mut events) = (hold(&locks).await, locks.events());
    let status = saga.run("42", &"a lamp", &guard).await.unwrap();
    assert_eq!(status.to_string(), "order/42 is stuck at pay after 2 attempts: no account");
    let mut told = Vec::new();
    while !matches!(told.last(), Some(What::SagaStuck { .. })) {
        told.push(events.recv().await.unwrap().what);
    }
    let failed = |step: &str, undo, attempt, error: &str| What::SagaStepFailed {
        saga: "order/42".to_owned(),
        step: step.to_owned(),
        undo,
        attempt,
        error: error.to_owned(),
    };
    let status = status.to_string();
    let undoing = |attempt| failed("pay", true, attempt, "no account");
    assert_eq!(told, [failed("stock", false, 1, "sold out"), undoing(1), undoing(2), What::SagaStuck { status }]);
    // Nobody but a person does anything about it.
    assert_eq!(saga.resume("42", &guard).await.unwrap().state(), SagaState::Stuck);
    assert!(saga.resume_all(&guard).await.unwrap().is_empty());
    assert_eq!(
        (saga.run("42", &"a lamp", &guard).await.unwrap().state(), counts.undone.load(SeqCst)),
        (SagaState::Stuck, 2)
    );
    let status = saga.retry("42", &guard).await.unwrap();
    assert_eq!((status.state(), counts.undone.load(SeqCst), counts.acted.load(SeqCst)), (SagaState::Compensated, 3, 1));
    assert_eq!(events.recv().await.unwrap().what, What::SagaCompensated { status: status.to_string() });
    // It has been told.
    assert_eq!(saga.resume("42", &guard).await.unwrap().state(), SagaState::Compensated);
    guard.release().await.unwrap();
    let told = events.recv().await.unwrap().what;
    assert!(matches!(told, What::Released { .. }), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn another_definition_or_another_lock_does_not_go_on_with_it() {
    let (counts, (locks, store), journal) = (counts(0, 0), client(), Arc::new(Memory::new()));
    let build = |saga: SagaBuilder<Counts>| saga.build(counts.clone(), journal.clone()).unwrap();
    let (first, guard) =
        (build(order().step("wait", |_| std::future::pending::<Result<(), _>>(), nothing)), hold(&locks).await);
    let _ = tokio::time::timeout(ms(100), first.run("42", &"a lamp", &guard)).await.unwrap_err();
    let error = build(order().step("wait", nothing, nothing).version(2)).resume("42", &guard).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (
            ErrorKind::Mismatch,
            "saga \"42\" of \"order\" was begun under version 1 (pay, wait), and this program has version 2 \
             (pay, wait): end it with a program of that version first"
        )
    );
    let error = build(order().step("send", nothing, nothing)).resume("42", &guard).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Mismatch && error.to_string().contains("(pay, send)"), "{error}");
    let again = build(order().step("wait", nothing, nothing));
    let other = locks.mutex("order-43").build().unwrap().lock().await.unwrap();
    assert!(again.resume_all(&other).await.unwrap().is_empty(), "it is another lock's");
    let error = again.resume("42", &other).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Mismatch && error.to_string().contains("\"order-42\""), "{error}");
    let all = again.resume_all(&guard).await.unwrap();
    assert!(all.len() == 1 && all[0].0 == "42" && all[0].1.as_ref().unwrap().is_completed(), "{all:?}");
    assert_eq!(counts.acted.load(SeqCst), 1, "what was done is not done again");
    assert!(again.resume_all(&guard).await.unwrap().is_empty());
    drop(store);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_holder_can_neither_write_nor_take_it_back() {
    let (counts, (ours, theirs, _store), journal) = (counts(0, 0), two_clients(), Arc::new(Memory::new()));
    let gate = Arc::new(tokio::sync::Notify::new());
    let slow = |gate: Arc<tokio::sync::Notify>| {
        order().step(
            "wait",
            move |_| {
                let gate = gate.clone();
                async move {
                    gate.notified().await;
                    Ok(())
                }
            },
            nothing,
        )
    };
    let saga = slow(gate.clone()).build(counts.clone(), journal.clone()).unwrap();
    let early = hold(&ours).await;
    let run = async {
        let error = saga.run("42", &"a lamp", &early).await.unwrap_err();
        assert!(error.is_lost() && error.to_string().contains("taken up by a later holder"), "{error}");
    };
    let take_over = async {
        tokio::time::sleep(ms(100)).await;
        theirs.break_lock("order-42").await.unwrap();
        // The earlier one has not heard of it yet, and goes on.
        let late = hold(&theirs).await;
        let saga = order().step("wait", nothing, nothing).build(counts.clone(), journal.clone()).unwrap();
        assert!(saga.resume("42", &late).await.unwrap().is_completed());
        gate.notify_one();
        late
    };
    let ((), late) = tokio::join!(run, take_over);
    // It writes to none that a later one has taken up, also where it comes anew.
    let stuck = order()
        .step("wait", |_| std::future::pending::<Result<(), _>>(), nothing)
        .build(counts.clone(), journal.clone())
        .unwrap();
    let _ = tokio::time::timeout(ms(10), stuck.run("43", &"a lamp", &late)).await.unwrap_err();
    let error = saga.resume("43", &early).await.unwrap_err();
    assert!(error.is_lost(), "{error}");
    assert_eq!(saga.status("43").await.unwrap().unwrap().fence(), late.fence());
}

/// A service that checks fences knows of a later holder before the earlier one does.
#[tokio::test(start_paused = true)]
async fn what_is_refused_for_its_fence_is_left_to_the_next_holder_and_not_undone() {
    let (counts, (ours, theirs, _store), journal) = (counts(0, 0), two_clients(), Arc::new(Memory::new()));
    let refused = |_| async { Err::<(), _>(Error::new(ErrorKind::Lost, "that fence is too old").into()) };
    let saga = order().step("check", refused, nothing).retry(1, ms(1)).build(counts.clone(), journal.clone()).unwrap();
    let early = hold(&ours).await;
    theirs.break_lock("order-42").await.unwrap();
    assert!(early.is_held(), "it has not heard of it");
    let error = saga.run("42", &"a lamp", &early).await.unwrap_err();
    assert!(error.is_lost() && error.to_string().contains("order-42"), "{error}");
    assert_eq!(saga.status("42").await.unwrap().unwrap().state(), SagaState::Running);
    let next = order().step("check", nothing, nothing).build(counts.clone(), journal).unwrap();
    let late = hold(&theirs).await;
    assert!(next.resume("42", &late).await.unwrap().is_completed());
    assert_eq!(counts.undone.load(SeqCst), 0);
    // While the hold is good, it is a failure as any other: some other lock was lost.
    assert_eq!(saga.run("43", &"a lamp", &late).await.unwrap().state(), SagaState::Compensated);
    assert_eq!(counts.undone.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lock_ends_the_run_at_once_and_the_next_holder_goes_on() {
    let (counts, (locks, store), journal) = (counts(0, 0), client(), Arc::new(Memory::new()));
    let hanging = order().step("wait", |_| std::future::pending::<Result<(), _>>(), nothing);
    let saga = hanging.build(counts.clone(), journal.clone()).unwrap();
    let guard = locks.mutex("order-42").ttl(ms(3_000)).build().unwrap().lock().await.unwrap();
    store.fault(Fault::Refuse);
    let start = Instant::now();
    assert!(saga.run("42", &"a lamp", &guard).await.unwrap_err().is_lost());
    assert!(start.elapsed() < ms(3_000));
    let status = saga.status("42").await.unwrap().unwrap();
    assert_eq!((status.state(), status.steps()[1].state), (SagaState::Running, StepState::Begun));
    assert!(saga.resume("42", &guard).await.unwrap_err().is_lost(), "nothing is begun without a hold");
    store.fault(Fault::None);
    drop(guard);
    let saga = order().step("wait", nothing, nothing).build(counts.clone(), journal.clone()).unwrap();
    let status = saga.resume("42", &hold(&locks).await).await.unwrap();
    assert_eq!((status.is_completed(), status.steps()[1].attempts), (true, 2));
}

/// Nothing is waited for, so nobody else gets to say that the hold is over.
#[tokio::test]
async fn after_an_action_that_blocked_for_longer_than_the_hold_none_is_begun() {
    let (counts, locks) = (counts(0, 0), tenure::open("memory:").await.unwrap());
    let block = |_| async {
        std::thread::sleep(ms(60));
        Ok(())
    };
    let saga = Saga::builder("order").step("block", block, nothing).step("pay", pay, refund);
    let saga = saga.build(counts.clone(), Arc::new(Memory::new())).unwrap();
    let guard = locks.mutex("order-42").ttl(ms(50)).build().unwrap().lock().await.unwrap();
    assert!(saga.run("42", &"a lamp", &guard).await.unwrap_err().is_lost());
    assert_eq!(counts.acted.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hold_without_a_fence_carries_no_saga() {
    let (counts, (_, store)) = (counts(0, 0), client());
    let locks = Locks::builder(Arc::new(store.clone())).fallback(|_, _| tenure::Instead::Unlocked).retry(0, ms(1));
    let locks = locks.build().unwrap();
    store.fault(Fault::Refuse);
    let guard = locks.mutex("order-42").build().unwrap().try_lock().await.unwrap().unwrap();
    let saga = order().build(counts.clone(), Arc::new(Memory::new())).unwrap();
    assert_eq!(saga.run("42", &"a lamp", &guard).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(counts.acted.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn an_action_that_ends_its_process_each_time_is_given_up() {
    let (counts, (locks, _store), journal) = (counts(0, 0), client(), Arc::new(Memory::new()));
    let deadly = |call: Call<Counts>| async move {
        call.context().acted.fetch_add(1, SeqCst);
        std::future::pending::<Result<(), Failure>>().await
    };
    let saga = Saga::builder("order").step("deadly", deadly, refund).retry(0, ms(1));
    let (saga, guard) = (saga.build(counts.clone(), journal).unwrap(), hold(&locks).await);
    let mut ended = None;
    for _ in 0..10 {
        ended = ended.or(tokio::time::timeout(ms(100), saga.run("42", &"a lamp", &guard)).await.ok());
    }
    let status = ended.unwrap().unwrap();
    assert_eq!((status.state(), counts.acted.load(SeqCst)), (SagaState::Compensated, 3));
    assert!(status.cause().unwrap().error.contains("was cut short"), "{status}");
}
