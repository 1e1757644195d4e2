//! Transactions under a lock: what happens as a whole or not at all, though clients and servers fail in the middle.
//!
//! * a [`Journal`](journal::Journal) is where a coordinator or a saga writes what it must not forget.

pub mod journal;
