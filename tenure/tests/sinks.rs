//! Event sinks: they are told everything in order, and whatever they do, locking goes on.
//!
//! Bugs that were planted and found: a panic that ends the thread; no bound on what waits; a drop that is not counted; a
//! close that does not wait; a thread that outlives its client.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tenure::sink::{Channel, Log};
use tenure::store::Memory;
use tenure::{Event, Locks, Sink, What};
use tracing::field::{Field, Visit};

fn with_sink(sink: impl Sink) -> Locks {
    Locks::builder(Arc::new(Memory::new())).sink(sink).build().unwrap()
}

async fn take_and_release(locks: &Locks, name: &str) {
    locks.mutex(name).build().unwrap().lock().await.unwrap().release().await.unwrap();
}

/// A sink that stands still until it is let go.
struct Stuck {
    reached: Sender<()>,
    go: Mutex<Receiver<()>>,
}

impl Sink for Stuck {
    fn event(&self, _event: &Event) {
        let _ = self.reached.send(());
        // Let go for good when the other end is dropped.
        let _ = self.go.lock().unwrap().recv();
    }
}

#[tokio::test]
async fn a_sink_is_told_everything_in_order() {
    let (channel, events) = Channel::bounded(1_000);
    let locks = with_sink(channel);
    for n in 0..100 {
        take_and_release(&locks, &format!("{n}")).await;
    }
    locks.close().await;
    let told = std::iter::from_fn(|| events.try_next());
    let told: Vec<_> = told.map(|event| (event.name.as_str().to_owned(), event.what.name())).collect();
    let expected = (0..100).flat_map(|n| ["acquired", "released"].map(|what| (n.to_string(), what)));
    assert_eq!(told, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_sink_that_stands_still_holds_nobody_up_and_what_it_misses_is_counted() {
    let ((reached, is_stuck), (go, gone)) = (channel(), channel());
    let locks = with_sink(Stuck { reached, go: Mutex::new(gone) });
    take_and_release(&locks, "first").await;
    is_stuck.recv_timeout(Duration::from_secs(10)).expect("it is told");
    for _ in 0..10_000 {
        take_and_release(&locks, "a").await;
    }
    assert_eq!(locks.metrics().acquired, 10_001);
    let dropped = locks.metrics().events_dropped;
    // One or two were taken by the sink before the queue filled up.
    assert!((3_600..=3_620).contains(&dropped), "{dropped} of 20,002 events for which there is room for 16,384");
    drop(go);
}

#[tokio::test]
async fn a_full_channel_drops_and_counts() {
    let (channel, events) = Channel::bounded(3);
    let locks = with_sink(channel);
    for _ in 0..5 {
        take_and_release(&locks, "a").await;
    }
    locks.close().await;
    assert_eq!(events.dropped(), 7);
    assert_eq!(std::iter::from_fn(|| events.try_next()).count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_ends_with_its_client_and_so_does_the_thread() {
    let (channel, events) = Channel::bounded(100);
    let locks = with_sink(channel);
    drop(locks.mutex("a").build().unwrap().lock().await.unwrap());
    drop(locks);
    let names: Vec<_> = events.map(|event| event.what.name()).collect();
    assert_eq!(names, ["acquired", "released"], "what was still to be done is told, and then no more");
}

#[tokio::test]
async fn a_sink_that_panics_is_told_the_next_event_and_so_are_the_others() {
    std::panic::set_hook(Box::new(|_| {}));
    let (calls, count) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (theirs, others) = (calls.clone(), count.clone());
    let panics = move |_: &Event| {
        theirs.fetch_add(1, SeqCst);
        panic!("the test wants it");
    };
    let counts = move |_: &Event| _ = others.fetch_add(1, SeqCst);
    let locks = Locks::builder(Arc::new(Memory::new())).sink(panics).sink(counts).build().unwrap();
    for _ in 0..10 {
        take_and_release(&locks, "a").await;
    }
    locks.close().await;
    assert_eq!((calls.load(SeqCst), count.load(SeqCst)), (20, 20));
}

#[tokio::test]
async fn closing_waits_for_the_sinks_but_not_for_ever() {
    let told = Arc::new(AtomicUsize::new(0));
    let counts = {
        let told = told.clone();
        move |_: &Event| _ = told.fetch_add(1, SeqCst)
    };
    let locks = with_sink(counts);
    take_and_release(&locks, "a").await;
    locks.close().await;
    assert_eq!(told.load(SeqCst), 2);

    let ((reached, _is_stuck), (go, gone)) = (channel(), channel());
    let locks = with_sink(Stuck { reached, go: Mutex::new(gone) });
    take_and_release(&locks, "a").await;
    let begun = Instant::now();
    locks.close().await;
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    drop(go);
}

#[tokio::test]
async fn the_log_sink_tells_the_parts_of_an_event() {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);
    impl Visit for Lines {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            self.0.lock().unwrap().push(format!("{field}={value:?}"));
        }
    }
    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
        fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            if event.metadata().target() == "tenure::event" {
                event.record(&mut self.clone());
            }
        }
    }
    use tracing_subscriber::layer::SubscriberExt;
    let (lines, told) = (Lines::default(), Channel::bounded(10));
    // The sink's thread is another one than this, so it brings its subscriber with it.
    let subscriber = tracing::Dispatch::new(tracing_subscriber::registry().with(lines.clone()));
    let log = move |event: &Event| tracing::dispatcher::with_default(&subscriber, || Log.event(event));
    let locks = Locks::builder(Arc::new(Memory::new())).sink(log).sink(told.0).build().unwrap();
    take_and_release(&locks, "a").await;
    locks.close().await;
    let fence = match told.1.try_next().expect("it was told").what {
        What::Acquired { fence, .. } => fence.get(),
        other => panic!("{other:?}"),
    };
    let lines = lines.0.lock().unwrap();
    for expected in
        ["event=\"acquired\"", "name=\"a\"", &format!("fence={fence}"), "event=\"released\"", "was_ours=true"]
    {
        assert!(lines.iter().any(|line| line == expected), "{expected} in {lines:?}");
    }
}
