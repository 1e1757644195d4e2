//! The rule of `proto/record.rs`: told as stories, and tried on random histories.
//!
//! * `stories.rs`, `fences.rs` and `hand_overs.rs` are worked examples: read them to learn the rule.
//! * `promises.rs` says what must be true whatever happens, without the rule's help; each promise is a test of its own.
//! * `history.rs` makes up what happens, `turn.rs` is what there is to see of it.
//!
//! `TENURE_CASES=20000` plays so many histories for each promise instead of 200. A failure shrinks to the shortest
//! history that shows it, and names the seed: `TENURE_SEED`.
//!
//! Each promise has found a bug that was planted for it. These were the changes, each of one line and found within 200
//! histories; most break other promises as well. To see one again, make it, and run the tests.
//!
//! | the change | found by |
//! | --- | --- |
//! | `weight_of_others`: `*most = permits` | `permits_never_exceed_the_limit` |
//! | `apply`: without the second `let_in` | `a_lock_lets_its_head_in_as_soon_as_it_fits` |
//! | `acquire`: `self.queue.is_empty()` without `is_in \|\|` | `nobody_waits_in_vain` |
//! | `sweep`: drops only the heads of the queue that expired | `the_dead_are_gone_wherever_they_stood` |
//! | `sweep`: `alarm` of the holders alone | `everything_has_an_expiry` |
//! | `remembered_after`: `last + self.memory` | `a_lock_is_remembered_for_a_while_and_then_forgotten` |
//! | `sweep`: `forget_soon_if_empty` whether it was in use or not | the same |
//! | `enter`: `self.fence = self.fence.max(now)` | `fences_rise_in_the_order_of_grants` |
//! | `enter`: `shared` if the owner is in at all | the same |
//! | `acquire`: `is_in \|\| place.is_none()` | `nobody_overtakes_the_queue` |
//! | `let_in`: one head at a time | `a_place_keeps_its_turn` |
//! | `wait`: every third place that is refreshed goes to the back | the same |
//! | `renew`: lets in whom it finds in the queue | `a_renewal_never_recreates` |
//! | `release`: drops a place of any owner beside the claim's own | `an_operation_touches_no_other_claim` |
//! | `extend`: `entry.until = now + micros(ttl)` | `a_lease_is_never_shortened` |
//! | `release`: `self.expect(until)` for a grave | `the_same_operation_twice_is_once` |
//! | `wait`: without `entry.inbox = at.inbox.clone()` | `a_grant_is_told_once_and_to_its_own_inbox` |
//! | `release`: buries only what it knows | `a_buried_id_never_comes_back` |
//! | `claims_of`: counts the holders alone | `max_bounds_the_claims_of_an_owner` |
//! | `wait`: the front has the head's own ticket | `ahead_is_no_less_than_those_ahead` |
//! | `busy`: `self.expires` for `self.alarm` | `retry_in_is_never_after_somebodys_time` |
//! | `wait`: `Deadlock` only for who has a place | `of_two_owners_inside_that_would_wait_one_is_refused` |
//! | `wait`: without `self.is_in(head.owner.as_ref())` | the same |
//! | `acquire`: `self.limit != 0` for `!self.is_empty()` | `only_the_living_set_the_limit` |
//! | `extend`: `waiting` counts the holders | `the_answer_is_what_the_record_says` |
//! | `seen_at`: lets in after its sweep | `reading_shows_the_living_and_lets_nobody_in` |
//! | `apply`: without `grants.retain` | `nothing_hangs_on_who_looks_when` |
//! | `Record`: `alarm` is not serialised | `a_stored_record_goes_by_the_same_rule` |
//! | `wait`: `(old.since, until)` for a place that moves up | `stories::a_place_moves_up_when_asked_for_from_inside` |
//! | `wait`: `Deadlock` keeps the place | the same |
//! | `hand_over`: without the check of the owner's other claims | `permits_never_exceed_the_limit` |
//! | `hand_over`: the old claim stays in; its token is kept | `a_claim_is_handed_over_whole_or_not_at_all` |
//! | `hand_over`: by `enter`, which shares the owner's token | `fences_rise_in_the_order_of_grants` |
//! | `hand_over`: buries nothing | `a_buried_id_never_comes_back` |
//! | `apply`: without looking for those who are in still | `hand_overs::who_is_handed_over_at_once_is_not_told` |
//! | `micros`: rounds down | `fences::the_longest_durations_are_a_year_and_the_shortest_a_microsecond` |
#![allow(missing_docs, reason = "a test")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::mem;

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use tenure::Key;
use tenure::proto::{At, Grant, Micros, Op, Record};
use tenure::store::step;

mod fences;
mod hand_overs;
mod history;
mod lock;
mod promises;
mod stories;
mod turn;

use history::histories;
use promises::Kept;
use turn::{Turn, name_of};

