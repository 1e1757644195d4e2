//! As many nodes as are needed are asked at once, a silent one costs its own time once, and what cannot be had is said.

use tenure::ErrorKind;

use crate::*;

/// Fails where nodes are asked one after the other.
#[tokio::test(start_paused = true)]
async fn those_that_are_needed_are_asked_at_once() {
    let client = Client::of(&nodes(5), 1);
    client.mutex("a").try_lock().await.unwrap().unwrap().release().await.unwrap();
    client.delay(ms(20));
    let start = Instant::now();
    let guard = client.mutex("a").try_lock().await.unwrap().unwrap();
    assert!(start.elapsed() <= ms(41), "{:?}", start.elapsed());
    guard.release().await.unwrap();
}

/// Fails where a node that is tried again is a lock's home before it has answered, or is waited for by who reads the members.
#[tokio::test(start_paused = true)]
async fn a_silent_node_costs_its_time_once_and_then_nothing() {
    let nodes = nodes(5);
    for silent in 0..5 {
        let client = Client::of(&nodes, 1);
        client.mutex("first").try_lock().await.unwrap().unwrap().release().await.unwrap();
        nodes[silent].fault(Fault::Hang);
        let mut cost = Duration::ZERO;
        // Some of these locks have their home there.
        for i in 0..400 {
            let start = Instant::now();
            let guard = client.mutex(&format!("lock {i}")).try_lock().await.unwrap().unwrap();
            cost += start.elapsed();
            guard.release().await.unwrap();
            sleep(ms(if i % 50 == 49 { 3_000 } else { 50 })).await;
        }
        assert!(cost <= LIMIT, "{cost:?} for 400 acquisitions with node {silent} silent");
        nodes[silent].fault(Fault::None);
        nodes[silent].take_asked();
        // It comes back, when its rest is over.
        let start = Instant::now();
        until_asked(&client, &nodes[silent]).await;
        assert!(start.elapsed() < secs(5), "{:?}", start.elapsed());
        client.locks.close().await;
    }
}

