//! What a command under a lock finds in its environment, and what a `tenure` that it runs makes of it.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod support;

use serde_json::Value;
use support::{Store, code, text};

const TENURE: &str = env!("CARGO_BIN_EXE_tenure");

#[test]
fn the_command_finds_the_store_that_it_runs_under() {
    let store = Store::sqlite();
    let script = format!("cd / && '{TENURE}' show x --json");
    let mut command = store.tenure(&["--store", "sqlite:other.db", "run", "x", "--", "sh", "-c", &script]);
    let output = command.current_dir(store.dir.path()).output().unwrap();
    let info: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(info["holders"].as_array().map(Vec::len), Some(1), "{info}");
    assert!(store.path("other.db").exists() && !store.path("locks.db").exists());
}

#[test]
fn a_password_from_the_command_line_stays_out_of_the_environment() {
    let store = Store::sqlite();
    let redis = testkit::Redis::start_with(&["--requirepass", "hunter2"]);
    let url = format!("redis://:hunter2@127.0.0.1:{}", redis.port());
    let script = format!("env | grep TENURE_; '{TENURE}' ls");
    let output = store.output(&["--store", &url, "run", "x", "--", "sh", "-c", &script]);
    let (found, said) = (text(&output.stdout), text(&output.stderr));
    assert!(found.contains(&format!("TENURE_STORE={}\n", redis.url())), "{found}");
    assert!(!found.contains("hunter2"), "{found}");
    assert_eq!(code(output.status), 69, "not another store in silence: {output:?}");
    assert!(said.contains("wants a password: give it as redis://:password@host"), "{said}");
    // Who keeps it in the environment has it there.
    let output = store.tenure(&["run", "x", "--", "sh", "-c", &script]).env("TENURE_STORE", &url).output().unwrap();
    assert_eq!(code(output.status), 0, "{output:?}");
}

#[test]
fn a_run_inside_of_a_run_of_the_same_name_is_told_that_it_waits_for_itself() {
    let store = Store::sqlite();
    let inner = ["--", TENURE, "run", "-w", "1500ms", "x", "--", "true"];
    let nested: [&[&str]; 2] = [&["run", "x"], &["run", "x", "--", TENURE, "run", "y"]];
    for outer in nested {
        let output = store.output(&[outer, &inner].concat());
        assert_eq!(code(output.status), 75, "{output:?}");
        assert_eq!(text(&output.stderr).matches("waits for itself").count(), 1, "{outer:?}: {output:?}");
    }
    let output = store.output(&["run", "-s", "x", "--", TENURE, "run", "-s", "x", "--", "true"]);
    assert_eq!((code(output.status), text(&output.stderr).as_str()), (0, ""), "readers share");

    let _holder = store.hold(&["x"]);
    let output = store.output(&["run", "y", inner[0], TENURE, "run", "-w", "1500ms", "x", "--", "true"]);
    assert_eq!(code(output.status), 75, "{output:?}");
    assert!(!text(&output.stderr).contains("waits for itself"), "it waits for somebody else: {output:?}");
}

#[test]
fn the_owner_is_the_same_wherever_it_is_shown() {
    let store = Store::sqlite();
    let script = format!("echo $TENURE_OWNER; '{TENURE}' show x --json; '{TENURE}' ls --json");
    let output = store.output(&["run", "x", "--purpose", "the works", "--", "sh", "-c", &script]);
    let said = text(&output.stdout);
    let [owner, shown, listed] = said.lines().collect::<Vec<_>>()[..] else { panic!("{output:?}") };
    let [shown, listed] = [shown, listed].map(|json| serde_json::from_str::<Value>(json).unwrap());
    assert!(owner.contains(':'), "{owner}");
    assert_eq!(shown["holders"][0]["owner"], owner);
    assert_eq!(listed[0]["holders"][0]["owner"], owner);
}
