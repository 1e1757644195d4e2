//! Which run of a server a connection is to, and since when that run has kept all that it acknowledged.
//!
//! A restart ends every connection, so whatever is answered on one was answered by the run that was asked about when it
//! was made. A server that writes each command to disk before it answers (`appendfsync always`) has kept everything; any
//! other one, since its process started. Where the connection leads to another process that had started before the last
//! one was left, that is a failover, and what the new one lacks nobody knows: since now.

use redis::{Pipeline, Value};

use crate::proto::Micros;

/// One run of a server, as it was when a connection to it was made.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// Names it; empty where the server does not tell.
    id: String,
    /// The server's clock.
    now: Micros,
    /// When the process started, no earlier than it did: it tells the difference of two times in whole seconds. Where it is
    /// not told, `now`.
    started: Micros,
    /// Whether it writes to disk before it answers.
    durable: bool,
}

impl Run {
    /// What to ask on a new connection.
    pub(super) fn questions() -> Pipeline {
        let mut questions = Pipeline::new();
        questions.cmd("TIME").cmd("INFO").arg("server").cmd("INFO").arg("persistence");
        questions.cmd("CONFIG").arg("GET").arg("appendfsync").arg("no-appendfsync-on-rewrite");
        questions
    }

    /// A user who may not ask has a server that has kept nothing before now.
    pub(super) fn of(answers: &[Value]) -> Self {
        let [time, server, persistence, fsync] = answers else { return Self::default() };
        let (seconds, micros): (u64, u64) = redis::from_redis_value_ref(time).unwrap_or_default();
        let now = seconds * 1_000_000 + micros;
        let text = |value| redis::from_redis_value_ref::<String>(value).unwrap_or_default();
        let (server, persistence) = (text(server), text(persistence));
        let uptime = field(&server, "uptime_in_seconds").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let fsync: Vec<(String, String)> = redis::from_redis_value_ref(fsync).unwrap_or_default();
        Self {
            id: field(&server, "run_id").unwrap_or_default().to_owned(),
            now,
            started: now.saturating_sub(uptime.saturating_sub(1) * 1_000_000),
            durable: field(&persistence, "aof_enabled") == Some("1")
                && fsync.iter().any(|(name, when)| name == "appendfsync" && when == "always")
                && !fsync.iter().any(|(name, on)| name == "no-appendfsync-on-rewrite" && on == "yes"),
        }
    }

    /// Since when everything was kept, for whoever was connected to `before` until now.
    pub(super) fn kept_since(&self, before: &Self) -> Micros {
        let failed_over = !before.id.is_empty() && before.id != self.id && self.started < before.now;
        match (failed_over, self.durable) {
            (true, _) => self.now,
            (false, true) => 0,
            (false, false) => self.started,
        }
    }
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = 100_000_007;

    fn run(id: &str, uptime: u64, aof: u8, fsync: &str) -> Run {
        let text = |text: String| Value::BulkString(text.into());
        let of_map = |name: &str, value: &str| (text(name.into()), text(value.into()));
        Run::of(&[
            Value::Array(vec![text("100".into()), text("7".into())]),
            text(format!("# Server\r\nrun_id:{id}\r\nuptime_in_seconds:{uptime}\r\n")),
            text(format!("# Persistence\r\naof_enabled:{aof}\r\n")),
            Value::Map(vec![of_map("appendfsync", fsync)]),
        ])
    }

    #[test]
    fn what_is_kept_is_kept_since_the_start_or_always_or_since_a_failover() {
        assert_eq!(run("a", 30, 0, "always").kept_since(&Run::default()), NOW - 29_000_000);
        assert_eq!(run("a", 30, 1, "everysec").kept_since(&Run::default()), NOW - 29_000_000);
        assert_eq!(run("a", 30, 1, "always").kept_since(&Run::default()), 0);
        let before = Run { now: NOW - 10_000_000, ..run("a", 30, 0, "no") };
        assert_eq!(run("a", 30, 0, "no").kept_since(&before), NOW - 29_000_000, "the same run");
        assert_eq!(run("b", 5, 0, "no").kept_since(&before), NOW - 4_000_000, "a restart");
        assert_eq!(run("b", 30, 1, "always").kept_since(&before), NOW, "a failover");
    }

    #[test]
    fn a_server_that_does_not_tell_has_kept_nothing() {
        let denied = || Value::Nil;
        let time = Value::Array(vec![Value::BulkString("100".into()), Value::BulkString("7".into())]);
        assert_eq!(Run::of(&[time, denied(), denied(), denied()]).kept_since(&Run::default()), NOW);
    }
}
