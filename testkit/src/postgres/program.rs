//! The program of Postgres, whom it runs as, and the data folder that each server begins with.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use rustix::process::geteuid;

use crate::redis::in_memory;

/// The folder with `postgres` and `initdb`: `$POSTGRES_BIN`, or one in the path, or the newest of Debian's.
///
/// # Panics
///
/// When there is none.
pub fn postgres_bin() -> PathBuf {
    if let Some(folder) = std::env::var_os("POSTGRES_BIN") {
        return folder.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // What is in the path may be a link to it.
    let in_path = std::env::split_paths(&path).find_map(|folder| folder.join("initdb").canonicalize().ok());
    let in_path = in_path.and_then(|initdb| Some(initdb.parent()?.to_owned()));
    let debian = || {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
        let numbered = versions.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry)));
        numbered.max_by_key(|(version, _)| *version).map(|(_, entry)| entry.path().join("bin"))
    };
    in_path.or_else(debian).expect("there is no Postgres; `cargo xtask test` installs it")
}

/// A data folder that was just made, as it is copied for each server, with the password beside it.
pub(super) fn template() -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);

    let version = Command::new(postgres_bin().join("postgres")).arg("--version").output();
    let version = version.expect("postgres can be started; `cargo xtask test` installs it").stdout;
    let version: String =
        String::from_utf8_lossy(&version).chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let tests = std::env::current_exe().expect("this program has a path");
    let owner = account().map_or_else(|| geteuid().as_raw(), |(uid, _)| uid);
    let template = tests.with_file_name(format!("testkit-{}-{owner}", version.trim_matches('-')));
    if template.is_dir() {
        return template;
    }
    let dir = tempfile::Builder::new().prefix("tenure-initdb-").tempdir_in(folder());
    let dir = dir.expect("a temporary folder can be made");
    let mut random = [0; 16];
    let mut source = std::fs::File::open("/dev/urandom").expect("the system has random numbers");
    std::io::Read::read_exact(&mut source, &mut random).expect("the system has random numbers");
    let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = dir.path().join("password");
    std::fs::write(&file, password).expect("a file can be written");
    give(dir.path());
    give(&file);
    let initdb = program_output(
        program("initdb", dir.path())
            .args(["--no-sync", "--no-locale", "--encoding=UTF8", "--wal-segsize=1", "--username=postgres"])
            .args(["--auth=scram-sha-256", "--pwfile=password", "--pgdata=data"]),
    );
    assert!(dir.path().join("data/PG_VERSION").exists(), "initdb failed: {initdb}");
    // Other test programs may be at the same: the first one wins.
    let copied = template.with_extension(std::process::id().to_string());
    std::fs::create_dir(&copied).expect("the target folder can be written");
    copy(dir.path(), &copied);
    if std::fs::rename(&copied, &template).is_err() {
        let _ = std::fs::remove_dir_all(&copied);
    }
    template
}

/// A program of Postgres, as a user that it runs as, in a folder that this user can be in.
pub(super) fn program(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(postgres_bin().join(name));
    command.current_dir(dir);
    // What is set for the user's own servers is not meant for these.
    let inherited: Vec<OsString> = std::env::vars_os().map(|(name, _)| name).collect();
    for name in inherited.iter().filter(|name| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    if let Some((uid, gid)) = account() {
        command.uid(uid).gid(gid);
    }
    command
}

fn program_output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The user and group to become, where this process is root's.
fn account() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
    let find = |name: &str| {
        let mut fields = users.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":"))?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("there is a user postgres or nobody to run Postgres as"))
}

/// Makes the user that Postgres runs as the owner of a file.
pub(crate) fn give(path: &Path) {
    if let Some((uid, gid)) = account() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("root may give files away");
    }
}

/// All that is in one folder, into another one, with its owners.
pub(super) fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "{} can be copied to {}", from.display(), to.display());
}

/// In memory, where there is room: a container may have 64 MB of it, and a server begins with 30.
pub(super) fn folder() -> PathBuf {
    let memory = in_memory();
    let roomy = rustix::fs::statvfs(&memory).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) > 1 << 30);
    if roomy { memory } else { std::env::temp_dir() }
}
