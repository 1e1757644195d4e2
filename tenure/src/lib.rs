//! A distributed lock with fencing tokens, leases that tell their holder in time, and fair waiting.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> tenure::Result<()> {
//! let locks = tenure::open("memory:").await?;
//! let lock = locks.mutex("invoice-42").build()?;
//!
//! let guard = lock.lock().await?;
//! // Pass the token with every write, so that the resource can refuse a holder that came too late.
//! let fence = guard.fence();
//! // The work is dropped when the hold is no longer certain.
//! guard.protect(async { println!("paying under {fence}") }).await?;
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! * [`open`] or [`Locks`] makes a client, [`Locks::mutex`], [`read`](Locks::read), [`write`](Locks::write) and
//!   [`semaphore`](Locks::semaphore) make locks on it;
//! * a [`Guard`] is a hold: it tells its [fence](Guard::fence), until when it is certain, and when it is
//!   [lost](Guard::lost);
//! * [`Locks::events`], [`Locks::metrics`] and [`Locks::health`] tell what goes on;
//! * [`transaction`] is for what has to happen as a whole or not at all, and only for as long as the lock is held;
//! * [`blocking`] is the same for code without async;
//! * [`store`] says how to write a store of one's own, [`proto`] what a store has to do.

mod agenda;
mod all;
mod bid;
pub mod blocking;
mod builder;
mod certain;
mod client;
mod codec;
#[cfg(feature = "conformance")]
pub mod conformance;
mod degrade;
mod duration;
pub mod env;
mod error;
mod event;
#[cfg(feature = "metrics")]
mod facade;
mod fence;
mod guard;
mod guards;
mod handover;
mod health;
mod hold;
mod info;
pub mod inspect;
mod keeper;
mod key;
mod lease;
mod leasing;
mod line;
mod lock;
mod locks;
mod loss;
mod meter;
mod metrics;
mod open;
mod options;
mod pace;
mod parting;
mod place;
pub mod proto;
mod reentry;
mod release;
mod renewal;
pub mod sink;
pub mod store;
mod sync;
mod ticket;
mod trace;
pub mod transaction;
mod waiting;

pub use all::AcquiringAll;
pub use builder::LocksBuilder;
pub use codec::{Codec, Json};
pub use degrade::Instead;
pub use error::{Error, ErrorKind, Result};
pub use event::{Degradation, Event, Events, What, Why};
pub use guard::{Guard, HoldInfo};
pub use guards::Guards;
pub use health::NodeHealth;
pub use hold::{Fence, HoldState, Loss};
pub use info::{Holder, LockInfo, Meta};
pub use key::Key;
pub use lease::Lease;
pub use leasing::Leasing;
pub use lock::{Lock, LockBuilder};
pub use locks::Locks;
pub use metrics::{Histogram, Metrics};
pub use open::{open, open_store};
pub use sink::Sink;
pub use ticket::Ticket;
pub use waiting::Acquiring;

/// Its examples are tried, too.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// And those of the page on monitoring.
#[cfg(doctest)]
#[doc = include_str!("../../docs/monitoring.md")]
struct Monitoring;
