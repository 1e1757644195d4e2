//! Grants that replicas have to acknowledge (`replicas=k`).

use tenure::proto::{ClaimId, Renew, Was};
use tenure::store::Push;
use tenure::{ErrorKind, Locks, What};

use super::*;

/// A master and replicas that follow it.
pub(super) fn deployment<const N: usize>() -> (testkit::Redis, [testkit::Redis; N]) {
    let master = testkit::Redis::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replicas = [(); N].map(|()| {
        let of = format!("127.0.0.1 {}", master.port());
        testkit::Redis::start_with(&["--replicaof", &of])
    });
    master.wait_for_replicas(N);
    (master, replicas)
}

/// How many times the server was asked to wait for replicas.
pub(super) fn waits(server: &testkit::Redis) -> usize {
    let stats = server.command(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_wait:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

pub(super) async fn holders(store: &Redis, name: &str) -> Vec<ClaimId> {
    store.read(&key(name)).await.unwrap().record.holders.iter().map(|entry| entry.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_not_acknowledged_is_given_back_and_the_count_is_told() {
    let (master, [first, second]) = deployment();
    let one = connect(&format!("{}?replicas=1", master.url())).await;
    let two = connect(&format!("{}?replicas=2", master.url())).await;
    hold(&two, "a", 1).await;

    first.pause();
    hold(&one, "b", 2).await;
    let error = two.apply(&key("c"), &attempt(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("by 1 of the 2 replicas"), "one of them is not enough: {error}");
    assert_eq!(holders(&two, "c").await, [], "it was given back");

    second.pause();
    let error = one.apply(&key("c"), &attempt(4)).await.unwrap_err();
    assert!(error.to_string().contains("by 0 of the 1 replicas"), "{error}");
    assert_eq!(holders(&one, "c").await, []);

    // What was let in by nobody's grant is nobody's trouble: busy is busy, and a release needs no acknowledgement.
    let reply = one.apply(&key("b"), &attempt(5)).await.unwrap();
    assert!(matches!(reply.outcome, Outcome::Busy { .. }), "{reply:?}");
    let reply = one.apply(&key("b"), &release(2)).await.unwrap();
    assert_eq!(reply.outcome, Outcome::Gone { was: Was::Holding });

    first.resume();
    second.resume();
    hold(&one, "c", 4).await;
    hold(&two, "d", 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_already_is_never_given_back() {
    let (master, [replica]) = deployment();
    let store = connect(&format!("{}?replicas=1", master.url())).await;
    hold(&store, "a", 1).await;
    replica.pause();
    let renewal = Op::Renew(Renew { id: ClaimId::new(1), ttl: Duration::from_secs(60), fence: 0 });
    let error = store.apply(&key("a"), &renewal).await.unwrap_err();
    assert!(error.kind() == ErrorKind::NoReply && error.to_string().contains("by 0 of the 1"), "{error}");
    assert_eq!(holders(&store, "a").await, [ClaimId::new(1)], "its holder is certain of it for a while");

    let locks = Locks::new(store);
    let mut events = locks.events();
    replica.resume();
    let guard = locks.mutex("b").ttl(Duration::from_secs(3)).build().unwrap().lock().await.unwrap();
    replica.pause();
    let suspect = async { while !matches!(events.recv().await.unwrap().what, What::Suspect { .. }) {} };
    within(Duration::from_secs(5), suspect).await;
    assert!(guard.is_held());
    replica.resume();
    let renewed = async { while !matches!(events.recv().await.unwrap().what, What::Renewed { .. }) {} };
    within(Duration::from_secs(5), renewed).await;
    assert!(guard.is_held());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_grant_is_asked_for_before_it_is_believed() {
    let (master, [replica]) = deployment();
    let url = format!("{}?replicas=1", master.url());
    let store = connect(&url).await;
    let mut watch = store.watch(&key("a"), ClaimId::new(2));
    hold(&store, "a", 1).await;
    store.apply(&key("a"), &acquire(2)).await.unwrap();
    until("the inbox is subscribed to", async || master.command(&["PUBSUB", "CHANNELS", "tenure:*"]).contains("inbox"))
        .await;
    // Subscribed just now, so there may have been a push before.
    assert_eq!(within(Duration::from_secs(5), watch.next()).await, Push::Changed);
    store.apply(&key("a"), &release(1)).await.unwrap();
    assert_eq!(within(Duration::from_secs(5), watch.next()).await, Push::Changed);
    hold(&store, "a", 2).await;

    // The same with a client: it waits until the replica knows of its turn.
    let (ours, theirs) = (tenure::open(&url).await.unwrap(), tenure::open(&url).await.unwrap());
    let guard = ours.mutex("b").build().unwrap().lock().await.unwrap();
    let mut events = theirs.events();
    let lock = theirs.mutex("b").build().unwrap();
    let waiting = tokio::spawn(async move { lock.lock().timeout(Duration::from_secs(20)).await });
    while !matches!(events.recv().await.unwrap().what, What::Waiting { .. }) {}
    replica.pause();
    guard.release().await.unwrap();
    let before = waits(&master);
    until("it was asked for twice in vain", async || waits(&master) >= before + 2).await;
    assert!(!waiting.is_finished(), "nobody has acknowledged that it is in");
    replica.resume();
    let guard = within(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert!(guard.is_held());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_shares_one_wait_and_scripts_that_were_flushed_are_loaded_again() {
    const CROWD: u128 = 400;
    let (master, [_replica]) = deployment();
    let store = connect(&format!("{}?replicas=1", master.url())).await;
    master.command(&["SCRIPT", "FLUSH"]);
    let before = waits(&master);
    let tasks = (0..CROWD).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.apply(&key(&format!("lock {n}")), &acquire(n)).await.unwrap() })
    });
    for task in tasks.collect::<Vec<_>>() {
        assert!(is_held(within(Duration::from_secs(10), task).await.unwrap().outcome));
    }
    let waited = waits(&master) - before;
    assert!(waited <= CROWD as usize / 4, "{waited} for {CROWD}");

    let ops: Vec<_> = (0..CROWD).map(|n| (key(&format!("lock {n}")), release(n))).collect();
    let replies = within(Duration::from_secs(10), store.apply_many(&ops)).await;
    assert!(replies.into_iter().all(|reply| reply.unwrap().outcome == Outcome::Gone { was: Was::Holding }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_refused_alone() {
    let (master, [_replica]) = deployment();
    let store = connect(&format!("{}?replicas=1", master.url())).await;
    master.command(&["SET", "tenure:{b}", "not ours"]);
    let ops = [(key("a"), acquire(1)), (key("b"), acquire(2)), (key("c"), acquire(3))];
    let replies = within(Duration::from_secs(5), store.apply_many(&ops)).await;
    let kinds: Vec<_> = replies.iter().map(|reply| reply.as_ref().err().map(Error::kind)).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::Foreign), None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_wait_nothing_begins() {
    let server = testkit::Redis::start();
    server.command(&["ACL", "SETUSER", "locks", "on", ">pw", "~*", "&*", "+@all", "-wait"]);
    let url = server.url().replace("redis://", "redis://locks:pw@");
    connect(&url).await;
    let error = refusal(&format!("{url}?replicas=1")).await;
    assert!(error.kind() == ErrorKind::Denied && error.to_string().to_uppercase().contains("WAIT"), "{error}");
}
