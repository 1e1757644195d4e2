//! The check by tokio-postgres.

use ::tokio_postgres::types::Type;
use ::tokio_postgres::{Error as Failure, Transaction};

use super::postgres::POISON;
use super::{FenceTable, stale, token};
use crate::error::Result;
use crate::hold::Fence;

impl FenceTable {
    /// Accepts `fence` for `resource` unless a newer one was committed, as part of the transaction. It is one statement
    /// and one round trip, which waits while another transaction under the same resource is open.
    ///
    /// ```no_run
    /// # use {tenure::Fence, tokio_postgres::Client};
    /// # async fn example(client: &mut Client, fence: Fence) -> Result<(), Box<dyn std::error::Error>> {
    /// use tenure::transaction::sql::FenceTable;
    ///
    /// let tx = client.transaction().await?;
    /// FenceTable::default().check_tokio_postgres(&tx, "account-7", fence).await?;
    /// tx.execute("UPDATE account SET balance = balance - 10 WHERE id = 7", &[]).await?;
    /// tx.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// * [`Lost`](crate::ErrorKind::Lost): the token is older than one that was accepted, or is [`Fence::NONE`]. In the
    ///   first case the transaction is in Postgres' failed state, and a commit of it commits nothing;
    /// * [`Unavailable`](crate::ErrorKind::Unavailable): the database wants the transaction to be run again, as with
    ///   SQLSTATE 40001, or could not be asked;
    /// * [`Missing`](crate::ErrorKind::Missing): the table is not there;
    /// * [`Denied`](crate::ErrorKind::Denied): the user may not write it, or the transaction is read-only;
    /// * [`Invalid`](crate::ErrorKind::Invalid): the transaction had failed before, or the resource's name is empty,
    ///   has a zero byte or more than 1,024 bytes.
    ///
    /// After any of them the transaction must not be committed.
    ///
    /// # Cancel safety
    ///
    /// The check may have been made in the transaction. Drop that, too.
    pub async fn check_tokio_postgres(&self, tx: &Transaction<'_>, resource: &str, fence: Fence) -> Result<()> {
        let number = token(resource, fence)?;
        let explain =
            |error: Failure| self.explain_postgres(error.code().map(|code| code.code().to_owned()).as_deref(), error);
        // The types are given, so that nothing is prepared in a round trip before.
        let parameters: [(&(dyn ::tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&resource, Type::TEXT), (&number, Type::INT8)];
        if tx.execute_typed(&self.postgres_statement(), &parameters).await.map_err(explain)? == 1 {
            return Ok(());
        }
        let newest = tx.query_typed(&self.newest_statement(), &[(&resource, Type::TEXT)]).await;
        let newest = newest.ok().and_then(|rows| rows.first()?.try_get(0).ok());
        // It fails, as it is meant to.
        let _ = tx.batch_execute(POISON).await;
        Err(stale(resource, fence, newest))
    }
}
