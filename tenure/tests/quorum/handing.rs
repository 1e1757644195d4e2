//! A lease becomes another owner's at a majority of the nodes, or at none: never are two owners in, and fences rise.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure::{Error, Lease, Ticket};

use crate::*;

async fn lease(client: &Client) -> Lease {
    client.mutex("a").lease(secs(5)).await.unwrap()
}

fn sent(lease: &Lease) -> Ticket {
    Ticket::decode(&lease.ticket().encode()).unwrap()
}

/// The owners that are in, and at how many nodes each.
fn owners(nodes: &[Node]) -> BTreeMap<String, usize> {
    let mut owners = BTreeMap::new();
    for entry in nodes.iter().flat_map(|node| node.record("a").holders) {
        *owners.entry(entry.owner.unwrap().as_str().to_owned()).or_default() += 1;
    }
    owners
}

/// Fails where the old claim stays at the nodes that the vote did without, or is not buried at those that made it the heir's.
#[tokio::test(start_paused = true)]
async fn the_former_holders_renewals_bring_nothing_back() {
    let nodes = nodes(3);
    let (ours, theirs, others) = (Client::of(&nodes, 1), Client::of(&nodes, 2), Client::of(&nodes, 3));
    let mut lease = lease(&ours).await;
    lease.refresh().await.unwrap();
    until("it is in everywhere", secs(1), || nodes.iter().all(|node| node.crowd("a").0 == 1)).await;
    let guard = theirs.locks.resume(sent(&lease)).await.unwrap().into_guard();
    // One node does not hear of the hand-over, and has the old claim renewed.
    ours.links[1].fault(Fault::Hang);
    let fence = lease.fence();
    let mut heir = lease.hand_over_to("heir").await.unwrap();
    assert!(
        heir.fence() > fence && nodes.iter().filter(|node| node.record("a").fence == heir.fence().get()).count() >= 2
    );
    assert_eq!(guard.lost().await, tenure::Loss::Gone);
    assert!(!guard.release().await.unwrap() && others.mutex("a").try_lock().await.unwrap().is_none());
    ours.links[1].fault(Fault::None);
    sleep(secs(3)).await;
    heir.refresh().await.unwrap();
    until("the heir alone is in, everywhere", secs(1), || owners(&nodes) == BTreeMap::from([("heir".to_owned(), 3)]))
        .await;
    // The vote does without one of them, where the old claim is released.
    let heir = heir.hand_over_to("next").await.unwrap();
    until("the next alone is in", ms(500), || owners(&nodes) == BTreeMap::from([("next".to_owned(), 2)])).await;
    assert!(heir.release().await.unwrap());
    sleep(secs(1)).await;
    assert!(nodes.iter().all(|node| node.crowd("a") == (0, 0)));
    assert!(others.mutex("a").try_lock().await.unwrap().unwrap().fence() > heir.fence());
}

/// Fails where a hand-over is begun though the owner has another claim: what it takes apart is missing then.
#[tokio::test(start_paused = true)]
async fn what_an_owner_has_twice_is_left_as_it_is() {
    let nodes = nodes(5);
    let client = Client::of(&nodes, 1);
    let lock = client.locks.owner("ann").mutex("a").ttl(secs(5)).build().unwrap();
    let first = lock.lease(secs(5)).await.unwrap();
    let (ticket, id) = (sent(&first), client.locks.info("a").await.unwrap().holders[0].id);
    let has = |node: &Node| node.record("a").holders.iter().any(|entry| entry.id == id);
    let having: Vec<usize> = (0..5).filter(|node| has(&nodes[*node])).collect();
    // The other claim is in at two that lack this one, and at one that has it.
    having[..2].iter().for_each(|node| client.links[*node].fault(Fault::Refuse));
    let second = lock.lease(secs(5)).await.unwrap();
    having[..2].iter().for_each(|node| client.links[*node].fault(Fault::None));
    sleep(ms(500)).await;
    assert_eq!(first.hand_over().await.unwrap_err().kind(), tenure::ErrorKind::ReentryLimit);
    assert!(having.iter().all(|node| has(&nodes[*node])), "it stays where it is");
    assert!(second.release().await.unwrap());
    let first = client.locks.resume(ticket).await.unwrap();
    assert_eq!(first.hand_over_to("ben").await.unwrap().ticket().owner(), "ben");
}

/// Fails where a vote that failed leaves the heir in, or one that was won leaves the old claim: at any moment links fail or
/// come back, and at no moment two owners have a majority.
#[test]
fn a_hand_over_that_fails_half_way_leaves_one_owner_or_none() {
    seeds(60, |seed| async move {
        let mut random = StdRng::seed_from_u64(seed);
        let nodes = nodes(3);
        let (ours, theirs) = (Client::of(&nodes, 2 * seed), Client::of(&nodes, 2 * seed + 1));
        let watch = nodes.clone();
        let watching = tokio::spawn(async move {
            loop {
                let having = owners(&watch).into_iter().filter(|(_, at)| *at > 1).count();
                assert!(having <= 1, "{:?}", owners(&watch));
                sleep(ms(1)).await;
            }
        });
        let lease = lease(&ours).await;
        let (ticket, fence) = (sent(&lease), lease.fence());
        ours.delay(ms(random.random_range(1..20)));
        let links = ours.links.clone();
        let weather = tokio::spawn(async move {
            for _ in 0..6 {
                sleep(ms(random.random_range(0..25))).await;
                let faults =
                    [Fault::None, Fault::None, Fault::Refuse, Fault::Hang, Fault::LoseReply, Fault::Late(ms(300))];
                links[random.random_range(0..3)].fault(faults[random.random_range(0..6)]);
            }
            sleep(ms(random.random_range(0..2_000))).await;
            links.iter().for_each(|link| link.fault(Fault::None));
        });
        let handed_over = lease.hand_over_to("heir").await;
        if let Ok(heir) = &handed_over {
            assert!(heir.fence() > fence);
            assert!(theirs.locks.resume(ticket).await.unwrap_err().is_lost());
            assert!(theirs.locks.resume(sent(heir)).await.unwrap().is_held());
        }
        weather.await.unwrap();
        if handed_over.as_ref().is_err_and(|error| !error.is_ambiguous()) {
            until("the heir is gone before its time", secs(2), || !owners(&nodes).contains_key("heir")).await;
        }
        sleep(secs(5)).await;
        let next = theirs.mutex("a").lock().timeout(secs(3)).await.unwrap();
        assert!(next.fence() > handed_over.map_or(fence, |heir| heir.fence()));
        assert!(next.release().await.unwrap() && !watching.is_finished());
    });
}

