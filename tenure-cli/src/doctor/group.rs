//! Findings about a quorum or a ring as a whole: how many nodes, whether they are apart, and whether they can decide.

use std::time::Duration;

use tenure::inspect::Node;
use tenure::store::{Members, NodeStatus, Quorum, Ring};

use super::finding::{Findings, Level};
use super::{Seen, clocks};
use crate::duration;

/// The ttl of a lock where nothing is said.
const USUAL_TTL: Duration = Duration::from_secs(30);

/// Looks at a quorum: its nodes by the URL, what was seen of each, and what they say together.
///
/// # Cancel safety
///
/// It only asks.
pub(super) async fn quorum(url: &str, nodes: &[Node], longest: Duration, seen: &[Seen], findings: &mut Findings) {
    size(nodes.len(), findings);
    apart(
        Level::Error,
        "One server has several votes: alone it outvotes others, and when it is gone, so are they.",
        seen,
        findings,
    );
    ttl(longest, findings);
    compare(seen, findings);
    match Quorum::connect(url).await {
        Ok(quorum) => {
            voters(&quorum.status().await, longest, findings);
            members(quorum.members().await, nodes, findings);
        }
        Err(error) => {
            let why = "Without a majority no lock can be taken or renewed; holds end at their own deadline.";
            findings.add(
                Level::Error,
                "majority",
                error.to_string(),
                why,
                &["start the nodes that are away: see above"],
            );
        }
    }
}

/// Looks at a ring in the same way.
///
/// # Cancel safety
///
/// It only asks.
pub(super) async fn ring(url: &str, nodes: &[Node], seen: &[Seen], findings: &mut Findings) {
    apart(Level::Warning, "Keys are spread over names, and not over servers.", seen, findings);
    compare(seen, findings);
    match Ring::connect(url).await {
        Ok(ring) => {
            findings.ok("size", format!("{} nodes, each with its share of the names", nodes.len()));
            members(ring.quorum().members().await, nodes, findings);
        }
        Err(error) => {
            let why = "No lock can be taken or renewed.";
            findings.add(Level::Error, "open", error.to_string(), why, &["see the nodes above"]);
        }
    }
}

fn size(nodes: usize, findings: &mut Findings) {
    let survives = (nodes - 1) / 2;
    let found = format!("{nodes} nodes, of which {} decide: {survives} may be away", nodes / 2 + 1);
    let fix = ["three nodes, or five"];
    match nodes {
        1 | 2 => findings.add(Level::Warning, "size", found, "It stops when any one node is away.", &fix),
        _ if nodes.is_multiple_of(2) => {
            let why = "One node less would survive as much, and cost each acquisition less.";
            findings.add(Level::Note, "size", found, why, &["one node more, or one less"]);
        }
        _ => findings.ok("size", found),
    }
}

/// Whether two names lead to one server.
fn apart(level: Level, why: &str, seen: &[Seen], findings: &mut Findings) {
    let told: Vec<(&str, &str)> =
        seen.iter().filter_map(|one| Some((one.name.as_str(), one.run_id.as_deref()?))).collect();
    let mut is_same = false;
    for (i, (name, id)) in told.iter().enumerate() {
        if let Some((other, _)) = told[..i].iter().find(|(_, other)| other == id) {
            is_same = true;
            let found = format!("{other} and {name} are the same server");
            findings.add(level, "apart", found, why, &["give each node a server, and a machine, of its own"]);
        }
    }
    if !is_same && told.len() == seen.len() {
        findings.ok("apart", "each node is a server of its own");
    }
}

fn ttl(longest: Duration, findings: &mut Findings) {
    let found = format!("longest_ttl is {}", duration::text(longest));
    if longest >= USUAL_TTL {
        return findings.ok("longest-ttl", found);
    }
    let why = "A lock with a longer ttl is refused, and the usual ttl is 30s.";
    let fix = ["longest_ttl=60s in the URL of every client, the same in each, or a shorter ttl for every lock"];
    findings.add(Level::Note, "longest-ttl", found, why, &fix);
}

fn compare(seen: &[Seen], findings: &mut Findings) {
    let clocks: Vec<_> = seen.iter().filter_map(|one| Some((one.name.clone(), one.clock?))).collect();
    clocks::compare(&clocks, findings);
}

fn voters(nodes: &[NodeStatus], longest: Duration, findings: &mut Findings) {
    let voting = nodes.iter().filter(|node| node.up && node.votes).count();
    let young: Vec<&str> = nodes.iter().filter(|node| node.up && !node.votes).map(|node| node.name.as_str()).collect();
    let away: Vec<&str> = nodes.iter().filter(|node| !node.up).map(|node| node.name.as_str()).collect();
    let mut found = format!("{voting} of {} members vote", nodes.len());
    if !young.is_empty() {
        let longest = duration::text(longest);
        found += &format!(
            "; started less than {longest} ago, or not telling when, and without a vote until then: {}",
            young.join(", ")
        );
    }
    if !away.is_empty() {
        found += &format!("; away: {}", away.join(", "));
    }
    let fix = [
        "start those that are away; wait for those that were started lately",
        "appendfsync always    so that a restart costs no vote",
        "ACL SETUSER USER +info +config|get    where clients' users may not ask",
    ];
    match (voting > nodes.len() / 2, voting == nodes.len()) {
        (_, true) => findings.ok("votes", found),
        (true, false) => findings.add(Level::Note, "votes", found, "Locks go on; fewer further nodes may go.", &fix),
        (false, false) => {
            let why = "Those that vote are no majority: no lock can be taken or renewed for now.";
            findings.add(Level::Error, "votes", found, why, &fix);
        }
    }
}

fn members(members: tenure::Result<Members>, nodes: &[Node], findings: &mut Findings) {
    let members = match members {
        Ok(members) => members,
        Err(error) => {
            let why =
                "A client that cannot read who the members are stops granting within a view lease, 10s by default.";
            return findings.add(Level::Error, "members", error.to_string(), why, &["start the members that are away"]);
        }
    };
    if let Some(becoming) = &members.becoming {
        let found = format!(
            "a change is under way or was interrupted: {} to {}",
            members.members.join(", "),
            becoming.join(", ")
        );
        let why =
            "Until it ends, both the old and the new members have to agree: more nodes are needed, and waited for.";
        let fix = ["tenure quorum finish    or: tenure quorum undo"];
        return findings.add(Level::Warning, "members", found, why, &fix);
    }
    let named: Vec<&str> = nodes.iter().map(Node::name).collect();
    let is_named =
        named.len() == members.members.len() && members.members.iter().all(|name| named.contains(&name.as_str()));
    if is_named {
        return findings.ok("members", "as in the URL");
    }
    let found = format!("they are {}, and the URL names {}", members.members.join(", "), named.join(", "));
    let why = "Clients follow a change by themselves as long as enough of those in the URL remain to tell them of it.";
    let fix = format!("name the members in the URL: {}", members.members.join(","));
    findings.add(Level::Note, "members", found, why, &[&fix]);
}
