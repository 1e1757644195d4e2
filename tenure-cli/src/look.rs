//! `tenure ls`, `show` and `try`: locks as they stand, for people and as JSON.

use std::borrow::Cow;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Serialize;
use tenure::proto::Claim;
use tenure::{Holder, LockInfo};

use crate::args::How;
use crate::duration;
use crate::exit::{Failure, Result};
use crate::text::{Paint, brief, count, printable, table};

/// A lock in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct LockJson<'a> {
    name: &'a str,
    kind: &'static str,
    limit: Option<u32>,
    fence: u64,
    holders: Vec<HolderJson<'a>>,
    waiters: Vec<HolderJson<'a>>,
    read_at: String,
    stale: bool,
}

/// A holder or waiter in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct HolderJson<'a> {
    id: String,
    /// As the command finds it in TENURE_OWNER: `host:pid`, where nobody was named.
    owner: Option<Cow<'a, str>>,
    host: Option<&'a str>,
    pid: Option<u32>,
    purpose: Option<&'a str>,
    /// `null`: all there is.
    permits: Option<u32>,
    since: String,
    until: String,
    fence: Option<u64>,
    meta: Cow<'a, str>,
}

impl<'a> From<&'a LockInfo> for LockJson<'a> {
    fn from(info: &'a LockInfo) -> Self {
        Self {
            name: &info.name,
            kind: kind(info),
            limit: info.limit,
            fence: info.fence.get(),
            holders: info.holders.iter().map(HolderJson::from).collect(),
            waiters: info.waiters.iter().map(HolderJson::from).collect(),
            read_at: timestamp(info.read_at),
            stale: info.stale,
        }
    }
}

impl<'a> From<&'a Holder> for HolderJson<'a> {
    fn from(holder: &'a Holder) -> Self {
        let meta = holder.meta.as_ref();
        let owner = holder.owner.as_deref().map(Cow::Borrowed);
        Self {
            id: holder.id.to_string(),
            owner: owner.or_else(|| meta.map(|meta| format!("{}:{}", meta.host, meta.pid).into())),
            host: meta.map(|meta| meta.host.as_str()),
            pid: meta.map(|meta| meta.pid),
            purpose: meta.and_then(|meta| meta.purpose.as_deref()),
            permits: (holder.permits != Claim::ALL).then_some(holder.permits),
            since: timestamp(holder.since),
            until: timestamp(holder.until),
            fence: holder.fence.map(tenure::Fence::get),
            meta: String::from_utf8_lossy(&holder.raw_meta),
        }
    }
}

/// RFC 3339, in UTC, to the millisecond.
pub(crate) fn timestamp(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| "-".to_owned(), |time| format!("{time:.3}"))
}

/// Whoever that is, printable and brief: `host:pid (purpose)`, and the owner where one was named.
pub(crate) fn who(holder: &Holder) -> String {
    let place = holder.meta.as_ref().map(|meta| format!("{}:{}", meta.host, meta.pid));
    let purpose = holder.meta.as_ref().and_then(|meta| meta.purpose.as_ref()).map(|purpose| format!("({purpose})"));
    let parts: Vec<String> = [holder.owner.clone(), place, purpose].into_iter().flatten().collect();
    if parts.is_empty() { holder.id.to_string() } else { brief(&parts.join(" ")) }
}

fn kind(info: &LockInfo) -> &'static str {
    match (info.limit, info.holders.first().or(info.waiters.first())) {
        (Some(_), _) => "slots",
        (None, None) => "free",
        (None, Some(claim)) if claim.permits == Claim::ALL => "exclusive",
        (None, Some(_)) => "shared",
    }
}

fn kind_text(info: &LockInfo) -> String {
    let used: u32 = info.holders.iter().map(|holder| holder.permits).fold(0, u32::saturating_add);
    info.limit.map_or_else(|| kind(info).to_owned(), |limit| format!("{used} of {limit} slots"))
}

