//! Holders that are processes of their own: this test program, started again. One is stopped for longer than its hold lasts,
//! and an owner comes in from several.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tenure::{Guard, Locks, What};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::*;

const TTL: Duration = Duration::from_secs(1);

/// A process that does what it is told by lines, and answers by lines.
struct Process {
    child: Child,
    said: UnboundedReceiver<String>,
}

impl Process {
    fn start(role: &str, url: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.args(["--exact", "holder::a_child", "--ignored", "--nocapture"]);
        command.env("TENURE_TEST_ROLE", role).env("TENURE_TEST_URL", url);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this program starts again");
        let said = lines(child.stdout.take().expect("it is a pipe"));
        Self { child, said }
    }

    fn tell(&mut self, order: &str) {
        writeln!(self.child.stdin.as_mut().expect("it is a pipe"), "{order}").expect("the child lives");
    }

    /// The next thing that it says; between them is what the test harness prints.
    async fn hear(&mut self) -> String {
        loop {
            let line = within(Duration::from_secs(10), self.said.recv()).await.expect("the child lives");
            if let Some((_, said)) = line.split_once("> ") {
                return said.to_owned();
            }
        }
    }

    async fn hear_until(&mut self, wanted: &str) {
        while self.hear().await != wanted {}
    }

    async fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.hear().await
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a child has a pid");
        kill_process(pid, signal).expect("a child can be signalled");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is read, line by line, by a thread: neither a process nor a runtime may wait for the other one to read.
fn lines(from: impl std::io::Read + Send + 'static) -> UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

fn say(what: impl std::fmt::Display) {
    println!("> {what}");
}

/// What a process does that was started by one of the tests below; by itself nothing.
#[tokio::test]
#[ignore = "the other tests start it"]
async fn a_child() {
    let Ok(role) = std::env::var("TENURE_TEST_ROLE") else { return };
    let url = std::env::var("TENURE_TEST_URL").expect("it goes with the role");
    let (locks, orders) = (tenure::open(&url).await.unwrap(), lines(std::io::stdin()));
    match role.as_str() {
        "holder" => hold_on(&locks, orders).await,
        owner => come_and_go(&locks.owner(owner), orders).await,
    }
}

/// Holds the lock, takes it again when it is lost, and says what happens to it.
async fn hold_on(locks: &Locks, mut orders: UnboundedReceiver<String>) {
    let mut events = locks.events();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            match event.what {
                What::Acquired { fence, .. } => say(format!("acquired {fence}")),
                What::Lost { fence, loss } => say(format!("lost {fence}: {loss:?}")),
                what => say(what.name()),
            }
        }
    });
    let lock = locks.mutex("a").ttl(TTL).build().unwrap();
    loop {
        let guard = lock.lock().await.unwrap();
        loop {
            tokio::select! {
                _ = guard.lost() => break,
                order = orders.recv() => match order {
                    Some(_) => say(format!("held: {}", held_after_a_pause(&guard))),
                    None => return,
                }
            }
        }
    }
}

/// Whether the lock is held, looked at before anything else can run: this thread is the runtime's only one.
fn held_after_a_pause(guard: &Guard) -> bool {
    // The signal may come as soon as it is said.
    let mut last = Instant::now();
    say(format!("certain for {}", guard.remaining().as_micros()));
    loop {
        let now = Instant::now();
        if now - last >= TTL {
            return guard.is_held();
        }
        last = now;
        std::thread::sleep(Duration::from_millis(1));
    }
}

async fn come_and_go(owner: &Locks, mut orders: UnboundedReceiver<String>) {
    let lock = owner.mutex("a").reentrant(2).build().unwrap();
    let mut guards = Vec::new();
    while let Some(order) = orders.recv().await {
        match order.as_str() {
            "enter" => match lock.try_lock().await {
                Ok(Some(guard)) => {
                    say(format!("in with {}", guard.fence()));
                    guards.push(guard);
                }
                Ok(None) => say("busy"),
                Err(error) => say(format!("{:?}", error.kind())),
            },
            _ => say(format!("left: {}", guards.pop().expect("it is in").release().await.unwrap())),
        }
    }
}

