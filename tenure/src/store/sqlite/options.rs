//! What a `sqlite:` URL says: which file, and how to use it.
//!
//! ```text
//!   sqlite:locks.db    sqlite:/var/lib/app/locks.db    sqlite:///var/lib/app/locks.db?busy_timeout=500ms
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::error::{Error, ErrorKind, Result};

/// Which file, and how to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// Absolute, so that no name means anything special to SQLite, and a change of the folder means nothing.
    pub(super) path: PathBuf,
    /// How long another process's transaction is waited for.
    pub(super) busy_timeout: Duration,
    /// Whether each commit is on the disk before it is answered.
    pub(super) synchronous: Synchronous,
    /// What may be made where it is missing.
    pub(super) create: Create,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Synchronous {
    Normal,
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Create {
    /// The file, and the folders on the way to it.
    All,
    /// The file, in a folder that is there.
    File,
    Nothing,
}

impl Options {
    pub(super) fn new(path: &Path) -> Result<Self> {
        if path == Path::new(":memory:") {
            return Err(invalid("sqlite::memory: would be seen by nobody else: use memory:"));
        }
        let path = std::path::absolute(path).map_err(|error| {
            let message = format!("{path:?} cannot be the path of a SQLite file: {error}");
            Error::with_source(ErrorKind::Invalid, message, error)
        })?;
        let (busy_timeout, synchronous) = (Duration::from_millis(1_500), Synchronous::Normal);
        Ok(Self { path, busy_timeout, synchronous, create: Create::All })
    }

    pub(super) fn parse(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("sqlite:").ok_or_else(|| invalid(format!("{url:?} is no sqlite: URL")))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = match path.strip_prefix("//") {
            Some(path) if path.starts_with('/') => path,
            Some(_) => {
                let message =
                    format!("{url:?} names a host, and a SQLite file has none: write sqlite:path or sqlite:///path");
                return Err(invalid(message));
            }
            None => path,
        };
        let path =
            percent_decode_str(path).decode_utf8().map_err(|_| invalid(format!("the path in {url:?} is not UTF-8")))?;
        if path.is_empty() {
            return Err(invalid(format!("{url:?} names no file: write sqlite:path")));
        }
        let mut options = Self::new(Path::new(&*path))?;
        for option in query.split('&').filter(|option| !option.is_empty()) {
            options.set(option)?;
        }
        Ok(options)
    }

    fn set(&mut self, option: &str) -> Result<()> {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let refused = |would_do: &str| invalid(format!("the SQLite option {name}={value:?} cannot be: {would_do}"));
        match name {
            "busy_timeout" => {
                self.busy_timeout =
                    duration(value).ok_or_else(|| refused("give it a time like 500ms or 2s, up to 60s"))?;
            }
            "synchronous" => {
                self.synchronous = match value {
                    "normal" => Synchronous::Normal,
                    "full" => Synchronous::Full,
                    _ => return Err(refused("it is normal or full")),
                };
            }
            "create" => {
                self.create = match value {
                    "all" => Create::All,
                    "file" => Create::File,
                    "nothing" => Create::Nothing,
                    _ => return Err(refused("it is all, file or nothing")),
                };
            }
            _ => {
                let message =
                    format!("a SQLite store has no option {name:?}: it has busy_timeout, synchronous and create");
                return Err(invalid(message));
            }
        }
        Ok(())
    }
}

fn duration(text: &str) -> Option<Duration> {
    let duration = match text.strip_suffix("ms") {
        Some(millis) => Duration::from_millis(millis.parse().ok()?),
        None => Duration::from_secs(text.strip_suffix('s')?.parse().ok()?),
    };
    (duration <= Duration::from_secs(60)).then_some(duration)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_file_from_here_or_from_the_root() {
        let path = |url: &str| Options::parse(url).unwrap().path;
        assert_eq!(path("sqlite:///var/lib/locks.db"), Path::new("/var/lib/locks.db"));
        assert_eq!(path("sqlite:/var/lib/locks.db"), Path::new("/var/lib/locks.db"));
        assert_eq!(path("sqlite:a/locks.db"), std::env::current_dir().unwrap().join("a/locks.db"));
        assert_eq!(path("sqlite:/a%20b/%25%3F"), Path::new("/a b/%?"));
        let options = Options::parse("sqlite:/x?busy_timeout=250ms&synchronous=full&create=file").unwrap();
        assert_eq!((options.busy_timeout, options.synchronous), (Duration::from_millis(250), Synchronous::Full));
        assert_eq!(options.create, Create::File);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (url, names) in [
            ("sqlite:", "no file"),
            ("sqlite://locks.db", "host"),
            ("sqlite::memory:", "memory:"),
            ("sqlite:x?bussy_timeout=1s", "bussy_timeout"),
            ("sqlite:x?busy_timeout=1", "500ms"),
            ("sqlite:x?busy_timeout=1h", "500ms"),
            ("sqlite:x?busy_timeout=61s", "60s"),
            ("sqlite:x?synchronous=off", "normal or full"),
            ("sqlite:x?create=no", "all, file or nothing"),
            ("redis://x", "sqlite:"),
        ] {
            let error = Options::parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains(names), "{url}: {error}");
        }
    }
}
