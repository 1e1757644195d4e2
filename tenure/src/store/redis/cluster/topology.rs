//! Which nodes the cluster has, and which of them has which slot, as far as is known.
//!
//! ```text
//!   a node: MOVED ───────▶ that slot is corrected at once ─┐
//!   a node: lost, down ────────────────────────────────────┴─▶ refresh: all masters are asked for the map; the newest
//!                                                              one counts; again at once, then ever more seldom
//! ```

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::Pipeline;
use tokio::sync::watch;

use super::node::Node;
use crate::env::{Env, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::store::redis::errors;
use crate::store::redis::slots::{Range, SLOTS, ranges};
use crate::store::redis::transport::Transport;
use crate::store::redis::url::Address;

/// Two refreshes are this far apart when one follows the other: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// After so much time without a refresh the next one is made at once.
const CALM: Duration = Duration::from_secs(5);
/// How long a node may take to tell its map, and how long others are waited for once one has.
const TELLING: (Duration, Duration) = (Duration::from_millis(1_500), Duration::from_millis(100));

/// Makes a node; nothing is connected by that.
type Make = Box<dyn Fn(&Address) -> Result<Node> + Send + Sync>;

pub(super) struct Topology {
    env: Env,
    seeds: Vec<Address>,
    make: Make,
    /// Whether connections to replicas are kept.
    reads_replicas: bool,
    state: Mutex<State>,
    /// Counts the refreshes that have come to an end.
    refreshed: watch::Sender<u64>,
    /// Counts the times that a slot was seen to have another master than before.
    changes: AtomicU64,
}

struct State {
    nodes: HashMap<Address, Arc<Node>>,
    /// The master of each slot, where it is known.
    owners: Vec<Option<Arc<Node>>>,
    /// The replicas of each master.
    replicas: HashMap<Address, Vec<Address>>,
    refreshing: bool,
    last: Moment,
    pause: Duration,
}

impl Topology {
    pub(super) fn new(env: Env, seeds: Vec<Address>, reads_replicas: bool, make: Make) -> Self {
        let state = State {
            nodes: HashMap::new(),
            owners: vec![None; SLOTS.into()],
            replicas: HashMap::new(),
            refreshing: false,
            last: env.now(),
            pause: Duration::ZERO,
        };
        Self {
            env,
            seeds,
            make,
            reads_replicas,
            state: Mutex::new(state),
            refreshed: watch::channel(0).0,
            changes: AtomicU64::new(0),
        }
    }

    /// The master of a slot, where one is known.
    pub(super) fn owner(&self, slot: u16) -> Option<Arc<Node>> {
        self.state().owners[usize::from(slot)].clone()
    }

    /// The node at an address, which may be one that was not known before.
    ///
    /// # Errors
    ///
    /// When the address cannot be meant, or the file of the authority is gone.
    pub(super) fn node(&self, address: &Address) -> Result<Arc<Node>> {
        if let Some(node) = self.state().nodes.get(address) {
            return Ok(node.clone());
        }
        let node = Arc::new((self.make)(address)?);
        Ok(self.state().nodes.entry(address.clone()).or_insert(node).clone())
    }

    /// The same, where it is known.
    pub(super) fn known(&self, address: &Address) -> Option<Arc<Node>> {
        self.state().nodes.get(address).cloned()
    }

    /// How to learn that the map was asked for again.
    pub(super) fn refreshes(&self) -> watch::Receiver<u64> {
        self.refreshed.subscribe()
    }

    /// The masters, in the order of their addresses.
    pub(super) fn masters(&self) -> Vec<Arc<Node>> {
        let state = self.state();
        let mut masters: Vec<_> =
            state.replicas.keys().filter_map(|address| state.nodes.get(address)).cloned().collect();
        masters.sort_by(|a, b| a.address.cmp(&b.address));
        masters
    }

    /// A replica of that master, any one.
    pub(super) fn replica(&self, master: &Address) -> Option<Arc<Node>> {
        let replicas = self.state().replicas.get(master)?.clone();
        let any = (self.env.bits() as usize).checked_rem(replicas.len())?;
        self.node(&replicas[any]).ok()
    }

    /// Takes a node's word for it that another one has the slot.
    pub(super) fn moved(&self, slot: u16, to: &Arc<Node>) {
        let mut state = self.state();
        let before = state.owners[usize::from(slot)].replace(to.clone());
        if before.is_some_and(|before| before.address != to.address) {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        state.replicas.entry(to.address.clone()).or_default();
    }

    /// How many times a slot was seen to have another master than before.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Has the map asked for again, unless that is under way, and gives how to learn that it was.
    pub(super) fn refresh(self: &Arc<Self>) -> watch::Receiver<u64> {
        let refreshed = self.refreshed.subscribe();
        let wait = {
            let mut state = self.state();
            if std::mem::replace(&mut state.refreshing, true) {
                return refreshed;
            }
            let since = self.env.now() - state.last;
            state.pause = if since > CALM { Duration::ZERO } else { (2 * state.pause).clamp(PAUSE.0, PAUSE.1) };
            state.pause.saturating_sub(since)
        };
        let refresh = Refresh(self.clone());
        crate::env::spawn(async move {
            refresh.0.env.sleep(wait).await;
            if let Err(error) = refresh.0.learn().await {
                tracing::warn!(%error, "the cluster's map could not be had");
            }
        });
        refreshed
    }

    /// Asks for the map and takes it over: the masters first, and where none of them answers, everybody.
    ///
    /// # Errors
    ///
    /// Why the last one did not tell it.
    pub(super) async fn learn(&self) -> Result<()> {
        let masters: Vec<Address> = self.state().replicas.keys().cloned().collect();
        let learned = self.ask(masters).await;
        let learned = match learned {
            Ok(learned) => learned,
            Err(_) => self.ask(self.everybody()).await?,
        };
        self.take_over(learned)
    }

    fn everybody(&self) -> Vec<Address> {
        let state = self.state();
        let mut all: Vec<Address> = self.seeds.clone();
        all.extend(state.replicas.iter().flat_map(|(master, replicas)| [master].into_iter().chain(replicas)).cloned());
        all.sort();
        all.dedup();
        all
    }

    /// The map of the node that has seen the newest epoch.
    async fn ask(&self, addresses: Vec<Address>) -> Result<Vec<Range>> {
        let mut asked: FuturesUnordered<_> = addresses.iter().map(|address| self.told_by(address)).collect();
        let (mut newest, mut error) = (None, None);
        while let Some(told) = match newest {
            None => asked.next().await,
            Some(_) => self.env.timeout(TELLING.1, asked.next()).await.flatten(),
        } {
            match told {
                Ok(told) if newest.as_ref().is_none_or(|(epoch, _)| told.0 > *epoch) => newest = Some(told),
                Ok(_) => {}
                // What a wrong password or an old server says tells more than that others cannot be reached.
                Err(told) if error.as_ref().is_none_or(Error::is_transient) => error = Some(told),
                Err(_) => {}
            }
        }
        let nobody = || Error::new(ErrorKind::Unavailable, "no node of the cluster is known");
        newest.map(|(_, ranges)| ranges).ok_or_else(|| error.unwrap_or_else(nobody))
    }

    /// A node's epoch and map.
    async fn told_by(&self, address: &Address) -> Result<(u64, Vec<Range>)> {
        let node = self.node(address)?;
        let mut questions = Pipeline::new();
        questions.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
        let answer = self.env.timeout(TELLING.0, node.collector.transport().many(&questions)).await;
        let late = || Error::new(ErrorKind::Unavailable, format!("Redis at {address} did not tell the cluster's map"));
        let values = answer.ok_or_else(late)??;
        let what = || "asking for the cluster's map".to_owned();
        let values =
            values.into_iter().map(|value| errors::check(&node.name, what, value)).collect::<Result<Vec<_>>>()?;
        let [info, slots] = &values[..] else { return Err(late()) };
        let info: String = redis::from_redis_value_ref(info).unwrap_or_default();
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let epoch = field("cluster_current_epoch").and_then(|epoch| epoch.trim().parse().ok()).unwrap_or(0);
        match ranges(slots, &address.host) {
            Some(ranges) if !ranges.is_empty() => Ok((epoch, ranges)),
            Some(_) => Err(Error::new(
                ErrorKind::Unavailable,
                format!("Redis at {address} is of a cluster in which nobody has a slot: see redis-cli --cluster check"),
            )),
            None => Err(Error::new(ErrorKind::Corrupt, format!("Redis at {address} told no map of a cluster"))),
        }
    }

    fn take_over(&self, learned: Vec<Range>) -> Result<()> {
        let masters = learned.iter().map(|range| self.node(&range.master)).collect::<Result<Vec<_>>>()?;
        let mut state = self.state();
        let before = std::mem::replace(&mut state.owners, vec![None; SLOTS.into()]);
        state.replicas.clear();
        for (Range { first, last, replicas, .. }, master) in learned.into_iter().zip(masters) {
            state.owners[usize::from(first)..=usize::from(last)].fill(Some(master.clone()));
            state.replicas.insert(master.address.clone(), replicas);
        }
        let another = |(now, before): (&Option<Arc<Node>>, &Option<Arc<Node>>)| match (now, before) {
            (_, None) => false,
            (Some(now), Some(before)) => now.address != before.address,
            (None, Some(_)) => true,
        };
        if state.owners.iter().zip(&before).any(another) {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        // Those that are gone, or have no use any more, go with their connections once nobody uses them.
        let State { nodes, replicas, .. } = &mut *state;
        let is_replica =
            |address: &Address| self.reads_replicas && replicas.values().flatten().any(|replica| replica == address);
        nodes.retain(|address, _| replicas.contains_key(address) || is_replica(address));
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A refresh under way; it has ended when this goes, be it that its runtime has.
struct Refresh(Arc<Topology>);

impl Drop for Refresh {
    fn drop(&mut self) {
        let mut state = self.0.state();
        (state.refreshing, state.last) = (false, self.0.env.now());
        drop(state);
        self.0.refreshed.send_modify(|count| *count += 1);
    }
}
