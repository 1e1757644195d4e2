//! `ls`, `show`, `break`, `watch`, `completions` and the help.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{Running, Store, code, eventually, text};
use tenure::Key;
use tenure::proto::{Acquire, Claim, ClaimId, Op, Owner};

#[test]
fn ls_lists_what_is_held_and_awaited() {
    let store = Store::sqlite();
    assert_eq!(text(&store.output(&["ls", "--json"]).stdout), "[]\n");
    let _holders = [
        store.hold(&["alpha", "--purpose", "the first"]),
        store.hold(&["beta", "-s"]),
        store.hold(&["gamma", "--slots", "3"]),
    ];
    let _waiter = store.start(&["run", "alpha", "--", "true"]);
    eventually("it waits", || store.counts("alpha") == (1, 1));

    let output = store.output(&["ls"]);
    let lines: Vec<String> = text(&output.stdout).lines().map(ToOwned::to_owned).collect();
    let [header, alpha, beta, gamma] = lines.as_slice() else { panic!("{output:?}") };
    assert!(header.starts_with("NAME   KIND          HOLDERS  WAITERS  HELD FOR"), "{header}");
    assert!(alpha.starts_with("alpha  exclusive     1        1  ") && alpha.ends_with("(the first)"), "{alpha}");
    assert!(beta.starts_with("beta   shared        1        0  "), "{beta}");
    assert!(gamma.starts_with("gamma  1 of 3 slots  1        0  "), "{gamma}");

    let locks: Value = serde_json::from_slice(&store.output(&["ls", "--json"]).stdout).unwrap();
    let names: Vec<&Value> = locks.as_array().unwrap().iter().map(|lock| &lock["name"]).collect();
    assert_eq!(names, ["alpha", "beta", "gamma"]);
    assert_eq!(locks[2]["limit"], 3);
}

#[test]
fn show_tells_everything() {
    let store = Store::sqlite();
    let _holder = store.hold(&["x", "--purpose", "the works"]);
    let _waiter = store.start(&["run", "x", "--", "true"]);
    eventually("it waits", || store.counts("x") == (1, 1));
    let info = store.show("x");
    let holder = &info["holders"][0];
    assert_eq!(info["kind"], "exclusive");
    assert_eq!(holder["fence"], info["fence"]);
    assert_eq!(holder["purpose"], "the works");
    assert!(holder["pid"].is_u64() && holder["host"].is_string() && holder["permits"].is_null(), "{info}");
    assert!(holder["until"].as_str() > holder["since"].as_str(), "{info}");
    assert!(info["waiters"][0]["fence"].is_null(), "{info}");

    let shown = text(&store.output(&["show", "x"]).stdout);
    let fence = format!("fence    {}", info["fence"]);
    for expected in ["holder 1", "waiter 1", "(the works)", "metadata", "exclusive", &fence] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    assert!(text(&store.output(&["show", "unheard-of"]).stdout).contains("free"));
}

#[test]
fn nothing_from_the_store_steers_the_terminal() {
    let store = Store::sqlite();
    let evil = "evil\x1b[2J\u{9b}31m\u{202e}";
    let _holder = store.start(&["run", "--purpose", evil, evil, "--", "sleep", "60"]);
    eventually("it holds", || store.counts(evil).0 == 1);
    let commands: [&[&str]; 6] = [
        &["ls"],
        &["ls", "--json"],
        &["show", evil],
        &["show", evil, "--json"],
        &["run", "-n", evil, "--", "true"],
        &["break", "--yes", evil],
    ];
    for args in commands {
        let output = store.output(args);
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert!(shown.contains("evil"), "{args:?}: {shown:?}");
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{args:?}: {shown:?}");
        assert!(args.contains(&"--json") || !shown.contains('\u{202e}'), "{args:?}: {shown:?}");
    }
}

/// Red with: metadata that is printed as it lies there; an owner that is.
#[tokio::test]
async fn what_is_too_long_or_no_text_is_cut_for_people_and_whole_in_json() {
    let store = Store::redis();
    let locks = tenure::open(&store.redis.as_ref().unwrap().url()).await.unwrap();
    let garbage: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let (meta, owner) = (garbage.clone().into(), Some(Owner::new("o".repeat(50_000))));
    let ttl = Duration::from_secs(60);
    let claim = Claim::EXCLUSIVE;
    let (id, patience, memory) = (ClaimId::new(1), Duration::ZERO, ttl);
    let acquire = Op::Acquire(Acquire { id, claim, ttl, patience, owner, max: 1, memory, meta, fence: 0 });
    locks.store().apply(&Key::new("x").unwrap(), &acquire).await.unwrap();

    for args in [&["ls"][..], &["show", "x"]] {
        let output = store.output(args);
        let shown = text(&output.stdout);
        assert!(shown.contains("(50000 bytes in all)") && shown.len() < 20_000, "{args:?}: {} bytes", shown.len());
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{args:?}: {shown:?}");
    }
    let holder = &store.show("x")["holders"][0];
    assert_eq!((holder["pid"].as_u64(), holder["owner"].as_str().map(str::len)), (None, Some(50_000)));
    assert_eq!(holder["meta"], String::from_utf8_lossy(&garbage).as_ref());
}

#[test]
fn break_takes_the_lock_away_and_the_next_one_holds() {
    let store = Store::sqlite();
    let _holder = store.hold(&["x", "--ttl", "60s"]);
    assert_eq!(store.code(&["break", "x"]), 64, "nobody can be asked");
    assert_eq!(store.counts("x").0, 1);
    let waiter = store.start(&["run", "x", "--", "true"]);
    eventually("it waits", || store.counts("x") == (1, 1));
    let output = store.output(&["break", "--yes", "x", "--json"]);
    let broken: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(broken.as_array().map(Vec::len), Some(1));
    assert_eq!(waiter.code(), 0);
    let output = store.output(&["break", "--yes", "x"]);
    assert_eq!((code(output.status), text(&output.stderr).as_str()), (0, "tenure: nobody holds x\n"));
}

