//! How a hold can be lost.

use std::fmt;

/// How a hold was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// No renewal came through in time. The store will let others in a little later.
    Expired,
    /// The store no longer has it: it was broken, or expired there, or the store lost it. Others may be in already.
    Gone,
    /// It lasted for as long as it may, [`max_hold`](crate::LockBuilder::max_hold). It is released in the background.
    MaxHold,
}

impl Loss {
    /// In a word, as figures and spans have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Loss::Expired => "expired",
            Loss::Gone => "gone",
            Loss::MaxHold => "max_hold",
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Loss::Expired => "no renewal came through in time",
            Loss::Gone => "the store no longer has it",
            Loss::MaxHold => "it lasted for as long as max_hold allows",
        })
    }
}
