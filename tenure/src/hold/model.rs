//! What guard, keeper and whoever looks see of one hold, in whatever order they come. See `sync.rs`.
//!
//! Bugs that were planted, one at a time, and found: the state changes in two steps; it changes, or is read, without
//! an order to the deadline (`Relaxed`); the deadline is read, compared and stored.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::{Hold, HoldState, Loss};
use crate::env::Moment;
use crate::line::model::World;

const NOW: Moment = Moment(1_000);

/// A hold until 2,000.
fn hold(world: &World) -> Arc<Hold> {
    Arc::new(Hold::new(&world.spec(), World::granted(NOW, NOW + Duration::from_millis(1)), 1))
}

#[test]
fn model_what_was_told_to_be_over_stays_over() {
    World::model(|world| {
        let hold = hold(world);
        hold.suspect();
        let (renewal, loss) = (hold.clone(), hold.clone());
        let renewed = thread::spawn(move || renewal.extend(Moment(9_000), NOW));
        let lost = thread::spawn(move || loss.lose(Loss::Expired));
        let seen = hold.is_over();
        let (_, lost) = (renewed.join().unwrap(), lost.join().unwrap());
        assert!(lost, "nobody else ends it");
        assert_eq!(hold.loss(), Some(Loss::Expired), "seen: {seen}");
    });
}

#[test]
fn model_a_hold_ends_once() {
    World::model(|world| {
        let hold = hold(world);
        let each =
            [|hold: &Hold| hold.end(), |hold: &Hold| hold.lose(Loss::Expired), |hold: &Hold| hold.lose(Loss::Gone)];
        let threads = each.map(|end| {
            let hold = hold.clone();
            thread::spawn(move || end(&hold))
        });
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ends.iter().filter(|news| **news).count(), 1, "{ends:?}");
        assert!(hold.is_over());
    });
}

#[test]
fn model_who_sees_that_a_hold_is_certain_again_sees_until_when() {
    World::model(|world| {
        let hold = hold(world);
        hold.suspect();
        let renewal = hold.clone();
        let renewed = thread::spawn(move || renewal.extend(Moment(9_000), NOW));
        // In a thread of its own: after a yield, loom shows a thread nothing that it saw before it.
        let looking = thread::spawn(move || {
            while hold.state() != HoldState::Held {
                thread::yield_now();
            }
            hold.deadline()
        });
        assert!(renewed.join().unwrap());
        assert_eq!(looking.join().unwrap(), Moment(9_000));
    });
}

#[test]
fn model_two_renewals_never_shorten_a_hold() {
    World::model(|world| {
        let hold = hold(world);
        let threads = [5_000, 9_000].map(|deadline| {
            let hold = hold.clone();
            thread::spawn(move || hold.extend(Moment(deadline), NOW))
        });
        let extended = threads.map(|thread| thread.join().unwrap());
        assert_eq!((extended, hold.deadline()), ([true, true], Moment(9_000)));
    });
}
