//! `tenure run` and `try`: exit codes, waiting, and what the command finds.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use support::{Running, Store, code, eventually, text};

#[test]
fn the_exit_code_is_the_commands() {
    let store = Store::sqlite();
    let sh = |script: &str| store.code(&["run", "x", "--", "sh", "-c", script]);
    assert_eq!(sh("exit 0"), 0);
    assert_eq!(sh("exit 3"), 3);
    assert_eq!(sh("exit 255"), 255);
    assert_eq!(sh("kill -TERM $$"), 128 + 15);
    assert_eq!(sh("kill -KILL $$"), 128 + 9);
    assert_eq!(sh("kill -SEGV $$"), 128 + 11);
}

#[test]
fn a_command_that_cannot_be_run_ends_as_env_has_it() {
    let store = Store::sqlite();
    let output = store.output(&["run", "x", "--", "no-such-command"]);
    assert_eq!(code(output.status), 127);
    assert_eq!(text(&output.stderr), "tenure: no-such-command: No such file or directory\n");
    assert_eq!(store.code(&["run", "x", "--", "/etc/passwd"]), 126);
    assert_eq!(store.counts("x"), (0, 0), "and the lock is released");
}

#[test]
fn what_cannot_be_meant_ends_with_64_and_a_broken_store_with_69() {
    let store = Store::sqlite();
    assert_eq!(store.code(&["run", "x"]), 64);
    assert_eq!(store.code(&["run", "--wait", "soon", "x", "--", "true"]), 64);
    assert_eq!(store.code(&["run", "--grace", "20s", "x", "--", "true"]), 64);
    assert_eq!(store.code(&["run", "", "--", "true"]), 64);
    assert_eq!(store.code(&["--store", "carrier-pigeon:", "ls"]), 64);
    std::fs::write(store.path("damaged.db"), [7; 10_000]).unwrap();
    let damaged = format!("sqlite:{}", store.path("damaged.db").display());
    let output = store.output(&["--store", &damaged, "run", "x", "--", "true"]);
    assert_eq!(code(output.status), 69, "{output:?}");
    assert!(text(&output.stderr).starts_with("tenure: "), "{output:?}");
}

#[test]
fn a_busy_lock_ends_with_75_or_as_told() {
    let store = Store::sqlite();
    let _holder = store.hold(&["x", "--purpose", "to be in the way"]);
    let run = |options: &[&str]| {
        let start = Instant::now();
        let output = store.output(&[&["run", "x"], options, &["--", "touch", "/nonexistent"]].concat());
        (code(output.status), start.elapsed(), text(&output.stderr))
    };
    let (code, time, said) = run(&["-n"]);
    assert_eq!(code, 75);
    assert!(time < Duration::from_millis(800), "it does not wait: {time:?}");
    assert!(said.contains("x is busy") && said.contains("(to be in the way)"), "{said}");

    let (code, time, _) = run(&["-w", "400ms"]);
    assert_eq!(code, 75);
    assert!((400..1_500).contains(&time.as_millis()), "{time:?}");

    let (code, _, said) = run(&["-n", "-E", "0", "-q"]);
    assert_eq!((code, said.as_str()), (0, ""));
}

#[test]
fn try_says_whether_the_lock_is_free() {
    let store = Store::sqlite();
    assert_eq!(store.code(&["try", "x"]), 0);
    assert_eq!(store.counts("x"), (0, 0), "nothing is taken");
    assert_eq!(store.code(&["try", "x", "--", "sh", "-c", "exit 7"]), 7);
    let _holder = store.hold(&["x"]);
    assert_eq!(store.code(&["try", "x"]), 75);
    assert_eq!(store.code(&["try", "-s", "x"]), 75);
    assert_eq!(store.code(&["try", "-E", "3", "x", "--", "true"]), 3);
}

