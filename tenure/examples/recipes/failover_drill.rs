//! A failover drill: the lock's store goes away while somebody is at work, and comes back. What the holder is told,
//! what becomes of its work, and that a write of its that comes late does no harm.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tenure::store::Store;
use tenure::{Fence, HoldState, Lock, Locks, Result};

use crate::resource::Row;

const TTL: Duration = Duration::from_secs(1);

/// Works until told to stop; each step adds one under the fence of its hold. Outages end a hold, not the worker.
pub(crate) async fn work(lock: &Lock, row: &Row<u32>, enough: u32, late: impl Fn(Fence)) -> Result<()> {
    while row.get() < enough {
        let guard = match lock.lock().timeout(Duration::from_secs(5)).await {
            Ok(guard) => guard,
            // The store is away. The lock asks again by itself; this is for the day on which that is not enough.
            Err(error) if error.is_timeout() || error.is_transient() => {
                println!("waiting for the store: {error}");
                continue;
            }
            Err(error) => return Err(error),
        };
        let steps = async {
            while row.get() < enough {
                row.update(guard.fence(), |count| *count += 1)?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        match guard.protect(steps).await {
            Ok(done) => done?,
            Err(lost) => {
                println!("{lost}");
                late(guard.fence());
            }
        }
    }
    Ok(())
}

/// Two workers; `outage` takes the store away, and gives it back after more than a ttl.
pub(crate) async fn show(store: &Arc<dyn Store>, outage: impl AsyncFnOnce()) -> Result<()> {
    const ENOUGH: u32 = 200;
    let row = Row::new(0);
    let lost = std::sync::Mutex::new(Vec::new());
    let clients = [Locks::builder(store.clone()).ttl(TTL).build()?, Locks::builder(store.clone()).ttl(TTL).build()?];
    let locks = [clients[0].mutex("drill").build()?, clients[1].mutex("drill").build()?];
    let late = |fence| lost.lock().expect("nobody panics in here").push(fence);
    let drill = async {
        while row.get() < 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let start = Instant::now();
        outage().await;
        println!("the store was away for {:?}; {} steps were done by then", start.elapsed(), row.get());
    };
    let workers = futures_util::future::join_all(locks.iter().map(|lock| work(lock, &row, ENOUGH, late)));
    let (worked, ()) = tokio::join!(workers, drill);
    worked.into_iter().collect::<Result<()>>()?;
    assert_eq!(row.get(), ENOUGH, "no step got lost, and none was done twice");
    let after = locks[0].lock().await?;
    assert_eq!(after.state(), HoldState::Held);
    for fence in lost.into_inner().expect("nobody panics in here") {
        assert!(fence < after.fence(), "tokens rise across the outage");
        // The resource has heard of a later holder: what the earlier one sends now is refused.
        row.update(after.fence(), |_| ())?;
        assert!(row.update(fence, |count| *count += 1).is_err());
    }
    after.release().await?;
    Ok(())
}
