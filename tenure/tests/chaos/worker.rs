//! A process of clients: this program, started again. Some tasks take locks, hold them for a while, use what they protect
//! and let go, until nobody wants them any more: that is when the input ends.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tenure::{Guard, Lock, Locks};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::chance::Chance;
use crate::history::{End, Entry, Held, Who, now};

/// What a process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) url: String,
    pub(crate) folder: PathBuf,
    pub(crate) resource: u16,
    pub(crate) process: u32,
    pub(crate) tasks: u32,
    pub(crate) names: u32,
    pub(crate) seed: u64,
    /// For how long tokens are remembered.
    pub(crate) memory: Duration,
}

/// How long a hold lasts without renewal.
pub(crate) const TTL: Duration = Duration::from_secs(1);
/// How long a lock is waited for.
const WAIT: Duration = Duration::from_secs(5);

/// The whole life of such a process.
pub(crate) fn main(order: &str) {
    // Nobody is left behind, also where the one who started this is killed.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let order: Order = serde_json::from_str(order).expect("it was written so");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be built").block_on(work(order));
}

async fn work(order: Order) {
    let over = Arc::new(AtomicBool::new(false));
    let told = over.clone();
    let ended = tokio::spawn(async move {
        let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        told.store(true, Relaxed);
    });
    let store = loop {
        match tenure::open_store(&order.url).await {
            Ok(store) => break store,
            Err(error) if over.load(Relaxed) => panic!("the store was never reached: {error}"),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    };
    let locks = Locks::builder(store).fence_memory(order.memory).build().expect("a client can be made");
    let path = order.folder.join(format!("{}.history", order.process));
    let history = Arc::new(Mutex::new(File::create(path).expect("a history can be begun")));
    let tasks: Vec<_> = (0..order.tasks)
        .map(|task| {
            let mut task = Task {
                who: Who(order.process, task),
                count: 0,
                locks: (0..order.names).map(|n| lock(&locks, n)).collect(),
                resource: order.resource,
                chance: Chance::new(order.seed ^ (u64::from(order.process) << 32) ^ u64::from(task)),
            };
            let (history, over) = (history.clone(), over.clone());
            tokio::spawn(async move {
                while !over.load(Relaxed) {
                    let entry = task.take_one().await;
                    let failed = matches!(entry.end, End::Failed(_));
                    let line = serde_json::to_string(&entry).expect("it can be written") + "\n";
                    history.lock().expect("nobody panics").write_all(line.as_bytes()).expect("it can be written");
                    let pause = if failed { 50 } else { task.chance.below(10) };
                    sleep(Duration::from_millis(pause)).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
    locks.close().await;
    ended.abort();
    // The task that reads the input is a thread which does not end.
    std::process::exit(0);
}

fn lock(locks: &Locks, n: u32) -> Lock {
    let lock = locks.mutex(format!("lock-{n}")).ttl(TTL).patience(TTL).op_timeout(Duration::from_millis(800));
    lock.build().expect("a lock can be made")
}

/// One of those that take locks.
struct Task {
    who: Who,
    count: u64,
    locks: Vec<Lock>,
    resource: u16,
    chance: Chance,
}

impl Task {
    async fn take_one(&mut self) -> Entry {
        self.count += 1;
        let id = (u64::from(self.who.0) << 48) | (u64::from(self.who.1) << 40) | self.count;
        let lock = self.locks[self.chance.below(self.locks.len() as u64) as usize].clone();
        let called = now();
        let answer = match self.chance.below(4) {
            0 => lock.try_lock().await,
            _ => lock.lock().timeout(WAIT).await.map(Some),
        };
        let granted = now();
        let (end, hold) = match answer {
            Ok(Some(guard)) => self.hold(guard, id, granted).await,
            Ok(None) => (End::Busy, None),
            Err(error) if error.is_timeout() => (End::Timeout, None),
            Err(error) => (End::Failed(error.to_string()), None),
        };
        Entry { who: self.who, id, name: lock.name().to_owned(), called, end, ended: now(), hold }
    }

    /// Most holds are short, some are longer than a ttl.
    async fn hold(&mut self, guard: Guard, id: u64, granted: u64) -> (End, Option<Held>) {
        let mut held = Held { fence: guard.fence().get(), granted, certain: None, refused: false };
        let length = match self.chance.below(100) {
            0..80 => 1 + self.chance.below(15),
            80..96 => 50 + self.chance.below(250),
            _ => 1_200 + self.chance.below(600),
        };
        let until = granted + length * 1_000;
        let mut certain = look(&guard, &mut held);
        let read = self.use_it("read", &guard, id, "", &mut held).await;
        while certain && now() < until {
            let left = until.saturating_sub(now()) / 1_000;
            sleep(Duration::from_millis(left.clamp(1, 25))).await;
            certain = look(&guard, &mut held);
        }
        // Also where it is lost: a resource that checks the token is there for the sake of those who don't look.
        if let Some(value) = read {
            self.use_it("write", &guard, id, &format!(" {}", value + 1), &mut held).await;
        }
        certain = look(&guard, &mut held);
        let end = match guard.release().await {
            _ if !certain => End::Lost,
            Ok(true) => End::Released,
            Ok(false) => End::Unsure("it was no longer ours".to_owned()),
            Err(error) => End::Unsure(error.to_string()),
        };
        (end, Some(held))
    }

    /// Asks the resource; `None` where it refused, or did not answer.
    async fn use_it(&self, what: &str, guard: &Guard, id: u64, value: &str, held: &mut Held) -> Option<u64> {
        let request = format!("{what} {} {} {id}{value}\n", guard.name(), held.fence);
        let answer = timeout(Duration::from_secs(2), ask(self.resource, &request)).await.ok()?.ok()?;
        let granted = answer.strip_prefix("ok ").and_then(|value| value.trim().parse().ok());
        held.refused |= granted.is_none() && look(guard, held);
        granted
    }
}

/// Whether the hold is certain; then it was at the moment before, and since it was first.
fn look(guard: &Guard, held: &mut Held) -> bool {
    let before = now();
    let certain = guard.is_held();
    if certain {
        let first = held.certain.map_or(before, |(first, _)| first);
        held.certain = Some((first, before));
    }
    certain
}

async fn ask(port: u16, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    Ok(answer)
}
