//! Several participants do something together, or none of them does: two phases, and a decision that is written once.
//!
//! ```text
//!   journal      absent ──▶ preparing ──▶ committed ──▶ done ──▶ gone, after a while
//!                               └───────▶ aborted ────────┘
//!   participant  nothing ─▶ staged ─────▶ committed ──▶ forgotten, once its token has moved on
//!                     └────────┴────────▶ rolled back ────┘
//! ```
//!
//! # The protocol
//!
//! Whoever holds the lock coordinates. The journal decides: each arrow of its row is one compare-and-set.
//!
//! 1. **Begin.** The record *preparing* is written: lock, token, participants. Without it nothing is prepared.
//! 2. **Prepare**, all at once. Each participant stages its share on its disk and reserves what the commit needs, or refuses:
//!    because it has seen a newer token for the lock, because the transaction was rolled back there, because one of an earlier
//!    hold is not settled there, or because the work cannot be done.
//! 3. **Decide.** Where all have prepared and the hold is still certain, *preparing* becomes *committed*, else *aborted*. Where
//!    no reply comes, the journal is asked what is there, and the write is tried again; nothing is ever assumed.
//! 4. **Drive.** Once the decision is in the journal, and not before, each participant is told, again and again until it has
//!    acknowledged. One that has nothing staged to roll back leaves a tombstone, so that a prepare that comes late is refused.
//! 5. **Done.** When all have acknowledged, the record becomes *done*, and goes by itself after the
//!    [retention](Coordinator::retention). Then, not before, the participants are told to forget; each does once it has seen
//!    a newer token for the lock, by which a late prepare is refused as well.
//!
//! **Recovery** is for anybody, at any time, and for any number at once: *preparing* becomes *aborted* by the same
//! compare-and-set, and what is decided is driven. The next holder of the lock does it [before it goes on](Coordinator::recover),
//! and cannot overlook it: participants refuse to prepare anything while something of an earlier hold is staged.
//!
//! **No record means rolled back** (presumed abort), for as long as the retention has not passed.
//!
//! **Heuristics**: a participant that has gone another way than was decided, by an operator's hand as a rule, is told in the
//! record, which is then kept until somebody [removes it](Coordinator::remove); in the outcome; and as an error in the log.
//!
//! The protocol is after Mohan, Lindsay and Obermarck, *Transaction management in the R\* distributed database management
//! system* (1986), with fencing tokens and tombstones in place of sessions. `models/` tries it in every order of events.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::Guard;
use crate::transaction::TransactionId;
use crate::transaction::journal::{Durable, Entry};
use crate::transaction::participant::Participant;

mod decide;
mod drive;
mod outcome;
mod record;
mod recover;
mod run;
mod told;

pub use outcome::{Outcome, Pending, Reason, Recovered};
pub use record::{Decision, Heuristic, KIND, Party, Record, State};
pub use run::Transaction;

/// Has several participants do something together, or not at all.
///
/// ```
/// use tenure::transaction::coordinator::{Coordinator, Outcome};
/// # use tenure::transaction::Participant;
/// # use tenure::transaction::journal::SqliteJournal;
/// # async fn pay(guard: &tenure::Guard, bank: impl Participant, shop: impl Participant) -> tenure::Result<()> {
/// let journal = SqliteJournal::connect("sqlite:journal.db").await?;
/// let coordinator = Coordinator::new(journal).participant(bank)?.participant(shop)?;
///
/// // What an earlier holder may have left undone.
/// coordinator.recover(guard).await?;
///
/// match coordinator.begin(guard).work("bank", "-100 EUR").work("shop", "ship it").commit().await? {
///     Outcome::Committed { .. } => println!("paid"),
///     Outcome::RolledBack { why, .. } => println!("not paid: {why}"),
///     Outcome::Unknown { id, .. } => println!("ask later, by coordinator.resolve({id})"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Coordinator {
    journal: Arc<dyn Durable>,
    participants: Vec<Arc<dyn Participant>>,
    /// Where a participant was before: its name, and its location then.
    moved: Vec<(String, String)>,
    env: Env,
    prepare_timeout: Duration,
    settle_timeout: Duration,
    call_timeout: Duration,
    retention: Duration,
}

impl Coordinator {
    /// A coordinator that writes to this journal, without participants yet.
    pub fn new(journal: impl Durable) -> Self {
        Self {
            journal: Arc::new(journal),
            participants: Vec::new(),
            moved: Vec::new(),
            env: Env::system(),
            prepare_timeout: Duration::from_secs(10),
            settle_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(5),
            retention: Duration::from_secs(7 * 24 * 3600),
        }
    }

