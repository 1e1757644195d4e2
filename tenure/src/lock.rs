//! A lock: a name, a claim and options, ready to be taken any number of times.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::bid::Bid;
use crate::client::Client;
use crate::degrade;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::Guard;
use crate::info::{LockInfo, Meta};
use crate::key::Key;
use crate::meter::Meter;
use crate::options::{Options, invalid, option_setters};
use crate::proto::{Claim, ClaimId, Owner, Refusal};
use crate::waiting::Acquiring;

/// How many claims an owner may have where nothing else was said.
const REENTRANT: u32 = 16;
/// The longest owner's name, in bytes.
pub(crate) const OWNER_MAX: usize = 256;

/// A lock on one name. It holds nothing by itself and is cheap to clone; each acquisition stands for itself.
#[derive(Clone)]
pub struct Lock {
    pub(crate) spec: Arc<Spec>,
    pub(crate) client: Arc<Client>,
}

/// What is claimed, and how.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) key: Key,
    pub(crate) claim: Claim,
    pub(crate) owner: Option<Owner>,
    pub(crate) max: u32,
    pub(crate) meta: Bytes,
    pub(crate) options: Arc<Options>,
    /// Where it is counted.
    pub(crate) meter: Arc<Meter>,
}

impl Lock {
    /// The lock's name.
    pub fn name(&self) -> &str {
        self.spec.key.as_str()
    }

    /// Takes the lock if it is free for this claim now, in one round trip. `None`: it is busy; no place is kept.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tenure::Result<()> {
    /// # let locks = tenure::open("memory:").await?;
    /// let nightly = locks.mutex("nightly-report").build()?;
    /// match nightly.try_lock().await? {
    ///     Some(guard) => println!("we run it, with fence {}", guard.fence()),
    ///     None => println!("somebody else runs it"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Deadlock`](ErrorKind::Deadlock), [`ReentryLimit`](ErrorKind::ReentryLimit), [`Mismatch`](ErrorKind::Mismatch)
    /// when the claim is turned away; another kind when the store fails. After
    /// [`NoReply`](ErrorKind::NoReply) whatever the store did is undone in the background.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, whatever the store did is undone in the background.
    pub async fn try_lock(&self) -> Result<Option<Guard>> {
        self.client.check_open()?;
        degrade::try_lock(&self.spec, &self.client).await
    }

    /// Waits until the lock is granted; [`Acquiring::timeout`] bounds the wait.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tenure::Result<()> {
    /// # let locks = tenure::open("memory:").await?;
    /// use std::time::Duration;
    ///
    /// let lock = locks.mutex("invoice-42").ttl(Duration::from_secs(10)).build()?;
    /// let guard = lock.lock().timeout(Duration::from_secs(5)).await?;
    /// guard.protect(async { /* the work, dropped if the hold is lost */ }).await?;
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout) when the time or the retries for waiting are used up, else as
    /// [`try_lock`](Self::try_lock). A store that fails is asked again for as long as waiting may last, but given up when
    /// it has failed without a break for the lock's ttl, or 10 s where that is longer.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, its place in the queue is given up in the background, and a grant that was on its way
    /// goes to the next.
    pub fn lock(&self) -> Acquiring {
        Acquiring::new(self.spec.clone(), self.client.clone())
    }

    /// Whether anybody holds the lock now.
    ///
    /// The store is not asked where this client certainly holds all of it for a task that stood in its
    /// [line](LockBuilder::local_hand_off), or any of it for the owner of this `Lock`. To see another hold (of a reader, of
    /// permits, of another owner, with a backoff, without the line, or a lease) costs a round trip.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn is_locked(&self) -> Result<bool> {
        let core = &self.client.core;
        let now = core.env.now();
        if core.lines.are_held(&self.spec.key, now) || core.reentries.is_in(&self.spec, now) {
            return Ok(true);
        }
        Ok(self.info().await?.is_locked())
    }

    /// Who holds the lock, and who waits.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn info(&self) -> Result<LockInfo> {
        self.client.core.info(&self.spec.key, self.spec.options.op_timeout).await
    }
}

