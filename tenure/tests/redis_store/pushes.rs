//! Grants are pushed on the connection that commands go over, from the first time that somebody waits.

use std::time::Duration;

use tenure::proto::{ClaimId, Outcome};
use tenure::store::{Push, Store, Watch};
use testkit::Proxy;

use super::*;

fn subscribers(server: &testkit::Redis) -> usize {
    server.command(&["PUBSUB", "CHANNELS", "tenure:inbox:*"]).matches("tenure:inbox:").count()
}

async fn granted(watch: &mut Watch) -> u64 {
    let grant = async {
        loop {
            if let Push::Granted(fence) = watch.next().await {
                return fence;
            }
        }
    };
    within(Duration::from_secs(5), grant).await
}

/// Lets `waiter` stand in the queue behind `holder`, until its grant can reach it.
async fn queue(server: &testkit::Redis, holder: &Redis, waiter: &Redis, ids: [u128; 2]) -> Watch {
    hold(holder, "a", ids[0]).await;
    let watch = waiter.watch(&key("a"), ClaimId::new(ids[1]));
    let reply = waiter.apply(&key("a"), &acquire(ids[1])).await.unwrap();
    assert!(matches!(reply.outcome, Outcome::Busy { ahead: 0, .. }), "{reply:?}");
    until("the inbox is subscribed to", async || subscribers(server) == 1).await;
    watch
}

#[tokio::test]
async fn a_release_pushes_the_grant_to_the_one_who_waits_and_nobody_subscribes_before() {
    let server = testkit::Redis::start();
    let (holder, waiter) = (connect(&server.url()).await, connect(&server.url()).await);
    hold(&holder, "b", 1).await;
    let busy = waiter.apply(&key("b"), &attempt(2)).await.unwrap();
    assert!(matches!(busy.outcome, Outcome::Busy { .. }));
    waiter.ping().await.unwrap();
    assert_eq!(subscribers(&server), 0, "an attempt that does not queue has nothing to be told");

    let mut watch = queue(&server, &holder, &waiter, [3, 4]).await;
    // Subscribed just now, so there may have been a push before; from here on there is none for nothing.
    assert_eq!(within(Duration::from_secs(5), watch.next()).await, Push::Changed);
    holder.apply(&key("a"), &release(3)).await.unwrap();
    let fence = granted(&mut watch).await;
    let reply = waiter.apply(&key("a"), &acquire(4)).await.unwrap();
    assert!(matches!(reply.outcome, Outcome::Held { fence: held, .. } if held == fence), "{reply:?}");
}

#[tokio::test]
async fn pushes_work_again_after_every_client_was_killed() {
    let server = testkit::Redis::start();
    let (holder, waiter) = (connect(&server.url()).await, connect(&server.url()).await);
    let mut watch = queue(&server, &holder, &waiter, [1, 2]).await;
    assert_eq!(within(Duration::from_secs(5), watch.next()).await, Push::Changed);
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"]);
    // Nobody sends anything: the store comes back for the sake of who waits, and says that a push may have been missed.
    assert_eq!(within(Duration::from_secs(5), watch.next()).await, Push::Changed);
    assert_eq!(subscribers(&server), 1);
    until("the holder can let go", async || holder.apply(&key("a"), &release(1)).await.is_ok()).await;
    granted(&mut watch).await;
}

#[tokio::test]
async fn pushes_work_again_after_a_restart() {
    let mut server = testkit::Redis::start();
    let (holder, waiter) = (connect(&server.url()).await, connect(&server.url()).await);
    let mut watch = queue(&server, &holder, &waiter, [1, 2]).await;
    assert_eq!(within(Duration::from_secs(5), watch.next()).await, Push::Changed);
    server.restart();
    assert_eq!(within(Duration::from_secs(5), watch.next()).await, Push::Changed);
    until("the holder is back", async || holder.ping().await.is_ok()).await;
    hold(&holder, "a", 3).await;
    waiter.apply(&key("a"), &acquire(2)).await.unwrap();
    holder.apply(&key("a"), &release(3)).await.unwrap();
    granted(&mut watch).await;
}