/// Red with: `is_held` that looks at the state alone, and not at the time; a hold that ended by its time, told as one that
/// the store no longer has; renewals by which the store keeps it for half of its time, or for three times as long.
#[tokio::test]
async fn who_was_stopped_for_twice_its_ttl_knows_that_its_hold_is_over_before_anybody_tells_it_and_goes_on() {
    let server = testkit::Redis::start();
    let locks = tenure::open(&server.url()).await.unwrap();
    let mut holder = Process::start("holder", &server.url());
    let first: u64 = holder.hear().await.strip_prefix("acquired ").expect("the lock is free").parse().unwrap();
    // So that none is under way when it is stopped.
    holder.hear_until("renewed").await;
    let told = Instant::now();
    let certain = holder.ask("look when you were stopped").await;
    let certain = Duration::from_micros(certain.strip_prefix("certain for ").expect("it looks").parse().unwrap());
    holder.signal(Signal::STOP);
    let stopped = Instant::now();

    let info = locks.info("a").await.unwrap();
    let left = info.holders[0].until.duration_since(info.read_at).unwrap();
    assert!(left <= TTL, "{left:?}");
    let other = locks.mutex("a").build().unwrap().lock().timeout(TTL * 2).await.unwrap();
    assert!(told.elapsed() >= certain, "in after {:?}, and the holder was certain for {certain:?}", told.elapsed());
    let after = stopped.elapsed();
    assert!((left..left + TTL / 2).contains(&after), "{after:?}, and it had {left:?} left");
    assert!(other.fence().get() > first, "{other:?}, after {first}");

    tokio::time::sleep(TTL * 2 - stopped.elapsed()).await;
    holder.signal(Signal::CONT);
    assert_eq!(holder.hear().await, "held: false", "its first look");
    assert_eq!(holder.hear().await, format!("lost {first}: Expired"), "before it does anything else");
    assert_eq!(holder.hear().await, "waiting");
    assert!(other.is_held(), "the one that woke harmed nobody");
    let fence = other.fence().get();
    assert!(other.release().await.unwrap());
    let again: u64 = holder.hear().await.strip_prefix("acquired ").expect("it goes on").parse().unwrap();
    assert!(again > fence, "{again}, after {fence}");
    holder.hear_until("renewed").await;
    // That no record without an expiry is left is looked at when the server goes.
}

/// Red with: an owner whom the script takes for a stranger; a bound that lets one more in; a fence of its own for each of an
/// owner's claims.
#[tokio::test]
async fn an_owner_is_one_in_all_processes_and_a_stranger_is_not() {
    let server = testkit::Redis::start();
    let locks = tenure::open(&server.url()).await.unwrap();
    let [mut one, mut two, mut three] = ["ann", "ann", "ann"].map(|owner| Process::start(owner, &server.url()));
    let mut stranger = Process::start("bob", &server.url());
    let entered = one.ask("enter").await;
    assert!(entered.starts_with("in with "), "{entered}");
    // Whoever waits for the owner must not be waited for by it.
    let lock = locks.mutex("a").build().unwrap();
    let waits = tokio::spawn(async move { lock.lock().await });
    until("somebody waits", async || locks.info("a").await.unwrap().waiters.len() == 1).await;

    assert_eq!(two.ask("enter").await, entered, "at once, and with the same fence");
    assert_eq!(stranger.ask("enter").await, "busy");
    assert_eq!(three.ask("enter").await, "ReentryLimit", "both are counted");
    assert_eq!(locks.info("a").await.unwrap().holders.len(), 2);

    assert_eq!(one.ask("leave").await, "left: true");
    assert_eq!(stranger.ask("enter").await, "busy", "one of the two is in");
    assert_eq!(three.ask("enter").await, entered, "and there is room for one more of them");
    assert_eq!(three.ask("leave").await, "left: true");
    assert!(!waits.is_finished());
    assert_eq!(two.ask("leave").await, "left: true");
    let guard = within(Duration::from_secs(5), waits).await.unwrap().unwrap();
    assert_ne!(format!("in with {}", guard.fence()), entered);
    assert!(guard.release().await.unwrap());
    assert!(stranger.ask("enter").await.starts_with("in with "), "it is free");
}
