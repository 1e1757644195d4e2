//! Findings about a SQLite file: where it lies, who may write it, and how it is written.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{Access, access, statvfs};

use super::finding::{Findings, Level};
use crate::exit::Failure;

/// How much room there should be left, in bytes: a write-ahead log grows by 8 MiB before it is cut.
const ROOM: u64 = 64 << 20;
/// The file systems of other machines, by `statfs` magic.
const NETWORKS: [(u64, &str); 9] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB2"),
    (0x5346_414F, "AFS"),
    (0x00C3_6400, "Ceph"),
    (0x0BD0_0BD0, "Lustre"),
    (0x0102_1997, "9P"),
    (0x7461_636F, "OCFS2"),
];
/// Why a file that is missing is no trouble.
const MADE: &str = "The first lock that is taken makes it.";
/// FUSE: it may be anything.
const FUSE: u64 = 0x6573_5546;

/// Looks at the file without opening it as a database. One that nobody has named gets its folder with the first lock.
pub(super) fn judge(path: &Path, is_default: bool, findings: &mut Findings) {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.exists() && is_default {
        return findings.add(Level::Note, "file", "there is none yet", MADE, &[]);
    }
    if !folder.is_dir() {
        let found = format!("there is no folder {}", folder.display());
        let fix = format!("mkdir -p {}", folder.display());
        return findings.add(Level::Error, "folder", found, "The file cannot be made.", &[&fix]);
    }
    if access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let found = format!("this user may not write in {}", folder.display());
        let why = "SQLite makes its log beside the file, so the file alone is not enough. Nothing can be locked.";
        let fix = format!("chmod u+rwx {}    as its owner; or another path", folder.display());
        findings.add(Level::Error, "folder", found, why, &[&fix]);
    } else {
        findings.ok("folder", format!("{} can be written", folder.display()));
    }
    file_system(folder, findings);
    match std::fs::metadata(path) {
        Ok(metadata) => file(path, &metadata, findings),
        Err(_) => {
            findings.add(Level::Note, "file", "there is none yet", MADE, &[]);
        }
    }
}

/// What opening it as a store came to.
pub(super) fn opened(result: Result<(), Failure>, findings: &mut Findings) {
    match result {
        Ok(()) => findings.ok("open", "it is a file of locks, and answers"),
        Err(failure) => {
            let why = "No lock can be had as long as the store cannot be opened.";
            findings.add(Level::Error, "open", failure.message, why, &[]);
        }
    }
}

fn file(path: &Path, metadata: &Metadata, findings: &mut Findings) {
    let mode = metadata.permissions().mode() & 0o777;
    let found = format!("mode {mode:03o}");
    let shown = path.display();
    match mode {
        _ if access(path, Access::READ_OK | Access::WRITE_OK).is_err() => {
            let why = "Nothing can be locked: looking, too, writes to the file's index.";
            let fix = format!("chmod u+rw {shown}    as its owner");
            findings.add(Level::Error, "mode", format!("{found}: this user may not read and write it"), why, &[&fix]);
        }
        _ if mode & 0o002 != 0 => {
            let why = "Every user of the machine can take locks away, or damage the file.";
            let fix = format!("chmod o-rwx {shown} {shown}-wal {shown}-shm    and a group for those who share it");
            findings.add(Level::Warning, "mode", found, why, &[&fix]);
        }
        _ => findings.ok("mode", found),
    }
    // Of the file's format, page 1: both are 2 where there is a write-ahead log.
    let mut head = [0; 20];
    if File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_err() {
        return;
    }
    match &head[18..20] {
        [2, 2] => findings.ok("log", "it has a write-ahead log"),
        _ => {
            let why = "Every commit writes the whole of what it changes twice, and those who look keep those who lock waiting.";
            let fix = format!("sqlite3 {shown} 'PRAGMA journal_mode = WAL'    while nobody uses it");
            findings.add(Level::Warning, "log", "it has no write-ahead log", why, &[&fix]);
        }
    }
}

fn file_system(folder: &Path, findings: &mut Findings) {
    #[cfg(target_os = "linux")]
    if let Ok(stat) = rustix::fs::statfs(folder) {
        // The type's sign differs from one architecture to the next.
        judge_kind(stat.f_type as u64 & 0xFFFF_FFFF, findings);
    }
    let Ok(stat) = statvfs(folder) else { return };
    let room = stat.f_bavail.saturating_mul(stat.f_frsize);
    if room < ROOM {
        let why = "A disk that is full takes no commit: nobody is let in, and no hold is renewed.";
        findings.add(Level::Warning, "room", format!("{} MiB are free", room >> 20), why, &["make room on that disk"]);
    }
}

fn judge_kind(magic: u64, findings: &mut Findings) {
    let fix = ["a path on a local disk; for several machines redis:// or redlock://"];
    if let Some((_, name)) = NETWORKS.iter().find(|(other, _)| *other == magic) {
        let why = "The file's log needs memory that all processes share, and locks of the file system that hold: neither \
                   is so between machines.";
        findings.add(Level::Warning, "file-system", format!("it lies on {name}, a network file system"), why, &fix);
    } else if magic == FUSE {
        let why = "If others see the same file from another machine, locks do not hold.";
        findings.add(Level::Note, "file-system", "it lies on FUSE, which may be anything", why, &fix);
    } else {
        findings.ok("file-system", "local");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known() {
        for (magic, level) in
            [(0x6969, Level::Warning), (0xFF53_4D42, Level::Warning), (FUSE, Level::Note), (0xEF53, Level::Ok)]
        {
            let mut findings = Findings::at("file");
            judge_kind(magic, &mut findings);
            assert_eq!(findings.all[0].level, level, "{magic:x}");
        }
    }
}
