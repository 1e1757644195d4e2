//! Who waits in the queue of a node that ceases to be a member waits on in that of another one.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tenure::env::Env;
use tenure::store::{Memory, Quorum, Store};
use tenure::{ErrorKind, Locks};

/// A client of three nodes, and of a fourth that may become a member.
fn quorum(env: &Env, nodes: &HashMap<String, Arc<Memory>>) -> Quorum {
    let builder = Quorum::builder().env(env.clone());
    let builder = builder
        .longest_ttl(Duration::from_secs(2))
        .view_lease(Duration::from_secs(1))
        .token_memory(Duration::from_secs(2));
    let all = nodes.clone();
    let builder = builder.opener(move |name| {
        let node = all.get(&name).cloned();
        async move {
            let node = node.ok_or_else(|| tenure::Error::new(ErrorKind::Missing, "there is no such node"))?;
            Ok(node as Arc<dyn Store>)
        }
    });
    let named = ["a", "b", "c"].iter().map(|name| (*name, nodes[*name].clone()));
    named.fold(builder, |builder, (name, node)| builder.node(name, node)).build().expect("it can be built")
}

/// Found by `cargo xtask chaos --topology quorum3 --nemesis members`: the acquisition panicked.
#[tokio::test(start_paused = true)]
async fn who_waits_at_a_node_that_leaves_gets_the_lock_all_the_same() {
    let env = Env::simulated(1);
    let nodes: HashMap<String, Arc<Memory>> =
        ["a", "b", "c", "d"].map(|name| (name.to_owned(), Arc::new(Memory::with_env(env.clone())))).into();
    let (one, other) = (quorum(&env, &nodes), quorum(&env, &nodes));
    one.add("d").await.expect("the nodes answer");
    let client = |quorum: Quorum| {
        Locks::builder(Arc::new(quorum))
            .env(env.clone())
            .fence_memory(Duration::from_secs(2))
            .build()
            .expect("it can be made")
    };
    let (holder, waiter) = (client(one.clone()), client(other));
    // So many that the fourth node is the home of some.
    let names: Vec<String> = (0..24).map(|n| format!("lock-{n}")).collect();
    let ttl = Duration::from_secs(1);
    let mut guards = Vec::new();
    for name in &names {
        let lock = holder.mutex(name.as_str()).ttl(ttl).build().expect("it can be made");
        guards.push(lock.lock().await.expect("it is free"));
    }
    let waits = names.iter().map(|name| {
        let lock = waiter.mutex(name.as_str()).ttl(ttl).patience(ttl).build().expect("it can be made");
        tokio::spawn(async move { lock.lock().timeout(Duration::from_secs(60)).await.map(drop) })
    });
    let waits: Vec<_> = waits.collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    one.remove("d").await.expect("the nodes answer");
    tokio::time::sleep(Duration::from_secs(2)).await;
    for guard in guards {
        assert!(guard.release().await.expect("the nodes answer"), "a hold was lost");
    }
    for wait in waits {
        wait.await.expect("nothing panics").expect("the lock is had in time");
    }
}
