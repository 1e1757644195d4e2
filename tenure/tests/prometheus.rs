//! What Prometheus reads of an instrumented program, of the built-in figures, and what the documentation, the dashboard and
//! the alerts say of it.
//!
//! Bugs that were planted and found: a bucket that is not cumulative; a figure without HELP; a figure that is missing in the
//! documentation, and one too many there; a misspelt figure in the dashboard, and in the alerts; names beyond the bound; a
//! gauge that counts a hold twice that is handed on.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]
#![cfg(feature = "metrics")]

mod common;

#[path = "../examples/monitored.rs"]
#[allow(dead_code, unreachable_pub, reason = "its main is not called")]
mod monitored;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{Chaos, Fault, client, ms, run_ready};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use prometheus_parse::{Sample, Scrape, Value};
use tenure::env::Env;
use tenure::{Locks, LocksBuilder};

fn parse(text: &str) -> Scrape {
    let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).expect("Prometheus reads it");
    // As many lines as are no comments: nothing was skipped.
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count();
    let read = scrape.samples.iter().map(|sample| match &sample.value {
        Value::Histogram(buckets) => buckets.len(),
        _ => 1,
    });
    assert_eq!(read.sum::<usize>(), lines, "{text}");
    scrape
}

/// Everything has a type and a HELP, buckets rise, and the last of them is the count.
fn check(text: &str) -> BTreeMap<String, &'static str> {
    let (scrape, mut types) = (parse(text), BTreeMap::new());
    for Sample { metric, value, labels, .. } in &scrape.samples {
        let kind = match value {
            Value::Counter(_) => "counter",
            Value::Gauge(_) => "gauge",
            Value::Histogram(buckets) => {
                assert!(
                    buckets.windows(2).all(|pair| pair[0].count <= pair[1].count),
                    "{metric} {labels:?} {buckets:?}"
                );
                let last = buckets.last().expect("there is one");
                assert_eq!(
                    (last.less_than, Some(last.count)),
                    (f64::INFINITY, single(&scrape, metric, "_count", labels))
                );
                assert!(single(&scrape, metric, "_sum", labels).is_some());
                "histogram"
            }
            _ if ["_sum", "_count"].iter().any(|end| metric.ends_with(end)) => continue,
            other => panic!("{metric} {labels:?} has no type: {other:?}"),
        };
        assert!(scrape.docs.contains_key(metric), "{metric} has no HELP");
        assert_eq!(kind == "counter", metric.ends_with("_total"), "{metric} is a {kind}");
        types.insert(metric.clone(), kind);
    }
    types
}

fn single(scrape: &Scrape, metric: &str, end: &str, labels: &prometheus_parse::Labels) -> Option<f64> {
    let name = format!("{metric}{end}");
    scrape.samples.iter().find(|sample| sample.metric == name && *sample.labels == **labels).map(value)
}

fn value(sample: &Sample) -> f64 {
    match sample.value {
        Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value,
        ref other => panic!("{other:?} is not one value"),
    }
}

/// The sum of a figure over all series with those labels.
fn sum(text: &str, metric: &str, with: &[(&str, &str)]) -> f64 {
    let has = |sample: &Sample| with.iter().all(|(label, value)| sample.labels.get(label) == Some(value));
    let scrape = parse(text);
    scrape.samples.iter().filter(|sample| sample.metric == metric && has(sample)).map(value).sum()
}

fn page(name: &str) -> String {
    let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The figures in the documentation's tables, with their types.
fn documented() -> BTreeMap<String, String> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?.to_owned();
        name.starts_with("tenure_").then_some((name, cells.next()?.to_owned()))
    };
    page("monitoring.md").lines().filter_map(row).collect()
}

/// Whatever looks like a figure in a query, without what is added to a histogram's name.
fn queried(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let figures = words.filter(|word| word.contains("tenure") && *word != "tenure");
    let known = documented();
    let base = |word: &str| {
        let ends = ["_bucket", "_sum", "_count"].iter();
        let base = ends.filter_map(|end| word.strip_suffix(end)).find(|base| known.contains_key(*base));
        base.unwrap_or(word).to_owned()
    };
    figures.map(base).collect()
}

#[tokio::test]
async fn an_instrumented_program_tells_what_is_documented_and_prometheus_reads_it() {
    let text = monitored::scrape().await.unwrap();
    let types = check(&text);
    let documented = documented();
    for (name, kind) in &types {
        assert_eq!(documented.get(name).map(String::as_str), Some(*kind), "{name} in docs/monitoring.md");
    }
    let here =
        documented.keys().filter(|name| !["tenure_store_", "tenure_lock_"].iter().any(|of| name.starts_with(of)));
    let missing: Vec<_> = here.filter(|name| !types.contains_key(*name)).collect();
    assert!(missing.is_empty(), "documented, and not told: {missing:?}");

    assert_eq!(sum(&text, "tenure_failed_total", &[("outcome", "busy"), ("lock", "nightly-report")]), 1.0);
    assert_eq!(sum(&text, "tenure_timeouts_total", &[("kind", "exclusive")]), 1.0);
    assert_eq!(sum(&text, "tenure_lost_total", &[("outcome", "max_hold"), ("lock", "lost")]), 1.0);
    assert_eq!(sum(&text, "tenure_handed_on_total", &[]), 1.0);
    assert_eq!(sum(&text, "tenure_acquired_total", &[("kind", "semaphore")]), 20.0);
    let scrape = parse(&text);
    let names: BTreeSet<_> = scrape.samples.iter().filter_map(|sample| sample.labels.get("lock")).collect();
    assert_eq!(names.len(), 11, "ten names and the others: {names:?}");
    assert!(sum(&text, "tenure_acquired_total", &[("lock", "other")]) > 0.0);
}

