//! Recovery among what is not its own: records that cannot be read, other journals' shares, participants of the same name.
//!
//! Bugs that were planted, and found: a recovery that ends at the first record that it cannot read, also where a share is what
//! names it; one that tells of another lock's; a share without a record that is told to be forgotten; a place that is not compared.

#![allow(missing_docs, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tenure::transaction::coordinator::{Coordinator, Decision, Outcome, Recovered};
use tenure::transaction::journal::{Journal, Keep, Memory, Presumed};
use tenure::transaction::participant::{Ack, Branch, Did, Share, ShareState, Vote};
use tenure::transaction::{Participant, TransactionId};
use tenure::{Error, ErrorKind, Guard, Lock, Result, What};

/// A participant in memory. Commits fail for as long as it is deaf.
#[derive(Clone, Debug)]
struct Shelf {
    place: &'static str,
    deaf: Arc<Mutex<bool>>,
    shares: Arc<Mutex<BTreeMap<TransactionId, Share>>>,
}

impl Shelf {
    fn at(place: &'static str) -> Self {
        Self { place, deaf: Arc::default(), shares: Arc::default() }
    }

    fn state(&self, id: TransactionId) -> Option<ShareState> {
        self.shares.lock().unwrap().get(&id).map(|share| share.state)
    }

    fn settle(&self, branch: &Branch, to: ShareState, otherwise: Ack) -> Ack {
        let mut shares = self.shares.lock().unwrap();
        match shares.get_mut(&branch.id) {
            Some(share) if share.state == ShareState::Staged || share.state == to => {
                share.state = to;
                Ack::Done
            }
            _ => otherwise,
        }
    }
}

#[async_trait]
impl Participant for Shelf {
    fn name(&self) -> &str {
        "stock"
    }

    fn location(&self) -> String {
        self.place.to_owned()
    }

    async fn prepare(&self, branch: &Branch, _: &[u8]) -> Result<Vote> {
        let share = Share { branch: branch.clone(), state: ShareState::Staged };
        self.shares.lock().unwrap().insert(branch.id, share);
        Ok(Vote::Prepared)
    }

    async fn commit(&self, branch: &Branch) -> Result<Ack> {
        if *self.deaf.lock().unwrap() {
            return Err(Error::new(ErrorKind::Denied, "it does not hear"));
        }
        Ok(self.settle(branch, ShareState::Committed, Ack::Heuristic(Did::Lose)))
    }

    async fn rollback(&self, branch: &Branch) -> Result<Ack> {
        Ok(self.settle(branch, ShareState::RolledBack, Ack::Done))
    }

    async fn forget(&self, branch: &Branch) -> Result<()> {
        self.shares.lock().unwrap().retain(|id, share| *id != branch.id || share.state == ShareState::Staged);
        Ok(())
    }

    async fn list(&self, lock: Option<&str>) -> Result<Vec<Share>> {
        let shares = self.shares.lock().unwrap();
        Ok(shares.values().filter(|share| lock.is_none_or(|lock| share.branch.lock == lock)).cloned().collect())
    }
}

fn coordinator(journal: &Memory, shelf: &Shelf) -> Coordinator {
    Coordinator::new(Presumed(journal.clone())).participant(shelf.clone()).unwrap()
}

async fn lock(name: &str) -> (tenure::Locks, Lock) {
    let locks = tenure::open("memory:").await.unwrap();
    let lock = locks.mutex(name).build().unwrap();
    (locks, lock)
}

