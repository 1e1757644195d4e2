//! A lease changes hands while its slot moves or its master fails: who asks again learns who is in, and nobody else is.
//!
//! Bugs that were planted, one at a time, and found: the old claim left in; a token minted anew each time it is asked for,
//! not at all, or not by the clock; an heir that is not found when it is asked for again; a small record that becomes a
//! crowd while its slot moves; an heir that is not written where the slot is moving.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use tenure::proto::{HandOver, Owner, Refusal, Was};
use tenure::{ErrorKind, Locks};

use super::failing::until_replicated;
use super::*;

const TERM: Duration = Duration::from_secs(120);
const STRANGER: u128 = 9_999;
const UNKNOWN: Outcome = Outcome::Gone { was: Was::Unknown };

/// It refuses the old claim's id for a while.
fn hand_over(id: u128, from: u128) -> Op {
    let owner = Some(Owner::new(format!("heir {id}")));
    let (id, from) = (ClaimId::new(id), ClaimId::new(from));
    Op::HandOver(HandOver { id, from, bury: TERM, ttl: TERM, owner, meta: Default::default(), fence: 0 })
}

/// The token under which it is held.
fn token(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Held { fence, .. } => fence,
        other => panic!("it is not held: {other:?}"),
    }
}

/// Hands over in one step, whoever asks: under one token, later than any so far, as often as it is asked for. The old claim
/// is void, and a stranger is kept out.
async fn passes([ours, theirs]: [&RedisCluster; 2], name: &str, [id, from]: [u128; 2]) -> u64 {
    let before = ours.read(&key(name)).await.unwrap().record;
    let fence = token(done(ours, name, hand_over(id, from)).await);
    assert!(fence > before.fence, "{fence} after {}", before.fence);
    assert_eq!(token(done(theirs, name, hand_over(id, from)).await), fence, "{id} after {from}");
    assert_eq!(done(theirs, name, renew(from)).await, UNKNOWN);
    assert!(!is_held(done(theirs, name, attempt(STRANGER)).await));
    let after = ours.read(&key(name)).await.unwrap().record;
    assert_eq!((after.holders.len(), after.queue.len()), (before.holders.len(), before.queue.len()));
    let heir = after.holders.iter().find(|entry| entry.id == ClaimId::new(id));
    assert_eq!(heir.map(|entry| entry.fence), Some(fence));
    fence
}

#[tokio::test]
async fn a_hand_over_is_one_step_wherever_the_move_of_the_slot_has_come_to() {
    let (cluster, _turn) = cluster().await;
    let (holder, waiter) = (connect(&cluster).await, connect(&cluster).await);
    let both = [&holder, &waiter];
    let mut watch = queue(&cluster, &holder, &waiter, "a", [1, 2]).await;
    let slot = cluster.slot(&place("a"));
    let (from, to) = (cluster.master_of(slot), (cluster.master_of(slot) + 1) % 3);

    cluster.begin_move(slot, from, to);
    let fence = passes(both, "a", [11, 1]).await;
    cluster.move_keys(slot, from, to);
    // It was asked for at the source, and is asked for again at the target.
    assert!(cluster.nodes[from].command(&["EXISTS", &place("a")]).starts_with("-ASK"));
    assert_eq!(token(done(&waiter, "a", hand_over(11, 1)).await), fence);
    let fence = passes(both, "a", [12, 11]).await;
    cluster.end_move(slot, from, to);
    assert_eq!(token(done(&holder, "a", hand_over(12, 11)).await), fence, "the source says MOVED");
    let fence = passes(both, "a", [13, 12]).await;
    // What was handed on since is not brought back by who asks late.
    assert_ne!(token(done(&holder, "a", renew(13)).await), 0);
    assert_eq!(done(&holder, "a", hand_over(12, 11)).await, Outcome::Refused(Refusal::Buried));
    until_subscribed(&cluster, "a").await;
    assert_eq!(done(&holder, "a", release(13)).await, Outcome::Gone { was: Was::Holding });
    let next = granted(&mut watch).await;
    assert!(next > fence, "{next} after {fence}");
}

