//! A two-phase transaction is dropped at every await point: it is polled k times and dropped, for each k until it ends. Then
//! the next holder's recovery, which is dropped in the same way first, leaves all participants as one, and nothing staged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tenure::env::Env;
use tenure::transaction::coordinator::{Coordinator, Outcome};
use tenure::transaction::journal::{Entry, Journal, Keep, Memory, Presumed, Written};
use tenure::transaction::participant::{Ack, Branch, Share, ShareState, Vote};
use tenure::transaction::{Participant, TransactionId};
use tenure::{Fence, Guard, Result};

use super::poll_times;

/// A journal with an await point before and after each write.
#[derive(Clone, Debug)]
struct Slow(Memory);

#[async_trait]
impl Journal for Slow {
    async fn load(&self, id: &str) -> Result<Option<Entry>> {
        tokio::task::yield_now().await;
        self.0.load(id).await
    }

    async fn write(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written> {
        tokio::task::yield_now().await;
        let written = self.0.write(id, expected, value, keep).await;
        tokio::task::yield_now().await;
        written
    }

    async fn forget(&self, id: &str, expected: u64) -> Result<bool> {
        self.0.forget(id, expected).await
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        self.0.list().await
    }

    async fn unsettled(&self) -> Result<Vec<Entry>> {
        tokio::task::yield_now().await;
        self.0.unsettled().await
    }

    fn location(&self) -> String {
        self.0.location()
    }
}

/// Keeps the contract of a participant, with an await point before and after each step.
#[derive(Clone, Debug)]
struct Shelf {
    name: &'static str,
    shares: Arc<Mutex<BTreeMap<TransactionId, (Branch, ShareState)>>>,
}

impl Shelf {
    fn new(name: &'static str) -> Self {
        Self { name, shares: Arc::default() }
    }

    async fn step<T>(&self, step: impl FnOnce(&mut BTreeMap<TransactionId, (Branch, ShareState)>) -> T) -> T {
        tokio::task::yield_now().await;
        let answer = step(&mut self.shares.lock().unwrap());
        tokio::task::yield_now().await;
        answer
    }

    fn states(&self) -> Vec<ShareState> {
        self.shares.lock().unwrap().values().map(|(_, state)| *state).collect()
    }
}

#[async_trait]
impl Participant for Shelf {
    fn name(&self) -> &str {
        self.name
    }

    fn location(&self) -> String {
        "here".to_owned()
    }

    async fn prepare(&self, branch: &Branch, _: &[u8]) -> Result<Vote> {
        self.step(|shares| shares.entry(branch.id).or_insert((branch.clone(), ShareState::Staged)).1).await;
        Ok(Vote::Prepared)
    }

    async fn commit(&self, branch: &Branch) -> Result<Ack> {
        self.step(|shares| shares.insert(branch.id, (branch.clone(), ShareState::Committed))).await;
        Ok(Ack::Done)
    }

    async fn rollback(&self, branch: &Branch) -> Result<Ack> {
        self.step(|shares| shares.insert(branch.id, (branch.clone(), ShareState::RolledBack))).await;
        Ok(Ack::Done)
    }

    async fn forget(&self, _: &Branch) -> Result<()> {
        Ok(())
    }

    async fn list(&self, lock: Option<&str>) -> Result<Vec<Share>> {
        let named = |branch: &Branch| lock.is_none_or(|lock| branch.lock == lock);
        let shares = |shares: &mut BTreeMap<_, (Branch, ShareState)>| {
            shares.values().filter(|(branch, _)| named(branch)).cloned().collect::<Vec<_>>()
        };
        Ok(self.step(shares).await.into_iter().map(|(branch, state)| Share { branch, state }).collect())
    }
}

async fn hold(locks: &tenure::Locks) -> Guard {
    locks.mutex("order").build().unwrap().lock().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_transaction_dropped_at_any_point_is_settled_by_the_next_holder() {
    let (mut committed, mut rolled_back) = (0, 0);
    for k in 0.. {
        let (locks, _store) = super::client();
        let (journal, shelves) = (Slow(Memory::with_env(Env::simulated(7))), [Shelf::new("a"), Shelf::new("b")]);
        let coordinator = Coordinator::new(Presumed(journal.clone())).env(Env::simulated(7));
        let coordinator = shelves.iter().fold(coordinator, |all, shelf| all.participant(shelf.clone()).unwrap());

        let first = hold(&locks).await;
        let transaction = coordinator.begin(&first).work("a", "one").work("b", "two");
        let id = transaction.id();
        let ended = poll_times(k, transaction.commit()).await;
        first.release().await.unwrap();

        let next = hold(&locks).await;
        assert!(next.fence() > Fence::NONE);
        // Recovery itself may be dropped anywhere, as often as may be.
        for n in 0.. {
            let Some(recovered) = poll_times(n, coordinator.recover(&next)).await else { continue };
            let recovered = recovered.unwrap();
            assert!(recovered.away.is_empty() && recovered.orphans.is_empty(), "{k}, {n}: {recovered:?}");
            break;
        }
        let [a, b] = [shelves[0].states(), shelves[1].states()];
        assert_eq!(a, b, "dropped after {k} polls");
        assert!(!a.contains(&ShareState::Staged), "dropped after {k} polls: {a:?}");
        assert!(journal.unsettled().await.unwrap().is_empty(), "dropped after {k} polls");
        let is_committed = a == [ShareState::Committed];
        match coordinator.resolve(id).await {
            Ok(Outcome::Committed { .. }) => assert!(is_committed, "dropped after {k} polls"),
            Ok(Outcome::RolledBack { .. }) => assert!(!is_committed, "dropped after {k} polls"),
            // It was never begun.
            Err(_) => assert!(a.is_empty(), "dropped after {k} polls"),
            other => panic!("dropped after {k} polls: {other:?}"),
        }
        *if is_committed { &mut committed } else { &mut rolled_back } += 1;
        if let Some(outcome) = ended {
            assert!(matches!(outcome, Ok(Outcome::Committed { .. })), "{outcome:?}");
            break;
        }
    }
    assert!(
        committed > 3 && rolled_back > 3,
        "there were points before and after the decision: {committed}, {rolled_back}"
    );
}
