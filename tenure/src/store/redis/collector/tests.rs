//! What gathering does, over a transport that notes what it was given.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::*;
use crate::proto::{ClaimId, Op, Release};

/// Answers each call with its key, once it may. A key that begins with `X` has its whole command fail, and before
/// `SCRIPT` was sent, all do.
#[derive(Default)]
struct Echo {
    /// The commands, as the keys of their calls.
    sent: Mutex<Vec<Vec<String>>>,
    writes: AtomicUsize,
    lacks_scripts: std::sync::atomic::AtomicBool,
    gate: Option<Semaphore>,
}

impl Echo {
    fn closed() -> Self {
        Self { gate: Some(Semaphore::new(0)), ..Self::default() }
    }

    fn open(&self) {
        self.gate.as_ref().unwrap().add_permits(1_000);
    }

    async fn answer(&self, command: &Cmd) -> Value {
        let words: Vec<String> = command
            .args_iter()
            .map(|arg| if let redis::Arg::Simple(arg) = arg { String::from_utf8_lossy(arg).into() } else { "".into() })
            .collect();
        let keys = match words[0].as_str() {
            "EVALSHA" => words[3..][..words[2].parse().unwrap()].to_vec(),
            _ => words,
        };
        self.sent.lock().unwrap().push(keys.clone());
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        match keys[0].as_str() {
            "SCRIPT" => {
                self.lacks_scripts.store(false, Ordering::Relaxed);
                Value::Okay
            }
            _ if self.lacks_scripts.load(Ordering::Relaxed) => error("NOSCRIPT none"),
            _ if keys.iter().any(|key| key.starts_with("{moved}")) => error("MOVED 1 127.0.0.1:1"),
            _ if keys.iter().any(|key| key.starts_with('X')) => error("OOM no"),
            _ if keys.len() == 1 => echoed(&keys[0]),
            _ => Value::Array([NOW].into_iter().chain(keys.into_iter().map(Value::SimpleString)).collect()),
        }
    }

    fn sent(&self) -> Vec<Vec<String>> {
        self.sent.lock().unwrap().clone()
    }
}

impl Transport for Arc<Echo> {
    async fn one(&self, command: &Cmd) -> Result<Value> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Ok(self.answer(command).await)
    }

    async fn many(&self, commands: &Pipeline) -> Result<Vec<Value>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let mut values = Vec::new();
        for command in commands.cmd_iter() {
            values.push(self.answer(command).await);
        }
        Ok(values)
    }
}

fn error(line: &str) -> Value {
    redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap()
}

/// The server's clock.
const NOW: Value = Value::Int(7);

fn echoed(key: &str) -> Value {
    Value::Array(vec![NOW, Value::SimpleString(key.into())])
}

fn collector(echo: Echo) -> (Arc<Echo>, Collector<Arc<Echo>>) {
    let echo = Arc::new(echo);
    (echo.clone(), Collector::new(echo, Dialect::Server, vec![redis::cmd("SCRIPT")], None))
}

fn call(key: &str) -> Call {
    Call::new(key.as_bytes(), &Op::Release(Release { id: ClaimId::new(1), bury: Duration::ZERO, fence: 0 }), "")
}

fn crowd(collector: &Collector<Arc<Echo>>) -> Vec<tokio::task::JoinHandle<Value>> {
    let task = |i| {
        let collector = collector.clone();
        tokio::spawn(async move { collector.call(call(&format!("k{i}"))).await.unwrap() })
    };
    (0..100).map(task).collect()
}

#[tokio::test]
async fn a_lone_call_goes_straight_and_a_crowd_goes_together() {
    let (echo, collector) = collector(Echo::default());
    assert_eq!(collector.call(call("alone")).await.unwrap(), echoed("alone"));
    for (i, task) in crowd(&collector).into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), echoed(&format!("k{i}")), "each gets its own answer");
    }
    // The transport of this test answers at once, so nothing is ever under way when the next one looks.
    assert_eq!(echo.sent().len(), 101);

    let (echo, collector) = self::collector(Echo::closed());
    let tasks = crowd(&collector);
    while echo.sent().len() < 3 {
        tokio::task::yield_now().await;
    }
    echo.open();
    for (i, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), echoed(&format!("k{i}")));
    }
    let sizes: Vec<_> = echo.sent().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 50, 49]);
}

#[tokio::test]
async fn one_error_is_one_calls_error() {
    let (echo, collector) = collector(Echo::default());
    let values = collector.call_many(&["a", "X", "b"].map(call)).await;
    let values: Vec<_> = values.into_iter().map(Result::unwrap).collect();
    assert_eq!(values, [echoed("a"), error("OOM no"), echoed("b")]);
    assert_eq!(echo.sent(), [vec!["a", "X", "b"], vec!["a"], vec!["X"], vec!["b"]]);
}

