//! Members come and go while locks are held: no two hold at a time, tokens rise, and holds survive.

use tenure::store::Store;
use tenure::{ErrorKind, What};

use crate::*;

/// How long a change takes, with its joint step.
const CHANGE: Duration = Duration::from_secs(23);

/// A client that knows the first three of all nodes as members, and can reach every one.
pub(crate) fn client(nodes: &[Node], seed: u64) -> Client {
    Client::knowing(&nodes[..3], nodes, seed, |builder| builder)
}

pub(crate) async fn names(client: &Client) -> (Vec<String>, Option<Vec<String>>) {
    let members = client.quorum.members().await.unwrap();
    (members.members, members.becoming)
}

/// Fails where the joint step is left out, or not waited for, or a renewal does not take the new members in.
#[test]
fn holds_survive_and_nothing_overlaps_while_many_contend() {
    seeds(3, |seed| async move {
        let nodes = nodes(6);
        let history = History::default();
        let changer = client(&nodes, seed * 1000);
        let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let held = history.try_lock(&changer.mutex("held throughout"), 1).await.unwrap().unwrap();
        let contend = (0..64).map(|i| {
            let (history, client, over) = (history.clone(), client(&nodes, seed * 1000 + 1 + i), over.clone());
            client.delay(ms(1 + i % 5));
            client.env.skew((i as i64 % 3 - 1) * 5_000_000);
            tokio::spawn(async move {
                let lock = client.mutex(if i % 4 == 0 { "a" } else { "b" });
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    release(history.lock(&lock, 1, secs(30)).await.unwrap()).await;
                    sleep(ms(20 + i)).await;
                }
            })
        });
        let contend: Vec<_> = contend.collect();
        sleep(secs(1)).await;
        changer.quorum.add("node-3").await.unwrap();
        changer.quorum.replace("node-0", "node-4").await.unwrap();
        changer.quorum.remove("node-1").await.unwrap();
        changer.quorum.change_members(&["node-5", "node-3", "node-4"], |_| ()).await.unwrap();
        assert_eq!(names(&changer).await, (vec!["node-5".to_owned(), "node-3".to_owned(), "node-4".to_owned()], None));
        // Those that are members no more may go.
        nodes[..3].iter().for_each(|node| node.fault(Fault::Hang));
        sleep(secs(10)).await;
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        for task in contend {
            task.await.unwrap();
        }
        assert!(held.is_held() && nodes[3..].iter().all(|node| node.crowd("held throughout").0 == 1));
        assert!(history.grants() > 200, "{}", history.grants());
    });
}

/// Fails where a client goes by the members it once read for ever.
#[tokio::test(start_paused = true)]
async fn a_client_that_slept_through_a_change_catches_up() {
    let nodes = nodes(6);
    let (changer, sleeper) = (client(&nodes, 1), client(&nodes, 2));
    let history = History::default();
    release(history.try_lock(&sleeper.mutex("a"), 1).await.unwrap().unwrap()).await;
    changer.quorum.change_members(&["node-0", "node-3", "node-4"], |_| ()).await.unwrap();
    changer.quorum.change_members(&["node-3", "node-4", "node-5"], |_| ()).await.unwrap();
    let held = history.try_lock(&changer.mutex("a"), 1).await.unwrap().unwrap();
    assert!(history.try_lock(&sleeper.mutex("a"), 1).await.unwrap().is_none());
    release(held).await;
    release(history.try_lock(&sleeper.mutex("a"), 1).await.unwrap().unwrap()).await;
    assert_eq!(names(&sleeper).await, names(&changer).await);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_to_whoever_uses_the_quorum() {
    let nodes = nodes(5);
    let (changer, user) = (client(&nodes, 1), client(&nodes, 2));
    let mut events = user.locks.events();
    user.mutex("a").lock().await.unwrap().release().await.unwrap();
    changer.quorum.change_members(&["node-0", "node-3", "node-4"], |_| ()).await.unwrap();
    sleep(secs(20)).await;
    user.mutex("a").lock().await.unwrap().release().await.unwrap();
    let mut told = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(ms(1), events.recv()).await {
        if let What::MembersChanged { members } = event.what {
            assert_eq!(event.name.as_str(), "redlock");
            told.push(members);
        }
    }
    assert_eq!(told, [["node-0", "node-3", "node-4"]], "once, and nothing is told before");
}

/// Fails where a client that cannot read the members goes on.
#[tokio::test(start_paused = true)]
async fn a_client_that_cannot_read_the_members_stops() {
    let nodes = nodes(6);
    let (changer, cut_off) = (client(&nodes, 1), client(&nodes, 2));
    let history = History::default();
    release(history.try_lock(&cut_off.mutex("a"), 1).await.unwrap().unwrap()).await;
    let held = history.try_lock(&changer.mutex("a"), 1).await.unwrap().unwrap();
    changer.quorum.change_members(&["node-3", "node-4", "node-5"], |_| ()).await.unwrap();
    // It reaches one of the old ones only, and that one tells it; then none of the new.
    for way in [vec![0, 1, 3, 4, 5], vec![3, 4, 5]] {
        cut_off.links.iter().for_each(|link| link.fault(Fault::None));
        way.into_iter().for_each(|node| cut_off.links[node].fault(Fault::Refuse));
        sleep(secs(3)).await;
        assert_eq!(cut_off.mutex("a").try_lock().await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    drop(held);

    let blind = Quorum::builder().view_lease(LEASE).longest_ttl(LONGEST).token_memory(LONGEST).env(Env::simulated(3));
    let blind = nodes[..3]
        .iter()
        .fold(blind, |builder, node| builder.node(node.name().to_owned(), Arc::new(Link::to(node, 3))));
    let error =
        Locks::new(blind.build().unwrap()).mutex("a").ttl(secs(5)).build().unwrap().try_lock().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("opener"), "{error}");
}

/// Fails without the lock on changes.
#[test]
fn of_two_that_change_at_once_one_is_refused() {
    seeds(10, |seed| async move {
        let nodes = nodes(5);
        let (one, two) = (client(&nodes, seed * 2), client(&nodes, seed * 2 + 1));
        one.delay(ms(3));
        two.delay(ms(3));
        let changes = tokio::join!(one.quorum.add("node-3"), async {
            sleep(ms(seed * 2)).await;
            two.quorum.replace("node-0", "node-4").await
        });
        let errors: Vec<_> = [changes.0, changes.1].into_iter().filter_map(Result::err).collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].to_string().contains("another change of members is under way"), "{errors:?}");
        let (members, becoming) = names(&one).await;
        assert!(becoming.is_none() && (members.len() == 4) != members.contains(&"node-4".to_owned()), "{members:?}");
    });
}

