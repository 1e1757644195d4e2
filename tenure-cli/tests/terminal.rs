//! The terminal: whose it is, Ctrl-C, Ctrl-Z, and what is drawn on it.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod support;

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use support::pty::Pty;
use support::{Store, code, eventually};

/// `tenure` on a terminal.
fn on_terminal(store: &Store, args: &[&str]) -> Pty {
    Pty::start(&store.tenure(args))
}

/// A shell on a terminal, in which `tenure` can be called by that name.
fn shell(store: &Store, args: &[&str]) -> Pty {
    let tenure = store.tenure(&[]);
    let folder = std::path::Path::new(tenure.get_program()).parent().unwrap().to_owned();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["--norc", "--noprofile"]).args(args).env("PATH", path).env("PS1", "$ ").env("TERM", "dumb");
    for (name, value) in tenure.get_envs() {
        value.map(|value| command.env(name, value));
    }
    Pty::start(&command)
}

#[test]
fn the_command_reads_from_the_terminal_and_ctrl_c_reaches_it() {
    let store = Store::sqlite();
    // Fields five and eight of that line are the process group and the foreground's.
    let script = "set -- $(cat /proc/$$/stat); [ $5 = $8 ] && echo foreground; read line; echo \"got <$line>\"; \
                  trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.02; done";
    let mut pty = on_terminal(&store, &["run", "x", "--", "sh", "-c", script]);
    pty.expect("foreground");
    pty.type_in("hello\n");
    pty.expect("got <hello>");
    pty.expect("ready");
    pty.type_in("\x03");
    let (status, seen) = pty.wait();
    assert!(seen.contains("caught"), "{seen:?}");
    assert_eq!(code(status), 7, "{seen:?}");
}

#[test]
fn the_terminal_is_given_back() {
    let store = Store::sqlite();
    let mut pty = shell(&store, &["-c", "tenure run x -- true; read line; echo \"then <$line>\""]);
    pty.type_in("hello\n");
    let (status, seen) = pty.wait();
    assert!(status.success() && seen.contains("then <hello>"), "{seen:?}");
}

#[test]
fn a_command_whose_input_is_a_pipe_gets_the_terminal_when_it_asks() {
    let store = Store::sqlite();
    let script = "echo piped | tenure run x -- sh -c 'cat; read line < /dev/tty; echo \"got <$line>\"'; read line; echo \"then <$line>\"";
    let mut pty = shell(&store, &["-c", script]);
    pty.expect("piped");
    pty.type_in("one\n");
    pty.expect("got <one>");
    pty.type_in("two\n");
    let (_, seen) = pty.wait();
    assert!(seen.contains("then <two>"), "{seen:?}");
}

#[test]
fn ctrl_c_reaches_a_command_whose_input_is_a_pipe() {
    let store = Store::sqlite();
    let script =
        "echo | tenure run x -- sh -c 'trap \"echo caught; exit 7\" INT; echo ready; while :; do sleep 0.02; done'";
    let mut pty = shell(&store, &["-c", script]);
    pty.expect("ready");
    pty.type_in("\x03");
    pty.expect("caught");
    eventually("the lock is released", || store.counts("x") == (0, 0));
}

#[test]
fn ctrl_z_suspends_both_and_fg_continues_both() {
    let store = Store::sqlite();
    let mut pty = shell(&store, &["-i"]);
    pty.expect("$ ");
    pty.type_in("tenure run x -- cat\n");
    eventually("it holds", || store.counts("x").0 == 1);
    pty.type_in("one\n");
    pty.expect("one\r\none");
    pty.type_in("\x1a");
    pty.expect("suspended; the hold on x lapses in ");
    pty.expect("Stopped");
    pty.type_in("echo 'the shell' is here\n");
    pty.expect("the shell is here");
    pty.type_in("fg\n");
    // What is typed before a terminal changes hands may end up in the wrong ones.
    pty.expect_foreground("cat");
    pty.type_in("two\n");
    pty.expect("two\r\ntwo");
    pty.type_in("\x04");
    eventually("the lock is released", || store.counts("x") == (0, 0));
    pty.type_in("echo code $?; exit\n");
    let (_, seen) = pty.wait();
    assert!(seen.contains("code 0"), "{seen:?}");
}

