//! The rule as worked examples: fences, and how long a lock is remembered for their sake.

use std::time::Duration;

use tenure::proto::{Acquire, Outcome};

use crate::lock::{Lock, SECOND, START, at, mutex, of};

#[test]
fn a_fence_is_the_clock_or_one_more_than_the_last() {
    let mut lock = Lock::new();
    assert_eq!(lock.enter(&mutex('a')), START);
    lock.release('a');
    assert_eq!(lock.enter(&mutex('b')), START + 1, "in the same microsecond");
    lock.release('b');
    lock.pass(7);
    assert_eq!(lock.enter(&mutex('c')), at(7));
}

#[test]
fn an_unused_lock_is_forgotten_after_its_memory() {
    let mut lock = Lock::new();
    lock.enter(&mutex('a'));
    lock.pass(3);
    lock.release('a');
    assert_eq!(lock.record.expires, at(63), "a minute after its last use");
    lock.pass(59);
    lock.release('x');
    assert_eq!(lock.record.fence, START, "looking at it does not make it last longer");
    lock.pass(1);
    lock.release('x');
    assert_eq!(lock.record, Lock::new().record);
    assert_eq!(lock.enter(&mutex('b')), at(63), "and still the next fence is a later one");
}

#[test]
fn a_holder_that_never_came_back_is_forgotten_too() {
    let mut lock = Lock::new();
    lock.enter(&mutex('a'));
    assert_eq!(lock.record.expires, at(70));
}

#[test]
fn a_fence_ahead_of_the_clock_is_remembered_until_the_clock_has_passed_it() {
    let forgetful = |name| Acquire { memory: Duration::ZERO, ..mutex(name) };
    let mut lock = Lock::new();
    assert_eq!(lock.enter(&forgetful('a')), START);
    lock.release('a');
    lock.now -= 5 * SECOND;
    assert_eq!(lock.enter(&forgetful('b')), START + 1, "the clock went back");
    lock.release('b');
    lock.now = START + 1;
    assert_eq!(lock.enter(&forgetful('c')), START + 2, "not even a lock of no memory mints a fence twice");
}

#[test]
fn after_a_failover_to_a_stale_copy_fences_go_on_rising() {
    let mut lock = Lock::new();
    lock.enter(&mutex('a'));
    let mut stale = lock.clone();
    lock.release('a');
    lock.pass(1);
    let last = lock.enter(&mutex('b'));

    // The copy has not heard of a's release, nor of b. It takes over two seconds later, with a clock a second behind.
    stale.pass(2);
    stale.release('a');
    assert!(stale.enter(&mutex('c')) > last);

    // Nor would a node that lost everything fall behind.
    let mut wiped = Lock::new();
    wiped.pass(2);
    assert!(wiped.enter(&mutex('d')) > last);
}

#[test]
fn a_claim_that_shares_a_fence_outlives_the_one_that_brought_it() {
    let mut lock = Lock::new();
    lock.enter(&of("ann", mutex('a')));
    lock.pass(9);
    assert_eq!(lock.enter(&of("ann", mutex('b'))), START);
    lock.pass(9);
    assert_eq!(lock.enter(&of("ann", mutex('c'))), START, "a expired, and ann has been in all the time");
}

#[test]
fn the_longest_durations_are_a_year_and_the_shortest_a_microsecond() {
    let year = 366 * 24 * 3_600 * SECOND;
    let forever = Acquire { ttl: Duration::MAX, patience: Duration::MAX, memory: Duration::MAX, ..mutex('a') };
    let mut lock = Lock::new();
    let held = Outcome::Held { fence: START, since: START, until: START + year, waiting: 0 };
    assert_eq!(lock.ask(&forever), held);
    assert_eq!(lock.record.expires, START + 2 * year);
    lock.wait(&Acquire { patience: Duration::from_nanos(1), ..mutex('b') });
    assert_eq!(lock.record.queue[0].until, START + 1);
}

#[test]
fn a_proposed_token_is_taken_where_it_is_later_than_the_last() {
    let proposal = |name, fence| Acquire { fence, ..mutex(name) };
    let mut lock = Lock::new();
    assert_eq!(lock.enter(&proposal('a', START - 5)), START - 5, "it may be behind the clock");
    assert_eq!(lock.enter(&proposal('a', START + 7)), START + 7, "and a holder may change to a later one");
    assert_eq!(lock.enter(&proposal('a', START + 7)), START + 7, "once");
    assert_eq!(lock.enter(&proposal('a', START + 6)), START + 7, "but never to an earlier one");
    lock.release('a');
    assert_eq!(lock.enter(&proposal('b', START + 7)), START + 8, "nobody gets a token that somebody had");
}
