//! One Postgres server.
//!
//! ```text
//!   initdb, once per version ──▶ a template in the target folder ──copy──▶ a folder of its own ──▶ postgres
//!                                                                                                    ▲
//!   this process ──pipe, which closes when this process ends, however it does──▶ a watchman ──KILL───┘
//! ```
//!
//! So a server may be a `static`, which is never dropped: the watchman ends it and removes its folder.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use self::program::{copy, folder, program, template};
use crate::free_port;

mod program;

pub(crate) use program::give;
pub use program::postgres_bin;

/// A Postgres server of one's own, on a free loopback port, with its files in a folder that goes with it.
///
/// It has one user, `postgres`, with a random password that is part of the [URL](Self::url). The program refuses to run
/// as root, so what root starts runs as the user `postgres`, or as `nobody` where there is none.
#[derive(Debug)]
pub struct Postgres {
    dir: TempDir,
    port: u16,
    options: Vec<String>,
    server: Child,
    watchman: Child,
}

impl Postgres {
    /// Starts a server that keeps what it acknowledged, and waits until it answers.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server that does not wait for the disk (`fsync=off`). What it acknowledged is safe from its own death,
    /// but not from the machine's.
    pub fn start_fast() -> Self {
        Self::start_with(&["fsync=off"])
    }

    /// Starts a server with further settings: `&["max_connections=300"]`.
    pub fn start_with(settings: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("tenure-postgres-").tempdir_in(folder());
        let dir = dir.expect("a temporary folder can be made");
        give(dir.path());
        copy(&template(), dir.path());
        let options: Vec<String> = settings.iter().map(ToString::to_string).collect();
        // Between looking for a free port and binding it, somebody else may take it.
        for _ in 0..5 {
            let port = free_port();
            if let Some(server) = launch(dir.path(), port, &options) {
                let watchman = watch(server.id(), dir.path());
                return Self { dir, port, options, server, watchman };
            }
        }
        panic!("postgres did not start; its log says:\n{}", log(dir.path()));
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `postgres://postgres:password@127.0.0.1:port/postgres`.
    pub fn url(&self) -> String {
        self.url_through(self.port)
    }

    /// The same by another port, as that of a [`Link`](crate::Link).
    pub fn url_through(&self, port: u16) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{port}/postgres", self.password())
    }

    /// The process id of the server, which has further processes for its connections.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// The folder with its files, `data` and `log` among them.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Ends it as for an upgrade: connections are closed, what is in memory is written.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    /// Kills it (SIGKILL) with all its processes, and waits until they are gone.
    pub fn kill(&mut self) {
        // First, so that it never kills somebody who got the same number.
        let _ = self.watchman.kill();
        let _ = self.watchman.wait();
        if self.server.try_wait().ok().flatten().is_some() {
            return;
        }
        // It starts no further process while it stands still.
        self.signal(Signal::STOP);
        let processes = children(self.server.id());
        let _ = self.server.kill();
        for pid in &processes {
            let _ = kill_process(*pid, Signal::KILL);
        }
        let _ = self.server.wait();
        let start = Instant::now();
        while processes.iter().any(|pid| Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists()) {
            assert!(start.elapsed() < PATIENCE, "the processes of a killed server go");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills it if it still runs and starts it again, with the same port, folder and settings.
    pub fn restart(&mut self) {
        self.kill();
        let server = launch(self.dir.path(), self.port, &self.options);
        self.server = server.unwrap_or_else(|| panic!("postgres does not start again:\n{}", log(self.dir.path())));
        self.watchman = watch(self.server.id(), self.dir.path());
    }

    /// What `psql` prints for statements, a line for each row, with `|` between its values.
    ///
    /// # Panics
    ///
    /// When a statement fails.
    pub fn psql(&self, statements: &str) -> String {
        let psql = Command::new(postgres_bin().join("psql"))
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statements, "-h", "127.0.0.1", "-U", "postgres"])
            .args(["-p", &self.port.to_string()])
            .env("PGPASSWORD", self.password())
            .stdin(Stdio::null())
            .output()
            .expect("psql can be started");
        assert!(psql.status.success(), "{statements}: {}", String::from_utf8_lossy(&psql.stderr));
        String::from_utf8_lossy(&psql.stdout).trim_end().to_owned()
    }

