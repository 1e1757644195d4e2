//! A quorum and a ring under a paused clock, in a network that fails as it is told to.
//!
//! Each rule has a test here that fails without it. What was planted, and what found it:
//!
//! | planted | found by |
//! | --- | --- |
//! | a majority is enough for a semaphore | `a_semaphore_never_has_more_in_than_its_permits` |
//! | one id for all attempts at a node | `a_release_that_arrives_late_ends_nothing_newer` |
//! | answers after the decision are not heard | `leaving`, `topping` |
//! | no quarantine after a restart | `a_node_that_forgot_has_no_vote_before_all_holds_that_it_knew_are_over` |
//! | a full vote after it | `a_node_that_forgot_takes_its_counter_back_from_others` |
//! | an outbid token is not raised; any tokens are agreement | `one_that_is_outbid_proposes_a_later_token_and_has_it` |
//! | no topping up | `a_bare_majority_is_topped_up_at_renewal_and_survives_the_loss_of_another` |
//! | no wait in the joint step; old members alone decide | `members`, `ring` |
//! | the old claim is not buried, or stays where nobody heard of a hand-over | `the_former_holders_renewals_bring_nothing_back` |
//! | a hand-over is begun beside another claim of the owner's | `what_an_owner_has_twice_is_left_as_it_is` |
//! | a hand-over is begun without a renewal | `leases_are_handed_over_while_their_keys_move` |
//! | the heir stays in where a hand-over failed | `a_hand_over_that_fails_half_way_leaves_one_owner_or_none` |
//! | members are read once | `a_client_that_slept_through_a_change_catches_up` |
//! | an undone change is finished; its end has no later epoch; who looks takes the lock; a watch listens anew at each call | `dropping` |
//!
//! Where chance is in play, `SEEDS` many seeds are tried, and a failure names
//! its seed: `TENURE_SEED=7 cargo test -p tenure --all-features --test quorum name_of_the_test` plays it again, alone.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod asking;
mod ballots;
mod contention;
mod dropping;
mod handing;
mod history;
mod leaving;
mod members;
mod network;
mod owners;
mod ring;
mod storm;
mod topping;

use std::sync::Arc;
use std::time::Duration;

use history::{History, release};
use network::{Fault, Link, Node};
use tenure::env::Env;
use tenure::proto::{Acquire, Claim, ClaimId, Op, Release};
use tenure::store::{Quorum, QuorumBuilder};
use tenure::{Key, Lock, Locks};
use tokio::time::{Instant, sleep};

/// How long a node's answer is awaited in these tests.
const LIMIT: Duration = Duration::from_millis(250);
/// The longest ttl, and how long a client goes by the members that it read.
const LONGEST: Duration = Duration::from_secs(10);
const LEASE: Duration = Duration::from_secs(2);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn nodes(n: usize) -> Vec<Node> {
    (0..n).map(|i| Node::new(format!("node-{i}"))).collect()
}

/// One process: its quorum, its clock and its links.
#[derive(Clone)]
struct Client {
    locks: Locks,
    quorum: Quorum,
    env: Env,
    links: Vec<Link>,
}

impl Client {
    /// A client of those nodes, whose randomness comes from that seed.
    fn of(nodes: &[Node], seed: u64) -> Self {
        Self::knowing(nodes, nodes, seed, |builder| builder)
    }

    /// One that begins with `members`, and can reach all of `nodes`.
    fn knowing(members: &[Node], nodes: &[Node], seed: u64, set: impl Fn(QuorumBuilder) -> QuorumBuilder) -> Self {
        let env = Env::simulated(seed);
        // Clocks agree unless a test sets them apart.
        env.skew(nodes[0].elapsed().as_micros() as i64);
        let links: Vec<Link> =
            nodes.iter().enumerate().map(|(i, node)| Link::to(node, seed * 100 + i as u64)).collect();
        let known = links.clone();
        let opener = move |name: String| {
            let link = known.iter().find(|link| link.node.name() == name).cloned();
            async move { Ok(Arc::new(link.expect("it is one of the test's")) as Arc<dyn tenure::store::Store>) }
        };
        let builder =
            Quorum::builder().node_timeout(LIMIT).longest_ttl(LONGEST).token_memory(LONGEST).view_lease(LEASE);
        let mut builder = set(builder.env(env.clone()).opener(opener));
        for link in links.iter().filter(|link| members.iter().any(|member| member.name() == link.node.name())) {
            builder = builder.node(link.node.name(), Arc::new(link.clone()));
        }
        let quorum = builder.build().unwrap();
        let locks = Locks::builder(Arc::new(quorum.clone())).env(env.clone()).build().unwrap();
        Self { locks, quorum, env, links }
    }

    fn mutex(&self, name: &str) -> Lock {
        self.locks.mutex(name).ttl(secs(5)).patience(secs(1)).build().unwrap()
    }

    fn delay(&self, delay: Duration) {
        self.links.iter().for_each(|link| link.delay(delay));
    }
}

/// An exclusive claim that does not wait, as somebody else makes it at one node.
fn stranger(id: u128, ttl: Duration, fence: u64) -> Op {
    Op::Acquire(Acquire {
        id: ClaimId::new(id << 8),
        claim: Claim::EXCLUSIVE,
        ttl,
        patience: Duration::ZERO,
        owner: None,
        max: 1,
        memory: secs(60),
        meta: Default::default(),
        fence,
    })
}

fn stranger_leaves(id: u128) -> Op {
    Op::Release(Release { id: ClaimId::new(id << 8), bury: Duration::ZERO, fence: 0 })
}

/// Asks until it is so; time goes on meanwhile.
async fn until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit, "within {limit:?} it did not come about that {what}");
        sleep(ms(1)).await;
    }
}

/// Says which seed it was, where a test fails.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            eprintln!("again: TENURE_SEED={} cargo test -p tenure --all-features --test quorum {name}", self.0);
        }
    }
}

/// Plays a test with many seeds, each in a runtime of its own whose clock is paused; or with one, `TENURE_SEED`.
fn seeds<F: Future<Output = ()>>(count: u64, play: impl Fn(u64) -> F) {
    let one: Option<u64> = std::env::var("TENURE_SEED").ok().map(|seed| seed.parse().expect("a seed is a number"));
    for seed in one.map_or(1..count + 1, |seed| seed..seed + 1) {
        let _told = Told(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(seed));
    }
}
