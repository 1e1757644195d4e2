//! The token of a hold.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A fencing token: strictly rising in the order in which a lock was granted.
///
/// Pass it with every write to the protected resource, and have the resource refuse one that is older than the newest it
/// has seen: then a holder that was paused past its hold can do no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub(crate) u64);

impl Fence {
    /// No token: older than every other, so that a resource that has seen any refuses it.
    pub const NONE: Self = Self(0);

    /// The token of that number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The token as a number, below 2^53.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
