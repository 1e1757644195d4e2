//! A holder on a real Redis, and what may happen to that: what the holder is told, that it goes on by itself afterwards,
//! and that no key is left without an expiry.

#![cfg(feature = "redis")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use std::time::{Duration, Instant};

use tenure::{ErrorKind, Events, Guard, Lock, Locks, Loss, What};
use testkit::{Proxy, Redis};
use tokio::time::{sleep, timeout};

const TTL: Duration = Duration::from_secs(1);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A lock that is held on a server, and what its client is told.
struct Scene {
    locks: Locks,
    lock: Lock,
    guard: Guard,
    events: Events,
}

impl Scene {
    async fn begin(url: &str) -> Self {
        let locks = tenure::open(url).await.unwrap();
        let lock = locks.mutex("a").ttl(TTL).build().unwrap();
        let mut events = locks.events();
        let guard = lock.lock().await.unwrap();
        // The first renewal: from now on nothing is special.
        next(&mut events, |what| matches!(what, What::Renewed { .. })).await;
        Self { locks, lock, guard, events }
    }

    /// The hold goes on: two renewals come through from now, and on the way there it was never lost.
    async fn goes_on(&mut self, server: &Redis) {
        for _ in 0..2 {
            let seen = next(&mut self.events, |what| matches!(what, What::Renewed { .. })).await;
            assert!(!seen.iter().any(|what| matches!(what, What::Lost { .. })), "{seen:?}");
        }
        assert!(self.guard.is_held());
        assert_every_key_expires(server);
    }