#[test]
fn whoever_waits_gets_the_lock_when_it_is_released() {
    let store = Store::sqlite();
    let holder = store.hold(&["x"]);
    let waiter = store.start(&["run", "x", "--", "sh", "-c", "date +%s%N; echo $TENURE_DEADLINE"]);
    support::eventually("it waits", || store.counts("x") == (1, 1));
    let released = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    holder.signal(rustix::process::Signal::TERM);
    assert_eq!(holder.code(), 128 + 15);
    let output = waiter.output();
    assert_eq!(code(output.status), 0);
    let said = text(&output.stdout);
    let (ran, deadline) = said.trim().split_once('\n').unwrap();
    let ran = Duration::from_nanos(ran.parse().unwrap());
    // A waiter that nobody tells asks again after a second.
    assert!(ran > released && ran - released < Duration::from_millis(700), "{:?} after it", ran - released);
    let left = Duration::from_millis(deadline.parse().unwrap()) - ran;
    assert!(left > Duration::from_secs(28), "it begins with the whole of its ttl, not with {left:?}");
}

#[test]
fn readers_share_and_slots_are_counted() {
    let store = Store::sqlite();
    let reader = store.hold(&["-s", "data"]);
    assert_eq!(store.code(&["run", "-n", "-s", "data", "--", "true"]), 0);
    assert_eq!(store.code(&["run", "-n", "data", "--", "true"]), 75);
    assert_eq!(store.code(&["run", "-n", "--slots", "2", "data", "--", "true"]), 64, "it is no semaphore now");
    assert_eq!(store.code(&["try", "--slots", "2", "data"]), 64);
    drop(reader);

    let _slots = [store.hold(&["--slots", "2", "crawl"]), store.hold(&["--slots", "2", "crawl", "--quiet"])];
    assert_eq!(store.code(&["run", "-n", "--slots", "2", "crawl", "--", "true"]), 75);
    assert_eq!(store.code(&["try", "--slots", "2", "crawl"]), 75);
    assert_eq!(store.code(&["run", "-n", "--slots", "3", "crawl", "--", "true"]), 64);
}

#[test]
fn the_commands_input_and_output_pass_through() {
    let store = Store::sqlite();
    let mut command = store.tenure(&["run", "x", "--", "cat"]);
    let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut input = running.child().stdin.take().unwrap();
    let data: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let sent = data.clone();
    let feeder = std::thread::spawn(move || std::io::Write::write_all(&mut input, &sent));
    let output = running.output();
    feeder.join().unwrap().unwrap();
    assert_eq!(code(output.status), 0);
    assert!(output.stdout == data, "every byte comes out as it went in");
}

