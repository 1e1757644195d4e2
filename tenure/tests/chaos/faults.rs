//! How each nemesis strikes, and what shows that it did.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use testkit::{Link, Redis};

use crate::chance::Chance;
use crate::crowd::Crowd;
use crate::failover;
use crate::members::Changer;
use crate::nemesis::Nemesis;
use crate::topology::{Deployment, Node, info};
use crate::worker::TTL;
use crate::{Interrupted, rest};

/// All that a nemesis has to do with.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) deployment: Deployment,
    pub(crate) crowd: Crowd,
    pub(crate) chance: Chance,
    changer: Option<Changer>,
}

/// What shows that it struck; `Err` says why it cannot have.
pub(crate) type Evidence = Result<String, String>;

impl Field {
    pub(crate) fn new(deployment: Deployment, crowd: Crowd, chance: Chance) -> Self {
        Self { deployment, crowd, chance, changer: None }
    }

    /// Strikes once and heals again.
    pub(crate) fn strike(&mut self, nemesis: Nemesis) -> Result<Evidence, Interrupted> {
        use Nemesis::*;
        let n = self.deployment.topology.nodes();
        let one = self.chance.below(n as u64) as usize;
        let few: Vec<usize> = (0..self.deployment.topology.minority()).map(|i| (one + i) % n).collect();
        match nemesis {
            Calm => rest(Duration::from_millis(300)).map(|()| Ok("calm".to_owned())),
            StopNode => self.stop_nodes(&[one]),
            StopMinority => self.stop_nodes(&few),
            StopClientShort => self.stop_client(200, 700),
            StopClientLong => self.stop_client(1_300, 2_200),
            KillKeep => self.kill(one, |_| ()),
            KillStale => self.kill_stale(one),
            KillEmpty => self.kill(one, clear),
            PartitionFull => self.cut(&[one], |link| link.cut(true, true)),
            PartitionOneway => {
                let requests = self.chance.below(2) == 0;
                self.cut(&[one], |link| link.cut(requests, !requests))
            }
            PartitionMinority => self.cut(&few, |link| link.cut(true, true)),
            PartitionSplit => {
                let part = self.chance.clone();
                let every: Vec<usize> = (0..n).collect();
                self.cut(&every, |link| link.split(part.clone().below(u64::from(link.port())) as usize))
            }
            LoseReply => self.lose(one),
            Delay => self.delay(one),
            ClockJump => self.jump(one),
            ClockRate => self.rate(one),
            ScriptFlush => self.flush(),
            Members => {
                let (topology, url) = (self.deployment.topology, self.deployment.url.clone());
                let spare = self.deployment.nodes[n].name();
                self.changer.get_or_insert_with(|| Changer::new(topology, &url, spare)).strike()
            }
            Failover => failover::planned(&mut self.deployment, one),
            FailoverLagging => failover::lagging(&mut self.deployment, &mut self.chance),
            MasterReturns => failover::returning(&mut self.deployment, &mut self.chance),
            SlotMigration => failover::migration(&self.deployment, &mut self.chance),
        }
    }

    fn stop_nodes(&mut self, which: &[usize]) -> Result<Evidence, Interrupted> {
        let length = self.chance.millis(100, 2 * TTL.as_millis() as u64);
        let all = self.deployment.servers();
        let servers = || which.iter().map(|n| all[*n]);
        servers().for_each(|server| server.pause());
        rest(Duration::from_millis(20))?;
        let states: String = servers().map(|server| state(server.pid())).collect();
        rest(length)?;
        servers().for_each(|server| server.resume());
        let evidence = format!("nodes {which:?} in state {states} for {length:?}");
        Ok(if states.chars().all(|state| state == 'T') { Ok(evidence) } else { Err(evidence) })
    }

    fn stop_client(&mut self, least: u64, most: u64) -> Result<Evidence, Interrupted> {
        let length = self.chance.millis(least, most);
        let which = self.chance.below(self.crowd.processes.len() as u64) as usize;
        self.crowd.signal(which, Signal::STOP);
        rest(Duration::from_millis(20))?;
        let state = state(self.crowd.processes[which].id());
        let ended = rest(length);
        self.crowd.signal(which, Signal::CONT);
        ended?;
        let evidence = format!("process {which} in state {state} for {length:?}");
        Ok(if state == 'T' { Ok(evidence) } else { Err(evidence) })
    }

    fn kill(&mut self, one: usize, between: impl FnOnce(&Path)) -> Result<Evidence, Interrupted> {
        let away = self.chance.millis(50, 500);
        let node = &mut self.deployment.nodes[one];
        let before = info(&node.server, "server", "run_id");
        node.server.kill();
        rest(away)?;
        between(node.server.dir());
        node.server.restart();
        let after = info(&node.server, "server", "run_id");
        let keys = info(&node.server, "keyspace", "db0");
        let evidence = format!("node {one}: run {:.6} is now {:.6}, with {keys:?}", before, after);
        Ok(if before == after { Err(evidence) } else { Ok(evidence) })
    }