async fn until_asked(client: &Client, node: &Node) {
    for i in 0.. {
        let guard = client.mutex(&format!("again {i}")).try_lock().await.unwrap().unwrap();
        sleep(ms(50)).await;
        let is_in = node.crowd(&format!("again {i}")).0 == 1;
        guard.release().await.unwrap();
        if is_in {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_it_fails_in_time_and_leaves_nothing() {
    let nodes = nodes(5);
    let client = Client::of(&nodes, 1);
    client.mutex("a").try_lock().await.unwrap().unwrap().release().await.unwrap();
    for (fault, limit) in [(Fault::Refuse, ms(1)), (Fault::Hang, 3 * LIMIT)] {
        nodes[..3].iter().for_each(|node| node.fault(fault));
        let start = Instant::now();
        let error = client.mutex("a").try_lock().await.unwrap_err();
        assert!(start.elapsed() <= limit, "{:?}", start.elapsed());
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = error.to_string();
        assert!((0..3).all(|i| text.contains(&format!("node-{i}"))), "{text}");
        until("nothing is left", secs(3), || nodes[3..].iter().all(|node| node.crowd("a") == (0, 0))).await;
        nodes.iter().for_each(|node| node.fault(Fault::None));
        sleep(secs(3)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn fewer_votes_than_a_majority_are_refused_with_the_reason() {
    let nodes = nodes(4);
    let build = |votes: usize| {
        let builder = Quorum::builder().votes(votes);
        let links = nodes.iter().map(|node| Link::to(node, 1));
        links.fold(builder, |builder, link| builder.node(link.node.name().to_owned(), Arc::new(link))).build()
    };
    let error = build(2).unwrap_err().to_string();
    assert!(error.contains("two holders could have so many each") && error.contains("3 to 4"), "{error}");
    assert!(build(5).is_err() && build(0).is_err());
    assert!(build(3).is_ok() && build(4).is_ok());

    let all = Client::knowing(&nodes, &nodes, 1, |builder| builder.votes(4));
    nodes[0].fault(Fault::Refuse);
    assert_eq!(all.mutex("a").try_lock().await.unwrap_err().kind(), ErrorKind::Unavailable, "four were asked for");
}

#[tokio::test(start_paused = true)]
async fn a_ttl_longer_than_the_longest_is_refused_with_the_way_out() {
    let client = Client::of(&nodes(3), 1);
    let lock = client.locks.mutex("a").ttl(LONGEST + ms(1)).build().unwrap();
    let error = lock.try_lock().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("longest_ttl"), "{error}");
    let lock = client.locks.mutex("a").ttl(LONGEST).build().unwrap();
    assert!(lock.try_lock().await.unwrap().is_some());
}

/// Fails where a quorum counts as one node.
#[tokio::test(start_paused = true)]
async fn health_tells_of_each_node() {
    let nodes = nodes(5);
    let client = Client::of(&nodes, 1);
    client.delay(ms(3));
    let guard = client.mutex("a").lock().await.unwrap();
    nodes[4].fault(Fault::Hang);
    // The renewals ask everyone.
    sleep(secs(20)).await;
    let health = client.locks.health();
    let names: Vec<&str> = health.iter().map(|node| node.node.as_str()).collect();
    assert_eq!(names, ["node-0", "node-1", "node-2", "node-3", "node-4"]);
    let [well @ .., silent] = &health[..] else { panic!("there are five") };
    assert!(well.iter().all(|node| node.up && node.failures == 0 && node.holds == 1), "{well:?}");
    assert!(well.iter().all(|node| node.latency >= ms(3) && node.soonest_deadline <= Some(secs(5))), "{well:?}");
    assert!(!silent.up && silent.failures > 2, "{silent:?}");
    guard.release().await.unwrap();
    assert!(client.locks.health().iter().all(|node| node.holds == 0 && node.soonest_deadline.is_none()));
}

/// Fails without a rest after a failure, with one that does not grow, with one that nothing ends, and where a node that is
/// tried again is tried by everyone.
#[test]
fn a_node_that_failed_is_left_alone_for_a_while_and_tried_again_by_one() {
    seeds(3, |seed| async move {
        let nodes = nodes(5);
        let client = Client::of(&nodes, seed);
        let lock = client.locks.mutex("a").ttl(LONGEST).watchdog(false).build().unwrap();
        let guard = lock.try_lock().await.unwrap().unwrap();
        // A renewal asks every node that is not left alone, at the same moment.
        let renew = async || {
            futures_util::future::join_all((0..3).map(|_| guard.refresh())).await.into_iter().for_each(Result::unwrap)
        };
        nodes[3].take_asked();
        renew().await;
        assert!(nodes[3].take_asked() >= 3, "it is well");
        nodes[3].fault(Fault::Refuse);
        // Whoever asks it at this moment does not know yet that it fails.
        renew().await;
        nodes[3].take_asked();
        let start = Instant::now();
        while start.elapsed() < ms(40) {
            renew().await;
            assert_eq!(nodes[3].take_asked(), 0, "{:?} after it failed", start.elapsed());
            sleep(ms(5)).await;
        }
        let mut tried = Vec::new();
        while start.elapsed() < secs(20) {
            renew().await;
            match nodes[3].take_asked() {
                0 => {}
                1 => tried.push(start.elapsed()),
                many => panic!("{many} tried it again at once"),
            }
            sleep(ms(20)).await;
        }
        // Half of 2 s to 2 s after each other in the end, and what reads the members tries it as well.
        assert!((10..40).contains(&tried.len()), "{tried:?}");
        let rests: Vec<Duration> = tried.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(rests[5..].iter().all(|rest| (ms(950)..ms(2_050)).contains(rest)), "{rests:?}");
        nodes[3].fault(Fault::None);
        until("it is tried and found well", secs(3), || {
            futures_util::FutureExt::now_or_never(renew());
            nodes[3].take_asked() > 0
        })
        .await;
        sleep(ms(5)).await;
        nodes[3].take_asked();
        renew().await;
        assert!(nodes[3].take_asked() >= 3, "it is well again");
    });
}
