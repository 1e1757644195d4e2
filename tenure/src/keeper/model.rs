//! What comes while the keeper goes to rest, and who waits for its last release. See `sync.rs`. Its task does not run: what
//! it does, a thread of the model does, but for the clock, which stands still.
//!
//! A wake-up that is lost leaves all threads blocked, which loom reports. Bugs that were planted, one at a time, and
//! found: until when the keeper rests is worked out and noted under two locks; who settles looks before it listens.

use std::time::Duration;

use loom::future::block_on;
use loom::thread;

use crate::agenda::Parting;
use crate::line::model::World;
use crate::proto::{ClaimId, Outcome, Reply, Was};

fn parting(world: &World) -> Parting {
    Parting {
        key: world.spec().key.clone(),
        id: ClaimId::new(1),
        bury: Duration::ZERO,
        fence: 0,
        give_up: world.now(),
        op_timeout: Duration::from_secs(1),
        after: tracing::Span::none(),
        kept: None,
        attempts: 0,
    }
}

#[test]
fn model_what_comes_as_the_keeper_goes_to_rest_wakes_it() {
    World::model(|world| {
        let (keeper, now) = (world.keeper(), world.now());
        // From the first on it is taken to run, and the second wakes it.
        keeper.enter_parting(parting(world));
        keeper.enter_parting(parting(world));
        block_on(keeper.changed.notified());
        assert_eq!(take(world), 2);
        let (coming, parting) = (keeper.clone(), parting(world));
        let coming = thread::spawn(move || coming.enter_parting(parting));
        while take(world) == 0 {
            if keeper.rest(false).is_some_and(|wakes_at| wakes_at > now) {
                block_on(keeper.changed.notified());
            }
        }
        coming.join().unwrap();
    });
}

/// How many releases are due.
fn take(world: &World) -> usize {
    let keeper = world.keeper();
    keeper.agenda().take_due(world.now());
    keeper.agenda().next(2).releases.len()
}

#[test]
fn model_who_settles_waits_for_every_release() {
    World::model(|world| {
        let keeper = world.keeper();
        let partings = [parting(world), parting(world)];
        keeper.agenda().partings = partings.len();
        let threads = partings.map(|parting| {
            let keeper = keeper.clone();
            let reply = Reply { outcome: Outcome::Gone { was: Was::Holding }, now: 1_000_000_000 };
            thread::spawn(move || keeper.parted(parting, Ok(reply)))
        });
        block_on(world.client().keeper.settle());
        assert_eq!(world.partings(), 0);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
