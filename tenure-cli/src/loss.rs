//! When a hold in doubt is told to the command, and when the command has to be gone.
//!
//! ```text
//!     last renewal                             grace        margin
//!   ──────┼──────────────────────────────────────┼────────────┼────┤ the certain end ┆ the store's end
//!         │        a renewal failed:             │            │
//!         │        wait for another              TERM         KILL
//! ```

use std::time::Duration;

/// How long a command has that is told only after its hold is gone.
pub(crate) const SHORT: Duration = Duration::from_secs(1);

/// How a hold stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// For how long it is certain.
    pub(crate) remaining: Duration,
    /// A renewal failed, and none came through since.
    pub(crate) suspect: bool,
}

/// What that asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Look again in that time.
    Wait(Duration),
    /// Tell the command now; it has to be gone in that time.
    Tell(Duration),
}

/// The longest time between two looks: a timer stands still while the machine is suspended, a hold does not.
const SLICE: Duration = Duration::from_secs(1);

/// What to do about a hold that stands like that.
///
/// A hold that nobody doubts may have little left just after we were stopped for a while. Its renewal is under way then,
/// so it has until half of the grace is left.
pub(crate) fn step(standing: Standing, grace: Duration) -> Step {
    let Standing { remaining, suspect } = standing;
    if remaining > grace {
        // Not until later, even if nobody doubts it now: that may have changed by the time the grace begins.
        return Step::Wait((remaining - grace).min(SLICE));
    }
    if suspect || remaining <= grace / 2 {
        return Step::Tell(remaining.saturating_sub(margin(grace)));
    }
    Step::Wait(LOOK.min(remaining - grace / 2))
}

/// How often to look while little is left.
const LOOK: Duration = Duration::from_millis(10);

/// How long before the end KILL is sent: the time that the kernel may need to carry it out.
fn margin(grace: Duration) -> Duration {
    (grace / 10).clamp(Duration::from_millis(5), Duration::from_millis(200)).min(grace / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(6);

    fn at(remaining_ms: u64, suspect: bool) -> Step {
        step(Standing { remaining: Duration::from_millis(remaining_ms), suspect }, GRACE)
    }

    #[test]
    fn a_failed_renewal_is_told_when_grace_is_left_and_not_before() {
        assert_eq!(at(20_000, true), Step::Wait(SLICE));
        assert_eq!(at(6_100, true), Step::Wait(Duration::from_millis(100)));
        assert_eq!(at(6_100, false), Step::Wait(Duration::from_millis(100)), "it may be in doubt by then");
        assert_eq!(at(6_000, true), Step::Tell(Duration::from_millis(5_800)));
    }

    #[test]
    fn kill_comes_before_the_hold_ends() {
        for remaining in [6_000, 3_000, 1_000, 250] {
            let Step::Tell(kill) = at(remaining, true) else { panic!("{remaining} ms are little") };
            assert!(kill < Duration::from_millis(remaining), "{kill:?} of {remaining} ms");
        }
        assert_eq!(at(0, true), Step::Tell(Duration::ZERO));
    }

    #[test]
    fn a_renewal_under_way_has_its_chance() {
        assert_eq!(at(5_000, false), Step::Wait(LOOK));
        assert!(matches!(at(3_000, false), Step::Tell(_)));
    }
}
