//! `tenure exporter`: what it tells Prometheus, and what it does not do to its store.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use prometheus_parse::{Scrape, Value};
use rustix::process::Signal;
use support::{Running, Store, eventually, text};

/// An exporter that listens.
struct Exporter {
    process: Running,
    address: String,
}

impl Exporter {
    /// One that looks whenever it is asked, save for its rest.
    fn start(store: &Store, options: &[&str]) -> Self {
        Self::start_with(store, &[&["--cache", "0s"], options].concat())
    }

    fn start_with(store: &Store, options: &[&str]) -> Self {
        let mut process = store.start(&[&["exporter", "--listen", "127.0.0.1:0"], options].concat());
        let mut lines = BufReader::new(process.child().stderr.take().expect("it is piped")).lines();
        let line = lines.find_map(|line| Some(line.ok()?).filter(|line| line.contains("http://"))).expect("it listens");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
        let address = address.to_owned();
        // Whatever else it says must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address }
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
    }

    fn request(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("it answers");
        let status = response.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, response.split_once("\r\n\r\n").expect("a body").1.to_owned())
    }

    fn scrape(&self) -> BTreeMap<String, f64> {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "{body}");
        let scrape = Scrape::parse(body.lines().map(|line| Ok(line.to_owned()))).expect("Prometheus reads it");
        let lines = body.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(scrape.samples.len(), lines, "{body}");
        let of = |sample: &prometheus_parse::Sample| {
            assert!(scrape.docs.contains_key(&sample.metric), "{} has no HELP", sample.metric);
            let Value::Gauge(value) = sample.value else { panic!("{sample:?} has no type") };
            let lock = sample.labels.get("lock").map(|lock| format!(" {lock}")).unwrap_or_default();
            (format!("{}{lock}", sample.metric), value)
        };
        scrape.samples.iter().map(of).collect()
    }
}

#[test]
fn it_tells_what_is_held_and_awaited() {
    for store in [Store::sqlite(), Store::redis()] {
        let exporter = Exporter::start(&store, &["--max-locks", "2"]);
        assert_eq!(exporter.scrape()["tenure_store_locks"], 0.0);
        let _holders = [store.hold(&["alpha"]), store.hold(&["be\"ta\\"]), store.hold(&["gamma", "-s"])];
        let _waiter = store.start(&["run", "gamma", "--", "true"]);
        eventually("it waits", || store.counts("gamma") == (1, 1));
        eventually("it is seen", || exporter.scrape()["tenure_store_waiting"] == 1.0);
        let figures = exporter.scrape();
        let figure = |name: &str| figures.get(name).copied();
        assert_eq!([figure("tenure_store_up"), figure("tenure_store_locks")], [Some(1.0), Some(3.0)]);
        assert_eq!([figure("tenure_store_holders"), figure("tenure_store_waiting")], [Some(3.0), Some(1.0)]);
        assert!((0.0..20.0).contains(&figures["tenure_store_oldest_hold_seconds"]), "{figures:?}");
        assert!((10.0..=30.0).contains(&figures["tenure_store_soonest_expiry_seconds"]), "{figures:?}");
        // The one that is waited for, and of the others the one that is held longest.
        assert_eq!([figure("tenure_lock_waiting gamma"), figure("tenure_lock_waiting alpha")], [Some(1.0), Some(0.0)]);
        assert_eq!(figures.keys().filter(|name| name.starts_with("tenure_lock_holders")).count(), 2);
        assert_eq!(figure("tenure_store_locks_untold"), Some(1.0));
        let only = Exporter::start(&store, &["--match", "be*"]).scrape();
        assert_eq!(only["tenure_store_locks"], 1.0);
        assert!(only.keys().any(|name| name.starts_with("tenure_lock_holders be")), "{only:?}");
    }
}

