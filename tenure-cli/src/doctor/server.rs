//! What one Redis server tells of itself, and the findings about reaching it: round trip, version, role, rights.

use std::collections::HashMap;
use std::time::Duration;

use tenure::inspect::{Answer, Server, Session};
use tenure::{Error, ErrorKind};

use super::clocks::{self, Offset};
use super::finding::{Findings, Level};
use super::keeping::Part;
use crate::{clock, duration};

/// How many times it is asked for nothing but an answer.
const PINGS: usize = 10;
/// How long an answer may take before it is worth a word: the least time that a quorum's node is given by default.
const SLOW: Duration = Duration::from_millis(250);

/// What a server told.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Of `HELLO`, which everybody may ask.
    hello: HashMap<String, String>,
    /// Of `INFO`; nothing, where this user may not ask.
    pub(super) info: Option<HashMap<String, String>>,
    /// Of `CONFIG GET`; nothing, where this user may not ask.
    pub(super) config: Option<HashMap<String, String>>,
    /// How long each answer took, the quickest first.
    trips: Vec<Duration>,
    pub(super) clock: Option<Offset>,
}

impl Facts {
    /// # Errors
    ///
    /// When it does not answer.
    ///
    /// # Cancel safety
    ///
    /// It only asks.
    pub(super) async fn of(session: &Session) -> Result<Self, Error> {
        let hello = pairs(&session.ask(&["HELLO"]).await?);
        let mut trips = Vec::new();
        for _ in 0..PINGS {
            let sent = clock::now();
            session.ask(&["PING"]).await?;
            trips.push(clock::now() - sent);
        }
        trips.sort_unstable();
        let info = session.ask(&["INFO"]).await?;
        let lines = info.text();
        let lines = lines.lines().filter_map(|line| line.split_once(':'));
        let lines = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let config = session.ask(&["CONFIG", "GET", "appendfsync", "save", "min-replicas-to-write"]).await?;
        Ok(Self {
            hello,
            info: matches!(info, Answer::Text(_)).then_some(lines),
            config: matches!(config, Answer::List(_)).then(|| pairs(&config)),
            trips,
            clock: clocks::measure(session).await?,
        })
    }

    /// A field of `INFO`.
    pub(super) fn info(&self, name: &str) -> Option<&str> {
        self.info.as_ref()?.get(name).map(String::as_str)
    }

    /// A field of `INFO` that is a number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.info(name)?.parse().ok()
    }

    /// What is configured.
    pub(super) fn config(&self, name: &str) -> Option<&str> {
        self.config.as_ref()?.get(name).map(String::as_str)
    }
}

/// A map's names and values.
pub(super) fn pairs(answer: &Answer) -> HashMap<String, String> {
    answer.items().chunks_exact(2).map(|pair| (pair[0].text(), pair[1].text())).collect()
}

/// It does not answer, or does not let us in.
pub(super) fn unreachable(error: &Error, findings: &mut Findings) {
    let fix = match error.kind() {
        ErrorKind::Denied => "give the user and password in the URL: redis://user:password@host",
        _ => "start it, or correct the URL; `redis-cli -h HOST PING` from this machine tells more",
    };
    let why = "Locks here cannot be taken, renewed or released; a hold ends at its own deadline.";
    findings.add(Level::Error, "reach", error.to_string(), why, &[fix]);
}

/// What every server is looked at for.
pub(super) fn judge(facts: &Facts, part: Part, findings: &mut Findings) {
    round_trip(&facts.trips, findings);
    version(facts, findings);
    role(facts, findings);
    let missing = [("INFO", "+info", facts.info.is_none()), ("CONFIG GET", "+config|get", facts.config.is_none())];
    for (command, right, _) in missing.into_iter().filter(|(.., is_missing)| *is_missing) {
        let checks = match command {
            "INFO" => "eviction, memory, persistence, replicas and whether two names lead to one server",
            _ => "appendfsync, save and min-replicas-to-write",
        };
        let found = format!("this user may not ask {command}: {checks} were not looked at");
        let (level, why) = match part {
            Part::Voter(_) => (
                Level::Warning,
                "A quorum goes by it, too: a node that does not tell for how long it has kept its memory, or that it is on \
                 disk, has no vote for a longest ttl after each start of a client, or of the node.",
            ),
            Part::Single | Part::FailsOver => (Level::Note, "Locks do not need that right; only the doctor does."),
        };
        let fix = format!("ACL SETUSER USER {right}    or look as another user: --store redis://admin:password@host");
        findings.add(level, "unseen", found, why, &[&fix]);
    }
}

fn round_trip(trips: &[Duration], findings: &mut Findings) {
    let (Some(median), Some(worst)) = (trips.get(trips.len() / 2), trips.last()) else { return };
    let text = |time: Duration| match time.as_millis() {
        0..10 => format!("{:.2}ms", time.as_secs_f64() * 1e3),
        _ => duration::text(time),
    };
    let found = format!("{} in the middle, {} at worst, of {}", text(*median), text(*worst), trips.len());
    if *worst < SLOW {
        return findings.ok("round-trip", found);
    }
    let why = "Each acquisition takes at least that long. A quorum's node that takes longer than node_timeout, 250ms by \
               default, counts as silent; a ttl has to be six times as long at the least.";
    let fix = ["put clients nearer, or give a longer ttl; in a quorum, node_timeout=1s in the URL"];
    findings.add(Level::Warning, "round-trip", found, why, &fix);
}

type Version = (u32, u32, u32);

