//! The signals that reach us: which ones, and what becomes of them.

use std::future::poll_fn;
use std::io;
use std::str::FromStr;
use std::task::Poll;

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

/// What is passed on to the command.
const FORWARDED: [Signal; 10] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGURG,
];

/// Of those, what ends us while there is no command yet: all whose default it is.
const HARMLESS: [Signal; 3] = [Signal::SIGWINCH, Signal::SIGCONT, Signal::SIGURG];

/// The signals that have come and were not looked at yet.
#[derive(Debug)]
pub(crate) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Listens from now on to what is passed on. What is ignored already (`nohup`, a shell's background job) stays so,
    /// for us and for the command.
    pub(crate) fn listen() -> io::Result<Self> {
        let ignored = ignored();
        let mut signals = Self(Vec::new());
        for signal in FORWARDED.into_iter().filter(|signal| ignored >> (*signal as i32 - 1) & 1 == 0) {
            signals.also(signal)?;
        }
        Ok(signals)
    }

    /// Listens to one more.
    pub(crate) fn also(&mut self, signal: Signal) -> io::Result<()> {
        self.0.push((signal, unix::signal(SignalKind::from_raw(signal as i32))?));
        Ok(())
    }

    /// The next one.
    ///
    /// # Cancel safety
    ///
    /// No signal is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (signal, stream) in &mut self.0 {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next one that would end a process.
    pub(crate) async fn next_fatal(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if !HARMLESS.contains(&signal) {
                return signal;
            }
        }
    }
}

/// The signals that are ignored, a bit each, from the lowest. Only Linux tells; elsewhere, none.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// What to do when the hold is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnLost {
    Kill,
    Signal(Signal),
    Warn,
}

impl FromStr for OnLost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "kill" => Ok(Self::Kill),
            "warn" => Ok(Self::Warn),
            _ => text.strip_prefix("signal:").and_then(parse).map(Self::Signal).ok_or_else(|| {
                "write kill, warn, or signal: and a signal's name or number, as in signal:USR1".to_owned()
            }),
        }
    }
}

/// `USR1`, `SIGUSR1`, `usr1` or `10`.
fn parse(text: &str) -> Option<Signal> {
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).ok();
    }
    let name = text.to_ascii_uppercase();
    name.parse().or_else(|_| format!("SIG{name}").parse()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_as_kill_names_them() {
        for text in ["signal:USR1", "signal:SIGUSR1", "signal:usr1", "signal:10"] {
            assert_eq!(text.parse(), Ok(OnLost::Signal(Signal::SIGUSR1)), "{text}");
        }
        assert_eq!("kill".parse(), Ok(OnLost::Kill));
        assert_eq!("warn".parse(), Ok(OnLost::Warn));
        for text in ["", "signal:", "signal:NONE", "signal:0", "signal:99", "USR1"] {
            assert!(text.parse::<OnLost>().is_err(), "{text:?} is refused");
        }
    }
}
