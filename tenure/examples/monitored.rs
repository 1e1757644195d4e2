//! A service whose locks Prometheus watches: the figures go through the `metrics` facade into an exporter of the program's
//! choice. Here it only renders them; `PrometheusBuilder::install` would also serve them at a port.
//!
//! `cargo run --example monitored --features metrics`

#![allow(clippy::disallowed_methods, reason = "a program has its tasks from tokio")]

use std::error::Error;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tenure::store::Memory;
use tenure::{Locks, Metrics};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("{}", scrape().await?);
    Ok(())
}

/// Works under some locks, and gives what Prometheus would read.
///
/// # Errors
///
/// When the exporter's configuration or a lock is refused.
pub async fn scrape() -> Result<String, Box<dyn Error>> {
    // Without buckets, this exporter makes summaries of histograms, which cannot be added up over processes.
    let seconds = Matcher::Suffix("_seconds".to_owned());
    let recorder = PrometheusBuilder::new().set_buckets_for_metric(seconds, Metrics::SECONDS)?.build_recorder();
    let exporter = recorder.handle();

    // A recorder that is installed for the whole program, before this, is found without being named.
    let locks = Locks::builder(Arc::new(Memory::new())).recorder(Arc::new(recorder)).metrics_by_name(10).build()?;
    work(&locks).await?;
    Ok(exporter.render())
}

async fn work(locks: &Locks) -> tenure::Result<()> {
    let nightly = locks.mutex("nightly-report").build()?;
    let guard = nightly.lock().await?;
    assert!(nightly.try_lock().await?.is_none(), "counted as busy");
    assert!(nightly.lock().timeout(Duration::from_millis(20)).await.is_err(), "counted as timed out");
    guard.refresh().await?;

    let lost = locks.mutex("lost").max_hold(Duration::from_millis(20)).build()?.lock().await?;
    lost.lost().await;

    let next = tokio::spawn(nightly.lock().into_future());
    tokio::task::yield_now().await;
    guard.release().await?;
    let _handed_on = next.await.expect("it does not panic")?;
    for n in 0..20 {
        locks.semaphore(format!("order-{n}"), 4).build()?.lock().await?.release().await?;
    }
    let _still_held = locks.read("catalogue").build()?.lock().await?;
    Ok(())
}
