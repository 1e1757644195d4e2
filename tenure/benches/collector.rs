//! What gathering commands gains over the client crate's own multiplexed connection, which sends the same scripts.
//!
//! One line per figure: `name: ratio (limit) [absolutes]`. Client and server share nothing but the loopback; the client
//! has one worker thread. Each figure is the median of five runs, the two sides taking turns.

#![allow(clippy::disallowed_methods, reason = "benchmarks live in real time")]

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use rustix::time::{ClockId, clock_gettime};
use tenure::Key;
use tenure::proto::{Acquire, Claim, ClaimId, Op, Outcome, Release};
use tenure::store::{Redis, Store, redis_script};
use testkit::bench::{Limit, figure};

const RUNS: usize = 5;

fn main() {
    let server = testkit::Redis::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::env::var("WORKERS").map_or(1, |w| w.parse().unwrap()))
        .enable_all()
        .build()
        .expect("a runtime can be built");
    runtime.block_on(async {
        if std::env::var("ONLY").is_ok() {
            if std::env::var("PIN").is_ok() {
                std::process::Command::new("taskset").args(["-cp", "0", &server.pid().to_string()]).output().unwrap();
                std::process::Command::new("taskset")
                    .args(["-acp", "1", &std::process::id().to_string()])
                    .output()
                    .unwrap();
            }
            let store = Redis::connect(&server.url()).await.unwrap();
            let client = redis::Client::open(format!("{}?protocol=resp3", server.url())).unwrap();
            let stock = client.get_multiplexed_async_connection().await.unwrap();
            for side in 0..4 {
                let side = std::env::var("SIDE").map_or(side, |s| s.parse().unwrap());
                server.command(&["CONFIG", "RESETSTAT"]);
                let c0 = server.cpu_micros();
                let (store, stock) = (store.clone(), stock.clone());
                let r = if side % 2 == 0 {
                    run(128, 200, move |key, op| apply(store.clone(), key, op)).await
                } else {
                    run(128, 200, move |key, op| send(stock.clone(), key, op)).await
                };
                let info = server.command(&["INFO", "stats"]);
                let f = |n: &str| info.lines().find_map(|l| l.strip_prefix(n)).unwrap().trim().to_string();
                println!(
                    "{side} pairs {} elapsed {:.0} cpu/pair {:.2} server cpu/pair {:.2} reads {} writes {} cmds {}",
                    r.pairs,
                    r.elapsed,
                    r.cpu / r.pairs,
                    (server.cpu_micros() - c0) as f64 / r.pairs,
                    f("total_reads_processed:"),
                    f("total_writes_processed:"),
                    f("total_commands_processed:")
                );
            }
            return;
        }
        let store = Redis::connect(&server.url()).await.expect("the server can be connected to");
        let client = redis::Client::open(format!("{}?protocol=resp3", server.url())).expect("its address is a URL");
        let stock = client.get_multiplexed_async_connection().await.expect("the server can be connected to");

        let (ours, theirs) = compare(&store, &stock, 1, 8_000).await;
        let latency = |run: &Run| run.elapsed / run.pairs;
        let absolutes = format!("{:.1} against {:.1} µs", latency(&ours), latency(&theirs));
        figure(
            "collector: latency of a pair at 1 task",
            latency(&ours) / latency(&theirs),
            Limit::AtMost(1.15),
            &absolutes,
        );

        let (ours, theirs) = compare(&store, &stock, 128, 400).await;
        let (rate, cpu) = (|run: &Run| run.pairs / run.elapsed * 1e6, |run: &Run| run.cpu / run.pairs);
        let absolutes = format!("{:.1} against {:.1} pairs/s", rate(&ours), rate(&theirs));
        figure("collector: throughput at 128 tasks", rate(&ours) / rate(&theirs), Limit::AtLeast(1.8), &absolutes);
        let absolutes = format!("{:.1} against {:.1} µs", cpu(&ours), cpu(&theirs));
        figure(
            "collector: client CPU of a pair at 128 tasks",
            cpu(&ours) / cpu(&theirs),
            Limit::AtMost(0.4),
            &absolutes,
        );

        let (ours, theirs) = compare(&store, &stock, 1_024, 40).await;
        let absolutes = format!("{:.1} against {:.1} µs", ours.p99, theirs.p99);
        figure("collector: p99 of an operation at 1,024 tasks", ours.p99 / theirs.p99, Limit::AtMost(0.25), &absolutes);
    });
}