/// A row for each lock.
pub(crate) fn list(locks: &[LockInfo], paint: Paint) -> String {
    let rows: Vec<Vec<String>> = locks.iter().map(row).collect();
    let mut shown = table(&["NAME", "KIND", "HOLDERS", "WAITERS", "HELD FOR", "EXPIRES IN", "HELD BY"], &rows, paint);
    if locks.iter().any(|info| info.stale) {
        shown += &format!("{}\n", paint.red("from a replica, which may lag"));
    }
    shown
}

fn row(info: &LockInfo) -> Vec<String> {
    let since = info.holders.iter().map(|holder| holder.since).min();
    let until = info.holders.iter().map(|holder| holder.until).max();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let others = info.holders.len().saturating_sub(1);
    let holders = info
        .holders
        .first()
        .map(|first| if others == 0 { who(first) } else { format!("{} and {}", who(first), count(others, "other")) });
    vec![
        printable(&info.name),
        kind_text(info),
        info.holders.len().to_string(),
        info.waiters.len().to_string(),
        or_dash(since.map(|since| between(since, info.read_at))),
        or_dash(until.map(|until| between(info.read_at, until))),
        or_dash(holders),
    ]
}

/// From then to then; zero if it is the other way round.
fn between(from: SystemTime, to: SystemTime) -> String {
    duration::text(to.duration_since(from).unwrap_or_default())
}

/// All there is to know about a lock.
pub(crate) fn details(info: &LockInfo, paint: Paint) -> String {
    let mut shown = format!("{}\n", paint.bold(&printable(&info.name)));
    let fence = if info.fence == tenure::Fence::NONE { "none remembered".to_owned() } else { info.fence.to_string() };
    shown += &format!("  kind     {}\n  fence    {fence}\n", kind_text(info));
    shown += &format!("  read at  {}\n", timestamp(info.read_at));
    if info.stale {
        shown += &format!("           {}\n", paint.red("from a replica, which may lag"));
    }
    for (title, claims) in [("holder", &info.holders), ("waiter", &info.waiters)] {
        for (number, claim) in claims.iter().enumerate() {
            shown += &format!("{}\n", paint.bold(&format!("{title} {}", number + 1)));
            shown += &claim_details(claim, info);
        }
    }
    shown
}

fn claim_details(claim: &Holder, info: &LockInfo) -> String {
    let permits = if claim.permits == Claim::ALL { "all".to_owned() } else { claim.permits.to_string() };
    let since = format!("{} ({})", timestamp(claim.since), between(claim.since, info.read_at));
    let until = format!("{} (in {})", timestamp(claim.until), between(info.read_at, claim.until));
    let fields = [
        ("who", Some(who(claim))),
        ("fence", claim.fence.map(|fence| fence.to_string())),
        ("permits", Some(permits)),
        ("since", Some(since)),
        ("until", Some(until)),
        ("claim", Some(claim.id.to_string())),
        ("metadata", Some(brief(&String::from_utf8_lossy(&claim.raw_meta))).filter(|meta| !meta.is_empty())),
    ];
    let known = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known.fold(String::new(), |shown, (name, value)| shown + &format!("  {name:8} {value}\n"))
}

/// Whether a claim of that kind could enter now: it fits beside everyone in, and nobody waits.
pub(crate) fn is_free(info: &LockInfo, how: &How) -> Result<bool> {
    let (permits, limit) = match how.slots {
        Some(limit) => (1, limit),
        None => (if how.shared { 1 } else { Claim::ALL }, Claim::ALL),
    };
    let is_used = !info.holders.is_empty() || !info.waiters.is_empty();
    if is_used && info.limit.unwrap_or(Claim::ALL) != limit {
        return Err(Failure::usage(format!("{} is in use as {}", printable(&info.name), kind_text(info))));
    }
    let used: u32 = info.holders.iter().map(|holder| holder.permits).fold(0, u32::saturating_add);
    Ok(info.waiters.is_empty() && used.checked_add(permits).is_some_and(|sum| sum <= limit))
}
