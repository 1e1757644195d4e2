//! Every promise of `tenure::conformance`, on every store: one trial for each pair, `store::promise`.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Trial};
use tempfile::TempDir;
use tenure::conformance::{PROMISES, Promise, Subject};
use tenure::store::{Atomic, Breaker, Fallback, Memory, Quorum, Ring, Store};

#[allow(dead_code, reason = "it also runs by itself")]
#[path = "../examples/register.rs"]
mod register;

/// A way to get at a store: made once in a run, and asked for a subject for each trial.
type Setting = Arc<dyn Fn() -> Subject + Send + Sync>;

/// The stores, each under the name that its trials have.
fn stores() -> Vec<(&'static str, Setting)> {
    vec![
        ("memory", memory()),
        ("breaker", breaker()),
        ("fallback", fallback()),
        ("quorum", quorum()),
        ("ring", ring()),
        ("register", one_file()),
        #[cfg(feature = "sqlite")]
        ("sqlite", sqlite()),
        #[cfg(feature = "redis")]
        ("redis", redis()),
        #[cfg(feature = "redis")]
        ("sentinel", sentinel("")),
        #[cfg(feature = "redis")]
        ("sentinel_replicas", sentinel("?replicas=1")),
        #[cfg(feature = "redis")]
        ("redlock", redlock()),
        #[cfg(feature = "redis")]
        ("cluster", cluster()),
    ]
}

fn memory() -> Setting {
    let memory = Memory::new();
    Arc::new(move || subject(memory.clone(), |memory| async { memory }))
}

/// A store that passes everything on keeps every promise of what is behind it.
fn breaker() -> Setting {
    let memory = Memory::new();
    Arc::new(move || subject(memory.clone(), |memory| async { Breaker::new(Arc::new(memory)) }))
}

/// With a primary that answers, as good as the primary.
fn fallback() -> Setting {
    let memory = Memory::new();
    let open = |primary| async { Fallback::new(Arc::new(primary), Arc::new(Memory::new())) };
    Arc::new(move || subject(memory.clone(), open))
}

/// Five nodes; each handle is a client of its own.
fn quorum() -> Setting {
    let nodes: Vec<Memory> = (0..5).map(|_| Memory::new()).collect();
    let open = |nodes: Vec<Memory>| async {
        let builder = Quorum::builder().longest_ttl(Duration::from_secs(3600));
        let name = |i: usize| format!("node-{i}");
        let named = nodes.into_iter().enumerate().map(|(i, node)| (name(i), Arc::new(node)));
        named.fold(builder, |builder, (name, node)| builder.node(name, node)).build().expect("it can be built")
    };
    Arc::new(move || subject(nodes.clone(), open))
}

fn ring() -> Setting {
    let nodes: Vec<Memory> = (0..3).map(|_| Memory::new()).collect();
    let open = |nodes: Vec<Memory>| async {
        let builder = Ring::builder().longest_ttl(Duration::from_secs(3600));
        let named = nodes.into_iter().enumerate().map(|(i, node)| (format!("node-{i}"), Arc::new(node)));
        named.fold(builder, |builder, (name, node)| builder.node(name, 1, node)).build().expect("it can be built")
    };
    Arc::new(move || subject(nodes.clone(), open))
}

/// Five servers that write to disk before they answer, and so vote from the start.
#[cfg(feature = "redis")]
fn redlock() -> Setting {
    let servers = std::sync::OnceLock::new();
    Arc::new(move || {
        let start = |_| testkit::Redis::start_durable();
        let servers: &Vec<testkit::Redis> = servers.get_or_init(|| (0..5).map(start).collect());
        let hosts: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        let url = format!("redlock://{}?longest_ttl=60m&node_timeout=2s", hosts.join(","));
        subject(url, |url| async move { Quorum::connect(&url).await.expect("the servers answer") })
    })
}

/// A file for each trial, for it is written as a whole.
fn one_file() -> Setting {
    let (folder, count) = (folder(), AtomicUsize::new(0));
    Arc::new(move || {
        let path = folder.path().join(count.fetch_add(1, Relaxed).to_string());
        subject(path, |path| async { Atomic::new(register::OneFile::new(path)) })
    })
}

/// One file for all, and a thread and a connection for each handle.
#[cfg(feature = "sqlite")]
fn sqlite() -> Setting {
    let folder = folder();
    Arc::new(move || {
        let path = folder.path().join("locks.db");
        subject(path, |path| async { tenure::store::Sqlite::open(path).expect("the file can be opened") })
    })
}

/// One server for all, which starts with the first trial that wants it, and a connection for each handle.
#[cfg(feature = "redis")]
fn redis() -> Setting {
    let server = std::sync::OnceLock::new();
    Arc::new(move || {
        let url = server.get_or_init(testkit::Redis::start).url();
        subject(url, |url| async move { tenure::store::Redis::connect(&url).await.expect("the server answers") })
    })
}

/// Six nodes for all, of which each lock has a shard.
#[cfg(feature = "redis")]
fn cluster() -> Setting {
    let cluster = std::sync::OnceLock::new();
    Arc::new(move || {
        let url = cluster.get_or_init(|| testkit::Cluster::start_with_timeout(10_000)).url();
        let open = |url: String| async move { tenure::store::RedisCluster::connect(&url).await.expect("it answers") };
        subject(url, open)
    })
}

/// A master, two replicas and three Sentinels for all.
#[cfg(feature = "redis")]
fn sentinel(options: &'static str) -> Setting {
    let group = std::sync::OnceLock::new();
    Arc::new(move || {
        let url = group.get_or_init(testkit::SentinelGroup::start).url() + options;
        subject(url, |url| async move { tenure::store::Redis::connect(&url).await.expect("the master answers") })
    })
}

fn subject<T, S, F>(place: T, open: fn(T) -> F) -> Subject
where
    T: Clone + Send + Sync + 'static,
    S: Store,
    F: Future<Output = S> + Send + 'static,
{
    Subject::new(move || {
        let opened = open(place.clone());
        async { Arc::new(opened.await) as Arc<dyn Store> }
    })
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("tenure-stores-").tempdir().expect("a temporary folder can be made")
}

fn try_it(promise: Promise, setting: &Setting) -> Completion {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.expect("a runtime can be built").block_on(promise.check(setting())) {
        true => Completion::Completed,
        false => Completion::ignored_with("the store does not make this promise"),
    }
}

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for (store, setting) in stores() {
        trials.extend(PROMISES.iter().map(|promise| {
            let setting = setting.clone();
            let name = format!("{store}::{}", promise.name());
            Trial::ignorable_test(name, move || Ok(try_it(*promise, &setting)))
        }));
    }
    let mut arguments = Arguments::from_args();
    // The trials wait more than they work.
    arguments.test_threads = arguments.test_threads.or(Some(8));
    libtest_mimic::run(&arguments, trials).exit_code()
}
