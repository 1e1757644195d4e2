//! Histories in which a promise is broken: the checker has to see it.

use std::collections::BTreeSet;

use crate::checker::{Findings, check};
use crate::history::{End, Entry, Held, Who};
use crate::resource::Access;

/// Two holds of one lock, one after the other, and all as it should be.
fn good() -> (Vec<Entry>, Vec<Access>) {
    let entry = |task: u32, called: u64, fence: u64| Entry {
        who: Who(0, task),
        id: u64::from(task),
        name: "a".to_owned(),
        called,
        end: End::Released,
        ended: called + 90,
        hold: Some(Held { fence, granted: called + 10, certain: Some((called + 10, called + 80)), refused: false }),
    };
    let access = |id: u64, fence: u64, wrote| Access { name: "a".to_owned(), fence, id, wrote };
    let accesses = [access(0, 5, None), access(0, 5, Some(1)), access(1, 6, None), access(1, 6, Some(2))];
    (vec![entry(0, 100, 5), entry(1, 200, 6)], accesses.to_vec())
}

fn found(change: impl FnOnce(&mut Vec<Entry>, &mut Vec<Access>)) -> Findings {
    let (mut entries, mut accesses) = good();
    change(&mut entries, &mut accesses);
    check(&entries, &accesses, &BTreeSet::from([Who(0, 0), Who(0, 1)]), (0, 1_000))
}

fn hold(entry: &mut Entry) -> &mut Held {
    entry.hold.as_mut().expect("it is one")
}

/// Each with its name.
pub(crate) const PLANTED: &[(&str, fn())] = &[
    ("a_good_history_is_good", || {
        assert!(found(|_, _| ()).violations(false).is_empty());
    }),
    ("holds_that_overlap_while_certain_are_seen", || {
        let findings = found(|entries, _| hold(&mut entries[0]).certain = Some((110, 211)));
        assert_eq!((findings.overlaps.len(), findings.violations(true).len()), (1, 0));
    }),
    ("a_long_hold_around_two_others_overlaps_both", || {
        let findings = found(|entries, _| {
            let mut long = entries[0].clone();
            hold(&mut long).certain = Some((105, 999));
            hold(&mut long).fence = 4;
            long.called = 90;
            entries.push(long);
        });
        assert_eq!(findings.overlaps.len(), 2);
    }),
    ("a_certain_holder_that_is_refused_is_seen", || {
        assert_eq!(found(|entries, _| hold(&mut entries[0]).refused = true).overlaps.len(), 1);
    }),
    ("a_fence_that_falls_or_stands_is_seen", || {
        assert_eq!(found(|entries, _| hold(&mut entries[1]).fence = 4).fences.len(), 1);
        assert_eq!(found(|entries, _| hold(&mut entries[1]).fence = 5).fences.len(), 2);
    }),
    ("who_asked_together_may_have_any_order_but_not_one_token", || {
        let together = |fence| {
            move |entries: &mut Vec<Entry>, _: &mut Vec<Access>| {
                entries[1].called = 105;
                hold(&mut entries[1]).fence = fence;
            }
        };
        assert_eq!((found(together(4)).fences.len(), found(together(5)).fences.len()), (0, 1));
    }),
    ("an_older_token_at_the_resource_is_seen", || {
        let findings = found(|_, accesses| accesses.swap(1, 2));
        assert!(!findings.resource.is_empty());
    }),
    ("two_acquisitions_with_one_token_are_seen", || {
        assert_eq!(found(|_, accesses| accesses[2].fence = 5).resource.len(), 1);
    }),
    ("a_lost_number_is_seen", || {
        assert_eq!(found(|_, accesses| accesses[3].wrote = Some(1)).resource.len(), 1);
    }),
    ("too_few_complete_operations_are_seen", || {
        let findings = found(|entries, _| {
            let failed = Entry { end: End::Failed("away".to_owned()), hold: None, ..entries[0].clone() };
            entries.extend(vec![failed; 5]);
        });
        assert_eq!(findings.progress.len(), 1);
    }),
    ("who_gets_no_lock_after_healing_is_seen", || {
        let (entries, accesses) = good();
        let everybody = BTreeSet::from([Who(0, 0), Who(0, 1), Who(7, 7)]);
        assert_eq!(check(&entries, &accesses, &everybody, (150, 1_000)).progress.len(), 2);
        assert_eq!(check(&entries, &accesses, &everybody, (0, 150)).progress.len(), 2);
    }),
];
