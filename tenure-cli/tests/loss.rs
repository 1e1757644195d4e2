//! What happens when the hold is lost: to the command, to all of its process group, and to the exit code.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod support;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use support::{Store, code, eventually, is_alive, number_in, text, wait_for_file};

/// A shell that ignores TERM, with a child that does, too, which writes the time to a file for as long as it lives.
fn stubborn(store: &Store) -> String {
    let (pid, ticks) = (store.path("grandchild"), store.path("ticks"));
    format!(
        "trap '' TERM; sh -c 'echo $$ > {}; while :; do date +%s%N >> {}; sleep 0.01; done' > /dev/null 2>&1 & wait; sleep 60",
        pid.display(),
        ticks.display()
    )
}

/// The last time in that file.
fn last_tick(store: &Store) -> Duration {
    let ticks = std::fs::read_to_string(store.path("ticks")).unwrap();
    // Whoever wrote it may have been killed in the middle of a line.
    let (whole, _) = ticks.rsplit_once('\n').unwrap();
    Duration::from_nanos(whole.lines().last().unwrap().parse().unwrap())
}

#[test]
fn when_the_hold_is_gone_the_whole_group_is_told_and_then_killed() {
    let store = Store::sqlite();
    let running = store.start(&["run", "--ttl", "3s", "--json", "x", "--", "sh", "-c", &stubborn(&store)]);
    let grandchild = number_in(&store.path("grandchild"));
    assert_eq!(store.code(&["break", "--yes", "x"]), 0);
    let start = Instant::now();
    let output = running.output();
    assert_eq!(code(output.status), 76, "{output:?}");
    // A third of the ttl until it is learned, and a fifth until KILL.
    assert!((500..2_200).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    let told: Vec<String> = events(&output.stderr, "told").map(|event| event["signal"].to_string()).collect();
    assert_eq!(told, [r#""SIGTERM""#, r#""SIGKILL""#]);
    eventually("the grandchild is gone", || !is_alive(grandchild));
}

#[test]
fn a_command_that_heeds_term_is_not_waited_for() {
    let store = Store::sqlite();
    let file = store.path("cleanup");
    let script = format!("trap 'echo bye > {}; exit 0' TERM; echo ready; sleep 60 & wait", file.display());
    let running = store.start(&["run", "--ttl", "3s", "--grace", "1s", "x", "--", "sh", "-c", &script]);
    eventually("it holds", || store.counts("x").0 == 1);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(store.code(&["break", "--yes", "x"]), 0);
    let output = running.output();
    assert_eq!(code(output.status), 76, "whatever the command says: its hold was lost; {output:?}");
    wait_for_file(&file);
}

#[test]
fn when_renewing_fails_the_group_is_gone_before_the_hold_ends() {
    let store = Store::redis();
    let script = stubborn(&store);
    let args = ["run", "--ttl", "2s", "--grace", "600ms", "--json", "x", "--", "sh", "-c", &script];
    let running = store.start(&args);
    let grandchild = number_in(&store.path("grandchild"));
    // Let it be renewed a few times.
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(is_alive(grandchild));
    let redis = store.redis.as_ref().unwrap();
    redis.pause();
    let paused = unix_now();
    let output = running.output();
    let ended = unix_now();
    redis.resume();
    assert_eq!(code(output.status), 76, "{output:?}");
    eventually("the grandchild is gone", || !is_alive(grandchild));

    let in_doubt = events(&output.stderr, "in-doubt").next().expect("it was in doubt first");
    let left = Duration::from_millis(in_doubt["remaining_ms"].as_u64().unwrap());
    assert!((400..=600).contains(&left.as_millis()), "TERM when the grace is left: {left:?}");
    assert_eq!(events(&output.stderr, "lost").count(), 0, "KILL before the end, not at it: {output:?}");
    // The last renewal was sent before the pause, so that is the latest that the hold may have ended.
    let last = last_tick(&store);
    assert!(last < paused + Duration::from_secs(2), "it went on for {:?} of 2 s", last - paused);
    assert!(last > paused + Duration::from_millis(600), "and was left alone while the hold was certain");
    assert!(ended < paused + Duration::from_millis(2_500), "and so are we: {:?}", ended - paused);
}

#[test]
fn a_signal_of_ones_choice_leaves_the_rest_to_the_command() {
    let store = Store::sqlite();
    let script = "trap 'echo told; exit 5' USR1; echo ready; while :; do sleep 0.02; done";
    let running = store.start(&["run", "--ttl", "1s", "--on-lost", "signal:USR1", "x", "--", "sh", "-c", script]);
    eventually("it holds", || store.counts("x").0 == 1);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(store.code(&["break", "--yes", "x"]), 0);
    let output = running.output();
    assert_eq!((code(output.status), text(&output.stdout)), (5, "ready\ntold\n".to_owned()));
    assert!(text(&output.stderr).contains("x is lost"), "{output:?}");
}

#[test]
fn a_warning_is_only_a_warning() {
    let store = Store::sqlite();
    let script = "sleep 1.2; exit 4";
    let running = store.start(&["run", "--ttl", "900ms", "--on-lost", "warn", "x", "--", "sh", "-c", script]);
    eventually("it holds", || store.counts("x").0 == 1);
    assert_eq!(store.code(&["break", "--yes", "x"]), 0);
    let output = running.output();
    assert_eq!(code(output.status), 4);
    assert!(text(&output.stderr).contains("x is lost"), "{output:?}");
}

#[test]
fn a_loss_that_shows_only_at_the_release_counts() {
    let store = Store::sqlite();
    let go = store.path("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.01; done", go.display());
    let running = store.start(&["run", "-q", "--ttl", "60s", "x", "--", "sh", "-c", &script]);
    eventually("it holds", || store.counts("x").0 == 1);
    assert_eq!(store.code(&["break", "--yes", "x"]), 0);
    std::fs::write(&go, "").unwrap();
    let output = running.output();
    assert_eq!(code(output.status), 76, "{output:?}");
    assert!(text(&output.stderr).contains("no longer ours"), "a loss is told even to the quiet: {output:?}");
}

fn events(stderr: &[u8], name: &str) -> impl Iterator<Item = Value> {
    let lines: Vec<Value> = text(stderr).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.into_iter().filter(move |event| event["event"] == name)
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}
