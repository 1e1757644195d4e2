//! From the wish for a lease to the lease: the same as for a guard, but unattended.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::bid::Bid;
use crate::client::Client;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::lease::Lease;
use crate::lock::{Lock, Spec, drawn};
use crate::options::{Options, within};
use crate::waiting::Acquiring;

/// A wait for a lease that has not begun: await it.
#[must_use = "nothing is asked for before it is awaited"]
pub struct Leasing {
    spec: Result<Arc<Spec>>,
    client: Arc<Client>,
    timeout: Option<Duration>,
}

impl Lock {
    /// Waits until the lock is granted, for a term of 10 ms to 7 days; [`Leasing::timeout`] bounds the wait.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a term out of range, and [`ErrorKind::Unavailable`] where only a degraded hold was to be
    /// had, which does not outlive the process. Else as [`lock`](Self::lock), whose fallback handler is not asked.
    ///
    /// # Cancel safety
    ///
    /// As [`lock`](Self::lock).
    pub fn lease(&self, term: Duration) -> Leasing {
        Leasing { spec: self.leased(term), client: self.client.clone(), timeout: None }
    }

    /// Takes the lock for a term if it is free now. `None`: it is busy; no place is kept.
    ///
    /// # Errors
    ///
    /// As [`lease`](Self::lease).
    ///
    /// # Cancel safety
    ///
    /// As [`try_lock`](Self::try_lock).
    pub async fn try_lease(&self, term: Duration) -> Result<Option<Lease>> {
        self.client.check_open()?;
        let spec = self.leased(term)?;
        match Bid::new(spec.clone(), self.client.clone()).once().await? {
            Some(guard) => Lease::of(guard, &spec, &self.client).map(Some),
            None => Ok(None),
        }
    }

    /// What a lease claims: the same, unattended, and on behalf of an owner, whose name its ticket tells.
    fn leased(&self, term: Duration) -> Result<Arc<Spec>> {
        within("term", term, Options::TTL)?;
        let Spec { key, claim, owner, max, meta, options, meter } = &*self.spec;
        let (key, meta, meter) = (key.clone(), meta.clone(), meter.clone());
        let owner = Some(owner.clone().unwrap_or_else(|| drawn(&self.client)));
        let options = unattended(options, term).into();
        Ok(Arc::new(Spec { key, claim: *claim, owner, max: *max, meta, options, meter }))
    }
}

/// The options of a hold that nobody renews, for a term.
pub(crate) fn unattended(options: &Options, term: Duration) -> Options {
    let (watchdog, local_hand_off) = (false, false);
    Options { ttl: term, watchdog, local_hand_off, max_hold: None, fallback: None, ..options.clone() }
}

impl Leasing {
    /// Gives up after that time; without, it waits for as long as it takes.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl IntoFuture for Leasing {
    type Output = Result<Lease>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Lease>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let spec = self.spec?;
            let acquiring = Acquiring::new(spec.clone(), self.client.clone());
            let acquiring = self.timeout.into_iter().fold(acquiring, Acquiring::timeout);
            Lease::of(acquiring.await?, &spec, &self.client)
        })
    }
}

impl fmt::Debug for Leasing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leasing").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
