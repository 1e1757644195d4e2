//! Spans of locks, sent to an OpenTelemetry collector by OTLP over HTTP.
//!
//! `cargo run --example otlp -- http://127.0.0.1:4318/v1/traces`

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tenure::Locks;
use tenure::store::Memory;
use tokio::runtime::Handle;
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, info_span, instrument::WithSubscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:4318/v1/traces".to_owned());
    run(&endpoint).await
}

/// Works under a lock, and sends the spans of that to the collector.
///
/// # Errors
///
/// When the collector cannot be reached, or a lock cannot be had.
pub async fn run(endpoint: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let client = OnRuntime(Handle::current(), HyperClient::with_default_connector(Duration::from_secs(5), None).into());
    let exporter = SpanExporter::builder().with_http().with_http_client(client).with_endpoint(endpoint).build()?;
    let resource = Resource::builder().with_service_name("billing").build();
    let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();

    // The library's spans have the level DEBUG. Of all else, INFO will do.
    let levels = Targets::new().with_default(LevelFilter::INFO).with_target("tenure", LevelFilter::DEBUG);
    let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("billing")).with_filter(levels);
    // A program would make it the default for all, by `init`.
    let subscriber = tracing_subscriber::registry().with(spans);
    let paying = async { work().instrument(info_span!("pay")).await };
    paying.with_subscriber(subscriber).await?;

    // What is still in the batch is sent; that waits, so not on a thread that runs tasks.
    tokio::task::spawn_blocking(move || provider.shutdown()).await??;
    Ok(())
}

async fn work() -> tenure::Result<()> {
    let locks = Locks::new(Memory::new());
    let guard = locks.mutex("invoice-42").build()?.lock().await?;
    guard.protect(async {}.instrument(info_span!("transfer"))).await?;
    guard.release().await?;
    Ok(())
}

/// A client for the thread that sends batches, which is in no runtime.
#[derive(Debug)]
struct OnRuntime(Handle, Arc<HyperClient>);

#[async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.1.clone();
        self.0.spawn(async move { client.send_bytes(request).await }).await?
    }
}
