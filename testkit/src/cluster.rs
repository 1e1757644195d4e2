//! A Redis Cluster: three masters with a replica each, on free loopback ports.

use std::time::{Duration, Instant};

use crate::tls::Certificates;
use crate::{Redis, free_port};

/// Six servers: the nodes 0, 1 and 2 begin as masters of a third of the slots each, 3, 4 and 5 as their replicas.
#[derive(Debug)]
pub struct Cluster {
    /// The servers, each of which may be killed, paused and asked alone.
    pub nodes: Vec<Redis>,
    /// Where the nodes speak TLS: the authority, and their ports for it.
    tls: Option<(Certificates, Vec<u16>)>,
}

/// The slots that the masters begin with: the first, and the one after the last.
const SHARES: [(u16, u16); 3] = [(0, 5_461), (5_461, 10_923), (10_923, 16_384)];

/// How long anything that takes time in a cluster may take here.
const PATIENCE: Duration = Duration::from_secs(30);

impl Cluster {
    /// Starts the cluster, and waits until every node serves and every replica is in step.
    ///
    /// A node that does not answer for a second is taken for dead by the others.
    pub fn start() -> Self {
        Self::start_with_timeout(1_000)
    }

    /// The same with another `cluster-node-timeout` in milliseconds: a longer one for a machine that has much else to do.
    pub fn start_with_timeout(millis: u64) -> Self {
        Self::start_as(millis, None)
    }

    /// The same as `start`, with nodes that speak TLS to each other, and to clients on a second port each.
    pub fn start_with_tls() -> Self {
        let ports = (0..6).map(|_| free_port()).collect();
        Self::start_as(1_000, Some((Certificates::new(), ports)))
    }

