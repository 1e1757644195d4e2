//! Transactions on a cluster: in one slot, or refused before anything is sent.

use std::sync::Arc;

use tenure::transaction::{Outcome, Reason};
use tenure::{ErrorKind, Locks};

use super::*;

fn failure(outcome: Outcome) -> Error {
    match outcome {
        Outcome::RolledBack(Reason::Failed(error)) => error,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_lies_in_one_slot_and_waits_out_no_move() {
    let (cluster, _turn) = cluster().await;
    let store = Arc::new(connect(&cluster).await);
    let locks = Locks::builder(store.clone()).build().unwrap();
    let guard = locks.mutex("a").build().unwrap().lock().await.unwrap();
    let (slot, other) = (cluster.slot("{a}"), cluster.slot("elsewhere"));
    let from = cluster.master_of(slot);
    let on = |node: usize, command: &[&str]| cluster.nodes[node].command(command);

    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.set("balance:{a}", "1").rpush("ledger:{a}", "x");
    let id = tx.id().clone();
    tx.commit().await.committed().unwrap();
    assert!(on(from, &["GET", "balance:{a}"]).contains('1'));
    assert!(locks.resolve(&id).await.unwrap().is_committed());

    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.set("balance:{a}", "2").set("elsewhere", "2");
    let error = failure(tx.commit().await);
    assert_eq!(error.kind(), ErrorKind::Invalid);
    for words in ["\"elsewhere\"", "\"tenure:{a}\"", &format!("slot {slot}"), &format!("slot {other}"), "in braces"] {
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    let two = ["b", "c"].map(|name| locks.mutex(name).build().unwrap());
    let error = failure(locks.begin_transaction(&two).begin().await.unwrap().commit().await);
    assert!(error.to_string().contains("\"tenure:{c}\"") && error.to_string().contains("\"tenure:{b}\""), "{error}");

    // While the slot is moving, a key that is not there may not be made: so nothing is written at all.
    let to = (from + 1) % 3;
    cluster.begin_move(slot, from, to);
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.set("balance:{a}", "3").del("ledger:{a}").set("new:{a}", "3");
    let moving = tx.id().clone();
    let error = failure(tx.commit().await);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(on(from, &["GET", "balance:{a}"]).contains('1') && on(from, &["EXISTS", "ledger:{a}"]).contains('1'));
    cluster.move_keys(slot, from, to);
    cluster.end_move(slot, from, to);
    assert!(!locks.resolve(&moving).await.unwrap().is_committed());
    assert!(locks.resolve(&id).await.unwrap().is_committed(), "outcomes move along");
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.expect("balance:{a}", "1").set("balance:{a}", "4").del("ledger:{a}");
    tx.commit().await.committed().unwrap();
    assert!(on(to, &["GET", "balance:{a}"]).contains('4'));
}
