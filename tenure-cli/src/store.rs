//! Which store: the one named, or a file of this user's; what is made of it, and what a command under a lock is told.

use std::env::VarError;
use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tenure::{ErrorKind, Locks};

use crate::exit::{Failure, Result, STORE};

/// A store that was chosen and is not open yet.
#[derive(Debug)]
pub(crate) struct Choice {
    url: String,
    by: By,
}

/// What a store was chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Option,
    Variable,
    Default,
}

impl Choice {
    /// The store at `given`, at `TENURE_STORE`, or in this user's file.
    pub(crate) fn of(given: Option<&str>) -> Result<Self> {
        let variable = match std::env::var("TENURE_STORE") {
            Ok(url) => Some(url).filter(|url| !url.is_empty()),
            Err(VarError::NotPresent) => None,
            Err(VarError::NotUnicode(_)) => return Err(Failure::usage("TENURE_STORE is not text: give a URL")),
        };
        let given = given.map(|url| (url.to_owned(), By::Option)).or(variable.map(|url| (url, By::Variable)));
        let Some((url, by)) = given else {
            return Ok(Self { url: format!("sqlite:{}", encoded(&default_path()?)), by: By::Default });
        };
        if scheme(&url) == "memory" {
            return Err(Failure::usage(
                "memory: would be a store of this process alone, and exclude nobody: give sqlite:PATH for the \
                 processes of this machine, redis://HOST for those of several, or nothing for a file of this user's",
            ));
        }
        Ok(Self { url, by })
    }

    /// As it was given, with whatever secrets are in it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Whether nobody has named it: then its folder is made, too, when it is used.
    pub(crate) fn is_default(&self) -> bool {
        self.by == By::Default
    }

    /// Opens it to take locks. A file is made where it is missing; its folders only where nobody has named them, and so
    /// cannot have misspelt them either.
    ///
    /// # Cancel safety
    ///
    /// The file may be made although the future was dropped.
    pub(crate) async fn open(&self) -> Result<Locks> {
        if self.by == By::Default {
            let path = default_path()?;
            let folder = Path::new(&path).parent().unwrap_or(Path::new("/"));
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
                Failure::new(STORE, format!("the folder {} cannot be made: {error}", folder.display()))
            })?;
        }
        // The first, so that one in the URL counts more.
        let url = self.sqlite().map(|(path, options)| format!("sqlite:{path}?create=file&{options}"));
        Ok(tenure::open(&url.unwrap_or_else(|| self.url.clone())).await?)
    }

    /// Opens it to look, and makes nothing; `Err` within is what there is to say of a file that is not there yet, in
    /// which nothing can be held.
    ///
    /// # Cancel safety
    ///
    /// It makes nothing.
    pub(crate) async fn look(&self) -> Result<Result<Locks, String>> {
        let url = self.sqlite().map(|(path, options)| format!("sqlite:{path}?{options}&create=nothing"));
        match tenure::open(&url.unwrap_or_else(|| self.url.clone())).await {
            Ok(locks) => Ok(Ok(locks)),
            Err(error) if error.kind() == ErrorKind::Missing => Ok(Err(format!("{error}: nothing is held"))),
            Err(error) => Err(error.into()),
        }
    }

    /// What `TENURE_STORE` has to be, so that a command finds this store in whatever folder it is; `None` where it is
    /// inherited or the default.
    ///
    /// A password from the command line does not go into an environment, which a whole tree of processes inherits and
    /// many a log shows. The URL goes there without it: whoever uses that is told that a password is wanted, while no
    /// URL at all would have it use another store in silence.
    pub(crate) fn for_command(&self) -> Option<String> {
        let here = std::env::current_dir().ok().and_then(|here| here.into_os_string().into_string().ok());
        let absolute = match (self.sqlite(), here) {
            (Some((path, _)), Some(here)) if !path.starts_with('/') => {
                Some(format!("sqlite:{}/{}", encoded(&here), self.url.trim_start_matches("sqlite:")))
            }
            _ => None,
        };
        match self.by {
            By::Default => None,
            By::Variable => absolute,
            By::Option => Some(absolute.unwrap_or_else(|| without_password(&self.url))),
        }
    }

    /// The path and the options of a SQLite file, as they stand in its URL.
    fn sqlite(&self) -> Option<(&str, &str)> {
        let rest = self.url.strip_prefix("sqlite:")?;
        Some(rest.split_once('?').unwrap_or((rest, "")))
    }
}

