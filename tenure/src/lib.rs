//! A distributed lock that people can trust with money.

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod env;
mod error;
mod key;
pub mod proto;
pub mod store;

pub use error::{Error, ErrorKind, Result};
pub use key::Key;