#[tokio::test]
async fn a_hand_over_in_a_crowd_is_one_step_while_the_slot_moves_or_is_told_that_it_was_not_carried_out() {
    let (cluster, _turn) = cluster().await;
    let (ours, theirs) = (connect(&cluster).await, connect(&cluster).await);
    let reader = |id| Op::Acquire(Acquire { claim: Claim::SHARED, ..claim(id) });
    assert!(is_held(done(&ours, "a", reader(1)).await));
    let slot = cluster.slot(&place("a"));
    let (from, to) = (cluster.master_of(slot), (cluster.master_of(slot) + 1) % 3);
    let kind = |node: usize| cluster.nodes[node].command(&["TYPE", &place("a")]).trim().to_owned();
    cluster.begin_move(slot, from, to);
    let ops: Vec<_> = (2..=253).map(|id| (key("a"), reader(id))).collect();
    let replies = within(Duration::from_secs(10), ours.apply_many(&ops)).await;
    assert!(replies.into_iter().all(|reply| is_held(reply.unwrap().outcome)));
    // Of a small record that cannot become a crowd now; with the id that is refused it is as long as it may be.
    passes([&ours, &theirs], "a", [1_001, 1]).await;
    assert_eq!(kind(from), "+string");
    let error = within(Duration::from_secs(5), ours.apply(&key("a"), &hand_over(1_002, 2))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(is_held(done(&theirs, "a", renew(2)).await), "it is as it was");
    assert_eq!(done(&theirs, "a", renew(1_002)).await, UNKNOWN);
    cluster.move_keys(slot, from, to);
    cluster.end_move(slot, from, to);
    passes([&ours, &theirs], "a", [1_002, 2]).await;
    assert_eq!(kind(to), "+hash", "it is a crowd now");

    cluster.begin_move(slot, to, from);
    let fence = passes([&ours, &theirs], "a", [1_003, 3]).await;
    cluster.move_keys(slot, to, from);
    assert_eq!(token(done(&theirs, "a", hand_over(1_003, 3)).await), fence);
    passes([&ours, &theirs], "a", [1_004, 1_003]).await;
    cluster.end_move(slot, to, from);
    let fence = passes([&ours, &theirs], "a", [1_005, 1_004]).await;
    for id in (4..=253).chain([1_001, 1_002, 1_005]) {
        assert_eq!(done(&ours, "a", release(id)).await, Outcome::Gone { was: Was::Holding }, "{id}");
    }
    let next = token(done(&theirs, "a", attempt(STRANGER)).await);
    assert!(next > fence, "{next} after {fence}");
}

/// One client hands on what it has, a mutex and one of a crowd's claims, and the other one tries to get in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handed_on_all_the_time_is_never_free_while_its_slot_goes_round() {
    let (cluster, _turn) = cluster().await;
    let (ours, theirs) = (connect(&cluster).await, connect(&cluster).await);
    let (ours, theirs) = (Locks::new(ours), Locks::new(theirs));
    let crowd = neighbours("a", 1).remove(0);
    let over = Arc::new(AtomicBool::new(false));
    let (rounds, tries) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for _ in 0..10 {
        ours.read(&*crowd).build().unwrap().lease(TERM).await.unwrap();
    }
    let lease = ours.mutex("a").build().unwrap().lease(TERM).await.unwrap();
    let reader = ours.read(&*crowd).build().unwrap().lease(TERM).await.unwrap();
    let handing = [lease, reader].map(|mut lease| {
        let (over, rounds) = (over.clone(), rounds.clone());
        tokio::spawn(async move {
            while !over.load(SeqCst) {
                let (before, round) = (lease.fence(), rounds.fetch_add(1, SeqCst));
                lease = lease.hand_over_to(format!("heir {round}")).await.unwrap();
                assert!(lease.fence() > before, "{} after {before}", lease.fence());
            }
            lease
        })
    });
    let trying = [theirs.mutex("a"), theirs.write(&*crowd)].map(|lock| {
        let (over, tries, lock) = (over.clone(), tries.clone(), lock.build().unwrap());
        tokio::spawn(async move {
            while !over.load(SeqCst) {
                assert!(lock.try_lock().await.unwrap().is_none(), "it was free");
                tries.fetch_add(1, SeqCst);
            }
        })
    });
    let progress = async |least: u64| {
        let before = [&rounds, &tries].map(|count| count.load(SeqCst));
        let enough =
            || [&rounds, &tries].iter().zip(before).all(|(count, before)| count.load(SeqCst) >= before + least);
        let broken = || handing.iter().any(|task| task.is_finished()) || trying.iter().any(|task| task.is_finished());
        until("they go on", async || enough() || broken()).await;
    };
    let slot = cluster.slot(&place("a"));
    for _ in 0..6 {
        let from = cluster.master_of(slot);
        let to = (from + 1) % 3;
        cluster.begin_move(slot, from, to);
        progress(50).await;
        cluster.move_keys(slot, from, to);
        progress(50).await;
        cluster.end_move(slot, from, to);
        progress(50).await;
    }
    let held = theirs.info("a").await.unwrap();
    assert_eq!(held.holders.len(), 1, "{held:?}");
    assert_eq!(theirs.info(&crowd).await.unwrap().holders.len(), 11);
    over.store(true, SeqCst);
    for task in trying {
        within(Duration::from_secs(30), task).await.unwrap();
    }
    for task in handing {
        assert!(within(Duration::from_secs(30), task).await.unwrap().release().await.unwrap());
    }
}

/// Waits until the replica of that master has the slot, and for an answer to the operation.
async fn answer_of_the_next(cluster: &Cluster, store: &RedisCluster, master: usize, op: &Op) -> Outcome {
    let slot = crc16(b"a") % 16_384;
    until("the replica is the master", async || cluster.master_of(slot) == master + 3).await;
    let start = Instant::now();
    loop {
        match within(Duration::from_secs(10), store.apply(&key("a"), op)).await {
            Ok(reply) => return reply.outcome,
            Err(error) => assert!(error.is_transient() && start.elapsed() < Duration::from_secs(20), "{error:?}"),
        }
    }
}

