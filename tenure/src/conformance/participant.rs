//! Every promise that a participant keeps, as a function that tries it: for whoever writes a [`Participant`].
//!
//! [`check`] wants to know how to give it work and to see what came of it: [`Bench`].

use async_trait::async_trait;

use crate::hold::Fence;
use crate::transaction::TransactionId;
use crate::transaction::participant::{Ack, Branch, Did, Participant, Refusal, Share, ShareState, Vote};

/// What the checks need to know of the work that a participant does: 100 are there, and can be taken.
///
/// # Cancel safety
///
/// It only looks.
#[async_trait]
pub trait Bench: Send + Sync {
    /// Work that takes that many: they are reserved at prepare, gone with the commit, and back with a rollback.
    fn taking(&self, count: u32) -> Vec<u8>;

    /// How many are there, without those that are reserved or gone.
    async fn left(&self) -> u32;
}

fn branch(run: &str, test: &str, n: u128, fence: u64) -> Branch {
    // One run's transactions are not another's.
    let seed = run.bytes().chain(test.bytes()).fold(n, |sum, byte| sum.wrapping_mul(257).wrapping_add(byte.into()));
    let id: TransactionId = format!("{seed:032x}").parse().expect("it has 32 hex digits");
    Branch { id, lock: format!("{run}/{test}"), fence: Fence::new(fence) }
}

fn refusal(vote: Vote) -> Refusal {
    match vote {
        Vote::Refused(refusal) => refusal,
        Vote::Prepared => panic!("it prepared what it had to refuse"),
    }
}

/// Tries everything. `run` is what the locks' names begin with: another one for each time. When it is over, as many are left
/// as before, and one transaction has taken 5.
///
/// # Panics
///
/// Where a promise is broken: which.
pub async fn check(participant: &dyn Participant, bench: &dyn Bench, run: &str) {
    what_is_prepared_is_reserved_and_done_once(participant, bench, run).await;
    what_is_rolled_back_is_given_back_and_not_prepared_again(participant, bench, run).await;
    a_prepare_that_comes_late_finds_the_tombstone(participant, bench, run).await;
    an_older_token_is_refused(participant, bench, run).await;
    what_is_in_doubt_bars_later_holders(participant, bench, run).await;
    what_is_forgotten_is_refused_by_its_token(participant, bench, run).await;
    what_went_another_way_is_told(participant, bench, run).await;
    what_cannot_be_done_is_refused_and_leaves_nothing(participant, bench, run).await;
}

/// Red with: a commit that does not look whether it has been done.
pub async fn what_is_prepared_is_reserved_and_done_once(p: &dyn Participant, bench: &dyn Bench, run: &str) {
    let (before, tx) = (bench.left().await, branch(run, "once", 1, 10));
    for _ in 0..2 {
        assert_eq!(p.prepare(&tx, &bench.taking(5)).await.expect("it answers"), Vote::Prepared);
        assert_eq!(bench.left().await, before - 5, "what is prepared has to be reserved, and once");
    }
    let staged = Share { branch: tx.clone(), state: ShareState::Staged };
    assert!(p.list(Some(&tx.lock)).await.expect("it answers").contains(&staged), "it is not listed under its lock");
    assert_eq!(p.list(Some("another")).await.expect("it answers"), [], "it is listed under another lock");
    assert!(p.list(None).await.expect("it answers").contains(&staged), "what is staged is not listed");
    for _ in 0..2 {
        assert_eq!(p.commit(&tx).await.expect("it answers"), Ack::Done);
        assert_eq!(bench.left().await, before - 5, "what is committed has to be done, and once");
    }
    assert_eq!(
        p.prepare(&tx, &bench.taking(5)).await.expect("it answers"),
        Vote::Prepared,
        "a late one changes nothing"
    );
    assert_eq!(bench.left().await, before - 5, "a prepare after the commit reserved again");
}

/// Red with: a rollback that gives back twice.
pub async fn what_is_rolled_back_is_given_back_and_not_prepared_again(
    p: &dyn Participant,
    bench: &dyn Bench,
    run: &str,
) {
    let (before, tx) = (bench.left().await, branch(run, "back", 1, 10));
    p.prepare(&tx, &bench.taking(5)).await.expect("it answers");
    for _ in 0..2 {
        assert_eq!(p.rollback(&tx).await.expect("it answers"), Ack::Done);
        assert_eq!(bench.left().await, before, "what was reserved has to be given back, and once");
    }
    assert_eq!(refusal(p.prepare(&tx, &bench.taking(5)).await.expect("it answers")), Refusal::RolledBack);
    assert_eq!(bench.left().await, before);
}

/// Red with: a rollback of what was never prepared that leaves nothing.
pub async fn a_prepare_that_comes_late_finds_the_tombstone(p: &dyn Participant, bench: &dyn Bench, run: &str) {
    let (before, tx) = (bench.left().await, branch(run, "tomb", 1, 10));
    assert_eq!(p.rollback(&tx).await.expect("it answers"), Ack::Done);
    assert_eq!(refusal(p.prepare(&tx, &bench.taking(5)).await.expect("it answers")), Refusal::RolledBack);
    // To be forgotten, and no newer token seen: it stays.
    p.forget(&tx).await.expect("it answers");
    assert_eq!(refusal(p.prepare(&tx, &bench.taking(5)).await.expect("it answers")), Refusal::RolledBack);
    assert_eq!(bench.left().await, before);
}