/// A transaction that is committed, and whose participant does not know it.
async fn left(coordinator: &Coordinator, shelf: &Shelf, guard: &Guard) -> TransactionId {
    *shelf.deaf.lock().unwrap() = true;
    let outcome = coordinator.begin(guard).work("stock", "").commit().await.unwrap();
    *shelf.deaf.lock().unwrap() = false;
    let Outcome::Committed { id, pending, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(pending.len(), 1);
    id
}

/// Recovers as the next holder.
async fn recover(coordinator: &Coordinator, lock: &Lock) -> Recovered {
    let guard = lock.lock().await.unwrap();
    coordinator.recover(&guard).await.unwrap()
}

/// An id of the journal's that the record is under.
fn damaged(n: u32) -> String {
    format!("{n:032x}")
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_told_by_its_id_and_hinders_no_other() {
    let (journal, shelf) = (Memory::new(), Shelf::at("here"));
    let (locks, lock) = lock("l").await;
    let coordinator = coordinator(&journal, &shelf);
    let mut events = locks.events();
    let id = left(&coordinator, &shelf, &lock.lock().await.unwrap()).await;
    let decided = |pending: &[&str], recovered| {
        let pending = pending.iter().map(|name| (*name).to_owned()).collect();
        What::TransactionDecided { id, decision: Decision::Commit, why: None, pending, recovered }
    };
    let later = r#"{"kind":"two-phase","format":9,"lock":"another"}"#;
    for (n, value) in [(1, "{torn"), (2, later), (3, &later.replace("another", "l"))] {
        journal.write(&damaged(n), None, value.as_bytes(), Keep::UntilForgotten).await.unwrap();
    }
    journal.write("saga:order/42", None, b"{torn", Keep::UntilForgotten).await.unwrap();

    let recovered = recover(&coordinator, &lock).await;
    assert_eq!(recovered.outcomes.iter().map(Outcome::id).collect::<Vec<_>>(), [id]);
    assert_eq!(shelf.state(id), None, "it is done, and forgotten");
    let ids: Vec<_> = recovered.unreadable.iter().map(|(id, error)| (id.clone(), error.kind())).collect();
    let expected = [(damaged(1), ErrorKind::Corrupt), (damaged(3), ErrorKind::Unsupported)];
    assert_eq!(ids, expected, "what may be of this lock, and no more");
    assert!(!recovered.is_complete());
    let mut told = Vec::new();
    while told.len() < 2 {
        match events.recv().await.unwrap().what {
            what @ What::TransactionDecided { .. } => told.push(what),
            What::RecordUnreadable { .. } => panic!("too early: {told:?}"),
            _ => {}
        }
    }
    assert_eq!(told, [decided(&["stock"], false), decided(&[], true)]);
    for n in [1, 3] {
        let told = events.recv().await.unwrap().what;
        assert!(matches!(&told, What::RecordUnreadable { id, .. } if *id == damaged(n)), "{told:?}");
    }

    let recovered = coordinator.recover_older(Duration::ZERO).await.unwrap();
    let ids: Vec<_> = recovered.unreadable.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [damaged(1), damaged(2), damaged(3)], "of any lock");
    assert_eq!(coordinator.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_share_whose_record_cannot_be_read_is_left_alone_and_told() {
    let (journal, shelf) = (Memory::new(), Shelf::at("here"));
    let (_locks, lock) = lock("l").await;
    let coordinator = coordinator(&journal, &shelf);
    let id = left(&coordinator, &shelf, &lock.lock().await.unwrap()).await;
    let entry = journal.load(&id.to_string()).await.unwrap().unwrap();
    // Kept for some time, as what is done: only by its share is it found.
    journal.write(&entry.id, Some(entry.version), b"{torn", Keep::For(Duration::from_secs(60))).await.unwrap();
    let recovered = recover(&coordinator, &lock).await;
    assert_eq!(recovered.unreadable.len(), 1, "{recovered:?}");
    assert_eq!(recovered.unreadable[0].0, id.to_string());
    assert_eq!(shelf.state(id), Some(ShareState::Staged));
}

#[tokio::test]
async fn what_another_journal_may_yet_ask_for_is_not_forgotten() {
    let (ours, theirs, shelf) = (Memory::new(), Memory::new(), Shelf::at("here"));
    let (_locks, lock) = lock("l").await;
    let (ours, theirs) = (coordinator(&ours, &shelf), coordinator(&theirs, &shelf));
    let id = left(&theirs, &shelf, &lock.lock().await.unwrap()).await;
    // The commit arrives after all, and nobody hears of it.
    shelf.shares.lock().unwrap().get_mut(&id).unwrap().state = ShareState::Committed;
    recover(&ours, &lock).await;
    assert_eq!(
        shelf.state(id),
        Some(ShareState::Committed),
        "it was told to forget by a journal that knows nothing of it"
    );
    let recovered = recover(&theirs, &lock).await;
    let [Outcome::Committed { heuristics, .. }] = &recovered.outcomes[..] else { panic!("{recovered:?}") };
    assert_eq!(heuristics, &[]);
    assert_eq!(shelf.state(id), None, "its own journal has it forgotten");
}

#[tokio::test]
async fn a_participant_of_the_same_name_elsewhere_is_told_nothing_unless_it_has_moved() {
    let (journal, there, here) = (Memory::new(), Shelf::at("there"), Shelf::at("here"));
    let (_locks, lock) = lock("l").await;
    let id = left(&coordinator(&journal, &there), &there, &lock.lock().await.unwrap()).await;
    let wrong = coordinator(&journal, &here);
    let recovered = recover(&wrong, &lock).await;
    let [Outcome::Committed { pending, heuristics, .. }] = &recovered.outcomes[..] else { panic!("{recovered:?}") };
    assert_eq!((pending.len(), heuristics.len()), (1, 0), "{recovered:?}");
    assert_eq!(pending[0].error.kind(), ErrorKind::Mismatch);
    let message = pending[0].error.to_string();
    assert!(message.contains("at there") && message.contains("at here"), "{message}");
    assert_eq!(there.state(id), Some(ShareState::Staged));

    // Its data was carried from there to here.
    let moved = Shelf { place: "here", ..there.clone() };
    let recovered = recover(&coordinator(&journal, &moved).moved("stock", "there"), &lock).await;
    assert!(recovered.is_complete(), "{recovered:?}");
    assert_eq!(recovered.outcomes.len(), 1);
}
