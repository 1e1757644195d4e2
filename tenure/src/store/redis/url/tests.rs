//! What a URL says, and what is told where it cannot be meant.

use super::*;

fn message(url: &str) -> String {
    let error = Config::parse(url).expect_err(url);
    assert_eq!(error.kind(), ErrorKind::Invalid);
    format!("{error} {error:?}")
}

fn one(config: &Config) -> &ConnectionAddr {
    match &config.place {
        Place::One(addr) => addr,
        Place::Sentinel { .. } | Place::Cluster { .. } => panic!("{config:?} has several servers"),
    }
}

fn address(host: &str, port: u16) -> Address {
    Address { host: host.into(), port }
}

#[test]
fn every_part_of_a_url_arrives() {
    let config =
        Config::parse("redis://al%40ice:p%2Fw%25@example.org:7000/3?prefix=my:app&response_timeout=250ms").unwrap();
    let login = &config.login;
    assert_eq!((login.username(), login.password(), login.db()), (Some("al@ice"), Some("p/w%"), 3));
    assert_eq!(*one(&config), ConnectionAddr::Tcp("example.org".into(), 7000));
    assert_eq!((&*config.prefix, &*config.server), ("my:app", "example.org:7000"));
    assert_eq!(config.response_timeout, Duration::from_millis(250));

    let config = Config::parse("redis://[::1]").unwrap();
    assert_eq!(*one(&config), ConnectionAddr::Tcp("::1".into(), 6379));
    assert_eq!(config.server, "[::1]:6379");
    assert_eq!((config.login.password(), &*config.prefix), (None, "tenure"));

    let config = Config::parse("redis+unix:///run/my%20redis?db=2&user=bob&password=a%26+b").unwrap();
    let login = &config.login;
    assert_eq!((login.username(), login.password(), login.db()), (Some("bob"), Some("a&+b"), 2));
    assert_eq!(*one(&config), ConnectionAddr::Unix("/run/my redis".into()));

    let config = Config::parse("rediss://:pw@example.org?ca=/etc/ca.pem").unwrap();
    assert!(matches!(one(&config), ConnectionAddr::TcpTls { insecure: false, .. }));
    assert_eq!(config.ca, Some("/etc/ca.pem".into()));
}

#[test]
fn a_user_without_a_password_is_still_named_to_the_server() {
    let config = Config::parse("redis://alice@localhost").unwrap();
    assert_eq!(config.login.password(), Some(""));
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    let error = message("redis://localhost?retries=3");
    assert!(error.contains("\"retries\"") && error.contains("prefix, connect_timeout, response_timeout"), "{error}");
    assert!(message("redis://localhost?ca=/x").contains("\"ca\""), "without TLS it would be ignored");
    assert!(message("redis://localhost?db=1").contains("\"db\""));
    assert!(message("redis://localhost?prefix=a&prefix=b").contains("twice"));
    assert!(message("redis://localhost?prefix=a*b").contains("a*b"));
    assert!(message("redis://localhost?prefix=").contains("1 to 64"));
    assert!(message("redis://localhost?response_timeout=soon").contains("\"soon\""));
    assert!(message("redis://localhost?connect_timeout=0s").contains("1ms to 3600s"));
    assert!(message("redis://localhost/one").contains("database"));
    assert!(message("redis://localhost/65536").contains("database"));
    assert!(message("http://localhost").contains("redis, rediss, redis+unix, redis-sentinel"));
    assert!(message("redis:///0").contains("host"));
    assert!(message("redis+unix://host/path").contains("three slashes"));
}

#[test]
fn a_password_is_never_repeated() {
    let hidden = ["redis://u:hunter2@h:x", "redis://u:1/hunter2@h", "redis://:#hunter2@h", "redis://u:1?hunter2=3@h"];
    for url in hidden {
        assert!(!message(url).contains("hunter2"), "{url}");
    }
    for url in ["redis://u:hunter2@h/one", "redis://u:hunter2@h?a=b", "redis+unix:///p?password=hunter2&a=b"] {
        assert!(!message(url).contains("hunter2"), "{url}");
    }
    let config = Config::parse("redis://u:hunter2@h").unwrap();
    assert!(!format!("{config:?} {:?}", config.login).contains("hunter2"));
    assert!(config.is_secret("unknown command 'HELLO', with args: '3' 'AUTH' 'u' 'hunter2'"));
}

