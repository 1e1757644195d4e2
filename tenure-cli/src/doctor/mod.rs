//! `tenure doctor`: looks at a deployment, and says of each thing what was found, why it matters and what to do.
//!
//! ```text
//!   the URL ──▶ layout ──▶ each server: server.rs keeping.rs keys.rs clocks.rs     or file.rs
//!                     └──▶ what they are together: group.rs sentinel.rs cluster.rs
//! ```
//!
//! It only looks: no lock is taken, and nothing is changed.

use std::path::Path;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use tenure::Error;
use tenure::inspect::{Layout, Node, Server};

use self::clocks::Offset;
use self::finding::{Finding, Findings, Level};
use self::keeping::Part;
use self::server::{Facts, Kind};
use crate::exit::{FOUND, Failure, Result, STORE};
use crate::store::Choice;

mod clocks;
mod cluster;
mod file;
mod finding;
mod group;
mod keeping;
mod keys;
mod sentinel;
mod server;

/// What is to be looked at, and what was found so far.
struct Doctor<'a> {
    store: &'a Choice,
    /// How many keys of each server are looked at.
    keys: u64,
    quiet: bool,
    findings: Vec<Finding>,
    seen: Vec<Seen>,
}

/// A server, for the comparison with others.
struct Seen {
    name: String,
    /// Nothing, where it did not tell.
    run_id: Option<String>,
    clock: Option<Offset>,
    answers: bool,
}

/// What a store is opened by.
#[derive(Clone, Copy)]
enum By<'a> {
    /// The URL that was given.
    Url(&'a str),
    /// The URL of one node in it.
    Node(&'a Node),
}

impl By<'_> {
    async fn open(self) -> Result<(), Error> {
        match self {
            Self::Url(url) => tenure::open_store(url).await.map(drop),
            Self::Node(node) => node.open().await.map(drop),
        }
    }
}

/// Looks at the store, tells what was found, and gives the exit code.
pub(crate) async fn doctor(store: &Choice, keys: u64, as_json: bool) -> Result<u8> {
    let layout = Layout::of(store.url())?;
    let mut doctor = Doctor { store, keys, quiet: as_json, findings: Vec::new(), seen: Vec::new() };
    doctor.layout(&layout, By::Url(store.url()), Part::Single).await?;
    finding::tell(&doctor.findings, as_json)?;
    let worst = doctor.findings.iter().map(|finding| finding.level).max();
    let nobody = !doctor.seen.is_empty() && doctor.seen.iter().all(|seen| !seen.answers);
    Ok(match worst {
        _ if nobody => STORE,
        Some(Level::Warning | Level::Error) => FOUND,
        _ => 0,
    })
}

