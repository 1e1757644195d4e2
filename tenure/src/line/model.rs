//! Tasks that join a line, leave it, pass a hold on and take what they are given, in whatever order; and the renewals of
//! what they hold. See `sync.rs`. The keeper's task does not run: what it would do, a thread of the model does.
//!
//! A turn that is lost leaves all threads blocked, which loom reports. Bugs that were planted, one at a time, and
//! found: whether somebody is in line is looked at outside of the lock under which the place is taken; the heir of a claim
//! that is gone is looked for outside of the lines' lock, or not at all; an offer that was taken stays on the agenda; it
//! is looked at outside of the agenda's lock; a hold is given back, or taken back, that somebody else has ended; its line
//! is not told; a turn is taken that went on to another; who leaves does not close its channel first; who went away in
//! the moment of its turn does not pass it on; a loss is looked for before it is listened for; a reader that is let in does
//! not send the next one to ask.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use loom::future::block_on;
use loom::thread;

use super::{Contact, Lines, Turn};
use crate::agenda::Over;
use crate::client::Client;
use crate::env::{Env, Moment};
use crate::guard::Guard;
use crate::hold::{Fence, Granted, Hold, Loss};
use crate::keeper::Shared;
use crate::lock::{Lock, Spec};
use crate::locks::Locks;
use crate::place::Place;
use crate::proto::{ClaimId, Outcome, Reply, Was};
use crate::renewal::Attempt;
use crate::store::Memory;
use crate::sync::model;

const PATIENCE: Duration = Duration::from_secs(3);

/// A client whose clock stands still, in a runtime that nobody drives.
pub(crate) struct World {
    lock: Lock,
    reader: Lock,
}

impl World {
    pub(crate) fn model(check: impl Fn(&World) + Send + Sync + 'static) {
        model(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            let runtime = runtime.expect("a runtime without sockets");
            let _entered = runtime.enter();
            let env = Env::simulated(1);
            let locks = Locks::builder(Arc::new(Memory::with_env(env.clone()))).env(env).patience(PATIENCE);
            let locks = locks.build().expect("the options are valid");
            let [lock, reader] = [locks.mutex("a"), locks.read("a")].map(|lock| lock.build().expect("it is a name"));
            check(&World { lock, reader });
        });
    }

    pub(crate) fn spec(&self) -> Arc<Spec> {
        self.lock.spec.clone()
    }

    pub(crate) fn granted(now: Moment, deadline: Moment) -> Granted {
        let contact = Some(Contact { now: 1_000_000_000, at: now, waiting: 0 });
        Granted { id: ClaimId::new(1), fence: Fence(10), now, deadline, ambiguous: false, contact }
    }

    pub(crate) fn keeper(&self) -> Arc<Shared> {
        self.client().keeper.shared.clone()
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.lock.client
    }

    pub(crate) fn now(&self) -> Moment {
        self.client().core.env.now()
    }

    /// A guard at the front of its line.
    fn guard(&self) -> Guard {
        let place = Lines::try_join(self.client(), &self.lock.spec).expect("nobody is in line");
        let granted = Self::granted(self.now(), self.now() + Duration::from_secs(29));
        let hold = self.client().keeper.hold(&self.lock.spec, granted);
        let place = place.won(&hold);
        Guard::new(hold, self.client().clone(), place)
    }

    fn join(&self) -> Place {
        Lines::join(self.client(), &self.lock.spec)
    }

    /// A reader's place.
    fn join_to_read(&self) -> Place {
        Lines::join(self.client(), &self.reader.spec)
    }

    /// What a reader holds that is let in.
    fn reading(&self) -> Arc<Hold> {
        let granted = Self::granted(self.now(), self.now() + Duration::from_secs(29));
        self.client().keeper.hold(&self.reader.spec, granted)
    }

    /// How many claims are to be released.
    pub(crate) fn partings(&self) -> usize {
        self.keeper().agenda().partings
    }

    fn is_empty(&self) -> bool {
        self.client().core.lines.all().by_key.is_empty()
    }
}

/// Whether somebody has its turn, without waiting for it.
fn has_turn(place: &mut Place) -> bool {
    block_on(async {
        let mut turn = pin!(place.turn());
        poll_fn(|context| Poll::Ready(turn.as_mut().poll(context).is_ready())).await
    })
}

#[test]
fn model_who_joins_while_the_front_leaves_gets_its_turn() {
    World::model(|world| {
        let front = world.join();
        let leaving = thread::spawn(move || drop(front));
        let mut place = world.join();
        assert!(matches!(block_on(place.turn()), Turn::Ask));
        leaving.join().unwrap();
        drop(place);
        assert!(world.is_empty());
    });
}

#[test]
fn model_whoever_leaves_passes_on_what_it_was_given() {
    World::model(|world| {
        let (guard, second, mut third) = (world.guard(), world.join(), world.join());
        let release = thread::spawn(move || drop(guard));
        let leaving = thread::spawn(move || drop(second));
        let turn = block_on(third.turn());
        release.join().unwrap();
        leaving.join().unwrap();
        match turn {
            Turn::Hold(hold) => assert!(!hold.is_over() && world.partings() == 0),
            Turn::Ask => assert_eq!(world.partings(), 1),
        }
        drop(third);
        assert!(world.is_empty());
    });
}

