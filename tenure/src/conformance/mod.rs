//! Every promise that a store keeps, as a function that tries it.
//!
//! Whoever writes a [`Store`] runs [`PROMISES`] against it, each under its name, and needs no list of their own:
//!
//! ```
//! use std::sync::Arc;
//! use tenure::conformance::{PROMISES, Subject};
//! use tenure::store::{Memory, Store};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let memory = Memory::new();
//! let subject = Subject::new(move || {
//!     let handle: Arc<dyn Store> = Arc::new(memory.clone());
//!     async { handle }
//! });
//! for promise in PROMISES {
//!     // It panics, and says why, where the promise is broken.
//!     let tried = promise.check(subject.clone()).await;
//!     println!("{}: {}", promise.name(), if tried { "kept" } else { "not made" });
//! }
//! # }
//! ```
//!
//! Each function takes fresh names, so all may run at once, in one store and more than one time. They go by the store's own
//! clock, as its replies tell it, and wait for what they await: how fast the machine is changes only how long they take.
//! They need a tokio runtime with its timer.
//!
//! # Cancel safety
//!
//! For every function here, and those for journals and participants: one whose future is dropped has tried nothing to its
//! end, and harms no other. What it has put under its fresh names stays: in a store until its time passes, in a journal
//! until it is forgotten, at a participant until it is settled.
//!
//! A test that cannot fail tests nothing. What each function was seen to find stands at its end, as *red with*: a fault
//! planted in the rule, or in the memory store.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::store::{Store, Traits};

mod admission;
mod hand_over;
mod house;
pub mod journal;
mod lease;
mod lock;
mod owner;
pub mod participant;
mod queue;

pub use admission::*;
pub use hand_over::*;
pub use house::*;
pub use lease::*;
pub use owner::*;
pub use queue::*;

/// The store that is tried, as a way to get handles to it.
#[derive(Clone)]
pub struct Subject(Arc<dyn Fn() -> BoxFuture<'static, Arc<dyn Store>> + Send + Sync>);

impl Subject {
    /// The store that `open` opens: the same records each time, by a handle such as another process would have.
    pub fn new<F, O>(open: O) -> Self
    where
        F: Future<Output = Arc<dyn Store>> + Send + 'static,
        O: Fn() -> F + Send + Sync + 'static,
    {
        Self(Arc::new(move || Box::pin(open())))
    }

    /// A further handle.
    pub async fn open(&self) -> Arc<dyn Store> {
        (self.0)().await
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").finish_non_exhaustive()
    }
}

/// Something that every store keeps, or says by its [`Traits`] that it does not.
#[derive(Clone, Copy)]
pub struct Promise {
    name: &'static str,
    is_made: fn(Traits) -> bool,
    check: fn(Subject) -> BoxFuture<'static, ()>,
}

impl Promise {
    /// The name of the function that tries it.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Tries it, and says whether it was tried: a store does not keep what its traits rule out.
    ///
    /// # Panics
    ///
    /// When the promise is broken.
    pub async fn check(&self, subject: Subject) -> bool {
        let made = (self.is_made)(subject.open().await.traits());
        if made {
            (self.check)(subject).await;
        }
        made
    }
}

impl fmt::Debug for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! promise {
    ($name:ident $(if $trait:ident)*) => {
        Promise {
            name: stringify!($name),
            is_made: |_traits| true $(&& _traits.$trait)*,
            check: |subject| Box::pin($name(subject)),
        }
    };
}

/// All of them.
pub const PROMISES: &[Promise] = &[
    promise!(exclusive_claims_exclude_each_other),
    promise!(shared_claims_share),
    promise!(a_semaphore_counts_permits),
    promise!(another_limit_is_a_mismatch),
    promise!(trying_takes_no_place),
    promise!(two_names_are_two_locks),
    promise!(the_queue_is_served_in_order if queue),
    promise!(a_newcomer_does_not_overtake if queue),
    promise!(asking_again_keeps_the_place if queue),
    promise!(a_place_expires_wherever_it_is if queue),
    promise!(a_release_lets_the_next_in if queue),
    promise!(a_grant_is_pushed_to_its_claim if queue if push),
    promise!(a_grant_holds_until_its_places_deadline if queue),
    promise!(an_unconfirmed_grant_passes_on if queue),
    promise!(an_owner_comes_in_again),
    promise!(how_often_an_owner_comes_in_is_bounded),
    promise!(an_owner_that_is_in_does_not_queue if queue),
    promise!(an_upgrade_waits_for_the_others if queue),
    promise!(two_upgrades_are_a_deadlock if queue),
    promise!(fences_rise if fence),
    promise!(fences_rise_across_the_records_end if fence),
    promise!(a_token_minted_elsewhere_is_taken_over if fence),
    promise!(acquiring_twice_is_once),
    promise!(a_renewal_extends_and_never_shortens),
    promise!(a_renewal_never_recreates),
    promise!(releasing_twice_is_once),
    promise!(a_release_touches_no_other_claim),
    promise!(a_buried_claim_stays_out),
    promise!(an_expired_hold_lets_the_next_in),
    promise!(a_hand_over_has_nobody_in_between),
    promise!(a_handed_over_claim_is_void),
    promise!(permits_are_handed_over_as_they_are),
    promise!(only_an_owners_sole_claim_is_handed_over),
    promise!(what_is_not_held_is_handed_over_to_nobody),
    promise!(a_dropped_call_leaves_the_lock_sound),
    promise!(many_are_answered_in_their_order),
    promise!(reading_shows_who_holds_and_who_waits if queue),
    promise!(scanning_lists_every_name),
    promise!(an_unused_lock_is_forgotten),
    promise!(a_crowd_never_overlaps if queue),
];