/// A wait for the lock that somebody else holds, which is in the queue.
async fn waiter(locks: &tenure::Locks) -> tokio::task::JoinHandle<tenure::Result<tenure::Guard>> {
    let waiter = tokio::spawn(locks.mutex("a").build().unwrap().lock().into_future());
    until("it stands in the queue", async || {
        locks.mutex("a").build().unwrap().info().await.unwrap().waiters.len() == 1
    })
    .await;
    waiter
}

#[tokio::test]
async fn who_waits_goes_on_by_timer_while_no_subscription_is_allowed_and_by_push_once_it_is() {
    let server = testkit::Redis::start();
    server.command(&["ACL", "SETUSER", "locks", "on", "nopass", "~*", "+@all", "resetchannels", "&*"]);
    let theirs = tenure::open(&server.url()).await.unwrap();
    let ours = tenure::open(&server.url().replace("redis://", "redis://locks:any@")).await.unwrap();
    let lock = theirs.mutex("a").build().unwrap();
    let guard = lock.lock().await.unwrap();
    let first = waiter(&ours).await;
    until("the inbox is subscribed to", async || subscribers(&server) == 1).await;
    // Ends the connection as well.
    server.command(&["ACL", "SETUSER", "locks", "resetchannels"]);
    until("the subscription has ended", async || subscribers(&server) == 0).await;
    guard.release().await.unwrap();
    let first = within(Duration::from_secs(3), first).await.unwrap().unwrap();

    server.command(&["ACL", "SETUSER", "locks", "&*"]);
    first.release().await.unwrap();
    let guard = lock.lock().await.unwrap();
    let second = waiter(&ours).await;
    until("the inbox is subscribed to again", async || subscribers(&server) == 1).await;
    guard.release().await.unwrap();
    within(Duration::from_secs(3), second).await.unwrap().unwrap().release().await.unwrap();
    assert_eq!(ours.metrics().lost, 0);
}

#[tokio::test]
async fn who_waits_goes_on_when_every_client_is_killed() {
    let server = testkit::Redis::start();
    let (theirs, ours) = (tenure::open(&server.url()).await.unwrap(), tenure::open(&server.url()).await.unwrap());
    let guard = theirs.mutex("a").build().unwrap().lock().await.unwrap();
    let waiting = waiter(&ours).await;
    for _ in 0..3 {
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        until("the inbox is subscribed to again", async || subscribers(&server) == 1).await;
    }
    assert!(guard.is_held() && !waiting.is_finished());
    drop(guard);
    within(Duration::from_secs(3), waiting).await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test]
async fn who_waits_is_woken_when_a_connection_that_went_deaf_is_replaced() {
    let server = testkit::Redis::start();
    let proxy = Proxy::to(server.port());
    let holder = connect(&server.url()).await;
    let waiter = connect(&format!("{}?response_timeout=300ms", proxy.url())).await;
    let mut watch = queue(&server, &holder, &waiter, [1, 2]).await;
    assert_eq!(within(Duration::from_secs(5), watch.next()).await, Push::Changed);
    proxy.silence(true);
    holder.apply(&key("a"), &release(1)).await.unwrap();
    let error = waiter.apply(&key("a"), &acquire(2)).await.unwrap_err();
    assert!(error.is_ambiguous(), "{error}");
    proxy.cut();
    proxy.silence(false);
    assert_eq!(within(Duration::from_secs(5), watch.next()).await, Push::Changed);
    let reply = waiter.apply(&key("a"), &acquire(2)).await.unwrap();
    assert!(is_held(reply.outcome), "{reply:?}");
}

#[tokio::test]
async fn a_store_that_goes_leaves_neither_connection_nor_subscription() {
    let server = testkit::Redis::start();
    let (holder, waiter) = (connect(&server.url()).await, connect(&server.url()).await);
    let watch = queue(&server, &holder, &waiter, [1, 2]).await;
    drop((watch, holder, waiter));
    until("all are gone", async || server.command(&["CLIENT", "LIST"]).matches("id=").count() == 1).await;
    assert_eq!(subscribers(&server), 0);
}
