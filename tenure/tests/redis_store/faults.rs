//! Servers that forget, restart, stop and fall silent; replies that get lost; callers that go. What may have been
//! carried out is told as such, nothing hangs, and everything works again afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tenure::ErrorKind;
use tenure::proto::Outcome;
use tenure::store::Store;
use testkit::Proxy;

use super::*;

/// Locks and unlocks on many tasks until `over`; how often it worked. Only transient errors are let pass.
fn load(store: &Redis, over: &Arc<AtomicBool>, may_fail: bool) -> (Arc<AtomicU64>, Vec<tokio::task::JoinHandle<()>>) {
    let done = Arc::new(AtomicU64::new(0));
    let task = |n: u128| {
        let (store, over, done) = (store.clone(), over.clone(), done.clone());
        tokio::spawn(async move {
            let name = key(&format!("task {n}"));
            for round in 1.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let mut outcome = store.apply(&name, &attempt(round)).await;
                // Whatever became of a command without a reply, the same again says how things stand.
                while may_fail && outcome.as_ref().is_err_and(Error::is_transient) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    outcome = store.apply(&name, &attempt(round)).await;
                }
                assert!(is_held(outcome.unwrap().outcome));
                let mut gone = store.apply(&name, &release(round)).await;
                while may_fail && gone.as_ref().is_err_and(Error::is_transient) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    gone = store.apply(&name, &release(round)).await;
                }
                gone.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    (done.clone(), (0..50).map(task).collect())
}

async fn more(done: &AtomicU64) {
    let before = done.load(Ordering::Relaxed);
    until("the load goes on", async || done.load(Ordering::Relaxed) > before + 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_scripts_are_loaded_again_unseen() {
    let server = testkit::Redis::start();
    let store = connect(&server.url()).await;
    let over = Arc::new(AtomicBool::new(false));
    let (done, tasks) = load(&store, &over, false);
    for _ in 0..20 {
        server.command(&["SCRIPT", "FLUSH"]);
        more(&done).await;
    }
    over.store(true, Ordering::Relaxed);
    for task in tasks {
        within(Duration::from_secs(10), task).await.unwrap();
    }
    let calls = server.command(&["INFO", "commandstats"]);
    let loads = calls.lines().find_map(|line| line.strip_prefix("cmdstat_script|load:calls=")).unwrap();
    let loads: u64 = loads.split(',').next().unwrap().parse().unwrap();
    // Two when connecting, and two for each batch that a flush hits: not one for each of fifty commands.
    assert!((22..20 * 20).contains(&loads), "{loads}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_costs_errors_that_say_what_is_certain_and_nothing_else() {
    let mut server = testkit::Redis::start();
    let store = connect(&server.url()).await;
    let over = Arc::new(AtomicBool::new(false));
    let (done, tasks) = load(&store, &over, true);
    for _ in 0..3 {
        more(&done).await;
        server.restart();
    }
    more(&done).await;
    over.store(true, Ordering::Relaxed);
    for task in tasks {
        within(Duration::from_secs(10), task).await.unwrap();
    }
}

#[tokio::test]
async fn a_lost_reply_is_ambiguous_and_the_same_again_answers() {
    let server = testkit::Redis::start();
    let proxy = Proxy::to(server.port());
    let (store, direct) = (connect(&proxy.url()).await, connect(&server.url()).await);
    server.command(&["CONFIG", "RESETSTAT"]);
    proxy.lose_reply(1);
    let error = within(Duration::from_secs(5), store.apply(&key("a"), &acquire(1))).await.unwrap_err();
    assert!(error.is_ambiguous() && error.to_string().contains("may have been carried out"), "{error}");
    assert_eq!(direct.read(&key("a")).await.unwrap().record.holders.len(), 1, "it was carried out");
    hold(&store, "a", 1).await;
    let calls = server.command(&["INFO", "commandstats"]);
    assert!(calls.contains("cmdstat_evalsha:calls=2,"), "nothing was sent again by itself: {calls}");

    proxy.lose_reply(1);
    let error = store.apply(&key("a"), &release(1)).await.unwrap_err();
    assert!(error.is_ambiguous(), "{error}");
    let reply = store.apply(&key("a"), &release(1)).await.unwrap();
    assert!(matches!(reply.outcome, Outcome::Gone { .. }));
}

#[tokio::test]
async fn of_a_batch_that_breaks_off_every_command_is_answered() {
    let server = testkit::Redis::start();
    let proxy = Proxy::to(server.port());
    let store = connect(&proxy.url()).await;
    let ops: Vec<_> = (0..150).map(|i| (key(&format!("lock {i}")), acquire(1))).collect();
    // They go as three commands, and the second one's answer is the one that is lost.
    proxy.lose_reply(2);
    let replies = within(Duration::from_secs(5), store.apply_many(&ops)).await;
    assert_eq!(replies.len(), 150);
    assert!(replies[50..].iter().all(|reply| reply.as_ref().is_err_and(Error::is_ambiguous)));
    let replies = within(Duration::from_secs(5), store.apply_many(&ops)).await;
    assert!(replies.into_iter().all(|reply| is_held(reply.unwrap().outcome)));
}

#[tokio::test]
async fn a_damaged_record_among_many_concerns_itself_alone() {
    let server = testkit::Redis::start();
    let store = connect(&server.url()).await;
    // It begins as a record does, and says that one entry follows.
    let damaged = format!("tenure2\u{1}{}", "x".repeat(80));
    server.command(&["SET", "tenure:{damaged}", &damaged, "EX", "60"]);
    let ops = ["before", "damaged", "after"].map(|name| (key(name), acquire(1)));
    let replies = store.apply_many(&ops).await;
    assert!(
        is_held(replies[0].clone().unwrap().outcome) && is_held(replies[2].clone().unwrap().outcome),
        "{replies:?}"
    );
    let error = replies[1].clone().unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    assert!(server.command(&["GET", "tenure:{damaged}"]).contains(&damaged), "it was left alone");
}

/// Fails where a script stops at a damaged record: what came before it is asked for again then, and a release among that is
/// told that its claim was gone.
#[tokio::test]
async fn a_release_that_shares_a_call_with_a_damaged_record_was_still_its_own() {
    let server = testkit::Redis::start();
    let store = connect(&server.url()).await;
    let head = |count: char| format!("tenure2{count}{}", "x".repeat(80));
    server.command(&["SET", "tenure:{short}", &head('\u{1}'), "EX", "60"]);
    server.command(&["SET", "tenure:{long}", &format!("{}{}", head('\u{2}'), "x".repeat(200)), "EX", "60"]);
    server.command(&["HSET", "tenure:{crowd}", "h", &head('\u{3}'), "e", "x"]);
    server.command(&["EXPIRE", "tenure:{crowd}", "60"]);
    let damaged = ["short", "long", "crowd"].map(key);
    let renewal = Op::Renew(tenure::proto::Renew { id: ClaimId::new(7), ttl: Duration::from_secs(9), fence: 0 });
    for ask in [acquire(7), renewal, release(7)] {
        hold(&store, "before", 1).await;
        hold(&store, "after", 2).await;
        // One that the short half of the script carries out, and one for the long half.
        let buried = Op::Release(Release { id: ClaimId::new(2), bury: Duration::from_millis(1), fence: 0 });
        let mut ops = vec![(key("before"), release(1))];
        ops.extend(damaged.iter().map(|key| (key.clone(), ask.clone())));
        ops.push((key("after"), buried));
        let replies = store.apply_many(&ops).await;
        for reply in [&replies[0], &replies[4]] {
            assert_eq!(reply.clone().unwrap().outcome, Outcome::Gone { was: tenure::proto::Was::Holding }, "{ask:?}");
        }
        assert!(replies[1..4].iter().all(Result::is_err), "{replies:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn without_a_server_errors_are_certain_and_prompt() {
    let mut server = testkit::Redis::start();
    let store = connect(&server.url()).await;
    server.kill();
    until("the loss is known", async || store.ping().await.is_err_and(|error| error.kind() == ErrorKind::Unavailable))
        .await;
    for _ in 0..10 {
        let start = Instant::now();
        let error = store.apply(&key("a"), &acquire(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(start.elapsed() < Duration::from_millis(1_500), "{:?}", start.elapsed());
    }
    server.restart();
    until("it works again", async || store.ping().await.is_ok()).await;
}

#[tokio::test]
async fn a_stopped_server_is_no_reply_and_then_unavailable_and_then_there_again() {
    let server = testkit::Redis::start();
    let store = connect(&format!("{}?response_timeout=200ms&connect_timeout=200ms", server.url())).await;
    server.pause();
    let error = within(Duration::from_secs(2), store.apply(&key("a"), &acquire(1))).await.unwrap_err();
    assert!(error.is_ambiguous(), "{error}");
    let error = within(Duration::from_secs(2), store.apply(&key("a"), &acquire(2))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    server.resume();
    until("it answers", async || store.ping().await.is_ok()).await;
    // What was sent to the stopped server was carried out when it went on.
    until("the first has it", async || {
        store.apply(&key("a"), &acquire(1)).await.is_ok_and(|reply| is_held(reply.outcome))
    })
    .await;
}

#[tokio::test]
async fn a_read_without_a_reply_is_not_said_to_have_been_carried_out() {
    let server = testkit::Redis::start();
    let options = "?response_timeout=100ms&connect_timeout=100ms";
    for n in 0..3 {
        let store = connect(&format!("{}{options}", server.url())).await;
        server.pause();
        let error = within(Duration::from_secs(2), async {
            match n {
                0 => store.read(&key("a")).await.map(drop),
                1 => store.scan().await.map(drop),
                _ => store.ping().await,
            }
        });
        let error = error.await.unwrap_err();
        server.resume();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().ends_with("sent no reply in time"), "{error}");
    }
}

#[tokio::test]
async fn a_slow_reply_does_not_cost_the_connection_that_others_are_heard_on() {
    let server = testkit::Redis::start();
    let proxy = Proxy::to(server.port());
    let store = connect(&format!("{}?response_timeout=300ms", proxy.url())).await;
    proxy.delay(Duration::from_millis(100));
    let all = (1..=8).map(|i| {
        let store = store.clone();
        tokio::spawn(async move { store.apply(&key(&format!("{i}")), &acquire(i)).await })
    });
    let all: Vec<_> = all.collect();
    for one in all {
        let _ = within(Duration::from_secs(5), one).await.unwrap();
    }
    assert_eq!(proxy.accepted(), 1);
}

#[tokio::test]
async fn half_closed_and_cut_connections_are_replaced() {
    let server = testkit::Redis::start();
    let proxy = Proxy::to(server.port());
    let store = connect(&proxy.url()).await;
    proxy.half_close();
    until("it is connected anew", async || store.ping().await.is_ok() && proxy.accepted() == 2).await;
    proxy.cut();
    until("it is connected anew", async || store.ping().await.is_ok() && proxy.accepted() == 3).await;

    // Connections that end as soon as they are there are not made in a loop.
    proxy.refuse(true);
    proxy.cut();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        let _ = store.ping().await;
    }
    assert!(proxy.accepted() < 20, "{}", proxy.accepted());
    proxy.refuse(false);
    until("it is connected anew", async || store.ping().await.is_ok()).await;
}

#[tokio::test]
async fn callers_that_go_harm_nobody() {
    let server = testkit::Redis::start();
    let store = connect(&server.url()).await;
    for round in 0..200_u64 {
        let all = (0..20_u64).map(|i| {
            let (store, patience) = (store.clone(), Duration::from_micros((round * i) % 300));
            tokio::spawn(async move {
                let (name, op) = (key(&format!("lock {i}")), attempt(1));
                if let Ok(reply) = tokio::time::timeout(patience, store.apply(&name, &op)).await {
                    assert!(is_held(reply.unwrap().outcome));
                }
            })
        });
        for one in all.collect::<Vec<_>>() {
            within(Duration::from_secs(5), one).await.unwrap();
        }
    }
    for i in 0..20 {
        hold(&store, &format!("lock {i}"), 1).await;
    }
}

#[test]
fn a_store_outlives_the_runtime_it_was_made_on() {
    let server = testkit::Redis::start();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = runtime();
    let store = first.block_on(connect(&server.url()));
    first.block_on(hold(&store, "a", 1));
    drop(first);
    let second = runtime();
    second.block_on(async {
        until("it works on another", async || store.ping().await.is_ok()).await;
        hold(&store, "a", 1).await;
    });
}
