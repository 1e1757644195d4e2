//! A nightly job on many machines: one of them runs it, and if that one dies, another does.

use std::sync::Arc;
use std::time::Duration;

use tenure::store::Store;
use tenure::{Lock, Locks, Result};

use crate::resource::Row;

/// What the database knows of the job: the last night for which it was done, and how many reports were written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    done_for: u32,
    written: u32,
}

/// Called on every machine at about the same time. Says whether this one did the job.
pub(crate) async fn run_tonight(lock: &Lock, report: &Row<Report>, night: u32, work: Duration) -> Result<bool> {
    // Waiting, rather than trying: should the one that is at it die, the next one takes over.
    let guard = lock.lock().await?;
    if report.get().done_for >= night {
        guard.release().await?;
        return Ok(false);
    }
    guard.protect(tokio::time::sleep(work)).await?;
    // The mark is written with the result and under the fence, so the two are never apart.
    report.update(guard.fence(), |report| *report = Report { done_for: night, written: report.written + 1 })?;
    guard.release().await?;
    Ok(true)
}

/// Two machines on three nights; in the second one, the first machine dies at work.
pub(crate) async fn show(store: &Arc<dyn Store>) -> Result<()> {
    let report = Arc::new(Row::new(Report::default()));
    for night in 1..=3 {
        let machine = |work| {
            let (store, report) = (store.clone(), report.clone());
            async move {
                let locks = Locks::builder(store).ttl(Duration::from_secs(1)).build()?;
                run_tonight(&locks.mutex("nightly-report").build()?, &report, night, work).await
            }
        };
        let quick = Duration::from_millis(50);
        let ran = if night == 2 {
            let first = tokio::time::timeout(Duration::from_millis(200), machine(Duration::from_secs(60)));
            let (first, second) = tokio::join!(first, machine(quick));
            [first.unwrap_or(Ok(false))?, second?]
        } else {
            let (first, second) = tokio::join!(machine(quick), machine(quick));
            [first?, second?]
        };
        println!("night {night}: {ran:?}");
        assert_eq!(ran.iter().filter(|ran| **ran).count(), 1, "one of them did it");
        assert_eq!(report.get().written, night, "and did it once");
    }
    Ok(())
}