/// Makes each promise a test of its own, and all of them a list.
macro_rules! promises {
    ($($name:ident,)*) => {
        const ALL: &[fn(&Turn<'_>) -> Kept] = &[$(promises::$name),*];
        $(
            #[test]
            fn $name() {
                hold(false, || promises::$name);
            }
        )*
    };
}

promises! {
    permits_never_exceed_the_limit,
    a_lock_lets_its_head_in_as_soon_as_it_fits,
    nobody_waits_in_vain,
    the_dead_are_gone_wherever_they_stood,
    everything_has_an_expiry,
    a_lock_is_remembered_for_a_while_and_then_forgotten,
    fences_rise_in_the_order_of_grants,
    nobody_overtakes_the_queue,
    a_place_keeps_its_turn,
    a_claim_is_handed_over_whole_or_not_at_all,
    a_renewal_never_recreates,
    an_operation_touches_no_other_claim,
    a_lease_is_never_shortened,
    the_same_operation_twice_is_once,
    a_grant_is_told_once_and_to_its_own_inbox,
    a_buried_id_never_comes_back,
    max_bounds_the_claims_of_an_owner,
    ahead_is_no_less_than_those_ahead,
    retry_in_is_never_after_somebodys_time,
    of_two_owners_inside_that_would_wait_one_is_refused,
    only_the_living_set_the_limit,
    the_answer_is_what_the_record_says,
    reading_shows_the_living_and_lets_nobody_in,
}

#[test]
fn every_promise_holds_when_the_clock_goes_back() {
    hold(true, || |turn: &Turn<'_>| ALL.iter().try_for_each(|promise| promise(turn)));
}

#[test]
fn nothing_hangs_on_who_looks_when() {
    hold(false, || {
        let (mut unseen, mut told) = (Record::default(), Vec::new());
        move |turn: &Turn<'_>| {
            // Nor is a claim told that is handed over at once.
            let is_over = |id| matches!(turn.next, Op::HandOver(op) if op.from == id);
            let is_told = |grant: &&Grant| !turn.is_look || grant.id != turn.next.id() && !is_over(grant.id);
            told.extend(turn.grants.iter().filter(is_told).cloned());
            if turn.is_look {
                return Ok(());
            }
            let (reply, mut grants) = unseen.apply(turn.op, At { now: turn.now, inbox: turn.inbox });
            grants.retain(|grant| !is_over(grant.id));
            let as_seen = unseen == *turn.after && reply.outcome == turn.outcome && grants == mem::take(&mut told);
            as_seen.then_some(()).ok_or_else(|| format!("unseen it is {unseen:#?}, {reply:?}, {grants:#?}"))
        }
    });
}

#[test]
fn a_stored_record_goes_by_the_same_rule() {
    let key = Key::new("a lock").expect("a name");
    hold(false, || {
        let (key, mut stored) = (key.clone(), None::<(Vec<u8>, Micros)>);
        move |turn: &Turn<'_>| {
            // A store may forget what has expired.
            let forgotten = stored.take_if(|(_, expires)| *expires <= turn.now && turn.now.is_multiple_of(2)).is_some();
            let value = stored.as_ref().map(|(value, _)| &value[..]);
            let step =
                step(&key, value, turn.op, At { now: turn.now, inbox: turn.inbox }).map_err(|e| e.to_string())?;
            let same = step.reply.outcome == turn.outcome && step.grants == turn.grants;
            let unchanged = step.write.is_none() || forgotten;
            stored = step.write.or(stored.take());
            let expires = stored.as_ref().map_or(0, |(_, expires)| *expires);
            let same = same && expires == turn.after.expires && unchanged == (turn.found == turn.after || forgotten);
            same.then_some(()).ok_or_else(|| format!("stored until {expires}, {:?}, {:#?}", step.reply, step.grants))
        }
    });
}

/// The random histories are worth their time: each answer comes up in every thousand turns or so.
#[test]
fn every_answer_comes_up() {
    let counts = RefCell::new(BTreeMap::<&str, usize>::new());
    hold(false, || {
        |turn: &Turn<'_>| {
            *counts.borrow_mut().entry(name_of(turn.outcome)).or_default() += usize::from(!turn.is_look);
            *counts.borrow_mut().entry("grant").or_default() += turn.grants.len();
            Ok(())
        }
    });
    let counts = counts.into_inner();
    let turns: usize = counts.values().sum();
    println!("{counts:?}");
    assert_eq!(counts.len(), 10, "{counts:?}");
    assert!(counts.values().all(|count| count * 2_000 > turns), "{counts:?}");
}

/// Plays random histories, and shows each turn of each to what `promise` makes for it.
fn hold<P: FnMut(&Turn<'_>) -> Kept>(backwards: bool, promise: impl Fn() -> P) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("TENURE_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let cases = number("TENURE_CASES").unwrap_or(200);
    let config = Config {
        cases: cases as u32,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 50_000,
        ..Config::default()
    };
    let played = TestRunner::new(config)
        .run(&histories(backwards), |history| history.play(promise()).map_err(TestCaseError::fail));
    if let Err(failure) = played {
        panic!("{failure}\nto run it again: TENURE_SEED={seed} TENURE_CASES={cases}");
    }
}