#[test]
fn a_command_whose_hold_lapsed_while_it_was_suspended_is_ended_by_fg() {
    let store = Store::sqlite();
    let mut pty = shell(&store, &["-i"]);
    pty.expect("$ ");
    let file = store.path("alive");
    // Nothing but builtins: a shell that has just forked cannot be suspended.
    pty.type_in(&format!("tenure run --ttl 500ms x -- sh -c 'while :; do : > {}; done'\n", file.display()));
    support::wait_for_file(&file);
    pty.type_in("\x1a");
    pty.expect("Stopped");
    eventually("the hold has lapsed", || store.counts("x").0 == 0);
    std::fs::remove_file(&file).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(!file.exists(), "the command is suspended, too");
    pty.type_in("fg\n");
    pty.expect("x is lost");
    pty.type_in("echo code $?; exit\n");
    let (_, seen) = pty.wait();
    assert!(seen.contains("code 76"), "{seen:?}");
    assert!(!file.exists(), "and did nothing more");
}

#[test]
fn where_nobody_could_continue_us_ctrl_z_does_nothing() {
    let store = Store::sqlite();
    // The leader of a session: no shell is above it.
    let mut pty = on_terminal(&store, &["run", "x", "--", "cat"]);
    pty.expect_foreground("cat");
    pty.type_in("\x1a");
    pty.type_in("still here\n");
    pty.expect("still here\r\nstill here");
    pty.type_in("\x04");
    let (status, _) = pty.wait();
    assert_eq!(code(status), 0);
}

#[test]
fn a_wait_shows_who_holds_the_lock_and_is_erased() {
    let store = Store::sqlite();
    let holder = store.hold(&["x", "--purpose", "mischief"]);
    let pty = on_terminal(&store, &["run", "x", "--", "echo", "done"]);
    pty.expect("waiting for x, held by ");
    pty.expect("(mischief) for ");
    pty.expect("we are next");
    holder.signal(Signal::TERM);
    let (status, seen) = pty.wait();
    assert_eq!(code(status), 0);
    assert!(seen.ends_with("\r\x1b[Kdone\r\n"), "{seen:?}");
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    let store = Store::sqlite();
    let _holder = store.hold(&["x"]);
    let (_, seen) = on_terminal(&store, &["ls"]).wait();
    assert!(seen.contains("\x1b[1mNAME"), "{seen:?}");
    let (_, seen) = Pty::start(store.tenure(&["ls"]).env("NO_COLOR", "1")).wait();
    assert!(seen.contains("NAME") && !seen.contains('\x1b'), "{seen:?}");
    let output = store.output(&["ls"]);
    assert!(!output.stdout.contains(&0x1b), "{output:?}");
}

#[test]
fn break_asks() {
    let store = Store::sqlite();
    let _holder = store.hold(&["x"]);
    let mut pty = on_terminal(&store, &["break", "x"]);
    pty.expect("Take x away, held by ");
    pty.type_in("n\n");
    let (status, _) = pty.wait();
    assert_eq!((code(status), store.counts("x").0), (1, 1));
    let mut pty = on_terminal(&store, &["break", "x"]);
    pty.expect("[y/N]");
    pty.type_in("y\n");
    let (status, _) = pty.wait();
    assert_eq!((code(status), store.counts("x").0), (0, 0));
}

#[test]
fn watch_redraws() {
    let store = Store::sqlite();
    let mut pty = on_terminal(&store, &["watch", "--interval", "50ms"]);
    pty.expect("\x1b[H");
    let _holder = store.hold(&["x", "--purpose", "to be seen"]);
    pty.expect("(to be seen)");
    pty.type_in("\x03");
    let (status, _) = pty.wait();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(2));
}
