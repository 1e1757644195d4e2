//! Between the command's start and its end: signals go in, stops and the end come out, and when the hold is in doubt or
//! over, the command's whole group is told, and is gone before anybody else can hold.

use std::pin::pin;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::process::kill_current_process_group;
use tenure::{Guard, HoldState, Loss};

use crate::args::How;
use crate::child::{Change, Child};
use crate::clock::{self, ms};
use crate::exit::{Failure, LOST, MAX_HOLD, Result};
use crate::loss::{self, SHORT, Standing, Step};
use crate::report::{News, Report};
use crate::signals::{OnLost, Signals};
use crate::terminal::{Terminal, orphaned};
use crate::text::printable;

/// A command that runs while its lock is held.
pub(crate) struct Supervised<'a> {
    pub(crate) child: Child,
    pub(crate) guard: &'a Guard,
    pub(crate) how: &'a How,
    pub(crate) report: Report,
    pub(crate) terminal: Option<Terminal>,
    /// The hold is over.
    is_lost: bool,
    /// The command was told that it is, or soon will be.
    told: bool,
    /// The exit code, where we have ended the command.
    code: Option<u8>,
    /// When its group is killed, if it is.
    kill_at: Option<Instant>,
}

/// How often to look whether the last of an ending group is gone.
const POLL: Duration = Duration::from_millis(10);

impl<'a> Supervised<'a> {
    pub(crate) fn new(
        child: Child,
        guard: &'a Guard,
        how: &'a How,
        report: Report,
        terminal: Option<Terminal>,
    ) -> Self {
        Self { child, guard, how, report, terminal, is_lost: false, told: false, code: None, kill_at: None }
    }

    /// Stays until the command has ended, and gives the exit code that tells how.
    pub(crate) async fn finish(mut self, signals: &mut Signals) -> Result<u8> {
        let change = self.attend(signals).await?;
        self.outlive_group().await;
        if let Some(terminal) = &self.terminal {
            terminal.take_from(self.child.group(), matches!(change, Change::Killed(_)));
        }
        Ok(self.code.unwrap_or(change.code()))
    }

    async fn attend(&mut self, signals: &mut Signals) -> Result<Change> {
        let mut lost = pin!(self.guard.lost());
        let mut max_hold = self.how.max_hold.map(|limit| clock::now() + limit);
        let mut look_at = clock::now();
        loop {
            tokio::select! {
                biased;
                loss = &mut lost, if !self.is_lost => self.lost(loss),
                () = at(self.kill_at), if self.kill_at.is_some() => {
                    self.kill_at = None;
                    self.tell(Signal::SIGKILL);
                }
                () = clock::sleep_until(look_at), if !self.told => {
                    look_at = clock::now() + self.look();
                }
                () = at(max_hold), if max_hold.is_some() => {
                    max_hold = None;
                    self.end_at_max_hold();
                }
                signal = signals.next() => match signal {
                    Signal::SIGCHLD => match self.child.poll().map_err(|error| Failure::system("waiting", error))? {
                        Some(Change::Stopped(signal)) => self.stopped(signal),
                        Some(end) => return Ok(end),
                        None => {}
                    },
                    signal => self.child.tell(signal),
                },
            }
        }
    }

    /// How long the hold can be left alone; if not at all, tells the command.
    fn look(&mut self) -> Duration {
        let standing =
            Standing { remaining: self.guard.remaining(), suspect: self.guard.state() == HoldState::Suspect };
        match loss::step(standing, self.how.grace()) {
            Step::Wait(left) => left,
            Step::Tell(left) => {
                self.say(|name| News::InDoubt { name, remaining_ms: ms(standing.remaining) });
                self.tell_of_loss(left);
                left
            }
        }
    }

    fn lost(&mut self, loss: Loss) {
        self.is_lost = true;
        self.say(|name| News::Lost { name, reason: loss.to_string() });
        // A command that was told before had its time; if it was stopped with us, it has none left.
        let had_its_time = self.told && loss == Loss::Expired;
        self.tell_of_loss(if had_its_time { Duration::ZERO } else { SHORT.min(self.how.grace()) });
    }

    fn tell_of_loss(&mut self, left: Duration) {
        let first = !std::mem::replace(&mut self.told, true);
        match self.how.on_lost {
            OnLost::Kill => {
                self.code = Some(LOST);
                self.end_within(left, first);
            }
            OnLost::Signal(signal) if first => self.tell(signal),
            OnLost::Signal(_) | OnLost::Warn => {}
        }
    }

    fn end_at_max_hold(&mut self) {
        self.say(|name| News::MaxHold { name, held_ms: ms(self.guard.info().held_for) });
        self.code.get_or_insert(MAX_HOLD);
        self.end_within(self.how.grace(), true);
    }

    fn end_within(&mut self, left: Duration, first: bool) {
        if first {
            self.tell(Signal::SIGTERM);
            // What is stopped would hear of it only when it goes on.
            self.child.tell(Signal::SIGCONT);
        }
        let moment = clock::now() + left;
        self.kill_at = Some(self.kill_at.map_or(moment, |before| before.min(moment)));
    }

    /// The command has ended. If it had to, whoever else is in its group has to be gone in time, too.
    async fn outlive_group(&self) {
        let Some(kill_at) = self.kill_at else { return };
        while self.child.is_any_left() {
            if clock::now() >= kill_at || !self.guard.is_held() {
                return self.tell(Signal::SIGKILL);
            }
            clock::sleep(POLL).await;
        }
    }

    /// The command was stopped. If the terminal did that, or could undo it, we stop as well; whoever continues us
    /// continues the command.
    fn stopped(&mut self, signal: i32) {
        let group = self.child.group();
        let Some(terminal) = &mut self.terminal else { return };
        let wants_terminal = signal == Signal::SIGTTIN as i32 || signal == Signal::SIGTTOU as i32;
        if wants_terminal && terminal.is_ours() {
            terminal.give(group);
            return self.child.tell(Signal::SIGCONT);
        }
        if orphaned() {
            // Nobody could continue us. The kernel ends what would wait for a terminal for ever, and so do we.
            if wants_terminal {
                self.tell(Signal::SIGHUP);
            }
            return self.child.tell(Signal::SIGCONT);
        }
        terminal.take_from(group, false);
        self.say(|name| News::Suspended { name, remaining_ms: ms(self.guard.remaining()) });
        // It includes us: here we stay until we are continued.
        let _ = kill_current_process_group(rustix::process::Signal::STOP);
        if !self.is_lost && !self.guard.is_held() {
            self.lost(Loss::Expired);
        }
        if let Some(terminal) = &mut self.terminal {
            terminal.give_again(group);
        }
        self.child.tell(Signal::SIGCONT);
    }

    fn tell(&self, signal: Signal) {
        self.child.tell(signal);
        self.say(|name| News::Told { name, signal: signal.as_str() });
    }

    fn say(&self, news: impl FnOnce(String) -> News) {
        self.report.say(&news(printable(self.guard.name())));
    }
}

/// At that moment; never, without one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => clock::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
