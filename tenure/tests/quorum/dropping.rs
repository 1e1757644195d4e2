//! Changes of members are dropped at every await point, and whoever comes next ends them; so are those who only look.

use std::collections::BTreeSet;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tenure::Result;
use tenure::store::Store;
use testkit::cancelled_after;

use crate::members::{client, names};
use crate::*;

/// How the members are changed.
type Change = fn(&Quorum) -> BoxFuture<'_, Result<()>>;

/// Who holds the lock on changes and is gone holds it for so long at the most.
const LOCKED: Duration = Duration::from_secs(31);

/// Drops `change` after so many polls, ends it as somebody else, and tells where it stood. `begin` is what went before.
async fn drop_and_end(polls: usize, begin: Option<Change>, change: Change) -> &'static str {
    let nodes = nodes(5);
    let [beginner, changer, other] = [1, 2, 3].map(|seed| client(&nodes, seed));
    changer.delay(ms(3));
    let history = History::default();
    let held = history.try_lock(&other.mutex("held"), 1).await.unwrap().unwrap();
    let (old, _) = names(&other).await;
    if let Some(begin) = begin {
        // It stops between, while both the old and the new members decide.
        assert!(tokio::time::timeout(secs(5), begin(&beginner.quorum)).await.is_err());
        sleep(LOCKED).await;
    }
    let ended = cancelled_after(polls, change(&changer.quorum)).await;
    let is_done = ended.is_some_and(|ended| ended.map(|()| true).unwrap());
    if !is_done {
        sleep(LOCKED).await;
    }
    let (before, becoming) = names(&other).await;
    let finishes = polls.is_multiple_of(2);
    match finishes {
        true => other.quorum.finish_change(|_| ()).await.unwrap(),
        false => other.quorum.undo_change(|_| ()).await.unwrap(),
    }
    let (members, left) = names(&other).await;
    assert_eq!(left, None);
    match &becoming {
        Some(new) => assert_eq!(members, if finishes { new.clone() } else { old.clone() }),
        None => assert_eq!(members, before, "there was nothing to end, after {polls} polls"),
    }
    assert!(held.is_held(), "the hold survived, stopped after {polls} polls");
    // And another change goes through.
    other.quorum.change_members(&["node-0", "node-1", "node-4"], |_| ()).await.unwrap();
    assert!(held.is_held());
    release(held).await;
    release(history.try_lock(&changer.mutex("held"), 1).await.unwrap().unwrap()).await;
    match (is_done, becoming.is_some(), before == old) {
        (true, true, _) => panic!("it is done, and between"),
        (true, ..) => "done",
        (false, true, _) => "between",
        (false, false, true) => "before",
        (false, false, false) => "after",
    }
}

/// Drops it at every await point; where it stood then.
fn at_every_point(begin: Option<Change>, change: Change) -> BTreeSet<&'static str> {
    let mut stopped = BTreeSet::new();
    for polls in 0.. {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let step = runtime.block_on(drop_and_end(polls, begin, change));
        stopped.insert(step);
        if step == "done" {
            break;
        }
        assert!(polls < 1_000, "it gets to its end");
    }
    stopped
}

/// Fails where what is left of a change that was dropped cannot be finished or undone by another client.
#[test]
fn a_change_that_stopped_anywhere_is_ended_by_somebody_else() {
    let changes: [Change; 4] = [
        |quorum| quorum.add("node-3").boxed(),
        |quorum| quorum.remove("node-2").boxed(),
        |quorum| quorum.replace("node-0", "node-3").boxed(),
        |quorum| quorum.change_members(&["node-2", "node-3", "node-4"], |_| ()).boxed(),
    ];
    for change in changes {
        let stopped = at_every_point(None, change);
        assert!(["before", "between", "done"].iter().all(|step| stopped.contains(step)), "{stopped:?}");
    }
}

/// Fails where the end of a change is nobody else's to end.
#[test]
fn the_end_of_a_change_that_stopped_anywhere_is_ended_by_somebody_else() {
    let begin: Change = |quorum| quorum.replace("node-0", "node-3").boxed();
    let ends: [Change; 2] =
        [|quorum| quorum.finish_change(|_| ()).boxed(), |quorum| quorum.undo_change(|_| ()).boxed()];
    for end in ends {
        let stopped = at_every_point(Some(begin), end);
        assert!(["between", "done"].iter().all(|step| stopped.contains(step)), "{stopped:?}");
    }
}

/// Fails where one who only looks leaves anything at a node.
#[tokio::test(start_paused = true)]
async fn who_looks_at_members_and_nodes_leaves_nothing() {
    let looks: [fn(&Quorum) -> BoxFuture<'_, usize>; 2] = [
        |quorum| async { quorum.members().await.unwrap().members.len() }.boxed(),
        |quorum| async { quorum.status().await.len() }.boxed(),
    ];
    for look in looks {
        for polls in 0.. {
            let nodes = nodes(3);
            let client = client(&nodes, 1);
            client.delay(ms(3));
            let seen = cancelled_after(polls, look(&client.quorum)).await;
            sleep(secs(1)).await;
            for node in &nodes {
                assert!(node.keys().is_empty() && node.take_done().is_empty(), "after {polls} polls");
            }
            if let Some(seen) = seen {
                assert!(seen == 3 && polls > 1, "there were await points to cancel at");
                break;
            }
        }
    }
}

/// Fails where a push that came between two polls is kept by the future that was dropped.
#[tokio::test(start_paused = true)]
async fn a_watch_at_all_members_loses_no_push() {
    let nodes = nodes(3);
    let [ours, theirs] = [1, 2].map(|seed| client(&nodes, seed));
    for polls in 0..4 {
        let name = format!("a{polls}");
        let held = ours.mutex(&name).try_lock().await.unwrap().unwrap();
        let Op::Acquire(claim) = stranger(10 + polls as u128, secs(5), 0) else { unreachable!() };
        let claim = Op::Acquire(Acquire { patience: secs(5), ..claim });
        let mut watch = theirs.quorum.watch(&key(&name), claim.id());
        theirs.quorum.apply(&key(&name), &claim).await.unwrap();
        // What the claim itself brought about is heard before.
        while watch.next().now_or_never().is_some() {}
        {
            let mut next = Box::pin(watch.next());
            for _ in 0..polls {
                assert!((&mut next).now_or_never().is_none());
            }
            held.release().await.unwrap();
            sleep(ms(10)).await;
        }
        assert!(watch.next().now_or_never().is_some(), "it was kept, after {polls} polls");
        let reply = theirs.quorum.apply(&key(&name), &claim).await.unwrap();
        assert!(matches!(reply.outcome, tenure::proto::Outcome::Held { .. }), "{reply:?}");
    }
}
