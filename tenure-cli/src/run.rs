//! `tenure run`, and `tenure try` with a command: take the lock, run the command, release.

use std::error::Error as _;
use std::ffi::OsString;
use std::future::Future;
use std::time::Duration;

use nix::sys::signal::Signal;
use tenure::{Guard, Lock, Locks};

use crate::args::How;
use crate::child::Child;
use crate::clock::{self, ms, unix_ms};
use crate::duration;
use crate::exit::{Failure, LOST, Result, STORE, signalled};
use crate::report::{News, Report};
use crate::signals::{OnLost, Signals};
use crate::store::Choice;
use crate::supervise::Supervised;
use crate::terminal::Terminal;
use crate::text::printable;
use crate::waiting::{FENCES, holders, inherited_fences, narrate};

/// What is to be run, under which lock.
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) how: How,
    /// How long to wait for the lock; `None`: for ever.
    pub(crate) wait: Option<Duration>,
    pub(crate) command: Vec<OsString>,
}

/// How long a place in the queue lasts unless it is asked for again.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long giving up a place may take when the store does not answer: it lapses by itself. And how long who holds the
/// lock may then take to learn.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long a store has at least to let us in, however short the wait for the lock may be.
const WELCOME: Duration = Duration::from_secs(1);

/// Runs the command and gives the exit code.
pub(crate) async fn run(store: &Choice, job: Job, json: bool) -> Result<u8> {
    let Job { name, how, wait, .. } = &job;
    if how.grace() > how.ttl / 2 {
        return Err(Failure::usage(
            "--grace is more than half of --ttl: a hold in good order would look like one in doubt",
        ));
    }
    let report = Report::new(how, json);
    let mut signals = Signals::listen().map_err(|error| Failure::system("signals", error))?;
    let start = clock::now();

    let locks = tokio::select! {
        biased;
        signal = signals.next_fatal() => return Ok(signalled(signal as i32)),
        locks = open(store, *wait) => locks?,
    };
    let lock = lock(&locks, name, how)?;
    let taken = tokio::select! {
        biased;
        signal = signals.next_fatal() => Err(signal),
        taken = take(&lock, *wait, how.ttl / 2) => Ok(taken),
        never = narrate(&locks, name, report) => match never {},
    };
    let guard = match taken {
        Ok(Ok(Some(guard))) => guard,
        // Whatever came of it, our place is given up.
        other => {
            let left = leave(&locks, name, how, report, &mut signals).await;
            return match other {
                Err(signal) => Ok(signalled(signal as i32)),
                Ok(Err(error)) => Err(error),
                Ok(Ok(_)) if left => {
                    let held_by = within(FAREWELL, holders(&locks, name)).await.unwrap_or_default();
                    report.say(&News::Busy { name: printable(name), held_by });
                    Ok(how.busy_code)
                }
                // Busy is an answer, and there was none in the end.
                Ok(Ok(_)) => {
                    let name = printable(name);
                    Err(Failure::new(STORE, format!("{name} was busy, and then the store did not answer any more")))
                }
            };
        }
    };
    let (waited_ms, deadline_ms) = (ms(clock::now() - start), unix_ms(guard.info().deadline));
    report.say(&News::Acquired { name: printable(name), fence: guard.fence().get(), waited_ms, deadline_ms });

    let code = hold(&guard, store, &job, report, &mut signals).await;
    let released = release(guard, how, report).await;
    code.map(|code| if released { code } else { LOST })
}

/// Opens the store, in no more than the time that there is for waiting.
async fn open(store: &Choice, wait: Option<Duration>) -> Result<Locks> {
    let Some(wait) = wait.filter(|wait| !wait.is_zero()) else { return store.open().await };
    let limit = wait.max(WELCOME);
    within(limit, store.open()).await.unwrap_or_else(|| {
        Err(Failure::new(STORE, format!("the store did not let us in within {}", duration::text(limit))))
    })
}

/// What comes of it within that time; `None` if nothing does.
async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock::sleep(limit) => None,
    }
}

