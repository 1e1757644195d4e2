//! A transfer in two phases, between accounts on Redis and on Postgres.

use std::time::Duration;

use tenure::transaction::coordinator::Outcome;

use super::{Book, GROUPS, insist};
use crate::arena::{Bank, Client};

pub async fn work(bank: &Bank, book: &mut Book) {
    let (client, locks) = (Client::open(bank, None).await, book.locks().await);
    loop {
        let transfers = book.next();
        let Some(first) = transfers.first() else { return };
        let lock = locks.mutex(format!("{}/{}", bank.name, first.from % GROUPS)).build().unwrap();
        let guard = insist(async || {
            let guard = lock.lock().await?;
            client.coordinator.recover(&guard).await?;
            Ok(guard)
        })
        .await;
        for transfer in transfers {
            let tx = client.put(client.coordinator.begin(&guard), &transfer);
            book.plan(&transfer, &tx.id().to_string());
            book.disturb();
            book.size.stand_still();
            let what = match tx.commit().await.unwrap() {
                Outcome::Committed { .. } => "committed",
                Outcome::RolledBack { .. } => "rolled-back",
                _ => "unknown",
            };
            book.note(&transfer, what);
        }
        let _ = guard.release().await;
    }
}

/// What the last of the killed have left is settled: everybody else has ended. Then nothing is staged.
pub async fn finish(bank: &Bank) {
    let client = Client::open(bank, None).await;
    let recovered = client.coordinator.recover_older(Duration::ZERO).await.unwrap();
    assert!(recovered.is_complete(), "{recovered:?}");
    assert_eq!(client.staged().await, 0, "something is staged");
    assert_eq!(client.undone().await, Vec::<String>::new());
}
