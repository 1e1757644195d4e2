//! Grants are pushed within the shard that has the lock, and nowhere else.

use super::*;

#[tokio::test]
async fn a_grant_is_pushed_within_its_shard_and_never_through_the_cluster() {
    let (cluster, _turn) = cluster().await;
    let (holder, waiter) = (connect(&cluster).await, connect(&cluster).await);
    // Some names that would open a tag of their own if they could.
    for (n, name) in (0..).zip(["a", "}{", "{b}", "c{", "d}", "{}", "%7D%7B"]) {
        let mut watch = waiter.watch(&key(name), ClaimId::new(2 * n + 2));
        hold(&holder, name, 2 * n + 1).await;
        done(&waiter, name, acquire(2 * n + 2)).await;
        assert_eq!(within(Duration::from_secs(5), watch.next()).await, Push::Changed, "it is subscribed to");
        done(&holder, name, release(2 * n + 1)).await;
        granted(&mut watch).await;
    }
    for node in &cluster.nodes {
        let info = node.command(&["CLUSTER", "INFO"]);
        assert!(!info.contains("cluster_stats_messages_publish_sent"), "{info}");
    }
    let sent = |node: &testkit::Redis| node.command(&["CLUSTER", "INFO"]).contains("messages_publishshard_sent");
    assert!(cluster.nodes[..3].iter().any(sent), "to the replicas, by which it is seen that it was counted at all");
}

#[tokio::test]
async fn nobody_subscribes_who_does_not_wait_and_who_waits_no_more_unsubscribes() {
    let (cluster, _turn) = cluster().await;
    let (holder, waiter) = (connect(&cluster).await, connect(&cluster).await);
    let master = cluster.master_of(cluster.slot(&place("b")));
    hold(&holder, "b", 1).await;
    assert!(!is_held(done(&waiter, "b", attempt(2)).await));
    let watch = queue(&cluster, &holder, &waiter, "a", [3, 4]).await;
    assert_eq!(channels(&cluster, master, "b"), 0, "an attempt that does not queue has nothing to be told");
    let homes = (0..6).filter(|node| channels(&cluster, *node, "a") > 0).count();
    assert_eq!(homes, 1, "at the master of its slot alone");
    drop(watch);
    let master = cluster.master_of(cluster.slot(&place("a")));
    until("nobody listens any more", async || channels(&cluster, master, "a") == 0).await;
    // The next one who waits listens again.
    done(&holder, "a", release(3)).await;
    done(&waiter, "a", release(4)).await;
    let mut watch = queue(&cluster, &holder, &waiter, "a", [5, 6]).await;
    done(&holder, "a", release(5)).await;
    granted(&mut watch).await;
    drop((watch, holder, waiter));
    until("all are gone", async || {
        let clients =
            |node: &testkit::Redis| node.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).matches("id=").count();
        let normal = |node: &testkit::Redis| node.command(&["CLIENT", "LIST", "TYPE", "normal"]).matches("id=").count();
        cluster.nodes.iter().map(|node| clients(node) + normal(node) - 1).sum::<usize>() == 0
    })
    .await;
}

#[tokio::test]
async fn pushes_work_again_after_every_client_was_killed() {
    let (cluster, _turn) = cluster().await;
    let (holder, waiter) = (connect(&cluster).await, connect(&cluster).await);
    let mut watch = queue(&cluster, &holder, &waiter, "a", [1, 2]).await;
    assert_eq!(within(Duration::from_secs(5), watch.next()).await, Push::Changed);
    for node in &cluster.nodes {
        for kind in ["normal", "pubsub"] {
            node.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
        }
    }
    // Nobody sends anything: the subscription comes back by itself, and says that a push may have been missed.
    assert_eq!(within(Duration::from_secs(5), watch.next()).await, Push::Changed);
    until_subscribed(&cluster, "a").await;
    until("the holder can let go", async || holder.apply(&key("a"), &release(1)).await.is_ok()).await;
    granted(&mut watch).await;
}
