//! A slot goes to another node while its locks are held and waited for.

use tenure::proto::Was;

use super::*;

#[tokio::test]
async fn a_slot_moves_while_its_lock_is_held_and_waited_for() {
    let (cluster, _turn) = cluster().await;
    let (holder, waiter) = (connect(&cluster).await, connect(&cluster).await);
    let mut watch = queue(&cluster, &holder, &waiter, "a", [1, 2]).await;
    let others = neighbours("a", 3);
    hold(&holder, &others[0], 3).await;
    let slot = cluster.slot(&place("a"));
    let (from, to) = (cluster.master_of(slot), (cluster.master_of(slot) + 1) % 3);

    cluster.begin_move(slot, from, to);
    // What is still there is served there, and what is new is begun at the target.
    assert!(is_held(done(&holder, "a", renew(1)).await));
    assert!(matches!(done(&waiter, "a", acquire(2)).await, Outcome::Busy { ahead: 0, .. }));
    hold(&holder, &others[1], 4).await;
    assert!(!is_held(done(&waiter, &others[1], attempt(5)).await));
    assert!(cluster.nodes[from].command(&["EXISTS", &place(&others[1])]).starts_with("-ASK"));
    let together = [(key(&others[0]), renew(3)), (key(&others[1]), renew(4)), (key("a"), renew(1))];
    let replies = within(Duration::from_secs(5), holder.apply_many(&together)).await;
    assert!(replies.into_iter().all(|reply| is_held(reply.unwrap().outcome)));

    cluster.move_keys(slot, from, to);
    assert!(is_held(done(&holder, "a", renew(1)).await), "it is at the target, which does not have the slot yet");
    assert!(!is_held(done(&waiter, "a", attempt(6)).await));
    assert_eq!(holder.read(&key("a")).await.unwrap().record.holders.len(), 1);

    cluster.end_move(slot, from, to);
    assert_eq!(cluster.master_of(slot), to);
    assert!(is_held(done(&holder, "a", renew(1)).await), "the source says MOVED");
    // The source has ended the subscription. It is taken up at the target, with nobody asking for anything.
    until_subscribed(&cluster, "a").await;
    assert_eq!(done(&holder, "a", release(1)).await, Outcome::Gone { was: Was::Holding });
    let fence = granted(&mut watch).await;
    let outcome = done(&waiter, "a", acquire(2)).await;
    assert!(matches!(outcome, Outcome::Held { fence: held, .. } if held == fence), "{outcome:?}");
    for (name, id) in others.iter().zip([3, 4]) {
        assert_eq!(done(&holder, name, release(id)).await, Outcome::Gone { was: Was::Holding });
    }
}

/// A key that is deleted at the source cannot be made again there, so no record may be deleted to change its form.
#[tokio::test]
async fn a_crowd_that_gathers_while_the_slot_moves_is_not_lost() {
    let (cluster, _turn) = cluster().await;
    let store = connect(&cluster).await;
    let reader = |id| Op::Acquire(Acquire { claim: Claim::SHARED, ..claim(id) });
    assert!(is_held(done(&store, "a", reader(1)).await));
    let slot = cluster.slot(&place("a"));
    let (from, to) = (cluster.master_of(slot), (cluster.master_of(slot) + 1) % 3);
    cluster.begin_move(slot, from, to);
    let count = async || store.read(&key("a")).await.unwrap().record.holders.len();
    for id in 2..=20 {
        assert!(is_held(done(&store, "a", reader(id)).await), "{id}");
    }
    assert_eq!(count().await, 20);
    for id in 10..=250 {
        assert!(is_held(done(&store, "a", reader(id)).await), "{id}");
    }
    // The small form ends at 254: a claim beyond is told to come again, and nothing is lost.
    for id in 251..=260 {
        let _ = within(Duration::from_secs(5), store.apply(&key("a"), &attempt_shared(id))).await;
    }
    assert_eq!(count().await, 254);
    cluster.move_keys(slot, from, to);
    cluster.end_move(slot, from, to);
    for id in 251..=260 {
        assert!(is_held(done(&store, "a", reader(id)).await), "{id}");
    }
    assert_eq!(count().await, 260, "it is a crowd now");
    for id in 1..=260 {
        assert_eq!(done(&store, "a", release(id)).await, Outcome::Gone { was: Was::Holding }, "{id}");
    }
}

fn attempt_shared(id: u128) -> Op {
    Op::Acquire(Acquire { claim: Claim::SHARED, patience: Duration::ZERO, ..claim(id) })
}

/// Two clients contend while the slot goes round. A reply that went to the wrong request, an operation that was carried
/// out twice or a record that was left behind would let two in, or a fence fall.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_contend_while_a_slot_goes_round() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

    let (cluster, _turn) = cluster().await;
    let names: Vec<String> = [vec!["a".to_owned()], neighbours("a", 3)].concat();
    let (over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let books: Arc<Vec<(AtomicBool, AtomicU64)>> = Arc::new(names.iter().map(|_| Default::default()).collect());
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let locks = tenure::open(&cluster.url()).await.unwrap();
        for worker in 0..4 {
            let lock = locks.mutex(&*names[worker]).ttl(Duration::from_secs(5)).local_hand_off(false).build().unwrap();
            let (over, rounds, books) = (over.clone(), rounds.clone(), books.clone());
            tasks.push(tokio::spawn(async move {
                let (inside, last) = &books[worker];
                while !over.load(SeqCst) {
                    let guard = lock.lock().timeout(Duration::from_secs(20)).await.unwrap();
                    assert!(!inside.swap(true, SeqCst), "two are in");
                    let before = last.swap(guard.fence().get(), SeqCst);
                    assert!(before < guard.fence().get(), "{} after {before}", guard.fence());
                    tokio::task::yield_now().await;
                    inside.store(false, SeqCst);
                    guard.release().await.unwrap();
                    rounds.fetch_add(1, SeqCst);
                }
            }));
        }
    }
    let progress = async |least: u64| {
        let before = rounds.load(SeqCst);
        until("they go on", async || rounds.load(SeqCst) >= before + least).await;
    };
    progress(100).await;
    let slot = cluster.slot(&place("a"));
    for _ in 0..6 {
        let from = cluster.master_of(slot);
        let to = (from + 1) % 3;
        cluster.begin_move(slot, from, to);
        progress(50).await;
        // What is made again at the source after the first pass is fetched by the second.
        cluster.move_keys(slot, from, to);
        // Until the slot is the target's, grants are listened for at the source: who waits asks by the clock.
        progress(5).await;
        cluster.move_keys(slot, from, to);
        cluster.end_move(slot, from, to);
        progress(50).await;
    }
    over.store(true, SeqCst);
    for task in tasks {
        within(Duration::from_secs(30), task).await.unwrap();
    }
}
