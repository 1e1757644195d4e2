//! Quorums and rings: how many nodes, whether they are apart, and whether they can decide.

use testkit::Redis;

use super::support::{Running, eventually};
use super::{Said, doctor, tenure};

fn durable(count: usize) -> Vec<Redis> {
    let nodes = (0..count).map(|_| Redis::start_durable());
    let limited = |node: Redis| {
        node.command(&["CONFIG", "SET", "maxmemory", "256mb"]);
        node
    };
    nodes.map(limited).collect()
}

fn hosts<'a>(nodes: impl IntoIterator<Item = &'a Redis>) -> String {
    nodes.into_iter().map(|node| format!("127.0.0.1:{}", node.port())).collect::<Vec<_>>().join(",")
}

fn of_the_group(said: &Said, check: &str) -> bool {
    said.findings.iter().any(|one| one["check"] == check && one["place"].as_str().unwrap().starts_with("the "))
}

#[test]
fn good_ones_are_told_so() {
    let nodes = durable(3);
    for scheme in ["redlock", "ring"] {
        let url = format!("{scheme}://{}", hosts(&nodes));
        assert!(tenure(&url, &["run", "a", "--", "true"]).status().unwrap().success());
        let said = doctor(&url);
        said.is_good_but_for(&["version"]);
        for check in ["size", "apart", "clock", "members"] {
            assert!(of_the_group(&said, check), "{scheme}: {check}: {said:#?}");
        }
    }
}

#[test]
fn an_even_number_two_of_one_and_a_short_ttl() {
    let nodes = durable(4);
    doctor(&format!("redlock://{}", hosts(&nodes))).has("note", "size", "4 nodes");
    doctor(&format!("redlock://{}", hosts(&nodes[..2]))).has("warning", "size", "2 nodes");
    doctor(&format!("redlock://{}?longest_ttl=10s", hosts(&nodes[..3]))).has("note", "longest-ttl", "10s");

    // The same server under another name.
    let port = nodes[0].port();
    let twice = format!("{},localhost:{port}", hosts(&nodes[..2]));
    let said = doctor(&format!("redlock://{twice}"));
    said.has("error", "apart", &format!("127.0.0.1:{port} and localhost:{port}"));
    assert_eq!(said.code, 78);
    doctor(&format!("ring://{twice}")).has("warning", "apart", "are the same server");
}

#[test]
fn nodes_that_are_away_or_have_no_vote_yet() {
    let mut nodes = durable(3);
    let url = format!("redlock://{}", hosts(&nodes));
    nodes[2].kill();
    let said = doctor(&url);
    said.has("error", "reach", &nodes[2].port().to_string());
    said.has("note", "votes", "away");
    nodes[1].kill();
    let said = doctor(&url);
    said.has("error", "majority", "too few nodes");
    assert_eq!(said.code, 78);
    nodes[0].kill();
    assert_eq!(doctor(&url).code, 69);

    // Started just now, and nothing on disk.
    let young = [Redis::start(), Redis::start(), Redis::start()];
    let said = doctor(&format!("redlock://{}", hosts(&young)));
    said.has("error", "votes", "without a vote until then");
    said.has("note", "persistence", "appendonly no");
    let one_young = durable(2);
    doctor(&format!("redlock://{}", hosts(one_young.iter().chain(&young[..1])))).has("note", "votes", "2 of 3");
}

/// A client that may not ask for how long a node has kept its memory waits for a minute before it lets it vote.
#[test]
fn nodes_that_may_not_be_asked_have_no_vote() {
    let nodes = durable(3);
    let rules = "ACL SETUSER locks on >pw ~tenure:* &tenure:inbox:* +evalsha +evalsha_ro +script|load +publish +subscribe +scan \
                 +ping +time +mget +set +setrange +del +type +pexpireat +hget +hmget +hgetall +hset +hdel";
    for node in &nodes {
        node.command(&rules.split(' ').collect::<Vec<_>>());
    }
    let said = doctor(&format!("redlock://locks:pw@{}", hosts(&nodes)));
    said.has("warning", "unseen", "INFO");
    said.has("error", "votes", "0 of 3");
    for node in &nodes {
        node.command(&["ACL", "SETUSER", "locks", "+info", "+config|get"]);
    }
    doctor(&format!("redlock://locks:pw@{}", hosts(&nodes))).is_fine("votes");
}

#[test]
fn members_that_changed_and_a_change_that_stopped() {
    let nodes = durable(4);
    let options = "?longest_ttl=1s&view_lease=1s&token_memory=1s";
    let url = format!("redlock://{}{options}", hosts(&nodes[..3]));
    let (old, new) = (hosts(&nodes[2..3]), hosts(&nodes[3..]));
    let replaced = tenure(&url, &["quorum", "replace", &old, &new]).output().unwrap();
    assert!(replaced.status.success(), "{replaced:?}");
    let said = doctor(&url);
    let found = said.has("note", "members", &new);
    assert!(found["fix"][0].as_str().unwrap().contains(&new), "{found}");
    let members = hosts([&nodes[0], &nodes[1], &nodes[3]]);
    doctor(&format!("redlock://{members}{options}")).is_fine("members");

    // A minute in which it can be stopped.
    let url = format!("redlock://{members}?longest_ttl=50s&view_lease=1s&token_memory=1s");
    let mut change = Running::start(&mut tenure(&url, &["quorum", "remove", &new]));
    let is_under_way = || {
        let output = tenure(&url, &["quorum", "status", "--json"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("\"becoming\":[")
    };
    eventually("the change is under way", is_under_way);
    change.child().kill().unwrap();
    let said = doctor(&url);
    let found = said.has("warning", "members", "interrupted");
    assert!(found["fix"][0].as_str().unwrap().contains("tenure quorum finish"), "{found}");
    drop(change);
}
