//! A two-phase transaction is dropped at every await point: it is polled k times and dropped, for each k until it ends. Then
//! the next holder's recovery, which is dropped in the same way first, leaves all participants as one, and nothing staged. So
//! does whoever looks after a deployment, who is dropped likewise.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tenure::env::Env;
use tenure::transaction::coordinator::{Coordinator, Outcome};
use tenure::transaction::journal::{Entry, Journal, Keep, Memory, Presumed, Written};
use tenure::transaction::participant::{Ack, Branch, Share, ShareState, Vote};
use tenure::transaction::{Participant, TransactionId};
use tenure::{ErrorKind, Fence, Guard, Result};

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
        tokio::task::yield_now().await;
        let forgotten = self.0.forget(id, expected).await;
        tokio::task::yield_now().await;
        forgotten
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        tokio::task::yield_now().await;
        let entries = self.0.list().await;
        tokio::task::yield_now().await;
        entries
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

/// Two shelves, and who has them do things together.
struct Shop {
    journal: Slow,
    shelves: [Shelf; 2],
    coordinator: Coordinator,
}

impl Shop {
    fn new() -> Self {
        Self::of([Shelf::new("a"), Shelf::new("b")])
    }

    /// The shelves, of which a new journal knows nothing.
    fn of(shelves: [Shelf; 2]) -> Self {
        let journal = Slow(Memory::with_env(Env::simulated(7)));
        let coordinator = Coordinator::new(Presumed(journal.clone())).env(Env::simulated(7));
        let coordinator = shelves.iter().fold(coordinator, |all, shelf| all.participant(shelf.clone()).unwrap());
        Self { journal, shelves, coordinator }
    }

    /// Begins a transaction, and drops it after `k` polls; whether it got to its end.
    async fn drop_a_transaction(&self, k: usize) -> (TransactionId, bool) {
        let (locks, _store) = super::client();
        let guard = hold(&locks).await;
        let transaction = self.coordinator.begin(&guard).work("a", "one").work("b", "two");
        let id = transaction.id();
        let ended = poll_times(k, transaction.commit()).await.is_some();
        (id, ended)
    }

    fn states(&self) -> [Vec<ShareState>; 2] {
        [self.shelves[0].states(), self.shelves[1].states()]
    }

    async fn is_settled(&self, when: &str) {
        let [a, b] = self.states();
        assert_eq!(a, b, "{when}");
        assert!(!a.contains(&ShareState::Staged), "{when}: {a:?}");
        assert!(self.journal.unsettled().await.unwrap().is_empty(), "{when}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_dropped_at_any_point_is_settled_by_the_next_holder() {
    let (mut committed, mut rolled_back) = (0, 0);
    for k in 0.. {
        let (locks, _store) = super::client();
        let Shop { journal, shelves, coordinator } = Shop::new();

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

/// Drops a transaction at each of its points, and then what ends it, at each of its own.
async fn at_all_points_of_both(ends: impl AsyncFn(&Shop, TransactionId), again: impl AsyncFn(&Shop, TransactionId)) {
    for n in 0.. {
        let mut is_last = false;
        for k in 0.. {
            let shop = Shop::new();
            let (id, ended) = shop.drop_a_transaction(n).await;
            is_last = ended;
            let is_over = poll_times(k, ends(&shop, id)).await.is_some();
            again(&shop, id).await;
            shop.is_settled(&format!("dropped after {n} and {k} polls")).await;
            if is_over {
                break;
            }
        }
        if is_last {
            assert!(n > 4, "there were await points to cancel at");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn resolve_dropped_at_any_point_is_settled_by_the_next() {
    let ends = async |shop: &Shop, id| drop(shop.coordinator.resolve(id).await);
    let again = async |shop: &Shop, id| match shop.coordinator.resolve(id).await {
        Ok(outcome) => assert_eq!(outcome.is_committed(), shop.states()[0] == [ShareState::Committed]),
        Err(error) => assert!(error.kind() == ErrorKind::Missing && shop.states() == [[], []], "{error}"),
    };
    at_all_points_of_both(ends, again).await;
}

#[tokio::test(start_paused = true)]
async fn recovery_of_what_is_old_dropped_at_any_point_is_ended_by_the_next() {
    let ends = async |shop: &Shop, _| drop(shop.coordinator.recover_older(Duration::ZERO).await);
    let again = async |shop: &Shop, _| {
        let recovered = shop.coordinator.recover_older(Duration::ZERO).await.unwrap();
        assert!(recovered.away.is_empty() && recovered.orphans.is_empty(), "{recovered:?}");
    };
    at_all_points_of_both(ends, again).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_dropped_at_any_point_changes_nothing() {
    let shop = Shop::new();
    shop.drop_a_transaction(9).await;
    let (before, states) = (shop.journal.list().await.unwrap(), shop.states());
    assert!(!before.is_empty());
    for k in 0.. {
        let listed = poll_times(k, shop.coordinator.list()).await;
        assert_eq!((shop.journal.list().await.unwrap(), shop.states()), (before.clone(), states.clone()));
        if let Some(records) = listed {
            assert!(k > 2 && records.unwrap().len() == 1, "there were await points to cancel at");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_dropped_at_any_point_has_happened_or_not() {
    let mut left = [0, 0];
    for k in 0.. {
        let shop = Shop::new();
        let (id, ended) = shop.drop_a_transaction(1_000).await;
        assert!(ended);
        let removed = poll_times(k, shop.coordinator.remove(id)).await;
        let still = shop.coordinator.list().await.unwrap().len();
        left[still] += 1;
        match shop.coordinator.remove(id).await {
            Ok(()) => assert_eq!(still, 1),
            Err(error) => assert!(error.kind() == ErrorKind::Missing && still == 0, "{error}"),
        }
        assert!(shop.coordinator.list().await.unwrap().is_empty());
        assert_eq!(shop.states(), [[ShareState::Committed], [ShareState::Committed]], "what was done is left");
        if let Some(removed) = removed {
            assert!(removed.is_ok() && still == 0);
            break;
        }
    }
    assert!(left.iter().all(|&n| n > 1), "there were points before and after: {left:?}");
}

#[tokio::test(start_paused = true)]
async fn an_abandonment_dropped_at_any_point_has_happened_or_not() {
    let mut seen = Vec::new();
    for k in 0.. {
        // Staged on both shelves, and the journal is lost.
        let mut lost = Shop::new();
        for n in 0.. {
            lost.drop_a_transaction(n).await;
            if lost.states() == [[ShareState::Staged], [ShareState::Staged]] {
                break;
            }
            lost = Shop::new();
        }
        let shop = Shop::of(lost.shelves);
        let branch = shop.shelves[0].list(None).await.unwrap().remove(0).branch;
        let abandoned = poll_times(k, shop.coordinator.abandon("a", &branch)).await;
        let [a, b] = shop.states();
        seen.extend(a);
        assert_eq!(b, [ShareState::Staged], "the other was not meant");
        assert_eq!(shop.coordinator.abandon("a", &branch).await.unwrap(), Ack::Done);
        assert_eq!(shop.states(), [[ShareState::RolledBack], [ShareState::Staged]]);
        if let Some(abandoned) = abandoned {
            assert_eq!(abandoned.unwrap(), Ack::Done);
            break;
        }
    }
    assert!(seen.contains(&ShareState::Staged) && seen.contains(&ShareState::RolledBack), "{seen:?}");
}