#[test]
fn watch_tells_every_change() {
    let store = Store::sqlite();
    for json in [true, false] {
        let mut args = vec!["watch", "x", "--interval", "20ms"];
        args.extend(json.then_some("--json"));
        let mut watch = Running::start(store.tenure(&args).stdout(Stdio::piped()));
        let mut lines = BufReader::new(watch.child().stdout.take().unwrap()).lines();
        let mut expect = |change: &str| {
            let line = lines.next().expect("there is a line").unwrap();
            if json {
                let event: Value = serde_json::from_str(&line).unwrap();
                assert_eq!((&event["change"], &event["name"]), (&change.into(), &"x".into()), "{line}");
            } else {
                assert!(line.contains(&format!(" x {change}: ")), "{line}");
            }
        };
        let holder = store.hold(&["x"]);
        expect("holds");
        let waiter = store.start(&["run", "x", "--", "true"]);
        expect("waits");
        waiter.signal(rustix::process::Signal::INT);
        expect("left");
        holder.signal(rustix::process::Signal::TERM);
        expect("ended");
        waiter.code();
        holder.code();
        let _ = std::fs::remove_file(store.path("holding-x"));
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let store = Store::sqlite();
    let mut command = store.tenure(&["completions", "bash"]);
    let mut running = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    drop(running.child().stdout.take());
    let output = running.output();
    assert_eq!((code(output.status), text(&output.stderr)), (0, String::new()));
}

#[test]
fn completions_and_help_are_there() {
    let store = Store::sqlite();
    for (shell, sign) in [("bash", "_tenure()"), ("zsh", "#compdef tenure"), ("fish", "complete -c tenure")] {
        let script = text(&store.output(&["completions", shell]).stdout);
        assert!(script.contains(sign) && script.contains("max-hold"), "{shell}: {script}");
        assert!(!script.contains("__exec"), "what is hidden is not completed");
    }
    let script = store.path("completions.bash");
    std::fs::write(&script, store.output(&["completions", "bash"]).stdout).unwrap();
    assert!(Command::new("bash").arg("-n").arg(&script).status().unwrap().success());
    for subcommand in ["run", "try", "ls", "show", "break", "watch", "completions"] {
        for help in ["-h", "--help"] {
            let output = store.output(&[subcommand, help]);
            assert_eq!(code(output.status), 0);
            let shown = text(&output.stdout);
            assert!(shown.contains("Examples:"), "{subcommand} {help}: {shown}");
        }
    }
    for args in [&["--help"][..], &["run", "--help"]] {
        let long = text(&store.output(args).stdout);
        for number in ["64", "69", "71", "75", "76", "124", "126", "127"] {
            assert!(long.contains(&format!("\n  {number:4} ")), "{number} in {long}");
        }
    }
}

#[test]
fn nothing_asked_is_answered_by_help() {
    let store = Store::sqlite();
    let output = store.output(&[]);
    assert_eq!((code(output.status), text(&output.stderr)), (2, String::new()));
    assert!(text(&output.stdout).contains("Usage: tenure"), "{output:?}");
}

#[test]
fn what_a_replica_tells_is_marked() {
    let group = testkit::SentinelGroup::start();
    let (store, master) = (Store::at(group.url() + "?read=replica"), Store::at(group.url()));
    let _holder = master.hold(&["x"]);
    eventually("the replica knows of it", || store.counts("x") == (1, 0));
    assert_eq!((&store.show("x")["stale"], &master.show("x")["stale"]), (&true.into(), &false.into()));
    for args in [&["ls"][..], &["show", "x"]] {
        let says = |store: &Store| text(&store.output(args).stdout).contains("from a replica, which may lag");
        assert_eq!((says(&store), says(&master)), (true, false), "{args:?}");
    }
}

#[test]
fn answers_and_errors_are_json_where_that_is_asked_for() {
    let store = Store::sqlite();
    let json =
        |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:?}"));
    let output = store.output(&["try", "--json", "x"]);
    assert_eq!((code(output.status), json(&output.stdout)), (0, serde_json::json!({"event": "free", "name": "x"})));
    let _holder = store.hold(&["x"]);
    let output = store.output(&["try", "--json", "x"]);
    assert_eq!((code(output.status), &json(&output.stdout)["event"]), (75, &"busy".into()));

    let errors: [(&[&str], i32, &str); 5] = [
        (&["run", "--json", "y", "--", "no-such-command"], 127, "no-such-command: No such file or directory"),
        (&["--json", "--store", "carrier-pigeon:", "ls"], 64, "carrier-pigeon"),
        (&["--json", "--store", "redis://127.0.0.1:1", "ls"], 69, "127.0.0.1:1"),
        (&["--json", "run", "--wait", "soon", "x", "--", "true"], 64, "write 500ms"),
        (&["--json", "run", "--ttl", "8d", "y", "--", "true"], 64, "give 10ms to 7d"),
    ];
    for (args, number, says) in errors {
        let output = store.output(args);
        assert_eq!(code(output.status), number, "{output:?}");
        let last = text(&output.stderr).lines().find(|line| line.contains("error")).unwrap().to_owned();
        let error = json(last.as_bytes());
        assert_eq!((&error["event"], &error["code"]), (&"error".into(), &number.into()), "{error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
}
