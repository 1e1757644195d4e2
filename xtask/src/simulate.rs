//! `cargo xtask simulate`: the whole client under random weather, a seed each; and the bugs that it has to find.
//!
//! A bug is a file in `tenure/tests/simulate/bugs`: a few words on what it breaks, then what to change, as in a patch
//! without line numbers. What is taken out has to occur exactly once in its file, so that a bug whose place has changed
//! is noticed rather than planted elsewhere:
//!
//! ```text
//! What it breaks, in words.
//!
//! --- tenure/src/waiting.rs
//! -        let deadline = certain_until(sent, ttl);
//! +        let deadline = certain_until(now, ttl);
//! ```
//!
//! The bugs are planted in a copy of the tree with a target folder of its own: in one that is shared, cargo would take
//! what it built with a bug for the real thing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::Outcome;
use crate::run::{cargo, read, run};

const HERE: &str = "tenure/tests/simulate/bugs";
const TEST: &str = "test --package tenure --all-features --test simulate";
const PROMISES: &str = "every_promise_is_kept_in_every_weather";
/// As many as CI plays.
const SEEDS: u64 = 20_000;

/// Plays seeds, or plants bugs.
pub(crate) fn main(args: &[&str]) -> Outcome {
    let (mut seeds, mut seed, mut rest) = (SEEDS, 0, args.iter().copied());
    while let Some(arg) = rest.next() {
        let target = match arg {
            "--seeds" => &mut seeds,
            "--seed" => &mut seed,
            "--bugs" => return bugs(&rest.collect::<Vec<_>>()),
            _ => return Err(format!("`cargo xtask simulate` does not know {arg}: see --help")),
        };
        let value = rest.next().and_then(|value| value.parse().ok());
        *target = value.ok_or_else(|| format!("{arg} wants a number"))?;
    }
    let start = Instant::now();
    run(&mut play(cargo(TEST), seeds, seed))?;
    Ok(format!("{seeds} seeds in {:.1} s, the build included", start.elapsed().as_secs_f64()))
}

/// CI's seeds.
pub(crate) fn ci() -> Outcome {
    main(&[])
}

fn play(mut test: Command, seeds: u64, seed: u64) -> Command {
    test.args(["--", "--nocapture", PROMISES]);
    test.env("TENURE_CASES", seeds.to_string()).env("TENURE_SEED", seed.to_string());
    test
}