/// The versions from which on scripts cannot break out (CVE-2025-49844), by line; later lines all have it.
const PATCHED: [(&str, &[Version]); 2] =
    [("redis", &[(7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)]), ("valkey", &[(7, 2, 11), (8, 0, 6), (8, 1, 4)])];

fn version(facts: &Facts, findings: &mut Findings) {
    let valkey = facts.info("valkey_version").map(str::to_owned);
    let is_valkey = valkey.is_some() || facts.hello.get("server").is_some_and(|server| server == "valkey");
    let told = valkey.or_else(|| facts.hello.get("version").cloned()).unwrap_or_default();
    let name = if is_valkey { "valkey" } else { "redis" };
    let (level, why, fix) = judge_version(name, &told);
    findings.add(level, "version", format!("{name} {told}"), why, &fix);
}

fn judge_version(name: &str, told: &str) -> (Level, &'static str, Vec<&'static str>) {
    let mut numbers = told.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let mut number = || numbers.next().unwrap_or(0);
    let version = (number(), number(), number());
    let lines = PATCHED.iter().find(|(other, _)| *other == name).map_or(&[][..], |(_, lines)| lines);
    let line = lines.iter().find(|line| (line.0, line.1) == (version.0, version.1));
    let newest = lines.last().is_some_and(|line| (version.0, version.1) > (line.0, line.1));
    match version {
        (..7, ..) => {
            (Level::Error, "7.0 is the oldest that will do.", vec!["install 7.2.11, 7.4.6, 8.0.4, 8.2.2 or later"])
        }
        _ if newest || line.is_some_and(|line| version >= *line) => (Level::Ok, "", Vec::new()),
        (7, 0, _) => (
            Level::Note,
            "Before its patch a script of any user who may run one could run code in the server (CVE-2025-49844). There is \
             no patched 7.0 but those of distributions, under the same number.",
            vec![
                "ask your distribution whether its 7.0 has the patch, or install 7.2.11, 7.4.6, 8.0.4, 8.2.2 or later",
            ],
        ),
        _ => (
            Level::Warning,
            "A script of any user who may run one can run code in the server (CVE-2025-49844), unless a distribution has \
             patched it under the same number.",
            vec![if name == "valkey" {
                "install 7.2.11, 8.0.6, 8.1.4 or later, or ask your distribution"
            } else {
                "install 7.2.11, 7.4.6, 8.0.4, 8.2.2 or later, or ask your distribution"
            }],
        ),
    }
}

fn role(facts: &Facts, findings: &mut Findings) {
    let role = facts.hello.get("role").map_or("", String::as_str);
    if role == "master" {
        return findings.ok("role", "master");
    }
    let master = facts.info("master_host").zip(facts.info("master_port"));
    let master = master.map(|(host, port)| format!("{host}:{port}"));
    let fix = format!("give the address of its master in the URL: {}", master.as_deref().unwrap_or("HOST:PORT"));
    let why = "A replica takes no writes, so no lock can be taken here. Where roles change, let redis-sentinel:// find \
               the master.";
    findings.add(Level::Error, "role", format!("it is a {role}"), why, &[&fix]);
}

/// What opening the store came to: whether this user has the rights that locks need.
pub(super) fn opened(server: &Server, kind: Kind, result: Result<(), Error>, findings: &mut Findings) {
    let Err(error) = result else { return findings.ok("rights", "all that locks need") };
    match error.kind() {
        ErrorKind::Denied => {
            let why = "Locks cannot be had without these rights. They are the smallest set that works.";
            findings.add(Level::Error, "rights", error.to_string(), why, &[&rights(server, kind)]);
        }
        // It is told by the version.
        ErrorKind::Unsupported if error.to_string().contains("7.0 is the oldest") => {}
        _ => {
            let why = "No lock can be had as long as the store cannot be opened.";
            findings.add(Level::Error, "open", error.to_string(), why, &[]);
        }
    }
}

/// Whether pushes and slots are those of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Server,
    Cluster,
}

/// The command that gives a user all that locks need, and nothing else.
fn rights(server: &Server, kind: Kind) -> String {
    let (user, prefix) = (server.user().unwrap_or("locks"), server.prefix());
    let wait = if server.replicas() > 0 { " +wait" } else { "" };
    let pushes = match kind {
        Kind::Server => "+publish +subscribe",
        Kind::Cluster => "+spublish +ssubscribe +sunsubscribe +asking +cluster|slots +cluster|info",
    };
    format!(
        "ACL SETUSER {user} on >PASSWORD ~{prefix}:* &{prefix}:inbox:* +evalsha +evalsha_ro +script|load {pushes} \
         +scan +ping +time +mget +set +setrange +del +type +pexpireat +hget +hmget +hgetall +hset +hdel{wait}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_judged_by_their_line() {
        for (name, version, level) in [
            ("redis", "6.2.20", Level::Error),
            ("redis", "7.0.15", Level::Note),
            ("redis", "7.2.10", Level::Warning),
            ("redis", "7.2.11", Level::Ok),
            ("redis", "7.4.5", Level::Warning),
            ("redis", "8.0.4", Level::Ok),
            ("redis", "8.2.1", Level::Warning),
            ("redis", "8.2.2", Level::Ok),
            ("redis", "8.4.0-rc1", Level::Ok),
            ("valkey", "8.0.5", Level::Warning),
            ("valkey", "8.1.4", Level::Ok),
            ("valkey", "9.0.0", Level::Ok),
            ("redis", "", Level::Error),
        ] {
            assert_eq!(judge_version(name, version).0, level, "{name} {version}");
        }
    }
}
