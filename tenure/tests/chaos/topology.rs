//! The deployments that are tried: real servers, each behind a network of its own.

use std::fmt;
use std::time::Duration;

use testkit::{Clock, Cluster, Link, Redis, SentinelGroup};

use crate::nemesis::{Disk, Nemesis};

/// How the store is made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    Single,
    Quorum3,
    Quorum5,
    Ring3,
    /// A master and two replicas, both of which have what is granted: `replicas=2`.
    Sentinel,
    /// The same where one of the two has it: `replicas=1`.
    SentinelOne,
    /// The same where none has to have it.
    SentinelAsync,
    /// Three masters with a replica each.
    Cluster,
}

/// The longest ttl that quorum and ring are told of: a node that lost its memory has no vote for as long.
pub(crate) const LONGEST: Duration = Duration::from_secs(2);

impl Topology {
    pub(crate) const ALL: [Self; 8] = [
        Self::Single,
        Self::Quorum3,
        Self::Quorum5,
        Self::Ring3,
        Self::Sentinel,
        Self::SentinelOne,
        Self::SentinelAsync,
        Self::Cluster,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Quorum3 => "quorum3",
            Self::Quorum5 => "quorum5",
            Self::Ring3 => "ring3",
            Self::Sentinel => "sentinel",
            Self::SentinelOne => "sentinel-one",
            Self::SentinelAsync => "sentinel-async",
            Self::Cluster => "cluster",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topology| topology.name() == name)
    }

    /// How many nodes with data it begins with.
    pub(crate) fn nodes(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Quorum3 | Self::Ring3 | Self::Sentinel | Self::SentinelOne | Self::SentinelAsync => 3,
            Self::Quorum5 => 5,
            Self::Cluster => 6,
        }
    }

    /// How many nodes may fail without anybody noticing.
    pub(crate) fn minority(self) -> usize {
        match self {
            Self::Quorum3 | Self::Quorum5 => (self.nodes() - 1) / 2,
            _ => 0,
        }
    }

    /// Whether the nodes know nothing of each other, and the clients go by the members.
    pub(crate) fn is_voting(self) -> bool {
        matches!(self, Self::Quorum3 | Self::Quorum5 | Self::Ring3)
    }

    /// For how long tokens are remembered: short where a change of members takes as long.
    pub(crate) fn memory(self) -> Duration {
        if self.is_voting() { LONGEST / 2 } else { Duration::from_secs(60) }
    }

    /// Whether it has replicas that take over.
    pub(crate) fn fails_over(self) -> bool {
        matches!(self, Self::Sentinel | Self::SentinelOne | Self::SentinelAsync | Self::Cluster)
    }

    /// How long it may take after healing until everybody has had a lock.
    pub(crate) fn recovers_in(self) -> Duration {
        // A ttl for what is left of former holds, twice a wait, and for restarted nodes the time without a vote.
        let votes = if self.is_voting() { LONGEST + Duration::from_secs(2) } else { Duration::ZERO };
        // And until replicas have taken over.
        let failover = if self.fails_over() { Duration::from_secs(10) } else { Duration::ZERO };
        Duration::from_secs(11) + votes + failover
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Servers that run; they go with this value.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) topology: Topology,
    /// The members to begin with, and then those that may become one; none where they are one of the following.
    pub(crate) nodes: Vec<Node>,
    pub(crate) sentinel: Option<SentinelGroup>,
    pub(crate) cluster: Option<Cluster>,
    pub(crate) url: String,
}

/// A server and the way to it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) server: Redis,
    pub(crate) link: Link,
    pub(crate) clock: Option<Clock>,
}

