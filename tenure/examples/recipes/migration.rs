//! A rolling deployment with a migration: every instance that starts brings the schema up to date first, one of them
//! at a time, and those that serve are never served another schema than they know.

use std::sync::Arc;
use std::time::Duration;

use tenure::store::Store;
use tenure::{ErrorKind, Guard, Locks, Result};

use crate::resource::Row;

/// The migrations, in order. Each is one transaction with its entry in the schema's table, or can be repeated.
const MIGRATIONS: [&str; 3] = ["create orders", "add orders.state", "index orders.state"];

/// Called by each instance as it starts. Afterwards it shares the schema, and keeps it from changing while it serves.
pub(crate) async fn start(locks: &Locks, schema: &Row<Vec<&'static str>>, known: usize) -> Result<Guard> {
    let (read, write) = (locks.read("schema").build()?, locks.write("schema").build()?);
    if schema.get().len() < known {
        // Waits until those that serve with the old schema have gone.
        let guard = write.lock().await?;
        // Somebody else may have done it while this one waited, or died in the middle of it.
        for migration in &MIGRATIONS[..known] {
            if !schema.get().contains(migration) {
                guard.protect(tokio::time::sleep(Duration::from_millis(20))).await?;
                schema.update(guard.fence(), |applied| applied.push(migration))?;
            }
        }
        guard.release().await?;
    }
    read.lock().await
}

/// Five instances of the new version start at once, while two of the old one serve.
pub(crate) async fn show(store: &Arc<dyn Store>) -> Result<()> {
    let schema = Row::new(vec![]);
    let client = || Locks::builder(store.clone()).ttl(Duration::from_secs(2)).build();
    let old = [client()?, client()?];
    let serving = [start(&old[0], &schema, 1).await?, start(&old[1], &schema, 1).await?];
    assert_eq!(schema.get(), MIGRATIONS[..1]);

    // One that just tries sees that the old ones still serve.
    let impatient = client()?.write("schema").build()?.lock().timeout(Duration::from_millis(50)).await;
    assert_eq!(impatient.unwrap_err().kind(), ErrorKind::Timeout);
    let new = [client()?, client()?, client()?, client()?, client()?];
    let starting = futures_util::future::join_all(new.iter().map(|locks| start(locks, &schema, MIGRATIONS.len())));
    let drain = async {
        for guard in serving {
            assert_eq!(schema.get(), MIGRATIONS[..1], "nothing changes while an old one serves");
            tokio::time::sleep(Duration::from_millis(100)).await;
            guard.release().await?;
        }
        Ok(())
    };
    let (started, drained): (_, Result<()>) = tokio::join!(starting, drain);
    drained?;
    let started = started.into_iter().collect::<Result<Vec<Guard>>>()?;
    println!("{} instances serve with {:?}", started.len(), schema.get());
    assert_eq!(schema.get(), MIGRATIONS, "each was applied once, in order");
    assert!(started.iter().all(Guard::is_held), "and now they serve side by side");
    for guard in started {
        guard.release().await?;
    }
    Ok(())
}
