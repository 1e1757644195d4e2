//! Many operations at once: one write per node, the nodes in parallel, and nobody waits for a node that hangs.
//!
//! ```text
//!   node 1 ├──── answers ────┤
//!   node 2 ├───── answers ─────┤
//!   node 3 ├────────────────────────── … eight times as long as is usual for it, and longer than twice what
//!                                        the others took: its operations are given up as without a reply
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::Value;

use super::node::Node;
use super::route::settle;
use super::topology::Topology;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::store::redis::script::{Call, Dialect, command_in};
use crate::store::redis::slots::slot_of;

/// For how long a batch goes on about the operations that no node has answered for itself. Whoever sends many tries
/// again, and should not wait for the few.
const PATIENCE: Duration = Duration::from_millis(200);

/// What one node has of a batch.
struct Share {
    node: Arc<Node>,
    /// The places of these calls in the batch.
    places: Vec<usize>,
    calls: Vec<Call>,
}

/// Carries out calls wherever their slots are; the answers come in their order.
pub(super) async fn call_many(env: &Env, topology: &Arc<Topology>, calls: Vec<Call>) -> Vec<Result<Value>> {
    let mut answers: Vec<Option<Result<Value>>> = calls.iter().map(|_| None).collect();
    let mut shares: HashMap<_, Share> = HashMap::new();
    for (place, call) in calls.into_iter().enumerate() {
        let Some(node) = topology.owner(slot_of(call.key())) else {
            topology.refresh();
            answers[place] = Some(Err(nobody(slot_of(call.key()))));
            continue;
        };
        let share = shares.entry(node.address.clone());
        let share = share.or_insert_with(|| Share { node, places: Vec::new(), calls: Vec::new() });
        share.places.push(place);
        share.calls.push(call);
    }
    let shares: Vec<Share> = shares.into_values().collect();
    let values = ask(env, &shares).await;
    let settled = shares.iter().zip(values).flat_map(|(share, values)| {
        share.places.iter().zip(&share.calls).zip(values).map(async |((place, call), value)| {
            let again = || command_in(Dialect::Shard, &[call]);
            let first = (share.node.clone(), value);
            (*place, settle((env, topology), slot_of(call.key()), first, again, PATIENCE).await)
        })
    });
    for (place, value) in join_all(settled).await {
        answers[place] = Some(value);
    }
    answers.into_iter().map(|answer| answer.expect("each place is in one share")).collect()
}

/// Asks each node for its share. Once one has answered, the others have a time limit, by what is usual for them.
async fn ask(env: &Env, shares: &[Share]) -> Vec<Vec<Result<Value>>> {
    let sent = env.now();
    let mut answers: Vec<Option<Vec<Result<Value>>>> = shares.iter().map(|_| None).collect();
    let asked = async |n: usize| (n, shares[n].node.collector.call_many(&shares[n].calls).await);
    let mut asked: FuturesUnordered<_> = (0..shares.len()).map(asked).collect();
    while !asked.is_empty() {
        let out = || shares.iter().zip(&answers).filter(|(_, answer)| answer.is_none()).map(|(share, _)| &share.node);
        let next = if out().count() == shares.len() {
            asked.next().await
        } else {
            let grace = out().map(|node| node.grace()).max().unwrap_or_default();
            let since = env.now() - sent;
            env.timeout(grace.max(2 * since).saturating_sub(since), asked.next()).await.flatten()
        };
        let Some((n, values)) = next else { break };
        if values.iter().any(Result::is_ok) {
            shares[n].node.took(env.now() - sent);
        }
        answers[n] = Some(values);
    }
    drop(asked);
    let silent = |share: &Share| {
        let message = format!(
            "Redis at {} took much longer than the cluster's other nodes; the command may have been carried out",
            share.node.name
        );
        vec![Err(Error::new(ErrorKind::NoReply, message)); share.calls.len()]
    };
    answers.into_iter().zip(shares).map(|(answer, share)| answer.unwrap_or_else(|| silent(share))).collect()
}

/// Nobody is known to have a slot.
pub(super) fn nobody(slot: u16) -> Error {
    let message = format!("no node of the cluster is known to have slot {slot}: see CLUSTER INFO");
    Error::new(ErrorKind::Unavailable, message)
}