    fn start_as(millis: u64, tls: Option<(Certificates, Vec<u16>)>) -> Self {
        let secure = |n: usize| tls.as_ref().map(|(tls, ports)| tls.options(ports[n])).unwrap_or_default();
        let nodes: Vec<Redis> = (0..6).map(|n| node(millis, &secure(n))).collect();
        let cluster = Self { nodes, tls };
        for (n, node) in cluster.nodes.iter().enumerate() {
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]);
        }
        for (node, (first, end)) in cluster.nodes.iter().zip(SHARES) {
            let (first, last) = (first.to_string(), (end - 1).to_string());
            assert_eq!(node.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]), "");
        }
        for (node, port) in cluster.nodes.iter().zip(cluster.ports()).skip(1) {
            let (port, bus) = (port.to_string(), bus_of(node));
            cluster.ok(0, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        cluster.until("everyone knows everyone", |node| {
            node.command(&["CLUSTER", "NODES"]).matches(" connected").count() == 6
        });
        for n in 3..6 {
            let master = cluster.id(n - 3);
            until("the master is known", || cluster.nodes[n].command(&["CLUSTER", "REPLICATE", &master]).is_empty());
        }
        cluster
            .until("the replicas are known", |node| node.command(&["CLUSTER", "NODES"]).matches("slave ").count() == 3);
        cluster.until_whole();
        cluster
    }

    /// `redis-cluster://127.0.0.1:port,…`, with the masters that it began with; over TLS `rediss-cluster://`, with the
    /// authority's file.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.ports()[..3].iter().map(|port| format!("127.0.0.1:{port}")).collect();
        match &self.tls {
            None => format!("redis-cluster://{}", hosts.join(",")),
            Some((tls, _)) => format!("rediss-cluster://{}?ca={}", hosts.join(","), tls.ca().display()),
        }
    }

    /// The ports by which nodes and clients reach each other.
    fn ports(&self) -> Vec<u16> {
        match &self.tls {
            None => self.nodes.iter().map(Redis::port).collect(),
            Some((_, ports)) => ports.clone(),
        }
    }

    /// The name that a node has within the cluster.
    pub fn id(&self, node: usize) -> String {
        text(&self.nodes[node].command(&["CLUSTER", "MYID"]))
    }

    /// The slot of a key or channel.
    pub fn slot(&self, key: &str) -> u16 {
        let reply = self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]);
        reply.trim().trim_start_matches(':').parse().expect("a slot is a number")
    }

    /// Which node is the master of a slot, as the first one that runs sees it.
    pub fn master_of(&self, slot: u16) -> usize {
        let seen = self.nodes.iter().find_map(|node| node.try_command(&["CLUSTER", "NODES"]).ok());
        let seen = seen.expect("a node answers");
        let holds = |line: &&str| {
            let fields: Vec<&str> = line.split(' ').collect();
            fields.len() > 8
                && fields[2].contains("master")
                && fields[8..].iter().any(|range| {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    let range = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
                    range.is_some_and(|(first, last)| (first..=last).contains(&slot))
                })
        };
        let line = seen.lines().map(|line| line.trim_start_matches("txt:")).find(holds).expect("the slot has a master");
        let address = line.split(' ').nth(1).and_then(|address| address.split('@').next()).expect("it has an address");
        let port = |node: &Redis| address.ends_with(&format!(":{}", node.port()));
        self.nodes.iter().position(port).expect("it is one of ours")
    }

    /// Begins to move a slot: from here on keys that are not there are looked for at the target.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let text = slot.to_string();
        self.ok(to, &["CLUSTER", "SETSLOT", &text, "IMPORTING", &self.id(from)]);
        self.ok(from, &["CLUSTER", "SETSLOT", &text, "MIGRATING", &self.id(to)]);
    }

    /// Takes the keys of a slot that is on the move to the target.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let (slot, port) = (slot.to_string(), self.nodes[to].port().to_string());
        let keys = self.nodes[from].command(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]);
        let keys: Vec<&str> =
            keys.split("\r\n").filter(|line| !line.is_empty() && !line.starts_with(['*', '$'])).collect();
        if !keys.is_empty() {
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            migrate.extend(keys);
            self.ok(from, &migrate);
        }
    }

    /// Ends the move of a slot: it is the target's.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        let (slot, id) = (slot.to_string(), self.id(to));
        for node in [to, from] {
            self.ok(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        }
    }

    /// Waits until every node that answers sees a cluster that serves, with every slot's master known and every replica
    /// in step.
    pub fn until_whole(&self) {
        self.until("the cluster serves", |node| {
            let info = node.command(&["CLUSTER", "INFO"]);
            let replication = node.command(&["INFO", "replication"]);
            let in_step = replication.contains("role:master") || replication.contains("master_link_status:up");
            info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384") && in_step
        });
    }

    /// Waits until it is so for every node that answers.
    pub fn until(&self, what: &str, is_so: impl Fn(&Redis) -> bool) {
        let running = |node: &&Redis| node.try_command(&["PING"]).is_ok();
        until(what, || self.nodes.iter().filter(running).all(&is_so));
    }

    fn ok(&self, node: usize, command: &[&str]) {
        assert_eq!(self.nodes[node].command(command), "", "{command:?}");
    }
}

fn node(millis: u64, tls: &[String]) -> Redis {
    let (bus, millis) = (free_port().to_string(), millis.to_string());
    let mut options = vec!["--cluster-enabled", "yes", "--cluster-node-timeout", &millis, "--cluster-port", &bus];
    options.extend(["--repl-diskless-sync-delay", "0", "--cluster-allow-replica-migration", "no"]);
    if !tls.is_empty() {
        options.extend(["--tls-cluster", "yes", "--tls-replication", "yes"]);
    }
    options.extend(tls.iter().map(String::as_str));
    Redis::start_with(&options)
}

fn bus_of(node: &Redis) -> String {
    let port = node.command(&["CONFIG", "GET", "cluster-port"]);
    port.lines().last().expect("the option is there").to_owned()
}

/// What a bulk reply says.
fn text(reply: &str) -> String {
    reply.lines().nth(1).expect("a bulk reply has two lines").to_owned()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came about that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
