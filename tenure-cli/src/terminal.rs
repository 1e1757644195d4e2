//! The terminal, as far as two process groups share it: ours, and the command's.
//!
//! The command runs in a process group of its own, so that all of it can be told of a loss. A terminal sends Ctrl-C and
//! Ctrl-Z to its foreground group and stops every other one that reads from it, so the command's group is made that
//! one: at its start where its input is the terminal, otherwise when it first asks for it.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, stdin};

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{self, getpgid, getppid, getsid};
use rustix::process::{Pid, getpgrp};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr, tcsetpgrp};

/// The controlling terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    tty: File,
    /// How it was set before the command ran.
    modes: Option<Termios>,
    /// Whether the command's group has, or should have, the foreground whenever we have it to give.
    given: bool,
}

impl Terminal {
    /// The terminal, where there is one.
    pub(crate) fn open() -> Option<Self> {
        let tty = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        let modes = tcgetattr(&tty).ok();
        Some(Self { tty, modes, given: stdin().is_terminal() })
    }

    /// Whether the command is to begin in the foreground.
    pub(crate) fn to_give(&self) -> bool {
        self.given && self.is_ours()
    }

    /// Whether our group is in the foreground.
    pub(crate) fn is_ours(&self) -> bool {
        tcgetpgrp(&self.tty).is_ok_and(|group| group == getpgrp())
    }

    /// Puts `group` into the foreground. A terminal that is gone needs nobody there, so errors count for nothing.
    pub(crate) fn give(&mut self, group: Pid) {
        self.given = true;
        self.set(group);
    }

    /// The same, if it has been given before and is ours.
    pub(crate) fn give_again(&mut self, group: Pid) {
        if self.to_give() {
            self.give(group);
        }
    }

    /// Puts our group back into the foreground if `group` has it; the terminal's modes, too, where the command had no
    /// chance to.
    pub(crate) fn take_from(&self, group: Pid, restore: bool) {
        if tcgetpgrp(&self.tty).is_ok_and(|now| now == group) {
            self.set(getpgrp());
        }
        if let Some(modes) = self.modes.as_ref().filter(|_| restore && self.is_ours()) {
            let _ = tcsetattr(&self.tty, OptionalActions::Drain, modes);
        }
    }

    /// A background group that does this is stopped by TTOU, unless it blocks that.
    fn set(&self, group: Pid) {
        let ttou = SigSet::from(Signal::SIGTTOU);
        let before = ttou.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
        let _ = tcsetpgrp(&self.tty, group);
        if let Ok(before) = before {
            let _ = before.thread_set_mask();
        }
    }
}

/// Whether nobody would continue our process group if it stopped: it has no parent in the session but outside of itself.
///
/// Whoever is outside of our pid namespace has the number 0, which `rustix` takes for impossible: so by `nix`.
pub(crate) fn orphaned() -> bool {
    let (group, session) = (unistd::getpgrp(), getsid(None));
    let mut parent = Some(getppid());
    while let Some(pid) = parent.filter(|pid| pid.as_raw() > 0) {
        if getsid(Some(pid)) != session {
            return true;
        }
        if getpgid(Some(pid)) != Ok(group) {
            return false;
        }
        parent = parent_of(pid);
    }
    true
}

fn parent_of(pid: unistd::Pid) -> Option<unistd::Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything, also parentheses; state and parent follow its last one.
    let (_, rest) = stat.rsplit_once(')')?;
    Some(unistd::Pid::from_raw(rest.split_whitespace().nth(1)?.parse().ok()?))
}
