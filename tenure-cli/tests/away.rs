//! A store that is away: silent from the start, silent while it is waited for, not there yet, or none at all.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::{Running, Store, code, eventually, text};

const LAPSES: &str = "our place for x lapses by itself within 3s";

#[test]
fn a_wait_ends_in_time_though_the_store_is_silent_and_the_lock_is_not_called_busy() {
    let store = Store::redis();
    let _holder = store.hold(&["x"]);
    let redis = store.redis.as_ref().unwrap();
    let start = Instant::now();
    let waiter = store.start(&["run", "-E", "0", "-w", "900ms", "x", "--", "true"]);
    eventually("it waits", || store.counts("x") == (1, 1));
    redis.pause();
    let output = waiter.output();
    let took = start.elapsed();
    redis.resume();
    assert_eq!(code(output.status), 69, "{output:?}");
    assert!(took < Duration::from_millis(2_000), "{took:?}");
    assert_eq!(text(&output.stderr).matches(LAPSES).count(), 1, "{output:?}");
}

#[test]
fn ctrl_c_ends_a_wait_at_once_though_the_store_is_silent() {
    let store = Store::redis();
    let _holder = store.hold(&["x"]);
    let redis = store.redis.as_ref().unwrap();
    let waiter = store.start(&["run", "x", "--", "true"]);
    eventually("it waits", || store.counts("x") == (1, 1));
    redis.pause();
    let start = Instant::now();
    waiter.signal(Signal::INT);
    let output = waiter.output();
    let took = start.elapsed();
    redis.resume();
    assert_eq!(code(output.status), 130, "{output:?}");
    assert!(took < Duration::from_millis(1_200), "{took:?}");
    assert_eq!(text(&output.stderr).matches(LAPSES).count(), 1, "{output:?}");
}

#[test]
fn a_store_that_is_silent_from_the_start_does_not_outlast_the_wait() {
    let store = Store::redis();
    store.redis.as_ref().unwrap().pause();
    let start = Instant::now();
    let output = store.output(&["run", "-w", "300ms", "x", "--", "true"]);
    let took = start.elapsed();
    store.redis.as_ref().unwrap().resume();
    assert_eq!(code(output.status), 69, "{output:?}");
    assert!(took < Duration::from_millis(1_600), "{took:?}");
    assert!(text(&output.stderr).contains("did not let us in within 1"), "{output:?}");
}

#[test]
fn who_waits_is_told_once_that_the_store_is_away_and_once_that_it_is_back() {
    let store = Store::redis();
    let holder = store.hold(&["x"]);
    let mut waiter = store.start(&["run", "--json", "x", "--", "true"]);
    let lines = BufReader::new(waiter.child().stderr.take().unwrap()).lines();
    let mut events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()["event"].clone());
    assert_eq!(events.next().unwrap(), "waiting");
    store.redis.as_ref().unwrap().pause();
    assert_eq!(events.next().unwrap(), "store-away");
    // It goes on failing for some attempts more.
    std::thread::sleep(Duration::from_secs(3));
    store.redis.as_ref().unwrap().resume();
    assert_eq!(events.next().unwrap(), "store-back");
    holder.signal(Signal::TERM);
    assert_eq!(events.collect::<Vec<_>>(), ["acquired", "released"]);
    assert_eq!(waiter.code(), 0);
}

#[test]
fn whoever_only_looks_makes_no_store() {
    let store = Store::sqlite();
    let path = store.path("a/b/locks.db");
    let url = format!("sqlite:{}", path.display());
    let looks: [&[&str]; 5] = [&["ls"], &["show", "x"], &["break", "--yes", "x"], &["try", "x"], &["ls", "--json"]];
    for args in looks {
        let output = store.output(&[&["--store", &url], args].concat());
        assert_eq!(code(output.status), 0, "{args:?}: {output:?}");
        let said = text(&output.stderr).contains(&format!("there is no store yet at {}", path.display()));
        assert_eq!(said, !args.contains(&"--json"), "{args:?}: {output:?}");
        assert!(!store.path("a").exists(), "{args:?}");
    }
    assert_eq!(text(&store.output(&["--store", &url, "ls", "--json"]).stdout), "[]\n");

    let output = store.output(&["--store", &url, "run", "x", "--", "true"]);
    assert_eq!(code(output.status), 69, "{output:?}");
    assert!(text(&output.stderr).contains("there is no folder"), "what may be misspelt is not made: {output:?}");
    assert!(!store.path("a").exists());
}

#[test]
fn the_default_store_is_not_made_by_looking_either() {
    let store = Store::sqlite();
    let state = store.path("state");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenure"));
    let output = command.arg("ls").env_remove("TENURE_STORE").env("XDG_STATE_HOME", &state).output().unwrap();
    assert_eq!(code(output.status), 0, "{output:?}");
    assert!(!state.exists());
}

#[test]
fn watch_waits_for_a_store_that_is_not_there_yet() {
    let store = Store::sqlite();
    let mut command = store.tenure(&["watch", "--json", "--interval", "20ms"]);
    let mut watch = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut lines = BufReader::new(watch.child().stdout.take().unwrap()).lines();
    let _holder = store.hold(&["x"]);
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains(r#""change":"holds""#) && line.contains(r#""name":"x""#), "{line}");
}

#[test]
fn watch_says_once_that_the_store_is_away_and_not_that_a_look_may_have_been_carried_out() {
    let store = Store::redis();
    let mut command = store.tenure(&["watch", "--interval", "20ms"]);
    let mut watch = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut lines = BufReader::new(watch.child().stdout.take().unwrap()).lines();
    let _holder = store.hold(&["x"]);
    lines.next().unwrap().unwrap();
    let mut said = BufReader::new(watch.child().stderr.take().unwrap()).lines();
    store.redis.as_ref().unwrap().pause();
    let away = said.next().unwrap().unwrap();
    assert!(away.starts_with("tenure: Redis at ") && !away.contains("carried out"), "{away}");
    std::thread::sleep(Duration::from_secs(2));
    store.redis.as_ref().unwrap().resume();
    assert_eq!(said.next().unwrap().unwrap(), "tenure: the store is back");
}

#[test]
fn memory_is_no_store_for_a_command() {
    let store = Store::sqlite();
    for args in [&["run", "x", "--", "true"][..], &["try", "x"], &["ls"], &["watch"]] {
        let output = store.output(&[&["--store", "memory:"], args].concat());
        assert_eq!(code(output.status), 64, "{args:?}: {output:?}");
        assert!(text(&output.stderr).contains("give sqlite:PATH"), "{output:?}");
        let output = store.tenure(args).env("TENURE_STORE", "memory:").output().unwrap();
        assert_eq!(code(output.status), 64, "{args:?}: {output:?}");
    }
}
