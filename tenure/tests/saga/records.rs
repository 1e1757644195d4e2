//! What lies in the journal: for how long, in which words, and what cannot come there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use async_trait::async_trait;
use tenure::transaction::journal::{Entry, Journal, Keep, Memory, Written};
use tenure::transaction::{Call, Failure, Saga, SagaBuilder, SagaStatus};
use tenure::{Error, ErrorKind, Result, What};

use crate::common::{client, ms};
use crate::life::Ground;
use crate::shop::{Counts, counts, hold, nothing, order, refuse};

#[tokio::test(start_paused = true)]
async fn an_id_is_for_one_piece_of_work() {
    let (counts, (locks, _store), journal) = (counts(0, 0), client(), Arc::new(Memory::new()));
    let saga = order().build(counts.clone(), journal.clone()).unwrap();
    let guard = hold(&locks).await;
    assert_eq!(saga.resume("42", &guard).await.unwrap_err().kind(), ErrorKind::Missing);
    for _ in 0..3 {
        let status = saga.run("42", &"a lamp", &guard).await.unwrap();
        assert!(status.is_completed() && counts.acted.load(SeqCst) == 1);
    }
    let later = order().version(2).build(counts.clone(), journal).unwrap();
    assert!(later.resume("42", &guard).await.unwrap().is_completed(), "what has ended is no definition's any more");
    let error = saga.run("42", &"a table", &guard).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Mismatch && error.to_string().contains("another input"), "{error}");
    assert!(saga.run("43", &"a table", &guard).await.unwrap().is_completed());
    for id in [String::new(), "x".repeat(65)] {
        assert_eq!(saga.run(&id, &"a lamp", &guard).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_is_told_by_its_id_and_hinders_no_other() {
    let (counts, (locks, _store), journal) = (counts(0, 0), client(), Arc::new(Memory::new()));
    let wait = |_: Call<Counts>| std::future::pending::<Result<(), Failure>>();
    let first = order().step("wait", wait, nothing).build(counts.clone(), journal.clone()).unwrap();
    let (guard, mut events) = (hold(&locks).await, locks.events());
    let _ = tokio::time::timeout(ms(10), first.run("42", &"a lamp", &guard)).await.unwrap_err();
    let later = r#"{"kind":"saga","format":9,"lock":"order-43"}"#;
    for (id, value) in [("order/1", "{torn"), ("order/2", later), ("another/1", "{torn")] {
        let id = format!("saga:{id}");
        journal.write(&id, None, value.as_bytes(), Keep::UntilForgotten).await.unwrap();
    }
    let saga = order().step("wait", nothing, nothing).build(counts, journal).unwrap();
    let all = saga.resume_all(&guard).await.unwrap();
    let [(torn, error), (id, status)] = &all[..] else { panic!("{all:?}") };
    assert_eq!((&**torn, error.as_ref().unwrap_err().kind()), ("1", ErrorKind::Corrupt));
    assert!(id == "42" && status.as_ref().unwrap().is_completed(), "{status:?}");
    let told = events.recv().await.unwrap().what;
    assert!(matches!(&told, What::RecordUnreadable { id, .. } if id == "saga:order/1"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_record_goes_when_its_time_has_passed_and_never_before_it_is_settled() {
    let (ground, (locks, _store), counts) = (Ground::new(1, 0), client(), counts(0, 0));
    let journal = Arc::new(ground.journal.clone());
    let saga = order().step(
        "wait",
        |call: Call<Counts>| async move { if call.id() == "settled" { Ok(()) } else { std::future::pending().await } },
        nothing,
    );
    let saga = saga.keep(ms(60_000)).build(counts, journal.clone()).unwrap();
    let guard = hold(&locks).await;
    assert!(saga.run("settled", &"a lamp", &guard).await.unwrap().is_completed());
    let _ = tokio::time::timeout(ms(10), saga.run("open", &"a lamp", &guard)).await.unwrap_err();
    tokio::time::sleep(ms(59_000)).await;
    assert_eq!(journal.list().await.unwrap().len(), 2);
    tokio::time::sleep(ms(1_000)).await;
    let left: Vec<String> = journal.list().await.unwrap().into_iter().map(|entry| entry.id).collect();
    assert_eq!(left, ["saga:order/open"]);
    assert!(guard.release().await.unwrap());
    tokio::time::sleep(ms(24 * 3_600_000)).await;
    assert_eq!(journal.list().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_written_is_json_that_others_can_read() {
    let (counts, (locks, _store), journal) = (counts(0, 0), client(), Arc::new(Memory::new()));
    let saga = order().step("stock", refuse, nothing).build(counts, journal.clone()).unwrap();
    let guard = hold(&locks).await;
    let ended = saga.run("42", &"a lamp", &guard).await.unwrap();
    let kept = journal.load("saga:order/42").await.unwrap().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&kept.value).unwrap();
    assert_eq!((&json["kind"], &json["format"], &json["state"]), (&"saga".into(), &1.into(), &"compensated".into()));
    assert_eq!((&json["input"], &json["steps"][0]["output"]), (&"a lamp".into(), &7.into()));
    assert_eq!(json["fence"], guard.fence().get());
    let status = SagaStatus::parse(&kept.value).unwrap().unwrap();
    assert_eq!(format!("{status:?}"), format!("{ended:?}"));
    assert!(!format!("{status:?}").contains("a lamp"), "what it is about is nobody else's business");
    assert_eq!((status.saga(), status.id(), status.lock(), status.version()), ("order", "42", "order-42", 1));
    // Other records lie there, too; and those of later versions.
    assert!(SagaStatus::parse(br#"{"kind":"two-phase"}"#).unwrap().is_none());
    assert!(SagaStatus::parse(b"\x01\x02").unwrap().is_none());
    let later = String::from_utf8(kept.value).unwrap().replace("\"format\":1", "\"format\":2");
    assert_eq!(SagaStatus::parse(later.as_bytes()).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn definitions_that_cannot_be_meant_are_refused_by_name() {
    let refusal = |saga: SagaBuilder<Counts>| -> String {
        let error: Error = saga.build(Counts::default(), Arc::new(Memory::new())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.to_string()
    };
    assert_eq!(refusal(Saga::builder("order")), "saga \"order\" has no steps: give it one");
    assert!(refusal(order().step("pay", nothing, nothing)).contains("two steps \"pay\""));
    assert!(refusal(order().step("a/b", nothing, nothing)).contains("the step's name \"a/b\" of 3 bytes"));
    assert!(refusal(order().step("", nothing, nothing)).contains("the step's name \"\""));
    assert!(refusal(Saga::builder("x".repeat(65)).step("a", nothing, nothing)).contains("the saga's name"));
    assert!(refusal(order().keep(ms(1_000))).starts_with("keep of 1s is out of range"));
}

/// A journal in which a write of an earlier run comes in between the next one's look and its write.
#[derive(Debug)]
struct Between(Memory, AtomicBool);

#[async_trait]
impl Journal for Between {
    async fn load(&self, id: &str) -> Result<Option<Entry>> {
        let found = self.0.load(id).await?;
        if let Some(found) = found.as_ref().filter(|_| self.1.swap(false, SeqCst)) {
            self.0.write(id, Some(found.version), &found.value, Keep::UntilForgotten).await?;
        }
        Ok(found)
    }

    async fn write(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written> {
        self.0.write(id, expected, value, keep).await
    }

    async fn forget(&self, id: &str, expected: u64) -> Result<bool> {
        self.0.forget(id, expected).await
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        self.0.list().await
    }

    async fn unsettled(&self) -> Result<Vec<Entry>> {
        self.0.unsettled().await
    }

    fn location(&self) -> String {
        self.0.location()
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_of_an_earlier_run_that_was_on_its_way_does_not_keep_the_next_one_from_it() {
    let (counts, (locks, _store), journal) = (counts(0, 0), client(), Memory::new());
    let guard = hold(&locks).await;
    let waiting = order().step("wait", |_| std::future::pending::<Result<(), _>>(), nothing);
    let first = waiting.build(counts.clone(), Arc::new(journal.clone())).unwrap();
    let _ = tokio::time::timeout(ms(10), first.run("42", &"a lamp", &guard)).await.unwrap_err();
    let between = Arc::new(Between(journal, AtomicBool::new(true)));
    let next = order().step("wait", nothing, nothing).build(counts, between).unwrap();
    assert!(next.resume("42", &guard).await.unwrap().is_completed());
}
