//! Nodes fail, and their replicas follow them.

use tenure::proto::Was;
use tenure::{ErrorKind, Events, Guard, What};

use super::*;

/// A name for each of so many locks, with the node that has it at first.
fn spread(cluster: &Cluster, count: usize) -> Vec<(String, usize)> {
    let names = (0..count).map(|n| format!("lock-{n}"));
    names
        .map(|name| (name.clone(), usize::from(crc16(name.as_bytes()) % 16_384) * 3 / 16_384))
        .inspect(|(name, node)| {
            assert!(name.len() > 6 || cluster.master_of(crc16(name.as_bytes()) % 16_384) == *node);
        })
        .collect()
}

/// The records of a master are its replica's as well.
pub(super) async fn until_replicated(cluster: &Cluster, master: usize) {
    let field = |node: usize, name: &str| {
        let info = cluster.nodes[node].command(&["INFO", "replication"]);
        info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    until("the replica has everything", async || {
        field(master, "master_repl_offset:") == field(master + 3, "slave_repl_offset:")
    })
    .await;
}

#[tokio::test]
async fn what_may_have_been_carried_out_is_not_sent_again() {
    let (cluster, _turn) = cluster().await;
    let url = format!("{}?response_timeout=300ms", cluster.url());
    let store = RedisCluster::connect(&url).await.unwrap();
    let master = cluster.master_of(cluster.slot(&place("a")));
    hold(&store, "b", 1).await;
    let before = calls(&cluster, master, "evalsha");
    // Too short for the others to take it for dead.
    cluster.nodes[master].pause();
    let error = within(Duration::from_secs(5), store.apply(&key("a"), &acquire(2))).await.unwrap_err();
    cluster.nodes[master].resume();
    assert!(error.is_ambiguous(), "{error}");
    until("it was carried out", async || store.read(&key("a")).await.is_ok_and(|seen| seen.record.holders.len() == 1))
        .await;
    assert_eq!(calls(&cluster, master, "evalsha") - before, 1);
}

#[tokio::test]
async fn a_node_that_hangs_delays_only_its_own() {
    let (cluster, _turn) = cluster().await;
    let store = connect(&cluster).await;
    let spread = spread(&cluster, 90);
    let ops =
        |op: fn(u128) -> Op| -> Vec<_> { (1..).zip(&spread).map(|(id, (name, _))| (key(name), op(id))).collect() };
    let replies = store.apply_many(&ops(acquire)).await;
    assert!(replies.into_iter().all(|reply| is_held(reply.unwrap().outcome)));
    cluster.nodes[1].pause();
    let start = Instant::now();
    let replies = store.apply_many(&ops(renew)).await;
    let took = start.elapsed();
    cluster.nodes[1].resume();
    assert!(took < Duration::from_millis(600), "{took:?}, and a reply may take 1.5 s");
    for ((name, node), reply) in spread.iter().zip(replies) {
        match reply {
            Ok(reply) => assert!(is_held(reply.outcome) && *node != 1, "{name}: {reply:?}"),
            Err(error) => assert!(error.is_ambiguous() && *node == 1, "{name}: {error}"),
        }
    }
    let replies = store.apply_many(&ops(renew)).await;
    assert!(replies.into_iter().all(|reply| is_held(reply.unwrap().outcome)));
}

#[tokio::test]
async fn a_hold_and_a_wait_go_on_when_a_replica_takes_over() {
    let (cluster, _turn) = cluster().await;
    let (holder, waiter) = (connect(&cluster).await, connect(&cluster).await);
    let mut watch = queue(&cluster, &holder, &waiter, "a", [1, 2]).await;
    assert_eq!(within(Duration::from_secs(5), watch.next()).await, Push::Changed, "it is subscribed to");
    let slot = cluster.slot(&place("a"));
    let master = cluster.master_of(slot);
    until_replicated(&cluster, master).await;
    cluster.nodes[master + 3].command(&["CLUSTER", "FAILOVER"]);
    until("the replica is the master", async || cluster.master_of(slot) == master + 3).await;
    assert!(is_held(done(&holder, "a", renew(1)).await));
    // What the failover itself tells is over.
    while tokio::time::timeout(Duration::from_millis(1_500), watch.next()).await.is_ok() {}
    assert_eq!(done(&holder, "a", release(1)).await, Outcome::Gone { was: Was::Holding });
    let fence = granted(&mut watch).await;
    let outcome = done(&waiter, "a", acquire(2)).await;
    assert!(matches!(outcome, Outcome::Held { fence: held, .. } if held == fence), "{outcome:?}");

    // From now on both listen at the new master.
    let mut watch = holder.watch(&key("a"), ClaimId::new(3));
    done(&holder, "a", acquire(3)).await;
    until("both listen there", async || channels(&cluster, master + 3, "a") == 2).await;
    done(&waiter, "a", release(2)).await;
    granted(&mut watch).await;
}

#[tokio::test]
async fn who_waits_at_a_master_that_hangs_finds_the_one_that_follows_it() {
    let (cluster, _turn) = cluster().await;
    let (holder, waiter) = (connect(&cluster).await, connect(&cluster).await);
    let mut watch = queue(&cluster, &holder, &waiter, "a", [1, 2]).await;
    let slot = cluster.slot(&place("a"));
    let master = cluster.master_of(slot);
    until_replicated(&cluster, master).await;
    cluster.nodes[master].pause();
    // The waiter sends nothing, and its connection to the old master is as good as ever, but that it is silent.
    until("it listens at the new master", async || channels(&cluster, master + 3, "a") == 1).await;
    until("the hold goes on", async || holder.apply(&key("a"), &renew(1)).await.is_ok()).await;
    assert_eq!(done(&holder, "a", release(1)).await, Outcome::Gone { was: Was::Holding });
    granted(&mut watch).await;
    cluster.nodes[master].resume();
    cluster.until_whole();
    assert!(is_held(done(&waiter, "a", renew(2)).await), "the old master is told, and takes no more writes");
}

/// What is told of the holds, in the order of the guards.
struct Told {
    suspect: Vec<String>,
    lost: Vec<String>,
    renewed: usize,
}

async fn told(events: &mut Events, time: Duration) -> Told {
    let mut told = Told { suspect: Vec::new(), lost: Vec::new(), renewed: 0 };
    let end = tokio::time::Instant::now() + time;
    while let Ok(Some(event)) = tokio::time::timeout_at(end, events.recv()).await {
        let name = event.name.to_string();
        match event.what {
            What::Suspect { .. } => told.suspect.push(name),
            What::Lost { .. } => told.lost.push(name),
            What::Renewed { .. } => told.renewed += 1,
            _ => {}
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_costs_no_hold_that_its_replica_has_and_nobody_elses_time() {
    let (cluster, _turn) = cluster().await;
    let mut cluster = cluster;
    let locks = tenure::open(&cluster.url()).await.unwrap();
    let spread = spread(&cluster, 60);
    let mut guards: Vec<Guard> = Vec::new();
    for (name, _) in &spread {
        let lock = locks.mutex(&**name).ttl(Duration::from_secs(12)).build().unwrap();
        guards.push(lock.lock().await.unwrap());
    }
    until_replicated(&cluster, 1).await;
    let mut events = locks.events();
    cluster.nodes[1].kill();
    let told = told(&mut events, Duration::from_secs(14)).await;
    assert!(told.lost.is_empty(), "{:?}", told.lost);
    let of_others = |name: &&String| spread.iter().any(|(other, node)| other == *name && *node != 1);
    let delayed: Vec<_> = told.suspect.iter().filter(of_others).collect();
    assert!(delayed.is_empty(), "{delayed:?}");
    assert!(told.renewed > 2 * 60, "{}", told.renewed);
    assert!(guards.iter().all(Guard::is_held));
    for guard in guards {
        assert!(guard.release().await.unwrap());
    }

    // It comes back as its replica's replica, and nothing is different.
    cluster.nodes[1].restart();
    cluster.until_whole();
    let (name, _) = spread.iter().find(|(_, node)| *node == 1).unwrap();
    let guard = locks.mutex(&**name).build().unwrap().lock().timeout(Duration::from_secs(5)).await.unwrap();
    assert!(guard.release().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_holds_over_all_shards_are_renewed_also_where_the_scripts_were_flushed() {
    let (cluster, _turn) = cluster().await;
    let locks = tenure::open(&cluster.url()).await.unwrap();
    let mut guards: Vec<Guard> = Vec::new();
    for n in 0..1_000 {
        let lock = locks.mutex(format!("lock-{n}")).ttl(Duration::from_secs(4)).build().unwrap();
        guards.push(lock.lock().await.unwrap());
    }
    let mut events = locks.events();
    cluster.nodes[2].command(&["SCRIPT", "FLUSH"]);
    let told = told(&mut events, Duration::from_secs(5)).await;
    assert!(told.suspect.is_empty() && told.lost.is_empty(), "{:?} {:?}", told.suspect.len(), told.lost.len());
    assert!(told.renewed >= 2_000, "{}", told.renewed);
    assert!(guards.iter().all(Guard::is_held));
    assert_eq!(locks.list().await.unwrap().len(), 1_000);
}

#[tokio::test]
async fn a_cluster_that_is_down_is_told_in_time() {
    let (cluster, _turn) = cluster().await;
    let mut cluster = cluster;
    let store = connect(&cluster).await;
    let of = |node: usize, from: &Cluster| spread(from, 20).into_iter().find(|(_, n)| *n == node).unwrap().0;
    let (dead, lives) = (of(0, &cluster), of(2, &cluster));
    hold(&store, &lives, 1).await;
    cluster.nodes[0].kill();
    cluster.nodes[3].kill();
    // The first one may be on a connection that is not yet known to be over.
    let _ = within(Duration::from_secs(4), store.apply(&key(&dead), &attempt(2))).await.unwrap_err();
    let error = within(Duration::from_secs(4), store.apply(&key(&dead), &acquire(2))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    until("the others know", async || cluster.nodes[2].command(&["CLUSTER", "INFO"]).contains("cluster_state:fail"))
        .await;
    let error = within(Duration::from_secs(4), store.apply(&key(&lives), &renew(1))).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("CLUSTER INFO"), "{error}");
    cluster.nodes[0].restart();
    cluster.nodes[3].restart();
    until("it serves again", async || store.apply(&key(&dead), &acquire(2)).await.is_ok()).await;
    assert!(is_held(done(&store, &lives, renew(1)).await), "who did not lose its node did not lose its holds");
}
