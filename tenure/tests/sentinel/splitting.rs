//! What is only looked at comes from a replica where that is asked for, and says so; grants never do.

use testkit::SentinelGroup;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn looks_are_served_by_a_replica_and_say_so_and_grants_are_not() {
    let mut group = SentinelGroup::start();
    let (store, master_only) = (connect(&format!("{}?read=replica", group.url())).await, connect(&group.url()).await);
    assert!(store.traits().stale_reads && !master_only.traits().stale_reads);
    let locks = Locks::new(store);
    let guard = locks.mutex("a").build().unwrap().lock().await.unwrap();
    let fence = guard.fence();
    // A replica may lag; here it comes to know.
    within(Duration::from_secs(5), async { while !locks.info("a").await.unwrap().is_locked() {} }).await;

    // Nobody but a replica is there to look at.
    group.nodes[0].pause();
    let info = within(Duration::from_secs(5), locks.info("a")).await.unwrap();
    assert!(info.stale && info.is_locked() && info.fence == fence, "{info:?}");
    let listed = within(Duration::from_secs(5), locks.list()).await.unwrap();
    assert!(listed.len() == 1 && listed[0].stale, "{listed:?}");
    let ours = locks.mutex("b").op_timeout(Duration::from_millis(300)).build().unwrap();
    let error = within(Duration::from_secs(5), ours.try_lock()).await.unwrap_err();
    assert!(error.is_transient(), "a grant is the master's, which is silent: {error}");
    group.nodes[0].resume();
    drop(guard);

    // Of two replicas one is enough, and where none is left it is the master.
    group.nodes[1].kill();
    within(Duration::from_secs(20), async { while locks.info("a").await.is_err() {} }).await;
    group.nodes[2].kill();
    within(Duration::from_secs(20), async { while locks.info("a").await.is_err() {} }).await;
}
