//! `tenure` over a quorum, and `tenure quorum`: members shown and changed while a command runs under a lock.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod support;

use serde_json::Value;
use support::{Store, code, eventually, text};
use testkit::Redis;

const SHORT: &str = "longest_ttl=3s&view_lease=300ms&token_memory=300ms";

fn servers(n: usize) -> Vec<Redis> {
    (0..n).map(|_| Redis::start_durable()).collect()
}

fn host(server: &Redis) -> String {
    format!("127.0.0.1:{}", server.port())
}

fn store(servers: &[Redis]) -> Store {
    let hosts: Vec<String> = servers.iter().map(host).collect();
    Store::at(format!("redlock://{}?{SHORT}", hosts.join(",")))
}

fn members(store: &Store) -> Vec<String> {
    let output = store.output(&["quorum", "status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(status["becoming"], Value::Null);
    let names = status["members"].as_array().expect("they are listed").iter();
    names.map(|name| name.as_str().expect("it is text").to_owned()).collect()
}

#[test]
fn members_change_while_a_command_runs_under_a_lock() {
    let servers = servers(4);
    let store = store(&servers[..3]);
    let mut holder = store.hold(&["job", "--ttl", "2s"]);
    let added = store.output(&["quorum", "add", &host(&servers[3])]);
    assert!(added.status.success(), "{added:?}");
    assert!(text(&added.stderr).contains("old and new members have to agree for"), "{added:?}");
    assert_eq!(members(&store).len(), 4);
    let removed = store.output(&["quorum", "remove", &host(&servers[0]), "--json"]);
    assert!(removed.status.success(), "{removed:?}");
    assert!(text(&removed.stderr).lines().any(|line| line == r#"{"step":"done"}"#), "{removed:?}");
    // Whoever is still told of the first three follows.
    assert_eq!(members(&store), servers[1..].iter().map(host).collect::<Vec<_>>());
    assert_eq!(store.counts("job").0, 1, "it is held all the time");
    assert!(holder.child().try_wait().unwrap().is_none(), "and its command goes on");
    assert_eq!(store.code(&["try", "job"]), 75);
    holder.signal(rustix::process::Signal::TERM);
    eventually("it is released", || store.counts("job").0 == 0);
}

#[test]
fn a_member_is_replaced_that_is_dead() {
    let mut servers = servers(4);
    let store = store(&servers[..3]);
    assert_eq!(store.code(&["run", "job", "--ttl", "2s", "--", "true"]), 0);
    servers[1].kill();
    let replaced = store.output(&["quorum", "replace", &host(&servers[1]), &host(&servers[3])]);
    assert!(replaced.status.success(), "{replaced:?}");
    assert_eq!(members(&store), [host(&servers[0]), host(&servers[3]), host(&servers[2])]);
    // Deployed anew, it is told of the new three, of which two are enough.
    let store = Store::at(format!("redlock://{}?{SHORT}", [0, 2, 3].map(|i| host(&servers[i])).join(",")));
    servers[0].kill();
    assert_eq!(store.code(&["run", "job", "--ttl", "2s", "--", "true"]), 0);
}

#[test]
fn what_cannot_be_is_refused_with_the_way_out() {
    let servers = servers(3);
    let store = store(&servers);
    for (args, says) in [
        (["quorum", "remove", "nobody:1"], "is no member: they are"),
        (["quorum", "add", &host(&servers[0])], "is a member already"),
    ] {
        let output = store.output(&args);
        assert!(code(output.status) == 64 && text(&output.stderr).contains(says), "{output:?}");
    }
    let output = Store::sqlite().output(&["quorum", "status"]);
    assert!(code(output.status) == 64 && text(&output.stderr).contains("redlock: or ring:"), "{output:?}");
    assert_eq!(store.code(&["quorum", "finish"]), 0, "there is nothing to finish");
}

#[test]
fn a_silent_majority_is_told_as_such_and_in_time() {
    let servers = servers(3);
    let store = store(&servers);
    servers[..2].iter().for_each(Redis::pause);
    let output = store.output(&["run", "-w", "1s", "job", "--ttl", "2s", "--", "true"]);
    servers[..2].iter().for_each(Redis::resume);
    assert!(code(output.status) == 69 && text(&output.stderr).contains("within 1s"), "{output:?}");
}
