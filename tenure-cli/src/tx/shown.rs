//! A transaction or a saga as it is shown: in a table, in full, and as JSON.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use tenure::transaction::SagaStatus;
use tenure::transaction::coordinator::{Heuristic, Outcome, Record};
use tenure::transaction::journal::Entry;

use crate::look::timestamp;
use crate::text::{Paint, printable, table};

/// One record of a journal.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    id: String,
    kind: &'static str,
    lock: Option<String>,
    fence: Option<u64>,
    state: String,
    since: Option<String>,
    /// Why it was rolled back, or is compensated.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Who takes part, or what is done, one after the other.
    parts: Vec<Part>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    heuristics: Vec<Heuristic>,
    /// Whether somebody or something still has to do with it.
    open: bool,
}

#[derive(Debug, Serialize)]
struct Part {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What entries say, those begun first to begin with. Of one that cannot be read, that is said.
pub(super) fn read(entries: &[Entry]) -> Vec<Shown> {
    let mut shown: Vec<Shown> = entries.iter().filter_map(one).collect();
    shown.sort_by(|a, b| a.since.cmp(&b.since));
    shown
}

fn one(entry: &Entry) -> Option<Shown> {
    let found = match (Record::read(entry), SagaStatus::parse(&entry.value)) {
        (Ok(Some(record)), _) => return Some(Shown::of_record(record)),
        (_, Ok(Some(saga))) => return Some(Shown::of_saga(&entry.id, &saga)),
        (Ok(None), Ok(None)) => return None,
        (Err(error), _) | (_, Err(error)) => error,
    };
    let (id, state) = (entry.id.clone(), found.to_string());
    let (parts, heuristics) = (Vec::new(), Vec::new());
    let kind = "unreadable";
    Some(Shown { id, kind, lock: None, fence: None, state, since: None, why: None, parts, heuristics, open: true })
}

impl Shown {
    fn of_record(record: Record) -> Self {
        let state = word(&record.state);
        let part = |party: tenure::transaction::coordinator::Party| Part {
            name: party.name,
            location: Some(party.location),
            state: None,
            error: None,
        };
        Self {
            id: record.branch.id.to_string(),
            kind: "two-phase",
            lock: Some(record.branch.lock),
            fence: Some(record.branch.fence.get()),
            state,
            since: Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_micros(record.since))),
            why: record.why,
            parts: record.participants.into_iter().map(part).collect(),
            open: !record.state.is_done() || !record.heuristics.is_empty(),
            heuristics: record.heuristics,
        }
    }

    fn of_saga(id: &str, saga: &SagaStatus) -> Self {
        let part = |step: tenure::transaction::StepStatus| Part {
            name: step.name,
            location: None,
            state: Some(word(&step.state)),
            error: step.error,
        };
        Self {
            id: id.to_owned(),
            kind: "saga",
            lock: Some(saga.lock().to_owned()),
            fence: Some(saga.fence().get()),
            state: word(&saga.state()),
            since: Some(timestamp(saga.since())),
            why: saga.cause().map(|cause| format!("{}: {}", cause.step, cause.error)),
            parts: saga.steps().into_iter().map(part).collect(),
            heuristics: Vec::new(),
            open: !saga.is_settled(),
        }
    }

    /// What a recovery came to.
    pub(super) fn of_outcome(outcome: &Outcome) -> Self {
        let (state, why, pending, heuristics) = match outcome {
            Outcome::Committed { pending, heuristics, .. } => {
                ("committed", None, pending.as_slice(), heuristics.clone())
            }
            Outcome::RolledBack { why, pending, heuristics, .. } => {
                ("rolled-back", Some(why.to_string()), pending.as_slice(), heuristics.clone())
            }
            Outcome::Unknown { error, .. } => ("unknown", Some(error.to_string()), &[][..], Vec::new()),
        };
        let part = |pending: &tenure::transaction::coordinator::Pending| Part {
            name: pending.participant.clone(),
            location: None,
            state: Some("pending".to_owned()),
            error: Some(pending.error.to_string()),
        };
        Self {
            id: outcome.id().to_string(),
            kind: "two-phase",
            lock: None,
            fence: None,
            state: state.to_owned(),
            since: None,
            why,
            parts: pending.iter().map(part).collect(),
            open: !pending.is_empty() || !heuristics.is_empty() || state == "unknown",
            heuristics,
        }
    }

    /// Whether it is more than history.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// All that is known.
    pub(super) fn details(&self, paint: Paint) -> String {
        let fence = self.fence.map(|fence| fence.to_string());
        let mut lines = Vec::new();
        let mut line = |name: &str, value: Option<&str>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                lines.push(format!("{} {}", paint.bold(&format!("{name:<9}")), printable(value)));
            }
        };
        line("id", Some(&self.id));
        line("kind", Some(self.kind));
        line("state", Some(&self.state));
        line("why", self.why.as_deref());
        line("lock", self.lock.as_deref());
        line("fence", fence.as_deref());
        line("since", self.since.as_deref());
        for Part { name, location, state, error } in &self.parts {
            let words: Vec<&str> = [location, state, error].into_iter().filter_map(Option::as_deref).collect();
            line(if self.kind == "saga" { "step" } else { "with" }, Some(&format!("{name}: {}", words.join(", "))));
        }
        for Heuristic { participant, decided, did } in &self.heuristics {
            let text = format!("{participant} {did}, and {} was decided", word(decided));
            lines.push(format!("{} {}", paint.bold("heuristic"), paint.red(&printable(&text))));
        }
        lines.join("\n")
    }
}

/// As a table.
pub(super) fn list(shown: &[Shown], paint: Paint) -> String {
    let row = |one: &Shown| {
        let text = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), printable);
        let parts: Vec<String> = one
            .parts
            .iter()
            .map(|part| match &part.state {
                Some(state) => format!("{} ({})", printable(&part.name), printable(state)),
                None => printable(&part.name),
            })
            .collect();
        let state = match one.heuristics.is_empty() {
            true => printable(&one.state),
            false => format!("{}, heuristic", printable(&one.state)),
        };
        vec![printable(&one.id), one.kind.to_owned(), state, text(&one.lock), text(&one.since), parts.join(", ")]
    };
    let rows: Vec<Vec<String>> = shown.iter().map(row).collect();
    table(&["ID", "KIND", "STATE", "LOCK", "SINCE", "WITH"], &rows, paint)
}

/// The name of a value, as JSON has it.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
