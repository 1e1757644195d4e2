//! Output that may be cut off: a reader that has seen enough (`tenure ls | head -1`) is no error, and a command is not
//! ended because nobody reads what we say about it.

use std::io::{ErrorKind, Write, stderr, stdout};

use crate::exit::{Failure, Result};

/// Writes `text` to stdout and, unless it ends with one or steers a terminal, a line end. Ends the process when nobody
/// reads any more.
pub(crate) fn print(text: &str) -> Result<()> {
    let end = if text.ends_with(['\n', 'J']) { "" } else { "\n" };
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(end.as_bytes())).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::system("stdout", error)),
    }
}

/// Writes a line to stderr, if anybody reads that.
pub(crate) fn say(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}
