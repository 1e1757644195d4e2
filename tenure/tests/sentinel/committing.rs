//! Fenced commits while the master changes: what was committed stays, what was lost is lost whole, and `resolve` says which.
//!
//! Bugs that were planted, and found: a `resolve` that does not look at the record; a commit that counts though too few
//! replicas acknowledged it; a lost reply that is taken for a refusal.

use tenure::Lock;
use tenure::transaction::{Outcome, Txid};
use testkit::SentinelGroup;

use super::*;

/// What each is tried with: replicas that have to acknowledge, or none.
const OPTIONS: [&str; 2] = ["", "?replicas=1"];

async fn open(group: &SentinelGroup, options: &str) -> Locks {
    Locks::new(connect_in_time(&format!("{}{options}", group.url())).await)
}

fn account(locks: &Locks) -> Lock {
    locks.mutex("account").ttl(Duration::from_secs(60)).build().unwrap()
}

/// What the node has under `count`.
fn count(node: &testkit::Redis) -> String {
    node.command(&["GET", "count"]).lines().nth(1).unwrap_or_default().to_owned()
}

/// How it ended, as soon as the store answers.
async fn resolved(locks: &Locks, id: &Txid) -> Outcome {
    let start = Instant::now();
    loop {
        match within(Duration::from_secs(30), locks.resolve(id)).await {
            Ok(outcome) => return outcome,
            Err(error) => {
                assert!(error.is_transient() && start.elapsed() < Duration::from_secs(30), "{error:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_outlives_a_planned_failover_before_and_after_it() {
    for options in OPTIONS {
        let group = SentinelGroup::start();
        let locks = open(&group, options).await;
        let guard = account(&locks).lock().await.unwrap();
        let mut ids = Vec::new();
        for master in 0..2 {
            // A failover may lose what no replica has.
            let old = group.master();
            group.nodes[old].wait_for_replicas(2);
            let mut tx = guard.begin_transaction().begin().await.unwrap();
            tx.incr("count", 1);
            if master > 0 {
                let start = Instant::now();
                while group.master() == old {
                    assert!(start.elapsed() < Duration::from_secs(60), "it never came about");
                    group.fail_over();
                    cycle(&locks, "other").await;
                }
                // The client has followed, and what it holds went along.
                cycle(&locks, "other").await;
            }
            ids.push(tx.id().clone());
            let outcome = tx.commit().await;
            assert!(outcome.is_committed(), "{options:?} {outcome}");
        }
        let master = group.master();
        assert_ne!(master, 0);
        assert_eq!(count(&group.nodes[master]), "2", "{options:?}");
        for id in ids {
            assert!(resolved(&locks, &id).await.is_committed(), "{options:?} {id}");
        }
        assert!(guard.release().await.unwrap(), "{options:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_reply_is_lost_with_its_master_is_resolved_as_committed_where_a_replica_has_it() {
    let mut group = SentinelGroup::start();
    let locks = open(&group, "?replicas=2").await;
    let guard = account(&locks).lock().await.unwrap();
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.incr("count", 1);
    // One replica has it, and the reply waits for the other.
    group.nodes[2].pause();
    let commit = tokio::spawn(tx.commit());
    let start = Instant::now();
    while count(&group.nodes[1]) != "1" {
        assert!(start.elapsed() < Duration::from_secs(10), "no replica has it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    group.nodes[0].kill();
    assert_eq!(group.master_after(0), 1);
    // There are not two replicas any more, and so nobody can say that it will last.
    let outcome = within(Duration::from_secs(60), commit).await.unwrap();
    let Outcome::Unknown(id) = outcome else { panic!("{outcome}") };
    group.nodes[2].resume();
    let theirs = open(&group, "?replicas=1").await;
    assert!(resolved(&theirs, &id).await.is_committed());
    assert_eq!(count(&group.nodes[1]), "1", "it was done once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_a_failover_loses_is_lost_whole_and_resolved_as_rolled_back() {
    for options in OPTIONS {
        let group = SentinelGroup::start_behind_proxy();
        let locks = open(&group, options).await;
        let lock = locks.mutex("account").ttl(Duration::from_secs(60)).op_timeout(Duration::from_millis(200));
        let guard = lock.build().unwrap().lock().await.unwrap();
        group.nodes[0].wait_for_replicas(2);
        let mut tx = guard.begin_transaction().begin().await.unwrap();
        tx.incr("count", 1);
        // From here on neither the replicas nor the Sentinels nor we hear from the master.
        group.proxy.as_ref().unwrap().silence(true);
        let outcome = within(Duration::from_secs(30), tx.commit()).await;
        let Outcome::Unknown(id) = outcome else { panic!("{options:?} {outcome}") };
        assert_eq!(count(&group.nodes[0]), "1", "{options:?} it was not even sent, so that nothing was tried");

        let master = group.master_after(0);
        let outcome = resolved(&open(&group, options).await, &id).await;
        assert!(matches!(outcome, Outcome::RolledBack(_)), "{options:?} {outcome}");
        assert_eq!(count(&group.nodes[master]), "", "{options:?} it was rolled back, and is there");
    }
}