/// When it leaves, nobody is in, and the next token is later.
async fn is_free_behind(store: &RedisCluster, id: u128, fence: u64) {
    assert_eq!(store.read(&key("a")).await.unwrap().record.holders.len(), 1);
    assert_eq!(done(store, "a", release(id)).await, Outcome::Gone { was: Was::Holding });
    let next = token(done(store, "a", attempt(STRANGER)).await);
    assert!(next > fence, "{next} after {fence}");
}

#[tokio::test]
async fn a_hand_over_whose_master_is_killed_is_the_hold_that_its_replica_has() {
    let (cluster, _turn) = cluster().await;
    let mut cluster = cluster;
    let (ours, theirs) = (connect(&cluster).await, connect(&cluster).await);
    let master = cluster.master_of(cluster.slot(&place("a")));
    hold(&ours, "a", 1).await;
    let fence = token(done(&ours, "a", hand_over(2, 1)).await);
    until_replicated(&cluster, master).await;
    cluster.nodes[master].kill();
    // Whoever had no reply asks again.
    let again = answer_of_the_next(&cluster, &theirs, master, &hand_over(2, 1)).await;
    assert_eq!(token(again), fence);
    let fence = passes([&theirs, &ours], "a", [3, 2]).await;
    is_free_behind(&theirs, 3, fence).await;
}

#[tokio::test]
async fn of_a_hand_over_that_died_with_its_master_the_old_claim_stands_until_it_is_asked_for_again() {
    let (cluster, _turn) = cluster().await;
    let mut cluster = cluster;
    let (ours, theirs) = (connect(&cluster).await, connect(&cluster).await);
    let master = cluster.master_of(cluster.slot(&place("a")));
    hold(&ours, "a", 1).await;
    until_replicated(&cluster, master).await;
    // What the master is told from here on it tells nobody.
    cluster.nodes[master + 3].pause();
    cluster.nodes[master].command(&["CLIENT", "KILL", "TYPE", "replica"]);
    assert!(cluster.nodes[master].command(&["INFO", "replication"]).contains("connected_slaves:0"));
    let lost = token(done(&ours, "a", hand_over(2, 1)).await);
    cluster.nodes[master].kill();
    cluster.nodes[master + 3].resume();
    assert!(is_held(answer_of_the_next(&cluster, &theirs, master, &renew(1)).await));
    assert_eq!(done(&theirs, "a", renew(2)).await, UNKNOWN);
    assert!(!is_held(done(&theirs, "a", attempt(STRANGER)).await));
    let fence = token(done(&ours, "a", hand_over(2, 1)).await);
    assert!(fence > lost, "a resource may have seen the one that is lost: {fence} after {lost}");
    assert_eq!(done(&ours, "a", renew(1)).await, UNKNOWN);
    is_free_behind(&theirs, 2, fence).await;
}

#[tokio::test]
async fn a_lease_that_is_handed_over_while_its_master_hangs_has_one_owner_or_none_and_says_which() {
    let (cluster, _turn) = cluster().await;
    let store = connect(&cluster).await;
    let locks = Locks::builder(Arc::new(store)).op_timeout(Duration::from_secs(20)).build().unwrap();
    let lease = locks.mutex("a").build().unwrap().lease(TERM).await.unwrap();
    let (ticket, slot) = (lease.ticket().clone(), cluster.slot(&place("a")));
    let master = cluster.master_of(slot);
    until_replicated(&cluster, master).await;
    cluster.nodes[master].pause();
    let heir = within(Duration::from_secs(60), lease.hand_over_to("heir")).await;
    until("the replica is the master", async || cluster.master_of(slot) == master + 3).await;
    // What the old one was sent is carried out there when it wakes, and is nobody's truth.
    cluster.nodes[master].resume();
    cluster.until_whole();
    let owners = async || {
        let info = locks.info("a").await.unwrap();
        info.holders.into_iter().map(|holder| holder.owner.unwrap_or_default()).collect::<Vec<_>>()
    };
    let fence = match heir {
        Ok(heir) => {
            assert_eq!(owners().await, ["heir"]);
            assert_eq!(locks.resume(ticket.clone()).await.unwrap_err().kind(), ErrorKind::Lost);
            assert!(locks.mutex("a").build().unwrap().try_lock().await.unwrap().is_none());
            assert!(heir.fence() > ticket.fence() && heir.release().await.unwrap());
            heir.fence()
        }
        // It took the replica longer than a lease asks for: the heir is let out, or was never in.
        Err(error) => {
            assert!(error.is_ambiguous(), "{error}");
            until("it is not the heir's", async || owners().await != ["heir"]).await;
            if let Ok(old) = locks.resume(ticket.clone()).await {
                assert_eq!(owners().await, [ticket.owner()]);
                assert!(old.release().await.unwrap());
            }
            ticket.fence()
        }
    };
    let next = locks.mutex("a").build().unwrap().try_lock().await.unwrap().expect("it is free");
    assert!(next.fence() > fence, "{} after {fence}", next.fence());
}
