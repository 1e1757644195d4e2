//! The spans of `tracing`: what each acquisition, hold and request looks like to whoever follows them, as with OpenTelemetry.
//!
//! ```text
//!   the caller's span
//!    ├── tenure.lock        from the call to the hold, or to why there is none
//!    ├── tenure.hold        from the hold to its end; follows from tenure.lock
//!    │    ├── …             the work in `Guard::protect`
//!    │    └── tenure.release
//!    ├── tenure.commit      a fenced commit, from the call to its end
//!    ├── tenure.transaction a two-phase transaction, from the call to its end
//!    └── tenure.saga        a saga, as far as one run carries it
//!   tenure.renew            one for each request of the keeper; follows from the holds in it
//!   tenure.release          the same, of guards that were dropped and claims that were given up
//! ```
//!
//! They are of the level `DEBUG` and the target `tenure`. Where nobody listens to that, a span costs one look at a number,
//! and nothing is kept. Their fields are named as OpenTelemetry's attributes are, and `error.type`, `otel.kind` and
//! `otel.status_code` are its own; `docs/monitoring.md` lists them.

use std::sync::PoisonError;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::span::Id;
use tracing::{Level, Span, debug_span, field::Empty};

use crate::bid::Bid;
use crate::event::Why;
use crate::fence::Fence;
use crate::guard::Guard;
use crate::hold::{Hold, Loss};
use crate::lock::Spec;
use crate::meter;
use crate::sync::MutexGuard;
use crate::transaction::{TransactionId, Txid};

/// The spans of one acquisition.
#[derive(Debug)]
pub(crate) struct Trail {
    /// Where it was called from.
    caller: Span,
    own: Span,
}

/// The span of a hold.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) span: Span,
    /// Where the lock was acquired.
    caller: Option<Id>,
}

/// Whether anybody may follow spans.
pub(crate) fn is_on() -> bool {
    LevelFilter::current() >= Level::DEBUG
}

impl Trail {
    pub(crate) fn begin(spec: &Spec, store: &'static str) -> Self {
        let own = debug_span!(
            target: "tenure", "tenure.lock", otel.kind = "client", tenure.store = store,
            tenure.lock.name = spec.key.as_str(), tenure.lock.kind = meter::kind(spec.claim),
            tenure.lock.outcome = Empty, tenure.lock.fence = Empty, tenure.lock.wait = Empty,
            "error.type" = Empty, otel.status_code = Empty,
        );
        let caller = if own.is_disabled() { Span::none() } else { Span::current() };
        Self { caller, own }
    }

    pub(crate) fn span(&self) -> &Span {
        &self.own
    }

    /// Takes note of how it ended without a hold. That a lock was busy, or that nobody wanted it any more, is no error.
    pub(crate) fn ended(&self, why: Why, waited: Duration) {
        if self.own.is_disabled() {
            return;
        }
        let outcome = match why {
            Why::Busy => "busy",
            Why::Cancelled => "cancelled",
            Why::TimedOut => "timeout",
            Why::Failed(_) => "failed",
        };
        self.own.record("tenure.lock.outcome", outcome).record("tenure.lock.wait", waited.as_secs_f64());
        match why {
            Why::Busy | Why::Cancelled => {}
            Why::TimedOut => failed(&self.own, "timeout"),
            Why::Failed(kind) => failed(&self.own, &format!("{kind:?}")),
        }
    }

    /// Takes note of the hold, whose span begins here.
    pub(crate) fn held(&self, bid: &Bid, hold: &Hold, waited: Duration) {
        if self.own.is_disabled() {
            return;
        }
        let fence = number(hold.fence);
        self.own.record("tenure.lock.outcome", "acquired").record("tenure.lock.fence", fence);
        self.own.record("tenure.lock.wait", waited.as_secs_f64());
        let span = debug_span!(
            target: "tenure", parent: &self.caller, "tenure.hold", otel.kind = "internal",
            tenure.lock.name = hold.key.as_str(), tenure.lock.kind = meter::kind(bid.spec.claim),
            tenure.lock.fence = fence, tenure.lock.loss = Empty, "error.type" = Empty, otel.status_code = Empty,
        );
        span.follows_from(&self.own);
        hold.trace(Trace { span, caller: self.caller.id() });
    }
}

impl Hold {
    /// Takes note of the span of whoever holds it, unless it shares the one of somebody else.
    pub(crate) fn trace(&self, trace: Trace) {
        self.traced().get_or_insert(trace.into());
    }