fn scheme(url: &str) -> &str {
    url.split(':').next().unwrap_or_default()
}

/// A URL that a store was opened by, less the password in it.
fn without_password(url: &str) -> String {
    let scheme = scheme(url);
    let is_secret = |text: &str| text.contains('@') || text.contains("pass") || text.contains('%');
    match scheme {
        "sqlite" => return url.to_owned(),
        _ if scheme.starts_with("redis") => {}
        _ if is_secret(url) => return format!("{scheme}:"),
        _ => return url.to_owned(),
    }
    let (place, options) = url.split_once('?').unwrap_or((url, ""));
    let place = match place.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')) {
        Some((login, host)) => match login.split(':').next().unwrap_or_default() {
            "" => format!("{scheme}://{host}"),
            user => format!("{scheme}://{user}@{host}"),
        },
        None => place.to_owned(),
    };
    let options: Vec<&str> =
        options.split('&').filter(|option| !is_secret(option.split('=').next().unwrap_or_default())).collect();
    if options.concat().is_empty() { place } else { format!("{place}?{}", options.join("&")) }
}

/// A path as a URL has it.
fn encoded(path: &str) -> String {
    path.replace('%', "%25").replace('?', "%3F").replace('#', "%23")
}

fn default_path() -> Result<String> {
    let folder = folder(std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME")).ok_or_else(|| {
        Failure::usage(
            "there is no place for the locks of this user: set HOME, XDG_STATE_HOME or TENURE_STORE, or give --store",
        )
    })?;
    let path = folder.join("locks.db").into_os_string().into_string();
    path.map_err(|path| Failure::usage(format!("{} is not text: give --store", Path::new(&path).display())))
}

/// The XDG specification has it that a relative path counts as none.
fn folder(state: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let state = state.and_then(absolute).or_else(|| Some(home.and_then(absolute)?.join(".local/state")))?;
    Some(state.join("tenure"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_means_itself_in_a_url() {
        assert_eq!(encoded("/a b/100%20?x#y"), "/a b/100%2520%3Fx%23y");
    }

    #[test]
    fn the_folder_is_the_state_folder_of_the_user() {
        let folder = |state: &str, home: &str| folder(Some(state.into()), Some(home.into()));
        assert_eq!(folder("/s", "/h"), Some("/s/tenure".into()));
        assert_eq!(folder("", "/h"), Some("/h/.local/state/tenure".into()));
        assert_eq!(folder("relative", "/h"), Some("/h/.local/state/tenure".into()));
        assert_eq!(folder("", ""), None);
    }

    #[test]
    fn a_command_is_told_the_store_and_no_password() {
        let told = |url: &str, by| Choice { url: url.to_owned(), by }.for_command();
        for (url, expected) in [
            ("redis://db1", "redis://db1"),
            (
                "redis://:hunter,2@db1:7000/3?prefix=a&response_timeout=1s",
                "redis://db1:7000/3?prefix=a&response_timeout=1s",
            ),
            ("rediss://al%40ice:hunter2@db1", "rediss://al%40ice@db1"),
            ("redis+unix:///run/r?user=bob&password=hunter2&db=1", "redis+unix:///run/r?user=bob&db=1"),
            ("redis+unix:///run/r?p%61ssword=hunter2", "redis+unix:///run/r"),
            ("redis-sentinel://:hunter2@a,b:7000/main?sentinel_password=hunter2", "redis-sentinel://a,b:7000/main"),
            ("unheard-of://a:hunter2@b,c", "unheard-of:"),
            ("sqlite:/x@y/pass?create=file", "sqlite:/x@y/pass?create=file"),
        ] {
            assert_eq!(told(url, By::Option).as_deref(), Some(expected));
            assert_eq!(told(url, By::Variable), None, "it is inherited as it is");
        }
        let here = std::env::current_dir().unwrap();
        let absolute = Some(format!("sqlite:{}/locks.db?create=file", here.display()));
        assert_eq!(told("sqlite:locks.db?create=file", By::Option), absolute);
        assert_eq!(told("sqlite:locks.db?create=file", By::Variable), absolute, "the command may go elsewhere");
    }
}
