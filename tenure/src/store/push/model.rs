//! A grant finds its waiter, in whatever order delivery, waiting, waking and leaving come. See `sync.rs`.
//!
//! A wake-up that is lost leaves all threads blocked, which loom reports. Bugs that were planted, one at a time, and
//! found: what was told is read before the waker is registered; a wake-up for all overwrites a grant.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use loom::future::block_on;
use loom::thread;

use super::{Hub, Push, Watch};
use crate::proto::{ClaimId, Grant, Inbox};
use crate::sync::model;

fn grant(id: u128, fence: u64) -> Grant {
    Grant { id: ClaimId::new(id), fence, inbox: Inbox::from("") }
}

/// Waits for the grant; how many times it was told in vain before.
async fn granted(watch: &mut Watch) -> (u64, u32) {
    let mut in_vain = 0;
    loop {
        match watch.next().await {
            Push::Granted(fence) => return (fence, in_vain),
            Push::Changed => in_vain += 1,
        }
    }
}

#[test]
fn model_a_grant_wakes_its_waiter() {
    model(|| {
        let hub = Hub::new();
        let mut watch = hub.watch(ClaimId::new(1));
        let store = hub.clone();
        let delivery = thread::spawn(move || store.deliver(&grant(1, 7)));
        assert_eq!(block_on(granted(&mut watch)), (7, 0));
        delivery.join().unwrap();
        drop(watch);
        assert!(hub.is_empty());
    });
}

#[test]
fn model_a_grant_is_not_overwritten_by_a_wake_up_for_all() {
    model(|| {
        let hub = Hub::new();
        let mut watch = hub.watch(ClaimId::new(1));
        let (store, connection) = (hub.clone(), hub.clone());
        let delivery = thread::spawn(move || store.deliver(&grant(1, 7)));
        let reconnected = thread::spawn(move || connection.wake_all());
        let (fence, in_vain) = block_on(granted(&mut watch));
        assert!(fence == 7 && in_vain <= 1, "{fence} {in_vain}");
        delivery.join().unwrap();
        reconnected.join().unwrap();
    });
}

#[test]
fn model_everybody_is_woken_when_pushes_may_have_been_missed() {
    model(|| {
        let hub = Hub::new();
        let mut watch = hub.watch(ClaimId::new(1));
        let connection = hub.clone();
        let reconnected = thread::spawn(move || connection.wake_all());
        assert_eq!(block_on(watch.next()), Push::Changed);
        reconnected.join().unwrap();
    });
}

#[test]
fn model_who_leaves_while_it_is_told_leaves_nothing() {
    model(|| {
        let hub = Hub::new();
        let mut watch = hub.watch(ClaimId::new(1));
        let (store, connection) = (hub.clone(), hub.clone());
        let delivery = thread::spawn(move || store.deliver(&grant(1, 7)));
        let reconnected = thread::spawn(move || connection.wake_all());
        let told = block_on(async {
            let mut next = pin!(watch.next());
            poll_fn(|context| Poll::Ready(next.as_mut().poll(context))).await
        });
        assert!(matches!(told, Poll::Pending | Poll::Ready(Push::Changed | Push::Granted(7))));
        drop(watch);
        delivery.join().unwrap();
        reconnected.join().unwrap();
        assert!(hub.is_empty());
    });
}
