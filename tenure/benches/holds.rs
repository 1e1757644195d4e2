//! What it takes to hold 100,000 locks in one process on one Redis: whether any is lost, what their renewals cost the
//! server, beyond what it does anyway, and this process, and the memory.
//!
//! By default a short run: a ttl of 6 s, for 30 s. `FULL=1 cargo bench --bench holds` takes a ttl of 30 s and five minutes.

#![allow(clippy::disallowed_methods, reason = "benchmarks live in real time")]

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, atomic::AtomicUsize};
use std::time::{Duration, Instant};

use redis::{ConnectionLike, Pipeline};
use tenure::proto::{Op, Renew};
use tenure::store::redis_script::{self as script, Call};
use tenure::{Guard, Locks};
use testkit::Redis;
use testkit::bench::{Limit, Stopwatch, figure, median, resident_bytes};

const HOLDS: usize = 100_000;
/// How many are acquired at the same time.
const TASKS: usize = 64;
/// The keeper sends together what is due within this time.
const BURST: Duration = Duration::from_millis(100);
/// The ttl that the limit on this process's CPU is for.
const USUAL: Duration = Duration::from_secs(30);

fn main() {
    let full = std::env::var_os("FULL").is_some();
    let (ttl, time) = if full { (USUAL, 300) } else { (Duration::from_secs(6), 30) };
    let server = Redis::start();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime can be built");
    runtime.block_on(run(&server, ttl, Duration::from_secs(time)));
}

async fn run(server: &Redis, ttl: Duration, time: Duration) {
    let locks = tenure::open(&server.url()).await.expect("the server can be connected to");
    let before = resident_bytes();
    let guards = acquire(&locks, ttl).await;
    let each = (resident_bytes() - before) as f64 / HOLDS as f64;
    figure("memory of a hold that is kept, KiB", each / 1024.0, Limit::AtMost(1.0), &format!("{each:.0} bytes"));

    // One round of renewals passes first, so that all are as they will be.
    tokio::time::sleep(ttl).await;
    let (stopwatch, server_before, renewed) = (Stopwatch::start(), server.cpu_micros(), locks.metrics().renewals);
    server.command(&["CONFIG", "RESETSTAT"]);
    tokio::time::sleep(time).await;
    let (cost, server_cost) = (stopwatch.stop(), (server.cpu_micros() - server_before) as f64);
    let renewed = (locks.metrics().renewals - renewed) as f64;
    let a_call = renewed / calls(server);
    let lost = guards.iter().filter(|guard| !guard.is_held()).count();
    let health = locks.health().remove(0);
    println!("{renewed} renewals in {time:?}, {a_call:.0} in a call, {lost} holds lost; {health:?}");
    assert_eq!((lost, locks.metrics().lost, health.holds), (0, 0, HOLDS), "none is lost");

    // As the keeper asks: for a hold under the token that it has.
    let renewal = |guard: &Guard| Op::Renew(Renew { id: guard.id(), ttl, fence: guard.fence().get() });
    let ops: Vec<_> = guards.iter().map(|guard| (guard.name().to_owned(), renewal(guard))).collect();
    let [single, at_once] = [BURST, Duration::ZERO].map(|pace| single_renewals(server, &ops, ttl, pace));
    let start = Instant::now();
    drop(guards);
    locks.close().await;
    println!("all were dropped and released within {:?}", start.elapsed());
    // The keys are still there, and looking through them for those that are over is most of what the server does anyway.
    let (idle, before) = (Duration::from_secs(10), server.cpu_micros());
    tokio::time::sleep(idle).await;
    let idle = (server.cpu_micros() - before) as f64 / idle.as_secs_f64();
    let (ours, whole) = ((server_cost - idle * time.as_secs_f64()) / renewed, server_cost / renewed);
    let paced = single - idle * (ttl / 3).as_secs_f64() / HOLDS as f64;
    for (of, single) in [("all at once", at_once), ("at the keeper's pace", paced)] {
        let absolutes =
            format!("{ours:.2} against {single:.2} µs of the server's CPU each; {whole:.2} with its idle work");
        figure(&format!("renewals against single pipelined ones, {of}"), ours / single, Limit::AtMost(0.5), &absolutes);
    }
    let share = cost.cpu / cost.time;
    let usual = share * ttl.as_secs_f64() / USUAL.as_secs_f64();
    let absolutes = format!("{:.1} % at a ttl of {ttl:?}, {:.2} µs a renewal", 100.0 * share, cost.cpu / renewed);
    figure("CPU of this process at a ttl of 30 s, share of a core", usual, Limit::AtMost(0.1), &absolutes);
}

/// How many scripts the server ran since its figures were reset.
fn calls(server: &Redis) -> f64 {
    let stats = server.command(&["INFO", "commandstats"]);
    let calls =
        stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next()?.parse().ok());
    calls.expect("scripts ran")
}

async fn acquire(locks: &Locks, ttl: Duration) -> Vec<Guard> {
    let next = Arc::new(AtomicUsize::new(0));
    let guards = Arc::new(Mutex::new(Vec::with_capacity(HOLDS)));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (locks, next, guards) = (locks.clone(), next.clone(), guards.clone());
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Relaxed);
                    if n >= HOLDS {
                        return;
                    }
                    let lock = locks.mutex(format!("held {n}")).ttl(ttl).build().expect("it is a name");
                    let guard = lock.lock().await.expect("the server answers");
                    guards.lock().expect("no task panics").push(guard);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
    std::mem::take(&mut *guards.lock().expect("no task panics"))
}

/// What one renewal costs the server if each is a call of its own, pipelined: microseconds of its CPU. They come as those
/// of the keeper do, in bursts over a third of the ttl: a server that was idle for a moment works slower than one that is
/// kept busy, whatever it is asked. At once, `pace` being nothing, they show by how much.
fn single_renewals(server: &Redis, ops: &[(String, Op)], ttl: Duration, pace: Duration) -> f64 {
    let client = redis::Client::open(server.url()).expect("its address is a URL");
    let mut connection = client.get_connection().expect("the server can be connected to");
    let bursts = (ttl / 3).as_micros().div_ceil(BURST.as_micros()) as usize;
    let costs = ops.chunks(HOLDS / 5).map(|part| {
        let before = server.cpu_micros();
        let mut due = Instant::now();
        for pipelined in part.chunks(HOLDS.div_ceil(bursts)) {
            let mut pipeline = Pipeline::with_capacity(pipelined.len());
            for (name, op) in pipelined {
                let key = format!("tenure:{{{name}}}");
                pipeline.add_command(script::command(&[Call::new(key.as_bytes(), op, "")]));
            }
            let replies = connection.req_packed_commands(&pipeline.get_packed_pipeline(), 0, pipelined.len());
            assert_eq!(replies.expect("the server answers").len(), pipelined.len());
            due += pace;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        (server.cpu_micros() - before) as f64 / part.len() as f64
    });
    median(costs)
}
