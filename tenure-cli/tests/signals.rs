//! Signals: what reaches the command, and what becomes of it when `tenure` itself is killed or stopped.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Running, Store, code, eventually, is_alive, number_in, text, wait_for_file};

#[test]
fn signals_are_passed_on_to_the_command() {
    let store = Store::sqlite();
    let signals = [
        ("INT", Signal::INT),
        ("TERM", Signal::TERM),
        ("HUP", Signal::HUP),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("WINCH", Signal::WINCH),
        ("CONT", Signal::CONT),
    ];
    for (name, signal) in signals {
        let ready = store.path(name);
        let script =
            format!("trap 'echo {name}; exit 9' {name}; touch '{}'; while :; do sleep 0.02; done", ready.display());
        let running = store.start(&["run", "x", "--", "sh", "-c", &script]);
        wait_for_file(&ready);
        running.signal(signal);
        let output = running.output();
        assert_eq!((code(output.status), text(&output.stdout)), (9, format!("{name}\n")));
    }
}

#[test]
fn a_signal_reaches_the_commands_own_children() {
    let store = Store::sqlite();
    let file = store.path("grandchild");
    let script = format!("sleep 60 > /dev/null 2>&1 & echo $! > '{}'; wait", file.display());
    let running = store.start(&["run", "x", "--", "sh", "-c", &script]);
    let grandchild = number_in(&file);
    running.signal(Signal::TERM);
    assert_eq!(running.code(), 128 + 15);
    eventually("the grandchild is gone", || !is_alive(grandchild));
}

#[test]
fn what_is_ignored_stays_ignored() {
    let store = Store::sqlite();
    let tenure = env!("CARGO_BIN_EXE_tenure");
    let script = format!("trap '' HUP; exec '{tenure}' run x -- sh -c 'kill -HUP $PPID $$; sleep 0.1; echo alive'");
    let mut command = store.tenure(&[]);
    let environment: Vec<_> =
        command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    command = Command::new("sh");
    command.args(["-c", &script]);
    for (name, value) in environment {
        value.map(|value| command.env(name, value));
    }
    let output = command.output().unwrap();
    assert_eq!((code(output.status), text(&output.stdout)), (0, "alive\n".to_owned()));
}

#[test]
fn an_interrupted_wait_leaves_nothing_behind() {
    let store = Store::sqlite();
    let _holder = store.hold(&["x"]);
    for (signal, expected) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let waiter = store.start(&["run", "x", "--", "true"]);
        eventually("it waits", || store.counts("x") == (1, 1));
        waiter.signal(signal);
        assert_eq!(waiter.code(), expected);
        assert_eq!(store.counts("x"), (1, 0), "its place is given up when it ends, not when that lapses");
    }
}

#[test]
fn killing_tenure_kills_the_command() {
    let store = Store::sqlite();
    let file = store.path("command");
    let script = format!("trap '' HUP INT TERM; echo $$ > '{}'; while :; do sleep 0.05; done", file.display());
    let mut running = store.start(&["run", "--ttl", "60s", "x", "--", "sh", "-c", &script]);
    let command = number_in(&file);
    assert!(is_alive(command));
    running.child().kill().unwrap();
    eventually("the command is gone", || !is_alive(command));
    assert_eq!(store.counts("x").0, 1, "and that was long before the hold ends");
}

#[test]
fn a_stop_past_the_hold_is_noticed_at_once_when_it_ends() {
    let store = Store::sqlite();
    let file = store.path("grandchild");
    // The shell ignores TERM, and so does its child.
    let script = format!("trap '' TERM; sleep 60 > /dev/null 2>&1 & echo $! > '{}'; wait; sleep 60", file.display());
    let running = store.start(&["run", "--ttl", "500ms", "--json", "x", "--", "sh", "-c", &script]);
    let grandchild = number_in(&file);
    running.signal(Signal::STOP);
    eventually("the hold has ended", || store.counts("x").0 == 0);
    assert!(is_alive(grandchild));
    running.signal(Signal::CONT);
    let start = Instant::now();
    let output = running.output();
    assert_eq!(code(output.status), 76, "{output:?}");
    assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
    assert!(text(&output.stderr).contains(r#""event":"lost""#), "{output:?}");
    eventually("the grandchild is gone", || !is_alive(grandchild));
}

#[test]
fn a_short_stop_is_no_loss() {
    let store = Store::sqlite();
    let (begun, done) = (store.path("begun"), store.path("done"));
    let script = format!("touch '{}'; while [ ! -e '{}' ]; do sleep 0.02; done", begun.display(), done.display());
    let args = ["run", "--ttl", "3s", "--grace", "1400ms", "-v", "x", "--", "sh", "-c", &script];
    let running = Running::start(store.tenure(&args).stderr(Stdio::piped()));
    wait_for_file(&begun);
    // It is renewed after one second; of three, some one is left when it goes on, which is less than the grace.
    std::thread::sleep(Duration::from_millis(1_800));
    running.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(1_200));
    running.signal(Signal::CONT);
    std::thread::sleep(Duration::from_millis(300));
    std::fs::write(&done, "").unwrap();
    let output = running.output();
    assert_eq!(code(output.status), 0, "{output:?}");
    assert!(text(&output.stderr).contains("released x"), "{output:?}");
}
