//! The spans of `tracing`: which there are, what they tell, and what they never tell. Under a paused clock.
//!
//! Bugs that were planted, one at a time, and found: no span for a release; no fence, or no wait, on a lock's; the claim's id on
//! a release; the metadata on a lock's; a renewal outside of its span; a hold's span that outlives its loss; no outcome of a
//! transaction.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use common::{Fault, client, ms, run_ready, two_clients};
use tokio::time::sleep;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing::{Event, Metadata, Subscriber};

/// The longest that a value may be: a lock's name has up to 256 bytes, and quotes.
const LONGEST: usize = 300;

/// A span, or an event of the log, by its name, with its fields.
#[derive(Clone, Debug)]
struct Told {
    name: &'static str,
    is_span: bool,
    /// Something was done in it.
    entered: bool,
    handles: usize,
    closed: bool,
    fields: BTreeMap<&'static str, String>,
}

/// Writes down what is told on this thread.
#[derive(Clone, Default)]
struct Notebook(Arc<Mutex<Vec<Told>>>);

impl Notebook {
    fn open() -> (Self, DefaultGuard) {
        let notebook = Self::default();
        (notebook.clone(), set_default(notebook))
    }

    fn write(&self, metadata: &'static Metadata<'static>, record: impl FnOnce(&mut Fields)) -> Id {
        let mut fields = Fields::default();
        record(&mut fields);
        let mut told = self.0.lock().unwrap();
        told.push(Told {
            name: metadata.name(),
            is_span: metadata.is_span(),
            entered: false,
            handles: 1,
            closed: false,
            fields: fields.0,
        });
        Id::from_u64(told.len() as u64)
    }

    /// The fields of the spans of that name that something was done in.
    fn spans(&self, name: &str) -> Vec<BTreeMap<&'static str, String>> {
        let told = self.0.lock().unwrap();
        told.iter().filter(|told| told.entered && told.name == name).map(|told| told.fields.clone()).collect()
    }

    /// Whether the last span of that name has ended.
    fn has_closed(&self, name: &str) -> bool {
        let told = self.0.lock().unwrap();
        told.iter().rev().find(|told| told.name == name).expect("there is one").closed
    }

    fn all(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }
}

impl Subscriber for Notebook {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tenure")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.write(span.metadata(), |fields| span.record(fields))
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        self.0.lock().unwrap()[span.into_u64() as usize - 1].fields.append(&mut fields.0);
    }

    fn event(&self, event: &Event<'_>) {
        self.write(event.metadata(), |fields| event.record(fields));
    }

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn exit(&self, _span: &Id) {}

    fn clone_span(&self, span: &Id) -> Id {
        self.0.lock().unwrap()[span.into_u64() as usize - 1].handles += 1;
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        let mut told = self.0.lock().unwrap();
        let told = &mut told[span.into_u64() as usize - 1];
        told.handles -= 1;
        told.closed = told.handles == 0;
        told.closed
    }

    fn enter(&self, span: &Id) {
        self.0.lock().unwrap()[span.into_u64() as usize - 1].entered = true;
    }
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