impl Deployment {
    /// Starts what this nemesis needs of such a store.
    pub(crate) fn start(topology: Topology, nemesis: Nemesis) -> Self {
        if topology.fails_over() {
            return Self::start_with_replicas(topology);
        }
        let spare = usize::from(nemesis == Nemesis::Members);
        let nodes: Vec<Node> = (0..topology.nodes() + spare).map(|_| Node::start(nemesis.disk())).collect();
        let hosts: Vec<String> = nodes[..topology.nodes()].iter().map(Node::name).collect();
        let hosts = hosts.join(",");
        let (longest, lease) = (LONGEST.as_millis(), LONGEST.as_millis() / 2);
        let options = format!("longest_ttl={longest}ms&view_lease={lease}ms&token_memory={lease}ms");
        let url = match topology {
            Topology::Single => format!("redis://{hosts}"),
            Topology::Quorum3 | Topology::Quorum5 => format!("redlock://{hosts}?{options}"),
            _ => format!("ring://{hosts}?{options}"),
        };
        if topology.is_voting() && !matches!(nemesis.disk(), Disk::Always | Disk::Clock) {
            // Who may have lost its memory votes after a longest ttl, which is counted in whole seconds.
            std::thread::sleep(LONGEST + Duration::from_millis(1_500));
        }
        Self { topology, nodes, sentinel: None, cluster: None, url }
    }

    fn start_with_replicas(topology: Topology) -> Self {
        if topology == Topology::Cluster {
            let cluster = Cluster::start();
            let url = cluster.url();
            return Self { topology, nodes: Vec::new(), sentinel: None, cluster: Some(cluster), url };
        }
        let group = SentinelGroup::start();
        let replicas = match topology {
            Topology::Sentinel => "?replicas=2",
            Topology::SentinelOne => "?replicas=1",
            _ => "",
        };
        let url = group.url() + replicas;
        Self { topology, nodes: Vec::new(), sentinel: Some(group), cluster: None, url }
    }

    /// All servers with data.
    pub(crate) fn servers(&self) -> Vec<&Redis> {
        let grouped = self.sentinel.iter().flat_map(|group| &group.nodes);
        let grouped = grouped.chain(self.cluster.iter().flat_map(|cluster| &cluster.nodes));
        self.nodes.iter().map(|node| &node.server).chain(grouped).collect()
    }

    /// One of the servers of a group or a cluster.
    pub(crate) fn grouped(&mut self, n: usize) -> &mut Redis {
        match (&mut self.sentinel, &mut self.cluster) {
            (Some(group), _) => &mut group.nodes[n],
            (_, Some(cluster)) => &mut cluster.nodes[n],
            _ => &mut self.nodes[n].server,
        }
    }

    /// Nothing is wrong any more.
    pub(crate) fn heal(&mut self) {
        self.servers().into_iter().for_each(Redis::resume);
        for node in &mut self.nodes {
            node.link.heal();
            if let Some(clock) = &mut node.clock {
                clock.set(0, 1.0);
            }
        }
    }

    /// The keys that never expire, on any node.
    ///
    /// One by one: within a cluster a script may not look at all.
    pub(crate) fn eternal(&self) -> Vec<String> {
        let keys = |server: &Redis| -> Vec<String> {
            let all = server.command(&["KEYS", "*"]);
            let names = all.lines().filter(|line| !line.starts_with(['*', '$']));
            names.filter(|name| server.command(&["PTTL", name]).trim() == ":-1").map(str::to_owned).collect()
        };
        self.servers().into_iter().flat_map(keys).collect()
    }
}

impl Drop for Deployment {
    /// A server that stands still could not be asked what it leaves behind.
    fn drop(&mut self) {
        self.heal();
    }
}

impl Node {
    fn start(disk: Disk) -> Self {
        let clock = (disk == Disk::Clock).then(Clock::new);
        let server = match (&clock, disk) {
            (Some(clock), _) => Redis::start_by_clock(clock),
            (None, Disk::Late) => Redis::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"]),
            (None, Disk::None) => Redis::start(),
            (None, Disk::Always | Disk::Clock) => Redis::start_durable(),
        };
        let link = Link::to(server.port());
        Self { server, link, clock }
    }

    /// Under which all clients know it.
    pub(crate) fn name(&self) -> String {
        format!("127.0.0.1:{}", self.link.port())
    }
}

/// What a server tells of itself.
pub(crate) fn info(server: &Redis, section: &str, field: &str) -> String {
    let info = server.command(&["INFO", section]);
    let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap_or_default().trim().to_owned()
}
