//! `cargo xtask test`: the servers first, then the library's features, every test, and the models.
//!
//! A model is a test that `loom` runs once for each way in which its threads may take turns: see `tenure/src/sync.rs`.
//! That is another build of the library, without features and in a target folder of its own.

use std::fmt;
use std::io::IsTerminal;
use std::process::Command;

use crate::run::{cargo, read, run, watch};
use crate::{Outcome, servers};

/// Runs the tests; the outcome is the sum of what all the test programs counted.
pub(crate) fn main(args: &[&str]) -> Outcome {
    let at = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
    let (options, filter) = (&args[..at], args.get(at + 1..).unwrap_or_default());
    if let Some(other) = options.iter().find(|option| **option != "--no-install") {
        return Err(format!("`cargo xtask test` does not know {other}; a filter stands after --: see --help"));
    }
    servers::ensure(options.is_empty())?;
    if filter.is_empty() {
        // Everything is on in the tests, so what one part needs of another would go unseen there.
        let check = "check --quiet --package tenure --lib --no-default-features";
        run(&mut cargo(check))?;
        for feature in features(&read("tenure/Cargo.toml")?) {
            run(cargo(check).args(["--features", &feature]))?;
        }
    }
    let mut tests = cargo("test --workspace --all-features --no-fail-fast --");
    if std::io::stdout().is_terminal() {
        // The test programs see a pipe, and would leave the colours out.
        tests.arg("--color=always");
    }
    let mut total = Total::default();
    let mut ended = watch(tests.args(filter), |line| total.add(line));
    if filter.iter().all(|name| name.starts_with("model")) {
        ended = ended.and(watch(&mut models(filter), |line| total.add(line)));
    }
    match ended {
        Ok(()) => Ok(total.to_string()),
        Err(error) if total.programs == 0 => Err(error),
        Err(error) => {
            // A program that died has counted nothing, and yet has failed.
            total.failed = total.failed.max(1);
            Err(format!("{error}\n{total}"))
        }
    }
}

/// Other tests of the library know nothing of loom, and would not run.
fn models(filter: &[&str]) -> Command {
    let given = |name: &str| std::env::var(name).ok();
    let target = given("CARGO_TARGET_DIR").unwrap_or_else(|| "target".to_owned());
    let flags = given("RUSTFLAGS").unwrap_or_default() + " --cfg loom";
    let mut models = cargo("test --package tenure --lib --no-default-features --");
    models.args(if filter.is_empty() { &["model::model_"] } else { filter });
    models.env("CARGO_TARGET_DIR", format!("{target}/loom")).env("RUSTFLAGS", flags.trim_start());
    models
}

/// The library's features, each of which must build alone.
fn features(manifest: &str) -> Vec<String> {
    let section = manifest.lines().skip_while(|line| *line != "[features]").skip(1);
    let lines = section.take_while(|line| !line.starts_with('[')).filter(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.to_owned());
    names.filter(|name| name != "default").collect()
}

#[derive(Default)]
struct Total {
    programs: u32,
    passed: u32,
    failed: u32,
}

impl Total {
    /// Adds what a test program counted, if this is the line in which it says so.
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let count = |what: &str| -> u32 {
            let number = counts.split(what).next().and_then(|before| before.split_whitespace().last());
            number.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        self.programs += 1;
        self.passed += count(" passed");
        self.failed += count(" failed");
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::{Total, features};

    #[test]
    fn the_counts_of_all_test_programs_are_summed() {
        let mut total = Total::default();
        total.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        total.add("test result: \u{1b}[31mFAILED\u{1b}[m. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        total.add("test the_test_result: 9 passed ... ok");
        assert_eq!((total.programs, total.passed, total.failed), (2, 7, 2));
    }

    #[test]
    fn every_feature_but_the_default_is_found() {
        let manifest = "[lib]\nname = \"x\"\n[features]\ndefault = [\"a\"]\n## a = b\na = [\n]\n\nb = []\n[dependencies]\nc = \"1\"";
        assert_eq!(features(manifest), ["a", "b"]);
    }
}
