//! How a store's nodes fare: how long they take to answer, how often they don't, and what that means for renewals.
//!
//! Every operation of the client is a sample, at most one for each round trip, so that a crowd of requests which fail
//! together counts as one failure. Round trips are smoothed as TCP does it (RFC 6298, section 2), failures likewise:
//!
//! ```text
//!   SRTT     ← SRTT + (R − SRTT)/8           a round trip R; a request without a reply counts as one that took
//!   RTTVAR   ← RTTVAR + (|R − SRTT| − RTTVAR)/4          as long as was waited for it, if that is longer
//!   failures ← failures + (f − failures)/8   f: 1 for a failure, 0 for an answer
//!
//!   attempt  = SRTT + 4·RTTVAR               what one renewal may take
//!   interval = min(ttl/3, life − 5·attempt) · (1 − failures), and at least ttl/10
//! ```
//!
//! `life` is the ttl less the margin. A renewal that fails is tried again, and each attempt is given at least `attempt`,
//! at first a third of what is left; the pauses between two are at most a quarter of what is left. So three attempts
//! with their pauses fit into 14/3 of one, for which the 5 stands. Where a node takes longer than a sixth of the ttl,
//! three don't fit: then the ttl is too short for it.

use std::sync::PoisonError;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::env::Moment;
use crate::hold::certain_for;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use crate::sync::{Mutex, MutexGuard};

/// How one node of a store fares, as this client sees it; see [`Locks::health`](crate::Locks::health).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeHealth {
    /// Which node: the store's kind, where a store is one node.
    pub node: String,
    /// Whether it answers: false once three requests in a row failed, until one is answered.
    pub up: bool,
    /// How long it takes to answer, smoothed; zero before the first answer.
    pub latency: Duration,
    /// By how much that varies, smoothed.
    pub deviation: Duration,
    /// How many requests in a row have failed until now; requests that were under way together count as one.
    pub failures: u32,
    /// Which share of the requests failed lately, from 0 to 1.
    pub failure_rate: f64,
    /// How many holds of this client are kept through it.
    pub holds: usize,
    /// When the first of those is lost if no renewal comes through, from now; `None` where there are none.
    pub soonest_deadline: Option<Duration>,
}

/// So many failures in a row are an outage.
const DOWN_AT: u32 = 3;

/// What is measured about one node.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    /// When the last sample was taken: a request that was sent before is none.
    sampled_at: AtomicU64,
    /// When the last answer came.
    answered_at: AtomicU64,
    /// The last sample was a failure.
    troubled: AtomicBool,
    beats: Mutex<Beats>,
}

#[derive(Debug, Default)]
struct Beats {
    round_trip: Option<RoundTrip>,
    /// Of answers alone.
    answer: Option<RoundTrip>,
    failure_rate: f64,
    failures: u32,
    down: bool,
}

/// In seconds.
#[derive(Clone, Copy, Debug)]
struct RoundTrip {
    smoothed: f64,
    deviation: f64,
}

/// What changed with a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Up,
    Down,
}

/// How a node fares, as far as renewing goes by it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pulse {
    /// What one renewal may take.
    pub(crate) attempt: Duration,
    /// Which share of the requests fails.
    pub(crate) failure_rate: f64,
    /// How long the node may be silent before what was sent no longer counts as under way, and more is sent.
    pub(crate) silence: Duration,
}

/// The least and the most of that.
const SILENCE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

impl Vitals {
    /// Takes note of an answer to what was sent at `sent`.
    pub(crate) fn answered(&self, sent: Moment, now: Moment) -> Option<Turn> {
        self.answered_at.store(now.0, Relaxed);
        let is_old = || sent.0 < self.sampled_at.load(Relaxed) && !self.troubled.load(Relaxed);
        if is_old() {
            return None;
        }
        let mut beats = self.beats();
        self.sampled_at.store(now.0, Relaxed);
        self.troubled.store(false, Relaxed);
        RoundTrip::sample(&mut beats.round_trip, now - sent);
        RoundTrip::sample(&mut beats.answer, now - sent);
        beats.failure_rate -= beats.failure_rate / 8.0;
        beats.failures = 0;
        std::mem::take(&mut beats.down).then_some(Turn::Up)
    }

    /// Takes note of a failure of what was sent at `sent`; `no_reply`: it was given up.
    pub(crate) fn failed(&self, sent: Moment, now: Moment, no_reply: bool) -> Option<Turn> {
        let mut beats = self.beats();
        // Looked at under the lock, as many of one crowd may come at once.
        if sent.0 < self.sampled_at.load(Relaxed) {
            return None;
        }
        let waited = now - sent;
        // Whoever had little time to wait has learned nothing about a node that answers others.
        if no_reply && beats.failures == 0 && waited < beats.attempt() {
            return None;
        }
        self.sampled_at.store(now.0, Relaxed);
        self.troubled.store(true, Relaxed);
        if no_reply && beats.round_trip.is_none_or(|usual| waited.as_secs_f64() > usual.smoothed) {
            RoundTrip::sample(&mut beats.round_trip, waited);
        }
        beats.failure_rate += (1.0 - beats.failure_rate) / 8.0;
        beats.failures = beats.failures.saturating_add(1);
        let news = beats.failures >= DOWN_AT && !beats.down;
        beats.down |= news;
        news.then_some(Turn::Down)
    }

    /// When the last answer came.
    pub(crate) fn answered_at(&self) -> Moment {
        Moment(self.answered_at.load(Relaxed))
    }

