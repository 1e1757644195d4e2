//! Failures and answers that come in at the same time. See `sync.rs`.
//!
//! Bugs that were planted, one at a time, and found: whether a failure is of a crowd that was counted is looked at outside of
//! the lock, as it once was; an answer to what was sent before the last failure does not count.

use std::sync::Arc;

use loom::thread;

use super::{Turn, Vitals};
use crate::env::Moment;
use crate::sync::model;

#[test]
fn model_requests_that_fail_together_count_as_one_failure() {
    model(|| {
        let vitals = Arc::new(Vitals::default());
        let crowd = [20, 21, 22].map(|now| {
            let vitals = vitals.clone();
            thread::spawn(move || vitals.failed(Moment(10), Moment(now), false))
        });
        for request in crowd {
            assert_eq!(request.join().unwrap(), None);
        }
        let health = vitals.health("node".into(), 0, None);
        assert_eq!((health.failures, health.up), (1, true));
    });
}

#[test]
fn model_a_node_that_answers_beside_its_third_failure_is_up() {
    model(|| {
        let vitals = Arc::new(Vitals::default());
        for sent in [1, 2] {
            vitals.failed(Moment(sent), Moment(sent), false);
        }
        let (failing, answering) = (vitals.clone(), vitals.clone());
        let failed = thread::spawn(move || failing.failed(Moment(10), Moment(20), false));
        let answered = thread::spawn(move || answering.answered(Moment(10), Moment(21)));
        let told = (failed.join().unwrap(), answered.join().unwrap());
        assert!(matches!(told, (Some(Turn::Down), Some(Turn::Up)) | (None, None)), "{told:?}");
        assert!(vitals.health("node".into(), 0, None).up);
    });
}
