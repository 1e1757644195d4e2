//! The keys under our prefix: records without an expiry, and values that are none of ours.
//!
//! SCAN walks over every key of the server, whoever it belongs to, a thousand at a time; so there is a limit, and on a
//! terminal a line that says how far it is.

use std::io::{IsTerminal, Write, stderr};

use tenure::Error;
use tenure::inspect::{Answer, Server, Session};

use super::finding::{Findings, Level};
use crate::text::{count, printable};

/// How many keys are walked over in one step.
const PAGE: u64 = 1_000;
/// How every record of ours begins.
const MAGIC: &[u8] = b"tenure2";
/// How many keys a finding names.
const NAMED: usize = 3;

/// What the keys came to.
#[derive(Debug, Default)]
struct Seen {
    records: usize,
    eternal: Vec<String>,
    foreign: Vec<String>,
}

/// Looks at no more than `limit` keys, records or not.
///
/// # Errors
///
/// When the server does not answer.
///
/// # Cancel safety
///
/// It only reads.
pub(super) async fn judge(
    session: &Session,
    server: &Server,
    limit: u64,
    quiet: bool,
    findings: &mut Findings,
) -> Result<(), Error> {
    let (mut seen, mut walked, mut cursor) = (Seen::default(), 0, "0".to_owned());
    let progress = !quiet && stderr().is_terminal();
    let pattern = format!("{}:{{*}}", server.prefix());
    let complete = loop {
        let answer = session.ask(&["SCAN", &cursor, "MATCH", &pattern, "COUNT", &PAGE.to_string()]).await?;
        let [next, page] = answer.items() else {
            unseen(&answer, findings);
            return Ok(());
        };
        if let Some(refused) = look(session, server, page, &mut seen).await? {
            unseen(&refused, findings);
            return Ok(());
        }
        walked += PAGE;
        if progress {
            let _ = write!(stderr(), "\r\x1b[Ktenure: {}: {walked} keys looked at", printable(server.name()));
        }
        cursor = next.text();
        match cursor.as_str() {
            "0" => break true,
            _ if walked >= limit => break false,
            _ => {}
        }
    };
    if progress {
        let _ = write!(stderr(), "\r\x1b[K");
    }
    seen.tell(complete, walked, server, findings);
    Ok(())
}

/// Looks at a page of keys; what was refused, where something was.
async fn look(session: &Session, server: &Server, page: &Answer, seen: &mut Seen) -> Result<Option<Answer>, Error> {
    let keys: Vec<&[u8]> =
        page.items().iter().filter_map(|key| if let Answer::Text(key) = key { Some(&key[..]) } else { None }).collect();
    let keys: Vec<&[u8]> = keys.into_iter().filter(|key| server.is_place_of_a_lock(key)).collect();
    let asked: Vec<[&[u8]; 2]> = keys.iter().flat_map(|key| [[b"PTTL", *key], [b"TYPE", *key]]).collect();
    let asked: Vec<&[&[u8]]> = asked.iter().map(|words| &words[..]).collect();
    let answers = session.ask_many(&asked).await?;
    let mut heads: Vec<Vec<&[u8]>> = Vec::new();
    for (key, answer) in keys.iter().zip(answers.chunks_exact(2)) {
        if let Some(refused) = answer.iter().find(|answer| matches!(answer, Answer::Refused(_))) {
            return Ok(Some(refused.clone()));
        }
        heads.push(match answer[1].text().as_str() {
            "hash" => vec![b"HGET", key, b"h"],
            // Of anything but a string it is refused, which is as good as a value that is none of ours.
            _ => vec![b"GETRANGE", key, b"0", b"6"],
        });
    }
    let asked: Vec<&[&[u8]]> = heads.iter().map(|words| &words[..]).collect();
    let heads = session.ask_many(&asked).await?;
    for ((key, answer), head) in keys.iter().zip(answers.chunks_exact(2)).zip(heads) {
        if head.is_denied() {
            return Ok(Some(head));
        }
        let shown = printable(&String::from_utf8_lossy(key));
        match (&answer[0], matches!(&head, Answer::Text(head) if head.starts_with(MAGIC))) {
            // It went in the meantime.
            (Answer::Number(-2), _) => {}
            (Answer::Number(-1), true) => seen.eternal.push(shown),
            (_, true) => seen.records += 1,
            (_, false) => seen.foreign.push(shown),
        }
    }
    Ok(None)
}

fn unseen(answer: &Answer, findings: &mut Findings) {
    let Answer::Refused(words) = answer else { return };
    let found = format!("the keys were not looked at: {words}");
    let why = "Locks do not need that right; only the doctor does.";
    findings.add(Level::Note, "keys", found, why, &["ACL SETUSER USER +pttl +getrange"]);
}

impl Seen {
    fn tell(self, complete: bool, walked: u64, server: &Server, findings: &mut Findings) {
        let named = |keys: &[String]| {
            let more = if keys.len() > NAMED { " and others" } else { "" };
            format!("{}{more}", keys[..keys.len().min(NAMED)].join(", "))
        };
        let part = if complete { String::new() } else { format!(", among the first {walked} keys of the server") };
        if !self.eternal.is_empty() {
            let found =
                format!("{} without an expiry{part}: {}", count(self.eternal.len(), "record"), named(&self.eternal));
            let why = "Every record is written with an expiry, so something else has taken it off. It stays for ever.";
            let fix = ["redis-cli PEXPIRE KEY 86400000    a day; longer than any hold on that lock"];
            findings.add(Level::Error, "expiry", found, why, &fix);
        }
        if !self.foreign.is_empty() {
            let found = format!(
                "{} that are no records of locks{part}: {}",
                count(self.foreign.len(), "value"),
                named(&self.foreign)
            );
            let why = "They lie where a lock's record would be: a lock of that name is refused. They are left alone.";
            let fix = format!(
                "remove them, or give locks a prefix of their own: ?prefix={}-locks in every URL",
                server.prefix()
            );
            findings.add(Level::Warning, "foreign", found, why, &[&fix]);
        }
        if self.eternal.is_empty() && self.foreign.is_empty() {
            findings.ok("keys", format!("{}, each with an expiry{part}", count(self.records, "record")));
        }
    }
}
