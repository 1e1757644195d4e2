//! A master with two replicas, and three Sentinels that watch over them.
//!
//! ```text
//!   Sentinel  Sentinel  Sentinel
//!      └─────────┼─────────┘ watch, and agree on a failover after `DOWN_AFTER`
//!   node 0 ──▶ node 1, node 2       at first node 0 is the master
//! ```

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::redis::{redis_server, roundtrip};
use crate::tls::Certificates;
use crate::{Proxy, Redis, free_port};

/// A replica gets the master's data at once, and not by way of the disk.
const DISKLESS: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

/// What the Sentinels call their master.
const MASTER: &str = "mymaster";

/// After how long a silence, in milliseconds, a Sentinel takes a server to be down.
const DOWN_AFTER: u64 = 1_000;

/// A deployment of one's own, on free loopback ports.
#[derive(Debug)]
pub struct SentinelGroup {
    /// The servers with the data; the first is the master to begin with.
    pub nodes: Vec<Redis>,
    /// Those that watch over them.
    pub sentinels: Vec<Sentinel>,
    /// Under which port the Sentinels know each node.
    known_as: Vec<u16>,
    tls: Option<Certificates>,
    /// What stands between the first node and all who know it by the Sentinels, where something does.
    pub proxy: Option<Proxy>,
}

/// One Sentinel.
#[derive(Debug)]
pub struct Sentinel {
    _dir: TempDir,
    port: u16,
    tls_port: u16,
    child: Child,
}

impl SentinelGroup {
    /// Starts everything, and waits until each knows of all.
    pub fn start() -> Self {
        Self::start_as(None, None)
    }

    /// The same, with a proxy before the first node: replicas and Sentinels know it by that alone.
    pub fn start_behind_proxy() -> Self {
        let master = Redis::start_with(&DISKLESS);
        let proxy = Proxy::raw_to(master.port());
        Self::start_as(Some((master, proxy)), None)
    }

    /// The same, where everyone speaks TLS to everyone; for commands of a test's own there are ports without.
    pub fn start_with_tls() -> Self {
        Self::start_as(None, Some(Certificates::new()))
    }

    fn start_as(behind: Option<(Redis, Proxy)>, tls: Option<Certificates>) -> Self {
        let start = |further: &[&str]| {
            let port = tls.as_ref().map(|_| free_port());
            let secure = tls.as_ref().zip(port).map(|(tls, port)| tls.options(port)).unwrap_or_default();
            let mut options: Vec<&str> = DISKLESS.iter().chain(further).copied().collect();
            options.extend(secure.iter().map(String::as_str));
            options.extend(tls.iter().flat_map(|_| ["--tls-replication", "yes"]));
            let node = Redis::start_with(&options);
            let known_as = port.unwrap_or(node.port());
            (node, known_as)
        };
        let (master, proxy) = match behind {
            Some((master, proxy)) => ((master, proxy.port()), Some(proxy)),
            None => (start(&[]), None),
        };
        let of = format!("127.0.0.1 {}", master.1);
        let replicas = [(); 2].map(|()| start(&["--replicaof", &of]));
        master.0.wait_for_replicas(2);
        let (nodes, known_as): (Vec<_>, Vec<_>) = [master].into_iter().chain(replicas).unzip();
        let sentinels = (0..3).map(|_| Sentinel::start(known_as[0], tls.as_ref())).collect();
        let group = Self { nodes, sentinels, known_as, tls, proxy };
        for sentinel in &group.sentinels {
            wait_for("the Sentinels know each other and the replicas", || {
                let known = sentinel.command(&["SENTINEL", "MASTER", MASTER]);
                let replicas = sentinel.command(&["SENTINEL", "REPLICAS", MASTER]);
                field(&known, "num-other-sentinels") == Some("2")
                    && field(&known, "num-slaves") == Some("2")
                    && replicas.matches("master-link-status\r\n$2\r\nok").count() == 2
            });
        }
        group
    }

