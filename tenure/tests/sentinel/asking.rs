//! Whom the client believes, and what it tells where it believes nobody. Where a Sentinel has to say what a real one
//! says only for a moment, something that speaks its protocol says it.

use std::sync::{Arc, Mutex};

use tenure::ErrorKind;
use testkit::{Fake, SentinelGroup};

use super::*;

/// What somebody who plays a Sentinel says of its master.
#[derive(Clone, Copy)]
struct Says {
    by_name: u16,
    of_master: u16,
    epoch: u64,
}

impl Says {
    fn all(port: u16, epoch: u64) -> Self {
        Self { by_name: port, of_master: port, epoch }
    }
}

/// Somebody who plays a Sentinel, and what it says from now on. It never tells by itself.
fn play(says: Says) -> (Fake, Arc<Mutex<Says>>) {
    let shared = Arc::new(Mutex::new(says));
    let now = shared.clone();
    let fake = Fake::start(move |words| {
        let Says { by_name, of_master, epoch } = *now.lock().unwrap();
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        let of = |port: u16| [bulk("127.0.0.1"), bulk(&port.to_string())];
        match words.iter().map(|word| word.to_uppercase()).collect::<Vec<_>>()[..] {
            [ref hello, ..] if hello == "HELLO" => Fake::hello("7.0.15"),
            [ref subscribe, ..] if subscribe == "SUBSCRIBE" => {
                format!(">3\r\n{}{}:1\r\n", bulk("subscribe"), bulk(&words[1]))
            }
            [_, ref what, ..] if what == "GET-MASTER-ADDR-BY-NAME" => format!("*2\r\n{}", of(by_name).concat()),
            [_, ref what, ..] if what == "MASTER" => {
                let [ip, port] = of(of_master);
                let epoch = bulk(&epoch.to_string());
                format!("%3\r\n{}{ip}{}{port}{}{epoch}", bulk("ip"), bulk("port"), bulk("config-epoch"))
            }
            _ => "+OK\r\n".into(),
        }
    });
    (fake, shared)
}

fn url(sentinels: &[u16]) -> String {
    let hosts: Vec<_> = sentinels.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("redis-sentinel://{}/mymaster", hosts.join(","))
}

/// A server that was the master, and one that is.
fn two_servers() -> (testkit::Redis, testkit::Redis) {
    (testkit::Redis::start(), testkit::Redis::start())
}

#[tokio::test]
async fn a_sentinel_that_does_not_agree_with_the_majority_or_with_itself_is_not_believed() {
    let (old, new) = two_servers();
    let right = [(); 2].map(|()| play(Says::all(new.port(), 5)));
    // One that was cut off in the middle of nowhere, and knows of the last master only.
    let (stale, _) = play(Says::all(old.port(), 4));
    // One that leads a failover: the new address with the old one's, and the new epoch with the old address.
    let (leading, _) = play(Says { by_name: new.port(), of_master: old.port(), epoch: 5 });
    let (ahead, _) = play(Says::all(old.port(), 5));

    for wrong in [&stale, &leading, &ahead] {
        let store = connect(&url(&[wrong.port(), right[0].0.port(), right[1].0.port()])).await;
        fence(&store, "a", 1).await.unwrap();
        store.apply(&key("a"), &release(1)).await.unwrap();
        let error = refusal(&url(&[wrong.port(), right[0].0.port()])).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let what = error.to_string();
        assert!(what.contains(&wrong.port().to_string()) && what.contains("2 of 2 have to"), "{what}");
    }
    assert_eq!(old.command(&["DBSIZE"]), ":0\r\n", "nobody was sent there");
}

#[tokio::test]
async fn who_is_named_and_is_no_master_is_not_used() {
    let (old, new) = two_servers();
    old.command(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]);
    let (sentinel, _) = play(Says::all(old.port(), 1));
    let error = refusal(&url(&[sentinel.port()])).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("takes itself for a replica"), "{error}");
}

