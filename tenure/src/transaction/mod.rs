//! Transactions under a lock: what happens as a whole or not at all, though clients and servers fail in the middle.
//!
//! * a [`Journal`](journal::Journal) is where a coordinator or a saga writes what it must not forget;
//! * [`sql`] has a database refuse transactions under a token that is too old.

pub mod journal;
pub mod sql;
