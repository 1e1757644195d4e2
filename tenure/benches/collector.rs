//! What gathering commands gains over the client crate's own multiplexed connection, which sends the same scripts.
//!
//! One line per figure: `name: ratio (limit) [absolutes]`. Client and server share nothing but the loopback; the client
//! has one worker thread. Each figure is the median of fifteen short runs, the two sides taking turns.

#![allow(clippy::disallowed_methods, reason = "benchmarks live in real time")]

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tenure::Key;
use tenure::proto::{Acquire, Claim, ClaimId, Op, Outcome, Release};
use tenure::store::{Redis, Store, redis_script};
use testkit::bench::{Cost, Limit, Stopwatch, figure, median};

const RUNS: usize = 15;

fn main() {
    let server = testkit::Redis::start();
    // The scheduler that programs have by default, with one worker.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime can be built");
    runtime.block_on(async {
        let store = Redis::connect(&server.url()).await.expect("the server can be connected to");
        let client = redis::Client::open(format!("{}?protocol=resp3", server.url())).expect("its address is a URL");
        let stock = client.get_multiplexed_async_connection().await.expect("the server can be connected to");

        let (ours, theirs) = compare(&store, &stock, 1, 1_500).await;
        let latency = |run: &Run| run.cost.time / run.pairs;
        at_most("collector: latency of a pair at 1 task", 1.15, latency(&ours), latency(&theirs));

        let (ours, theirs) = compare(&store, &stock, 128, 200).await;
        let (rate, cpu) = (|run: &Run| run.pairs / run.cost.time * 1e6, |run: &Run| run.cost.cpu / run.pairs);
        let absolutes = format!("{:.0} against {:.0} pairs/s", rate(&ours), rate(&theirs));
        figure("collector: throughput at 128 tasks", rate(&ours) / rate(&theirs), Limit::AtLeast(1.8), &absolutes);
        at_most("collector: client CPU of a pair at 128 tasks", 0.4, cpu(&ours), cpu(&theirs));

        let (ours, theirs) = compare(&store, &stock, 1_024, 20).await;
        at_most("collector: p99 at 1,024 tasks", 1.0, ours.p99, theirs.p99);
    });
}

fn at_most(name: &str, limit: f64, ours: f64, theirs: f64) {
    figure(name, ours / theirs, Limit::AtMost(limit), &format!("{ours:.1} µs against {theirs:.1} µs"));
}

/// What one run took, and the 99th percentile of its operations in microseconds.
#[derive(Clone, Copy)]
struct Run {
    pairs: f64,
    cost: Cost,
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
    (typical(&ours), typical(&theirs))
}

fn typical(runs: &[Run]) -> Run {
    let of = |part: fn(&Run) -> f64| median(runs.iter().map(part));
    let cost = Cost { time: of(|run| run.cost.time), cpu: of(|run| run.cost.cpu) };
    Run { pairs: runs[0].pairs, cost, p99: of(|run| run.p99) }
}

async fn apply(store: Redis, key: Arc<Key>, op: Op) -> Outcome {
    store.apply(&key, &op).await.expect("the server answers").outcome
}

async fn send(mut stock: MultiplexedConnection, key: Arc<Key>, op: Op) -> Outcome {
    let call = redis_script::Call::new(format!("tenure:{{{key}}}").as_bytes(), &op, "tenure:inbox:0");
    let command = redis_script::command(&[call]);
    let value = stock.send_packed_command(&command).await.expect("the server answers");
    redis_script::reply(&op, value).expect("as a script does").outcome
}

/// Each task takes and lets go a lock of its own, so many times.
async fn run<F>(tasks: u32, pairs: u32, operate: impl Fn(Arc<Key>, Op) -> F + Clone + Send + 'static) -> Run
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let times = Arc::new(Mutex::new(Vec::with_capacity((2 * tasks * pairs) as usize)));
    let stopwatch = Stopwatch::start();
    let all = (0..tasks).map(|task| {
        let (operate, times) = (operate.clone(), times.clone());
        tokio::spawn(async move {
            let key = Arc::new(Key::new(format!("lock {task}")).expect("it is a name"));
            let mut took = Vec::with_capacity(2 * pairs as usize);
            for pair in 0..pairs {
                let id = ClaimId::new(u128::from(task) << 64 | u128::from(pair));
                for op in [acquire(id), Op::Release(Release { id, bury: Duration::ZERO, fence: 0 })] {
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
    let cost = stopwatch.stop();
    let mut times = std::mem::take(&mut *times.lock().expect("no poison"));
    times.sort();
    let p99 = times[times.len() * 99 / 100].as_secs_f64() * 1e6;
    Run { pairs: f64::from(tasks) * f64::from(pairs), cost, p99 }
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
        fence: 0,
    })
}