#[test]
fn every_host_of_several_arrives() {
    let url = "redis-sentinel://al%40ice:p%2Fw@a,b:7000,[::1],[::2]:7001/my%20master/3?sentinel_user=s&sentinel_password=x%26";
    let config = Config::parse(url).unwrap();
    let Place::Sentinel { sentinels, login, master } = &config.place else { panic!("{config:?}") };
    assert_eq!(*sentinels, [address("a", 26379), address("b", 7000), address("::1", 26379), address("::2", 7001)]);
    assert_eq!((&**master, login.username(), login.password(), login.db()), ("my master", Some("s"), Some("x&"), 0));
    let data = &config.login;
    assert_eq!((data.username(), data.password(), data.db()), (Some("al@ice"), Some("p/w"), 3));
    assert!(config.server.contains("my master") && config.server.contains("[::2]:7001"), "{}", config.server);
    assert!(!config.tls && !config.read_replica && config.replicas == 0);

    let config = Config::parse("rediss-cluster://:pw@a,b:7000?replicas=1&read=replica&ca=/etc/ca.pem").unwrap();
    let Place::Cluster { seeds } = &config.place else { panic!("{config:?}") };
    assert_eq!(*seeds, [address("a", 6379), address("b", 7000)]);
    assert!(config.tls && config.read_replica && config.replicas == 1 && config.ca.is_some());
    assert!(matches!(config.addr(&seeds[0]), ConnectionAddr::TcpTls { insecure: false, .. }));

    assert_eq!(Config::parse("redis://localhost?replicas=2").unwrap().replicas, 2);
    assert!(!Config::parse("redis-sentinel://a/m?read=master").unwrap().read_replica);
}

#[test]
fn what_cannot_be_meant_of_several_hosts_is_refused_by_name() {
    assert!(message("redis-sentinel://a,b").contains("master's name"));
    assert!(message("redis-sentinel://a,b/m/0/more").contains("master's name"));
    assert!(message("redis-sentinel://a,b/m/one").contains("database"));
    assert!(message("redis-sentinel://a,,b/m").contains("host 2"));
    assert!(message("redis-sentinel://a,b:/m").contains("host 2"));
    assert!(message("redis-sentinel://a,b:70000/m").contains("host 2"));
    assert!(message("redis-sentinel://[::1,b/m").contains("host 1"));
    assert!(message("redis-sentinel://a,b,a:26379/m").contains("twice"), "three of which two are one are no majority");
    assert!(message("redis-sentinel:a/m").contains("'//'"));
    assert!(message("redis-sentinel://a/m?ca=/x").contains("\"ca\""));
    assert!(message("redis-sentinel://a/m?read=slave").contains("\"slave\""));
    assert!(message("redis-sentinel://a/m?replicas=33").contains("0 to 32"));
    assert!(message("redis-sentinel://a/m?replicas=-1").contains("0 to 32"));
    assert!(message("redis-cluster://a,b/0").contains("one database"));
    assert!(message("redis-cluster://a,b?sentinel_user=x").contains("\"sentinel_user\""));
    assert!(message("redis://a?read=replica").contains("\"read\""), "one server has no replica to name");
    for url in
        ["redis-sentinel://u:hunter2@a,b:x/m", "redis-sentinel://u:1/hunter2@a,b/m", "redis-cluster://u:#hunter2@a,b"]
    {
        assert!(!message(url).contains("hunter2"), "{url}");
    }
    assert!(!message("redis-sentinel://u:2:hunter2,b/m").contains("hunter2"), "a login whose '@' was forgotten");
    let config = Config::parse("redis-sentinel://u:hunter2@a/m?sentinel_password=hunter3").unwrap();
    assert!(!format!("{config:?}").contains("hunter"));
    assert!(config.is_secret("AUTH hunter3") && config.is_secret("AUTH hunter2"));
}
