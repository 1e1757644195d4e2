//! Tokens rise strictly and none is given twice, whatever clocks say and nodes forget.

use crate::*;

/// Takes and releases, and checks the token.
async fn turn(history: &History, client: &Client) -> u64 {
    let guard = history.lock(&client.mutex("a"), 1, secs(20)).await.unwrap();
    let fence = guard.fence().get();
    release(guard).await;
    fence
}

/// Fails where the token is the latest of the nodes' own counters, where a node takes a token that is as late as its last,
/// and where one is taken for granted that not enough agree on.
#[test]
fn tokens_rise_whatever_the_clients_clocks_say() {
    seeds(30, |seed| async move {
        let nodes = nodes(5);
        let history = History::default();
        let clients: Vec<Client> = (0..3).map(|i| Client::of(&nodes, seed * 10 + i)).collect();
        for (client, skew) in clients.iter().zip([0, -3_600_000_000, 3_600_000_000 - seed as i64 * 1_000]) {
            client.env.skew(skew);
        }
        for i in 0..40 {
            // Two others are missing each time.
            let draw = (seed as usize).wrapping_mul(31).wrapping_add(i * 7);
            let (a, b) = (draw % 5, (draw / 5) % 5);
            nodes[a].fault(Fault::Refuse);
            nodes[b].fault(Fault::Hang);
            turn(&history, &clients[(draw + i) % 3]).await;
            nodes.iter().for_each(|node| node.fault(Fault::None));
            sleep(ms(draw as u64 * 37 % 3_000)).await;
        }
        assert_eq!(history.grants(), 40);
    });
}

/// Fails where one that was outbid gives up, or proposes no later token: a node far ahead is outbid in two rounds.
#[tokio::test(start_paused = true)]
async fn one_that_is_outbid_proposes_a_later_token_and_has_it() {
    let nodes = nodes(3);
    let client = Client::of(&nodes, 1);
    turn(&History::default(), &client).await;
    let (rounds, _) = client.quorum.rounds();
    let ahead = nodes[1].now() + 3_600_000_000;
    for (i, node) in nodes[1..].iter().enumerate() {
        node.apply_now(&key("a"), &stranger(7, secs(1), ahead + 10 * i as u64));
        node.apply_now(&key("a"), &stranger_leaves(7));
    }
    let fence = turn(&History::default(), &client).await;
    assert_eq!(fence, ahead + 12);
    assert_eq!(client.quorum.rounds().0 - rounds, 2);
    assert!(nodes.iter().all(|node| node.record("a").fence == fence), "they agree");
}

