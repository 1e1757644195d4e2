//! Nodes in memory, and links to them that can be made to fail.
//!
//! ```text
//!   client 1 ── link ──┐
//!                      ├──▶ node: records, a clock of its own, a time since which it has kept them
//!   client 2 ── link ──┘
//! ```
//!
//! A request that was sent arrives even where nobody waits for its answer any more, as it does over a wire.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure::proto::{At, ClaimId, Inbox, Op, Record, Reply};
use tenure::store::{Hub, Seen, Store, Traits, Watch};
use tenure::{Error, ErrorKind, Key, Result};
use tokio::time::{Instant, sleep};

/// What a link or a node does to the requests that come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Refuses before anything happened.
    Refuse,
    /// Carries nothing out and never answers.
    Hang,
    /// Carries it out, and never answers.
    LoseReply,
    /// Carries it out that much later, and never answers.
    Late(Duration),
    /// The same for releases; the rest is well.
    LateReleases(Duration),
    /// The same for hand-overs and releases.
    LateHandOvers(Duration),
    /// Hand-overs are refused, and the rest is well.
    RefuseHandOvers,
}

/// One node. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Node(Arc<Inner>);

struct Inner {
    name: String,
    start: Instant,
    hub: Hub,
    state: Mutex<State>,
}

struct State {
    records: HashMap<Key, Record>,
    fault: Fault,
    skew: i64,
    kept_since: u64,
    /// How many requests were sent here, whatever became of them.
    asked: usize,
    /// What was carried out.
    done: Vec<Op>,
}

/// When the nodes' clocks begin.
const EPOCH: u64 = 1_735_689_600_000_000;

