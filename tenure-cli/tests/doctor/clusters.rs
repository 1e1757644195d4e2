//! Sentinels and clusters: whether they agree, whether all is served, and whether somebody could take over.

use testkit::{Cluster, Redis, SentinelGroup};

use super::doctor;
use super::support::eventually;

#[test]
fn sentinels_that_agree_disagree_or_do_not_know_the_master() {
    let mut group = SentinelGroup::start();
    let said = doctor(&group.url());
    for check in ["sentinels", "agreement", "down-after"] {
        said.is_fine(check);
    }
    said.is_fine("role");
    said.has("warning", "replicas", "min-replicas-to-write is 0");
    said.has("warning", "persistence", "appendonly no");
    let found = said.has("ok", "agreement", "all name");
    assert!(found["found"].as_str().unwrap().contains(&group.nodes[group.master()].port().to_string()), "{found}");

    let sentinel = |n: usize, words: &[&str]| group.sentinels[n].command(words);
    sentinel(0, &["SENTINEL", "SET", "mymaster", "quorum", "3"]);
    sentinel(0, &["SENTINEL", "SET", "mymaster", "down-after-milliseconds", "60000"]);
    let said = doctor(&group.url());
    said.has("note", "sentinels", "quorum 3");
    said.has("note", "down-after", "60000");
    sentinel(0, &["SENTINEL", "SET", "mymaster", "down-after-milliseconds", "1000"]);
    let unknown = group.url().replace("mymaster", "another");
    doctor(&unknown).has("error", "sentinel", "another");

    // One that was told of another master.
    let other = Redis::start();
    sentinel(2, &["SENTINEL", "REMOVE", "mymaster"]);
    sentinel(2, &["SENTINEL", "MONITOR", "mymaster", "127.0.0.1", &other.port().to_string(), "2"]);
    let said = doctor(&group.url());
    said.has("error", "agreement", "several masters");
    assert_eq!(said.code, 78);

    group.sentinels[1].kill();
    group.sentinels[2].kill();
    let said = doctor(&group.url());
    said.has("warning", "sentinel", "refused");
    eventually("it knows that it is alone", || {
        group.sentinels[0].command(&["SENTINEL", "CKQUORUM", "mymaster"]).contains("NOQUORUM")
    });
    doctor(&group.url()).has("warning", "failover", "no Sentinel");
    group.sentinels[0].command(&["SENTINEL", "RESET", "*"]);
    doctor(&group.url()).has("warning", "sentinels", "1 Sentinels");
    group.sentinels[0].kill();
    assert_eq!(doctor(&group.url()).code, 69);
}

#[test]
fn a_cluster_with_all_slots_then_without_a_replica_then_without_a_master() {
    let mut cluster = Cluster::start();
    let said = doctor(&cluster.url());
    for check in ["slots", "spares", "clock", "role"] {
        said.is_fine(check);
    }
    said.has("warning", "replicas", "min-replicas-to-write is 0");

    // The rights that it prints are enough.
    for node in &cluster.nodes {
        node.command(&[
            "ACL",
            "SETUSER",
            "locks",
            "on",
            ">pw",
            "~tenure:*",
            "+ping",
            "+cluster|info",
            "+cluster|nodes",
            "+cluster|slots",
        ]);
    }
    let url = cluster.url().replace("redis-cluster://", "redis-cluster://locks:pw@");
    let said = doctor(&url);
    let rule = said.has("error", "rights", "")["fix"][0].as_str().unwrap().replace(">PASSWORD", ">pw");
    for node in &cluster.nodes {
        node.command(&["ACL", "DELUSER", "locks"]);
        assert_eq!(node.command(&rule.split(' ').collect::<Vec<_>>()), "", "{rule}");
    }
    let run = super::tenure(&url, &["run", "a", "--", "true"]).output().unwrap();
    assert!(run.status.success(), "{run:?}");
    doctor(&url).has("warning", "cluster", "does not tell of its cluster");

    cluster.nodes[3].kill();
    // At the node that the doctor asks, the first in the URL.
    eventually("the replica is taken for dead", || {
        cluster.nodes[0].command(&["CLUSTER", "NODES"]).contains("slave,fail")
    });
    let said = doctor(&cluster.url());
    said.has("warning", "node", "fail");
    said.has("warning", "spares", &format!("127.0.0.1:{}", cluster.nodes[0].port()));
    cluster.nodes[0].kill();
    eventually("its slots are given up", || {
        cluster.nodes[1].command(&["CLUSTER", "INFO"]).contains("cluster_state:fail")
    });
    let said = doctor(&cluster.url());
    said.has("error", "slots", "state fail");
    said.has("warning", "seed", "refused");
    assert_eq!(said.code, 78);
}
