//! One Redis server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::proxy::frame;
use crate::{Clock, free_port};

/// Where `redis-server` is: `$REDIS_SERVER`, or as the shell would find it.
pub fn redis_server() -> PathBuf {
    std::env::var_os("REDIS_SERVER").map_or_else(|| PathBuf::from("redis-server"), PathBuf::from)
}

/// A Redis server of one's own, on a free loopback port and a socket, with its files in a folder that goes with it.
#[derive(Debug)]
pub struct Redis {
    dir: TempDir,
    port: u16,
    options: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
    child: Child,
}

impl Redis {
    /// Starts a server that keeps nothing on disk, and waits until it answers.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with further options, as on its command line: `&["--appendonly", "yes"]`.
    pub fn start_with(options: &[&str]) -> Self {
        Self::start_in(&std::env::temp_dir(), options, &[])
    }

    /// Starts a server that writes each command to its file before it answers, where possible in memory that looks like a
    /// disk: what it says of itself counts in tests, not the disk.
    pub fn start_durable() -> Self {
        Self::start_in(&in_memory(), &DURABLE, &[])
    }

    /// The same by a clock of its own, which must outlive it.
    pub fn start_by_clock(clock: &Clock) -> Self {
        Self::start_in(&in_memory(), &DURABLE, &clock.environment())
    }

    fn start_in(folder: &Path, options: &[&str], environment: &[(&'static str, PathBuf)]) -> Self {
        let dir = tempfile::Builder::new().prefix("tenure-redis-").tempdir_in(folder);
        let dir = dir.expect("a temporary folder can be made");
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        // Between looking for a free port and binding it, somebody else may take it.
        for _ in 0..5 {
            let port = free_port();
            if let Some(child) = launch(dir.path(), port, &options, environment) {
                return Self { dir, port, options, environment: environment.to_vec(), child };
            }
        }
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        panic!("redis-server did not start; its log says:\n{log}");
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The path of its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder with its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
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

    /// Kills it if it still runs and starts it again, with the same port, folder and options.
    pub fn restart(&mut self) {
        self.kill();
        let child = launch(self.dir.path(), self.port, &self.options, &self.environment);
        self.child = child.expect("redis-server starts again on its port");
    }

    /// One command over a connection of its own; the reply as it came, in RESP2, and nothing for `OK`.
    pub fn command(&self, args: &[&str]) -> String {
        roundtrip(self.port, args).unwrap_or_else(|error| panic!("{args:?} on port {}: {error}", self.port))
    }

    /// The same, where the server may not be there.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn try_command(&self, args: &[&str]) -> std::io::Result<String> {
        roundtrip(self.port, args)
    }

    /// Waits until that many replicas follow this server and have acknowledged something.
    ///
    /// # Panics
    ///
    /// When they do not within twenty seconds.
    pub fn wait_for_replicas(&self, count: usize) {
        let follows = |line: &&str| line.contains("state=online") && !line.contains(",offset=0,");
        let start = Instant::now();
        while self.command(&["INFO", "replication"]).lines().filter(follows).count() < count {
            assert!(start.elapsed() < Duration::from_secs(20), "there never were {count} replicas");
            // So that there is something to acknowledge.
            self.command(&["PUBLISH", "tenure:testkit", ""]);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The CPU time that the server has used so far, in microseconds.
    pub fn cpu_micros(&self) -> u64 {
        let info = self.command(&["INFO", "cpu"]);
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("INFO cpu has the field");
            (line.trim().parse::<f64>().expect("it is a number") * 1e6) as u64
        };
        field("used_cpu_sys:") + field("used_cpu_user:")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a child has a pid");
        kill_process(pid, signal).expect("the server can be signalled");
    }
}

impl Drop for Redis {
    /// Ends the server.
    ///
    /// # Panics
    ///
    /// When a lock's record is on it that never expires. Whoever kills it first, or lets nobody in, is not asked.
    fn drop(&mut self) {
        let running = matches!(self.child.try_wait(), Ok(None));
        let eternal = if running { roundtrip(self.port, &["EVAL", ETERNAL, "0"]).ok() } else { None };
        self.kill();
        if let Some(keys) =
            eternal.filter(|keys| keys.starts_with('$') && !keys.starts_with("$-1") && !std::thread::panicking())
        {
            panic!("records that never expire were left behind: {keys}");
        }
    }
}

/// Names the records that have no expiry, if there are any.
const ETERNAL: &str = "local cursor, found = '0', {}
repeat
  local page = redis.call('SCAN', cursor, 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    local kind, head = redis.call('TYPE', key).ok, nil
    if kind == 'string' then head = redis.call('GETRANGE', key, 0, 6) end
    if kind == 'hash' then head = redis.call('HGET', key, 'h') end
    if head and string.sub(head, 1, 7) == 'tenure2' and redis.call('PTTL', key) == -1 then found[#found + 1] = key end
  end
until cursor == '0'
return #found > 0 and table.concat(found, ' ')";

/// What makes a server write each command to its file before it answers.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// A folder in memory that looks like a disk, where there is one.
pub(crate) fn in_memory() -> PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() }
}

fn launch(dir: &Path, port: u16, options: &[String], environment: &[(&'static str, PathBuf)]) -> Option<Child> {
    let log = std::fs::File::create(dir.join("log")).expect("the log can be created");
    let socket = dir.join("socket");
    let mut child = Command::new(redis_server())
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
        .arg(dir)
        .arg("--unixsocket")
        .arg(socket)
        .args(["--save", "", "--daemonize", "no"])
        .args(options)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file handle can be cloned"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{} cannot be started: {error}; `cargo xtask test` installs it", redis_server().display())
        });
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if child.try_wait().ok().flatten().is_some() {
            return None;
        }
        // A server that wants a password has come up just as well.
        if roundtrip(port, &["PING"]).is_ok_and(|reply| reply.starts_with("+PONG") || reply.starts_with("-NO")) {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// One command and its reply, as it came. It does not ask for the connection to be closed: a Sentinel knows no QUIT.
pub(crate) fn roundtrip(port: u16, args: &[&str]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = format!("*{}\r\n", args.len());
    for arg in args {
        request += &format!("${}\r\n{arg}\r\n", arg.len());
    }
    stream.write_all(request.as_bytes())?;
    let (mut reply, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let n = stream.read(&mut chunk)?;
        reply.extend_from_slice(&chunk[..n]);
        if n == 0 || frame(&reply).is_some() {
            // To those who look at it, +OK alone says nothing.
            let reply = String::from_utf8_lossy(&reply).into_owned();
            return Ok(if reply == "+OK\r\n" { String::new() } else { reply });
        }
    }
}