    /// Its span, which may be none.
    pub(crate) fn span(&self) -> Span {
        if !is_on() {
            return Span::none();
        }
        self.traced().as_ref().map_or(Span::none(), |trace| trace.span.clone())
    }

    /// The span in which work under it runs.
    pub(crate) fn span_of_work(&self) -> Span {
        if !is_on() {
            return Span::none();
        }
        self.traced().as_ref().map_or(Span::none(), |trace| trace.of_work())
    }

    /// Ends its span, when all that is in it has ended.
    pub(crate) fn end_trace(&self) -> Option<Box<Trace>> {
        self.traced().take()
    }

    fn traced(&self) -> MutexGuard<'_, Option<Box<Trace>>> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trace {
    /// The span in which work under the hold runs: the hold's. Work that is called from elsewhere than where the lock was
    /// acquired belongs there, and stays there.
    pub(crate) fn of_work(&self) -> Span {
        let current = Span::current();
        if current.id() == self.caller { self.span.clone() } else { current }
    }

    pub(crate) fn lost(&self, loss: Loss) {
        self.span.record("tenure.lock.loss", loss.name());
        failed(&self.span, loss.name());
    }
}

/// The span of a release that somebody awaits, in the hold's.
pub(crate) fn release(hold: &Hold, of: Option<&Trace>, held: Duration) -> Span {
    debug_span!(
        target: "tenure", parent: of.and_then(|trace| trace.span.id()), "tenure.release", otel.kind = "client",
        tenure.lock.name = hold.key.as_str(), tenure.lock.fence = number(hold.fence),
        tenure.lock.held = held.as_secs_f64(),
    )
}

/// The span of a renewal of so many holds.
pub(crate) fn renewal<'a>(holds: impl ExactSizeIterator<Item = &'a Hold>) -> Span {
    let span =
        debug_span!(target: "tenure", parent: None, "tenure.renew", otel.kind = "client", tenure.batch = holds.len());
    if !span.is_disabled() {
        holds.for_each(|hold| _ = span.follows_from(hold.span()));
    }
    span
}

/// The span of a release in the background, after whatever those spans were for.
pub(crate) fn parting<'a>(after: impl ExactSizeIterator<Item = &'a Span>) -> Span {
    let span =
        debug_span!(target: "tenure", parent: None, "tenure.release", otel.kind = "client", tenure.batch = after.len());
    if !span.is_disabled() {
        after.for_each(|after| _ = span.follows_from(after));
    }
    span
}

/// The span of a fenced commit.
pub(crate) fn commit(txid: &Txid, locks: usize, steps: usize) -> Span {
    debug_span!(
        target: "tenure", "tenure.commit", otel.kind = "client", tenure.tx.id = %txid, tenure.tx.locks = locks,
        tenure.tx.steps = steps, tenure.tx.outcome = Empty, "error.type" = Empty, otel.status_code = Empty,
    )
}

/// The span of a two-phase transaction between so many.
pub(crate) fn transaction(id: TransactionId, guard: &Guard, participants: usize) -> Span {
    debug_span!(
        target: "tenure", "tenure.transaction", otel.kind = "internal", tenure.tx.id = %id,
        tenure.lock.name = guard.name(), tenure.lock.fence = number(guard.fence()),
        tenure.tx.participants = participants, tenure.tx.outcome = Empty, "error.type" = Empty,
        otel.status_code = Empty,
    )
}

/// The span of a run of a saga.
pub(crate) fn saga(name: &str, id: &str, guard: &Guard) -> Span {
    debug_span!(
        target: "tenure", "tenure.saga", otel.kind = "internal", tenure.saga.name = name, tenure.saga.id = id,
        tenure.lock.name = guard.name(), tenure.lock.fence = number(guard.fence()), tenure.tx.outcome = Empty,
        "error.type" = Empty, otel.status_code = Empty,
    )
}

/// Takes note of how a transaction or a saga ended, and of what went wrong.
pub(crate) fn settled(span: &Span, outcome: &str, error: Option<&str>) {
    span.record("tenure.tx.outcome", outcome);
    error.into_iter().for_each(|error| failed(span, error));
}

fn failed(span: &Span, kind: &str) {
    span.record("error.type", kind).record("otel.status_code", "ERROR");
}

/// A token as OpenTelemetry has numbers.
fn number(fence: Fence) -> i64 {
    i64::try_from(fence.get()).unwrap_or(i64::MAX)
}
