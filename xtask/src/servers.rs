//! The servers that the tests start, and how one that is missing is installed.
//!
//! The tests run servers of their own, with their own folders and ports; all they want of the machine is the program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run;

struct Server {
    program: &'static str,
    /// The variable by which `testkit` can be told of another program, or of the folder that it is in.
    variable: &'static str,
    oldest: (u32, u32),
    package: &'static str,
    /// What Debian's package would start, on the port that people's own servers use.
    service: &'static str,
}

const SERVERS: &[Server] = &[
    Server {
        program: "redis-server",
        variable: "REDIS_SERVER",
        oldest: (7, 0),
        package: "redis-server",
        service: "redis-server",
    },
    Server {
        program: "postgres",
        variable: "POSTGRES_BIN",
        oldest: (14, 0),
        package: "postgresql",
        service: "postgresql",
    },
];

/// Sees to it that the servers are there, by installing them where `install` allows it.
///
/// # Errors
///
/// What is missing, and the command that installs it, where this program may not or cannot.
pub(crate) fn ensure(install: bool) -> Result<(), String> {
    let missing: Vec<&Server> = SERVERS.iter().filter(|server| server.lack().is_some()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let lacks = lacks(&missing);
    if let Some(server) = missing.iter().find(|server| std::env::var_os(server.variable).is_some()) {
        return Err(format!("{lacks}\n{} says which program that is: correct it, or unset it", server.variable));
    }
    if !Path::new("/etc/debian_version").exists() {
        return Err(format!("{lacks}\nThis is no Debian: install what is named, by whatever means this system has."));
    }
    let packages = join(&missing, |server| server.package);
    let by_hand = format!(
        "{lacks}\nInstall it as root; Debian then starts a service too, which the tests don't need:\n    \
         apt-get update && apt-get install --no-install-recommends {packages}"
    );
    let root = run::output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    let sudo = run::output(Command::new("sudo").arg("--version")).is_some();
    if !install || !(root || sudo) {
        return Err(by_hand);
    }
    println!("{lacks}");
    let rights = if root { "" } else { ", by sudo" };
    println!("Installing the Debian packages{rights}: {packages}. Their services are not started.");
    let fresh: Vec<&Server> = missing.iter().filter(|server| server.version().is_none()).copied().collect();
    let mut shell = Command::new(if root { "sh" } else { "sudo" });
    if !root {
        shell.arg("sh");
    }
    shell.args(["-c", include_str!("install.sh"), "install", &packages, &join(&fresh, |server| server.service)]);
    if !shell.status().is_ok_and(|status| status.success()) {
        return Err(format!("The installation failed.\n{by_hand}"));
    }
    match missing.iter().find_map(|server| server.lack()) {
        Some(lack) => Err(format!("{lack}\nThis Debian has no newer one: install it by other means.")),
        None => Ok(()),
    }
}

impl Server {
    /// The version of the program that the tests would start.
    fn version(&self) -> Option<(u32, u32)> {
        version(&run::output(Command::new(self.path()).arg("--version"))?)
    }

    fn path(&self) -> OsString {
        match std::env::var_os(self.variable) {
            Some(given) if Path::new(&given).is_dir() => PathBuf::from(given).join(self.program).into(),
            Some(given) => given,
            None if self.program == "postgres" => postgres().unwrap_or_else(|| self.program.into()),
            None => self.program.into(),
        }
    }

    fn lack(&self) -> Option<String> {
        let (major, minor) = self.oldest;
        match self.version() {
            Some(version) if version >= self.oldest => None,
            Some((m, n)) => Some(format!("The tests need {} {major}.{minor} or later; here is {m}.{n}.", self.program)),
            None => Some(format!("The tests need {} {major}.{minor} or later; here is none.", self.program)),
        }
    }
}

/// Debian keeps Postgres outside of the path, a folder for each version: the newest, unless the path has one.
fn postgres() -> Option<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // What is in the path may be a link to it. `testkit` looks in the same places.
    let mut in_path = std::env::split_paths(&path).filter_map(|folder| folder.join("initdb").canonicalize().ok());
    if let Some(initdb) = in_path.next() {
        return Some(initdb.with_file_name("postgres").into());
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let numbered = versions.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry)));
    numbered.max_by_key(|(version, _)| *version).map(|(_, entry)| entry.path().join("bin/postgres").into())
}

/// The first number with a point in what a program says of itself.
fn version(text: &str) -> Option<(u32, u32)> {
    text.split(|c: char| c != '.' && !c.is_ascii_digit()).find_map(|number| {
        let mut parts = number.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

fn lacks(servers: &[&Server]) -> String {
    servers.iter().filter_map(|server| server.lack()).collect::<Vec<_>>().join("\n")
}

fn join(servers: &[&Server], field: impl Fn(&Server) -> &str) -> String {
    servers.iter().map(|server| field(server)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_read_as_servers_print_them() {
        assert_eq!(version("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64"), Some((7, 0)));
        assert_eq!(version("postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)"), Some((15, 8)));
        assert_eq!(version("etcd Version: 3.4.23\nGit SHA: Not provided"), Some((3, 4)));
        assert_eq!(version("no version."), None);
    }
}