impl Doctor<'_> {
    fn layout<'a>(&'a mut self, layout: &'a Layout, by: By<'a>, part: Part) -> BoxFuture<'a, Result<()>> {
        async move {
            match layout {
                Layout::Server(server) => self.server(server, Some(by), part).await,
                Layout::File(path) => self.file(path, by).await,
                Layout::Quorum { nodes, longest_ttl } => self.quorum(nodes, *longest_ttl, by).await?,
                Layout::Ring(nodes) => self.ring(nodes, by).await?,
                Layout::Sentinels { sentinels, master, data } => self.sentinels(sentinels, master, data, by).await,
                Layout::Cluster(seeds) => self.cluster(seeds, by).await,
                // The command refuses it elsewhere; within a quorum it would be a vote for each process of its own.
                _ => {
                    let mut findings = Findings::at("memory:");
                    let why = "Each process has a store of its own there, so it excludes nobody.";
                    findings.add(
                        Level::Error,
                        "open",
                        "it is the memory of one process",
                        why,
                        &["sqlite:PATH, or a Redis"],
                    );
                    self.findings.append(&mut findings.all);
                }
            }
            Ok(())
        }
        .boxed()
    }

    /// One server. Its store is opened only where it is a store by itself.
    async fn server(&mut self, server: &Server, by: Option<By<'_>>, part: Part) {
        let mut findings = Findings::at(server.name());
        let mut facts = Facts::default();
        if let Err(error) = self.look(server, by, part, &mut facts, &mut findings).await {
            server::unreachable(&error, &mut findings);
        }
        self.seen.push(Seen {
            name: server.name().to_owned(),
            run_id: facts.info("run_id").map(str::to_owned),
            clock: facts.clock,
            answers: findings.all.iter().all(|finding| finding.check != "reach"),
        });
        self.findings.append(&mut findings.all);
    }

    async fn look(
        &self,
        server: &Server,
        by: Option<By<'_>>,
        part: Part,
        facts: &mut Facts,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let session = server.connect().await?;
        *facts = Facts::of(&session).await?;
        server::judge(facts, part, findings);
        keeping::judge(facts, part, server.replicas(), findings);
        if let Some(offset) = facts.clock {
            clocks::judge(offset, findings);
        }
        if let Some(by) = by {
            server::opened(server, Kind::Server, by.open().await, findings);
        }
        keys::judge(&session, server, self.keys, self.quiet, findings).await
    }

    async fn file(&mut self, path: &Path, by: By<'_>) {
        let mut findings = Findings::at(&path.display().to_string());
        file::judge(path, self.store.is_default(), &mut findings);
        if path.exists() {
            let opened = match by {
                By::Url(_) => self.store.look().await.map(drop),
                By::Node(_) => by.open().await.map_err(Failure::from),
            };
            file::opened(opened, &mut findings);
        }
        self.findings.append(&mut findings.all);
    }

    async fn quorum(&mut self, nodes: &[Node], longest: Duration, by: By<'_>) -> Result<()> {
        let from = self.seen.len();
        for node in nodes {
            self.layout(node.layout(), By::Node(node), Part::Voter(longest)).await?;
        }
        let mut findings = Findings::at("the quorum");
        if let By::Url(url) = by {
            group::quorum(url, nodes, longest, &self.seen[from..], &mut findings).await;
        }
        self.findings.append(&mut findings.all);
        Ok(())
    }

    async fn ring(&mut self, nodes: &[Node], by: By<'_>) -> Result<()> {
        let from = self.seen.len();
        for node in nodes {
            self.layout(node.layout(), By::Node(node), Part::Single).await?;
        }
        let mut findings = Findings::at("the ring");
        if let By::Url(url) = by {
            group::ring(url, nodes, &self.seen[from..], &mut findings).await;
        }
        self.findings.append(&mut findings.all);
        Ok(())
    }

    async fn sentinels(&mut self, sentinels: &[Server], master: &str, data: &Server, by: By<'_>) {
        let mut findings = Findings::at(&format!("the Sentinels of {master}"));
        let place = sentinel::judge(sentinels, master, &mut findings).await;
        if let Err(error) = by.open().await {
            server::opened(data, Kind::Server, Err(error), &mut findings);
        }
        self.findings.append(&mut findings.all);
        match place {
            Some((host, port)) => self.server(&data.at(&host, port), None, Part::FailsOver).await,
            None => self.nobody(master),
        }
    }

    async fn cluster(&mut self, seeds: &[Server], by: By<'_>) {
        let mut findings = Findings::at("the cluster");
        let masters = cluster::judge(seeds, &mut findings).await;
        if let Err(error) = by.open().await {
            server::opened(&seeds[0], Kind::Cluster, Err(error), &mut findings);
        }
        self.findings.append(&mut findings.all);
        if masters.is_empty() {
            self.nobody("the cluster");
        }
        let from = self.seen.len();
        for master in &masters {
            self.server(master, None, Part::FailsOver).await;
        }
        let clocks: Vec<_> = self.seen[from..].iter().filter_map(|one| Some((one.name.clone(), one.clock?))).collect();
        let mut findings = Findings::at("the cluster");
        clocks::compare(&clocks, &mut findings);
        self.findings.append(&mut findings.all);
    }

    /// Nobody told where the data is.
    fn nobody(&mut self, name: &str) {
        self.seen.push(Seen { name: name.to_owned(), run_id: None, clock: None, answers: false });
    }
}
