//! The keeper's renewals: what is sent together, how long it is waited for, and what follows from the answer.
//!
//! ```text
//!   left ├──── attempt, a third ────┤ pause ├──── attempt ────┤ pause ├──── attempt ────┤ deadline
//!          a batch of a hundred               ten at the most           each alone
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::agenda::Item;
use crate::env::Moment;
use crate::error::Result;
use crate::event::What;
use crate::health::Pulse;
use crate::hold::{Hold, Watchdog, certain_until};
use crate::keeper::{BATCH, Shared};
use crate::line::Contact;
use crate::proto::{Op, Outcome, Renew, Reply};

/// How long after a failure a renewal is tried again: a quarter of what remains, within these.
const RETRY_LEAST: Duration = Duration::from_millis(5);
const RETRY_MOST: Duration = Duration::from_secs(1);

/// One attempt to renew a hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    sent: Moment,
    /// What was asked for.
    lease: Duration,
    /// Until when the hold was certain before.
    before: Moment,
}

impl Attempt {
    pub(crate) fn new(hold: &Hold, sent: Moment) -> Self {
        Self { sent, lease: hold.lease_from(sent), before: hold.deadline() }
    }

    pub(crate) fn op(self, hold: &Hold) -> Op {
        Op::Renew(Renew { id: hold.id, ttl: self.lease, fence: hold.fence.get() })
    }
}

impl Shared {
    pub(crate) async fn renew(self: &Arc<Self>, batch: Vec<Arc<Hold>>, pulse: Pulse) {
        let sent = self.core.env.now();
        let limit = batch.iter().map(|hold| limit(hold, pulse, sent)).min().unwrap_or_default();
        let attempts: Vec<_> = batch.into_iter().map(|hold| (Attempt::new(&hold, sent), hold)).collect();
        if let [(attempt, hold)] = &attempts[..] {
            // A store may gather what comes apart; what comes together it answers together.
            let reply = self.core.apply(&hold.key, &attempt.op(hold), limit).await;
            return self.renewed(hold, *attempt, reply);
        }
        let ops: Vec<_> = attempts.iter().map(|(attempt, hold)| (hold.key.clone(), attempt.op(hold))).collect();
        let replies = self.core.apply_many(&ops, limit).await;
        for ((attempt, hold), reply) in attempts.iter().zip(replies) {
            self.renewed(hold, *attempt, reply);
        }
    }

    pub(crate) fn renewed(self: &Arc<Self>, hold: &Arc<Hold>, attempt: Attempt, reply: Result<Reply>) {
        if reply.as_ref().is_ok_and(|reply| !matches!(reply.outcome, Outcome::Held { .. })) {
            return self.gone(hold);
        }
        let mut agenda = self.agenda();
        // Not before: what was told to be over meanwhile must not come back.
        let now = self.core.env.now();
        if hold.is_over() {
            return;
        }
        if let Ok(Reply { outcome: Outcome::Held { waiting, .. }, now: clock }) = reply {
            hold.heard(Contact { now: clock, at: now, waiting });
        }
        match reply.map(|reply| reply.outcome) {
            Ok(Outcome::Held { .. }) if hold.extend(certain_until(attempt.sent, attempt.lease), now) => {
                agenda.remove(hold);
                let interval = hold.interval(self.core.vitals.pulse());
                let due = interval.map_or(hold.deadline(), |interval| attempt.sent + interval);
                self.enter(agenda, due, Item::Hold(hold.clone()));
                hold.meter.renewed();
                self.core.tell_in(&hold.span(), &hold.key, || What::Renewed { remaining: hold.deadline() - now });
            }
            Ok(_) => {}
            // Another renewal came through meanwhile, so that this one is no news.
            Err(_) if hold.deadline() > attempt.before => {}
            Err(error) => {
                let left = hold.deadline() - now;
                if hold.watchdog != Watchdog::Off {
                    agenda.remove(hold);
                    let retry = now + self.core.env.jitter((left / 4).clamp(RETRY_LEAST, RETRY_MOST));
                    let retry = retry.min(hold.deadline());
                    self.enter(agenda, retry, Item::Hold(hold.clone()));
                } else {
                    drop(agenda);
                }
                if hold.suspect() {
                    hold.meter.suspect();
                    self.core.tell_in(&hold.span(), &hold.key, || What::Suspect {
                        remaining: left,
                        error: error.to_string(),
                    });
                }
            }
        }
    }
}

fn limit(hold: &Hold, pulse: Pulse, now: Moment) -> Duration {
    pulse.limit(hold.deadline() - now, hold.failures(), hold.op_timeout)
}

/// What is sent together, and shares a time limit: a hundred at the most, none of which may wait for twice as long as
/// another. A renewal that failed is tried again with ten at the most, and then alone, for it may be the fault of one of
/// them, or of one of several nodes that the store has.
pub(crate) fn batches(holds: &[Arc<Hold>], pulse: Pulse, now: Moment) -> Vec<Vec<Arc<Hold>>> {
    let mut batches: Vec<Vec<Arc<Hold>>> = Vec::new();
    let (mut size, mut longest) = (0, Duration::ZERO);
    for hold in holds {
        let most = [BATCH, 10, 1][usize::from(hold.failures().min(2))];
        let limit = limit(hold, pulse, now);
        match batches.last_mut() {
            Some(batch) if most == size && batch.len() < size && limit <= longest => batch.push(hold.clone()),
            _ => {
                (size, longest) = (most, 2 * limit);
                batches.push(vec![hold.clone()]);
            }
        }
    }
    batches
}