#[tokio::test(start_paused = true)]
async fn the_built_in_figures_are_read_by_prometheus_too() {
    let (locks, _store) = client();
    for n in 0..100 {
        let guard = locks.mutex(format!("{n}")).build().unwrap().lock().await.unwrap();
        tokio::time::sleep(ms(n)).await;
        drop(guard);
    }
    let guard = locks.mutex("a").build().unwrap().lock().await.unwrap();
    let text = locks.metrics().to_string();
    let types = check(&text);
    let documented = documented();
    for (name, kind) in types {
        assert_eq!(documented.get(&name).map(String::as_str), Some(kind), "{name} in docs/monitoring.md");
    }
    assert_eq!((sum(&text, "tenure_held", &[]), sum(&text, "tenure_acquired_total", &[])), (1.0, 101.0));
    drop(guard);
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_nothing_that_is_not_told() {
    let dashboard: serde_json::Value = serde_json::from_str(&page("monitoring/grafana.json")).expect("it is JSON");
    let mut expressions = Vec::new();
    gather(&dashboard, &mut expressions);
    let alerts = page("monitoring/alerts.yml");
    let part = |key: &str| {
        let lines = alerts.lines().filter_map(|line| line.trim().strip_prefix(key));
        lines.map(|line| line.trim().to_owned()).filter(|text| !text.is_empty()).collect::<Vec<_>>()
    };
    let (names, queries, reasons) = (part("- alert:"), part("expr:"), part("reason:"));
    assert!(names.len() >= 5 && names.len() == queries.len(), "{names:?} {queries:?}");
    assert_eq!(names.len(), reasons.len(), "each alert says why");
    assert!(expressions.len() >= 10, "{expressions:?}");
    let known = documented();
    for expression in expressions.iter().chain(&queries) {
        let asked = queried(expression);
        assert!(!asked.is_empty(), "{expression} asks for nothing of ours");
        for name in asked {
            assert!(known.contains_key(&name), "{name} in {expression} is not told by anything");
        }
    }
}

fn gather(value: &serde_json::Value, expressions: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            // A variable's values are asked for by a query as well.
            let asked = ["expr", "query"].into_iter().filter_map(|field| fields.get(field)?.as_str());
            expressions.extend(asked.filter(|text| *text != "prometheus").map(str::to_owned));
            fields.values().for_each(|field| gather(field, expressions));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| gather(item, expressions)),
        _ => {}
    }
}

/// A client whose figures go to an exporter of its own.
fn exported(with: impl FnOnce(LocksBuilder) -> LocksBuilder) -> (Locks, Chaos, PrometheusHandle) {
    let env = Env::simulated(7);
    let store = Chaos::new(env.clone());
    let recorder = PrometheusBuilder::new().set_buckets(tenure::Metrics::SECONDS).unwrap().build_recorder();
    let exporter = recorder.handle();
    let builder = Locks::builder(Arc::new(store.clone())).env(env).recorder(Arc::new(recorder));
    (with(builder).build().unwrap(), store, exporter)
}

#[tokio::test(start_paused = true)]
async fn gauges_say_how_many_hold_and_wait_however_that_ends() {
    let (locks, store, exporter) = exported(|builder| builder.ttl(ms(300)).metrics("app"));
    let seen = || {
        let text = exporter.render();
        (sum(&text, "app_held", &[]), sum(&text, "app_waiting", &[]))
    };
    let lock = locks.mutex("a").build().unwrap();
    let guard = lock.lock().await.unwrap();
    let next = tokio::spawn(lock.lock().into_future());
    let cancelled = tokio::spawn(lock.lock().into_future());
    run_ready().await;
    assert_eq!(seen(), (1.0, 2.0));
    cancelled.abort();
    run_ready().await;
    assert_eq!(seen(), (1.0, 1.0));
    // A token of the next one's own has to fit before the store's clock.
    tokio::time::sleep(ms(1)).await;
    drop(guard);
    let guard = next.await.unwrap().unwrap();
    assert_eq!((seen(), locks.metrics().handed_on), ((1.0, 0.0), 1));
    store.fault(Fault::Refuse);
    guard.lost().await;
    assert_eq!(seen(), (0.0, 0.0), "lost, though its guard lives");
    store.fault(Fault::None);
    drop(guard);
    let unlocked = locks.mutex("b").fallback(|_, _| tenure::Instead::Unlocked).retry(0, ms(1)).build().unwrap();
    store.refuse_acquires(true);
    let guard = unlocked.lock().await.unwrap();
    assert!(guard.is_degraded());
    assert_eq!(seen(), (0.0, 0.0), "that holds nothing");
    let metrics = locks.metrics();
    assert_eq!((metrics.held, metrics.waiting), (0, 0), "and so do the built-in figures");
}

#[tokio::test(start_paused = true)]
async fn nodes_are_told_as_they_fare() {
    let (locks, store, exporter) = exported(|builder| builder.op_timeout(ms(100)));
    let lock = locks.mutex("a").build().unwrap();
    drop(lock.lock().await.unwrap());
    let up = || sum(&exporter.render(), "tenure_node_up", &[("node", "memory")]);
    assert_eq!(up(), 1.0);
    store.fault(Fault::Refuse);
    for _ in 0..4 {
        tokio::time::sleep(ms(10)).await;
        lock.try_lock().await.unwrap_err();
    }
    assert_eq!(up(), 0.0);
    assert!(sum(&exporter.render(), "tenure_node_failure_rate", &[]) > 0.0);
}
