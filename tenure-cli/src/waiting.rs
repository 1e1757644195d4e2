//! What a wait of more than a moment looks like: one line that says who holds the lock, since when, and what our place
//! is; and a line for what is wrong with it: the store is away, or the wait is for ourselves.

use std::convert::Infallible;
use std::io::{Write, stderr};
use std::time::Duration;

use tenure::{Events, Holder, LockInfo, Locks, What};

use crate::clock;
use crate::duration;
use crate::look::who;
use crate::report::{News, Report, by};
use crate::text::{Paint, count, printable};

/// A wait that is shorter needs no words; and how often the line is brought up to date.
const MOMENT: Duration = Duration::from_secs(1);

/// The fences of all the holds that a command runs under, the innermost last.
pub(crate) const FENCES: &str = "TENURE_FENCES";

/// Those of the holds that we run under ourselves.
pub(crate) fn inherited_fences() -> Vec<u64> {
    let fences = std::env::var(FENCES).unwrap_or_default();
    fences.split_whitespace().filter_map(|fence| fence.parse().ok()).collect()
}

/// Says that we wait, and goes on saying it on a terminal. Never ends; what was drawn is erased when it is dropped.
pub(crate) async fn narrate(locks: &Locks, name: &str, report: Report) -> Infallible {
    tokio::select! {
        never = tell_of_store(locks.events(), name, report) => never,
        never = show(locks, name, report) => never,
    }
}

/// Says when the store is away and when it is back. The client finds that out: three failures in a row are an absence.
async fn tell_of_store(mut events: Events, name: &str, report: Report) -> Infallible {
    while let Some(event) = events.recv().await {
        let name = printable(name);
        let news = match event.what {
            What::NodeDown { error } => News::StoreAway { name, error: printable(&error) },
            What::NodeUp => News::StoreBack { name },
            _ => continue,
        };
        say_above_line(&news, report);
    }
    std::future::pending().await
}

async fn show(locks: &Locks, name: &str, report: Report) -> Infallible {
    // What is made is erased when it goes, so it is made where it is wanted.
    let line = if report.may_draw() { Some(Line) } else { None };
    let mut first = true;
    loop {
        clock::sleep(MOMENT).await;
        // That a store does not answer is said apart.
        let Ok(info) = locks.info(name).await else { continue };
        if first {
            first = false;
            if let Some(fence) = fence_of_ours(&info) {
                say_above_line(&News::Nested { name: printable(name), fence }, report);
            }
            let held_by = info.holders.iter().map(who).collect();
            if line.is_none() {
                report.say(&News::Waiting { name: printable(name), held_by, ahead: place(&info) });
                return std::future::pending().await;
            }
        }
        if let Some(line) = &line {
            line.draw(&describe(&info));
        }
    }
}

/// The fence of a hold that we run under: it ends when we do, and we wait for it to end.
fn fence_of_ours(info: &LockInfo) -> Option<u64> {
    let ours = inherited_fences();
    info.holders.iter().filter_map(|holder| Some(holder.fence?.get())).find(|fence| ours.contains(fence))
}

/// The line is drawn anew below it, in its time.
fn say_above_line(news: &News, report: Report) {
    if report.may_draw() {
        let _ = write!(stderr(), "\r\x1b[K");
    }
    report.say(news);
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