#[test]
fn what_it_tells_is_what_is_documented() {
    let store = Store::sqlite();
    let _holder = store.hold(&["x"]);
    let _waiter = store.start(&["run", "x", "--", "true"]);
    eventually("it waits", || store.counts("x") == (1, 1));
    let told = Exporter::start(&store, &[]).scrape();
    let told: Vec<String> = told.keys().map(|name| name.split(' ').next().unwrap().to_owned()).collect();
    let path = format!("{}/../docs/monitoring.md", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(path).unwrap();
    let names = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut documented: Vec<_> =
        names.filter(|name| name.starts_with("tenure_store_") || name.starts_with("tenure_lock_")).collect();
    documented.sort_unstable();
    assert_eq!(told, documented);
}

#[test]
fn the_store_is_looked_at_no_more_often_than_told() {
    let store = Store::redis();
    let exporter = Exporter::start_with(&store, &["--cache", "1h"]);
    assert_eq!(exporter.scrape()["tenure_store_locks"], 0.0);
    let _holder = store.hold(&["x"]);
    for _ in 0..20 {
        assert_eq!(exporter.scrape()["tenure_store_locks"], 0.0, "what was seen before");
    }
}

#[test]
fn a_store_that_is_down_is_told_and_nothing_from_before() {
    let store = Store::redis();
    let exporter = Exporter::start(&store, &["--timeout", "2s"]);
    let _holder = store.hold(&["x"]);
    eventually("it is seen", || exporter.scrape()["tenure_store_holders"] == 1.0);
    let redis = store.redis.as_ref().expect("it is one");
    redis.pause();
    // After its rest, which may be under way.
    eventually("it is down", || exporter.scrape()["tenure_store_up"] == 0.0);
    let figures = exporter.scrape();
    redis.resume();
    let names: Vec<_> = figures.keys().map(String::as_str).collect();
    assert_eq!(names, ["tenure_store_scrape_duration_seconds", "tenure_store_up"]);
    eventually("it is back", || exporter.scrape()["tenure_store_up"] == 1.0);
}

#[test]
fn a_key_that_is_no_lock_is_told_and_hides_no_other() {
    let store = Store::redis();
    let redis = store.redis.as_ref().expect("it is one");
    redis.command(&["SET", "tenure:{foreign}", "not a lock"]);
    let exporter = Exporter::start(&store, &[]);
    let _holder = store.hold(&["x"]);
    eventually("it is seen", || exporter.scrape().get("tenure_store_holders") == Some(&1.0));
    let figures = exporter.scrape();
    assert_eq!((figures["tenure_store_up"], figures["tenure_store_locks_unread"]), (1.0, 1.0));
}

#[test]
fn a_look_is_kept_though_whoever_asked_hangs_up() {
    let store = Store::redis();
    let redis = store.redis.as_ref().expect("it is one");
    let exporter = Exporter::start_with(&store, &["--cache", "1h"]);
    redis.pause();
    let mut stream = TcpStream::connect(&exporter.address).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
    stream.shutdown(std::net::Shutdown::Write).expect("it is open");
    // It reads on, and so notices, before the store answers.
    std::thread::sleep(std::time::Duration::from_millis(300));
    redis.resume();
    let mut response = [0; 12];
    stream.read_exact(&mut response).expect("the look goes on");
    assert_eq!(&response, b"HTTP/1.1 200");
}

#[test]
fn it_answers_only_what_it_has() {
    let store = Store::sqlite();
    let exporter = Exporter::start(&store, &[]);
    assert_eq!(exporter.get("/healthz"), (200, "ok\n".to_owned()));
    assert!(exporter.get("/").1.contains("/metrics"));
    assert_eq!(exporter.get("/etc/passwd").0, 404);
    assert_eq!(exporter.request("DELETE /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").0, 405);
}

#[test]
fn a_port_in_use_is_told_and_a_signal_ends_it_well() {
    let store = Store::sqlite();
    let exporter = Exporter::start(&store, &[]);
    let output = store.output(&["exporter", "--listen", &exporter.address]);
    let said = text(&output.stderr);
    assert_eq!(support::code(output.status), 71, "{said}");
    assert!(said.contains(&exporter.address) && said.contains("give another port by --listen"), "{said}");
    assert_eq!(store.code(&["exporter", "--listen", "nowhere"]), 64);
    for signal in [Signal::INT, Signal::TERM] {
        let Exporter { process, .. } = Exporter::start(&store, &[]);
        process.signal(signal);
        assert_eq!(process.code(), 0);
    }
}