/// What one run took: microseconds, but for the pairs.
#[derive(Clone, Copy, Default)]
struct Run {
    pairs: f64,
    elapsed: f64,
    cpu: f64,
    p99: f64,
}

/// The medians of each side.
async fn compare(store: &Redis, stock: &MultiplexedConnection, tasks: u32, pairs: u32) -> (Run, Run) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (store, stock) = (store.clone(), stock.clone());
        ours.push(run(tasks, pairs, move |key, op| apply(store.clone(), key, op)).await);
        theirs.push(run(tasks, pairs, move |key, op| send(stock.clone(), key, op)).await);
    }
    (median(&ours), median(&theirs))
}

fn median(runs: &[Run]) -> Run {
    let of = |part: fn(&Run) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(part).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Run { pairs: runs[0].pairs, elapsed: of(|run| run.elapsed), cpu: of(|run| run.cpu), p99: of(|run| run.p99) }
}

async fn apply(store: Redis, key: Arc<Key>, op: Op) -> Outcome {
    store.apply(&key, &op).await.expect("the server answers").outcome
}

async fn send(mut stock: MultiplexedConnection, key: Arc<Key>, op: Op) -> Outcome {
    let command = redis_script::command(format!("tenure:{{{key}}}").as_bytes(), &op, "tenure:inbox:0");
    let value = stock.send_packed_command(&command).await.expect("the server answers");
    redis_script::reply(&op, value).expect("as a script does").outcome
}

/// Each task takes and lets go a lock of its own, so many times.
async fn run<F>(tasks: u32, pairs: u32, operate: impl Fn(Arc<Key>, Op) -> F + Clone + Send + 'static) -> Run
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let times = Arc::new(Mutex::new(Vec::with_capacity((2 * tasks * pairs) as usize)));
    let (start, cpu) = (Instant::now(), cpu_micros());
    let all = (0..tasks).map(|task| {
        let (operate, times) = (operate.clone(), times.clone());
        tokio::spawn(async move {
            let key = Arc::new(Key::new(format!("lock {task}")).expect("it is a name"));
            let mut took = Vec::with_capacity(2 * pairs as usize);
            for pair in 0..pairs {
                let id = ClaimId::new(u128::from(task) << 64 | u128::from(pair));
                for op in [acquire(id), Op::Release(Release { id, bury: Duration::ZERO })] {
                    let (start, is_release) = (Instant::now(), matches!(op, Op::Release(_)));
                    let outcome = operate(key.clone(), op).await;
                    assert!(is_release || matches!(outcome, Outcome::Held { .. }), "{outcome:?}");
                    took.push(start.elapsed());
                }
            }
            times.lock().expect("no poison").extend(took);
        })
    });
    for task in all.collect::<Vec<_>>() {
        task.await.expect("no task panics");
    }
    let (elapsed, cpu) = (start.elapsed().as_secs_f64() * 1e6, cpu_micros() - cpu);
    let mut times = std::mem::take(&mut *times.lock().expect("no poison"));
    times.sort();
    let p99 = times[times.len() * 99 / 100].as_secs_f64() * 1e6;
    Run { pairs: f64::from(tasks) * f64::from(pairs), elapsed, cpu, p99 }
}

fn acquire(id: ClaimId) -> Op {
    Op::Acquire(Acquire {
        id,
        claim: Claim::EXCLUSIVE,
        ttl: Duration::from_secs(30),
        patience: Duration::ZERO,
        owner: None,
        max: 1,
        memory: Duration::from_secs(60),
        meta: Default::default(),
    })
}

/// The CPU time of this process, of all its threads.
fn cpu_micros() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}
