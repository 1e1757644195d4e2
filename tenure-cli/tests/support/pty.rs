//! A terminal, with a process on it as on the terminal of a session of its own.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{Running, eventually};

pub(crate) struct Pty {
    master: File,
    seen: Arc<Mutex<Vec<u8>>>,
    reader: std::thread::JoinHandle<()>,
    process: Running,
}

impl Pty {
    /// Starts `command` as the leader of a session whose terminal this is; setsid(1) does that.
    pub(crate) fn start(command: &Command) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty can be opened");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a pty can be unlocked");
        let name = ptsname(&master, Vec::new()).expect("a pty has a name").into_string().expect("it is text");
        let side = || OpenOptions::new().read(true).write(true).open(&name).expect("the other side can be opened");

        // Whoever runs the tests in the background may ignore SIGINT, and so would all that they start.
        let mut session = Command::new("env");
        session.args(["--default-signal", "setsid", "--ctty"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        session.stdin(Stdio::from(side())).stdout(Stdio::from(side())).stderr(Stdio::from(side()));
        let process = Running::start(&mut session);

        let master = File::from(master);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, sink) = (master.try_clone().expect("a file can be cloned"), seen.clone());
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // It ends with an error when the last process leaves the terminal.
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                sink.lock().expect("no panic").extend_from_slice(&buffer[..length]);
            }
        });
        Self { master, seen, reader, process }
    }

    /// Types.
    pub(crate) fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    /// All that was shown so far.
    pub(crate) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("no panic")).into_owned()
    }

    /// Waits until that was shown.
    pub(crate) fn expect(&self, text: &str) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !self.seen().contains(text) {
            assert!(std::time::Instant::now() < deadline, "{text:?} was not shown within 10 s: {:?}", self.seen());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Waits until a program of that name has the foreground.
    pub(crate) fn expect_foreground(&self, name: &str) {
        eventually(&format!("{name} has the foreground"), || {
            // There is none before the session has begun.
            let Ok(group) = rustix::termios::tcgetpgrp(&self.master) else { return false };
            let leader = std::fs::read_to_string(format!("/proc/{}/comm", group.as_raw_nonzero()));
            leader.is_ok_and(|leader| leader.trim() == name)
        });
    }

    /// Waits until the leader ends, and the last of what was shown is read.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let mut status = None;
        eventually("the session ends", || {
            status = self.process.child().try_wait().expect("it can be waited for");
            status.is_some()
        });
        eventually("nobody is left on the terminal", || self.reader.is_finished());
        (status.expect("it ended"), self.seen())
    }
}
