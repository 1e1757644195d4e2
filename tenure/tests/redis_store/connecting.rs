//! URLs, logins, TLS, sockets, versions, names: all that is settled before the first operation, and what is told where
//! it cannot be.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use tenure::ErrorKind;
use tenure::store::{Redis, Store};
use testkit::{Fake, TlsRedis};

use super::*;

#[tokio::test]
async fn the_database_is_the_one_in_the_url_and_every_key_expires() {
    let server = testkit::Redis::start();
    let store = connect(&format!("{}/3?prefix=app", server.url())).await;
    hold(&store, "a", 1).await;
    let keyspace = server.command(&["INFO", "keyspace"]);
    assert!(keyspace.contains("db3:keys=1,expires=1"), "{keyspace}");
    store.apply(&key("a"), &release(1)).await.unwrap();
    let keyspace = server.command(&["INFO", "keyspace"]);
    assert!(keyspace.contains("db3:keys=1,expires=1"), "remembered for a minute, not for ever: {keyspace}");
}

#[tokio::test]
async fn a_socket_is_as_good() {
    let server = testkit::Redis::start();
    server.command(&["ACL", "SETUSER", "bob", "on", ">a&b+c", "~*", "&*", "+@all"]);
    let url = format!("redis+unix://{}?db=2&user=bob&password=a%26b+c", server.socket().display());
    let store = connect(&url).await;
    hold(&store, "a", 1).await;
    assert!(server.command(&["INFO", "keyspace"]).contains("db2:keys=1"));
    assert!(server.command(&["CLIENT", "LIST"]).contains("user=bob"));
}

#[tokio::test]
async fn tls_trusts_the_authority_that_the_url_names_and_no_other() {
    let server = TlsRedis::start();
    let store = connect(&format!("{}?ca={}", server.url(), server.ca().display())).await;
    hold(&store, "a", 1).await;
    store.ping().await.unwrap();

    let error = refusal(&server.url()).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("certificate") && error.to_string().contains("ca=path"), "{error}");

    let error = refusal(&format!("{}?ca=/nowhere.pem", server.url())).await;
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("/nowhere.pem"), "{error}");
    let key_file = server.ca().with_file_name("server.key");
    let error = refusal(&format!("{}?ca={}", server.url(), key_file.display())).await;
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("no certificate"), "{error}");
}

#[tokio::test]
async fn a_login_is_checked_and_never_shown() {
    let server = testkit::Redis::start();
    let at = |login: &str| server.url().replace("redis://", &format!("redis://{login}"));
    server.command(&["ACL", "SETUSER", "alice", "on", ">hunter2/", "~*", "&*", "+@all"]);
    server.command(&["ACL", "SETUSER", "guest", "on", "nopass", "~*", "&*", "+@all"]);
    let store = connect(&at("alice:hunter2%2F@")).await;
    hold(&store, "a", 1).await;
    assert!(!format!("{store:?} {store:#?}").contains("hunter2"));
    connect(&at("guest@")).await;

    let error = refusal(&at("alice:hunter3@")).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(!told(&error).contains("hunter3"), "{}", told(&error));
    server.command(&["CONFIG", "SET", "requirepass", "hunter2"]);
    let error = refusal(&server.url()).await;
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("wants a password"), "{error}");
    connect(&at(":hunter2@")).await;
}

#[tokio::test]
async fn a_server_that_repeats_the_password_is_not_quoted() {
    let server = testkit::Redis::start_with(&["--rename-command", "HELLO", ""]);
    let error = refusal(&server.url().replace("redis://", "redis://u:hunter2@")).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("HELLO") && !told(&error).contains("hunter2"), "{}", told(&error));
    let error = refusal(&server.url()).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[tokio::test]
async fn a_server_that_is_too_old_is_told_with_its_version() {
    for (version, will_do) in [("6.2.14", false), ("7.0.0", true), ("8.1.1", true), ("255.255.255", true)] {
        let server = Fake::start(move |words| match &*words[0] {
            "HELLO" => Fake::hello(version),
            _ => "+OK\r\n".into(),
        });
        let store = within(Duration::from_secs(5), Redis::connect(&server.url())).await;
        assert_eq!(store.is_ok(), will_do, "{version}");
        if let Err(error) = store {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(version) && error.to_string().contains("7.0"), "{error}");
        }
    }
}

