//! Transactions under a lock: what happens as a whole or not at all, though clients and servers fail in the middle.
//!
//! * a [`Journal`](journal::Journal) is where a coordinator or a saga writes what it must not forget;
//! * a [`Saga`] is work in steps, each with a compensation that undoes it.

pub mod journal;
mod saga;

pub use saga::{Call, Cause, Failure, Saga, SagaBuilder, SagaState, SagaStatus, StepState, StepStatus};