/// Plants all bugs, or those named, one after the other; each has to be found.
fn bugs(names: &[&str]) -> Outcome {
    let all = Bug::all()?;
    if let Some(other) = names.iter().find(|name| !all.iter().any(|bug| bug.name == **name)) {
        return Err(format!("there is no bug {other} in {HERE}"));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let target = std::path::absolute(target).map_err(|error| format!("the target folder has no path: {error}"))?;
    let copy = target.join("bugs");
    let target = copy.join("target");
    copy_tree(Path::new("."), &copy).map_err(|error| format!("the tree cannot be copied: {error}"))?;
    let (mut table, mut missed) = (String::new(), 0);
    for bug in all.iter().filter(|bug| names.is_empty() || names.contains(&bug.name.as_str())) {
        let start = Instant::now();
        let verdict = bug.hunt(&copy, &target);
        let seconds = start.elapsed().as_secs_f64();
        missed += u32::from(verdict.is_err());
        let verdict = verdict.unwrap_or_else(|why| format!("NOT FOUND: {why}"));
        println!("== {}: {verdict} ({seconds:.0} s)", bug.name);
        table += &format!("{:32} {verdict}\n", bug.name);
    }
    println!("\n{table}");
    if missed == 0 { Ok("every bug was found".to_owned()) } else { Err(format!("{missed} bugs were not found")) }
}

struct Bug {
    name: String,
    file: String,
    /// What is taken out, and what is put in its place.
    changes: Vec<(String, String)>,
}

impl Bug {
    fn all() -> Result<Vec<Self>, String> {
        let folder = fs::read_dir(HERE).map_err(|error| format!("{HERE} cannot be read: {error}"))?;
        let mut names: Vec<_> =
            folder.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names.iter().filter_map(|name| name.strip_suffix(".patch")).map(Self::read).collect()
    }

    fn read(name: &str) -> Result<Self, String> {
        let text = read(&format!("{HERE}/{name}.patch"))?;
        let (_, rest) = text.split_once("\n--- ").ok_or_else(|| format!("bug {name} names no file: --- path"))?;
        let (file, rest) = rest.split_once('\n').unwrap_or((rest, ""));
        let (mut changes, mut grows) = (Vec::<(String, String)>::new(), false);
        for line in rest.lines() {
            let (out, line) = match line.split_at_checked(1) {
                Some(("-", line)) => (true, line),
                Some(("+", line)) => (false, line),
                _ => return Err(format!("bug {name} has a line that is neither - nor +: {line}")),
            };
            if changes.is_empty() || (out && grows) {
                changes.push(Default::default());
            }
            grows = !out;
            let (old, new) = changes.last_mut().expect("there is one");
            *if out { old } else { new } += &format!("{line}\n");
        }
        Ok(Self { name: name.to_owned(), file: file.to_owned(), changes })
    }

    /// The file with the bug in it.
    fn plant(&self) -> Result<String, String> {
        let mut text = read(&self.file)?;
        for (old, new) in &self.changes {
            let places = text.matches(old.as_str()).count();
            if places != 1 || old.is_empty() {
                let Self { name, file, .. } = self;
                return Err(format!("bug {name} fits {places} places in {file}, and must fit one: mend it\n{old}"));
            }
            text = text.replace(old, new);
        }
        Ok(text)
    }

    /// Says how it was found.
    fn hunt(&self, copy: &Path, target: &Path) -> Outcome {
        let (sound, file) = (read(&self.file)?, copy.join(&self.file));
        let write = |text| fs::write(&file, text).map_err(|error| format!("{} cannot be written: {error}", self.file));
        write(self.plant()?)?;
        let found = hunt(copy, target);
        write(sound)?;
        found
    }
}

fn hunt(copy: &Path, target: &Path) -> Outcome {
    let test = || {
        let mut test = cargo(TEST);
        test.current_dir(copy).env("CARGO_TARGET_DIR", target).env("RUST_BACKTRACE", "0");
        test
    };
    let built = test().args(["--quiet", "--no-run"]).status();
    if !built.is_ok_and(|status| status.success()) {
        return Err("it does not compile".to_owned());
    }
    let output = play(test(), SEEDS, 0).output().map_err(|error| format!("the test did not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let seed = text.lines().find_map(|line| line.split_once("to play it again: ")?.1.rsplit_once(' '));
    let broken = text.lines().find_map(|line| Some(line.split_once(" BROKEN: ")?.1));
    match (seed, broken) {
        (Some((_, seed)), Some(broken)) => Ok(format!("seed {seed}: {}", broken.chars().take(100).collect::<String>())),
        (Some((_, seed)), None) => Ok(format!("seed {seed}, and not again")),
        _ if output.status.success() => Err(format!("{SEEDS} seeds kept every promise")),
        _ => Err(format!("the test ended without a word on a seed: {}", output.status)),
    }
}

/// Makes `copy` a copy of `folder`, but for hidden files and what cargo builds, and leaves alone what is the same.
fn copy_tree(folder: &Path, copy: &Path) -> std::io::Result<()> {
    fs::create_dir_all(copy)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (from, to): (PathBuf, _) = (entry.path(), copy.join(entry.file_name()));
        if entry.file_name().to_string_lossy().starts_with('.') || from.join("CACHEDIR.TAG").exists() {
            continue;
        } else if entry.file_type()?.is_dir() {
            copy_tree(&from, &to)?;
        } else {
            let content = fs::read(&from)?;
            if fs::read(&to).ok().as_ref() != Some(&content) {
                fs::write(&to, content)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Bug;

    #[test]
    fn every_bug_still_has_its_place() {
        std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).unwrap();
        let bugs = Bug::all().unwrap();
        assert!(bugs.len() >= 12, "{}", bugs.len());
        let lost: Vec<String> = bugs.iter().filter_map(|bug| bug.plant().err()).collect();
        assert!(lost.is_empty(), "{}", lost.join("\n"));
    }
}
