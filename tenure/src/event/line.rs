//! An event as a line, and how loud it is in the log.

use std::fmt;

use super::{Event, What};

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.what {
            What::Waiting { ahead } => write!(f, "{name}: waiting, {ahead} ahead"),
            What::Acquired { fence, waited, .. } => write!(f, "{name}: acquired with fence {fence} after {waited:?}"),
            What::NotAcquired { waited, why } => write!(f, "{name}: not acquired after {waited:?}: {why:?}"),
            What::Renewed { remaining } => write!(f, "{name}: renewed, certain for {remaining:?}"),
            What::Suspect { remaining, error } => write!(f, "{name}: in doubt, certain for {remaining:?}: {error}"),
            What::Lost { fence, loss } => write!(f, "{name}: lost with fence {fence}: {loss}"),
            What::Degraded { to, error: None } => write!(f, "{name}: degraded, {to}"),
            What::Degraded { to, error: Some(error) } => write!(f, "{name}: degraded, {to}: {error}"),
            What::HandedOn { held, fence } => write!(f, "{name}: handed on with fence {fence} after {held:?}"),
            What::Released { held, was_ours: true } => write!(f, "{name}: released after {held:?}"),
            What::Released { held, was_ours: false } => {
                write!(f, "{name}: no longer ours at its release after {held:?}")
            }
            What::Committed { txid, took } => write!(f, "{name}: {txid} committed after {took:?}"),
            What::RolledBack { txid, took, why } => write!(f, "{name}: {txid} rolled back after {took:?}: {why}"),
            What::CommitUnknown { txid, took } => {
                write!(f, "{name}: whether {txid} was committed is not known after {took:?}")
            }
            What::TransactionDecided { id, decision, why, pending, recovered } => {
                let found = if *recovered { "found undone, and " } else { "" };
                write!(f, "{name}: transaction {id} {found}{decision}")?;
                why.iter().try_for_each(|why| write!(f, ": {why}"))?;
                if pending.is_empty() { Ok(()) } else { write!(f, "; not known yet to {}", pending.join(", ")) }
            }
            What::TransactionUnknown { id, error } => {
                write!(f, "{name}: whether transaction {id} was decided is not known: {error}")
            }
            What::RecordUnreadable { id, error } => write!(f, "{name}: the record {id} is left alone: {error}"),
            What::SagaStepFailed { saga, step, undo, attempt, error } => {
                let doing = if *undo { "undoing " } else { "" };
                write!(f, "{name}: saga {saga}: attempt {attempt} at {doing}{step} failed: {error}")
            }
            What::SagaCompensated { status } | What::SagaStuck { status } => write!(f, "{name}: saga {status}"),
            What::NodeDown { error } => write!(f, "node {name} is down: {error}"),
            What::NodeUp => write!(f, "node {name} is up again"),
            What::MembersChanged { members } => write!(f, "the members of {name} are now {}", members.join(", ")),
        }
    }
}

impl Event {
    pub(crate) fn log(&self) {
        match &self.what {
            What::Lost { .. }
            | What::Suspect { .. }
            | What::Degraded { .. }
            | What::NodeDown { .. }
            | What::CommitUnknown { .. }
            | What::TransactionUnknown { .. }
            | What::RecordUnreadable { .. }
            | What::SagaStuck { .. } => {
                tracing::warn!(target: "tenure", "{self}")
            }
            _ => tracing::debug!(target: "tenure", "{self}"),
        }
    }
}
