//! Calls that join, are carried, and are given up, and carriers that go, in whatever order. See `sync.rs`.
//!
//! A call that nobody carries leaves all threads blocked, which loom reports. Bugs that were planted, one at a time, and
//! found: whether a call is the first is looked at outside of the lock under which it joins; only the first is taken; what a
//! carrier that goes leaves is not given back, or not asked again; a carrier that took its load still gives back what came
//! since; the calls of all are answered where those who are gone are left out.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use loom::future::block_on;
use loom::thread;

use super::{Dropped, Gather, Load};
use crate::sync::model;

type Calls = Arc<Gather<u32, u32>>;

/// A carrier in a thread of its own, which answers each call by ten times its number.
fn carried(load: Load<u32, u32>) {
    thread::spawn(move || load.take().into_iter().for_each(|one| one.reply.send(10 * one.call)));
}

/// One that goes before it has taken anything.
fn gone(load: Load<u32, u32>) {
    thread::spawn(move || drop(load));
}

fn caller(calls: &Calls, call: u32) -> thread::JoinHandle<Result<u32, Dropped>> {
    let calls = calls.clone();
    thread::spawn(move || block_on(calls.call(call, carried)))
}

#[test]
fn model_every_call_is_carried_and_has_its_own_answer() {
    model(|| {
        let calls = Calls::default();
        let other = caller(&calls, 2);
        assert_eq!(block_on(calls.call(1, carried)), Ok(10));
        assert_eq!(other.join().unwrap(), Ok(20));
        assert!(calls.is_empty());
    });
}

#[test]
fn model_a_caller_that_goes_neither_stalls_nor_mixes_the_others() {
    model(|| {
        let calls = Calls::default();
        let other = caller(&calls, 2);
        let polled = block_on(async {
            let mut call = pin!(calls.call(1, carried));
            poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await
        });
        assert!(matches!(polled, Poll::Pending | Poll::Ready(Ok(10))), "{polled:?}");
        assert_eq!(other.join().unwrap(), Ok(20));
    });
}

#[test]
fn model_a_carrier_that_goes_hands_the_others_on() {
    model(|| {
        let calls = Calls::default();
        let other = caller(&calls, 2);
        let own = block_on(calls.call(1, gone));
        assert!(matches!(own, Ok(10) | Err(Dropped::Unsent)), "{own:?}");
        assert_eq!(other.join().unwrap(), Ok(20));
        assert!(calls.is_empty());
    });
}

#[test]
fn model_a_carrier_that_goes_with_what_it_took_tells_all_of_them() {
    model(|| {
        let calls = Calls::default();
        let other = caller(&calls, 2);
        let own = block_on(calls.call(1, |load| _ = thread::spawn(move || drop(load.take()))));
        assert!(matches!(own, Ok(10) | Err(Dropped::Sent)), "{own:?}");
        let other = other.join().unwrap();
        assert!(matches!(other, Ok(20) | Err(Dropped::Sent)), "{other:?}");
        assert!(calls.is_empty());
    });
}
