//! The rule as worked examples, to be read from top to bottom.

use std::time::Duration;

use tenure::proto::{Acquire, At, Grant, Inbox, Op, Outcome, Refusal, Release, Renew, Was};

use crate::lock::{Lock, START, at, id, mutex, of, permits, reader, writer};

#[test]
fn a_mutex_is_handed_to_the_next_in_line() {
    let mut lock = Lock::new();
    let held = Outcome::Held { fence: START, since: START, until: at(10), waiting: 0 };
    assert_eq!(lock.ask(&mutex('a')), held);
    assert_eq!(lock.ask(&mutex('b')), Outcome::Busy { ahead: 0, retry_in: Duration::from_secs(3) });
    assert_eq!(lock.wait(&mutex('c')), 1);
    assert_eq!(lock.picture(), "a|bc");

    lock.pass(1);
    let release = Op::Release(Release { id: id('a'), bury: Duration::ZERO, fence: 0 });
    let (_, grants) = lock.record.apply(&release, At { now: lock.now, inbox: &Inbox::from("there") });
    assert_eq!(grants, [Grant { id: id('b'), fence: at(1), inbox: "here".into() }], "told where b asked from");
    assert_eq!(lock.picture(), "b|c");

    // What was handed over lasts as long as b's place would have. Asking again confirms it, for the whole of its term.
    assert_eq!(lock.record.holders[0].until, at(3));
    assert_eq!(lock.ask(&mutex('b')), Outcome::Held { fence: at(1), since: at(1), until: at(11), waiting: 1 });
}

#[test]
fn a_token_minted_by_the_holder_is_taken_over_up_to_the_clock() {
    let mut lock = Lock::new();
    lock.enter(&mutex('a'));
    lock.pass(1);
    let mut fence_after = |fence| {
        lock.apply(&Op::Renew(Renew { id: id('a'), ttl: Duration::from_secs(10), fence }));
        lock.record.holders[0].fence
    };
    assert_eq!(fence_after(START + 5), START + 5);
    assert_eq!(fence_after(START + 3), START + 5, "an older one is no news");
    assert_eq!(fence_after(at(1)), at(1));
    assert_eq!(fence_after(at(2) + 1), at(1), "nobody's clock is that far ahead of the store's");
    // A stranger's word counts for nothing.
    lock.pass(1);
    lock.apply(&Op::Release(Release { id: id('b'), bury: Duration::ZERO, fence: at(2) }));
    assert_eq!(lock.record.fence, at(1));
    // The clock was set back: what the holder said is remembered.
    lock.apply(&Op::Release(Release { id: id('a'), bury: Duration::ZERO, fence: at(2) }));
    lock.now = at(1);
    assert_eq!(lock.enter(&mutex('b')), at(2) + 1);

    // Also where it was set back before the holder could say it.
    lock.apply(&Op::Release(Release { id: id('b'), bury: Duration::ZERO, fence: at(2) + 50 }));
    assert_eq!(lock.enter(&mutex('c')), at(2) + 51);
}

#[test]
fn no_reader_passes_a_writer_that_waits() {
    let mut lock = Lock::new();
    lock.enter(&reader('a'));
    lock.enter(&reader('b'));
    lock.wait(&writer('w'));
    lock.wait(&reader('c'));
    lock.wait(&reader('d'));
    lock.wait(&writer('x'));
    assert_eq!(lock.picture(), "ab|wcdx");

    lock.release('a');
    assert_eq!(lock.picture(), "b|wcdx");
    lock.release('b');
    assert_eq!(lock.picture(), "w|cdx");
    lock.release('w');
    assert_eq!(lock.picture(), "cd|x", "the readers enter together");
    assert_eq!(lock.told, "wcd");
}

#[test]
fn a_semaphore_lets_in_what_fits_but_nobody_past_the_head() {
    let mut lock = Lock::new();
    lock.enter(&permits('a', 1));
    lock.enter(&permits('b', 1));
    assert_eq!(lock.wait(&permits('c', 2)), 0);
    assert_eq!(lock.wait(&permits('d', 1)), 1, "one permit is free, and c's turn comes first");
    lock.release('a');
    assert_eq!(lock.picture(), "bc|d");
    lock.release('b');
    assert_eq!(lock.picture(), "cd|");
}

