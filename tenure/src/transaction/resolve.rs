//! Asking the store how a transaction ended, and asking again where no reply came.

use std::time::Duration;

use super::outcome::{Outcome, Reason};
use super::settle::{Settle, Verdict, refused};
use super::txid::Txid;
use crate::client::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::locks::Locks;

/// The pauses before it is asked again: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

impl Locks {
    /// Settles a transaction for good, and says how: committed, or rolled back. One that was decided stays so. Where
    /// nothing was decided yet, this rolls it back: it leaves a tombstone, so that a commit which is still on its way is
    /// refused when it comes.
    ///
    /// Any client of the same store may ask, in any process, as often as it likes.
    ///
    /// ```no_run
    /// # async fn example() -> tenure::Result<()> {
    /// # let locks = tenure::open("redis://localhost").await?;
    /// # let kept = "account-42@655f2c1a3b4c5.0123456789abcdef0123456789abcdef";
    /// use tenure::transaction::Txid;
    ///
    /// let txid: Txid = kept.parse().expect("it was printed by us");
    /// if locks.resolve(&txid).await?.is_committed() {
    ///     println!("it was paid");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Missing`] where the outcome was kept for as long as it was to be and is forgotten, see
    /// [`outcome_memory`](super::BeginTransaction::outcome_memory); [`ErrorKind::Unsupported`] where the store has no
    /// transactions; another kind when it did not answer.
    ///
    /// # Cancel safety
    ///
    /// The tombstone may be left.
    pub async fn resolve(&self, txid: &Txid) -> Result<Outcome> {
        let (core, limit) = (&self.client.core, self.client.options.op_timeout);
        let traits = core.store.traits();
        if !traits.transaction {
            return Err(refused(traits.kind));
        }
        match ask(core, &Settle::Resolve(txid.clone()), limit).await? {
            Verdict::Committed => Ok(Outcome::Committed),
            Verdict::RolledBack(reason) => Ok(Outcome::RolledBack(reason)),
            Verdict::Forgotten => {
                let message = format!(
                    "how the transaction {txid} ended was kept for as long as it was to be and is forgotten; no commit of it \
                     will be carried out any more: ask sooner, or give a longer outcome_memory"
                );
                Err(Error::new(ErrorKind::Missing, message))
            }
        }
    }
}

/// Asks the store, and where no reply comes, again: it decides once. Each time it has `limit` to answer.
///
/// # Errors
///
/// [`ErrorKind::NoReply`] where the last that is known is that it may have been carried out; any other: it never will be.
pub(super) async fn ask(core: &Core, settle: &Settle, limit: Duration) -> Result<Verdict> {
    let give_up = core.env.now() + 2 * limit;
    let (mut pause, mut silence) = (PAUSE.0, None);
    loop {
        let error = match core.settle(settle, limit).await {
            // The record of an attempt before may have been there, and gone since.
            Ok(Verdict::RolledBack(Reason::TooLate)) if silence.is_some() => None,
            Ok(verdict) => return Ok(verdict),
            Err(error) => Some(error),
        };
        let Some(error) = error else { return Err(silence.expect("an attempt before had no reply")) };
        if error.is_ambiguous() {
            silence = Some(error);
        } else if silence.is_none() {
            return Err(error);
        }
        if let Some(error) = silence.take_if(|_| core.env.now() + pause >= give_up) {
            return Err(error);
        }
        core.env.sleep(core.env.jitter(pause)).await;
        pause = (2 * pause).min(PAUSE.1);
    }
}
