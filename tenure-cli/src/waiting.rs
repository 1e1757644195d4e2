//! What a wait of more than a moment looks like: one line that says who holds the lock, since when, and what our place is.

use std::convert::Infallible;
use std::io::{Write, stderr};
use std::time::Duration;

use tenure::{Holder, LockInfo, Locks};

use crate::clock;
use crate::duration;
use crate::look::who;
use crate::report::{News, Report, by};
use crate::text::{Paint, count, printable};

/// A wait that is shorter needs no words; and how often the line is brought up to date.
const MOMENT: Duration = Duration::from_secs(1);

/// Says that we wait, and goes on saying it on a terminal. Never ends; what was drawn is erased when it is dropped.
pub(crate) async fn narrate(locks: &Locks, name: &str, report: Report) -> Infallible {
    clock::sleep(MOMENT).await;
    if !report.may_draw() {
        if let Ok(info) = locks.info(name).await {
            let held_by = info.holders.iter().map(who).collect();
            report.say(&News::Waiting { name: printable(name), held_by, ahead: place(&info) });
        }
        return std::future::pending().await;
    }
    let line = Line;
    loop {
        // A store that does not answer is the acquisition's to complain about.
        if let Ok(info) = locks.info(name).await {
            line.draw(&describe(&info));
        }
        clock::sleep(MOMENT).await;
    }
}

/// Who holds it, for a message; nobody, if that cannot be learned.
pub(crate) async fn holders(locks: &Locks, name: &str) -> Vec<String> {
    let info = locks.info(name).await;
    info.map(|info| info.holders.iter().map(who).collect()).unwrap_or_default()
}

fn describe(info: &LockInfo) -> String {
    let held_by: Vec<String> = info.holders.iter().map(who).collect();
    let since = info.holders.iter().map(|holder| holder.since).min();
    let held_for = since.and_then(|since| info.read_at.duration_since(since).ok());
    let held_for = held_for.map(|time| format!(" for {}", duration::text(time))).unwrap_or_default();
    let ahead = match place(info) {
        0 => "we are next".to_owned(),
        ahead => format!("{} ahead of us", count(ahead, "waiter")),
    };
    format!("waiting for {}, held{}{held_for}; {ahead}", printable(&info.name), by(&held_by))
}

/// How many wait ahead of this process.
fn place(info: &LockInfo) -> usize {
    let ours = |waiter: &Holder| {
        waiter.meta.as_ref().is_some_and(|meta| meta.pid == std::process::id() && meta.host == host())
    };
    info.waiters.iter().position(ours).unwrap_or(info.waiters.len())
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// One line on stderr, which is a terminal.
struct Line;

impl Line {
    fn draw(&self, text: &str) {
        let width = rustix::termios::tcgetwinsize(stderr()).map_or(0, |size| usize::from(size.ws_col));
        // A terminal that does not know its width says 0.
        let width = if width == 0 { 80 } else { width };
        let text = format!("tenure: {text}");
        let fitting: String = text.chars().take(width - 1).collect();
        let _ = write!(stderr(), "\r\x1b[K{}", Paint::on(&stderr()).dim(&fitting));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = write!(stderr(), "\r\x1b[K");
    }
}
