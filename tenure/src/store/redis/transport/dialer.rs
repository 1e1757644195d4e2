//! Who makes the next connection, when one was lost.

use std::sync::Weak;

use super::{Inner, State, next};

/// Makes a connection, for as long as somebody wants one and the store lives.
pub(super) struct Dialer(pub(super) Weak<Inner>);

impl Dialer {
    pub(super) async fn run(mut self) {
        let mut first = true;
        while let Some((env, backoff)) = self.0.upgrade().map(|inner| (inner.env.clone(), inner.state.borrow().backoff))
        {
            env.sleep(env.jitter(backoff)).await;
            let Some(inner) = self.0.upgrade() else { return };
            // A waiting command holds a receiver; whoever registered at the hub waits for a push.
            let unwanted = |state: &mut State| {
                let unwanted = !first && inner.state.receiver_count() == 0 && inner.hub.is_empty();
                state.dialing &= !unwanted;
                unwanted
            };
            if inner.state.send_if_modified(unwanted) {
                return self.done();
            }
            first = false;
            match inner.open().await {
                Ok(line) => {
                    self.done();
                    return inner.up(line);
                }
                Err(error) => inner.state.send_modify(|state| {
                    (state.error, state.backoff) = (error, next(state.backoff));
                    state.attempts += 1;
                }),
            }
        }
    }

    fn done(&mut self) {
        self.0 = Weak::new();
    }
}

impl Drop for Dialer {
    /// The runtime may end before the connection is made; whoever comes next begins anew, on a runtime of its own.
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.state.send_if_modified(|state| {
                let undone = std::mem::take(&mut state.dialing);
                state.attempts += u64::from(undone);
                undone
            });
        }
    }
}
