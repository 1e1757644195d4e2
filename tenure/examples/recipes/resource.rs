//! What the recipes protect: a value behind a check of fences, as a row of a database with a fence column would be.

use std::sync::Mutex;

use tenure::{Error, ErrorKind, Fence, Result};

/// A value that a holder changes under its fence. A holder that came too late is refused.
#[derive(Debug)]
pub(crate) struct Row<T>(Mutex<(Fence, T)>);

impl<T: Clone> Row<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new((Fence::NONE, value)))
    }

    /// `UPDATE … SET value = …, fence = $fence WHERE fence <= $fence`
    pub(crate) fn update(&self, fence: Fence, change: impl FnOnce(&mut T)) -> Result<()> {
        let mut row = self.0.lock().expect("nobody panics in here");
        if fence < row.0 {
            return Err(Error::new(
                ErrorKind::Lost,
                format!("{fence} is older than {}: somebody else is at it", row.0),
            ));
        }
        row.0 = fence;
        change(&mut row.1);
        Ok(())
    }

    /// `SELECT value`
    pub(crate) fn get(&self) -> T {
        self.0.lock().expect("nobody panics in here").1.clone()
    }
}
