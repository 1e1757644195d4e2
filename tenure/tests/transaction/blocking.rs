//! The same without async: nothing here is a future.

use super::*;
use tenure::blocking;

#[test]
fn without_async_a_transaction_commits_rolls_back_and_is_resolved() {
    let server = testkit::Redis::start();
    let locks = blocking::open(&server.url()).unwrap();
    let lock = |name: &'static str| locks.lock(|locks| locks.mutex(name)).unwrap();
    let (a, b) = (lock("a"), lock("b"));

    let mut tx = a.begin_transaction(|begin| begin.timeout(ms(5_000))).unwrap();
    tx.set("data", "1").incr("count", 2);
    assert!(tx.is_held() && a.is_locked().unwrap());
    let id = tx.id().clone();
    tx.commit().committed().unwrap();
    assert_eq!((get(&server, "data"), get(&server, "count")), ("1".to_owned(), "2".to_owned()));
    assert!(locks.resolve(&id).unwrap().is_committed());

    let mut tx = locks.begin_transaction(&[b, a.clone()], |begin| begin).unwrap();
    tx.set("data", "2");
    assert!(tx.rollback().unwrap(), "both locks were still held");
    assert!(!a.is_locked().unwrap() && get(&server, "data") == "1");

    let guard = a.lock(None).unwrap();
    let error = a.begin_transaction(|begin| begin.timeout(ms(20))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let mut tx = guard.begin_transaction(|begin| begin).unwrap();
    tx.set("data", "3");
    let id = tx.id().clone();
    assert!(matches!(reason(locks.resolve(&id).unwrap()), Reason::Resolved));
    assert!(matches!(reason(tx.commit()), Reason::Resolved));
    assert!(guard.release().unwrap(), "the hold is left as it was");
    assert_eq!(get(&server, "data"), "1");
}

#[test]
fn without_async_a_transaction_that_is_dropped_is_rolled_back_and_frees_its_lock() {
    let server = testkit::Redis::start();
    let locks = blocking::open(&server.url()).unwrap();
    let lock = locks.lock(|locks| locks.mutex("a")).unwrap();
    let mut tx = lock.begin_transaction(|begin| begin).unwrap();
    tx.set("data", "1");
    drop(tx);
    assert!(lock.lock(Some(ms(10_000))).unwrap().release().unwrap());
    assert!(!exists(&server, "data"));
}
