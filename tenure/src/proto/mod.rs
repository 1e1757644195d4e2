//! The protocol as values: no clock, no I/O, no async.
//!
//! A lock is one small [`Record`]; an [`Op`] is what a client asks of it; [`Record::apply`] is the rule that answers.
//! Every store executes this rule in one atomic step at its own clock: memory, SQLite and whatever implements
//! [`Register`](crate::store::Register) run it as it stands here, Redis runs its twin in Lua.
//!
//! ```text
//!   client                       store
//!     │   Op + the store's clock   │
//!     ├───────────────────────────▶│  record.apply(op, at)
//!     │   Reply { outcome, now }   │     drops what expired
//!     │◀───────────────────────────┤     lets in the heads that now fit  ──▶ Grant pushed to each
//!     │                            │     answers the op
//! ```

mod answer;
mod entry;
mod op;
mod record;
pub mod vote;

pub use entry::{Entry, Grave, NEVER};
pub use op::{
    Acquire, Claim, ClaimId, Grant, HandOver, Inbox, InvalidClaim, Op, Outcome, Owner, Refusal, Release, Renew, Reply,
    Was,
};
pub use record::{At, Record};

/// A point in time on a store's clock: microseconds since the Unix epoch.
///
/// Every value up to the year 2255 is exact in a double, which is what Lua and JSON have for numbers.
pub type Micros = u64;

/// A duration in whole microseconds, as the rule adds it to a [`Micros`]: rounded up, so that only zero is none; capped
/// so that sums stay exact in a double.
pub(crate) fn micros(duration: std::time::Duration) -> Micros {
    const YEAR: u128 = 366 * 24 * 3600 * 1_000_000;
    duration.as_nanos().div_ceil(1_000).min(YEAR) as Micros
}
