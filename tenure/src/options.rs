//! What can be set, for all locks of a client and for each: defaults, and what is refused.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::codec::Told;
use crate::degrade::Handler;
use crate::duration;
use crate::error::{Error, ErrorKind, Result};
use crate::hold::certain_for;

/// Everything that can be set for a lock. The builders carry one each.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) ttl: Duration,
    pub(crate) patience: Duration,
    pub(crate) watchdog: bool,
    pub(crate) watchdog_interval: Option<Duration>,
    pub(crate) max_hold: Option<Duration>,
    pub(crate) backoff: Option<Backoff>,
    /// What `retry` was given, of which the delays no longer tell.
    pub(crate) retry_interval: Option<Duration>,
    pub(crate) local_hand_off: bool,
    pub(crate) reentrant: Option<u32>,
    pub(crate) fence_memory: Duration,
    pub(crate) op_timeout: Duration,
    pub(crate) purpose: Option<String>,
    pub(crate) meta: Option<Told>,
    pub(crate) fallback: Option<Handler>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            patience: Duration::from_secs(3),
            watchdog: true,
            watchdog_interval: None,
            max_hold: None,
            backoff: None,
            retry_interval: None,
            local_hand_off: true,
            reentrant: None,
            fence_memory: Duration::from_secs(60),
            op_timeout: Duration::from_secs(2),
            purpose: None,
            meta: None,
            fallback: None,
        }
    }
}

/// Makes an iterator of delays for each wait.
#[derive(Clone)]
pub(crate) struct Backoff(pub(crate) Arc<dyn Fn() -> Delays + Send + Sync>);

/// The delays between one wait's attempts.
pub(crate) type Delays = Box<dyn Iterator<Item = Duration> + Send>;

impl fmt::Debug for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backoff")
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Options {
    pub(crate) const TTL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(7 * 24 * 3600));
    const PATIENCE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(3600));
    const OP_TIMEOUT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(600));
    /// The longest metadata, in bytes.
    pub(crate) const META_MAX: usize = 1024;

    /// Refuses what cannot be meant, by name, with what would do.
    pub(crate) fn validate(&self) -> Result<()> {
        within("ttl", self.ttl, Self::TTL)?;
        within("patience", self.patience, Self::PATIENCE)?;
        within("op_timeout", self.op_timeout, Self::OP_TIMEOUT)?;
        within("fence_memory", self.fence_memory, (Duration::ZERO, 30 * DAY))?;
        if let Some(interval) = self.watchdog_interval {
            let ttl = self.ttl;
            if interval.is_zero() || interval >= certain_for(ttl) {
                return Err(invalid(format!(
                    "watchdog_interval of {interval:?} cannot keep a ttl of {ttl:?}: give more than zero and less than \
                     the ttl with its margin, best a third of it"
                )));
            }
        }
        if self.retry_interval == Some(Duration::ZERO) {
            return Err(invalid(
                "retry with an interval of zero would ask the store without a pause: give the time between two attempts, \
                 at least 1ms, or try_lock to ask once",
            ));
        }
        if self.max_hold == Some(Duration::ZERO) {
            return Err(invalid(
                "max_hold of zero would end every hold as it begins: give the longest that one may last, or none",
            ));
        }
        if self.reentrant == Some(0) {
            return Err(invalid(
                "reentrant(0) lets nobody in: give the number of claims that an owner may have, from 1",
            ));
        }
        match &self.meta {
            Some(Err(error)) => return Err(error.clone()),
            Some(Ok(meta)) if meta.len() > Self::META_MAX => {
                let n = meta.len();
                return Err(invalid(format!("metadata of {n} bytes: give at most {}", Self::META_MAX)));
            }
            Some(Ok(_)) | None => {}
        }
        if let Some(n) = self.purpose.as_ref().map(String::len).filter(|&n| n > Self::META_MAX / 4) {
            return Err(invalid(format!("purpose of {n} bytes: give at most {}", Self::META_MAX / 4)));
        }
        Ok(())
    }
}

pub(crate) fn within(name: &str, value: Duration, (least, most): (Duration, Duration)) -> Result<()> {
    if value < least || value > most {
        let [value, least, most] = [value, least, most].map(duration::text);
        return Err(invalid(format!("{name} of {value} is out of range: give {least} to {most}")));
    }
    Ok(())
}

pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

