//! What is a cluster that will do, and what is told of one that will not.

use tenure::ErrorKind;
use tenure::store::Redis;

use super::*;

#[tokio::test]
async fn one_node_that_answers_is_enough_to_learn_the_others() {
    let (cluster, _turn) = cluster().await;
    let nobody = testkit::free_port();
    let replica = cluster.nodes[4].port();
    let url = format!("redis-cluster://127.0.0.1:{nobody},127.0.0.1:{replica}");
    let store = within(Duration::from_secs(5), RedisCluster::connect(&url)).await.unwrap();
    for n in 0..20 {
        hold(&store, &format!("lock-{n}"), n + 1).await;
    }
    store.ping().await.unwrap();
    let names: Vec<String> = store.scan().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), 20, "{names:?}");
    assert!(cluster.nodes[..3].iter().all(|node| node.command(&["DBSIZE"]) != ":0\r\n"), "all masters have some");
}

#[tokio::test]
async fn what_will_not_do_is_told_with_the_way_out() {
    let server = testkit::Redis::start();
    let error = refusal(&server.url().replace("redis://", "redis-cluster://")).await;
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("give it as redis://"), "{error}");
    let error = refusal(&server.url()).await;
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("redis-cluster://"), "{error}");
    let error = refusal("redis-cluster://127.0.0.1:1,127.0.0.1:2?replicas=1").await;
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("replicas"), "{error}");
    let nobody = testkit::free_port();
    let error = refusal(&format!("redis-cluster://127.0.0.1:{nobody}")).await;
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("refused"), "{error}");

    let (cluster, _turn) = cluster().await;
    let error = refusal(&cluster.url().replace("redis-cluster://", "redis-cluster://u:hunter2@")).await;
    assert!(error.kind() == ErrorKind::Denied && !format!("{error} {error:?}").contains("hunter2"), "{error}");
    // A node alone, as if it were no cluster's.
    let store = Redis::connect(&cluster.nodes[0].url()).await.unwrap();
    let mut told = Vec::new();
    for n in 0..10 {
        told.extend(store.apply(&key(&format!("lock-{n}")), &acquire(n + 1)).await.err());
    }
    assert!(!told.is_empty());
    for error in told {
        assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("redis-cluster://"), "{error}");
    }
}

#[tokio::test]
async fn what_is_only_looked_at_comes_from_a_replica_where_that_is_asked_for() {
    let (cluster, _turn) = cluster().await;
    let url = format!("{}?read=replica", cluster.url());
    let store = within(Duration::from_secs(5), RedisCluster::connect(&url)).await.unwrap();
    assert!(store.traits().stale_reads && !connect(&cluster).await.traits().stale_reads);
    for n in 0..10 {
        hold(&store, &format!("lock-{n}"), n + 1).await;
    }
    let reads = |node: usize| calls(&cluster, node, "evalsha_ro") + calls(&cluster, node, "scan");
    let look = async || {
        for n in 0..10 {
            let name = format!("lock-{n}");
            until("it is there", async || store.read(&key(&name)).await.unwrap().record.holders.len() == 1).await;
        }
        until("all are there", async || store.scan().await.unwrap().len() == 10).await;
    };
    until("the replicas are known and asked", async || {
        look().await;
        (3..6).all(|node| reads(node) > 0)
    })
    .await;
    let before: u64 = (0..3).map(reads).sum();
    look().await;
    assert_eq!((0..3).map(reads).sum::<u64>(), before, "the masters are not asked");

    // Where the replicas do not answer, the masters do.
    let mut cluster = cluster;
    for node in &mut cluster.nodes[3..] {
        node.kill();
    }
    let seen = within(Duration::from_secs(5), store.read(&key("lock-0"))).await.unwrap();
    assert_eq!(seen.record.holders.len(), 1);
    assert_eq!(within(Duration::from_secs(5), store.scan()).await.unwrap().len(), 10);
}

/// The rules as the documentation has them.
fn documented_rules() -> Vec<&'static str> {
    let source = include_str!("../../src/store/redis/cluster/mod.rs");
    let rules = source.split_once("ACL SETUSER locks on >password ").unwrap().1.split("```").next().unwrap();
    rules.split_whitespace().filter(|word| *word != "///").collect()
}

#[tokio::test]
async fn a_user_with_the_documented_rights_can_do_everything_and_with_fewer_is_told() {
    let (cluster, _turn) = cluster().await;
    let grant = |rules: &[&str]| {
        for node in &cluster.nodes {
            node.command(&["ACL", "DELUSER", "locks"]);
            assert_eq!(node.command(&[&["ACL", "SETUSER", "locks", "on", ">pw"], rules].concat()), "");
        }
    };
    let rules = documented_rules();
    let url = cluster.url().replace("redis-cluster://", "redis-cluster://locks:pw@");
    grant(&rules);
    let store = RedisCluster::connect(&url).await.unwrap();
    let watch = queue(&cluster, &store, &store, "a", [1, 2]).await;
    // A crowd, which takes more commands.
    for id in 3..10 {
        done(&store, "a", acquire(id)).await;
    }
    let slot = cluster.slot(&place("a"));
    let (from, to) = (cluster.master_of(slot), (cluster.master_of(slot) + 1) % 3);
    cluster.begin_move(slot, from, to);
    cluster.move_keys(slot, from, to);
    assert!(is_held(done(&store, "a", renew(1)).await));
    cluster.end_move(slot, from, to);
    done(&store, "a", release(1)).await;
    store.read(&key("a")).await.unwrap();
    store.ping().await.unwrap();
    assert_eq!(store.scan().await.unwrap(), [key("a")]);
    drop(watch);
    until("nobody listens any more", async || (0..3).all(|node| channels(&cluster, node, "a") == 0)).await;
    drop(store);

    for right in &rules {
        grant(&rules.iter().filter(|rule| *rule != right).copied().collect::<Vec<_>>());
        let error = refusal(&url).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "without {right}: {error}");
        assert!(error.to_string().contains("tenure::store::Redis"), "{error}");
    }
}