/// Fails where a hand-over that may yet be carried out at some node is told to have failed for good.
#[test]
fn a_lease_that_is_told_to_be_as_it_was_is_nobody_elses_for_as_long_as_it_is_held() {
    let mut faults = vec![Fault::Refuse];
    faults.extend([520, 600, 1_000, 2_000].map(|late| Fault::LateHandOvers(ms(late))));
    for fault in faults {
        seeds(10, move |seed| async move {
            let nodes = nodes(3);
            let (ours, others) = (Client::of(&nodes, 2 * seed), Client::of(&nodes, 2 * seed + 1));
            let mut lease = lease(&ours).await;
            lease.refresh().await.unwrap();
            until("it is in everywhere", secs(1), || nodes.iter().all(|node| node.crowd("a").0 == 1)).await;
            let ticket = sent(&lease);
            ours.links[seed as usize % 2..].iter().for_each(|link| link.fault(fault));
            let error = lease.hand_over_to("heir").await.unwrap_err();
            let is_as_it_was = !error.is_ambiguous() && !error.is_lost();
            assert!(is_as_it_was || fault != Fault::Refuse, "{error}");
            ours.links.iter().for_each(|link| link.fault(Fault::None));
            if is_as_it_was {
                let mut resumed = ours.locks.resume(ticket.clone()).await;
                while resumed.as_ref().is_err_and(Error::is_transient) {
                    // Nodes that failed are left alone for a while.
                    sleep(ms(50)).await;
                    resumed = ours.locks.resume(ticket.clone()).await;
                }
                let resumed = resumed.unwrap();
                while resumed.is_held() {
                    assert!(others.mutex("a").try_lock().await.unwrap().is_none(), "{fault:?}: {error}");
                    sleep(ms(10)).await;
                }
            }
            sleep(secs(6)).await;
            assert!(others.mutex("a").lock().timeout(secs(3)).await.unwrap().release().await.unwrap());
        });
    }
}

/// The same where a vote is lost before all have answered: three of five refuse, and what the other two were asked comes late.
#[test]
fn a_lost_vote_is_not_told_to_be_over_while_somebody_is_still_asked() {
    seeds(10, |seed| async move {
        let nodes = nodes(5);
        let (ours, others) = (Client::of(&nodes, 2 * seed), Client::of(&nodes, 2 * seed + 1));
        ours.links[3..].iter().for_each(|link| link.fault(Fault::Refuse));
        let lease = lease(&ours).await;
        let ticket = sent(&lease);
        ours.links[2].fault(Fault::RefuseHandOvers);
        ours.links[..2].iter().for_each(|link| link.fault(Fault::LateHandOvers(ms(600))));
        let error = lease.hand_over_to("heir").await.unwrap_err();
        ours.links[..3].iter().for_each(|link| link.fault(Fault::None));
        if !error.is_ambiguous() && !error.is_lost() {
            let mut resumed = ours.locks.resume(ticket.clone()).await;
            while resumed.as_ref().is_err_and(Error::is_transient) {
                sleep(ms(20)).await;
                resumed = ours.locks.resume(ticket.clone()).await;
            }
            while resumed.as_ref().is_ok_and(|resumed| resumed.is_held()) {
                assert!(others.mutex("a").try_lock().await.unwrap().is_none(), "{error}");
                sleep(ms(10)).await;
            }
        }
        sleep(secs(6)).await;
        assert!(others.mutex("a").lock().timeout(secs(3)).await.unwrap().release().await.unwrap());
    });
}

/// Fails where the new members are not told of a claim before it is handed over.
#[test]
fn leases_are_handed_over_while_their_keys_move() {
    seeds(3, |seed| async move {
        let nodes = nodes(4);
        let (changer, locks, _) = ring::ring(&nodes, &[1, 1, 1], seed * 100);
        let (_, others, _) = ring::ring(&nodes, &[1, 1, 1], seed * 100 + 1);
        let name = |i: usize| format!("lock {i}");
        let mut leases = Vec::new();
        for i in 0..10 {
            leases.push(locks.mutex(name(i)).build().unwrap().lease(secs(5)).await.unwrap());
        }
        let quorum = changer.quorum().clone();
        let change = tokio::spawn(async move {
            sleep(secs(1)).await;
            quorum.add("node-3").await.unwrap();
            quorum.remove("node-0").await.unwrap();
        });
        while !change.is_finished() {
            for (i, lease) in std::mem::take(&mut leases).into_iter().enumerate() {
                let fence = lease.fence();
                leases.push(lease.hand_over().await.unwrap());
                assert!(leases[i].fence() > fence);
                assert!(others.mutex(name(i)).ttl(secs(5)).build().unwrap().try_lock().await.unwrap().is_none());
            }
            sleep(ms(700)).await;
        }
        change.await.unwrap();
        for lease in leases {
            assert!(lease.release().await.unwrap());
        }
    });
}