/// The setters that a client's and a lock's builder share.
macro_rules! option_setters {
    () => {
        /// The options, apart from those of others that were the same so far.
        fn set(&mut self) -> &mut $crate::options::Options {
            std::sync::Arc::make_mut(&mut self.options)
        }

        /// How long a hold lasts unless it is renewed: 30 s by default, 10 ms to 7 days.
        ///
        /// It is how long others wait after a holder crashed, and how long a holder can be cut off from the store
        /// before its hold is lost.
        pub fn ttl(mut self, ttl: Duration) -> Self {
            self.set().ttl = ttl;
            self
        }

        /// How long a place in the queue lasts after each time it is asked for: 3 s by default, 10 ms to 1 h.
        ///
        /// It is asked for three times as often. A waiter that died costs the others at most this when its turn comes;
        /// one that was paused for longer queues again at the back.
        pub fn patience(mut self, patience: Duration) -> Self {
            self.set().patience = patience;
            self
        }

        /// Whether holds are renewed in the background for as long as their guards live: they are by default.
        pub fn watchdog(mut self, on: bool) -> Self {
            self.set().watchdog = on;
            self
        }

        /// How long after a renewal was sent the next one is: less than the ttl.
        ///
        /// By default it adapts: a third of the ttl at best, and sooner as the store answers slower or fails more often,
        /// so that three attempts always fit into what remains:
        ///
        /// ```text
        /// interval = min(ttl/3, ttl − margin − 5·attempt) · (1 − failures), and at least ttl/10
        /// attempt  = SRTT + 4·RTTVAR, the smoothed round trip and its deviation as in RFC 6298
        /// failures = the share of requests that failed lately
        /// ```
        ///
        /// [`Locks::health`](crate::Locks::health) tells the measured values. Where one attempt takes longer than a sixth
        /// of the ttl, three do not fit: the ttl is too short for that store.
        pub fn watchdog_interval(mut self, interval: Duration) -> Self {
            self.set().watchdog_interval = Some(interval);
            self
        }

        /// How long a hold may last in all: by default for as long as its guard lives.
        ///
        /// So long after the grant it is over, however well its renewals went:
        /// [`Guard::lost`](crate::Guard::lost) completes with [`Loss::MaxHold`](crate::Loss::MaxHold), and the lock is
        /// released in the background. Where that release does not come through, the store's own time ends soon after,
        /// or a ttl after the grant where that is later. It bounds what a guard can do that hangs, or is leaked.
        pub fn max_hold(mut self, limit: Duration) -> Self {
            self.set().max_hold = Some(limit);
            self
        }

        /// Gives up waiting after `times` retries, `interval` apart. By default waiting has no such bound.
        ///
        /// `build` refuses an interval of zero. Otherwise as [`backoff`](Self::backoff).
        pub fn retry(self, times: usize, interval: Duration) -> Self {
            let mut retrying = self.backoff(move || std::iter::repeat_n(interval, times));
            retrying.set().retry_interval = Some(interval);
            retrying
        }

        /// Asks again after each of the delays, and gives up when they end. A hand-over still wakes the waiter at once.
        ///
        /// A delay of less than a millisecond is taken for one, so that no policy asks the store without a pause.
        ///
        /// The closure makes a new iterator for each wait; a builder of the `backon` crate makes one:
        ///
        /// ```
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> tenure::Result<()> {
        /// use backon::{BackoffBuilder, ExponentialBuilder};
        ///
        /// let locks = tenure::open("memory:").await?;
        /// let lock = locks.mutex("a").backoff(|| ExponentialBuilder::default().with_jitter().build()).build()?;
        /// let guard = lock.lock().await?;
        /// # assert!(guard.is_held());
        /// # Ok(())
        /// # }
        /// ```
        pub fn backoff<I>(mut self, delays: impl Fn() -> I + Send + Sync + 'static) -> Self
        where
            I: Iterator<Item = Duration> + Send + 'static,
        {
            let options = self.set();
            options.backoff = Some($crate::options::Backoff(std::sync::Arc::new(move || Box::new(delays()))));
            options.retry_interval = None;
            self
        }

        /// Whether tasks of this process that want the same lock stand in one line, and may pass a mutex on among
        /// themselves without asking the store: they do by default.
        ///
        /// Each holder of a mutex has a later fence than the one before. The store is asked at least every 100 ms whether
        /// others wait, and as soon as it says so, each gets its turn: so others wait for no more than 100 ms longer than
        /// they would, and the hold under way. Readers and claims of permits ask the store each, several at a time while
        /// nobody waits, and only the first in line has a place in its queue. Claims of an [owner](crate::Locks::owner) or
        /// with a [`backoff`](Self::backoff) stand in no line.
        ///
        /// A task whose turn has come and whose future nobody polls keeps the others of its process waiting for its
        /// [`patience`](Self::patience), twice that at the most, and what it was given goes on to the next, or back to
        /// the store; polled again, it stands in line where it stood. One that has asked the store already is passed over
        /// after two and a half times that, and [`op_timeout`](Self::op_timeout), at the most.
        pub fn local_hand_off(mut self, on: bool) -> Self {
            self.set().local_hand_off = on;
            self
        }

        /// Lets the owner of a claim enter again, up to `max` claims at once, in and waiting.
        ///
        /// The owner is the one that [`Locks::owner`](crate::Locks::owner) names, and otherwise the built
        /// [`Lock`](crate::Lock) with its clones. Where this client certainly holds the lock for the owner already, under
        /// the same terms, entering again shares that hold and asks nobody: then `max` bounds the guards that share it.
        pub fn reentrant(mut self, max: u32) -> Self {
            self.set().reentrant = Some(max);
            self
        }

        /// How long the store remembers a lock's last fence when nobody holds or awaits it: 60 s by default, up to 30
        /// days.
        ///
        /// Later fences are higher still, as they follow the store's clock; the memory is for a clock that was set back
        /// by less than this.
        pub fn fence_memory(mut self, memory: Duration) -> Self {
            self.set().fence_memory = memory;
            self
        }

        /// How long to wait for one reply of the store: 2 s by default, 1 ms to 10 min.
        pub fn op_timeout(mut self, timeout: Duration) -> Self {
            self.set().op_timeout = timeout;
            self
        }

        /// What the lock is held for, in a few words that others see beside host and pid: at most 256 bytes.
        pub fn purpose(mut self, purpose: impl Into<String>) -> Self {
            self.set().purpose = Some(purpose.into());
            self
        }

        /// Metadata of one's own that others see, at most 1 KiB, instead of host, pid and purpose.
        pub fn meta(mut self, meta: impl Into<bytes::Bytes>) -> Self {
            self.set().meta = Some(Ok(meta.into()));
            self
        }

        /// Metadata of one's own type that others see, at most 1 KiB in that format, instead of host, pid and purpose.
        ///
        /// What cannot be written in it is refused when the lock is built.
        pub fn meta_as<T: serde::Serialize>(mut self, codec: &impl $crate::Codec, value: &T) -> Self {
            self.set().meta = Some(codec.encode(value).map(bytes::Bytes::from));
            self
        }

        /// What to do when the store fails an acquisition, after all its retries: fail with the error, which is the
        /// default, go on without a lock, or take another one. The handler is told the lock's name and the error.
        ///
        /// It is not asked where the lock was busy or the claim was refused: that is an answer, no failure. What it
        /// lets happen is told as [`What::Degraded`](crate::What::Degraded), counted as
        /// [`Metrics::degraded`](crate::Metrics::degraded), and known to the
        /// [guard](crate::Guard::is_degraded). The next acquisition asks the store again.
        ///
        /// Where several locks are taken at once it is asked for the one that is being waited for, and for no other. A
        /// [lease](crate::Lock::lease) is never degraded.
        ///
        /// ```
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> tenure::Result<()> {
        /// use std::sync::Arc;
        /// use tenure::Instead;
        /// use tenure::store::Memory;
        ///
        /// let here = tenure::open("memory:").await?;
        /// let locks = tenure::Locks::builder(Arc::new(Memory::new()))
        ///     .fallback(move |name, error| {
        ///         eprintln!("{name}: {error}");
        ///         here.mutex(name).build().map_or(Instead::Fail, Instead::Lock)
        ///     })
        ///     .build()?;
        /// # let guard = locks.mutex("a").build()?.lock().await?;
        /// # assert!(!guard.is_degraded());
        /// # Ok(())
        /// # }
        /// ```
        pub fn fallback(
            mut self,
            handler: impl Fn(&str, &crate::Error) -> crate::Instead + Send + Sync + 'static,
        ) -> Self {
            self.set().fallback = Some(crate::degrade::Handler(std::sync::Arc::new(handler)));
            self
        }
    };
}
pub(crate) use option_setters;

#[cfg(test)]
mod tests;
