//! `tenure watch`: who holds and who waits, redrawn on a terminal, a line for each change elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stdout};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tenure::proto::ClaimId;
use tenure::store::Memory;
use tenure::{Holder, LockInfo, Locks};

use crate::clock;
use crate::exit::{Failure, Result};
use crate::look::{HolderJson, details, list, timestamp, who};
use crate::out::{print, say};
use crate::report::say_error;
use crate::store::Choice;
use crate::text::{Paint, json, printable};

/// Follows until it is interrupted. A store that is not there yet is waited for, one that is away as well: each is said
/// once.
pub(crate) async fn watch(store: &Choice, name: Option<&str>, interval: Duration, as_json: bool) -> Result<()> {
    if interval.is_zero() {
        return Err(Failure::usage("--interval is zero: give 500ms or so"));
    }
    let redraw = !as_json && stdout().is_terminal();
    // In a store that is not there yet nothing is held, as in an empty one.
    let (empty, mut locks) = (Locks::new(Memory::new()), None);
    let (mut before, mut is_away, mut was_said) = (Claims::new(), false, redraw || as_json);
    loop {
        if locks.is_none() {
            match store.look().await? {
                Ok(found) => locks = Some(found),
                Err(_) if std::mem::replace(&mut was_said, true) => {}
                Err(reason) => say(&format!("tenure: {reason}")),
            }
        }
        let seen = look(locks.as_ref().unwrap_or(&empty), name).await;
        let was_away = std::mem::replace(&mut is_away, seen.is_err());
        if was_away && !is_away && !as_json {
            say("tenure: the store is back");
        }
        match seen {
            Ok(infos) if redraw => draw(&infos, name)?,
            Ok(infos) => {
                let now = claims(&infos);
                for change in changes(&before, &now) {
                    print(&if as_json { json(&change.as_json()) } else { change.text() })?;
                }
                before = now;
            }
            // What may pass is worth a line, and another look.
            Err(error) if error.is_transient() && was_away => {}
            Err(error) if error.is_transient() => say_error(&Failure::from(error).message, None, as_json),
            Err(error) => return Err(error.into()),
        }
        clock::sleep(interval).await;
    }
}

async fn look(locks: &Locks, name: Option<&str>) -> tenure::Result<Vec<LockInfo>> {
    match name {
        Some(name) => Ok(vec![locks.info(name).await?]),
        None => locks.list().await,
    }
}

fn draw(infos: &[LockInfo], name: Option<&str>) -> Result<()> {
    let paint = Paint::on(&stdout());
    let picture = match (name, infos) {
        (Some(_), [info]) => details(info, paint),
        _ => list(infos, paint),
    };
    // Home, each line cleared before it is written, and whatever is left below.
    print(&format!("\x1b[H{}\x1b[J", picture.lines().map(|line| format!("\x1b[K{line}\n")).collect::<String>()))
}

/// Every claim that was seen, with whether it was in.
type Claims = BTreeMap<(String, ClaimId), (Holder, bool, SystemTime)>;

fn claims(infos: &[LockInfo]) -> Claims {
    let of = |info: &LockInfo| {
        let holders = info.holders.iter().map(|claim| (claim, true));
        let all = holders.chain(info.waiters.iter().map(|claim| (claim, false)));
        let entry =
            |(claim, is_in): (&Holder, bool)| ((info.name.clone(), claim.id), (claim.clone(), is_in, info.read_at));
        all.map(entry).collect::<Vec<_>>()
    };
    infos.iter().flat_map(of).collect()
}

/// What happened to one claim between two looks.
struct Change<'a> {
    what: &'static str,
    name: &'a str,
    claim: &'a Holder,
    seen_at: SystemTime,
}

#[derive(Serialize)]
struct ChangeJson<'a> {
    change: &'static str,
    at: String,
    name: &'a str,
    #[serde(flatten)]
    claim: HolderJson<'a>,
}

fn changes<'a>(before: &'a Claims, now: &'a Claims) -> Vec<Change<'a>> {
    let gone = before.iter().filter(|(key, _)| !now.contains_key(*key)).map(|(key, seen)| {
        let (claim, is_in, seen_at) = seen;
        Change { what: if *is_in { "ended" } else { "left" }, name: &key.0, claim, seen_at: *seen_at }
    });
    let come = now.iter().filter(|(key, seen)| before.get(*key).is_none_or(|earlier| earlier.1 != seen.1));
    let come = come.map(|(key, (claim, is_in, seen_at))| Change {
        what: if *is_in { "holds" } else { "waits" },
        name: &key.0,
        claim,
        seen_at: *seen_at,
    });
    gone.chain(come).collect()
}

impl<'a> Change<'a> {
    fn text(&self) -> String {
        let fence = self.claim.fence.map(|fence| format!(", fence {fence}")).unwrap_or_default();
        format!("{} {} {}: {}{fence}", timestamp(self.seen_at), printable(self.name), self.what, who(self.claim))
    }

    fn as_json(&self) -> ChangeJson<'a> {
        let (at, claim) = (timestamp(self.seen_at), HolderJson::from(self.claim));
        ChangeJson { change: self.what, at, name: self.name, claim }
    }
}
