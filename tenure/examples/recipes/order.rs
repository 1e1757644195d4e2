//! A critical section for each order: what happens to one order happens one after the other, different orders do not
//! wait for each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use tenure::store::Store;
use tenure::{Locks, Result};

use crate::resource::Row;

/// An order, and how many sections of it are open at this moment.
#[derive(Debug)]
pub(crate) struct Order {
    items: Row<u32>,
    open: AtomicU32,
}

/// Adds an item to an order. Reading, thinking and writing are one section.
pub(crate) async fn add_item(locks: &Locks, orders: &BTreeMap<u32, Order>, number: u32) -> Result<()> {
    let lock = locks.mutex(format!("order-{number}")).ttl(Duration::from_secs(5)).build()?;
    let guard = lock.lock().timeout(Duration::from_secs(30)).await?;
    let order = &orders[&number];
    let items = order.items.get();
    guard.protect(think(order)).await?;
    order.items.update(guard.fence(), |row| *row = items + 1)?;
    guard.release().await?;
    Ok(())
}

async fn think(order: &Order) {
    assert_eq!(order.open.fetch_add(1, SeqCst), 0, "what happens to one order happens one after the other");
    tokio::time::sleep(Duration::from_millis(10)).await;
    order.open.fetch_sub(1, SeqCst);
}

/// Two machines add ten items each to each of ten orders, all at once.
pub(crate) async fn show(store: &Arc<dyn Store>) -> Result<()> {
    let order = |number| (number, Order { items: Row::new(0), open: AtomicU32::new(0) });
    let orders: BTreeMap<u32, Order> = (0..10).map(order).collect();
    let machines = [Locks::builder(store.clone()).build()?, Locks::builder(store.clone()).build()?];
    let each = (0..10).flat_map(|number| machines.iter().map(move |locks| (locks, number)));
    let all = each.flat_map(|each| std::iter::repeat_n(each, 10));
    let adding = futures_util::future::join_all(all.map(|(locks, number)| add_item(locks, &orders, number)));
    let most = AtomicU32::new(0);
    let looking = async {
        loop {
            most.fetch_max(orders.values().map(|order| order.open.load(SeqCst)).sum(), SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let added = tokio::select! {
        added = adding => added,
        () = looking => unreachable!("it looks for as long as it may"),
    };
    added.into_iter().collect::<Result<()>>()?;
    let most = most.into_inner();
    println!("200 items, at most {most} orders at once");
    assert!(orders.values().all(|order| order.items.get() == 20), "no item got lost");
    assert!(most > 1, "orders do not wait for each other");
    Ok(())
}