    /// `redis-sentinel://127.0.0.1:port,…/mymaster`; with TLS `rediss-sentinel://…?ca=path`.
    pub fn url(&self) -> String {
        let hosts = |port: fn(&Sentinel) -> u16| {
            let hosts: Vec<_> = self.sentinels.iter().map(|one| format!("127.0.0.1:{}", port(one))).collect();
            hosts.join(",")
        };
        match &self.tls {
            None => format!("redis-sentinel://{}/{MASTER}", hosts(|one| one.port)),
            Some(tls) => format!("rediss-sentinel://{}/{MASTER}?ca={}", hosts(|one| one.tls_port), tls.ca().display()),
        }
    }

    /// Which of the nodes a majority of the Sentinels has as the master.
    ///
    /// # Panics
    ///
    /// When there is none within twenty seconds.
    pub fn master(&self) -> usize {
        let mut found = None;
        wait_for("a majority of the Sentinels agrees", || {
            let told = self.sentinels.iter().filter_map(Sentinel::master_port);
            let told: Vec<_> = told.collect();
            let votes = |port: u16| told.iter().filter(|other| **other == port).count();
            found = (0..self.nodes.len()).find(|n| votes(self.known_as[*n]) > self.sentinels.len() / 2);
            found.is_some()
        });
        found.expect("it was found")
    }

    /// Waits until the Sentinels have another node than that as the master, and which it is.
    pub fn master_after(&self, old: usize) -> usize {
        wait_for("another node is the master", || self.master() != old);
        self.master()
    }

    /// Asks the Sentinels to make another node the master, as an administrator would. They may give it up half-way, so ask
    /// until it is so.
    pub fn fail_over(&self) {
        self.sentinels[0].command(&["SENTINEL", "FAILOVER", MASTER]);
    }
}

impl Sentinel {
    fn start(master: u16, tls: Option<&Certificates>) -> Self {
        let dir =
            tempfile::Builder::new().prefix("tenure-sentinel-").tempdir().expect("a temporary folder can be made");
        for _ in 0..5 {
            let (port, tls_port) = (free_port(), free_port());
            let mut settings = tls.map(|tls| tls.settings(tls_port)).unwrap_or_default();
            settings.extend(tls.map(|_| ("tls-replication", "yes".to_owned())));
            if let Some(child) = launch(&dir, port, master, &settings) {
                let sentinel = Self { _dir: dir, port, tls_port, child };
                // So that a test takes seconds, not minutes.
                sentinel.command(&[
                    "SENTINEL",
                    "DEBUG",
                    "publish-period",
                    "200",
                    "info-period",
                    "300",
                    "ask-period",
                    "200",
                ]);
                return sentinel;
            }
        }
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        panic!("a Sentinel did not start; its log says:\n{log}");
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// One command over a connection of its own; the reply as it came, in RESP2.
    pub fn command(&self, args: &[&str]) -> String {
        roundtrip(self.port, args).unwrap_or_else(|error| panic!("{args:?} on port {}: {error}", self.port))
    }

    /// Where it has the master; `None` where it does not answer.
    fn master_port(&self) -> Option<u16> {
        let reply = roundtrip(self.port, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]).ok()?;
        reply.lines().nth(4)?.parse().ok()
    }

    /// Stops the process from running (SIGSTOP); it keeps its connections.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it (SIGKILL), and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a child has a pid");
        kill_process(pid, signal).expect("the Sentinel can be signalled");
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(dir: &TempDir, port: u16, master: u16, settings: &[(&str, String)]) -> Option<Child> {
    let path = dir.path().join("sentinel.conf");
    let settings: String = settings.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
    let text = format!(
        "{settings}port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {MASTER} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}\nsentinel failover-timeout {MASTER} 5000\n\
         sentinel parallel-syncs {MASTER} 2\n",
        dir.path().display()
    );
    std::fs::write(&path, text).expect("a temporary file can be written");
    let log = std::fs::File::create(dir.path().join("log")).expect("the log can be created");
    let mut child = Command::new(redis_server())
        .arg(&path)
        .arg("--sentinel")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file handle can be cloned"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", redis_server().display()));
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if child.try_wait().ok().flatten().is_some() {
            return None;
        }
        if roundtrip(port, &["PING"]).is_ok_and(|reply| reply.starts_with("+PONG")) {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// A field of what a Sentinel tells of a server.
fn field<'a>(reply: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = reply.lines();
    lines.by_ref().find(|line| *line == name)?;
    lines.nth(1)
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "it never came about that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
