//! When the answers of some nodes are the answer of them all.
//!
//! Two sets of nodes that each carry a vote have a node in common, and a node lets nobody in beside a claim that
//! excludes them, nor under a token that is not later than its last. So two holds overlap at no time, and of two tokens
//! that were carried the later is the one that was granted later.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// Some nodes, by number, and how many of them must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The nodes.
    pub members: Vec<usize>,
    /// How many of them are enough.
    pub votes: usize,
}

/// Who decides: every group must agree. There are two while one set of members gives way to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Electorate(pub Vec<Group>);

impl Electorate {
    /// Whether those nodes together carry a vote.
    pub fn is_carried_by(&self, is_for: impl Fn(usize) -> bool) -> bool {
        self.0.iter().all(|group| group.members.iter().filter(|node| is_for(**node)).count() >= group.votes)
    }

    /// Every node that has a vote, once.
    pub fn nodes(&self) -> Vec<usize> {
        let mut nodes: Vec<usize> = self.0.iter().flat_map(|group| group.members.iter().copied()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Whether, of what every set that carries a vote has in common with the nodes that remember it, somebody was asked:
    /// more nodes than can be missing from such a set.
    pub fn is_known_by(&self, was_asked: impl Fn(usize) -> bool) -> bool {
        let known = |group: &Group| {
            let asked = group.members.iter().filter(|node| was_asked(**node)).count();
            asked + group.votes > group.members.len()
        };
        self.0.iter().all(known)
    }
}

/// How many of `nodes` must agree on a claim of a lock of `limit` permits.
///
/// Each node counts for itself, so `limit + 1` permits could be held if as many claims could each gather `v` of the `nodes ·
/// limit` votes there are: `(limit + 1) · v` has to be more than that. For one permit, and for claims that exclude each
/// other whatever the limit, that is the majority.
pub fn votes_needed(nodes: usize, limit: u32) -> usize {
    let limit = if limit == super::Claim::ALL { 1 } else { limit as usize };
    nodes * limit / (limit + 1) + 1
}

/// How much a key prefers a node of that weight: the one with the highest number is its first choice, for everybody and in
/// every version. Who adds or takes away a node changes nobody's choice between the others, and a node's share of the keys
/// is that of its weight (rendezvous hashing: Thaler and Ravishankar, 1998; with weights: Schindelhauer and Schomaker,
/// 2005).
pub fn preference(key: &str, node: &str, weight: u32) -> f64 {
    let mut hasher = SipHasher13::new();
    hasher.write(node.as_bytes());
    hasher.write_u8(0xff);
    hasher.write(key.as_bytes());
    // Between 0 and 1, without either: as many bits as a double has.
    let draw = ((hasher.finish() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(weight) / draw.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Claim;

    #[test]
    fn no_limit_can_be_passed_by_as_many_votes_as_there_are() {
        for nodes in 1..=9 {
            for limit in 1..=20 {
                let votes = votes_needed(nodes, limit);
                assert!(votes <= nodes, "it can be had at all");
                assert!((limit as usize + 1) * votes > nodes * limit as usize, "{nodes} nodes, {limit} permits");
            }
        }
        assert_eq!(
            (votes_needed(5, Claim::ALL), votes_needed(5, 1), votes_needed(5, 2), votes_needed(4, 1)),
            (3, 3, 4, 3)
        );
    }

    #[test]
    fn two_sets_that_carry_a_vote_meet() {
        let joint = Electorate(vec![
            Group { members: vec![0, 1, 2], votes: 2 },
            Group { members: vec![1, 2, 3, 4, 5], votes: 3 },
        ]);
        let carries = |set: u32, who: &Electorate| who.is_carried_by(|node| set >> node & 1 == 1);
        let (old, new) = (Electorate(joint.0[..1].to_vec()), Electorate(joint.0[1..].to_vec()));
        for a in 0..64 {
            for b in (0..64).filter(|b| a & b == 0) {
                assert!(!(carries(a, &joint) && carries(b, &joint)));
                assert!(!(carries(a, &joint) && carries(b, &old)), "before the change");
                assert!(!(carries(a, &joint) && carries(b, &new)), "and after it");
            }
        }
    }

    #[test]
    fn who_asks_enough_hears_of_every_vote() {
        for nodes in 1..=7_usize {
            let who = Electorate(vec![Group { members: (0..nodes).collect(), votes: votes_needed(nodes, 1) }]);
            for asked in 0..1 << nodes {
                let knows = who.is_known_by(|node| asked >> node & 1 == 1);
                let missed =
                    (0..1 << nodes).any(|set: u32| set & asked == 0 && who.is_carried_by(|node| set >> node & 1 == 1));
                assert_eq!(knows, !missed);
            }
        }
    }
}
