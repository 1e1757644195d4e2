//! What is decided is done everywhere: every participant is told until it has acknowledged, and then the record is done.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use super::decide::Seen;
use super::record::{Decision, Heuristic, Party};
use super::{Coordinator, Outcome, Pending, Reason};
use crate::error::{Error, ErrorKind, Result};
use crate::transaction::journal::{Keep, Written};
use crate::transaction::participant::{Ack, Branch};

impl Coordinator {
    /// Tells all participants what was decided, and closes the record when all have acknowledged.
    pub(super) async fn drive(&self, seen: Seen) -> Outcome {
        let decision = seen.record.state.decision().expect("only what is decided is driven");
        let (branch, parties) = (seen.record.branch.clone(), seen.record.participants.clone());
        let mut heuristics = seen.record.heuristics.clone();
        let mut pending = Vec::new();
        if !seen.record.state.is_done() {
            let mut told: Vec<BoxFuture<'_, _>> = Vec::new();
            for party in &parties {
                told.push(Box::pin(self.tell(party, &branch, decision)));
            }
            for (party, answer) in parties.iter().zip(join_all(told).await) {
                let participant = party.name.clone();
                match answer {
                    Ok(Ack::Done) => {}
                    Ok(Ack::Heuristic(did)) => {
                        let found = Heuristic { participant, decided: decision, did };
                        if !heuristics.contains(&found) {
                            heuristics.push(found);
                        }
                    }
                    Err(error) => pending.push(Pending { participant, error }),
                }
            }
            match self.close(seen.clone(), decision, &mut heuristics, pending.is_empty()).await {
                Ok(true) => self.let_forget(&parties, &branch).await,
                Ok(false) => {}
                // Recovery finds it as it is, and does it again.
                Err(error) => {
                    tracing::warn!(id = %branch.id, %error, "the record of a transaction could not be closed")
                }
            }
        }
        for Pending { participant, error } in &pending {
            tracing::warn!(id = %branch.id, ?decision, participant, %error, "not settled yet, and left to recovery");
        }
        let (id, why) = (branch.id, seen.record.why.unwrap_or_default());
        match decision {
            Decision::Commit => Outcome::Committed { id, pending, heuristics },
            Decision::RollBack => Outcome::RolledBack { id, why: Reason::Elsewhere(why), pending, heuristics },
        }
    }

    pub(super) async fn tell(&self, party: &Party, branch: &Branch, decision: Decision) -> Result<Ack> {
        let Some(participant) = self.named(&party.name) else {
            let Party { name, location } = party;
            let message =
                format!("this coordinator has no participant {name:?} ({location}): recover where there is one");
            return Err(Error::new(ErrorKind::Missing, message));
        };
        let (here, there) = (participant.location(), &party.location);
        let is_it = |(name, from): &(String, String)| (name, from) == (&party.name, there);
        if here != *there && !self.moved.iter().any(is_it) {
            let message = format!(
                "the {:?} that took part is at {there}, and the one here is at {here}: recover with the right one, or say that \
                 it has moved",
                party.name
            );
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        let tell = || match decision {
            Decision::Commit => participant.commit(branch),
            Decision::RollBack => participant.rollback(branch),
        };
        self.retry(self.settle_timeout, tell).await
    }

    /// Writes down that all have acknowledged, and who has gone another way. Says whether the record is done; then
    /// `heuristics` is what it has.
    async fn close(
        &self,
        mut seen: Seen,
        decision: Decision,
        heuristics: &mut Vec<Heuristic>,
        all_acknowledged: bool,
    ) -> Result<bool> {
        loop {
            if seen.record.state.is_done() {
                heuristics.clone_from(&seen.record.heuristics);
                return Ok(true);
            }
            let mut next = seen.record.clone();
            heuristics.retain(|found| !next.heuristics.contains(found));
            let new = std::mem::take(heuristics);
            next.heuristics.extend(new.iter().cloned());
            heuristics.clone_from(&next.heuristics);
            if all_acknowledged {
                next.state = decision.done();
            }
            if next == seen.record {
                return Ok(false);
            }
            // What somebody has to look at does not go by itself.
            let keep = match next.state.is_done() && next.heuristics.is_empty() {
                true => Keep::For(self.retention),
                false => Keep::UntilForgotten,
            };
            let written = self.retry(self.settle_timeout, || self.replace(&seen, &next, keep).boxed()).await?;
            if let Written::Done(_) = written {
                for Heuristic { participant, decided, did } in &new {
                    let id = next.branch.id;
                    tracing::error!(%id, participant, ?decided, %did, "a participant went another way than was decided");
                }
                return Ok(next.state.is_done());
            }
            // Somebody else drives it as well, or an attempt before went through.
            match self.retry(self.settle_timeout, || self.find(seen.record.branch.id).boxed()).await? {
                Some(there) => seen = there,
                None => return Ok(false),
            }
        }
    }

    /// Tells the participants that nobody will ask again. Who does not hear it now hears it from the next recovery.
    async fn let_forget(&self, parties: &[Party], branch: &Branch) {
        let mut told: Vec<BoxFuture<'_, _>> = Vec::new();
        let known: Vec<_> = parties.iter().filter_map(|party| self.named(&party.name)).collect();
        for participant in &known {
            told.push(Box::pin(self.limited(participant.forget(branch))));
        }
        for (participant, answer) in known.iter().zip(join_all(told).await) {
            let participant = participant.name();
            if let Err(error) = answer {
                tracing::info!(id = %branch.id, participant, %error, "to be forgotten later");
            }
        }
    }
}
