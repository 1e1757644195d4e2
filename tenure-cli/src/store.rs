//! Which store: the one named, or a file of this user's.

use std::env::VarError;
use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use crate::exit::{Failure, Result, STORE};

/// The URL of the store: `given`, `TENURE_STORE`, or the default, whose folder is made if it is not there.
pub(crate) fn url(given: Option<&str>) -> Result<String> {
    let variable = match std::env::var("TENURE_STORE") {
        Ok(url) => Some(url).filter(|url| !url.is_empty()),
        Err(VarError::NotPresent) => None,
        Err(VarError::NotUnicode(_)) => return Err(Failure::usage("TENURE_STORE is not text: give a URL")),
    };
    if let Some(url) = given.map(ToOwned::to_owned).or(variable) {
        return Ok(url);
    }
    let folder = folder(std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME")).ok_or_else(|| {
        Failure::usage(
            "there is no place for the locks of this user: set HOME, XDG_STATE_HOME or TENURE_STORE, or give --store",
        )
    })?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|error| Failure::new(STORE, format!("the folder {} cannot be made: {error}", folder.display())))?;
    let path = folder.join("locks.db");
    let path = path.to_str().ok_or_else(|| Failure::usage(format!("{} is not text: give --store", path.display())))?;
    Ok(format!("sqlite:{}", encoded(path)))
}

/// A path as a URL has it.
fn encoded(path: &str) -> String {
    path.replace('%', "%25").replace('?', "%3F").replace('#', "%23")
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
}