#[test]
fn a_nested_run_shows_its_own_lock() {
    let store = Store::sqlite();
    let tenure = env!("CARGO_BIN_EXE_tenure");
    let show = "echo $TENURE_NAME $TENURE_FENCE $TENURE_DEADLINE $TENURE_OWNER";
    let script = format!("{show}; '{tenure}' run inner --ttl 5s -- sh -c '{show}'; {show}");
    let output = store.output(&["run", "outer", "--", "sh", "-c", &script]);
    let lines: Vec<String> = text(&output.stdout).lines().map(ToOwned::to_owned).collect();
    let [before, inner, after] = lines.as_slice() else { panic!("{output:?}") };
    assert_eq!(before, after);
    let fields: Vec<&str> = inner.split(' ').collect();
    let [name, fence, deadline, owner] = fields.as_slice() else { panic!("{inner}") };
    assert_eq!(*name, "inner");
    assert!(before.starts_with("outer ") && !before.contains(fence), "{before} and {inner}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let left = deadline.parse::<i64>().unwrap() - now;
    assert!((1..=5_000).contains(&left), "{left} ms of 5 s are left");
    assert!(owner.contains(':'), "{owner} names host and process");
}

#[test]
fn a_command_that_holds_too_long_is_ended() {
    let store = Store::sqlite();
    let start = Instant::now();
    let script = "trap '' TERM; sleep 60 & wait; wait";
    let code = store.code(&["run", "--max-hold", "300ms", "--grace", "200ms", "x", "--", "sh", "-c", script]);
    assert_eq!(code, 124);
    assert!((500..2_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert_eq!(store.counts("x"), (0, 0), "and the lock is released");
}

#[test]
fn what_it_does_is_told_as_json_lines() {
    let store = Store::sqlite();
    let output = store.output(&["run", "--json", "x", "--", "true"]);
    let events: Vec<Value> = text(&output.stderr).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["acquired", "released"]);
    assert!(events[0]["fence"].as_u64() > Some(0) && events[0]["deadline_ms"].is_u64(), "{events:?}");
    assert_eq!(events[1]["was_ours"], true);
    assert_eq!(text(&store.output(&["run", "x", "--", "true"]).stderr), "", "nothing to say by default");
    assert!(text(&store.output(&["run", "-v", "x", "--", "true"]).stderr).contains("holding x with fence"));
}

#[test]
fn the_default_store_is_in_the_users_state_folder() {
    let store = Store::sqlite();
    let state = store.path("state");
    let tenure = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenure"));
        command.args(args).env_remove("TENURE_STORE").env("XDG_STATE_HOME", &state).output().unwrap()
    };
    assert_eq!(code(tenure(&["run", "x", "--", "true"]).status), 0);
    let mode = |path| std::fs::metadata(state.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("tenure"), 0o700);
    assert_eq!(mode("tenure/locks.db"), 0o600);
    assert_eq!(text(&tenure(&["ls", "--json"]).stdout), "[]\n");
}

#[test]
fn a_command_goes_on_when_nobody_reads_what_is_said_about_it() {
    let store = Store::sqlite();
    let go = store.path("go");
    let script = format!("while [ ! -e '{}' ]; do sleep 0.01; done; exit 6", go.display());
    let args = ["run", "-v", "x", "--", "sh", "-c", &script];
    let mut running = Running::start(store.tenure(&args).stderr(Stdio::piped()));
    support::eventually("it holds", || store.counts("x").0 == 1);
    drop(running.child().stderr.take());
    std::fs::write(&go, "").unwrap();
    assert_eq!(running.code(), 6);
    assert_eq!(store.counts("x"), (0, 0), "and the lock is released");
}

#[test]
fn a_crash_of_the_holder_costs_the_next_its_ttl_and_not_a_while_of_polling() {
    for store in [Store::sqlite(), Store::redis()] {
        // A machine that is busy may be late once, but not each time.
        let limit = Duration::from_millis(50);
        let late: Vec<Duration> = (0..3).map(|_| late_after_a_crash(&store)).collect();
        assert!(late.iter().any(|late| *late <= limit), "later than the ttl by {late:?}");
    }
}

/// By how much more than the ttl after the holder's death the next command began.
fn late_after_a_crash(store: &Store) -> Duration {
    let mut holder = store.start(&["run", "--ttl", "1s", "x", "--", "sleep", "5"]);
    eventually("it holds", || store.counts("x") == (1, 0));
    let waiter = store.start(&["run", "x", "--", "date", "+%s%N"]);
    eventually("the next one waits", || store.counts("x") == (1, 1));
    holder.child().kill().unwrap();
    let killed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let began: u64 = text(&waiter.output().stdout).trim().parse().unwrap();
    Duration::from_nanos(began).saturating_sub(killed + Duration::from_secs(1))
}

#[test]
fn a_store_that_fails_for_all_of_the_wait_is_not_a_busy_lock() {
    let store = Store::redis();
    let _holder = store.hold(&["x"]);
    let waiter = store.start(&["run", "-E", "0", "-w", "4s", "x", "--", "true"]);
    eventually("it waits", || store.counts("x") == (1, 1));
    store.redis.as_ref().unwrap().pause();
    let output = waiter.output();
    store.redis.as_ref().unwrap().resume();
    assert_eq!(code(output.status), 69, "{output:?}");
    assert!(text(&output.stderr).contains("could not be had within"), "{output:?}");
}

#[test]
fn a_wait_that_ends_leaves_no_place() {
    for store in [Store::sqlite(), Store::redis()] {
        let _holder = store.hold(&["x"]);
        for _ in 0..5 {
            assert_eq!(store.code(&["run", "-w", "60ms", "x", "--", "true"]), 75);
            assert_eq!(store.counts("x"), (1, 0));
        }
    }
}
