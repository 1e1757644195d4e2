//! Over TLS: every connection, also those to nodes that were heard of later.

use tenure::ErrorKind;

use super::*;

/// Fails where one of the connections is made without TLS, or not told which authority to trust: for commands, for pushes, to
/// a node of which a reply tells, or to the one that takes over.
#[tokio::test]
async fn a_cluster_over_tls_serves_pushes_and_fails_over() {
    let turn = TURN.lock().await;
    let mut cluster = tokio::task::spawn_blocking(Cluster::start_with_tls).await.unwrap();
    // The name of a lock in each shard.
    let in_shard = |shard: usize| {
        let of = |n: &u32| cluster.master_of(cluster.slot(&format!("tenure:{{lock-{n}}}"))) == shard;
        format!("lock-{}", (0..).find(of).unwrap())
    };
    let names = [in_shard(0), in_shard(1), in_shard(2)];
    // Of one node it learns the others.
    let url = cluster.url();
    let (hosts, ca) = url.split_once('?').unwrap();
    let alone = format!("{}?{ca}", hosts.split(',').next().unwrap());
    let store = within(Duration::from_secs(10), RedisCluster::connect(&alone)).await.unwrap();
    for (name, id) in names.iter().zip([10, 20, 30]) {
        let mut watch = store.watch(&key(name), ClaimId::new(id + 1));
        hold(&store, name, id).await;
        assert!(!is_held(done(&store, name, acquire(id + 1)).await));
        assert_eq!(within(Duration::from_secs(5), watch.next()).await, Push::Changed, "it is subscribed to");
        done(&store, name, release(id)).await;
        granted(&mut watch).await;
    }

    let error = refusal(hosts).await;
    assert!(error.to_string().contains("ca="), "nobody in particular is trusted: {error}");
    let plain = format!("redis-cluster://127.0.0.1:{}", hosts.rsplit_once(':').unwrap().1);
    let error = refusal(&plain).await;
    assert!(error.is_transient() || error.kind() == ErrorKind::Unsupported, "it speaks TLS there: {error}");

    cluster.nodes[0].kill();
    until("the replica has taken over", || async {
        store.apply(&key(&names[0]), &renew(11)).await.is_ok_and(|reply| is_held(reply.outcome))
    })
    .await;
    drop(turn);
}