    /// The hold is in doubt.
    async fn becomes_suspect(&mut self) -> String {
        let seen = next(&mut self.events, |what| matches!(what, What::Suspect { .. })).await;
        match seen.last() {
            Some(What::Suspect { error, .. }) => error.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// The hold is lost, like that.
    async fn is_lost(&mut self, how: Loss) -> Vec<What> {
        let seen = next(&mut self.events, |what| matches!(what, What::Lost { .. })).await;
        assert!(matches!(seen.last(), Some(What::Lost { loss, .. }) if *loss == how), "{seen:?}");
        assert_eq!((self.guard.is_held(), timeout(ms(1_000), self.guard.lost()).await), (false, Ok(how)));
        seen
    }

    /// After a loss the lock can be had again through the same client, under a later token.
    async fn can_be_had_again(self, server: &Redis) {
        let Self { locks, lock, guard, .. } = self;
        let old = guard.fence();
        drop(guard);
        let next = timeout(ms(10_000), lock.lock().into_future()).await.expect("it comes free").unwrap();
        assert!(next.fence() > old, "{} after {old}", next.fence());
        assert_every_key_expires(server);
        assert!(next.release().await.unwrap());
        locks.close().await;
        assert_every_key_expires(server);
    }
}

/// What is told up to the first that is as `wanted`, which must come.
async fn next(events: &mut Events, wanted: impl Fn(&What) -> bool) -> Vec<What> {
    let mut seen = Vec::new();
    let found = async {
        loop {
            let what = events.recv().await.expect("the client lives").what;
            seen.push(what);
            if seen.last().is_some_and(&wanted) {
                return;
            }
        }
    };
    let in_time = timeout(ms(10_000), found).await.is_ok();
    assert!(in_time, "it never came, only {seen:?}");
    seen
}

fn assert_every_key_expires(server: &Redis) {
    let count = "local n = 0 for _, key in ipairs(redis.call('KEYS', '*')) do \
                 if redis.call('PTTL', key) < 0 then n = n + 1 end end return n";
    assert_eq!(server.command(&["EVAL", count, "0"]), ":0\r\n", "keys without an expiry");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stops_for_half_a_ttl_costs_nothing() {
    let server = Redis::start();
    let mut scene = Scene::begin(&server.url()).await;
    server.pause();
    sleep(TTL / 2).await;
    assert!(scene.guard.is_held());
    server.resume();
    scene.goes_on(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stops_for_two_ttls_costs_the_hold_which_is_told_before_its_time_there_is_over() {
    let server = Redis::start();
    let mut scene = Scene::begin(&server.url()).await;
    // The last renewal that may come through was sent before this.
    let stopped = Instant::now();
    server.pause();
    let seen = scene.is_lost(Loss::Expired).await;
    assert!(stopped.elapsed() < TTL, "{:?}", stopped.elapsed());
    assert!(seen.iter().any(|what| matches!(what, What::Suspect { .. })), "{seen:?}");
    sleep((stopped + 2 * TTL) - Instant::now()).await;
    let error = scene.guard.refresh().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    server.resume();
    scene.can_be_had_again(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_and_comes_back_empty_has_the_hold_told_gone() {
    let mut server = Redis::start();
    let mut scene = Scene::begin(&server.url()).await;
    server.restart();
    scene.is_lost(Loss::Gone).await;
    scene.can_be_had_again(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_scripts_cost_nothing() {
    let server = Redis::start();
    let mut scene = Scene::begin(&server.url()).await;
    for _ in 0..2 {
        server.command(&["SCRIPT", "FLUSH"]);
        let seen = next(&mut scene.events, |what| matches!(what, What::Renewed { .. })).await;
        assert!(matches!(seen[..], [What::Renewed { .. }]), "{seen:?}");
    }
    scene.goes_on(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_cost_nothing() {
    let server = Redis::start();
    let mut scene = Scene::begin(&server.url()).await;
    for _ in 0..3 {
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        scene.goes_on(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_gets_lost_makes_the_hold_suspect_and_no_more() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port());
    let mut scene = Scene::begin(&proxy.url()).await;
    for _ in 0..3 {
        proxy.lose_reply(1);
        let error = scene.becomes_suspect().await;
        assert!(error.contains("may have been carried out"), "{error}");
        scene.goes_on(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_replies_and_half_closed_connections_cost_nothing() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port());
    let mut scene = Scene::begin(&proxy.url()).await;
    proxy.delay(ms(100));
    for _ in 0..3 {
        scene.goes_on(&server).await;
    }
    let health = scene.locks.health().remove(0);
    assert!(health.up && health.latency > ms(30), "{health:?}");
    proxy.delay(ms(0));
    proxy.half_close();
    scene.goes_on(&server).await;
    proxy.cut();
    scene.goes_on(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_network_costs_the_hold_and_the_node_is_told_down_and_up() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port());
    let mut scene = Scene::begin(&proxy.url()).await;
    let mut nodes = scene.locks.events();
    proxy.silence(true);
    scene.is_lost(Loss::Expired).await;
    next(&mut nodes, |what| matches!(what, What::NodeDown { .. })).await;
    assert!(!scene.locks.health()[0].up);
    proxy.silence(false);
    let locks = scene.locks.clone();
    scene.can_be_had_again(&server).await;
    next(&mut nodes, |what| matches!(what, What::NodeUp)).await;
    assert!(locks.health()[0].up);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_revoked_make_the_hold_suspect_and_then_lost_until_they_are_given_back() {
    let server = Redis::start();
    let rights = ["on", ">secret", "~tenure:*", "&tenure:inbox:*", "+@all"];
    server.command(&[&["ACL", "SETUSER", "locks"][..], &rights].concat());
    let mut scene = Scene::begin(&format!("redis://locks:secret@127.0.0.1:{}", server.port())).await;
    server.command(&["ACL", "SETUSER", "locks", "-evalsha"]);
    let error = scene.becomes_suspect().await;
    assert!(error.contains("does not let this user") && !error.contains("secret"), "{error}");
    server.command(&["ACL", "SETUSER", "locks", "+evalsha"]);
    scene.goes_on(&server).await;

    server.command(&["ACL", "SETUSER", "locks", "-evalsha"]);
    scene.is_lost(Loss::Expired).await;
    server.command(&["ACL", "SETUSER", "locks", "+evalsha"]);
    scene.can_be_had_again(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_memory_lets_holds_go_on_and_nobody_else_in() {
    let server = Redis::start_with(&["--maxmemory-policy", "noeviction"]);
    let mut scene = Scene::begin(&server.url()).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let seen = next(&mut scene.events, |what| matches!(what, What::Renewed { .. })).await;
    assert!(matches!(seen[..], [What::Renewed { .. }]), "{seen:?}");
    let error = scene.locks.mutex("b").build().unwrap().try_lock().await.unwrap_err();
    assert!(error.to_string().contains("raise maxmemory"), "{error}");
    scene.goes_on(&server).await;
    let Scene { guard, lock, .. } = scene;
    assert!(guard.release().await.unwrap());
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert!(lock.try_lock().await.unwrap().is_some());
    assert_every_key_expires(&server);
}
