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
                let found = inspect(&fs::read(&path)?, extension == "rs");
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

#[cfg(test)]
mod tests {
    use super::{LONGEST, UNWANTED, inspect};

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
}
