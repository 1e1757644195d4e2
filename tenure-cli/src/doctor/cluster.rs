//! Findings about a Redis Cluster: whether all slots are served, and whether each master has somebody to take over.

use tenure::inspect::{Answer, Server, Session};

use super::finding::{Findings, Level};

/// Asks the first node that answers; gives the masters.
///
/// # Cancel safety
///
/// It only asks.
pub(super) async fn judge(seeds: &[Server], findings: &mut Findings) -> Vec<Server> {
    let Some((seed, session)) = connect(seeds, findings).await else { return Vec::new() };
    let answers = session.ask_many(&[&["CLUSTER", "INFO"], &["CLUSTER", "NODES"]]).await;
    let (info, nodes) = match answers.as_deref() {
        Ok([Answer::Text(info), Answer::Text(nodes)]) => {
            (String::from_utf8_lossy(info), String::from_utf8_lossy(nodes))
        }
        other => {
            let found = format!("{} does not tell of its cluster: {other:?}", seed.name());
            let why = "Either it is no cluster, or this user may not ask; then only what locks need was tried.";
            let fix = ["redis:// where it is no cluster; else ACL SETUSER USER +cluster|info +cluster|nodes"];
            findings.add(Level::Warning, "cluster", found, why, &fix);
            return Vec::new();
        }
    };
    state(&info, findings);
    masters(seed, &nodes, findings)
}

async fn connect<'a>(seeds: &'a [Server], findings: &mut Findings) -> Option<(&'a Server, Session)> {
    let mut open = None;
    for seed in seeds {
        match seed.connect().await {
            Ok(session) => open = open.or(Some((seed, session))),
            Err(error) => {
                let why = "A client that finds none of the nodes in the URL does not find the cluster.";
                findings.add(Level::Warning, "seed", error.to_string(), why, &["start it, or name others in the URL"]);
            }
        }
    }
    open
}

fn state(info: &str, findings: &mut Findings) {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("?");
    let found = format!("state {}, {} of 16384 slots served", field("cluster_state"), field("cluster_slots_ok"));
    if (field("cluster_state"), field("cluster_slots_ok")) == ("ok", "16384") {
        return findings.ok("slots", found);
    }
    let why =
        "Locks in slots that nobody serves cannot be taken or renewed; with cluster-require-full-coverage yes, none.";
    findings.add(Level::Error, "slots", found, why, &["redis-cli --cluster check HOST:PORT    and: --cluster fix"]);
}

/// The masters with slots, as `CLUSTER NODES` has them: `id ip:port@bus[,host] flags master … slots`.
fn masters(seed: &Server, nodes: &str, findings: &mut Findings) -> Vec<Server> {
    let nodes: Vec<Vec<&str>> = nodes.lines().map(|line| line.split(' ').collect()).collect();
    let nodes: Vec<&Vec<&str>> = nodes.iter().filter(|fields| fields.len() >= 8).collect();
    let is_up = |fields: &[&str]| !fields[2].split(',').any(|flag| flag.starts_with("fail") || flag == "noaddr");
    for fields in nodes.iter().filter(|fields| !is_up(fields)) {
        let why = "If it is a master, its locks wait for a replica; if it is a replica, its master has one less.";
        let found = format!("{} is {}", fields[1], fields[2]);
        findings.add(Level::Warning, "node", found, why, &["start it, or: redis-cli --cluster del-node HOST:PORT ID"]);
    }
    let mut masters = Vec::new();
    let mut alone = Vec::new();
    for fields in nodes.iter().filter(|fields| fields[2].contains("master") && fields.len() > 8 && is_up(fields)) {
        let address = fields[1].split(['@', ',']).next().unwrap_or_default();
        let Some((host, port)) = address.rsplit_once(':') else { continue };
        if !nodes.iter().any(|other| other[3] == fields[0] && is_up(other)) {
            alone.push(address);
        }
        if let Ok(port) = port.parse() {
            masters.push(if host.is_empty() { seed.clone() } else { seed.at(host, port) });
        }
    }
    match alone.as_slice() {
        [] => findings.ok("spares", format!("{} masters, each with a replica", masters.len())),
        _ => {
            let found = format!("no replica: {}", alone.join(", "));
            let why = "When that master is gone, its slots are, too, and every lock in them.";
            let fix = ["redis-cli --cluster add-node NEW:PORT HOST:PORT --cluster-slave"];
            findings.add(Level::Warning, "spares", found, why, &fix);
        }
    }
    masters
}
