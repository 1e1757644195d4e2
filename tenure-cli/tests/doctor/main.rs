//! `tenure doctor`: real deployments made bad on purpose, each finding seen at least once, and good ones with none.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod clusters;
mod files;
mod groups;
mod keys;
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::process::{Command, Stdio};

use serde_json::Value;
use support::{code, text};

/// What the doctor said of a store.
#[derive(Debug)]
struct Said {
    code: i32,
    findings: Vec<Value>,
}

fn tenure(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenure"));
    command.args(args).env("TENURE_STORE", url).env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn doctor(url: &str) -> Said {
    doctor_with(url, &[])
}

fn doctor_with(url: &str, args: &[&str]) -> Said {
    let output = tenure(url, &[&["doctor", "--json"], args].concat()).output().expect("tenure starts");
    let lines = text(&output.stdout);
    let findings = lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{output:?}")));
    Said { findings: findings.collect(), code: code(output.status) }
}

impl Said {
    /// Has it say that, at that level: the finding.
    fn has(&self, level: &str, check: &str, words: &str) -> &Value {
        let is_it = |one: &&Value| {
            one["level"] == level && one["check"] == check && one["found"].as_str().unwrap().contains(words)
        };
        let found = self.findings.iter().find(is_it);
        let found = found.unwrap_or_else(|| panic!("no {level} of {check} with {words:?}: {self:#?}"));
        if level != "ok" {
            assert!(found["why"].as_str().is_some_and(|why| !why.is_empty()), "it says why: {found}");
        }
        found
    }

    /// Nothing of that check is worse than ok, and it was made.
    fn is_fine(&self, check: &str) {
        let mut made = self.findings.iter().filter(|one| one["check"] == check).peekable();
        assert!(made.peek().is_some(), "{check} was not made: {self:#?}");
        assert!(made.all(|one| one["level"] == "ok"), "{check} is not ok: {self:#?}");
    }

    /// Everything is ok but what is named, and that is no worse than a note.
    fn is_good_but_for(&self, checks: &[&str]) {
        let bad = self.findings.iter().filter(|one| one["level"] != "ok");
        let bad: Vec<&Value> =
            bad.filter(|one| one["level"] != "note" || !checks.contains(&one["check"].as_str().unwrap())).collect();
        assert!(bad.is_empty(), "{bad:#?}");
        assert_eq!(self.code, 0);
    }
}
