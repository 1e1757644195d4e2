//! The deployments that are tried: real servers, each behind a network of its own.

use std::fmt;
use std::time::Duration;

use testkit::{Clock, Link, Redis};

use crate::nemesis::{Disk, Nemesis};

/// How the store is made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    Single,
    Quorum3,
    Quorum5,
    Ring3,
}

/// The longest ttl that quorum and ring are told of: a node that lost its memory has no vote for as long.
pub(crate) const LONGEST: Duration = Duration::from_secs(2);

impl Topology {
    pub(crate) const ALL: [Self; 4] = [Self::Single, Self::Quorum3, Self::Quorum5, Self::Ring3];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Quorum3 => "quorum3",
            Self::Quorum5 => "quorum5",
            Self::Ring3 => "ring3",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topology| topology.name() == name)
    }

    /// How many nodes it begins with.
    pub(crate) fn nodes(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Quorum3 | Self::Ring3 => 3,
            Self::Quorum5 => 5,
        }
    }

    /// How many nodes may fail without anybody noticing.
    pub(crate) fn minority(self) -> usize {
        match self {
            Self::Quorum3 | Self::Quorum5 => (self.nodes() - 1) / 2,
            Self::Single | Self::Ring3 => 0,
        }
    }

    pub(crate) fn is_voting(self) -> bool {
        self != Self::Single
    }

    /// How long it may take after healing until everybody has had a lock.
    pub(crate) fn recovers_in(self) -> Duration {
        // A ttl for what is left of former holds, twice a wait, and for restarted nodes the time without a vote.
        let votes = if self.is_voting() { LONGEST + Duration::from_secs(2) } else { Duration::ZERO };
        Duration::from_secs(11) + votes
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
    /// The members to begin with, and then those that may become one.
    pub(crate) nodes: Vec<Node>,
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
        let spare = usize::from(nemesis == Nemesis::Members);
        let nodes: Vec<Node> = (0..topology.nodes() + spare).map(|_| Node::start(nemesis.disk())).collect();
        let hosts: Vec<String> = nodes[..topology.nodes()].iter().map(Node::name).collect();
        let hosts = hosts.join(",");
        let (longest, lease) = (LONGEST.as_millis(), LONGEST.as_millis() / 2);
        let options = format!("longest_ttl={longest}ms&view_lease={lease}ms");
        let url = match topology {
            Topology::Single => format!("redis://{hosts}"),
            Topology::Quorum3 | Topology::Quorum5 => format!("redlock://{hosts}?{options}"),
            Topology::Ring3 => format!("ring://{hosts}?{options}"),
        };
        if topology.is_voting() && !matches!(nemesis.disk(), Disk::Always | Disk::Clock) {
            // Who may have lost its memory votes after a longest ttl, which is counted in whole seconds.
            std::thread::sleep(LONGEST + Duration::from_millis(1_500));
        }
        Self { topology, nodes, url }
    }

    /// Nothing is wrong any more.
    pub(crate) fn heal(&mut self) {
        for node in &mut self.nodes {
            node.server.resume();
            node.link.heal();
            if let Some(clock) = &mut node.clock {
                clock.set(0, 1.0);
            }
        }
    }

    /// The keys that never expire, on any node.
    pub(crate) fn eternal(&self) -> Vec<String> {
        let keys = |node: &Node| node.server.command(&["EVAL", ETERNAL, "0"]);
        let keys = self.nodes.iter().map(keys).filter(|keys| !keys.trim_end().ends_with('0'));
        keys.collect()
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

    /// What the server tells of itself.
    pub(crate) fn info(&self, section: &str, field: &str) -> String {
        let info = self.server.command(&["INFO", section]);
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    }
}

/// Names the keys without an expiry after which `0` stands, or is alone.
const ETERNAL: &str = "local cursor, found = '0', {}
repeat
  local page = redis.call('SCAN', cursor, 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    if redis.call('PTTL', key) == -1 then found[#found + 1] = key end
  end
until cursor == '0'
return #found == 0 and '0' or table.concat(found, ' ') .. ' (no expiry)'";
