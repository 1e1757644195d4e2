//! What a server keeps of what it acknowledged: under memory pressure, through a restart, and through a failover.

use std::time::Duration;

use super::finding::{Findings, Level};
use super::server::Facts;
use crate::duration;

/// What a server is to the locks on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All there is, or all there is for the keys on it.
    Single,
    /// One of a quorum, which has no vote for that long after it lost its memory.
    Voter(Duration),
    /// A master that others may take over from without being asked: behind Sentinels, or in a cluster.
    FailsOver,
}

/// How full the memory may be, in percent, before it is worth a word.
const FULL: u64 = 80;
/// How many seconds a replica may be silent. It is heard every second.
const LAG: u64 = 3;

pub(super) fn judge(facts: &Facts, part: Part, replicas: u32, findings: &mut Findings) {
    if facts.info.is_none() {
        return;
    }
    eviction(facts, findings);
    memory(facts, findings);
    persistence(facts, part, findings);
    replication(facts, part, replicas, findings);
}

fn eviction(facts: &Facts, findings: &mut Findings) {
    let policy = facts.info("maxmemory_policy").unwrap_or_default();
    let (limit, evicted) = (facts.number("maxmemory").unwrap_or(0), facts.number("evicted_keys").unwrap_or(0));
    let fix = ["maxmemory-policy noeviction"];
    if policy != "noeviction" {
        let why = "Every record of a lock has an expiry, so volatile-* evicts them just as allkeys-* does. An evicted \
                   record is a lost lock: the next one is let in at once.";
        return match limit {
            0 => {
                let found = format!("maxmemory-policy is {policy}; there is no maxmemory yet, so nothing is evicted");
                findings.add(Level::Note, "eviction", found, why, &fix);
            }
            _ => {
                let found = format!("maxmemory-policy is {policy}, and {evicted} keys were evicted since its start");
                findings.add(Level::Error, "eviction", found, why, &fix);
            }
        };
    }
    findings.ok("eviction", "maxmemory-policy is noeviction");
}

fn memory(facts: &Facts, findings: &mut Findings) {
    let (limit, used) = (facts.number("maxmemory").unwrap_or(0), facts.number("used_memory").unwrap_or(0));
    if limit == 0 {
        let why = "When the machine's memory is used up, the kernel ends the server, and what it had not written goes.";
        let fix = ["maxmemory 512mb    or as much as this server may have"];
        return findings.add(Level::Note, "memory", "there is no maxmemory", why, &fix);
    }
    let percent = used.saturating_mul(100) / limit;
    let found = format!("{percent} % of maxmemory is used");
    let why = "When it is used up, holds go on and end, but nobody new is let in.";
    let fix = ["maxmemory 512mb    or whatever is more than now; or move other data elsewhere"];
    match percent {
        0..FULL => findings.ok("memory", found),
        FULL..100 => findings.add(Level::Warning, "memory", found, why, &fix),
        _ => findings.add(Level::Error, "memory", found, why, &fix),
    }
}

