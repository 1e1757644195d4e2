//! What monitoring costs an uncontended acquire and release at 128 tasks: each kind of it, and all together, against the
//! same client with nobody listening. And what a million distinct names leave behind.
//!
//! Each figure is the median of fifteen short runs, each beside one with nobody listening, on one worker thread.
//!
//! With a word, only what has that in its name is measured, `names` for the last; with `off` it only tells what the client takes with nobody listening. `cargo xtask bench` has that told by
//! a client compiled with `--features metrics` and by one without, in turns, and sets them against each other.

#![allow(clippy::disallowed_methods, reason = "benchmarks live in real time")]

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use tenure::{Event, Lock, Locks, LocksBuilder, open_store};
use testkit::Redis;
use testkit::bench::{Limit, Stopwatch, figure, median, resident_bytes};
use tracing::dispatcher::{DefaultGuard, set_default};
use tracing::{Dispatch, Subscriber};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

const RUNS: usize = 15;
const TASKS: u32 = 128;
const PAIRS: u32 = 100;

fn main() {
    let server = Redis::start();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime can be built");
    let all = runtime.spawn(async move {
        let word = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
        if word == "off" {
            return off(&server).await;
        }
        if word != "names" {
            costs(&server, &word).await;
        }
        if word == "names" || word.is_empty() {
            names(&server, false).await;
            #[cfg(feature = "metrics")]
            names(&server, true).await;
        }
    });
    runtime.block_on(all).expect("no task panics");
}

/// Who takes and releases, and who is told.
struct Side {
    name: &'static str,
    locks: Locks,
    spans: Option<fn() -> Dispatch>,
}

/// What the client takes with nobody listening.
async fn off(server: &Redis) {
    let side = side(server, "off", None, |builder| builder).await;
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(run(&side).await);
    }
    let [time, cpu] = [0, 1].map(|i| median(runs.iter().map(|cost| cost[i])));
    println!("off: {time:.3} {cpu:.3} µs of time and of client CPU a pair");
}

async fn costs(server: &Redis, word: &str) {
    let mut sides = vec![
        side(server, "off", None, |builder| builder).await,
        side(server, "off, once more", None, |builder| builder).await,
        side(server, "events", None, |builder| builder).await,
        side(server, "a sink", None, |builder| builder.sink(|event: &Event| _ = black_box(event))).await,
        side(server, "spans, kept", Some(kept), |builder| builder).await,
        side(server, "spans to OpenTelemetry, 1 in 100", Some(sampled), |builder| builder).await,
        side(server, "spans to OpenTelemetry, all", Some(exported), |builder| builder).await,
    ];
    #[cfg(feature = "metrics")]
    {
        sides.push(side(server, "metrics", None, recorded).await);
        sides.push(side(server, "metrics, events and spans", Some(kept), recorded).await);
    }
    let listened: Vec<_> = sides.iter().map(|side| side.name.contains("events").then(|| side.locks.events())).collect();
    let heard = Arc::new(AtomicU64::new(0));
    for mut events in listened.into_iter().flatten() {
        let heard = heard.clone();
        tokio::spawn(async move {
            while events.recv().await.is_some() {
                heard.fetch_add(1, Relaxed);
            }
        });
    }
    for side in sides[1..].iter().filter(|side| side.name.contains(word)) {
        let mut runs = Vec::new();
        for round in 0..RUNS {
            // Each beside one of its own, as the machine's other work comes and goes, and each as often the first.
            runs.push(if round % 2 == 0 {
                let on = run(side).await;
                [on, run(&sides[0]).await]
            } else {
                let off = run(&sides[0]).await;
                [run(side).await, off]
            });
        }
        assert!(heard.swap(0, Relaxed) > 0 || !side.name.contains("events"));
        for (what, i) in [("time", 0), ("client CPU", 1)] {
            let ratio = median(runs.iter().map(|[on, off]| on[i] / off[i]));
            let [on, off] = [0, 1].map(|of| median(runs.iter().map(|run| run[of][i])));
            let absolutes = format!("{on:.2} against {off:.2} µs a pair");
            figure(&format!("{what}, {}", side.name), ratio, Limit::AtMost(1.05), &absolutes);
        }
    }
}

