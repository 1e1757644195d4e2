//! The system's clocks. A command runs in real time, so these are its only ones, and the library's environment is not
//! needed to replace them.

#![allow(clippy::disallowed_methods, reason = "a command lives in real time")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Now.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The wall clock.
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// Sleeps until then.
///
/// # Cancel safety
///
/// It only sleeps.
pub(crate) async fn sleep_until(moment: Instant) {
    tokio::time::sleep_until(moment.into()).await;
}

/// Sleeps for that long.
///
/// # Cancel safety
///
/// It only sleeps.
pub(crate) async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// The output of `future`, unless `limit` passes first.
///
/// # Cancel safety
///
/// As `future`.
pub(crate) async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, future).await.ok()
}

/// A duration in whole milliseconds, for machines.
pub(crate) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time in milliseconds since 1970.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    ms(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}