#[test]
fn another_limit_makes_another_lock_once_nobody_alive_uses_this_one() {
    let mut lock = Lock::new();
    lock.enter(&permits('a', 1));
    assert_eq!(lock.ask(&mutex('m')), Outcome::Refused(Refusal::Mismatch { limit: 3 }));
    lock.pass(10);
    lock.enter(&mutex('m'));
}

#[test]
fn a_dead_holder_costs_its_term() {
    let mut lock = Lock::new();
    lock.enter(&mutex('a'));
    lock.pass(8);
    lock.wait(&mutex('b'));
    lock.pass(2);
    assert_eq!(lock.enter(&mutex('b')), at(10));
    assert_eq!(lock.release('a'), Was::Unknown, "a comes back too late, and touches nothing");
    assert_eq!(lock.renew('a'), Outcome::Gone { was: Was::Unknown });
    assert_eq!(lock.picture(), "b|");
}

#[test]
fn the_dead_vanish_from_the_queue_wherever_they_stand() {
    let mut lock = Lock::new();
    lock.enter(&mutex('a'));
    lock.wait(&mutex('b'));
    lock.wait(&mutex('c'));
    lock.wait(&mutex('d'));
    lock.pass(2);
    lock.wait(&mutex('c'));
    assert_eq!(lock.wait(&mutex('e')), 3);
    assert_eq!(lock.picture(), "a|bcde");
    lock.pass(2);
    assert_eq!(lock.wait(&mutex('c')), 0, "b, the head, has not asked again in time");
    assert_eq!(lock.picture(), "a|ce", "nor has d, in the middle");
}

#[test]
fn a_dead_waiter_that_is_let_in_costs_its_patience() {
    let mut lock = Lock::new();
    lock.enter(&mutex('a'));
    lock.wait(&mutex('b'));
    lock.pass(1);
    lock.wait(&mutex('c'));
    lock.release('a');
    lock.pass(2);
    lock.wait(&mutex('d'));
    assert_eq!((lock.picture(), lock.told.as_str()), ("c|d".into(), "bc"));
}

#[test]
fn an_owner_comes_back_for_more_under_its_own_fence() {
    let mut lock = Lock::new();
    assert_eq!(lock.enter(&of("ann", mutex('a'))), START);
    lock.wait(&mutex('x'));
    lock.pass(1);
    assert_eq!(lock.enter(&of("ann", mutex('b'))), START, "past x, which waits for ann");
    assert_eq!(lock.ask(&Acquire { max: 2, ..of("ann", mutex('c')) }), Outcome::Refused(Refusal::Full));

    lock.release('a');
    assert_eq!(lock.picture(), "b|x", "each claim is released by itself");
    lock.release('b');
    assert_eq!(lock.picture(), "x|");
}

#[test]
fn claims_of_one_owner_count_as_the_largest_of_them() {
    let mut lock = Lock::new();
    lock.enter(&of("ann", permits('a', 2)));
    lock.enter(&of("ann", permits('b', 1)));
    lock.enter(&permits('x', 1));
    assert_eq!(lock.picture(), "abx|");
    lock.wait(&permits('y', 1));
    lock.release('a');
    assert_eq!(lock.picture(), "bxy|");
}

#[test]
fn a_reader_that_wants_to_write_waits_for_the_other_readers_alone() {
    let mut lock = Lock::new();
    lock.enter(&of("ann", reader('a')));
    lock.enter(&reader('x'));
    lock.wait(&writer('w'));
    assert_eq!(lock.wait(&of("ann", writer('b'))), 0);
    assert_eq!(lock.picture(), "ax|bw");

    lock.pass(1);
    lock.release('x');
    assert_eq!(lock.picture(), "ab|w");
    assert_eq!(lock.enter(&of("ann", writer('b'))), at(1), "a write is a new acquisition");
    assert_eq!(lock.enter(&of("ann", reader('c'))), at(1), "and reading beside it is not");

    // Down again: with the write released, others may read.
    lock.release('w');
    lock.wait(&reader('y'));
    lock.release('b');
    assert_eq!(lock.picture(), "acy|");
}

