//! One server: reaching it, its version, its settings, its rights, its clock, its replicas.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use testkit::{Fake, Proxy, Redis};

use super::support::pty::Pty;
use super::support::{eventually, text};
use super::{doctor, tenure};

/// As it should be. Where the machine has a 7.0, its version is a note: nobody but a distribution can patch that.
fn good() -> Redis {
    Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always", "--maxmemory", "256mb"])
}

#[test]
fn a_good_server_is_told_so() {
    let server = good();
    doctor(&server.url()).is_good_but_for(&["version"]);
    assert!(tenure(&server.url(), &["run", "a", "--", "true"]).status().unwrap().success());
    let said = doctor(&server.url());
    said.is_good_but_for(&["version"]);
    for check in ["round-trip", "role", "eviction", "memory", "persistence", "replicas", "clock", "rights", "keys"] {
        said.is_fine(check);
    }
    said.has("ok", "keys", "1 record");
}

#[test]
fn eviction_and_memory() {
    let server = good();
    for policy in ["volatile-ttl", "allkeys-lru"] {
        server.command(&["CONFIG", "SET", "maxmemory-policy", policy]);
        server.command(&["CONFIG", "SET", "maxmemory", "256mb"]);
        let said = doctor(&server.url());
        let found = said.has("error", "eviction", policy);
        assert_eq!((said.code, &found["fix"][0]), (78, &"maxmemory-policy noeviction".into()));
        server.command(&["CONFIG", "SET", "maxmemory", "0"]);
        let said = doctor(&server.url());
        said.has("note", "eviction", policy);
        said.has("note", "memory", "no maxmemory");
        assert_eq!(said.code, 0);
    }
    let info = server.command(&["INFO", "memory"]);
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().parse::<u64>().unwrap();
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.command(&["CONFIG", "SET", "maxmemory", &(used * 100 / 90).to_string()]);
    doctor(&server.url()).has("warning", "memory", "% of maxmemory");
    server.command(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let said = doctor(&server.url());
    said.has("error", "memory", "% of maxmemory");
    assert_eq!(said.code, 78);
}

#[test]
fn persistence() {
    let server = good();
    for (fsync, level) in [("everysec", "note"), ("no", "warning"), ("always", "ok")] {
        server.command(&["CONFIG", "SET", "appendfsync", fsync]);
        doctor(&server.url()).has(level, "persistence", fsync);
    }
    server.command(&["CONFIG", "SET", "appendonly", "no"]);
    let said = doctor(&server.url());
    let found = said.has("warning", "persistence", "appendonly no");
    assert_eq!(found["fix"], serde_json::json!(["appendonly yes", "appendfsync always"]));
    assert_eq!(said.code, 78);
    server.command(&["CONFIG", "SET", "save", "60 1"]);
    doctor(&server.url()).has("warning", "persistence", "snapshots alone");
}

#[test]
fn replicas_and_roles() {
    let master = good();
    let of = format!("127.0.0.1 {}", master.port());
    let replica = Redis::start_with(&["--replicaof", &of, "--repl-diskless-sync-delay", "0"]);
    master.wait_for_replicas(1);
    let said = doctor(&master.url());
    let found = said.has("note", "replicas", "min-replicas-to-write is 0");
    assert_eq!(found["fix"][0], "min-replicas-to-write 1");
    master.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    doctor(&format!("{}?replicas=1", master.url())).is_fine("replicas");
    doctor(&format!("{}?replicas=2", master.url())).has("error", "replicas", "replicas=2 in the URL, and 1 there");

    let said = doctor(&replica.url());
    let found = said.has("error", "role", "it is a replica");
    assert!(found["fix"][0].as_str().unwrap().contains(&format!("127.0.0.1:{}", master.port())), "{found}");
    assert_eq!(said.code, 78);

    replica.pause();
    eventually("the replica lags", || {
        let info = master.command(&["INFO", "replication"]);
        let lag =
            info.lines().find_map(|line| line.strip_prefix("slave0:")?.rsplit_once("lag=")?.1.parse::<u64>().ok());
        lag.is_some_and(|lag| lag >= 3)
    });
    doctor(&master.url()).has("warning", "replica-lag", "last heard");
    drop(replica);
    eventually("the replica is gone", || master.command(&["INFO", "replication"]).contains("connected_slaves:0"));
    doctor(&master.url()).has("error", "replicas", "no replica is there");
}

#[test]
fn rights_are_told_whole_and_are_enough() {
    let server = good();
    server.command(&["ACL", "SETUSER", "locks", "on", ">pw", "~tenure:*", "+ping"]);
    let url = server.url().replace("redis://", "redis://locks:pw@");
    let said = doctor(&url);
    let found = said.has("error", "rights", "NOPERM");
    assert_eq!(said.code, 78);
    let rule = found["fix"][0].as_str().unwrap().replace(">PASSWORD", ">pw");
    server.command(&["ACL", "DELUSER", "locks"]);
    let words: Vec<&str> = rule.split(' ').collect();
    assert_eq!(server.command(&words), "", "{rule}");
    assert!(tenure(&url, &["run", "a", "--", "true"]).status().unwrap().success());

    let said = doctor(&url);
    said.is_fine("rights");
    said.has("note", "unseen", "INFO");
    said.has("note", "unseen", "CONFIG GET");
    said.has("note", "keys", "not looked at");
    assert_eq!(said.code, 0);
    // With what it is told to add, it sees everything.
    server.command(&["ACL", "SETUSER", "locks", "+info", "+config|get", "+pttl", "+getrange"]);
    doctor(&url).is_good_but_for(&["version"]);

    let said = doctor(&server.url().replace("redis://", "redis://locks:wrong@"));
    said.has("error", "reach", "password");
    assert!(!format!("{said:?}").contains("wrong@"), "{said:?}");
    assert_eq!(said.code, 69);
}

#[test]
fn silence_and_slowness() {
    let server = good();
    let proxy = Proxy::to(server.port());
    proxy.delay(Duration::from_millis(300));
    doctor(&proxy.url()).has("warning", "round-trip", "at worst");
    server.pause();
    let said = doctor(&format!("{}?connect_timeout=300ms", server.url()));
    said.has("error", "reach", "300ms");
    assert_eq!(said.code, 69);
    server.resume();
    let nobody = format!("redis://127.0.0.1:{}", testkit::free_port());
    assert_eq!(doctor(&nobody).code, 69);
}

/// A server that is too old, and whose clock is a minute ahead: neither is to be had here for real.
#[test]
fn old_versions_and_wrong_clocks() {
    let text = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let old = Fake::start(move |words| match words[0].as_str() {
        "HELLO" => Fake::hello("6.2.20"),
        "PING" => "+PONG\r\n".into(),
        "TIME" => {
            let ahead = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(60);
            format!("*2\r\n{}{}", text(&ahead.as_secs().to_string()), text(&ahead.subsec_micros().to_string()))
        }
        _ => "-NOPERM no\r\n".into(),
    });
    let said = doctor(&old.url());
    said.has("error", "version", "6.2.20");
    let found = said.has("warning", "clock", "ahead of");
    assert!(
        found["found"].as_str().unwrap().starts_with("59") || found["found"].as_str().unwrap().starts_with("1m"),
        "{found}"
    );
}

#[test]
fn people_read_it_in_lines_and_colours_are_for_terminals() {
    let server = Redis::start();
    let output = tenure(&server.url(), &["doctor"]).output().unwrap();
    let plain = text(&output.stdout);
    assert!(plain.starts_with(&format!("127.0.0.1:{}\n", server.port())) && !plain.contains('\x1b'), "{plain}");
    assert!(
        plain.contains("  warning  persistence: appendonly no\n") && plain.contains("→ appendonly yes\n"),
        "{plain}"
    );
    assert!(plain.lines().filter(|line| !line.contains('→')).all(|line| line.chars().count() <= 112), "{plain}");
    assert!(plain.contains("1 warning, "), "{plain}");
    let (status, seen) = Pty::start(&tenure(&server.url(), &["doctor"])).wait();
    assert_eq!(status.code(), Some(78));
    assert!(seen.contains("\x1b[33mwarning\x1b[0m"), "{seen:?}");
}