impl Node {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        let state =
            State { records: HashMap::new(), fault: Fault::None, skew: 0, kept_since: 0, asked: 0, done: Vec::new() };
        Self(Arc::new(Inner { name: name.into(), start: Instant::now(), hub: Hub::new(), state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// What becomes of requests of all clients from now on.
    pub(crate) fn fault(&self, fault: Fault) {
        self.state().fault = fault;
    }

    /// Sets its clock ahead by that much, or back.
    pub(crate) fn skew(&self, micros: i64) {
        self.state().skew = micros;
    }

    /// For how long it has been there.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// Its clock.
    pub(crate) fn now(&self) -> u64 {
        (EPOCH + self.0.start.elapsed().as_micros() as u64).saturating_add_signed(self.state().skew)
    }

    /// Restarts without anything it knew.
    pub(crate) fn restart_empty(&self) {
        self.restart_with(HashMap::new());
    }

    /// Restarts with what it knew at some time before.
    pub(crate) fn restart_with(&self, records: HashMap<Key, Record>) {
        let now = self.now();
        let mut state = self.state();
        (state.records, state.kept_since) = (records, now);
        drop(state);
        self.0.hub.wake_all();
    }

    /// What it knows.
    pub(crate) fn snapshot(&self) -> HashMap<Key, Record> {
        self.state().records.clone()
    }

    /// How many requests were sent here since this was asked last.
    pub(crate) fn take_asked(&self) -> usize {
        std::mem::take(&mut self.state().asked)
    }

    /// What was carried out since this was asked last.
    pub(crate) fn take_done(&self) -> Vec<Op> {
        std::mem::take(&mut self.state().done)
    }

    /// The record as it stands now.
    pub(crate) fn record(&self, name: &str) -> Record {
        let now = self.now();
        self.state().records.get(&Key::new(name).unwrap()).cloned().unwrap_or_default().seen_at(now)
    }

    /// Who is in and who waits.
    pub(crate) fn crowd(&self, name: &str) -> (usize, usize) {
        let record = self.record(name);
        (record.holders.len(), record.queue.len())
    }

    /// The names of all that has not expired.
    pub(crate) fn keys(&self) -> Vec<String> {
        let now = self.now();
        let state = self.state();
        let live = state.records.iter().filter(|(_, record)| record.expires > now);
        live.map(|(key, _)| key.as_str().to_owned()).collect()
    }

    /// Carries out an operation as if from somebody else.
    pub(crate) fn apply_now(&self, key: &Key, op: &Op) -> Reply {
        let now = self.now();
        let mut state = self.state();
        state.done.push(op.clone());
        let record = state.records.entry(key.clone()).or_default();
        let (reply, grants) = record.apply(op, At { now, inbox: &Inbox::from("") });
        if record.expires <= now {
            state.records.remove(key);
        }
        drop(state);
        grants.iter().for_each(|grant| self.0.hub.deliver(grant));
        reply
    }
}

/// One client's way to one node. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) node: Node,
    state: Arc<Mutex<Way>>,
}

struct Way {
    fault: Fault,
    /// How long a request and its answer take each, at most; at least half as long.
    delay: Duration,
    random: StdRng,
}

impl Link {
    pub(crate) fn to(node: &Node, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let way = Way { fault: Fault::None, delay: Duration::ZERO, random };
        Self { node: node.clone(), state: Arc::new(Mutex::new(way)) }
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.state.lock().unwrap().fault = fault;
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.state.lock().unwrap().delay = delay;
    }

    /// How long the next way takes, and what will happen on it.
    fn way(&self) -> (Duration, Fault) {
        let node = self.node.state().fault;
        let mut way = self.state.lock().unwrap();
        let part = 0.5 + way.random.random::<f64>() / 2.0;
        (way.delay.mul_f64(part), if way.fault == Fault::None { node } else { way.fault })
    }

    /// What `query` says once it has arrived, if anybody hears of it.
    async fn carry<T: Send + 'static>(
        &self,
        op: Option<&Op>,
        query: impl FnOnce(&Node) -> T + Send + 'static,
    ) -> Result<T> {
        self.node.state().asked += 1;
        let (there, fault) = self.way();
        let fault = match (fault, op) {
            (Fault::LateReleases(time), Some(Op::Release(_)))
            | (Fault::LateHandOvers(time), Some(Op::Release(_) | Op::HandOver(_))) => Fault::Late(time),
            (Fault::RefuseHandOvers, Some(Op::HandOver(_))) => Fault::Refuse,
            (Fault::LateReleases(_) | Fault::LateHandOvers(_) | Fault::RefuseHandOvers, _) => Fault::None,
            (other, _) => other,
        };
        let node = self.node.clone();
        let (tell, told) = tokio::sync::oneshot::channel();
        let link = self.clone();
        tokio::spawn(async move {
            sleep(there).await;
            match fault {
                Fault::Refuse => {
                    _ = tell.send(Err(Error::new(ErrorKind::Unavailable, "the test refuses")));
                    return;
                }
                Fault::Hang => return std::future::pending().await,
                Fault::Late(time) => sleep(time).await,
                _ => {}
            }
            let answer = query(&node);
            let (back, now) = link.way();
            sleep(back).await;
            let is_lost = matches!(now, Fault::Refuse | Fault::Hang | Fault::LoseReply);
            if fault == Fault::None && !is_lost {
                _ = tell.send(Ok(answer));
            } else {
                std::future::pending::<()>().await;
            }
        });
        told.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::NoReply, "the runtime ended")))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.node.name())
    }
}

#[async_trait]
impl Store for Link {
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        let (key, op) = (key.clone(), op.clone());
        self.carry(Some(&op.clone()), move |node| node.apply_now(&key, &op)).await
    }

    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        futures_util::future::join_all(ops.iter().map(|(key, op)| self.apply(key, op))).await
    }

    async fn settle(&self, _settle: &tenure::transaction::Settle) -> Result<tenure::transaction::Verdict> {
        Err(tenure::Error::new(tenure::ErrorKind::Unsupported, "there are no transactions in this network"))
    }

    fn watch(&self, _key: &Key, id: ClaimId) -> Watch {
        self.node.0.hub.watch(id)
    }

    async fn read(&self, key: &Key) -> Result<Seen> {
        let key = key.clone();
        self.carry(None, move |node| Seen { record: node.record(key.as_str()), now: node.now() }).await
    }

    async fn scan(&self) -> Result<Vec<Key>> {
        self.carry(None, |node| node.keys().into_iter().map(|name| Key::new(name).unwrap()).collect()).await
    }

    async fn ping(&self) -> Result<()> {
        self.carry(None, |_| ()).await
    }

    fn nodes(&self) -> Vec<tenure::NodeHealth> {
        Vec::new()
    }

    fn traits(&self) -> Traits {
        Traits {
            kind: "node",
            queue: true,
            fence: true,
            push: true,
            durable: false,
            transaction: false,
            stale_reads: false,
            kept_since: self.node.state().kept_since,
            members: 0,
        }
    }
}
