//! Findings about Sentinels: how many there are, whether they agree, and whether they could fail over.

use std::collections::{BTreeSet, HashMap};

use tenure::inspect::{Answer, Server};

use super::finding::{Findings, Level};
use super::server;

/// Asks each Sentinel; gives where the master is, as the most of them have it.
///
/// # Cancel safety
///
/// It only asks.
pub(super) async fn judge(sentinels: &[Server], master: &str, findings: &mut Findings) -> Option<(String, u16)> {
    let (mut told, mut able) = (Vec::new(), 0);
    for sentinel in sentinels {
        let (answer, check) = match ask(sentinel, master).await {
            Ok(answers) => answers,
            Err(error) => {
                let found = format!("{}: {error}", sentinel.name());
                let why = "One Sentinel less knows of a failover, and votes for one.";
                findings.add(Level::Warning, "sentinel", found, why, &["start it, or correct the URL"]);
                continue;
            }
        };
        match answer {
            Answer::Refused(words) => {
                let found = format!("{} does not tell of {master:?}: {words}", sentinel.name());
                let why = "This client cannot learn from it where the master is.";
                let fix = [
                    "the master's name as in `sentinel monitor NAME …`, in the URL",
                    "ACL SETUSER watcher on >PASSWORD &+switch-master +subscribe +sentinel|get-master-addr-by-name \
                     +sentinel|master +sentinel|replicas",
                ];
                findings.add(Level::Error, "sentinel", found, why, &fix);
            }
            answer => {
                able += usize::from(check.text().starts_with("OK"));
                told.push(server::pairs(&answer));
            }
        }
    }
    let first = told.first()?;
    number(sentinels.len(), first, findings);
    if able == 0 {
        let why = "When the master dies, nobody takes over.";
        findings.add(
            Level::Warning,
            "failover",
            "no Sentinel says that it could fail over now",
            why,
            &["redis-cli -p 26379 SENTINEL CKQUORUM NAME"],
        );
    }
    down_after(first, findings);
    agreed(&told, findings)
}

async fn ask(sentinel: &Server, master: &str) -> tenure::Result<(Answer, Answer)> {
    let session = sentinel.connect().await?;
    Ok((session.ask(&["SENTINEL", "MASTER", master]).await?, session.ask(&["SENTINEL", "CKQUORUM", master]).await?))
}

fn number(named: usize, told: &HashMap<String, String>, findings: &mut Findings) {
    let of = |name: &str| told.get(name).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let (all, quorum) = (of("num-other-sentinels") + 1, of("quorum"));
    let found = format!("{all} Sentinels, {named} of them in the URL; quorum {quorum}");
    match () {
        () if all < 3 => {
            let why = "A failover takes a majority of all Sentinels: with fewer than three none may be away.";
            findings.add(Level::Warning, "sentinels", found, why, &["run three, each on a machine of its own"]);
        }
        () if quorum > all / 2 + 1 || quorum < 2 => {
            let why = "One Sentinel alone should not take a master to be down, and a few that are away should not keep it from being noticed.";
            let fix = format!("sentinel set NAME quorum {}", all / 2 + 1);
            findings.add(Level::Note, "sentinels", found, why, &[&fix]);
        }
        () if named < all => {
            let why = "A client that cannot reach those in the URL does not find the master.";
            findings.add(Level::Note, "sentinels", found, why, &["name all of them in the URL"]);
        }
        () => findings.ok("sentinels", found),
    }
}

fn down_after(told: &HashMap<String, String>, findings: &mut Findings) {
    let Some(millis) = told.get("down-after-milliseconds").and_then(|text| text.parse::<u64>().ok()) else { return };
    let found = format!("down-after-milliseconds is {millis}");
    let why = "A dead master is replaced only after that and some seconds more. Holds whose ttl is not well above it end \
               meanwhile; the usual ttl is 30s.";
    match millis {
        ..=10_000 => findings.ok("down-after", found),
        _ => findings.add(Level::Note, "down-after", found, why, &["sentinel down-after-milliseconds NAME 5000"]),
    }
}

fn agreed(told: &[HashMap<String, String>], findings: &mut Findings) -> Option<(String, u16)> {
    let place = |one: &HashMap<String, String>| Some((one.get("ip")?.clone(), one.get("port")?.parse::<u16>().ok()?));
    let places: Vec<(String, u16)> = told.iter().filter_map(place).collect();
    let distinct: BTreeSet<&(String, u16)> = places.iter().collect();
    let shown: Vec<String> = distinct.iter().map(|(host, port)| format!("{host}:{port}")).collect();
    if distinct.len() > 1 {
        let found = format!("they name several masters: {}", shown.join(", "));
        let why = "A failover is under way, or some of them are cut off. No lock can be taken until enough agree.";
        findings.add(Level::Error, "agreement", found, why, &["wait some seconds, and look again; see their logs"]);
    } else {
        findings.ok("agreement", format!("all name {}", shown.concat()));
    }
    let most = distinct.into_iter().max_by_key(|place| places.iter().filter(|other| other == place).count());
    most.cloned()
}