    pub(crate) fn pulse(&self) -> Pulse {
        let beats = self.beats();
        let silence = beats.answer.map_or(SILENCE.0, |answer| (2 * answer.most()).clamp(SILENCE.0, SILENCE.1));
        Pulse { attempt: beats.attempt(), failure_rate: beats.failure_rate, silence }
    }

    pub(crate) fn health(&self, node: String, holds: usize, soonest_deadline: Option<Duration>) -> NodeHealth {
        let beats = self.beats();
        let seconds = |of: fn(&RoundTrip) -> f64| beats.round_trip.as_ref().map_or(0.0, of);
        NodeHealth {
            node,
            up: !beats.down,
            latency: Duration::from_secs_f64(seconds(|trip| trip.smoothed)),
            deviation: Duration::from_secs_f64(seconds(|trip| trip.deviation)),
            failures: beats.failures,
            failure_rate: beats.failure_rate,
            holds,
            soonest_deadline,
        }
    }

    fn beats(&self) -> MutexGuard<'_, Beats> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RoundTrip {
    fn sample(trip: &mut Option<Self>, took: Duration) {
        let took = took.as_secs_f64();
        let Some(trip) = trip else {
            *trip = Some(Self { smoothed: took, deviation: took / 2.0 });
            return;
        };
        trip.deviation += ((took - trip.smoothed).abs() - trip.deviation) / 4.0;
        trip.smoothed += (took - trip.smoothed) / 8.0;
    }

    fn most(self) -> Duration {
        Duration::from_secs_f64(self.smoothed + 4.0 * self.deviation)
    }
}

impl Beats {
    fn attempt(&self) -> Duration {
        self.round_trip.map_or(Duration::ZERO, RoundTrip::most)
    }
}

impl Pulse {
    /// How long after a renewal was sent the next one is due; see the formula above. No attempt takes longer than
    /// `op_timeout`.
    pub(crate) fn interval(self, ttl: Duration, op_timeout: Duration) -> Duration {
        let spare = certain_for(ttl).saturating_sub(5 * self.attempt.min(op_timeout));
        (ttl / 3).min(spare).mul_f64(1.0 - self.failure_rate.clamp(0.0, 1.0)).max(ttl / 10)
    }

    /// How long an attempt to renew may take that is made with `left` remaining, after so many that failed.
    pub(crate) fn limit(self, left: Duration, failures: u8, op_timeout: Duration) -> Duration {
        // The first two leave room for another.
        let most = if failures < 2 { left / 2 } else { left };
        (left / 3).max(self.attempt).min(most).min(op_timeout)
    }
}

#[cfg(all(test, loom))]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const TTL: Duration = Duration::from_secs(3);
    const OP: Duration = Duration::from_secs(2);

    fn at(millis: u64) -> Moment {
        Moment(millis * 1_000)
    }

    #[test]
    fn three_attempts_with_their_pauses_fit_into_what_is_left_whatever_the_round_trip() {
        for attempt in (1..500).map(|n| n * MS) {
            let pulse = Pulse { attempt, ..Pulse::default() };
            let mut left = certain_for(TTL).saturating_sub(pulse.interval(TTL, OP));
            for failures in 0..3 {
                let limit = pulse.limit(left, failures, OP);
                assert!(limit >= attempt, "{attempt:?}: attempt {failures} has {limit:?} of {left:?}");
                // The longest pause there is.
                left = (left - limit).saturating_sub(((left - limit) / 4).min(Duration::from_secs(1)));
            }
        }
    }

    #[test]
    fn round_trips_are_smoothed_as_rfc_6298_says() {
        let vitals = Vitals::default();
        vitals.answered(at(0), at(100));
        assert_eq!(vitals.pulse().attempt, 300 * MS, "100 and four times 50");
        vitals.answered(at(100), at(280));
        // RTTVAR = 50 + (80 − 50)/4, SRTT = 100 + 80/8.
        let health = vitals.health("node".into(), 0, None);
        assert_eq!((health.latency, health.deviation), (110 * MS, Duration::from_micros(57_500)));
    }

    #[test]
    fn a_request_that_was_given_up_counts_as_one_that_took_as_long() {
        let vitals = Vitals::default();
        vitals.answered(at(0), at(0));
        vitals.failed(at(0), at(800), true);
        assert_eq!(vitals.pulse().attempt, 900 * MS, "800/8 and four times 800/4");
        vitals.failed(at(800), at(801), false);
        assert_eq!(vitals.pulse().attempt, 900 * MS, "a refusal says nothing about round trips");
    }

    #[test]
    fn what_was_under_way_together_is_one_sample() {
        let vitals = Vitals::default();
        vitals.answered(at(0), at(1));
        for _ in 0..100 {
            assert_eq!(vitals.failed(at(10), at(20), false), None);
        }
        assert_eq!(vitals.health("node".into(), 0, None).failures, 1);
        assert_eq!(vitals.failed(at(20), at(21), false), None);
        assert_eq!(vitals.failed(at(21), at(22), false), Some(Turn::Down), "the third in a row");
        assert_eq!(vitals.failed(at(22), at(23), false), None, "it is told once");
        assert_eq!(vitals.answered(at(12), at(24)), Some(Turn::Up), "whenever that was sent: it answers now");
    }

    #[test]
    fn a_request_that_had_little_time_says_nothing_about_the_node() {
        let vitals = Vitals::default();
        vitals.answered(at(0), at(100));
        for n in 1..100 {
            vitals.failed(at(100 * n), at(100 * n + 5), true);
        }
        assert_eq!(vitals.health("node".into(), 0, None).failures, 0);
    }
}
