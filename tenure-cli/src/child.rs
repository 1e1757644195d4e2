//! The command: a process, and the group that it leads.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{Signal, killpg};
use rustix::process::{Pid, WaitOptions, test_kill_process_group, waitpid};

use crate::{exec, exit};

/// What has become of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It ended with that exit code.
    Exited(u8),
    /// That signal ended it.
    Killed(i32),
    /// That signal stopped it.
    Stopped(i32),
}

impl Change {
    /// The exit code that tells of it.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) | Self::Stopped(signal) => exit::signalled(signal),
        }
    }
}

/// A command that was started in a process group of its own, which has its id.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
}

impl Child {
    /// Starts it. `environment` overrides what is inherited. Call it on the main thread: the command dies with the
    /// thread that starts it. `as_json`: how it is told that it cannot be run.
    pub(crate) fn spawn(
        command: &[OsString],
        environment: &[(&str, String)],
        foreground: bool,
        as_json: bool,
    ) -> io::Result<Self> {
        let child = Command::new(this_program()?)
            .arg0("tenure")
            .args(exec::arguments(foreground, as_json))
            .args(command)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .spawn()?;
        let pid = Pid::from_raw(child.id() as i32).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid })
    }

    /// The id of its process group.
    pub(crate) fn group(&self) -> Pid {
        self.pid
    }

    /// What has become of it since the last time; `None` if nothing. To be asked whenever CHLD has come.
    pub(crate) fn poll(&self) -> io::Result<Option<Change>> {
        let Some((_, status)) = waitpid(Some(self.pid), WaitOptions::NOHANG | WaitOptions::UNTRACED)? else {
            return Ok(None);
        };
        Ok(match (status.exit_status(), status.terminating_signal(), status.stopping_signal()) {
            (Some(code), ..) => Some(Change::Exited(code as u8)),
            (_, Some(signal), _) => Some(Change::Killed(signal)),
            (.., Some(signal)) => Some(Change::Stopped(signal)),
            _ => None,
        })
    }

    /// Sends `signal` to all of the group.
    ///
    /// Once the command was seen to have ended, its id stays taken only for as long as somebody is left in the group: then
    /// ask [`is_any_left`](Self::is_any_left) just before.
    pub(crate) fn tell(&self, signal: Signal) {
        // Nobody left, or nobody whom we may signal any more: there is nothing to be done about either.
        let _ = killpg(nix::unistd::Pid::from_raw(self.pid.as_raw_nonzero().get()), signal);
    }

    /// Whether anybody is left in the group.
    pub(crate) fn is_any_left(&self) -> bool {
        test_kill_process_group(self.pid) != Err(rustix::io::Errno::SRCH)
    }
}

/// This very program, even if its file was replaced meanwhile.
fn this_program() -> io::Result<std::path::PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}
