//! For how long a hold is certain: less than the store keeps it, by a margin for clocks that drift apart.

use std::time::Duration;

use crate::env::Moment;

/// Until when a hold is certain that was asked for at `sent`: its time, less what two clocks may drift apart meanwhile.
///
/// The store counts from when it carried the request out, which is later. The allowance is the one of Redlock: a
/// hundredth and two milliseconds.
pub(crate) fn certain_until(sent: Moment, time: Duration) -> Moment {
    sent + certain_for(time)
}

/// For how long a hold is certain, from when it was asked for.
pub(crate) fn certain_for(time: Duration) -> Duration {
    time.saturating_sub(time / 100 + Duration::from_millis(2))
}