#[tokio::test]
async fn a_demoted_master_is_left_at_its_first_refusal() {
    let (old, new) = two_servers();
    let (sentinel, says) = play(Says::all(old.port(), 1));
    let store = connect(&url(&[sentinel.port()])).await;
    fence(&store, "a", 1).await.unwrap();
    // Past the second in which a connection that is lost again counts as a failed attempt.
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    old.command(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]);
    *says.lock().unwrap() = Says::all(new.port(), 2);
    let refused = fence(&store, "b", 1).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unavailable, "it was certainly not carried out");
    let start = Instant::now();
    fence(&store, "b", 1).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert!(new.command(&["EXISTS", "tenure:{b}"]).contains(":1"));
}

#[tokio::test]
async fn a_move_that_is_told_of_is_followed_at_once() {
    let (old, new) = two_servers();
    let (sentinel, says) = play(Says::all(old.port(), 1));
    let start = Instant::now();
    let store = connect(&url(&[sentinel.port()])).await;
    *says.lock().unwrap() = Says::all(new.port(), 2);
    let told = format!("mymaster 127.0.0.1 {} 127.0.0.1 {}", old.port(), new.port());
    sentinel.tell(&format!(">3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n${}\r\n{told}\r\n", told.len()));
    for id in 1.. {
        fence_in_time(&store, &format!("lock {id}"), id).await;
        if new.command(&["DBSIZE"]) != ":0\r\n" {
            break;
        }
    }
    // Nobody is asked again before a second has passed.
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_move_that_nobody_told_of_is_found_out_by_asking() {
    let (old, new) = two_servers();
    let (sentinel, says) = play(Says::all(old.port(), 1));
    let store = connect(&url(&[sentinel.port()])).await;
    *says.lock().unwrap() = Says::all(new.port(), 2);
    // The old one would serve on for ever.
    let moved = async {
        for id in 1.. {
            fence_in_time(&store, &format!("lock {id}"), id).await;
            if new.command(&["DBSIZE"]) != ":0\r\n" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(Duration::from_secs(10), moved).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_logins_are_told_apart() {
    let group = SentinelGroup::start();
    let error = refusal(&group.url().replace("/mymaster", "/another")).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("another") && error.to_string().contains("sentinel.conf"), "{error}");

    for node in &group.nodes {
        node.command(&["ACL", "SETUSER", "locks", "on", ">data/1", "~*", "&*", "+@all"]);
    }
    // What the documentation has as enough for a Sentinel.
    let rules = include_str!("../../src/store/redis/mod.rs").split_once("ACL SETUSER watcher on >password ").unwrap().1;
    let rules: Vec<&str> =
        rules.split("```").next().unwrap().split_whitespace().filter(|word| *word != "///").collect();
    for sentinel in &group.sentinels {
        let user = [&["ACL", "SETUSER", "watcher", "on", ">watch/2"], &rules[..]].concat();
        assert_eq!(sentinel.command(&user), "");
        sentinel.command(&["ACL", "SETUSER", "default", "off"]);
    }
    let hosts = group.url().replace("redis-sentinel://", "");
    let right = format!(
        "redis-sentinel://locks:data%2F1@{hosts}?sentinel_user=watcher&sentinel_password=watch%2F2&read=replica"
    );
    let store = connect(&right).await;
    fence(&store, "a", 1).await.unwrap();
    within(Duration::from_secs(5), async { while store.read(&key("a")).await.unwrap().record.is_empty() {} }).await;
    assert!(group.nodes[0].command(&["CLIENT", "LIST"]).contains("user=locks"));
    assert!(!format!("{store:?} {store:#?}").contains("data/1"));

    let error = refusal(&right.replace("data%2F1", "hunter2")).await;
    assert!(error.kind() == ErrorKind::Denied && !format!("{error:?}").contains("hunter2"), "{error:?}");
    for wrong in [right.replace("watch%2F2", "hunter2"), format!("redis-sentinel://locks:data%2F1@{hosts}")] {
        let error = refusal(&wrong).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(
            error.to_string().contains("sentinel_password") && !format!("{error:?}").contains("hunter2"),
            "{error:?}"
        );
    }
}