#[tokio::test]
async fn nobody_there_is_told_in_time() {
    let start = Instant::now();
    let error = refusal(&format!("redis://127.0.0.1:{}", testkit::free_port())).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    let error = refusal("redis+unix:///nowhere/at/all.sock").await;
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("/nowhere/at/all.sock"), "{error}");

    // It lets everyone in and says nothing.
    let mute = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("redis://127.0.0.1:{}?connect_timeout=300ms", mute.local_addr().unwrap().port());
    let error = refusal(&url).await;
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("300ms"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

/// The rules as the documentation has them.
fn documented_rules() -> Vec<&'static str> {
    let rules = include_str!("../../src/store/redis/mod.rs").split_once("ACL SETUSER locks on >password ").unwrap().1;
    let rules = rules.split("```").next().unwrap();
    rules.split_whitespace().filter(|word| *word != "///").collect()
}

#[tokio::test]
async fn a_user_with_the_documented_rights_can_do_everything_and_with_fewer_is_told() {
    let server = testkit::Redis::start();
    let grant = |rules: &[&str]| {
        server.command(&["ACL", "DELUSER", "locks"]);
        assert_eq!(server.command(&[&["ACL", "SETUSER", "locks", "on", ">pw"], rules].concat()), "");
    };
    let rules = documented_rules();
    let url = server.url().replace("redis://", "redis://locks:pw@");
    grant(&rules);
    let store = connect(&url).await;
    store.ping().await.unwrap();
    let watch = store.watch(&key("a"), tenure::proto::ClaimId::new(2));
    hold(&store, "a", 1).await;
    store.apply(&key("a"), &acquire(2)).await.unwrap();
    store.apply(&key("a"), &release(1)).await.unwrap();
    store.read(&key("a")).await.unwrap();
    assert_eq!(store.scan().await.unwrap(), [key("a")]);
    drop((watch, store));

    for right in &rules {
        grant(&rules.iter().filter(|rule| *rule != right).copied().collect::<Vec<_>>());
        let error = refusal(&url).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "without {right}: {error}");
        assert!(error.to_string().contains("tenure::store::Redis"), "{error}");
    }
}

#[tokio::test]
async fn no_two_names_share_a_record_and_all_are_listed() {
    let server = testkit::Redis::start();
    let store = connect(&server.url()).await;
    let long = "n".repeat(256);
    let names = [
        "a", "{a}", "}{", "{", "a}", "%", "%7B", "%25", "a\nb", "a\\nb", "\0", "é", "e\u{301}", "🔒", "*", "?", "[a]",
        " ", "a:{b}", &long,
    ];
    for (id, name) in (1..).zip(names) {
        hold(&store, name, id).await;
    }
    let mut expected: Vec<_> = names.map(key).into();
    expected.sort();
    server.command(&["SET", "tenure:inbox", "not ours"]);
    server.command(&["SET", "tenure:{%7b}", "not ours either"]);
    server.command(&["SET", "tenure2:{a}", "nor this"]);
    assert_eq!(store.scan().await.unwrap(), expected);
    for (id, name) in (1..).zip(names) {
        let holders = store.read(&key(name)).await.unwrap().record.holders;
        assert_eq!(
            holders.iter().map(|entry| entry.id).collect::<Vec<_>>(),
            [tenure::proto::ClaimId::new(id)],
            "{name:?}"
        );
    }
    let other = connect(&format!("{}?prefix=other", server.url())).await;
    assert_eq!(other.scan().await.unwrap(), []);
    hold(&other, "a", 1).await;
}

#[tokio::test]
async fn more_locks_than_fit_on_a_page_are_all_listed() {
    let server = testkit::Redis::start();
    let store = connect(&server.url()).await;
    let ops: Vec<_> = (0..3_500).map(|i| (key(&format!("lock {i:04}")), acquire(1))).collect();
    let replies = within(Duration::from_secs(20), store.apply_many(&ops)).await;
    assert!(replies.into_iter().all(|reply| is_held(reply.unwrap().outcome)));
    let names: Vec<_> = ops.into_iter().map(|(key, _)| key).collect();
    assert_eq!(store.scan().await.unwrap(), names);
}

#[tokio::test]
async fn opening_that_is_dropped_at_any_point_leaves_no_connection() {
    let server = testkit::Redis::start();
    let clients = || server.command(&["CLIENT", "LIST"]).matches("id=").count();
    let usual = clients();
    let (mut polls, mut is_done) = (0, false);
    while !is_done {
        {
            let url = server.url();
            let mut opening = std::pin::pin!(tenure::open(&url));
            for _ in 0..polls {
                is_done = futures_util::poll!(opening.as_mut()).is_ready();
                if is_done {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        until("its connection is gone", async || clients() == usual).await;
        polls += 1;
    }
    assert!(polls > 3, "it has to wait: {polls}");
}