#[test]
fn of_two_readers_that_want_to_write_the_second_is_refused() {
    let mut lock = Lock::new();
    lock.enter(&of("ann", reader('a')));
    lock.enter(&of("ben", reader('b')));
    lock.wait(&of("ann", writer('c')));
    assert_eq!(lock.ask(&of("ben", writer('d'))), Outcome::Refused(Refusal::Deadlock));
    assert_eq!(lock.picture(), "ab|c");
    lock.release('b');
    assert_eq!(lock.picture(), "ac|");
}

#[test]
fn a_place_moves_up_when_asked_for_from_inside() {
    let mut lock = Lock::new();
    lock.enter(&writer('x'));
    lock.wait(&of("ann", reader('a')));
    lock.wait(&of("ben", reader('b')));
    lock.wait(&writer('w'));
    lock.wait(&of("ann", writer('c')));
    lock.wait(&of("ben", writer('d')));
    lock.release('x');
    assert_eq!(lock.picture(), "ab|wcd");

    let hasty = Acquire { patience: Duration::from_secs(1), ..of("ann", writer('c')) };
    assert_eq!(lock.wait(&hasty), 0, "w waits for ann, so ann does not wait for w");
    assert_eq!(lock.record.queue[0].until, at(3), "its place lasts no shorter for that");
    assert_eq!(lock.picture(), "ab|cwd");
    assert_eq!(lock.ask(&of("ben", writer('d'))), Outcome::Refused(Refusal::Deadlock));
    assert_eq!(lock.picture(), "ab|cw", "ben gives up its place, and has to leave for ann to go on");
}

#[test]
fn an_upgrade_keeps_its_place_when_the_hold_behind_it_expires() {
    let mut lock = Lock::new();
    lock.enter(&of("ann", reader('a')));
    lock.pass(8);
    lock.enter(&of("ben", reader('b')));
    lock.enter(&reader('x'));
    lock.wait(&writer('w'));
    lock.wait(&of("ann", writer('c')));
    lock.pass(2);
    assert_eq!(lock.wait(&of("ann", writer('c'))), 0);
    assert_eq!(lock.picture(), "bx|cw");
    // Nobody inside waits now, so ben may.
    assert_eq!(lock.wait(&of("ben", writer('d'))), 0);
    assert_eq!(lock.picture(), "bx|dcw");
}

#[test]
fn whoever_got_no_reply_sends_the_same_again() {
    let mut lock = Lock::new();
    lock.enter(&mutex('a'));
    lock.pass(1);
    assert_eq!(lock.enter(&mutex('a')), START, "the same hold, under the same fence");
    assert_eq!(lock.wait(&mutex('b')), 0);
    assert_eq!(lock.wait(&mutex('b')), 0, "the same place");
    assert_eq!(lock.release('a'), Was::Holding);
    assert_eq!(lock.release('a'), Was::Unknown, "b is in by now, and stays");
    assert_eq!(lock.enter(&mutex('b')), at(1), "the push got lost as well");
    assert_eq!(lock.picture(), "b|");
}

#[test]
fn who_will_not_wait_takes_no_place_and_gives_up_the_one_it_had() {
    let mut lock = Lock::new();
    lock.enter(&mutex('a'));
    lock.wait(&mutex('b'));
    let now_or_never = |name| Acquire { patience: Duration::ZERO, ..mutex(name) };
    assert_eq!(lock.wait(&now_or_never('c')), 1);
    assert_eq!(lock.wait(&now_or_never('b')), 0);
    assert_eq!(lock.picture(), "a|");
}

#[test]
fn a_buried_claim_does_not_come_back() {
    let mut lock = Lock::new();
    assert_eq!(lock.bury('a', 10), Was::Unknown, "the release overtakes the request");
    assert_eq!(lock.ask(&mutex('a')), Outcome::Refused(Refusal::Buried));
    lock.pass(5);
    lock.bury('a', 10);
    lock.pass(9);
    assert_eq!(lock.ask(&mutex('a')), Outcome::Refused(Refusal::Buried), "ten seconds from the second release");
    lock.pass(1);
    lock.enter(&mutex('a'));
}
