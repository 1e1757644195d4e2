//! The processes of clients. They end with this value, whatever becomes of the run.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::history::Who;
use crate::topology::Deployment;
use crate::worker::Order;

#[derive(Debug)]
pub(crate) struct Crowd {
    pub(crate) processes: Vec<Child>,
}

/// How many processes there are, how many tasks each has, and for how many locks.
pub(crate) const PROCESSES: u32 = 3;
pub(crate) const TASKS: u32 = 4;
const NAMES: u32 = 3;

impl Crowd {
    pub(crate) fn start(deployment: &Deployment, folder: &Path, resource: u16, seed: u64) -> Self {
        let start = |process| {
            let (url, memory) = (deployment.url.clone(), deployment.topology.memory());
            let folder = folder.to_owned();
            let order = Order { url, folder, resource, process, tasks: TASKS, names: NAMES, seed, memory };
            let order = serde_json::to_string(&order).expect("it can be written");
            let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
            command.args(["worker", &order]).stdin(Stdio::piped()).stdout(Stdio::null());
            command.spawn().expect("this program starts again")
        };
        Self { processes: (0..PROCESSES).map(start).collect() }
    }

    pub(crate) fn everybody() -> BTreeSet<Who> {
        (0..PROCESSES).flat_map(|process| (0..TASKS).map(move |task| Who(process, task))).collect()
    }

    pub(crate) fn signal(&self, process: usize, signal: Signal) {
        let pid = Pid::from_raw(self.processes[process].id() as i32).expect("a child has a pid");
        // One that has just died is noticed at the end.
        let _ = kill_process(pid, signal);
    }

    /// Ends all of them, and tells what is wrong with those that did not end well.
    pub(crate) fn end(mut self, within: Duration) -> Vec<String> {
        self.processes.iter_mut().for_each(|process| drop(process.stdin.take()));
        let deadline = Instant::now() + within;
        let mut wrong = Vec::new();
        for (n, process) in self.processes.iter_mut().enumerate() {
            let status = loop {
                match process.try_wait() {
                    Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                    status => break status,
                }
            };
            match status {
                Ok(Some(status)) if status.success() => {}
                Ok(Some(status)) => wrong.push(format!("process {n} of clients ended with {status}")),
                _ => wrong.push(format!("process {n} of clients did not end within {within:?}")),
            }
        }
        wrong
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