async fn side(
    server: &Redis,
    name: &'static str,
    spans: Option<fn() -> Dispatch>,
    with: impl FnOnce(LocksBuilder) -> LocksBuilder,
) -> Side {
    let store = open_store(&server.url()).await.expect("the server can be connected to");
    Side { name, locks: with(Locks::builder(store)).build().expect("the options are valid"), spans }
}

#[cfg(feature = "metrics")]
fn recorded(builder: LocksBuilder) -> LocksBuilder {
    let exporter = metrics_exporter_prometheus::PrometheusBuilder::new();
    let exporter = exporter.set_buckets(tenure::Metrics::SECONDS).expect("there are some").build_recorder();
    // It keeps what was measured one by one until somebody has it summed up: `install` would start a task for that.
    let handle = exporter.handle();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            handle.run_upkeep();
        }
    });
    builder.recorder(Arc::new(exporter))
}

thread_local! {
    /// Who follows spans on the one thread on which all runs, as a program's subscriber does on all of its threads.
    static FOLLOWER: RefCell<Option<DefaultGuard>> = const { RefCell::new(None) };
}

/// Spans of the target `tenure` are kept for as long as they are open, and go nowhere.
fn kept() -> Dispatch {
    Dispatch::new(tracing_subscriber::registry())
}

fn sampled() -> Dispatch {
    telemetry(Sampler::TraceIdRatioBased(0.01))
}

fn exported() -> Dispatch {
    telemetry(Sampler::AlwaysOn)
}

fn telemetry(sampler: Sampler) -> Dispatch {
    fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(sampler: Sampler) -> impl Layer<S> {
        let provider = SdkTracerProvider::builder().with_sampler(sampler).with_batch_exporter(Nowhere).build();
        tracing_opentelemetry::layer().with_tracer(provider.tracer("bench"))
    }
    Dispatch::new(tracing_subscriber::registry().with(layer(sampler)))
}

#[derive(Debug)]
struct Nowhere;

impl SpanExporter for Nowhere {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        drop(black_box(batch));
        Ok(())
    }
}

/// Microseconds of time and of this process's CPU for each pair.
async fn run(side: &Side) -> [f64; 2] {
    // While it lives, spans are looked at everywhere; so it does only here.
    FOLLOWER.set(side.spans.map(|spans| set_default(&spans())));
    let stopwatch = Stopwatch::start();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| tokio::spawn(pairs(side.locks.mutex(format!("lock {task}")).build().expect("it is a name"))))
        .collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
    let cost = stopwatch.stop();
    FOLLOWER.take();
    [cost.time, cost.cpu].map(|micros| micros / f64::from(TASKS * PAIRS))
}

async fn pairs(lock: Lock) {
    for _ in 0..PAIRS {
        let guard = lock.lock().await.expect("the server answers");
        assert!(guard.release().await.expect("the server answers"));
    }
}

/// What a client grows by over a million distinct names: one with its built-in figures alone, or one with the facade, too.
async fn names(server: &Redis, facade: bool) {
    let store = open_store(&server.url()).await.expect("the server can be connected to");
    let builder = Locks::builder(store).fence_memory(std::time::Duration::ZERO);
    #[cfg(feature = "metrics")]
    let builder = if facade { recorded(builder).metrics_by_name(100) } else { builder };
    let told = if facade { "bytes that stay of a name, with the facade" } else { "bytes that stay of a name" };
    let locks = builder.build().expect("the options are valid");
    visit(&locks, 0..100_000).await;
    let before = resident_bytes();
    visit(&locks, 100_000..1_000_000).await;
    let grown = resident_bytes().saturating_sub(before) as f64;
    let absolutes = format!("{:.1} MiB over 900,000 names", grown / 1024.0 / 1024.0);
    figure(told, grown / 900_000.0, Limit::AtMost(8.0), &absolutes);
}

async fn visit(locks: &Locks, names: std::ops::Range<u32>) {
    let width = names.len() as u32 / TASKS + 1;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (locks, end) = (locks.clone(), names.end);
            let first = names.start + task * width;
            tokio::spawn(async move {
                for n in first..(first + width).min(end) {
                    let lock = locks.mutex(format!("a name that is as long as names are: {n}")).build();
                    let guard = lock.expect("it is a name").lock().await.expect("the server answers");
                    if n.is_multiple_of(2) {
                        drop(guard)
                    } else {
                        _ = guard.release().await.expect("the server answers")
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
}
