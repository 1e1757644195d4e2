//! Transactions under a lock: what happens as a whole or not at all, though clients and servers fail in the middle.
//!
//! * a [`Coordinator`] has several [participants](Participant) do something together, or not at all: two phases, and a
//!   decision that is written once;
//! * a [`Journal`](journal::Journal) is where a coordinator or a saga writes what it must not forget.

pub mod coordinator;
pub mod journal;
pub mod participant;
#[cfg(feature = "postgres")]
mod postgres;
mod id;

#[doc(inline)]
pub use coordinator::Coordinator;
#[doc(inline)]
pub use participant::Participant;
pub use id::TransactionId;
