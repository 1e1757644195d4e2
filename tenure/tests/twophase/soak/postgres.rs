//! A transfer in the user's own SQL transaction, which begins with the check of its tokens: accounts on Postgres, locks on
//! Redis.

use tenure::transaction::sql::FenceTable;
use tokio_postgres::{Client, NoTls};

use super::redis::lock;
use super::{Book, Size, insist};
use crate::arena::{Bank, Transfer};

pub async fn work(bank: &Bank, book: &mut Book) {
    let locks = book.locks().await;
    let (mut client, connection) = tokio_postgres::connect(&bank.postgres, NoTls).await.unwrap();
    tokio::spawn(connection);
    loop {
        let transfers = book.next();
        if transfers.is_empty() {
            return;
        }
        for transfer in transfers {
            let both = [lock(&locks, bank, transfer.from), lock(&locks, bank, transfer.to)];
            let guards = insist(async || locks.lock_all(&both).await).await;
            book.disturb();
            book.size.stand_still();
            book.plan(&transfer, "-");
            let tokens: Vec<_> = guards.iter().map(|guard| (guard.name().to_owned(), guard.fence())).collect();
            let is_committed = transact(&mut client, bank, book.size, &tokens, &transfer).await;
            book.note(&transfer, if is_committed { "committed" } else { "rolled-back" });
            let _ = guards.release().await;
        }
    }
}

/// Whether it was: not where the tokens are too old, or there is not enough in the account.
async fn transact(
    client: &mut Client,
    bank: &Bank,
    size: Size,
    tokens: &[(String, tenure::Fence)],
    Transfer { entry, from, to, cents }: &Transfer,
) -> bool {
    let tx = client.transaction().await.unwrap();
    // In the order of their names, as the locks, so that no two wait for each other.
    for (name, fence) in tokens {
        match FenceTable::default().check_tokio_postgres(&tx, name, *fence).await {
            Ok(()) => {}
            Err(error) if error.is_lost() => return false,
            Err(error) => panic!("{error:?}"),
        }
    }
    let mut left = [0, 0];
    for (left, (n, by)) in left.iter_mut().zip([(from, -cents), (to, *cents)]) {
        let read = "SELECT cents FROM account WHERE bank = $1 AND n = $2";
        *left = tx.query_one(read, &[&bank.name, &(*n as i32)]).await.unwrap().get::<_, i64>(0) + by;
    }
    if left[0] < 0 {
        return false;
    }
    size.stand_still();
    // What was read is good for as long as the token is, so one may write what comes of it.
    for (n, left) in [from, to].into_iter().zip(left) {
        let write = "UPDATE account SET cents = $3 WHERE bank = $1 AND n = $2";
        tx.execute(write, &[&bank.name, &(*n as i32), &left]).await.unwrap();
    }
    tx.execute("INSERT INTO ledger VALUES ($1, $2)", &[&bank.name, entry]).await.unwrap();
    tx.commit().await.unwrap();
    true
}
