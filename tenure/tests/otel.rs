//! The spans as OpenTelemetry has them: read back from its in-memory exporter, with their parents, links and attributes.
//!
//! Bugs that were planted and found: a hold in the span of its wait instead of its caller's; no link from a renewal to its
//! holds; work in a hold that was called from elsewhere.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

mod common;

use common::{client, ms, run_ready};
use opentelemetry::trace::{SpanKind, Status, TracerProvider};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::subscriber::DefaultGuard;
use tracing::{Instrument, info_span};
use tracing_subscriber::layer::SubscriberExt;

/// Everything on this thread goes to the exporter.
struct Collected {
    exporter: InMemorySpanExporter,
    provider: SdkTracerProvider,
    _on: DefaultGuard,
}

impl Collected {
    fn begin() -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let on = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        Self { exporter, provider, _on: on }
    }

    /// The spans of that name, in the order in which they ended.
    fn spans(&self, name: &str) -> Vec<SpanData> {
        self.provider.force_flush().expect("it is in memory");
        let all = self.exporter.get_finished_spans().expect("it is in memory");
        all.into_iter().filter(|span| span.name == name).collect()
    }

    fn span(&self, name: &str) -> SpanData {
        let mut spans = self.spans(name);
        assert_eq!(spans.len(), 1, "{name}: {spans:#?}");
        spans.remove(0)
    }
}

fn attribute<'a>(span: &'a SpanData, name: &str) -> &'a Value {
    let found = span.attributes.iter().find(|KeyValue { key, .. }| key.as_str() == name);
    &found.unwrap_or_else(|| panic!("no {name} in {span:#?}")).value
}

fn is_child(child: &SpanData, parent: &SpanData) -> bool {
    child.parent_span_id == parent.span_context.span_id()
        && child.span_context.trace_id() == parent.span_context.trace_id()
}

fn links_to(span: &SpanData, to: &SpanData) -> bool {
    span.links.iter().any(|link| link.span_context.span_id() == to.span_context.span_id())
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_within_its_callers_span_and_follows_from_its_wait() {
    let collected = Collected::begin();
    let (locks, _store) = client();
    let lock = locks.mutex("invoice-42").ttl(ms(3_000)).build().unwrap();
    let fence = async {
        let guard = lock.lock().await.unwrap();
        let work = async { sleep(ms(1_500)).instrument(info_span!("work")).await };
        guard.protect(work).await.unwrap();
        let fence = guard.fence().get();
        guard.release().await.unwrap();
        fence
    };
    let fence = fence.instrument(info_span!("request")).await;
    run_ready().await;

    let [request, wait, hold] = ["request", "tenure.lock", "tenure.hold"].map(|name| collected.span(name));
    let [work, release, renew] = ["work", "tenure.release", "tenure.renew"].map(|name| collected.span(name));
    assert!(is_child(&wait, &request) && is_child(&hold, &request));
    assert!(is_child(&work, &hold) && is_child(&release, &hold));
    assert!(links_to(&hold, &wait) && links_to(&renew, &hold));
    assert_eq!((&wait.span_kind, &hold.span_kind), (&SpanKind::Client, &SpanKind::Internal));
    assert_eq!(attribute(&hold, "tenure.lock.name"), &Value::from("invoice-42"));
    assert_eq!(attribute(&wait, "tenure.store"), &Value::from("memory"));
    for span in [&wait, &hold, &release] {
        assert_eq!(attribute(span, "tenure.lock.fence"), &Value::I64(fence as i64));
    }
    assert!(matches!(attribute(&release, "tenure.lock.held"), Value::F64(held) if (1.5..1.6).contains(held)));
    assert_eq!((&hold.status, &wait.status), (&Status::Unset, &Status::Unset));
    assert!(hold.events.iter().any(|event| event.name.contains("renewed")), "{:?}", hold.events);
}

#[tokio::test(start_paused = true)]
async fn work_that_is_called_from_elsewhere_stays_where_it_belongs() {
    let collected = Collected::begin();
    let (locks, _store) = client();
    let guard = locks.mutex("leader").build().unwrap().lock().instrumented(info_span!("start")).await;
    let work = guard.protect(async { info_span!("work").in_scope(|| ()) });
    work.instrument(info_span!("request")).await.unwrap();
    let given = async { info_span!("given").in_scope(|| ()) };
    given.instrument(guard.span()).instrument(info_span!("request")).await;
    drop(guard);
    run_ready().await;
    let requests = collected.spans("request");
    assert!(is_child(&collected.span("work"), &requests[0]));
    assert!(is_child(&collected.span("given"), &collected.span("tenure.hold")), "where it was asked for");
    assert!(is_child(&collected.span("tenure.hold"), &collected.span("start")));
    assert!(links_to(&collected.span("tenure.release"), &collected.span("tenure.hold")), "in the background");
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_times_out_is_an_error_and_one_that_found_it_busy_is_none() {
    let collected = Collected::begin();
    let (locks, _store) = client();
    let lock = locks.mutex("a").local_hand_off(false).build().unwrap();
    let guard = lock.lock().await.unwrap();
    assert!(lock.try_lock().await.unwrap().is_none());
    lock.lock().timeout(ms(50)).await.unwrap_err();
    drop(guard);
    run_ready().await;
    let spans = collected.spans("tenure.lock");
    let outcomes: Vec<_> = spans.iter().map(|span| attribute(span, "tenure.lock.outcome").as_str()).collect();
    assert_eq!(outcomes, ["acquired", "busy", "timeout"]);
    assert_eq!(spans[1].status, Status::Unset);
    assert!(matches!(spans[2].status, Status::Error { .. }));
    assert_eq!(attribute(&spans[2], "error.type"), &Value::from("timeout"));
}

/// A wait within a span.
trait Instrumented {
    async fn instrumented(self, span: tracing::Span) -> tenure::Guard;
}

impl Instrumented for tenure::Acquiring {
    async fn instrumented(self, span: tracing::Span) -> tenure::Guard {
        self.into_future().instrument(span).await.unwrap()
    }
}

#[path = "../examples/otlp.rs"]
#[allow(dead_code, unreachable_pub, reason = "its main is not called")]
mod otlp;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_sends_its_spans_to_a_collector() {
    let collector = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1/traces", collector.local_addr().unwrap());
    let collected = tokio::spawn(async move {
        let (mut stream, _) = collector.accept().await.unwrap();
        let mut request = Vec::new();
        let (head, body) = loop {
            stream.read_buf(&mut request).await.unwrap();
            if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if request.len() == end + 4 + length.unwrap().parse::<usize>().unwrap() {
                    break (head, request.split_off(end + 4));
                }
            }
        };
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        (head, String::from_utf8_lossy(&body).into_owned())
    });
    otlp::run(&endpoint).await.unwrap();
    let (head, body) = collected.await.unwrap();
    assert!(head.starts_with("post /v1/traces") && head.contains("application/x-protobuf"), "{head}");
    for expected in ["billing", "pay", "transfer", "tenure.lock", "tenure.hold", "tenure.release", "invoice-42"] {
        assert!(body.contains(expected), "{expected} in {body:?}");
    }
}
