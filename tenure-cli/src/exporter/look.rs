//! Looks at a store, one at a time and not too often, and keeps what was seen for a moment.

use std::cmp::Reverse;
use std::time::{Duration, Instant, SystemTime};

use futures_util::{StreamExt, TryStreamExt, stream};
use tenure::{ErrorKind, Holder, LockInfo, Locks};
use tokio::sync::Mutex;

use crate::clock;
use crate::exit::{Failure, Result, STORE};
use crate::exporter::{Exporter, text};
use crate::out::say;
use crate::store::Choice;

/// How many locks are read at the same time.
const READS: usize = 32;
/// After a look that took some time, the store is left alone for so many times that.
const REST: u32 = 4;

/// Whoever looks at the store for all who ask.
pub(super) struct Watcher<'a> {
    store: &'a Choice,
    options: Exporter,
    seen: Mutex<Seen>,
}

/// What was seen last.
#[derive(Default)]
struct Seen {
    locks: Option<Locks>,
    /// What is told, and until when.
    told: Option<(String, Instant)>,
    was_up: Option<bool>,
}

/// How the locks of a store stand, in figures.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) up: bool,
    pub(super) took: Duration,
    pub(super) locks: usize,
    pub(super) holders: usize,
    pub(super) waiting: usize,
    pub(super) spans: Spans,
    /// Locks that there were too many of to read, or whose record could not be.
    pub(super) unread: usize,
    pub(super) by_name: Vec<Lock>,
    /// Locks that there were too many of to tell by name.
    pub(super) untold: usize,
}

/// One lock.
#[derive(Debug, PartialEq)]
pub(super) struct Lock {
    pub(super) name: String,
    pub(super) holders: usize,
    pub(super) waiting: usize,
    pub(super) spans: Spans,
}

/// How long things have lasted, and will; `None` where there is no such thing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spans {
    pub(super) oldest_hold: Option<Duration>,
    pub(super) oldest_wait: Option<Duration>,
    /// Until the first hold ends unless it is renewed.
    pub(super) soonest_expiry: Option<Duration>,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(store: &'a Choice, options: Exporter) -> Self {
        Self { store, options, seen: Mutex::default() }
    }

    /// What there is to tell. Who asks while somebody looks waits for that, and is told the same.
    pub(super) async fn text(&self) -> String {
        let mut seen = self.seen.lock().await;
        let begun = clock::now();
        if let Some((told, until)) = &seen.told
            && begun < *until
        {
            return told.clone();
        }
        let limit = self.options.timeout;
        let looked = clock::timeout(limit, self.look(&mut seen.locks)).await;
        let looked = looked.unwrap_or_else(|| Err(Failure::new(STORE, format!("no answer within {limit:?}"))));
        let took = clock::now() - begun;
        let is_up = looked.is_ok();
        if !is_up {
            // A file that was replaced does not come back by itself.
            seen.locks = None;
        }
        match (&looked, seen.was_up.replace(is_up)) {
            (Err(failure), None | Some(true)) => say(&format!("tenure: the store is down: {}", failure.message)),
            (Ok(_), Some(false)) => say("tenure: the store is back"),
            _ => {}
        }
        let figures = Figures { up: is_up, took, ..looked.unwrap_or_default() };
        let told = text::text(&figures);
        seen.told = Some((told.clone(), until(self.options.cache.max(REST * took))));
        told
    }

    async fn look(&self, opened: &mut Option<Locks>) -> Result<Figures> {
        if opened.is_none() {
            *opened = self.store.look().await?.ok();
        }
        // In a store that is not there yet nothing is held.
        let Some(locks) = opened else { return Ok(Figures::default()) };
        let mut names: Vec<_> = locks.store().scan().await?;
        names.retain(|name| matches(&self.options.pattern, name.as_str()));
        let unread = names.len().saturating_sub(self.options.max_read);
        names.truncate(self.options.max_read);
        let locks = &*locks;
        let infos = stream::iter(&names).map(|name| async move {
            match locks.info(name.as_str()).await {
                // One record that is damaged, or none of ours, says nothing of the store.
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Foreign) => Ok(None),
                read => read.map(Some),
            }
        });
        let figures = Figures { unread, ..Figures::default() };
        let add = async |figures: Figures, info: Option<LockInfo>| {
            Ok(match info {
                Some(info) => figures.and(&info),
                None => Figures { unread: figures.unread + 1, ..figures },
            })
        };
        let figures = infos.buffer_unordered(READS).try_fold(figures, add).await?;
        Ok(figures.told_by_name(self.options.max_locks))
    }
}

/// So much later, or a day where that is beyond all clocks.
fn until(rest: Duration) -> Instant {
    let now = clock::now();
    now.checked_add(rest).unwrap_or(now + Duration::from_secs(24 * 3600))
}

impl Figures {
    fn and(mut self, info: &LockInfo) -> Self {
        let (holders, waiting) = (info.holders.len(), info.waiters.len());
        if holders + waiting == 0 {
            return self;
        }
        let spans = Spans::of(info);
        self.locks += 1;
        self.holders += holders;
        self.waiting += waiting;
        self.spans = self.spans.and(spans);
        self.by_name.push(Lock { name: info.name.clone(), holders, waiting, spans });
        self
    }

    /// Tells so many by name: those that most wait for, then those that are held longest.
    fn told_by_name(mut self, most: usize) -> Self {
        self.by_name.sort_by(|a, b| {
            let rank = |lock: &Lock| (Reverse(lock.waiting), Reverse(lock.spans.oldest_hold));
            rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name))
        });
        self.untold = self.by_name.len().saturating_sub(most);
        self.by_name.truncate(most);
        self
    }
}

impl Spans {
    fn of(info: &LockInfo) -> Self {
        let age = |claim: &Holder| info.read_at.duration_since(claim.since).unwrap_or_default();
        let left = |until: SystemTime| until.duration_since(info.read_at).unwrap_or_default();
        Self {
            oldest_hold: info.holders.iter().map(age).max(),
            oldest_wait: info.waiters.iter().map(age).max(),
            soonest_expiry: info.holders.iter().map(|claim| left(claim.until)).min(),
        }
    }

    fn and(self, other: Self) -> Self {
        let least = [self.soonest_expiry, other.soonest_expiry];
        Self {
            oldest_hold: self.oldest_hold.max(other.oldest_hold),
            oldest_wait: self.oldest_wait.max(other.oldest_wait),
            soonest_expiry: least.into_iter().flatten().min(),
        }
    }
}

/// Whether the name is of that pattern, in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').collect::<Vec<_>>();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name) in [("*", "a"), ("a", "a"), ("a*", "a"), ("a*c", "abc"), ("*b*", "abc"), ("a*b*c", "axbxc")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "ab"), ("a*", "b"), ("a*a", "a"), ("*b", "ba"), ("a*b*c", "acb")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn the_busiest_are_told_by_name_and_then_those_held_longest() {
        let lock = |name: &str, waiting, held| {
            let spans = Spans { oldest_hold: Some(Duration::from_secs(held)), ..Spans::default() };
            Lock { name: name.to_owned(), holders: 1, waiting, spans }
        };
        let by_name = vec![lock("calm", 0, 1), lock("long", 0, 9), lock("busy", 3, 0)];
        let figures = Figures { by_name, ..Figures::default() }.told_by_name(2);
        let names: Vec<_> = figures.by_name.iter().map(|lock| lock.name.as_str()).collect();
        assert_eq!((names, figures.untold), (vec!["busy", "long"], 1));
    }
}
