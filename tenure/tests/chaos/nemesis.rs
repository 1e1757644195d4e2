//! What is done to a deployment, where it can be done, and whether holds may overlap then.

use std::fmt;
use std::time::Duration;

use crate::topology::{LONGEST, Topology};

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nemesis {
    Calm,
    StopNode,
    StopMinority,
    StopClientShort,
    StopClientLong,
    KillKeep,
    KillStale,
    KillEmpty,
    PartitionFull,
    PartitionOneway,
    PartitionMinority,
    PartitionSplit,
    LoseReply,
    Delay,
    ClockJump,
    ClockRate,
    ScriptFlush,
    Members,
    Failover,
    FailoverLagging,
    MasterReturns,
    SlotMigration,
}

/// What a node keeps of what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// All that it acknowledged.
    Always,
    /// The same, with a clock that can be wrong.
    Clock,
    /// What was written some time ago.
    Late,
    None,
}

use Nemesis::*;

const KINDS: &[(Nemesis, &str, &str)] = &[
    (Calm, "calm", "nothing at all"),
    (StopNode, "stop-node", "SIGSTOP of one node, for up to twice the ttl"),
    (StopMinority, "stop-minority", "SIGSTOP of as many nodes as may fail"),
    (StopClientShort, "stop-client-short", "SIGSTOP of a process of clients, for less than the ttl"),
    (StopClientLong, "stop-client-long", "the same for longer than the ttl"),
    (KillKeep, "kill-keep", "kill -9 of a node, restarted with all that it acknowledged"),
    (KillStale, "kill-stale", "kill -9 of a node, restarted with an older copy of its files"),
    (KillEmpty, "kill-empty", "kill -9 of a node, restarted with nothing"),
    (PartitionFull, "partition-full", "one node cannot be reached, nor answer"),
    (PartitionOneway, "partition-oneway", "one node's requests or its replies do not come through"),
    (PartitionMinority, "partition-minority", "as many nodes as may fail cannot be reached, nor answer"),
    (PartitionSplit, "partition-split", "every other connection to each node hangs: clients see different nodes fail"),
    (LoseReply, "lose-reply", "replies are lost after the node carried out the request, with their connection"),
    (Delay, "delay", "everything takes longer, up to twice the ttl"),
    (ClockJump, "clock-jump", "a node's clock is set a minute ahead, a minute behind and right again"),
    (ClockRate, "clock-rate", "a node's clock goes at 0.5 to 2 times the right rate"),
    (ScriptFlush, "script-flush", "SCRIPT FLUSH on every node"),
    (Members, "members", "a node becomes a member and leaves again, while locks are held"),
    (Failover, "failover", "a replica takes over in order, as an administrator asks for it"),
    (FailoverLagging, "failover-lagging", "a master is killed while a replica has not heard of its last second"),
    (MasterReturns, "master-returns", "a master stands still until another one has taken over, and goes on"),
    (SlotMigration, "slot-migration", "the slot of a lock moves to another master, key by key"),
];

impl Nemesis {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        KINDS.iter().map(|(nemesis, ..)| *nemesis)
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::all().find(|nemesis| nemesis.name() == name)
    }

    fn row(self) -> &'static (Nemesis, &'static str, &'static str) {
        KINDS.iter().find(|(nemesis, ..)| *nemesis == self).expect("each has a row")
    }

    pub(crate) fn name(self) -> &'static str {
        self.row().1
    }

    pub(crate) fn does(self) -> &'static str {
        self.row().2
    }

    /// Whether it can be done to such a deployment.
    pub(crate) fn fits(self, topology: Topology) -> bool {
        match self {
            StopMinority | PartitionMinority => topology.minority() > 0,
            Members => topology.is_voting(),
            Failover | FailoverLagging | MasterReturns => topology.fails_over(),
            SlotMigration => topology == Topology::Cluster,
            Calm | StopNode | StopClientShort | StopClientLong | ScriptFlush => true,
            // Their servers know each other by their own ports, and keep nothing on disk.
            _ => !topology.fails_over(),
        }
    }

    pub(crate) fn disk(self) -> Disk {
        match self {
            KillStale => Disk::Late,
            KillEmpty => Disk::None,
            ClockJump | ClockRate => Disk::Clock,
            _ => Disk::Always,
        }
    }

    /// How much longer than others it waits before it strikes again.
    pub(crate) fn calm_after(self, topology: Topology) -> Duration {
        match self {
            KillStale | KillEmpty if topology.is_voting() => LONGEST + Duration::from_secs(1),
            _ => Duration::ZERO,
        }
    }

    /// Why holds may overlap, where it breaks what the topology assumes.
    pub(crate) fn breaks(self, topology: Topology) -> Option<&'static str> {
        match (self, topology) {
            (KillStale | KillEmpty, Topology::Single) => Some("the server loses what it acknowledged"),
            (StopNode | FailoverLagging | MasterReturns, Topology::SentinelAsync | Topology::Cluster)
            | (Failover, Topology::SentinelAsync) => Some("a replica need not have what was acknowledged"),
            // The old master goes on for as long as the replica that follows it still.
            (StopNode | Failover | FailoverLagging | MasterReturns, Topology::SentinelOne) => {
                Some("another replica may have acknowledged it than the one that takes over")
            }
            (ClockJump | ClockRate, _) => Some("a node's clock is not right to a hundredth of a ttl"),
            _ => None,
        }
    }
}

impl fmt::Display for Nemesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
