//! Holds on several locks, in their user's hands: they are watched and released together.

use std::future::Future;

use futures_util::future::{join_all, select_all};

use crate::error::{Error, ErrorKind, Result};
use crate::guard::Guard;
use crate::hold::Loss;

/// The holds on several locks, in the order in which these were given.
#[derive(Debug)]
#[must_use = "the locks are released when the guards are dropped"]
pub struct Guards(pub(crate) Vec<Guard>);

impl Guards {
    /// Whether all are certainly still held.
    pub fn are_held(&self) -> bool {
        self.0.iter().all(Guard::is_held)
    }

    /// Completes when the first of them is lost. Never completes where there is none.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn lost(&self) -> Loss {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        select_all(self.0.iter().map(|guard| Box::pin(guard.lost()))).await.0
    }

    /// Runs `work` for as long as all are certain.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Lost`] when one is lost first; the work is dropped at its next await point then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the work.
    pub async fn protect<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            loss = self.lost() => Err(Error::new(ErrorKind::Lost, format!("one of the locks is no longer held: {loss}"))),
            output = work => Ok(output),
        }
    }

    /// Releases all, in one round trip where the store can, and says whether all were still ours.
    ///
    /// # Errors
    ///
    /// The first, when the store did not answer for one. Its release goes on in the background.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the releases go on in the background.
    pub async fn release(mut self) -> Result<bool> {
        let mut ours = Ok(self.0.iter().all(Guard::is_locked));
        // What a fallback handler took of another client is released there.
        let elsewhere: Vec<_> = self.0.extract_if(.., |guard| guard.is_elsewhere()).collect();
        for released in join_all(elsewhere.into_iter().map(Guard::release)).await {
            match released {
                Ok(was_ours) => ours = ours.map(|all| all && was_ours),
                Err(error) => ours = ours.and(Err(error)),
            }
        }
        let mut ops = Vec::with_capacity(self.0.len());
        // What may pass to others in line does not come along.
        self.0.retain_mut(|guard| {
            let was_ours = guard.is_held();
            match guard.begin_release() {
                Some((op, _)) => ops.push((guard.key().clone(), op)),
                None => {
                    if let Ok(all) = &mut ours {
                        *all &= was_ours;
                    }
                    return false;
                }
            }
            true
        });
        let limit = self.0.iter().map(Guard::op_timeout).max().unwrap_or_default();
        let Some(core) = self.0.first().map(Guard::core) else { return ours };
        let replies = core.apply_many(&ops, limit).await;
        for (guard, reply) in self.0.iter_mut().zip(replies) {
            match guard.end_release(reply) {
                Ok(was_ours) => ours = ours.map(|all| all && was_ours),
                Err(error) => ours = ours.and(Err(error)),
            }
        }
        ours
    }

    /// The guards one by one.
    pub fn into_vec(self) -> Vec<Guard> {
        self.0
    }
}

impl std::ops::Deref for Guards {
    type Target = [Guard];

    fn deref(&self) -> &[Guard] {
        &self.0
    }
}
