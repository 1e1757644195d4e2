//! What the tests of the command share: a store, the command on it, and processes that do not outlive their test.

#![allow(dead_code, reason = "each test file uses its part of it")]

pub(crate) mod pty;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A store of a test's own.
pub(crate) struct Store {
    pub(crate) dir: TempDir,
    pub(crate) redis: Option<testkit::Redis>,
    url: String,
}

impl Store {
    /// In a file.
    pub(crate) fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let url = format!("sqlite:{}", dir.path().join("locks.db").display());
        Self { dir, redis: None, url }
    }

    /// In a Redis server of its own.
    pub(crate) fn redis() -> Self {
        let redis = testkit::Redis::start();
        let url = redis.url();
        Self { dir: tempfile::tempdir().expect("a temporary folder can be made"), redis: Some(redis), url }
    }

    /// Wherever that URL leads to.
    pub(crate) fn at(url: String) -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder can be made"), redis: None, url }
    }

    /// A file in the test's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `tenure` with those arguments, on this store.
    pub(crate) fn tenure(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenure"));
        command.args(args).env("TENURE_STORE", &self.url).env_remove("NO_COLOR").stdin(Stdio::null());
        command
    }

    /// What it says and how it ends.
    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.tenure(args).output().expect("tenure starts")
    }

    /// The exit code it ends with.
    pub(crate) fn code(&self, args: &[&str]) -> i32 {
        code(self.output(args).status)
    }

    /// Starts it, and lets it run. It hears signals as from a terminal, though whoever runs the tests may ignore some, as a
    /// shell does for what it runs in the background, and nohup.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let tenure = self.tenure(args);
        let mut command = Command::new("env");
        command.arg("--default-signal").arg(tenure.get_program());
        command.args(tenure.get_args()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, value) in tenure.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Running::start(&mut command)
    }

    /// Starts a command that holds a lock, and waits until it does.
    pub(crate) fn hold(&self, args: &[&str]) -> Running {
        let marker = self.path(&format!("holding-{}", args.join("-").replace('/', "_")));
        let script = format!("touch '{}'; exec sleep 60", marker.display());
        let running = self.start(&[&["run"], args, &["--", "sh", "-c", &script]].concat());
        wait_for_file(&marker);
        running
    }

    /// What `show --json` says of a lock.
    pub(crate) fn show(&self, name: &str) -> Value {
        let output = self.output(&["show", name, "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// How many hold that lock, and how many wait for it.
    pub(crate) fn counts(&self, name: &str) -> (usize, usize) {
        let info = self.show(name);
        let count = |field: &str| info[field].as_array().map_or(0, Vec::len);
        (count("holders"), count("waiters"))
    }
}

/// The code that a process exited with.
pub(crate) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| panic!("a signal ended it: {status}"))
}

/// A process that is killed, with its group's leader, when it is no longer needed.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(Some(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))))
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("it runs")
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.0.as_ref().expect("it runs"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it can be signalled");
    }

    /// Writes to its stdin, and closes that.
    pub(crate) fn feed(&mut self, input: &[u8]) {
        self.child().stdin.take().expect("its stdin is piped").write_all(input).expect("it reads");
    }

    /// Waits until it ends.
    pub(crate) fn output(mut self) -> Output {
        let child = self.0.take().expect("it runs");
        child.wait_with_output().expect("it can be waited for")
    }

    /// Waits until it ends, with a code.
    pub(crate) fn code(self) -> i32 {
        code(self.output().status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until `condition` holds, for at most ten seconds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn wait_for_file(path: &Path) {
    eventually(&format!("{} exists", path.display()), || path.exists());
}

/// Waits until a file has a line, and reads that as a number.
pub(crate) fn number_in(path: &Path) -> i64 {
    let read = || std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'));
    eventually(&format!("{} has a line", path.display()), || read().is_some());
    read().expect("it has a line").trim().parse().expect("it is a number")
}

/// Whether a process runs. A zombie does not.
pub(crate) fn is_alive(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    let process = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    test_kill_process(process).is_ok() && state.is_some_and(|state| state != 'Z')
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
