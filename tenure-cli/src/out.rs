//! Output that may be cut off: a reader that has seen enough (`tenure ls | head -1`) is no error.

use std::io::{ErrorKind, Write, stdout};

use crate::exit::{Failure, Result};

/// Writes `text` and, unless it ends with one or steers a terminal, a line end. Ends the process when nobody reads any
/// more.
pub(crate) fn print(text: &str) -> Result<()> {
    let end = if text.ends_with(['\n', 'J']) { "" } else { "\n" };
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(end.as_bytes())).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::system("stdout", error)),
    }
}
