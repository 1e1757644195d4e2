//! Following the cluster: to the node that has the slot now, and not beyond what is certain.
//!
//! | the node's answer | what it says | what follows |
//! | --- | --- | --- |
//! | `MOVED` | another node has the slot; not carried out | that node is asked, and the map refreshed |
//! | `ASK` | the key is on its way to another node; not carried out | that node is asked, for this once |
//! | `TRYAGAIN`, `CLUSTERDOWN`, `LOADING` | not now; not carried out | asked again, for a second at most |
//! | no connection | not sent | the map is refreshed, and whoever has the slot then is asked |
//! | no reply | it may have been carried out | it is never sent again from here |

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};

use super::node::Node;
use super::topology::Topology;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::store::redis::slots::{Redirect, redirect};

/// The pauses between two attempts: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// So many redirections are followed without a pause.
const HOPS: u32 = 3;

/// What an answer says about where to ask.
enum Verdict {
    /// It is the answer.
    Final,
    To(Redirect),
    /// Not now, or not here.
    Later,
}

fn verdict(value: &Result<Value>, node: &Node) -> Verdict {
    match value {
        Ok(Value::ServerError(error)) => match error.code() {
            "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" => Verdict::Later,
            _ => redirect(error, &node.address.host).map_or(Verdict::Final, Verdict::To),
        },
        Err(error) if error.kind() == ErrorKind::Unavailable => Verdict::Later,
        Ok(_) | Err(_) => Verdict::Final,
    }
}

/// Asks until a node has answered for itself, for as long as `patience` after the first answer, which is `value` and came
/// from `node`. `command` is what is sent again; it is about a key of that slot.
///
/// # Errors
///
/// As [`Transport::one`](crate::store::redis::transport::Transport::one).
pub(super) async fn settle(
    (env, topology): (&Env, &Arc<Topology>),
    slot: u16,
    (mut node, mut value): (Arc<Node>, Result<Value>),
    command: impl Fn() -> Cmd,
    patience: Duration,
) -> Result<Value> {
    let deadline = env.now() + patience;
    let (mut hops, mut pause) = (0, PAUSE.0);
    loop {
        let (next, asking, in_haste) = match verdict(&value, &node) {
            Verdict::Final => {
                if value.is_err() {
                    // It may have failed for good, and the slot have another master soon.
                    topology.refresh();
                }
                return value;
            }
            Verdict::To(Redirect::Moved(address)) => {
                let next = topology.node(&address)?;
                topology.moved(slot, &next);
                topology.refresh();
                (Some(next), false, hops < HOPS)
            }
            Verdict::To(Redirect::Ask(address)) => (Some(topology.node(&address)?), true, hops < HOPS),
            Verdict::Later => {
                let mut refreshed = topology.refresh();
                let left = deadline - env.now();
                env.timeout(left.min(pause), refreshed.changed()).await;
                (None, false, false)
            }
        };
        hops += 1;
        if !in_haste {
            if deadline - env.now() < pause {
                return gave_up(value);
            }
            env.sleep(env.jitter(pause)).await;
            pause = (2 * pause).min(PAUSE.1);
        }
        node = next.or_else(|| topology.owner(slot)).unwrap_or(node);
        let command = command();
        value = match asking {
            true => node.collector.command_behind("ASKING", &command).await,
            false => node.collector.command(&command).await,
        };
    }
}

/// What the last answer says to whoever asks no more.
fn gave_up(value: Result<Value>) -> Result<Value> {
    match value {
        Ok(Value::ServerError(error)) if matches!(error.code(), "MOVED" | "ASK") => Err(Error::new(
            ErrorKind::Unavailable,
            format!("the nodes of the cluster send us from one to another, and none takes it: {error}; try again"),
        )),
        value => value,
    }
}