fn persistence(facts: &Facts, part: Part, findings: &mut Findings) {
    let fsync = facts.config("appendfsync");
    let has_file = facts.info("aof_enabled") == Some("1");
    let saves = facts.config("save").is_some_and(|save| !save.is_empty());
    let found = match (has_file, fsync) {
        (true, Some(fsync)) => format!("appendonly yes, appendfsync {fsync}"),
        (true, None) => "appendonly yes, and this user may not ask for appendfsync".to_owned(),
        (false, _) if saves => "snapshots alone (save), and no appendonly".to_owned(),
        (false, _) => "appendonly no".to_owned(),
    };
    let fix = ["appendonly yes", "appendfsync always"];
    match (part, has_file, fsync) {
        (_, true, Some("always")) => findings.ok("persistence", found),
        (Part::Voter(longest), ..) => {
            let why = format!(
                "After each restart this node has no vote for {}, the longest ttl, as it may have forgotten a hold; the \
                 others have to be a majority meanwhile. With appendfsync always it votes at once.",
                duration::text(longest)
            );
            findings.add(Level::Note, "persistence", found, &why, &fix);
        }
        (_, true, Some("no")) => {
            let why =
                "A crash of the machine may lose the grants of the last half minute: the next one is let in at once.";
            findings.add(Level::Warning, "persistence", found, why, &fix);
        }
        (_, true, _) => {
            let why =
                "A crash of the machine may lose the grants of the last second or two: the next one is let in at once.";
            findings.add(Level::Note, "persistence", found, why, &fix);
        }
        (_, false, _) => {
            let more = match part {
                Part::FailsOver => " A master that is back, empty, before its replicas took over empties them, too.",
                Part::Single | Part::Voter(_) => "",
            };
            let why = format!(
                "A restart loses every hold, or all since the last snapshot: the next one is let in at once, while the \
                 former holder learns of it at its next renewal.{more}"
            );
            findings.add(Level::Warning, "persistence", found, &why, &fix);
        }
    }
}

fn replication(facts: &Facts, part: Part, wanted: u32, findings: &mut Findings) {
    let count = facts.number("connected_slaves").unwrap_or(0);
    if u64::from(wanted) > count {
        let why = "A grant that too few replicas acknowledge is given back, so no lock can be taken.";
        let fix = format!("replicas={count} in the URL, or start the replicas that are missing");
        findings.add(
            Level::Error,
            "replicas",
            format!("replicas={wanted} in the URL, and {count} there"),
            why,
            &[&fix],
        );
    }
    for n in 0..count {
        replica(facts.info(&format!("slave{n}")).unwrap_or_default(), findings);
    }
    let least = facts.config("min-replicas-to-write").map(str::parse::<u64>);
    match (count, part, least) {
        (0, _, Some(Ok(least @ 1..))) => {
            let why = "It takes no writes without them, so no lock can be taken, renewed or released.";
            let found = format!("min-replicas-to-write is {least}, and no replica is there");
            let fix = "start a replica, or min-replicas-to-write 0";
            findings.add(Level::Error, "replicas", found, why, &[fix]);
        }
        (0, Part::FailsOver, _) => {
            let why = "When this master is gone, so are its locks: there is nobody to take over.";
            findings.add(Level::Warning, "replicas", "there is none", why, &["start one: replicaof HOST PORT"]);
        }
        (0, ..) => findings.ok("replicas", "none, so there is no failover to a server that lagged"),
        (_, _, Some(Ok(0))) => {
            let level = if part == Part::FailsOver { Level::Warning } else { Level::Note };
            let why = "A replica that takes over may lack the last grants: the next one is let in at once. A master that is \
                       cut off goes on granting what will be lost. The fence still rises, if clocks are right.";
            let fix = ["min-replicas-to-write 1", "min-replicas-max-lag 10", "and replicas=1 in the URL"];
            let found = format!("{count} there, and min-replicas-to-write is 0");
            findings.add(level, "replicas", found, why, &fix);
        }
        _ => findings.ok("replicas", format!("{count} there")),
    }
}

/// One replica, as `INFO` has it: `ip=…,port=…,state=online,offset=…,lag=0`.
fn replica(line: &str, findings: &mut Findings) {
    let field = |name: &str| {
        let fields = line.split(',').filter_map(|field| field.split_once('='));
        fields.into_iter().find(|(other, _)| *other == name).map_or("", |(_, value)| value)
    };
    let (state, lag) = (field("state"), field("lag").parse::<u64>().unwrap_or(0));
    if state == "online" && lag < LAG {
        return;
    }
    let found = format!("{}:{} is {state}, and was last heard {lag} s ago", field("ip"), field("port"));
    let why = "It lacks what was acknowledged since, and would lose it if it took over now.";
    findings.add(Level::Warning, "replica-lag", found, why, &["see its log and the network between the two"]);
}
