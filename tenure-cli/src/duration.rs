//! Durations as people write and read them.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// `500ms`, `30s`, `5m`, `1h30m`; a number without a unit is seconds, as flock(1) has it.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let help = || "write 500ms, 30s, 5m or 1h30m; a number alone is seconds".to_owned();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| help());
    }
    let span: Span = text.parse().map_err(|_| help())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| help())?;
    Duration::try_from(duration).map_err(|_| help())
}

/// `1d 2h`, `3m 20s`, `4.2s`, `350ms`: the two largest units, which is as much as anybody reads.
pub(crate) fn text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: u64, unit, small: u64, sub| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit} {small}{sub}"),
    };
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..10 if duration.subsec_millis() >= 100 => format!("{}.{}s", seconds, duration.subsec_millis() / 100),
        1..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, 'm', seconds % 60, 's'),
        3600..86_400 => two(seconds / 3600, 'h', seconds % 3600 / 60, 'm'),
        _ => two(seconds / 86_400, 'd', seconds % 86_400 / 3600, 'h'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let ms = |text| parse(text).map(|duration| duration.as_millis());
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("30s"), Ok(30_000));
        assert_eq!(ms("5m"), Ok(300_000));
        assert_eq!(ms("1h30m"), Ok(5_400_000));
        assert_eq!(ms("1h 30m"), Ok(5_400_000));
        assert_eq!(ms("7d"), Ok(7 * 24 * 3_600_000));
        assert_eq!(ms("2"), Ok(2_000));
        assert_eq!(ms("0.25"), Ok(250));
        for bad in ["", "-1", "-5s", "5 lightyears", "1mo", "nan", "inf", "1e400", "5s ago"] {
            assert!(parse(bad).is_err(), "{bad:?} is refused");
        }
    }

    #[test]
    fn durations_are_shown_by_their_two_largest_units() {
        let shown = |seconds: f64| text(Duration::from_secs_f64(seconds));
        assert_eq!(shown(0.35), "350ms");
        assert_eq!(shown(4.25), "4.2s");
        assert_eq!(shown(3.0), "3s");
        assert_eq!(shown(59.9), "59s");
        assert_eq!(shown(200.0), "3m 20s");
        assert_eq!(shown(3600.0), "1h");
        assert_eq!(shown(93_700.0), "1d 2h");
    }
}