/// Fails where either majority alone is enough in between.
#[tokio::test(start_paused = true)]
async fn between_both_majorities_must_agree() {
    let nodes = nodes(6);
    let (changer, user) = (client(&nodes, 1), client(&nodes, 2));
    let quorum = changer.quorum.clone();
    let change = tokio::spawn(async move { quorum.change_members(&["node-3", "node-4", "node-5"], |_| ()).await });
    sleep(LEASE + secs(2)).await;
    assert!(names(&user).await.1.is_some());
    for missing in [[0, 1], [3, 4]] {
        missing.iter().for_each(|node| user.links[*node].fault(Fault::Refuse));
        assert_eq!(user.mutex("a").try_lock().await.unwrap_err().kind(), ErrorKind::Unavailable);
        missing.iter().for_each(|node| user.links[*node].fault(Fault::None));
        sleep(secs(1)).await;
    }
    user.links[0].fault(Fault::Refuse);
    user.links[5].fault(Fault::Refuse);
    assert!(user.mutex("a").try_lock().await.unwrap().is_some());
    change.await.unwrap().unwrap();
}

/// Fails where a change does not wait until nobody goes by the old members and what they granted is over.
#[tokio::test(start_paused = true)]
async fn what_the_old_members_granted_is_over_before_the_new_ones_are_enough() {
    let nodes = nodes(6);
    let (changer, old, new) = (client(&nodes, 1), client(&nodes, 2), client(&nodes, 3));
    release(History::default().try_lock(&old.mutex("other"), 1).await.unwrap().unwrap()).await;
    let quorum = changer.quorum.clone();
    let change = tokio::spawn(async move { quorum.change_members(&["node-3", "node-4", "node-5"], |_| ()).await });
    // As late as it may, under what it read before the change.
    sleep(ms(900)).await;
    let lock = old.locks.mutex("a").ttl(LONGEST).watchdog(false).build().unwrap();
    let held = lock.try_lock().await.unwrap().unwrap();
    assert!(nodes[3..].iter().all(|node| node.crowd("a").0 == 0), "the old ones granted it alone");
    let start = Instant::now();
    while start.elapsed() < 2 * CHANGE {
        if let Ok(Some(guard)) = new.mutex("a").try_lock().await {
            assert!(!held.is_held(), "after {:?}", start.elapsed());
            return drop((guard, change.await.unwrap().unwrap()));
        }
        sleep(ms(50)).await;
    }
    panic!("it never became free");
}

/// Fails where a member that forgot who the members are is not told again.
#[tokio::test(start_paused = true)]
async fn a_member_that_forgot_who_the_members_are_is_told_again() {
    let nodes = nodes(5);
    let (changer, sleeper) = (client(&nodes, 1), client(&nodes, 2));
    let history = History::default();
    release(history.try_lock(&sleeper.mutex("a"), 1).await.unwrap().unwrap()).await;
    // The change reached two of the old members, of which one forgets it, and the other is out of reach.
    nodes[2].fault(Fault::Refuse);
    changer.quorum.change_members(&["node-0", "node-3", "node-4"], |_| ()).await.unwrap();
    nodes[2].fault(Fault::None);
    let held = history.try_lock(&changer.mutex("a"), 1).await.unwrap().unwrap();
    nodes[0].restart_empty();
    sleep(secs(5)).await;
    sleeper.links[1].fault(Fault::Refuse);
    assert_eq!(names(&sleeper).await, names(&changer).await);
    release(held).await;
}

