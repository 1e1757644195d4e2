//! What gathering does, over a transport that notes what it was given.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

use super::*;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Answers each command with its own name, once it may; `SCRIPT` makes the commands that begin with `E` known.
#[derive(Default)]
struct Echo {
    sent: Mutex<Vec<Vec<String>>>,
    knows_scripts: std::sync::atomic::AtomicBool,
    gate: Option<Semaphore>,
}

impl Echo {
    fn closed() -> Self {
        Self { gate: Some(Semaphore::new(0)), ..Self::default() }
    }

    fn open(&self) {
        self.gate.as_ref().unwrap().add_permits(1_000);
    }

    async fn answer(&self, names: Vec<String>) -> Vec<Value> {
        self.sent.lock().unwrap().push(names.clone());
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        let answer = |name: String| match &name[..1] {
            "S" => {
                self.knows_scripts.store(true, Ordering::Relaxed);
                Value::Okay
            }
            "E" if !self.knows_scripts.load(Ordering::Relaxed) => error("NOSCRIPT none"),
            "X" => error("OOM no"),
            _ => Value::SimpleString(name),
        };
        names.into_iter().map(answer).collect()
    }
}

fn error(line: &str) -> Value {
    redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap()
}

fn name(command: &Cmd) -> String {
    command
        .args_iter()
        .map(|arg| if let redis::Arg::Simple(arg) = arg { String::from_utf8_lossy(arg) } else { "".into() })
        .collect()
}

impl Transport for Arc<Echo> {
    async fn one(&self, command: &Cmd) -> Result<Value> {
        Ok(self.answer(vec![name(command)]).await.swap_remove(0))
    }

    async fn many(&self, commands: &Pipeline) -> Result<Vec<Value>> {
        Ok(self.answer(commands.cmd_iter().map(name).collect()).await)
    }
}

fn collector(echo: Echo) -> (Arc<Echo>, Collector<Arc<Echo>>) {
    let echo = Arc::new(echo);
    (echo.clone(), Collector::new(echo, vec![redis::cmd("SCRIPT")]))
}

fn echoed(name: &str) -> Value {
    Value::SimpleString(name.into())
}

#[tokio::test]
async fn a_lone_command_goes_straight_and_a_crowd_goes_together() {
    let (echo, collector) = collector(Echo::default());
    assert_eq!(collector.call(redis::cmd("alone")).await.unwrap(), echoed("alone"));
    let tasks: Vec<_> = (0..100)
        .map(|i| {
            let collector = collector.clone();
            tokio::spawn(async move { collector.call(redis::cmd(&format!("c{i}"))).await.unwrap() })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), echoed(&format!("c{i}")), "each gets the answer to its own command");
    }
    // The transport of this test answers at once, so nothing is ever under way when the next one looks.
    assert_eq!(echo.sent.lock().unwrap().len(), 101);

    let (echo, collector) = self::collector(Echo::closed());
    let tasks: Vec<_> = (0..100)
        .map(|i| {
            let collector = collector.clone();
            tokio::spawn(async move { collector.call(redis::cmd(&format!("c{i}"))).await.unwrap() })
        })
        .collect();
    while echo.sent.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    echo.open();
    for (i, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), echoed(&format!("c{i}")));
    }
    let sizes: Vec<_> = echo.sent.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 99]);
}

#[tokio::test]
async fn one_error_is_one_commands_error() {
    let (echo, collector) = collector(Echo::closed());
    echo.open();
    let all = ["a", "X", "b", "X", "c"].map(|name| collector.call(redis::cmd(name)));
    let values = futures_util::future::join_all(all).await;
    let values: Vec<_> = values.into_iter().map(Result::unwrap).collect();
    assert_eq!(values, [echoed("a"), error("OOM no"), echoed("b"), error("OOM no"), echoed("c")]);
}

#[tokio::test]
async fn who_is_gone_before_the_sending_is_not_sent_and_harms_nobody() {
    let (echo, collector) = collector(Echo::closed());
    let calls: Vec<_> = ["first", "gone", "stays"]
        .map(|name| {
            let collector = collector.clone();
            Box::pin(async move { collector.call(redis::cmd(name)).await })
        })
        .into();
    let [mut first, mut gone, mut stays] = <[_; 3]>::try_from(calls).ok().unwrap();
    for call in [&mut first, &mut gone, &mut stays] {
        assert!(futures_util::poll!(call.as_mut()).is_pending());
    }
    drop(gone);
    // A caller that nobody polls any more keeps nobody waiting.
    echo.open();
    assert_eq!(stays.await.unwrap(), echoed("stays"));
    assert_eq!(*echo.sent.lock().unwrap(), [["first"], ["stays"]]);
    drop(first);
    assert_eq!(collector.0.under_way.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn scripts_are_loaded_once_for_all_who_lack_them() {
    let (echo, collector) = collector(Echo::default());
    let mut pipeline = Pipeline::new();
    for name in ["E1", "a", "E2"] {
        pipeline.cmd(name);
    }
    let values: Vec<_> = collector.call_many(pipeline).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(values, [echoed("E1"), echoed("a"), echoed("E2")]);
    assert_eq!(*echo.sent.lock().unwrap(), [vec!["E1", "a", "E2"], vec!["SCRIPT", "E1", "E2"]]);
    echo.knows_scripts.store(false, Ordering::Relaxed);
    assert_eq!(collector.call(redis::cmd("E3")).await.unwrap(), echoed("E3"));
    assert_eq!(echo.sent.lock().unwrap()[3], ["SCRIPT", "E3"]);
}

#[test]
fn a_runtime_that_ends_leaves_no_caller_hanging() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (echo, collector) = collector(Echo::closed());
    let (first, carrying) = (runtime(), runtime());
    let alone = first.spawn({
        let collector = collector.clone();
        async move { collector.call(redis::cmd("alone")).await }
    });
    first.block_on(tokio::task::yield_now());
    // The carrier of this queue is spawned on a runtime that ends before it runs.
    let mut queued = Box::pin(collector.call(redis::cmd("queued")));
    carrying.block_on(async { assert!(futures_util::poll!(queued.as_mut()).is_pending()) });
    drop(carrying);
    let error = runtime().block_on(queued).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    echo.open();
    first.block_on(alone).unwrap().unwrap();
    let late = async { tokio::time::timeout(Duration::from_secs(5), collector.call(redis::cmd("late"))).await };
    assert_eq!(first.block_on(late).unwrap().unwrap(), echoed("late"));
}