#[tokio::test]
async fn on_a_cluster_each_slot_has_a_command_and_all_go_in_one_write() {
    let echo = Arc::new(Echo::default());
    let collector = Collector::new(echo.clone(), Dialect::Shard, vec![redis::cmd("SCRIPT")], None);
    let keys = ["{a}1", "{b}1", "{a}2", "{moved}1", "{moved}2", "{b}2"];
    let values: Vec<_> = collector.call_many(&keys.map(call)).await.into_iter().map(Result::unwrap).collect();
    for (key, value) in keys.iter().zip(values) {
        assert_eq!(value, if key.starts_with("{moved}") { error("MOVED 1 127.0.0.1:1") } else { echoed(key) });
    }
    assert_eq!(echo.sent(), [["{a}1", "{a}2"], ["{b}1", "{b}2"], ["{moved}1", "{moved}2"]]);
    assert_eq!(echo.writes.load(Ordering::Relaxed), 1);

    let many: Vec<Call> = (0..60).map(|n| call(&format!("{{a}}{n}"))).collect();
    assert!(collector.call_many(&many).await.into_iter().all(|value| value.is_ok()));
    let sizes: Vec<_> = echo.sent()[3..].iter().map(Vec::len).collect();
    assert_eq!((sizes, echo.writes.load(Ordering::Relaxed)), (vec![50, 10], 2));

    // Those that lack their script are sent again, and no others.
    echo.lacks_scripts.store(true, Ordering::Relaxed);
    let values: Vec<_> =
        collector.call_many(&["{a}1", "{b}1"].map(call)).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(values, [echoed("{a}1"), echoed("{b}1")]);
    assert_eq!(echo.sent()[5..], [["{a}1"], ["{b}1"], ["SCRIPT"], ["{a}1"], ["{b}1"]]);
}

#[tokio::test]
async fn who_is_gone_before_the_sending_is_not_sent_and_harms_nobody() {
    let (echo, collector) = collector(Echo::closed());
    let calls = ["first", "gone", "stays"].map(|key| {
        let collector = collector.clone();
        Box::pin(async move { collector.call(call(key)).await })
    });
    let [mut first, mut gone, mut stays] = calls;
    for call in [&mut first, &mut gone, &mut stays] {
        assert!(futures_util::poll!(call.as_mut()).is_pending());
    }
    drop(gone);
    // A caller that nobody polls any more keeps nobody waiting.
    echo.open();
    assert_eq!(stays.await.unwrap(), echoed("stays"));
    assert_eq!(echo.sent(), [["first"], ["stays"]]);
    drop(first);
    assert_eq!(collector.0.under_way.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn scripts_are_loaded_for_who_lacks_them() {
    let (echo, collector) = collector(Echo::default());
    echo.lacks_scripts.store(true, Ordering::Relaxed);
    let values: Vec<_> = collector.call_many(&["a", "b"].map(call)).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(values, [echoed("a"), echoed("b")]);
    assert_eq!(echo.sent(), [vec!["a", "b"], vec!["SCRIPT"], vec!["a", "b"]]);
    echo.lacks_scripts.store(true, Ordering::Relaxed);
    assert_eq!(collector.call(call("c")).await.unwrap(), echoed("c"));
    assert_eq!(echo.sent()[3..], [["c"], ["SCRIPT"], ["c"]]);
}

#[test]
fn a_runtime_that_ends_leaves_no_caller_hanging() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (echo, collector) = collector(Echo::closed());
    let (first, carrying) = (runtime(), runtime());
    let spawn = |key: &'static str| {
        let collector = collector.clone();
        let task = first.spawn(async move { collector.call(call(key)).await });
        first.block_on(tokio::task::yield_now());
        task
    };
    let alone = spawn("alone");
    // The carrier of this queue is spawned on a runtime that ends before it runs.
    let mut queued = Box::pin(collector.call(call("queued")));
    carrying.block_on(async { assert!(futures_util::poll!(queued.as_mut()).is_pending()) });
    let behind = spawn("behind");
    drop(carrying);
    let error = runtime().block_on(queued).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    echo.open();
    first.block_on(alone).unwrap().unwrap();
    assert_eq!(first.block_on(behind).unwrap().unwrap(), echoed("behind"), "it is carried by its own runtime then");
    let late = async { tokio::time::timeout(Duration::from_secs(5), collector.call(call("late"))).await };
    assert_eq!(first.block_on(late).unwrap().unwrap(), echoed("late"));
}
