//! What is done to masters and replicas: behind Sentinels, and in a cluster.

use std::time::{Duration, Instant};

use testkit::Redis;

use crate::chance::Chance;
use crate::faults::Evidence;
use crate::topology::{Deployment, info};
use crate::{Interrupted, rest};

/// How long a replica may take to take over.
const LIMIT: Duration = Duration::from_secs(20);

/// A replica takes over as an administrator asks for it.
pub(crate) fn planned(deployment: &mut Deployment, one: usize) -> Result<Evidence, Interrupted> {
    let (old, replicas) = pair(deployment, one);
    let new = replicas[0];
    let start = Instant::now();
    let taken = |deployment: &Deployment| match &deployment.sentinel {
        Some(group) => group.master() != old,
        None => is_master(deployment.servers()[new]),
    };
    while !taken(deployment) && start.elapsed() < LIMIT {
        // It may be given up half-way.
        match &deployment.sentinel {
            Some(group) => group.fail_over(),
            None => drop(deployment.servers()[new].try_command(&["CLUSTER", "FAILOVER"])),
        }
        until(|| taken(deployment), Duration::from_secs(3))?;
    }
    let done = taken(deployment);
    settled(deployment)?;
    Ok(told(done, format!("node {old} was the master, and is none after {:?}", start.elapsed())))
}

/// The master is killed while a replica stands still; another one that was in step, where there is one, takes over.
pub(crate) fn lagging(deployment: &mut Deployment, chance: &mut Chance) -> Result<Evidence, Interrupted> {
    let which = chance.below(16) as usize;
    let (old, replicas) = pair(deployment, which);
    let lagging = replicas[which % replicas.len()];
    // What is in the replica's buffers by the time that it goes on is lost with its connection, or what came late is.
    deployment.servers()[lagging].pause();
    rest(chance.millis(500, 900))?;
    let behind = offset(deployment.servers()[old]);
    deployment.grouped(old).kill();
    deployment.servers()[lagging].resume();
    let new = taken_over(deployment, old)?;
    let had = new.map(|new| offset(deployment.servers()[new]));
    deployment.grouped(old).restart();
    settled(deployment)?;
    let evidence =
        format!("master {old} at {behind} was killed with replica {lagging} behind; then {new:?} at {had:?}");
    Ok(told(new.is_some(), evidence))
}

/// The master stands still until another one has taken over, and then goes on as if it still were one.
pub(crate) fn returning(deployment: &mut Deployment, chance: &mut Chance) -> Result<Evidence, Interrupted> {
    let (old, _) = pair(deployment, chance.below(16) as usize);
    deployment.servers()[old].pause();
    let new = taken_over(deployment, old)?;
    rest(chance.millis(0, 300))?;
    deployment.servers()[old].resume();
    settled(deployment)?;
    Ok(told(new.is_some(), format!("master {old} stood still, {new:?} took over, and it came back")))
}

/// The slot of a lock moves to another master.
pub(crate) fn migration(deployment: &Deployment, chance: &mut Chance) -> Result<Evidence, Interrupted> {
    let cluster = deployment.cluster.as_ref().expect("only a cluster has slots");
    let slot = cluster.slot(&format!("lock-{}", chance.below(3)));
    let from = cluster.master_of(slot);
    let others: Vec<usize> = (0..6).filter(|n| *n != from && is_master(&cluster.nodes[*n])).collect();
    let to = others[chance.below(others.len() as u64) as usize];
    cluster.begin_move(slot, from, to);
    rest(chance.millis(50, 300))?;
    cluster.move_keys(slot, from, to);
    rest(chance.millis(0, 200))?;
    cluster.end_move(slot, from, to);
    let new = cluster.master_of(slot);
    Ok(told(new != from, format!("slot {slot} went from node {from} to node {new}")))
}

fn told(done: bool, evidence: String) -> Evidence {
    if done { Ok(evidence) } else { Err(evidence) }
}

/// A master and its replicas; of a cluster's masters, the one that this number leads to.
fn pair(deployment: &Deployment, number: usize) -> (usize, Vec<usize>) {
    let servers = deployment.servers();
    if let Some(group) = &deployment.sentinel {
        let master = group.master();
        return (master, (0..servers.len()).filter(|n| *n != master).collect());
    }
    let follows = |replica: usize, master: usize| {
        info(servers[replica], "replication", "master_port") == servers[master].port().to_string()
    };
    let masters: Vec<usize> = (0..servers.len()).filter(|n| is_master(servers[*n])).collect();
    let followed = |master: &usize| (0..servers.len()).any(|replica| follows(replica, *master));
    let masters: Vec<usize> = masters.into_iter().filter(followed).collect();
    let master = masters[number % masters.len()];
    (master, (0..servers.len()).filter(|replica| follows(*replica, master)).collect())
}

/// Which node is a master after that one, if it comes about.
fn taken_over(deployment: &Deployment, old: usize) -> Result<Option<usize>, Interrupted> {
    let servers = deployment.servers();
    let is_new = |n: &usize| *n != old && servers[*n].try_command(&["PING"]).is_ok() && is_master(servers[*n]);
    let before: Vec<usize> = (0..servers.len()).filter(is_new).collect();
    let now = || (0..servers.len()).find(|n| !before.contains(n) && is_new(n));
    until(|| now().is_some(), LIMIT)?;
    Ok(now())
}

/// Waits until all follow somebody again.
fn settled(deployment: &Deployment) -> Result<(), Interrupted> {
    let masters = if deployment.cluster.is_some() { 3 } else { 1 };
    let servers = deployment.servers();
    let is_replica = |server: &&&Redis| info(server, "replication", "master_link_status") == "up";
    let whole = || {
        servers.iter().filter(|server| is_master(server)).count() == masters
            && servers.iter().filter(is_replica).count() == servers.len() - masters
    };
    until(whole, LIMIT)
}

fn is_master(server: &Redis) -> bool {
    info(server, "replication", "role") == "master"
}

/// How much of what was written it has.
fn offset(server: &Redis) -> u64 {
    info(server, "replication", "master_repl_offset").parse().unwrap_or(0)
}

fn until(is_so: impl Fn() -> bool, limit: Duration) -> Result<(), Interrupted> {
    let start = Instant::now();
    while !is_so() && start.elapsed() < limit {
        rest(Duration::from_millis(50))?;
    }
    Ok(())
}
