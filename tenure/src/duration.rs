//! Durations in messages, as people would write them.

use std::time::Duration;

/// In the largest unit that it is a whole number of, from milliseconds to days: `7d`, `90s`, `10ms`.
pub(crate) fn text(duration: Duration) -> String {
    const MS: u128 = 1_000_000;
    const S: u128 = 1_000 * MS;
    let units = [(24 * 3_600 * S, "d"), (3_600 * S, "h"), (60 * S, "m"), (S, "s"), (MS, "ms")];
    let nanos = duration.as_nanos();
    match units.iter().find(|(unit, _)| nanos.is_multiple_of(*unit)) {
        _ if nanos == 0 => "0s".to_owned(),
        Some((unit, name)) => format!("{}{name}", nanos / unit),
        None => format!("{duration:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_of_its_largest_unit() {
        let shown = |millis: u64| text(Duration::from_millis(millis));
        assert_eq!(shown(7 * 24 * 3_600_000), "7d");
        assert_eq!(shown(3_600_000), "1h");
        assert_eq!(shown(600_000), "10m");
        assert_eq!(shown(90_000), "90s");
        assert_eq!(shown(1_500), "1500ms");
        assert_eq!(shown(0), "0s");
        assert_eq!(text(Duration::from_micros(1_500)), "1.5ms");
    }
}
