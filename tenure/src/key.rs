//! The name of a lock.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// The name of a lock: any text of 1 to 256 bytes. It is cheap to clone.
///
/// What it may contain is not restricted: each store encodes it injectively, so that no name can reach another's record.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// The longest name, in bytes.
    pub const MAX: usize = 256;

    /// The key of that name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the name is empty or too long.
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self> {
        let name = name.into();
        match name.len() {
            0 => Err(Error::new(ErrorKind::Invalid, "the lock's name is empty: give it 1 to 256 bytes")),
            1..=Self::MAX => Ok(Self(name)),
            n => {
                let start: String = name.chars().take(24).collect();
                let message = format!("the lock's name \"{start}…\" has {n} bytes: give it at most {}", Self::MAX);
                Err(Error::new(ErrorKind::Invalid, message))
            }
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
