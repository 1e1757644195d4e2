//! The first step of `cargo xtask ci`: what must be true of every file in the tree.

use std::fs;
use std::path::Path;

use crate::Outcome;

/// A file that is longer wants to be two; the aim is 300.
const LONGEST: usize = 350;

/// What belongs to one machine, or to another day. Written in two parts, so that this file has none of it.
const UNWANTED: &[&str] = &[concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("TO", "DO"), concat!("FIX", "ME")];

/// Files that are not text.
const IMAGES: &[&str] = &["png", "ico", "woff2"];

pub(crate) fn main() -> Outcome {
    let mut faults = Vec::new();
    let files = look(Path::new("."), &mut faults).map_err(|error| format!("the tree cannot be read: {error}"))?;
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    Ok(format!("{files} files"))
}

/// Looks at every file below `folder`, but for hidden ones and for what cargo builds, which it marks as a cache.
fn look(folder: &Path, faults: &mut Vec<String>) -> std::io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(folder)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || path.join("CACHEDIR.TAG").exists() {
            continue;
        } else if kind.is_dir() {
            files += look(&path, faults)?;
        } else if kind.is_file() {
            files += 1;
            let extension = path.extension().unwrap_or_default();
            if !IMAGES.iter().any(|image| extension == *image) {
                let content = fs::read(&path)?;
                let mut found = inspect(&content, extension == "rs");
                if extension == "rs"
                    && path.starts_with("./tenure/src")
                    && !path.starts_with("./tenure/src/conformance")
                {
                    found.extend(silent_on_cancelling(&String::from_utf8_lossy(&content)));
                }
                faults.extend(found.iter().map(|fault| format!("{}{fault}", path.display())));
            }
        }
    }
    Ok(files)
}

/// What is wrong with a file of this content.
fn inspect(content: &[u8], rust: bool) -> Vec<String> {
    let Ok(text) = std::str::from_utf8(content) else {
        return vec![": neither text nor an image: is it a build's output?".to_owned()];
    };
    let length = text.lines().count();
    let too_long = rust && length > LONGEST;
    let unwanted = text.lines().zip(1..).flat_map(|(line, number)| {
        let found = UNWANTED.iter().filter(move |unwanted| line.contains(**unwanted));
        found.map(move |unwanted| format!(":{number}: `{unwanted}`"))
    });
    too_long.then(|| format!(": {length} lines, and {LONGEST} are the most")).into_iter().chain(unwanted).collect()
}

/// The public async functions that do not say what becomes of a future that is dropped. A trait's methods are not among
/// them: the trait says it once.
fn silent_on_cancelling(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut said = false;
    for (line, number) in text.lines().map(str::trim_start).zip(1..) {
        let is_above = line.starts_with("///") || line.starts_with("#[");
        if line.starts_with("pub async fn") && !said {
            faults.push(format!(":{number}: no `# Cancel safety` above `{}`", line.split('(').next().unwrap_or(line)));
        }
        said = is_above && (said || line == "/// # Cancel safety");
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, UNWANTED, inspect, silent_on_cancelling};

    #[test]
    fn a_file_is_faulted_for_its_length_and_for_what_does_not_belong() {
        assert!(inspect("line\n".repeat(LONGEST).as_bytes(), true).is_empty());
        assert_eq!(inspect("line\n".repeat(LONGEST + 1).as_bytes(), true).len(), 1);
        assert!(inspect("line\n".repeat(LONGEST + 1).as_bytes(), false).is_empty());
        assert_eq!(inspect(&[0xff, 0xfe], false).len(), 1);
        for unwanted in UNWANTED {
            assert_eq!(inspect(format!("fine\nsee {unwanted}here").as_bytes(), true), [format!(":2: `{unwanted}`")]);
        }
    }

    #[test]
    fn a_public_async_function_says_what_becomes_of_it_when_it_is_dropped() {
        let said =
            "/// Waits.\n///\n/// # Cancel safety\n///\n/// It only reads.\n#[must_use]\npub async fn wait() {}\n";
        assert!(silent_on_cancelling(said).is_empty());
        // What the one above says is not said of the next one.
        let next = format!(
            "{said}    /// Waits too.\n    pub async fn wait_too<T>(&self) {{}}\npub(crate) async fn ours() {{}}"
        );
        assert_eq!(silent_on_cancelling(&next), [":9: no `# Cancel safety` above `pub async fn wait_too<T>`"]);
    }
}
