//! What was seen, in Prometheus' text format (version 0.0.4).

use std::fmt::Write;
use std::time::Duration;

use crate::exporter::look::{Figures, Lock, Spans};

/// The text's type.
pub(super) const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The figures as text. Where the store is down, only that is told: figures from before are not how things stand.
pub(super) fn text(figures: &Figures) -> String {
    let mut text = String::new();
    let up = if figures.up { 1.0 } else { 0.0 };
    one(&mut text, "tenure_store_up", "Whether the store answered: 1 or 0.", Some(up));
    one(&mut text, "tenure_store_scrape_duration_seconds", "How long the look took.", seconds(Some(figures.took)));
    if !figures.up {
        return text;
    }
    let Spans { oldest_hold, oldest_wait, soonest_expiry } = figures.spans;
    for (name, help, value) in [
        ("tenure_store_locks", "Locks that somebody holds or waits for.", number(figures.locks)),
        ("tenure_store_holders", "Claims that are in.", number(figures.holders)),
        ("tenure_store_waiting", "Claims that wait.", number(figures.waiting)),
        ("tenure_store_oldest_hold_seconds", "For how long the oldest claim has been in.", seconds(oldest_hold)),
        ("tenure_store_oldest_wait_seconds", "For how long the oldest claim has waited.", seconds(oldest_wait)),
        (
            "tenure_store_soonest_expiry_seconds",
            "Until the first claim ends that is in, unless it is renewed.",
            seconds(soonest_expiry),
        ),
        (
            "tenure_store_locks_unread",
            "Locks beyond --max-read, or whose record is damaged or no lock's: no other figure counts them.",
            number(figures.unread),
        ),
        ("tenure_store_locks_untold", "Locks beyond --max-locks, not told by name.", number(figures.untold)),
    ] {
        one(&mut text, name, help, value);
    }
    type Of = fn(&Lock) -> Option<f64>;
    let each: [(&str, &str, Of); 5] = [
        ("tenure_lock_holders", "Claims on the lock that are in.", |lock| number(lock.holders)),
        ("tenure_lock_waiting", "Claims on the lock that wait.", |lock| number(lock.waiting)),
        ("tenure_lock_oldest_hold_seconds", "For how long its oldest claim has been in.", |lock| {
            seconds(lock.spans.oldest_hold)
        }),
        ("tenure_lock_oldest_wait_seconds", "For how long its oldest claim has waited.", |lock| {
            seconds(lock.spans.oldest_wait)
        }),
        ("tenure_lock_soonest_expiry_seconds", "Until its first claim ends, unless it is renewed.", |lock| {
            seconds(lock.spans.soonest_expiry)
        }),
    ];
    for (name, help, of) in each {
        head(&mut text, name, help);
        for lock in &figures.by_name {
            if let Some(value) = of(lock) {
                let _ = writeln!(text, "{name}{{lock=\"{}\"}} {value}", escaped(&lock.name));
            }
        }
    }
    text
}

fn one(text: &mut String, name: &str, help: &str, value: Option<f64>) {
    head(text, name, help);
    if let Some(value) = value {
        let _ = writeln!(text, "{name} {value}");
    }
}

fn head(text: &mut String, name: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
}

fn number(value: usize) -> Option<f64> {
    Some(value as f64)
}

fn seconds(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| duration.as_secs_f64())
}

/// A label's value, whatever the name of the lock.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_label() {
        assert_eq!(escaped("a\"} 1\nb\\"), "a\\\"} 1\\nb\\\\");
    }
}
