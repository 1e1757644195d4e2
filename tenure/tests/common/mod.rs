//! What the tests of the client share: a memory store that can be made to fail, under a clock that can be paused.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tenure::env::Env;
use tenure::proto::{ClaimId, Grant, Inbox, Op, Reply};
use tenure::store::{Hub, Memory, Seen, Store, Traits, Watch};
use tenure::transaction::Participant;
use tenure::transaction::participant::{Ack, Branch, Share, Vote};
use tenure::{Error, ErrorKind, Key, Locks, Result};

/// What the store does to the next operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Carries it out and answers.
    None,
    /// Refuses before anything happened.
    Refuse,
    /// Carries it out, and the reply is lost.
    LoseReply,
    /// Never answers, and never carries it out.
    Hang,
    /// Answers that something else lies under the lock's name.
    Foreign,
}

/// A memory store with faults. Each operation yields a few times before and after it is carried out, so that there are
/// await points to cancel at.
#[derive(Clone, Debug)]
pub struct Chaos {
    pub memory: Memory,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    fault: Mutex<Fault>,
    yields: AtomicUsize,
    mute: AtomicBool,
    refuse_acquires: AtomicBool,
    ops: Mutex<Vec<Op>>,
    reads: AtomicUsize,
    delay: Mutex<Duration>,
    /// What each operation costs, and until when those cost that were sent before.
    cost: Mutex<(Duration, Option<tokio::time::Instant>)>,
    hung: Mutex<Option<Named>>,
    sends: Mutex<Vec<Send>>,
    /// Where the muted listen.
    hub: Hub,
}

/// Which locks are meant, by name.
pub type Named = fn(&str) -> bool;

/// What was sent at once, whatever became of it.
#[derive(Clone, Debug)]
pub struct Send {
    pub at: tokio::time::Instant,
    pub keys: Vec<Key>,
    pub ops: Vec<Op>,
}

impl Send {
    pub fn is_renewal(&self) -> bool {
        matches!(self.ops[0], Op::Renew(_))
    }
}

impl Chaos {
    pub fn new(env: Env) -> Self {
        let state = State {
            fault: Mutex::new(Fault::None),
            yields: AtomicUsize::new(0),
            mute: AtomicBool::new(false),
            refuse_acquires: AtomicBool::new(false),
            ops: Mutex::default(),
            reads: AtomicUsize::new(0),
            delay: Mutex::default(),
            cost: Mutex::default(),
            hung: Mutex::default(),
            sends: Mutex::default(),
            hub: Hub::new(),
        };
        Self { memory: Memory::with_env(env), state: Arc::new(state) }
    }

    pub fn fault(&self, fault: Fault) {
        *self.state.fault.lock().unwrap() = fault;
    }

    pub fn yields(&self, n: usize) {
        self.state.yields.store(n, SeqCst);
    }

    /// How long each round trip takes from now on.
    pub fn delay(&self, delay: Duration) {
        *self.state.delay.lock().unwrap() = delay;
    }

    /// How long the store works for each operation from now on, one after the other.
    pub fn cost(&self, cost: Duration) {
        *self.state.cost.lock().unwrap() = (cost, None);
    }

    /// Never answers anything in which such a lock is.
    pub fn hang_on(&self, names: Named) {
        *self.state.hung.lock().unwrap() = Some(names);
    }

    /// What was sent, and forgets it.
    pub fn take_sends(&self) -> Vec<Send> {
        std::mem::take(&mut self.state.sends.lock().unwrap())
    }

    /// Whether it refuses new claims, and nothing else.
    pub fn refuse_acquires(&self, refuse: bool) {
        self.state.refuse_acquires.store(refuse, SeqCst);
    }

    /// From now on pushes get lost.
    pub fn mute(&self) {
        self.state.mute.store(true, SeqCst);
    }

    /// Pushes to a claim that was muted when it began to wait.
    pub fn push(&self, id: ClaimId, fence: u64) {
        self.state.hub.deliver(&Grant { id, fence, inbox: Inbox::from("") });
    }

    /// The operations that were carried out, and forgets them.
    pub fn take_ops(&self) -> Vec<Op> {
        std::mem::take(&mut self.state.ops.lock().unwrap())
    }

    /// How many records were read, and forgets it.
    pub fn take_reads(&self) -> usize {
        self.state.reads.swap(0, SeqCst)
    }

    pub fn acquires(&self) -> usize {
        self.state.ops.lock().unwrap().iter().filter(|op| matches!(op, Op::Acquire(_))).count()
    }