    fn password(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("password")).expect("the password is in the folder")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.server.id() as i32).expect("a child has a pid");
        let _ = kill_process(pid, signal);
    }

    fn end(&mut self, signal: Signal) {
        if self.server.try_wait().ok().flatten().is_none() {
            self.signal(signal);
        }
        let start = Instant::now();
        while self.server.try_wait().ok().flatten().is_none() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.kill();
    }
}

impl Drop for Postgres {
    /// Ends the server at once, and its folder goes: nothing needs to be written any more.
    fn drop(&mut self) {
        self.end(Signal::QUIT);
    }
}

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);

fn launch(dir: &Path, port: u16, options: &[String]) -> Option<Child> {
    let log = std::fs::File::create(dir.join("log")).expect("the log can be created");
    let mut command = program("postgres", dir);
    command.arg("-D").arg(dir.join("data"));
    let fixed = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "shared_buffers=32MB", "jit=off"];
    let port = format!("port={port}");
    for setting in fixed.iter().chain([&port.as_str()]).copied().chain(options.iter().map(String::as_str)) {
        command.args(["-c", setting]);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file handle can be cloned")).stderr(log);
    let mut server = command.spawn().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if server.try_wait().ok().flatten().is_some() {
            return None;
        }
        // Its first line is the pid, its eighth says how far it is.
        let status = std::fs::read_to_string(dir.join("data/postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = status.lines().collect();
        if lines.first() == Some(&server.id().to_string().as_str()) && lines.get(7).map(|s| s.trim()) == Some("ready") {
            return Some(server);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = server.kill();
    let _ = server.wait();
    None
}

/// A process that outlives this one, and then ends that server and removes its folder: for what is kept in a `static`, which
/// is never dropped. It is not told by signals, for it has to be there when those of a terminal end everyone else.
///
/// The server must not be ended before this process ends, or the watchman first.
pub fn watch(server: u32, dir: &Path) -> Child {
    let script = r#"trap '' HUP INT TERM; read -r _; kill -KILL "$1"; rm -rf "$2""#;
    Command::new("sh")
        .args(["-c", script, "watchman", &server.to_string()])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh can be started")
}

fn children(parent: u32) -> Vec<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::{PATIENCE, Postgres};

    #[test]
    fn what_was_acknowledged_outlives_a_kill() {
        let mut server = Postgres::start_fast();
        server.psql("CREATE TABLE t (n bigint); INSERT INTO t VALUES (42)");
        let (port, pid) = (server.port(), server.pid());
        server.restart();
        assert_eq!((server.port(), server.psql("SELECT n FROM t")), (port, "42".to_owned()));
        assert_ne!(server.pid(), pid);
        server.stop();
        server.restart();
        assert_eq!(server.psql("SELECT n FROM t"), "42");
    }

    #[test]
    fn servers_are_apart() {
        let (one, other) = (Postgres::start(), Postgres::start_fast());
        one.psql("CREATE TABLE t (n bigint)");
        assert_eq!(other.psql("SELECT count(*) FROM pg_tables WHERE tablename = 't'"), "0");
        assert_eq!((one.psql("SHOW fsync"), other.psql("SHOW fsync")), ("on".to_owned(), "off".to_owned()));
    }

    #[test]
    fn a_server_ends_with_the_process_that_started_it() {
        let name = "postgres::tests::a_server_ends_with_the_process_that_started_it";
        if std::env::var_os("TESTKIT_STARTS").is_some() {
            let server = Postgres::start_fast();
            println!("\nserver {} {}", server.pid(), server.dir().display());
            std::thread::sleep(PATIENCE);
        }
        let mut other = Command::new(std::env::current_exe().expect("this program has a path"));
        let other = other.args([name, "--exact", "--nocapture"]).env("TESTKIT_STARTS", "").stdout(Stdio::piped());
        let mut other = other.spawn().expect("this program can be started");
        let mut lines = BufReader::new(other.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        let line = lines.find_map(|line| line.strip_prefix("server ").map(str::to_owned)).expect("it starts a server");
        let (pid, dir) = line.split_once(' ').expect("both were printed");
        let (pid, dir) = (format!("/proc/{pid}"), dir.to_owned());
        assert!(std::path::Path::new(&pid).exists());
        other.kill().expect("it can be killed");
        other.wait().expect("it was a child");
        let start = std::time::Instant::now();
        while std::path::Path::new(&pid).exists() || std::path::Path::new(&dir).exists() {
            assert!(start.elapsed() < PATIENCE, "{line} is still there");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