/// Takes the lock, to be held for at least that long; `None`: it is busy.
async fn take(lock: &Lock, wait: Option<Duration>, least: Duration) -> Result<Option<Guard>> {
    let start = clock::now();
    loop {
        let attempt = match wait {
            Some(Duration::ZERO) => lock.try_lock().await,
            Some(limit) => lock.lock().timeout(limit.saturating_sub(clock::now() - start)).await.map(Some),
            None => lock.lock().await.map(Some),
        };
        let guard = match attempt {
            Ok(Some(guard)) => guard,
            Ok(None) => return Ok(None),
            Err(error) if error.is_timeout() && error.source().is_none() => return Ok(None),
            // The store failed for all of that time: nobody can say that the lock was busy.
            Err(error) if error.is_timeout() => return Err(Failure { code: STORE, ..error.into() }),
            Err(error) => return Err(error.into()),
        };
        // A hold that was handed over begins with what is left of its place's time. A command is to begin with more.
        if guard.remaining() >= least {
            return Ok(Some(guard));
        }
        match guard.refresh().await {
            Ok(()) => return Ok(Some(guard)),
            Err(error) if !error.is_lost() => return Ok(Some(guard)),
            // It lapsed before we came to it, and nothing was begun under it.
            Err(_) => {}
        }
    }
}

/// The lock that the options ask for.
pub(crate) fn lock(locks: &Locks, name: &str, how: &How) -> Result<Lock> {
    let builder = match how.slots {
        Some(limit) => locks.semaphore(name, limit),
        None if how.shared => locks.read(name),
        None => locks.mutex(name),
    };
    let builder = builder.ttl(how.ttl).patience(patience(how));
    let builder = match &how.purpose {
        Some(purpose) => builder.purpose(purpose),
        None => builder,
    };
    Ok(builder.build()?)
}

async fn hold(guard: &Guard, store: &Choice, job: &Job, report: Report, signals: &mut Signals) -> Result<u8> {
    let system = |error| Failure::system("the command cannot be started", error);
    let terminal = Terminal::open();
    // Listened to only now: while there was no command, Ctrl-Z was to suspend us as it does any process.
    for signal in [Signal::SIGCHLD, Signal::SIGTSTP] {
        signals.also(signal).map_err(system)?;
    }
    let info = guard.info();
    let fences = inherited_fences().into_iter().chain([info.fence.get()]);
    let mut environment = vec![
        ("TENURE_NAME", guard.name().to_owned()),
        ("TENURE_FENCE", info.fence.to_string()),
        ("TENURE_DEADLINE", unix_ms(info.deadline).to_string()),
        ("TENURE_OWNER", info.owner),
        (FENCES, fences.map(|fence| fence.to_string()).collect::<Vec<_>>().join(" ")),
    ];
    environment.extend(store.for_command().map(|url| ("TENURE_STORE", url)));
    let foreground = terminal.as_ref().is_some_and(Terminal::to_give);
    let child = Child::spawn(&job.command, &environment, foreground, report.is_json()).map_err(system)?;
    Supervised::new(child, guard, &job.how, report, terminal).finish(signals).await
}

/// Whether the lock was still ours, as far as it matters: a store that does not answer does not say otherwise, and
/// whoever did not want the command to be ended does not want its exit code to be replaced.
async fn release(guard: Guard, how: &How, report: Report) -> bool {
    let (name, held_ms) = (printable(guard.name()), ms(guard.info().held_for));
    // A hold that is about to end by itself is not worth a long wait for a store that does not answer.
    let patience = guard.remaining().max(Duration::from_millis(200));
    let result = tokio::select! {
        result = guard.release() => result.map_err(|error| Failure::from(error).message),
        () = clock::sleep(patience) => Err("the store does not answer".to_owned()),
    };
    match result {
        Ok(was_ours) => {
            report.say(&News::Released { name, held_ms, was_ours });
            was_ours || how.on_lost != OnLost::Kill
        }
        Err(error) => {
            report.say(&News::NotReleased { name, error });
            true
        }
    }
}

/// Waits until our place is given up, but not for long, and no longer if we are asked again; whether it is, or there
/// was none. If not, says what becomes of it.
async fn leave(locks: &Locks, name: &str, how: &How, report: Report, signals: &mut Signals) -> bool {
    let left = tokio::select! {
        biased;
        () = locks.close() => true,
        _ = signals.next_fatal() => false,
        () = clock::sleep(FAREWELL) => false,
    };
    if !left {
        let (place_ms, hold_ms) = (ms(patience(how)), ms(how.ttl));
        report.say(&News::NotLeft { name: printable(name), place_ms, hold_ms });
    }
    left
}

/// How long a place in the queue lasts. A process that dies while it waits holds the others up no longer than one that
/// dies while it holds.
fn patience(how: &How) -> Duration {
    how.ttl.min(PATIENCE)
}
