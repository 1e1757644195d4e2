//! The subscription by which a connection hears of grants.
//!
//! Who waits does so by timer as long as there is none, which is slower and no more than that: so one that is refused is no
//! error to anybody, and is asked for again.

use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use super::line::Line;
use crate::env;
use crate::error::{Error, Result};
use crate::store::redis::errors;

/// How long to wait before a refused subscription is asked for again: at first, and at most.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

impl Inner {
    /// Subscribes to the inbox, and wakes whoever waits: a grant may have been published before. Where the server refuses, it
    /// is asked again for as long as the connection lasts: somebody may give the right back.
    pub(super) async fn subscribe(self: &Arc<Self>, line: &Line) -> Result<()> {
        if let Some(error) = self.refusal(line).await? {
            tracing::warn!(%error, "grants are not pushed; whoever waits asks again in time");
            self.hub.wake_all();
            let (inner, pulse, env) = (Arc::downgrade(self), line.pulse.clone(), self.env.clone());
            env::spawn(async move {
                let mut pause = REFUSED.0;
                loop {
                    env.sleep(env.jitter(pause)).await;
                    pause = (2 * pause).min(REFUSED.1);
                    let Some(inner) = inner.upgrade() else { return };
                    let line = inner.state.borrow().line.clone();
                    let Some(line) = line.filter(|line| Arc::ptr_eq(&line.pulse, &pulse)) else { return };
                    match inner.refusal(&line).await {
                        Ok(Some(_)) => {}
                        Ok(None) => return,
                        Err(_) => return inner.lost(&pulse),
                    }
                }
            });
        }
        Ok(())
    }

    /// Why the server does not subscribe the connection to the inbox; `None` where it does from now on.
    async fn refusal(&self, line: &Line) -> Result<Option<Error>> {
        match line.connection.clone().subscribe(&*self.inbox).await {
            Ok(()) => {
                self.hub.wake_all();
                Ok(None)
            }
            Err(error) if error.is_io_error() => Err(errors::no_reply(&self.config.server, error)),
            Err(error) => Ok(Some(errors::unreachable(&self.config, error))),
        }
    }
}
