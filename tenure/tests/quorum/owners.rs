//! An owner that comes in again, from another process, shares the token under which it is in.

use tenure::proto::{Outcome, Owner};
use tenure::store::Store;

use crate::*;

/// A claim of the owner, as a client of its own sends it; its token.
async fn enter(client: &Client, id: u128) -> u64 {
    let Op::Acquire(claim) = stranger(id, secs(8), 0) else { unreachable!() };
    let claim = Acquire { owner: Some(Owner::new("owner")), max: 9, ..claim };
    match client.quorum.apply(&key("a"), &Op::Acquire(claim)).await.unwrap().outcome {
        Outcome::Held { fence, .. } => fence,
        other => panic!("{other:?}"),
    }
}

/// Knows the members already, and has ways of up to 30 ms to the nodes, another one to each.
async fn far_away(nodes: &[Node], seed: u64) -> Client {
    let client = Client::of(nodes, seed);
    client.mutex("another").try_lock().await.unwrap().unwrap().release().await.unwrap();
    for (i, link) in client.links.iter().enumerate() {
        link.delay(ms((seed * 7 + i as u64 * 11) % 30));
    }
    client
}

/// Fails where those that are asked later are asked for a token of one's own, though one that knows the owner has told the
/// owner's; and where who is slow is outbid instead of waited for.
#[test]
fn its_token_is_minted_once_whichever_nodes_are_slow() {
    seeds(200, |seed| async move {
        let nodes = nodes(5);
        let first = far_away(&nodes, seed * 3).await;
        let fence = enter(&first, 1).await;
        for i in 1..3 {
            let again = far_away(&nodes, seed * 3 + i).await;
            assert_eq!(enter(&again, 1 + u128::from(i)).await, fence, "client {i}");
        }
    });
}

/// Fails where others are asked for a token of one's own because one of those that know the owner failed.
#[test]
fn its_token_is_minted_once_though_a_node_is_away() {
    seeds(200, |seed| async move {
        let nodes = nodes(5);
        let fence = enter(&far_away(&nodes, seed * 3).await, 1).await;
        let again = far_away(&nodes, seed * 3 + 1).await;
        let asks_first: Vec<&Node> = nodes.iter().filter(|node| node.crowd("a").0 == 1).collect();
        // Of those that let the owner in a majority is left, or the others are told of it by those that are left.
        let fault = if seed % 2 == 0 { Fault::Refuse } else { Fault::Hang };
        asks_first[seed as usize % asks_first.len()].fault(fault);
        assert_eq!(enter(&again, 2).await, fence);
    });
}

/// Fails where one that knows the owner and is slow is outbid, as one that nobody needs.
#[test]
fn its_token_is_minted_once_though_a_bare_majority_knows_it() {
    seeds(200, |seed| async move {
        let nodes = nodes(5);
        let (first, again) = (far_away(&nodes, seed * 3).await, far_away(&nodes, seed * 3 + 1).await);
        let (a, b) = (seed as usize % 5, (seed as usize % 5 + 1 + seed as usize / 5 % 4) % 5);
        [a, b].into_iter().for_each(|node| nodes[node].fault(Fault::Refuse));
        let fence = enter(&first, 1).await;
        [a, b].into_iter().for_each(|node| nodes[node].fault(Fault::None));
        assert_eq!(enter(&again, 2).await, fence);
    });
}

/// What is not promised, so that it is known: of three that know the owner one answers, and who asks cannot tell a hold from
/// an attempt that failed.
#[tokio::test(start_paused = true)]
async fn where_too_few_answer_that_know_the_owner_the_token_is_a_later_one() {
    let nodes = nodes(5);
    let (first, again) = (far_away(&nodes, 1).await, far_away(&nodes, 2).await);
    nodes[3..].iter().for_each(|node| node.fault(Fault::Refuse));
    let fence = enter(&first, 1).await;
    nodes[3..].iter().for_each(|node| node.fault(Fault::None));
    nodes[..2].iter().for_each(|node| node.fault(Fault::Refuse));
    let later = enter(&again, 2).await;
    assert!(later > fence);
    assert_eq!(enter(&far_away(&nodes, 3).await, 3).await, later, "from then on it is this one");
}