    /// One round trip, on which these are sent together.
    async fn travel(&self, ops: &[(&Key, &Op)]) {
        let (keys, sent) = ops.iter().map(|(key, op)| ((*key).clone(), (*op).clone())).unzip();
        let send = Send { at: tokio::time::Instant::now(), keys, ops: sent };
        self.state.sends.lock().unwrap().push(send);
        let (delay, hung) = (*self.state.delay.lock().unwrap(), *self.state.hung.lock().unwrap());
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let done = {
            let mut cost = self.state.cost.lock().unwrap();
            let now = tokio::time::Instant::now();
            let done = cost.1.unwrap_or(now).max(now) + cost.0 * ops.len() as u32;
            cost.1 = Some(done);
            done
        };
        tokio::time::sleep_until(done).await;
        if hung.is_some_and(|hung| ops.iter().any(|(key, _)| hung(key.as_str()))) {
            std::future::pending::<()>().await;
        }
    }

    async fn pause(&self) {
        for _ in 0..self.state.yields.load(SeqCst) {
            tokio::task::yield_now().await;
        }
    }

    async fn pass(&self, key: &Key, op: &Op) -> Result<Reply> {
        let fault = *self.state.fault.lock().unwrap();
        self.pause().await;
        if self.state.refuse_acquires.load(SeqCst) && matches!(op, Op::Acquire(_)) {
            return Err(Error::new(ErrorKind::Unavailable, "the test refuses claims"));
        }
        match fault {
            Fault::Refuse => return Err(Error::new(ErrorKind::Unavailable, "the test refuses")),
            Fault::Foreign => return Err(Error::new(ErrorKind::Foreign, "the test put something else there")),
            Fault::Hang => return std::future::pending().await,
            Fault::None | Fault::LoseReply => {}
        }
        self.state.ops.lock().unwrap().push(op.clone());
        let reply = self.memory.apply(key, op).await;
        self.pause().await;
        if fault == Fault::LoseReply {
            return Err(Error::new(ErrorKind::NoReply, "the test loses the reply"));
        }
        reply
    }
}

#[async_trait]
impl Store for Chaos {
    async fn apply(&self, key: &Key, op: &Op) -> Result<Reply> {
        self.travel(&[(key, op)]).await;
        self.pass(key, op).await
    }

    async fn apply_many(&self, ops: &[(Key, Op)]) -> Vec<Result<Reply>> {
        self.travel(&ops.iter().map(|(key, op)| (key, op)).collect::<Vec<_>>()).await;
        let mut replies = Vec::new();
        for (key, op) in ops {
            replies.push(self.pass(key, op).await);
        }
        replies
    }

    async fn settle(&self, settle: &tenure::transaction::Settle) -> Result<tenure::transaction::Verdict> {
        self.memory.settle(settle).await
    }

    fn watch(&self, key: &Key, id: ClaimId) -> Watch {
        match self.state.mute.load(SeqCst) {
            true => self.state.hub.watch(id),
            false => self.memory.watch(key, id),
        }
    }

    async fn read(&self, key: &Key) -> Result<Seen> {
        self.state.reads.fetch_add(1, SeqCst);
        self.pause().await;
        let seen = self.memory.read(key).await;
        self.pause().await;
        seen
    }

    async fn scan(&self) -> Result<Vec<Key>> {
        self.pause().await;
        let keys = self.memory.scan().await;
        self.pause().await;
        keys
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    fn nodes(&self) -> Vec<tenure::NodeHealth> {
        Vec::new()
    }

    fn traits(&self) -> Traits {
        self.memory.traits()
    }
}

/// A client on a store with faults. Call it in a runtime whose clock is paused.
pub fn client() -> (Locks, Chaos) {
    let env = Env::simulated(7);
    let store = Chaos::new(env.clone());
    (another(&store, &env), store)
}

/// Another client, as another process would have it.
pub fn another(store: &Chaos, env: &Env) -> Locks {
    Locks::builder(Arc::new(store.clone())).env(env.clone()).build().expect("the defaults are valid")
}

/// Two clients on one store.
pub fn two_clients() -> (Locks, Locks, Chaos) {
    let env = Env::simulated(7);
    let store = Chaos::new(env.clone());
    (another(&store, &env), another(&store, &env), store)
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Who is in and who waits.
pub async fn crowd(store: &Chaos, name: &str) -> (usize, usize) {
    let seen = store.read(&Key::new(name).unwrap()).await.unwrap();
    (seen.record.holders.len(), seen.record.queue.len())
}

/// Lets every task run that can, without time passing.
pub async fn run_ready() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// A participant that is always ready.
#[derive(Debug)]
pub struct Willing;

#[async_trait]
impl Participant for Willing {
    fn name(&self) -> &str {
        "willing"
    }

    fn location(&self) -> String {
        "here".to_owned()
    }

    async fn prepare(&self, _: &Branch, _: &[u8]) -> Result<Vote> {
        Ok(Vote::Prepared)
    }

    async fn commit(&self, _: &Branch) -> Result<Ack> {
        Ok(Ack::Done)
    }

    async fn rollback(&self, _: &Branch) -> Result<Ack> {
        Ok(Ack::Done)
    }

    async fn forget(&self, _: &Branch) -> Result<()> {
        Ok(())
    }

    async fn list(&self, _: Option<&str>) -> Result<Vec<Share>> {
        Ok(Vec::new())
    }
}