/// Fails where members that forgot a change since a client last asked count for its being told of none.
#[tokio::test(start_paused = true)]
async fn a_client_that_slept_is_not_told_of_no_change_by_members_that_forgot_it() {
    let nodes = nodes(6);
    let (changer, sleeper) = (client(&nodes, 1), client(&nodes, 2));
    let history = History::default();
    release(history.try_lock(&sleeper.mutex("a"), 1).await.unwrap().unwrap()).await;
    changer.quorum.change_members(&["node-3", "node-4", "node-5"], |_| ()).await.unwrap();
    let held = history.try_lock(&changer.mutex("a"), 1).await.unwrap().unwrap();
    // They have a vote again, and nobody told them meanwhile; the one who knows is out of reach.
    nodes[..2].iter().for_each(Node::restart_empty);
    sleep(LONGEST * 3).await;
    sleeper.links[2].fault(Fault::Refuse);
    let error = sleeper.mutex("a").try_lock().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("kept their memory"), "{error}");
    sleeper.links[2].fault(Fault::None);
    sleep(secs(3)).await;
    assert!(history.try_lock(&sleeper.mutex("a"), 1).await.unwrap().is_none());
    assert_eq!(names(&sleeper).await, names(&changer).await);
    release(held).await;
}

/// Fails where a client that slept through a restart of everyone, and no change, waits for more than that all are there.
#[tokio::test(start_paused = true)]
async fn a_client_that_slept_through_restarts_goes_on_when_all_members_answer() {
    let nodes = nodes(3);
    let client = client(&nodes, 1);
    let history = History::default();
    release(history.try_lock(&client.mutex("a"), 1).await.unwrap().unwrap()).await;
    nodes.iter().for_each(Node::restart_empty);
    sleep(LONGEST * 3).await;
    release(history.try_lock(&client.mutex("a"), 1).await.unwrap().unwrap()).await;
    // From then on a majority is enough, as ever.
    nodes[0].fault(Fault::Refuse);
    sleep(LONGEST).await;
    release(history.try_lock(&client.mutex("a"), 1).await.unwrap().unwrap()).await;
}

/// Fails where the claim of another process, of which this one knows an id only, is renewed as if by somebody who may go by
/// fewer votes, or is not taken in by new members.
#[tokio::test(start_paused = true)]
async fn a_hold_that_another_process_renews_survives_a_change_too() {
    let nodes = nodes(6);
    let (maker, keeper) = (client(&nodes, 1), client(&nodes, 2));
    let lock = maker.locks.semaphore("a", 2).ttl(secs(8)).watchdog(false).build().unwrap();
    let guard = lock.try_lock().await.unwrap().unwrap();
    let quorum = maker.quorum.clone();
    let change = tokio::spawn(async move { quorum.change_members(&["node-3", "node-4", "node-5"], |_| ()).await });
    let renewal = Op::Renew(tenure::proto::Renew { id: guard.id(), ttl: secs(8), fence: 0 });
    for _ in 0..10 {
        sleep(secs(2)).await;
        let reply = keeper.quorum.apply(&key("a"), &renewal).await.unwrap();
        assert!(matches!(reply.outcome, tenure::proto::Outcome::Held { .. }), "{reply:?}");
    }
    change.await.unwrap().unwrap();
    assert!(nodes[3..].iter().all(|node| node.crowd("a").0 == 1));
    // A semaphore of two needs all three of three.
    nodes[3].fault(Fault::Refuse);
    assert!(keeper.quorum.apply(&key("a"), &renewal).await.is_err());
    nodes[3].fault(Fault::None);
    sleep(ms(2_500)).await;
    let release = Op::Release(Release { id: guard.id(), bury: Duration::ZERO, fence: 0 });
    keeper.quorum.apply(&key("a"), &release).await.unwrap();
    assert!(nodes[3..].iter().all(|node| node.crowd("a").0 == 0));
    drop(guard);
}

/// Fails where an epoch rests on the changer's clock and what it has seen alone.
#[tokio::test(start_paused = true)]
async fn a_change_goes_through_after_others_that_failed_and_clocks_that_were_ahead() {
    let nodes = nodes(6);
    let (ahead, right) = (client(&nodes, 1), client(&nodes, 2));
    ahead.env.skew(3_600_000_000);
    ahead.quorum.add("node-3").await.unwrap();
    // Whoever lost its lock and writes all the same is refused, and leaves a trace.
    let register = key("\u{1}tenure/members");
    for i in 0..7 {
        let Op::Acquire(entry) = stranger(100 + i, ms(1), 1) else { unreachable!() };
        let entry = Op::Acquire(Acquire { claim: Claim::SHARED, ..entry });
        nodes[..4].iter().for_each(|node| _ = node.apply_now(&register, &entry));
        sleep(ms(2)).await;
    }
    right.quorum.remove("node-0").await.unwrap();
    assert_eq!(names(&right).await.0, ["node-1", "node-2", "node-3"]);
}