impl Lock {
    pub(crate) fn bid(&self) -> Bid {
        Bid::new(self.spec.clone(), self.client.clone())
    }

    pub(crate) fn is_of(&self, client: &Arc<Client>) -> bool {
        Arc::ptr_eq(&self.client, client)
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spec { key, claim, owner, options, .. } = &*self.spec;
        let mut debug = f.debug_struct("Lock");
        debug.field("name", key).field("claim", claim).field("owner", owner).field("options", options).finish()
    }
}

/// Options for one lock, beginning with its client's defaults.
#[derive(Clone, Debug)]
#[must_use = "nothing is made before `build`"]
pub struct LockBuilder {
    pub(crate) client: Arc<Client>,
    pub(crate) name: Arc<str>,
    pub(crate) permits: u32,
    pub(crate) limit: u32,
    pub(crate) owner: Option<Owner>,
    pub(crate) options: Arc<Options>,
}

impl LockBuilder {
    option_setters!();

    /// How many of a semaphore's permits are claimed: one by default.
    pub fn permits(mut self, permits: u32) -> Self {
        self.permits = permits;
        self
    }

    /// The lock.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a name or an option that cannot be meant; it says which, and what would do.
    pub fn build(self) -> Result<Lock> {
        let Self { client, name, permits, limit, owner, options } = self;
        let key = Key::new(name)?;
        options.validate()?;
        let claim = Claim::new(permits, limit).map_err(|error| invalid(format!("the lock {key:?}: {error}")))?;
        owner.as_ref().map_or(Ok(()), check_owner)?;
        let of_its_own = || options.reentrant.map(|_| drawn(&client));
        let owner = owner.or_else(of_its_own);
        let max = options.reentrant.unwrap_or(REENTRANT);
        let meta = Meta::bytes(&options);
        let meter = client.core.meters.meter(&key, claim);
        Ok(Lock { spec: Arc::new(Spec { key, claim, owner, max, meta, options, meter }), client })
    }
}

impl Spec {
    /// Whether a hold for the one would do for the other: a claim that is renewed, for the same time and told the same.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.options, &other.options);
        let kept = |options: &Options| {
            (options.watchdog_interval, options.ttl, options.max_hold, options.fence_memory, options.op_timeout)
        };
        let watched = ours.watchdog && theirs.watchdog;
        watched && kept(ours) == kept(theirs) && self.meta == other.meta
    }

    /// The error for a claim that was turned away.
    pub(crate) fn refused(&self, refusal: Refusal) -> Error {
        let (key, limit) = (&self.key, self.claim.limit());
        let called = |limit| {
            if limit == Claim::ALL {
                "a mutex or reader-writer lock".to_owned()
            } else {
                format!("a semaphore of {limit}")
            }
        };
        match refusal {
            Refusal::Mismatch { limit: other } => {
                let message = format!(
                    "the lock {key:?} is in use as {}, and cannot be {} meanwhile",
                    called(other),
                    called(limit)
                );
                Error::new(ErrorKind::Mismatch, message)
            }
            Refusal::Deadlock => {
                let message = format!(
                    "another owner holds the lock {key:?} and waits for more of it, as this one would: release, and ask again"
                );
                Error::new(ErrorKind::Deadlock, message)
            }
            Refusal::Full => {
                let (owner, max) = (self.owner.as_ref().map_or("", Owner::as_str), self.max);
                let message =
                    format!("the owner {owner:?} has {max} claims on the lock {key:?} already, as many as it may");
                Error::new(ErrorKind::ReentryLimit, message)
            }
            Refusal::Buried => {
                Error::new(ErrorKind::Lost, format!("this claim on the lock {key:?} was released or broken"))
            }
        }
    }
}

/// An owner whom nobody knows.
pub(crate) fn drawn(client: &Client) -> Owner {
    Owner::new(ClaimId::new(client.core.env.bits()).to_string())
}

pub(crate) fn check_owner(owner: &Owner) -> Result<()> {
    match owner.as_str().len() {
        1..=OWNER_MAX => Ok(()),
        n => Err(invalid(format!("an owner's name of {n} bytes: give 1 to {OWNER_MAX}"))),
    }
}