fn fields<const N: usize>(fields: [(&'static str, &str); N]) -> BTreeMap<&'static str, String> {
    fields.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_lock_tells_its_fence_and_its_wait_and_a_release_for_how_long_it_was_held() {
    let (notebook, _open) = Notebook::open();
    let (ours, theirs, _store) = two_clients();
    let busy = theirs.mutex("invoice-42").build().unwrap().lock().await.unwrap();
    let waiting = tokio::spawn(ours.mutex("invoice-42").build().unwrap().lock().into_future());
    sleep(ms(250)).await;
    busy.release().await.unwrap();
    let guard = waiting.await.unwrap().unwrap();
    let fence = guard.fence().get().to_string();
    let locks = notebook.spans("tenure.lock");
    assert_eq!(locks.len(), 2);
    let mut expected = fields([("tenure.lock.outcome", "acquired"), ("tenure.lock.wait", "0.25")]);
    expected.extend(fields([("tenure.lock.name", "invoice-42"), ("tenure.lock.fence", &fence)]));
    expected.extend(fields([("tenure.lock.kind", "exclusive"), ("tenure.store", "memory"), ("otel.kind", "client")]));
    assert_eq!(locks[1], expected);
    assert!(notebook.has_closed("tenure.lock") && !notebook.has_closed("tenure.hold"));
    sleep(ms(30)).await;
    guard.release().await.unwrap();
    let releases = notebook.spans("tenure.release");
    assert_eq!(releases.len(), 2);
    let mut expected = fields([("tenure.lock.held", "0.03"), ("otel.kind", "client")]);
    expected.extend(fields([("tenure.lock.name", "invoice-42"), ("tenure.lock.fence", &fence)]));
    assert_eq!(releases[1], expected);
    assert!(notebook.has_closed("tenure.hold"));
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_failed_has_a_span_without_a_fence() {
    let (notebook, _open) = Notebook::open();
    let (ours, theirs, _store) = two_clients();
    let _busy = theirs.mutex("a").build().unwrap().try_lock().await.unwrap().unwrap();
    ours.mutex("a").build().unwrap().lock().timeout(ms(100)).await.unwrap_err();
    let spans = notebook.spans("tenure.lock");
    let [theirs, ours] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((theirs["tenure.lock.outcome"].as_str(), theirs.contains_key("error.type")), ("acquired", false));
    assert_eq!(ours["tenure.lock.outcome"], "timeout");
    assert_eq!((ours["error.type"].as_str(), ours["otel.status_code"].as_str()), ("timeout", "ERROR"));
    assert!(!ours.contains_key("tenure.lock.fence"), "{ours:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_is_lost_ends_its_span_with_how_it_was_lost() {
    let (notebook, _open) = Notebook::open();
    let (locks, store) = client();
    let guard = locks.mutex("a").ttl(ms(300)).build().unwrap().lock().await.unwrap();
    store.fault(Fault::Refuse);
    guard.lost().await;
    run_ready().await;
    assert!(notebook.has_closed("tenure.hold"), "however long its guard lives");
    let hold = notebook.spans("tenure.hold").remove(0);
    assert_eq!((hold["tenure.lock.loss"].as_str(), hold["error.type"].as_str()), ("expired", "expired"));
    assert_eq!(hold["otel.status_code"], "ERROR");
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_is_handed_on_ends_its_span_and_the_next_has_its_own() {
    let (notebook, _open) = Notebook::open();
    let (locks, _store) = client();
    let lock = locks.mutex("a").build().unwrap();
    let guard = lock.lock().await.unwrap();
    let next = tokio::spawn(lock.lock().into_future());
    run_ready().await;
    sleep(ms(10)).await;
    guard.release().await.unwrap();
    let guard = next.await.unwrap().unwrap();
    assert_eq!(locks.metrics().handed_on, 1);
    let holds: Vec<_> = notebook.all().into_iter().filter(|told| told.name == "tenure.hold").collect();
    assert_eq!(holds.iter().map(|hold| hold.closed).collect::<Vec<_>>(), [true, false]);
    assert_ne!(holds[0].fields["tenure.lock.fence"], holds[1].fields["tenure.lock.fence"]);
    guard.release().await.unwrap();
    assert!(notebook.all().iter().all(|told| told.closed || !told.is_span), "nothing is left open");
}

#[tokio::test(start_paused = true)]
async fn renewals_and_releases_in_the_background_are_a_span_for_each_request() {
    let (notebook, _open) = Notebook::open();
    let (locks, _store) = client();
    let mut guards = Vec::new();
    for n in 0..7 {
        guards.push(locks.mutex(n.to_string()).ttl(ms(3_000)).build().unwrap().lock().await.unwrap());
    }
    sleep(ms(1_500)).await;
    assert_eq!(notebook.spans("tenure.renew"), [fields([("tenure.batch", "7"), ("otel.kind", "client")])]);
    drop(guards);
    run_ready().await;
    assert_eq!(notebook.spans("tenure.release"), [fields([("tenure.batch", "7"), ("otel.kind", "client")])]);
}

#[tokio::test(start_paused = true)]
async fn transactions_and_sagas_have_a_span_from_the_call_to_how_they_ended() {
    use tenure::transaction::coordinator::Coordinator;
    use tenure::transaction::journal::{Memory, Presumed};
    use tenure::transaction::{Failure, Saga};

    let (notebook, _open) = Notebook::open();
    let (locks, _store) = client();
    let guard = locks.mutex("a").build().unwrap().lock().await.unwrap();
    let stuck = |_| async { Err::<(), _>(Failure::fatal("no")) };
    let saga = Saga::builder("order").step("pay", stuck, stuck).build((), Arc::new(Memory::new())).unwrap();
    let _ = saga.run("42", &"a lamp", &guard).await.unwrap();
    let fence = guard.fence().get().to_string();
    let of = [("tenure.lock.name", "a"), ("tenure.lock.fence", &fence), ("otel.kind", "internal")];
    let mut expected = fields([("tenure.saga.name", "order"), ("tenure.saga.id", "42"), ("error.type", "stuck")]);
    expected.extend(fields([("tenure.tx.outcome", "stuck"), ("otel.status_code", "ERROR")]));
    expected.extend(fields(of));
    assert_eq!(notebook.spans("tenure.saga"), [expected]);

    let coordinator = Coordinator::new(Presumed(Memory::new())).participant(common::Willing).unwrap();
    let tx = coordinator.begin(&guard).work("willing", "");
    let id = tx.id().to_string();
    assert!(tx.commit().await.unwrap().is_committed());
    let mut expected = fields([("tenure.tx.id", &*id), ("tenure.tx.participants", "1")]);
    expected.extend(fields([("tenure.tx.outcome", "committed")]));
    expected.extend(fields(of));
    assert_eq!(notebook.spans("tenure.transaction"), [expected]);
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn a_fenced_commit_has_a_span_from_the_call_to_how_it_ended() {
    let (notebook, _open) = Notebook::open();
    let server = testkit::Redis::start();
    let locks = tenure::open(&server.url()).await.unwrap();
    let guard = locks.mutex("a").build().unwrap().lock().await.unwrap();
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.set("secret", "hush").expect_absent("none");
    let id = tx.id().to_string();
    tx.commit().await.committed().unwrap();
    let mut expected = fields([("tenure.tx.id", &*id), ("tenure.tx.locks", "1"), ("tenure.tx.steps", "2")]);
    expected.extend(fields([("tenure.tx.outcome", "committed"), ("otel.kind", "client")]));
    assert_eq!(notebook.spans("tenure.commit"), [expected]);
    let mut tx = guard.begin_transaction().begin().await.unwrap();
    tx.hset("secret", "a", "hush");
    assert!(!tx.commit().await.is_committed());
    let spans = notebook.spans("tenure.commit");
    assert_eq!((spans[1]["tenure.tx.outcome"].as_str(), spans[1]["error.type"].as_str()), ("rolled_back", "refused"));
    assert!(notebook.all().iter().all(|told| !told.fields.values().any(|value| value.contains("hush"))));
}

#[tokio::test(start_paused = true)]
async fn nothing_tells_a_secret_or_grows_without_bound() {
    let (notebook, _open) = Notebook::open();
    let (ours, theirs, _store) = two_clients();
    let name = "n".repeat(256);
    let build = |locks: &tenure::Locks| {
        let meta = "what only holders of the lock may read ".repeat(20);
        locks.mutex(name.as_str()).ttl(ms(3_000)).meta(meta).build().unwrap()
    };
    let guard = build(&ours).lock().await.unwrap();
    let waiting = tokio::spawn(build(&theirs).lock().into_future());
    let mut ids = vec![guard.id().to_string()];
    sleep(ms(5_000)).await;
    guard.release().await.unwrap();
    let guard = waiting.await.unwrap().unwrap();
    ids.push(guard.id().to_string());
    sleep(ms(5_000)).await;
    drop(guard);
    let lease = build(&ours).lease(ms(3_000)).await.unwrap();
    let ticket = lease.ticket().encode();
    lease.hand_over().await.unwrap().release().await.unwrap();
    run_ready().await;

    let told = notebook.all();
    let is_there = |name: &&str| told.iter().any(|told| told.is_span && told.name == *name);
    assert!(["tenure.lock", "tenure.hold", "tenure.renew", "tenure.release"].iter().all(is_there));
    // The ticket has its claim's id in it, whose digits are nowhere else.
    for line in told {
        for (field, value) in &line.fields {
            assert!(value.len() <= LONGEST || !line.is_span, "{} bytes in {field} of {}", value.len(), line.name);
            let told = |secret: &str| value.contains(secret);
            assert!(!ids.iter().any(|id| told(id)) && !told(&ticket), "{field} of {} tells {value}", line.name);
            assert!(!told("what only holders"), "{field} of {} tells {value}", line.name);
        }
    }
}
