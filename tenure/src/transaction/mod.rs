//! Transactions under a lock: what happens as a whole or not at all, though clients and servers fail in the middle.
//!
//! * a [`Journal`](journal::Journal) is where a coordinator or a saga writes what it must not forget;
//! * [`FenceGate`] refuses tokens that are too old, in a service of one's own;
//! * [`sql`] has a database refuse transactions under a token that is too old.

mod gate;
pub mod journal;
pub mod sql;

pub use gate::{Admitted, FenceGate, GateSnapshot};

/// Its examples are tried, too.
#[cfg(all(doctest, feature = "tokio-postgres"))]
#[doc = include_str!("../../../docs/transactions.md")]
struct Transactions;