    /// Adds one that may take part. Whoever recovers needs the participants of what is to be recovered, under the same names.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] where there is one of that name already.
    pub fn participant(mut self, participant: impl Participant) -> Result<Self> {
        if self.named(participant.name()).is_some() {
            let message = format!("there are two participants called {:?}: name them apart", participant.name());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        self.participants.push(Arc::new(participant));
        Ok(self)
    }

    /// The participant of that name was at `from` before, as its [location](Participant::location) said then: it is told what
    /// became of the transactions that it took part in there.
    ///
    /// Without, it is told nothing of a transaction whose record names another place: that may be another service's
    /// participant, of the same name by chance.
    #[must_use]
    pub fn moved(mut self, participant: &str, from: &str) -> Self {
        self.moved.push((participant.to_owned(), from.to_owned()));
        self
    }

    /// How long all may take to prepare before it is decided to roll back: 10 s where nothing is said.
    #[must_use]
    pub fn prepare_timeout(mut self, time: Duration) -> Self {
        self.prepare_timeout = time;
        self
    }

    /// How long to try to have the decision written, and then again to have all participants know it, before the rest is
    /// left to recovery: 10 s where nothing is said.
    #[must_use]
    pub fn settle_timeout(mut self, time: Duration) -> Self {
        self.settle_timeout = time;
        self
    }

    /// How long one call to a participant or to the journal may take before it counts as unanswered: 5 s where nothing is
    /// said.
    #[must_use]
    pub fn call_timeout(mut self, time: Duration) -> Self {
        self.call_timeout = time;
        self
    }

    /// For how long the record of a transaction is kept that is done everywhere, for whoever wants to
    /// [know](Self::resolve) what became of it: 7 days where nothing is said.
    ///
    /// It has to be longer than anything that was sent can be under way, and than it takes until somebody recovers: of a
    /// transaction whose record has gone, nobody tells participants any more that they may forget it.
    #[must_use]
    pub fn retention(mut self, time: Duration) -> Self {
        self.retention = time;
        self
    }

    /// Time and randomness, for tests.
    #[must_use]
    pub fn env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// A transaction under that hold. Nothing happens until it is [committed](Transaction::commit).
    pub fn begin<'a>(&'a self, guard: &'a Guard) -> Transaction<'a> {
        Transaction::new(self, guard)
    }

    /// Those of the journal's two-phase transactions that are not gone, the oldest first, less those whose records cannot be
    /// read: [`recover_older`](Self::recover_older) tells of these.
    ///
    /// # Errors
    ///
    /// Where the journal cannot be read.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn list(&self) -> Result<Vec<Record>> {
        Ok(records(&self.journal.list().await?).0)
    }

    fn named(&self, name: &str) -> Option<&Arc<dyn Participant>> {
        self.participants.iter().find(|participant| participant.name() == name)
    }

    /// Calls until there is an answer, an error that another call would meet as well, or the time is up.
    ///
    /// The calls are boxed, for futures of async closures cannot be seen to be `Send`.
    async fn retry<'a, T>(&self, within: Duration, mut call: impl FnMut() -> BoxFuture<'a, Result<T>>) -> Result<T> {
        let (deadline, mut pause) = (self.env.now() + within, FIRST_PAUSE);
        loop {
            let answer = self.limited(call()).await;
            let wait = self.env.jitter(pause);
            match answer {
                Err(error) if error.is_transient() && self.env.now() + wait < deadline => self.env.sleep(wait).await,
                answer => return answer,
            }
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// One call, within the time for one.
    async fn limited<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.call_timeout;
        self.env.timeout(limit, call).await.unwrap_or_else(|| {
            let message = format!("no answer came within {limit:?}; what was asked may have been done");
            Err(Error::new(ErrorKind::NoReply, message))
        })
    }

    /// The names that a transaction has work for, if they can be meant.
    fn check(&self, names: &[&str]) -> Result<()> {
        if names.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "the transaction has no work for anybody: give it some"));
        }
        let mut seen = BTreeSet::new();
        for name in names {
            let problem = match self.named(name) {
                None => "is not a participant of this coordinator",
                Some(_) if !seen.insert(name) => "is given work twice: give it all at once",
                Some(_) => continue,
            };
            return Err(Error::new(ErrorKind::Invalid, format!("{name:?} {problem}")));
        }
        Ok(())
    }

    fn new_id(&self) -> TransactionId {
        TransactionId::draw(&self.env)
    }
}

/// The two-phase transactions among what a journal has, the oldest first; and those that cannot be read.
fn records(entries: &[Entry]) -> (Vec<Record>, Vec<(&Entry, Error)>) {
    let (mut records, mut unreadable) = (Vec::new(), Vec::new());
    for entry in entries {
        match Record::read(entry) {
            Ok(record) => records.extend(record),
            Err(error) if entry.id.parse::<TransactionId>().is_ok() => unreadable.push((entry, error)),
            // By its name it is somebody else's.
            Err(_) => {}
        }
    }
    records.sort_by_key(|record| (record.since, record.branch.id));
    (records, unreadable)
}

/// Between two attempts: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.participants.iter().map(|participant| participant.name()).collect();
        let mut debug = f.debug_struct("Coordinator");
        debug.field("journal", &self.journal.location()).field("participants", &names).finish_non_exhaustive()
    }
}

/// What is public here can be spawned.
#[cfg(test)]
#[allow(dead_code, reason = "that it compiles is the test")]
fn everything_can_be_spawned(coordinator: &'static Coordinator, guard: &'static Guard, id: TransactionId) {
    fn is_send(_: impl Send) {}
    is_send(coordinator.begin(guard).commit());
    is_send((coordinator.recover(guard), coordinator.recover_older(Duration::ZERO), coordinator.resolve(id)));
    is_send((coordinator.list(), coordinator.remove(id)));
}