#[test]
fn model_a_hold_on_offer_is_taken_or_taken_back() {
    World::model(|world| {
        let (guard, mut next) = (world.guard(), world.join());
        drop(guard);
        let (keeper, later) = (world.keeper(), world.now() + PATIENCE);
        let keeper = thread::spawn(move || {
            let Over { lost, untaken } = keeper.agenda().take_due(later);
            assert!(lost.is_empty());
            untaken.iter().for_each(|hold| keeper.take_back(hold));
        });
        let turn = block_on(next.turn());
        keeper.join().unwrap();
        match turn {
            Turn::Hold(hold) => assert!(!hold.is_over() && world.partings() == 0),
            Turn::Ask => assert_eq!(world.partings(), 1),
        }
        drop(next);
        assert!(world.is_empty());
    });
}

#[test]
fn model_a_hold_on_offer_whose_taker_goes_is_passed_on_or_released_once() {
    World::model(|world| {
        let (guard, next, mut behind) = (world.guard(), world.join(), world.join());
        drop(guard);
        let (keeper, later) = (world.keeper(), world.now() + PATIENCE);
        let keeper = thread::spawn(move || {
            let Over { untaken, .. } = keeper.agenda().take_due(later);
            untaken.iter().for_each(|hold| keeper.take_back(hold));
        });
        drop(next);
        let turn = block_on(behind.turn());
        keeper.join().unwrap();
        match turn {
            Turn::Hold(hold) => assert!(!hold.is_over() && world.partings() == 0),
            Turn::Ask => assert_eq!(world.partings(), 1),
        }
        drop(behind);
        assert!(world.is_empty());
    });
}

#[test]
fn model_a_turn_to_ask_is_one_tasks() {
    World::model(|world| {
        let (front, mut second, mut third) = (world.join(), world.join(), world.join());
        drop(front);
        let (client, key, later) = (world.client().clone(), world.spec().key.clone(), world.now() + PATIENCE);
        let at_front = Arc::new(AtomicU32::new(0));
        let count = at_front.clone();
        let impatient = thread::spawn(move || {
            client.core.lines.expire(&key, later);
            if has_turn(&mut third) {
                assert_eq!(count.fetch_add(1, SeqCst), 0, "two are at the front");
                thread::yield_now();
                count.fetch_sub(1, SeqCst);
            }
            drop(third);
        });
        assert!(matches!(block_on(second.turn()), Turn::Ask));
        assert_eq!(at_front.fetch_add(1, SeqCst), 0, "two are at the front");
        impatient.join().unwrap();
    });
}

#[test]
fn model_who_joins_while_a_reader_is_let_in_gets_its_turn() {
    World::model(|world| {
        let (reader, mut writer, hold) = (world.join_to_read(), world.join(), world.reading());
        let let_in = thread::spawn(move || assert!(reader.won(&hold).is_none(), "it stays in line"));
        let mut behind = world.join_to_read();
        assert!(matches!(block_on(writer.turn()), Turn::Ask));
        let_in.join().unwrap();
        drop(writer);
        assert!(matches!(block_on(behind.turn()), Turn::Ask));
        drop(behind);
        assert!(world.is_empty());
    });
}

#[test]
fn model_who_tried_and_steps_back_gets_its_turn() {
    World::model(|world| {
        let (front, mut beside) = (world.join_to_read(), world.join_to_read());
        let mut behind = world.join();
        let leaving = thread::spawn(move || drop(front));
        beside.step_back();
        assert!(matches!(block_on(beside.turn()), Turn::Ask));
        assert!(beside.patience() == PATIENCE, "it is at the front");
        leaving.join().unwrap();
        drop(beside);
        assert!(matches!(block_on(behind.turn()), Turn::Ask));
        drop(behind);
        assert!(world.is_empty());
    });
}

#[test]
fn model_who_is_told_to_ask_and_goes_passes_it_on() {
    World::model(|world| {
        let (front, behind) = (world.join(), world.join_to_read());
        let mut last = world.join();
        let first = thread::spawn(move || drop(front));
        let second = thread::spawn(move || drop(behind));
        assert!(matches!(block_on(last.turn()), Turn::Ask));
        first.join().unwrap();
        second.join().unwrap();
        drop(last);
        assert!(world.is_empty());
    });
}

#[test]
fn model_a_claim_that_is_gone_is_lost_to_whoever_has_it() {
    World::model(|world| {
        let (guard, mut next) = (world.guard(), world.join());
        let (keeper, hold) = (world.keeper(), guard.hold.clone());
        let attempt = Attempt::new(&hold, world.now());
        let renewal = thread::spawn(move || {
            let reply = Reply { outcome: Outcome::Gone { was: Was::Unknown }, now: 1_000_000_001 };
            keeper.renewed(&hold, attempt, Ok(reply));
        });
        let release = thread::spawn(move || drop(guard));
        let turn = block_on(next.turn());
        renewal.join().unwrap();
        release.join().unwrap();
        if let Turn::Hold(hold) = turn {
            assert_eq!(hold.loss(), Some(Loss::Gone));
        }
    });
}

#[test]
fn model_whoever_waits_for_a_loss_is_told() {
    World::model(|world| {
        let guard = world.guard();
        let (keeper, hold) = (world.keeper(), guard.hold.clone());
        let losing = thread::spawn(move || keeper.lose(&hold, Loss::Gone));
        assert_eq!(block_on(guard.lost()), Loss::Gone);
        losing.join().unwrap();
    });
}
