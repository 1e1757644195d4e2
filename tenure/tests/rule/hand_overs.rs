//! The rule as worked examples: how a claim becomes another owner's.

use tenure::proto::{Outcome, Refusal, Was};

use crate::lock::{Lock, START, at, mutex, of, permits, reader, writer};

const GONE: Outcome = Outcome::Gone { was: Was::Unknown };

fn is_busy(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Busy { .. })
}

#[test]
fn a_mutex_passes_to_another_owner_and_who_waits_goes_on_waiting() {
    let mut lock = Lock::new();
    lock.enter(&of("ann", mutex('a')));
    lock.wait(&mutex('x'));
    lock.pass(1);
    let held = Outcome::Held { fence: at(1), since: at(1), until: at(21), waiting: 1 };
    assert_eq!(lock.hand_over('a', 'b', "ben"), held);
    assert_eq!((lock.picture().as_str(), lock.told.as_str()), ("b|x", ""));
    let heir = &lock.record.holders[0];
    assert_eq!((heir.owner.as_ref().map(|owner| owner.as_str()), &heir.meta[..]), (Some("ben"), &b"heir"[..]));
    assert_eq!(lock.hand_over('a', 'b', "ben"), held, "asked again, it is told the same");

    // The old claim is void, and its owner a stranger.
    assert_eq!((lock.renew('a'), lock.release('a')), (GONE, Was::Unknown));
    assert_eq!(lock.ask(&of("ann", mutex('a'))), Outcome::Refused(Refusal::Buried));
    assert!(is_busy(lock.ask(&of("ann", mutex('c')))));
    assert_eq!(lock.hand_over('a', 'd', "dan"), GONE);
    lock.enter(&of("ben", mutex('e')));
    assert_eq!(lock.picture(), "be|xc");
}

#[test]
fn the_token_is_later_also_where_the_heirs_owner_is_in() {
    let mut lock = Lock::new();
    lock.enter(&of("ben", reader('b')));
    lock.enter(&of("ann", reader('a')));
    assert_eq!(lock.record.fence, START + 1);
    lock.hand_over('a', 'c', "ben");
    assert_eq!(lock.record.holders.iter().map(|entry| entry.fence).collect::<Vec<_>>(), [START, START + 2]);
}

#[test]
fn an_owner_with_another_claim_keeps_both() {
    let mut lock = Lock::new();
    lock.enter(&of("ann", mutex('a')));
    lock.enter(&of("ann", mutex('b')));
    assert!(is_busy(lock.hand_over('a', 'c', "ben")));
    assert_eq!(lock.picture(), "ab|");
    lock.release('b');
    assert!(matches!(lock.hand_over('a', 'c', "ben"), Outcome::Held { .. }));

    let mut lock = Lock::new();
    lock.enter(&of("ann", reader('a')));
    lock.enter(&reader('r'));
    lock.wait(&of("ann", writer('w')));
    assert!(is_busy(lock.hand_over('a', 'c', "ben")), "one that waits would wait for its own heir");
    assert_eq!(lock.picture(), "ar|w");
}

#[test]
fn permits_stay_as_they_are_and_a_place_of_the_heirs_owner_may_fit_now() {
    let mut lock = Lock::new();
    lock.enter(&permits('a', 2));
    lock.enter(&permits('x', 1));
    lock.wait(&of("ben", permits('b', 2)));
    lock.wait(&permits('y', 1));
    lock.hand_over('a', 'c', "ben");
    assert_eq!((lock.picture().as_str(), lock.told.as_str()), ("xcb|y", "b"));
    assert_eq!(lock.record.holders[1].permits, 2);
}

#[test]
fn what_is_not_in_is_handed_over_to_nobody() {
    let mut lock = Lock::new();
    assert_eq!(lock.hand_over('a', 'b', "ben"), GONE);
    lock.enter(&mutex('a'));
    lock.wait(&mutex('w'));
    assert_eq!(lock.hand_over('w', 'b', "ben"), GONE, "a place is not a hold");
    // A heir that was given up before stays out, and the lease with its holder.
    lock.bury('b', 5);
    assert_eq!(lock.hand_over('a', 'b', "ben"), Outcome::Refused(Refusal::Buried));
    assert_eq!(lock.picture(), "a|w");
    lock.pass(10);
    assert_eq!(lock.hand_over('a', 'c', "ben"), GONE, "its time has passed");
}

#[test]
fn who_is_handed_over_at_once_is_not_told() {
    let mut lock = Lock::new();
    lock.enter(&mutex('a'));
    lock.pass(8);
    lock.wait(&mutex('b'));
    lock.pass(2);
    lock.hand_over('b', 'c', "ben");
    assert_eq!((lock.picture().as_str(), lock.told.as_str()), ("c|", ""));
}