    fn kill_stale(&mut self, one: usize) -> Result<Evidence, Interrupted> {
        let folder = self.deployment.nodes[one].server.dir().to_owned();
        let copy = tempfile::tempdir().expect("a temporary folder can be made");
        copy_files(&folder.join("appendonlydir"), copy.path());
        rest(self.chance.millis(700, 1_500))?;
        self.kill(one, |folder| {
            clear(folder);
            copy_files(copy.path(), &folder.join("appendonlydir"));
        })
    }

    fn cut(&mut self, which: &[usize], how: impl Fn(&Link)) -> Result<Evidence, Interrupted> {
        let length = self.chance.millis(300, 2 * TTL.as_millis() as u64);
        let links = || which.iter().map(|n| &self.deployment.nodes[*n].link);
        let held = || links().map(|link| link.carried().held).sum::<u64>();
        let before = held();
        links().for_each(&how);
        rest(length)?;
        links().for_each(|link| link.heal());
        let held = held() - before;
        let evidence = format!("{held} pieces held for {length:?}");
        Ok(if held == 0 { Err(evidence) } else { Ok(evidence) })
    }

    fn lose(&mut self, one: usize) -> Result<Evidence, Interrupted> {
        let link = &self.deployment.nodes[one].link;
        let before = link.carried().lost;
        link.lose(1 + self.chance.below(4) as u32);
        rest(self.chance.millis(100, 300))?;
        let lost = link.carried().lost - before;
        Ok(if lost == 0 { Err("no reply came".to_owned()) } else { Ok(format!("{lost} replies lost")) })
    }

    fn delay(&mut self, one: usize) -> Result<Evidence, Interrupted> {
        // Each direction has its part of it.
        let delay = self.chance.millis(25, TTL.as_millis() as u64);
        let link = &self.deployment.nodes[one].link;
        let before = link.carried().late;
        link.delay(delay);
        rest(self.chance.millis(500, 2_000))?;
        link.heal();
        let late = link.carried().late - before;
        let evidence = format!("{late} pieces late by {delay:?} each way");
        Ok(if late == 0 { Err(evidence) } else { Ok(evidence) })
    }

    fn jump(&mut self, one: usize) -> Result<Evidence, Interrupted> {
        let ahead = if self.chance.below(2) == 0 { 60_000_000 } else { -60_000_000 };
        let node = &mut self.deployment.nodes[one];
        node.clock.as_mut().expect("it has one").set(ahead, 1.0);
        let told = offset(node);
        rest(self.chance.millis(300, 2_000))?;
        node.clock.as_mut().expect("it has one").set(0, 1.0);
        let evidence = format!("node {one} told a time {} s off", told / 1_000_000);
        Ok(if (told - ahead).abs() < 2_000_000 { Ok(evidence) } else { Err(evidence) })
    }

    fn rate(&mut self, one: usize) -> Result<Evidence, Interrupted> {
        let rate = 0.5 + self.chance.below(1_501) as f64 / 1_000.0;
        let rate = if (0.9..1.1).contains(&rate) { 2.0 } else { rate };
        let node = &mut self.deployment.nodes[one];
        let before = offset(node);
        node.clock.as_mut().expect("it has one").rate(rate);
        rest(self.chance.millis(1_000, 3_000))?;
        let gained = offset(node) - before;
        // What it is off by now it goes on being off by.
        node.clock.as_mut().expect("it has one").rate(1.0);
        let evidence = format!("node {one} at {rate:.2} gained {} ms", gained / 1_000);
        Ok(if gained.abs() > 20_000 { Ok(evidence) } else { Err(evidence) })
    }

    fn flush(&mut self) -> Result<Evidence, Interrupted> {
        let cached = |server: &&Redis| info(server, "memory", "number_of_cached_scripts").parse().unwrap_or(0);
        let servers = self.deployment.servers();
        let before: u32 = servers.iter().map(cached).sum();
        servers.iter().for_each(|server| drop(server.command(&["SCRIPT", "FLUSH"])));
        rest(self.chance.millis(50, 400))?;
        Ok(if before == 0 { Err("there was no script".to_owned()) } else { Ok(format!("{before} scripts flushed")) })
    }
}

/// By how many microseconds the server's clock is ahead.
fn offset(node: &Node) -> i64 {
    let right = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_micros() as i64;
    let told = node.server.command(&["TIME"]);
    let numbers: Vec<i64> = told.lines().filter_map(|line| line.parse().ok()).collect();
    numbers.first().zip(numbers.get(1)).map_or(0, |(seconds, micros)| seconds * 1_000_000 + micros - right)
}

/// `T` for a process that is stopped.
fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?')
}

fn clear(folder: &Path) {
    for name in ["appendonlydir", "dump.rdb"] {
        let path = folder.join(name);
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a temporary folder can be made");
    // The server goes on writing meanwhile; it reads a file that ends early up to there.
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "{} cannot be copied", from.display());
}
