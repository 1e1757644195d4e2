//! Many processes on one SQLite file: this test program, started again in the role of each.

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use rusqlite::Connection;
use tempfile::TempDir;
use tenure::store::{Sqlite, Store};
use tenure::{Key, Locks};

const ROUNDS: usize = 50;

fn place() -> (TempDir, PathBuf) {
    let folder =
        tempfile::Builder::new().prefix("tenure-processes-").tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("locks.db");
    (folder, path)
}

fn start(role: &str, path: &Path) -> Child {
    let mut command = Command::new(env::current_exe().expect("this program has a path"));
    command.args(["--exact", "a_child", "--ignored", "--nocapture"]).stdout(Stdio::null());
    command.env("TENURE_TEST_ROLE", role).env("TENURE_TEST_PATH", path).spawn().expect("this program starts again")
}

fn wait_for(mut child: Child) -> ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().expect("a child can be killed");
            panic!("a child does not come to its end");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn number(path: &Path) -> usize {
    fs::read_to_string(path).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "not within 30 seconds: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What a process does that was started by one of the tests below; by itself nothing.
#[tokio::test]
#[ignore = "the other tests start it"]
async fn a_child() {
    let Ok(role) = env::var("TENURE_TEST_ROLE") else { return };
    let path = PathBuf::from(env::var_os("TENURE_TEST_PATH").expect("it goes with the role"));
    let beside = |name: &str| path.with_file_name(name);
    if role == "open" {
        // All at the same moment.
        fs::write(beside(&format!("ready-{}", std::process::id())), "").unwrap();
        while !beside("go").exists() {
            std::hint::spin_loop();
        }
    }
    let locks = || Locks::new(Sqlite::open(&path).unwrap_or_else(|error| panic!("{error:?}")));
    match role.as_str() {
        "open" => assert!(locks().mutex("fresh").build().unwrap().lock().await.unwrap().release().await.unwrap()),
        "come and go" => {
            for _ in 0..ROUNDS {
                let guard = locks().mutex("gone").build().unwrap().lock().await.unwrap();
                assert!(guard.release().await.unwrap());
            }
        }
        "count" => {
            let lock = locks().mutex("count").build().unwrap();
            for _ in 0..ROUNDS {
                let guard = lock.lock().await.unwrap();
                let n = number(&beside("number"));
                tokio::task::yield_now().await;
                fs::write(beside("number"), (n + 1).to_string()).unwrap();
                assert!(guard.release().await.unwrap());
            }
        }
        "hammer" => {
            let locks = locks();
            for n in 0.. {
                let lock = locks.mutex(format!("hammer-{}", n % 7)).ttl(Duration::from_millis(200)).build().unwrap();
                drop(lock.lock().await.unwrap());
                fs::write(beside(&format!("rounds-{}", std::process::id())), n.to_string()).unwrap();
            }
        }
        "hold until awaited" => {
            let guard = locks().mutex("pushed").build().unwrap().lock().await.unwrap();
            fs::write(beside("held"), "").unwrap();
            while locks().info("pushed").await.unwrap().waiters.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(guard.release().await.unwrap());
        }
        other => panic!("no role {other}"),
    }
}

#[test]
fn eight_processes_add_without_losing_one() {
    let (_folder, path) = place();
    let children: Vec<Child> = (0..8).map(|_| start("count", &path)).collect();
    for child in children {
        assert!(wait_for(child).success());
    }
    assert_eq!(number(&path.with_file_name("number")), 8 * ROUNDS);
}

#[test]
fn many_may_open_a_fresh_file_at_once() {
    for _ in 0..5 {
        let (folder, path) = place();
        let children: Vec<Child> = (0..12).map(|_| start("open", &path)).collect();
        until("all are ready", || fs::read_dir(folder.path()).unwrap().count() == 12);
        fs::write(folder.path().join("go"), "").unwrap();
        for child in children {
            assert!(wait_for(child).success());
        }
    }
}

#[test]
fn so_may_many_threads_of_one_process() {
    for _ in 0..20 {
        let (_folder, path) = place();
        let stores = thread::scope(|scope| {
            let threads: Vec<_> = (0..12).map(|_| scope.spawn(|| Sqlite::open(&path))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        for store in stores {
            store.unwrap();
        }
    }
}

/// The last to close the file moves its log into it, while the next one opens it.
#[test]
fn processes_may_come_and_go() {
    let (_folder, path) = place();
    let children: Vec<Child> = (0..4).map(|_| start("come and go", &path)).collect();
    for child in children {
        assert!(wait_for(child).success());
    }
}

#[tokio::test]
async fn a_kill_leaves_the_file_sound_and_the_locks_to_others() {
    let (_folder, path) = place();
    for _ in 0..4 {
        let mut children = [(); 2].map(|()| start("hammer", &path));
        for child in &mut children {
            let rounds = path.with_file_name(format!("rounds-{}", child.id()));
            until("a child works", || number(&rounds) > 30);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let locks = Locks::new(Sqlite::open(&path).unwrap());
        for n in 0..7 {
            // What the dead held or awaited is over within their ttl, or the patience of their place.
            let lock = locks.mutex(format!("hammer-{n}")).build().unwrap();
            lock.lock().timeout(Duration::from_secs(20)).await.unwrap().release().await.unwrap();
        }
        let check = "PRAGMA integrity_check";
        let found: String = Connection::open(&path).unwrap().query_row(check, [], |row| row.get(0)).unwrap();
        assert_eq!(found, "ok");
    }
}

/// With so much patience a waiting client would not ask again for ten seconds.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_release_reaches_another_process_at_once() {
    let (_folder, path) = place();
    let child = start("hold until awaited", &path);
    until("it is held", || path.with_file_name("held").exists());
    let store = Sqlite::open(&path).unwrap();
    assert!(store.traits().push);
    let lock = Locks::new(store).mutex("pushed").patience(Duration::from_secs(30)).build().unwrap();
    let start = Instant::now();
    let guard = lock.lock().await.unwrap();
    assert!(guard.is_held() && start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(wait_for(child).success());
}

/// Whoever is on the machine may send anything to the socket.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn garbage_in_the_inbox_is_ignored() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let (_folder, path) = place();
    let (here, there) = (Locks::new(Sqlite::open(&path).unwrap()), Locks::new(Sqlite::open(&path).unwrap()));
    let held = there.mutex("pushed").build().unwrap().lock().await.unwrap();
    let lock = here.mutex("pushed").patience(Duration::from_secs(30)).build().unwrap();
    let waits = tokio::spawn(async move { lock.lock().await });
    let key = Key::new("pushed").unwrap();
    let inbox = loop {
        let record = there.store().read(&key).await.unwrap().record;
        if let Some(entry) = record.queue.first() {
            break entry.inbox.clone();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let (address, socket) =
        (SocketAddr::from_abstract_name(inbox.as_bytes()).unwrap(), UnixDatagram::unbound().unwrap());
    for garbage in [&[][..], &[1], &[0x5a; 23], &[0x5a; 24], &[0x5a; 25], &[0xff; 5_000]] {
        socket.send_to_addr(garbage, &address).unwrap();
    }
    let start = Instant::now();
    assert!(held.release().await.unwrap());
    assert!(waits.await.unwrap().unwrap().is_held());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