/// Fails where many that share a lock outbid one another without end.
#[test]
fn readers_that_come_at_once_all_get_in() {
    seeds(10, |seed| async move {
        let nodes = nodes(5);
        let history = History::default();
        let mut tasks = Vec::new();
        for i in 0..32 {
            let client = Client::of(&nodes, seed * 100 + i);
            client.delay(ms(5));
            let history = history.clone();
            tasks.push(tokio::spawn(async move {
                let lock = client.locks.read("a").ttl(secs(5)).build().unwrap();
                let guard = history.lock(&lock, 32, secs(4)).await.unwrap();
                sleep(secs(6)).await;
                assert!(guard.is_held());
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
}

/// Fails without quarantine: a hold that a node has forgotten still counts.
#[tokio::test(start_paused = true)]
async fn a_node_that_forgot_has_no_vote_before_all_holds_that_it_knew_are_over() {
    let nodes = nodes(5);
    let (one, two) = (Client::of(&nodes, 1), Client::of(&nodes, 2));
    nodes[3..].iter().for_each(|node| node.fault(Fault::Refuse));
    let mut held = Vec::new();
    for i in 0..10 {
        let lock = one.locks.mutex(format!("lock {i}")).ttl(LONGEST).watchdog(false).build().unwrap();
        held.push(lock.try_lock().await.unwrap().unwrap());
    }
    let began = Instant::now();
    nodes[3..].iter().for_each(|node| node.fault(Fault::None));
    nodes[2].restart_empty();
    // Of those that know, one is silent; the others, and who forgot, would be enough, and could tell the latest token.
    nodes[0].fault(Fault::Hang);
    let history = History::default();
    let mut granted = std::collections::BTreeSet::new();
    while granted.len() < held.len() {
        for (i, held) in held.iter().enumerate() {
            let lock = two.locks.mutex(format!("lock {i}")).ttl(secs(5)).fence_memory(secs(1)).build().unwrap();
            if let Ok(Some(guard)) = history.try_lock(&lock, 1).await {
                assert!(!held.is_held(), "lock {i} after {:?}", began.elapsed());
                granted.insert(i);
                release(guard).await;
            }
        }
        sleep(ms(100)).await;
        assert!(began.elapsed() < LONGEST + secs(5), "it has a vote again");
    }
}

/// Fails where a node that forgot votes as others do once its quarantine is over.
#[test]
fn a_node_that_forgot_takes_its_counter_back_from_others() {
    seeds(20, |seed| async move {
        let nodes = nodes(5);
        let (ahead, behind) = (Client::of(&nodes, seed * 2), Client::of(&nodes, seed * 2 + 1));
        let history = History::default();
        ahead.env.skew(3_600_000_000);
        // Only the first, the second and the third learn of the token.
        nodes[3..].iter().for_each(|node| node.fault(Fault::Refuse));
        turn(&history, &ahead).await;
        nodes[3..].iter().for_each(|node| node.fault(Fault::None));
        nodes[0].restart_empty();
        nodes[1].restart_empty();
        // They have a vote again, and the token is still remembered by whoever remembers.
        sleep(LONGEST + secs(1)).await;
        if seed % 2 == 0 {
            // The one that remembers is silent: nobody can know.
            nodes[2].fault(Fault::Hang);
            assert!(behind.mutex("a").try_lock().await.is_err());
            nodes[2].fault(Fault::None);
            sleep(secs(3)).await;
        }
        turn(&history, &behind).await;
    });
}

/// Fails where a node that let the claim in under another token counts as one that has been asked for the latest.
#[tokio::test(start_paused = true)]
async fn a_later_token_at_one_node_counts_where_others_forgot() {
    let nodes = nodes(5);
    let (ahead, behind) = (Client::of(&nodes, 1), Client::of(&nodes, 2));
    let history = History::default();
    ahead.env.skew(3_600_000_000);
    nodes[3..].iter().for_each(|node| node.fault(Fault::Refuse));
    turn(&history, &ahead).await;
    nodes[3..].iter().for_each(|node| node.fault(Fault::None));
    nodes[0].restart_empty();
    nodes[1].restart_empty();
    sleep(LONGEST + secs(1)).await;
    // One refuses the claim, and can be read: so three are for the token, and three were asked for the latest.
    nodes[4].apply_now(&key("a"), &stranger(9, secs(9), 1));
    turn(&history, &behind).await;
}

/// Restarts with a state of some time before count as restarts without any.
#[test]
fn tokens_rise_through_restarts_that_forget() {
    seeds(30, |seed| async move {
        let nodes = nodes(5);
        let history = History::default();
        let clients: Vec<Client> = (0..2).map(|i| Client::of(&nodes, seed * 10 + i)).collect();
        // By less than the pauses, for nobody remembers a token for longer than the longest ttl.
        clients[0].env.skew(30_000_000);
        let mut stale = nodes[0].snapshot();
        for i in 0..30 {
            let node = &nodes[(seed as usize + i * 3) % 5];
            match (seed as usize + i) % 4 {
                0 => node.restart_empty(),
                1 => stale = node.snapshot(),
                2 => node.restart_with(std::mem::take(&mut stale)),
                _ => node.skew(((i as i64 * 17) % 120 - 60) * 1_000_000),
            }
            turn(&history, &clients[i % 2]).await;
            // No more than a minority forgets at a time.
            sleep(secs(11 + 40)).await;
        }
        assert_eq!(history.grants(), 30);
    });
}
