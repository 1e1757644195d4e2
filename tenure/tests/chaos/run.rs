//! One run: a deployment, clients, a nemesis for a while, healing, and what the checker says.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::chance::Chance;
use crate::checker::{Findings, check, waiting};
use crate::crowd::Crowd;
use crate::faults::Field;
use crate::history::{self, now};
use crate::nemesis::Nemesis;
use crate::resource::Resource;
use crate::topology::{Deployment, Topology};
use crate::{Interrupted, rest};

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) topology: Topology,
    pub(crate) nemesis: Nemesis,
    pub(crate) seconds: u64,
    pub(crate) seed: u64,
    /// The histories stay, whatever came of it.
    pub(crate) keep: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    topology: &'static str,
    nemesis: &'static str,
    seconds: u64,
    seed: u64,
    /// How often the nemesis struck, and what showed it.
    fired: usize,
    evidence: Vec<String>,
    /// How often it did not get through.
    missed: Vec<String>,
    /// How long after healing everybody had had a lock, in milliseconds.
    recovered_ms: u64,
    /// Why holds may overlap here.
    outside: Option<&'static str>,
    refused: u64,
    findings: Findings,
    violations: Vec<String>,
    /// The folder with the histories, where something was violated or they were to be kept.
    histories: Option<PathBuf>,
    #[serde(skip)]
    pub(crate) command: String,
}

/// Runs it.
pub(crate) fn run(plan: Plan) -> Result<Report, Interrupted> {
    let Plan { topology, nemesis, seconds, seed, keep } = plan;
    let folder = tempfile::Builder::new().prefix("tenure-chaos-").tempdir().expect("a temporary folder can be made");
    let resource = Resource::start();
    let deployment = Deployment::start(topology, nemesis);
    let crowd = Crowd::start(&deployment, folder.path(), resource.port, seed);
    let mut field = Field::new(deployment, crowd, Chance::new(seed));
    let everybody = Crowd::everybody();
    let start = Instant::now();
    // They come up before anything happens to them.
    while !waiting(&history::read(folder.path()), &everybody, 0, u64::MAX).is_empty()
        && start.elapsed() < Duration::from_secs(20)
    {
        rest(Duration::from_millis(50))?;
    }
    let (mut evidence, mut missed) = (Vec::new(), Vec::new());
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        match field.strike(nemesis)? {
            Ok(shown) => evidence.push(shown),
            Err(why) => missed.push(why),
        }
        // The time in which a node that lost its memory has no vote is not a good one to take the next.
        rest(field.chance.millis(200, 800) + nemesis.calm_after(topology))?;
    }
    field.deployment.heal();
    let (healed, limit) = (now(), topology.recovers_in().as_micros() as u64);
    let mut recovered = 0;
    while recovered < limit {
        rest(Duration::from_millis(50))?;
        recovered = now() - healed;
        if waiting(&history::read(folder.path()), &everybody, healed, limit).is_empty() {
            break;
        }
    }
    let Field { deployment, crowd, .. } = field;
    let mut wrong = crowd.end(Duration::from_secs(20));
    wrong.extend(deployment.eternal().into_iter().map(|keys| format!("left behind: {keys}")));
    let pids: BTreeSet<u32> = deployment.servers().into_iter().map(testkit::Redis::pid).collect();
    drop(deployment);
    let alive = pids.iter().filter(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists());
    wrong.extend(alive.map(|pid| format!("the server {pid} still runs")));
    if evidence.is_empty() {
        wrong.push(format!("{nemesis} never struck: {}", missed.join("; ")));
    }
    let entries = history::read(folder.path());
    let (accesses, refused) = resource.accesses();
    let findings = check(&entries, &accesses, &everybody, (healed, limit));
    let outside = nemesis.breaks(topology);
    wrong.extend(findings.violations(outside.is_some()).into_iter().cloned());
    let command =
        format!("cargo xtask chaos --topology {topology} --nemesis {nemesis} --seconds {seconds} --seed {seed}");
    Ok(Report {
        topology: topology.name(),
        nemesis: nemesis.name(),
        seconds,
        seed,
        fired: evidence.len(),
        evidence,
        missed,
        recovered_ms: recovered / 1_000,
        outside,
        refused,
        findings,
        histories: (keep || !wrong.is_empty()).then(|| folder.keep()),
        violations: wrong,
        command,
    })
}

impl Report {
    pub(crate) fn is_good(&self) -> bool {
        self.violations.is_empty()
    }

    /// A line where all is well, and more where not.
    pub(crate) fn text(&self) -> String {
        let Self { topology, nemesis, seconds, fired, recovered_ms, refused, findings, .. } = self;
        let verdict = if self.is_good() { "ok" } else { "FAILED" };
        let mut text = format!(
            "{topology:14} {nemesis:18} {seconds:3} s  {verdict}: struck {fired} times; {findings}; {refused} refused; \
             recovered in {recovered_ms} ms"
        );
        if let Some(why) = self.outside {
            text += &format!(" (overlaps are allowed: {why})");
        }
        if !self.missed.is_empty() {
            text += &format!("; {} strikes missed, as {}", self.missed.len(), self.missed[0]);
        }
        if !self.is_good() {
            for violation in self.violations.iter().take(10) {
                text += &format!("\n    {violation}");
            }
            let more = self.violations.len().saturating_sub(10);
            text += &format!("\n    and {more} more; struck: {}", self.evidence.join("; "));
            text += &format!("\n    seed {}, histories in {:?}", self.seed, self.histories);
            text += &format!("\n    again: {}", self.command);
        }
        text
    }
}
