//! A SQLite file: its folder, who may write it, its log.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;

use super::support::{Store, text};
use super::{Said, doctor, tenure};

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn look(path: &Path) -> Said {
    doctor(&format!("sqlite:{}", path.display()))
}

#[test]
fn a_good_file_is_told_so_and_none_is_made() {
    let store = Store::sqlite();
    let path = store.path("locks.db");
    look(&path).has("note", "file", "none yet");
    assert!(!path.exists());
    assert_eq!(store.code(&["run", "a", "--", "true"]), 0);
    let said = look(&path);
    said.is_good_but_for(&[]);
    for check in ["folder", "file-system", "mode", "log", "open"] {
        said.is_fine(check);
    }
}

#[test]
fn the_file_of_a_user_who_has_taken_no_lock_yet_is_no_trouble() {
    let home = tempfile::tempdir().unwrap();
    let mut command = tenure("", &["doctor"]);
    let output = command.env("HOME", home.path()).env_remove("XDG_STATE_HOME").output().unwrap();
    assert!(output.status.success() && text(&output.stdout).contains("none yet"), "{output:?}");
    assert!(!home.path().join(".local").exists());
}

#[test]
fn a_file_that_all_may_write_has_no_log_or_is_something_else() {
    let store = Store::sqlite();
    let path = store.path("locks.db");
    assert_eq!(store.code(&["run", "a", "--", "true"]), 0);
    chmod(&path, 0o666);
    let said = look(&path);
    said.has("warning", "mode", "666");
    assert_eq!(said.code, 78);
    chmod(&path, 0o600);
    // As it is where somebody has set another journal mode: bytes 18 and 19 of the file.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[1, 1], 18).unwrap();
    look(&path).has("warning", "log", "no write-ahead log");
    let other = store.path("other.db");
    std::fs::write(&other, "something else, for as long as a header would be: ".repeat(4)).unwrap();
    let said = look(&other);
    said.has("error", "open", "other.db");
    assert_eq!(said.code, 78);
    let said = look(&store.path("nowhere/locks.db"));
    said.has("error", "folder", "nowhere");
    assert_eq!(said.code, 78);
}

/// As a user to whom it matters: root may write everywhere.
#[test]
fn a_folder_and_a_file_that_this_user_may_not_write() {
    let store = Store::sqlite();
    let path = store.path("locks.db");
    assert_eq!(store.code(&["run", "a", "--", "true"]), 0);
    chmod(store.dir.path(), 0o555);
    chmod(&path, 0o444);
    let url = format!("sqlite:{}", path.display());
    let mut command = tenure(&url, &["doctor", "--json"]);
    if rustix::process::geteuid().is_root() {
        // A copy, as the one that was built may lie where only root may look.
        let copy = std::env::temp_dir().join(format!("tenure-doctor-{}", std::process::id()));
        std::fs::copy(env!("CARGO_BIN_EXE_tenure"), &copy).unwrap();
        chmod(&copy, 0o755);
        command = std::process::Command::new(&copy);
        command.args(["doctor", "--json"]).env("TENURE_STORE", &url).current_dir("/").uid(65_534).gid(65_534);
    }
    let output = command.output().expect("tenure starts");
    let _ = std::fs::remove_file(std::env::temp_dir().join(format!("tenure-doctor-{}", std::process::id())));
    chmod(store.dir.path(), 0o755);
    let findings = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = Said { code: output.status.code().unwrap(), findings };
    said.has("error", "folder", "may not write");
    said.has("error", "mode", "may not read and write");
    assert_eq!(said.code, 78);
}