/// Red with: a token that is not compared, or not kept.
pub async fn an_older_token_is_refused(p: &dyn Participant, bench: &dyn Bench, run: &str) {
    let (before, new, old) = (bench.left().await, branch(run, "token", 1, 10), branch(run, "token", 2, 9));
    p.prepare(&new, &bench.taking(1)).await.expect("it answers");
    let vote = p.prepare(&old, &bench.taking(1)).await.expect("it answers");
    assert_eq!(refusal(vote), Refusal::Stale { newest: new.fence });
    p.rollback(&new).await.expect("it answers");
    let vote = p.prepare(&old, &bench.taking(1)).await.expect("it answers");
    assert_eq!(refusal(vote), Refusal::Stale { newest: new.fence }, "the token went with its transaction");
    let same = branch(run, "token", 3, 10);
    assert_eq!(
        p.prepare(&same, &bench.taking(1)).await.expect("it answers"),
        Vote::Prepared,
        "one hold, two transactions"
    );
    p.rollback(&same).await.expect("it answers");
    assert_eq!(bench.left().await, before);
}

/// Red with: no look for what is staged under an older token.
pub async fn what_is_in_doubt_bars_later_holders(p: &dyn Participant, bench: &dyn Bench, run: &str) {
    let (before, old, new) = (bench.left().await, branch(run, "doubt", 1, 9), branch(run, "doubt", 2, 10));
    p.prepare(&old, &bench.taking(1)).await.expect("it answers");
    let vote = p.prepare(&new, &bench.taking(1)).await.expect("it answers");
    assert_eq!(refusal(vote), Refusal::InDoubt { id: old.id });
    assert_eq!(p.prepare(&old, &bench.taking(1)).await.expect("it answers"), Vote::Prepared, "it is staged as before");
    p.rollback(&old).await.expect("it answers");
    assert_eq!(p.prepare(&new, &bench.taking(1)).await.expect("it answers"), Vote::Prepared);
    p.rollback(&new).await.expect("it answers");
    assert_eq!(bench.left().await, before);
}

/// Red with: a share that is forgotten though no newer token was seen.
pub async fn what_is_forgotten_is_refused_by_its_token(p: &dyn Participant, bench: &dyn Bench, run: &str) {
    let (before, tx, next) = (bench.left().await, branch(run, "forget", 1, 9), branch(run, "forget", 2, 10));
    p.prepare(&tx, &bench.taking(1)).await.expect("it answers");
    p.forget(&tx).await.expect("it answers");
    let is_listed =
        async |tx: &Branch| p.list(Some(&tx.lock)).await.expect("it answers").iter().any(|share| share.branch == *tx);
    assert!(is_listed(&tx).await, "what is staged was forgotten");
    p.rollback(&tx).await.expect("it answers");
    assert!(is_listed(&tx).await, "what became of it was forgotten before anybody said so");
    p.forget(&tx).await.expect("it answers");
    assert!(!is_listed(&tx).await, "what is to be forgotten is listed");
    assert_eq!(refusal(p.prepare(&tx, &bench.taking(1)).await.expect("it answers")), Refusal::RolledBack);
    p.prepare(&next, &bench.taking(1)).await.expect("it answers");
    let vote = p.prepare(&tx, &bench.taking(1)).await.expect("it answers");
    assert!(matches!(refusal(vote), Refusal::Stale { .. } | Refusal::RolledBack), "what was forgotten was prepared");
    p.rollback(&next).await.expect("it answers");
    p.forget(&next).await.expect("it answers");
    // Late ones, when all is over.
    assert_eq!(p.rollback(&tx).await.expect("it answers"), Ack::Done);
    p.forget(&tx).await.expect("it answers");
    assert!(!is_listed(&tx).await && !is_listed(&next).await, "a late rollback left something");
    assert_eq!(bench.left().await, before);
}

/// Red with: a commit that is content with nothing.
pub async fn what_went_another_way_is_told(p: &dyn Participant, bench: &dyn Bench, run: &str) {
    let before = bench.left().await;
    let (tx, never) = (branch(run, "way", 1, 10), branch(run, "way", 2, 10));
    p.prepare(&tx, &bench.taking(1)).await.expect("it answers");
    p.rollback(&tx).await.expect("it answers");
    assert_eq!(p.commit(&tx).await.expect("it answers"), Ack::Heuristic(Did::RollBack));
    assert_eq!(p.commit(&never).await.expect("it answers"), Ack::Heuristic(Did::Lose));
    assert_eq!(bench.left().await, before, "a commit did what was not staged");
    let vote = p.prepare(&never, &bench.taking(0)).await.expect("it answers");
    assert_eq!(vote, Vote::Prepared, "a commit of what was not staged left something");
    p.commit(&never).await.expect("it answers");
    assert_eq!(p.rollback(&never).await.expect("it answers"), Ack::Heuristic(Did::Commit));
}

/// Red with: a reservation that is not looked at.
pub async fn what_cannot_be_done_is_refused_and_leaves_nothing(p: &dyn Participant, bench: &dyn Bench, run: &str) {
    let (before, tx) = (bench.left().await, branch(run, "unable", 1, 10));
    let vote = p.prepare(&tx, &bench.taking(before + 1)).await.expect("it answers");
    assert!(matches!(refusal(vote), Refusal::Unable(_)), "more was reserved than there is");
    let vote = p.prepare(&tx, b"not its work").await.expect("it answers");
    assert!(matches!(refusal(vote), Refusal::Unable(_)), "work that is none was taken");
    assert_eq!(bench.left().await, before);
    assert!(p.list(None).await.expect("it answers").iter().all(|share| share.branch != tx), "something is staged");
}
