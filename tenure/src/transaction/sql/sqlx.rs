//! The check by sqlx, on Postgres.

use sqlx_core::connection::Connection;
use sqlx_core::error::Error as Failure;
use sqlx_core::executor::Executor;
use sqlx_core::query::query;
use sqlx_core::row::Row;
use sqlx_postgres::{PgConnection, Postgres};

use super::postgres::POISON;
use super::{FenceTable, stale, token};
use crate::error::{Error, ErrorKind, Result};
use crate::hold::Fence;

impl FenceTable {
    /// Accepts `fence` for `resource` unless a newer one was committed, as part of the transaction. It is one
    /// statement, which waits while another transaction under the same resource is open.
    ///
    /// ```no_run
    /// # mod sqlx { pub use {sqlx_core::connection::Connection, sqlx_core::query::query, sqlx_postgres::PgConnection}; }
    /// use sqlx::{Connection, PgConnection};
    /// use tenure::transaction::sql::FenceTable;
    ///
    /// # async fn example(mut connection: PgConnection, fence: tenure::Fence) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = connection.begin().await?;
    /// FenceTable::default().check_sqlx(&mut tx, "account-7", fence).await?;
    /// sqlx::query("UPDATE account SET balance = balance - 10 WHERE id = 7").execute(&mut *tx).await?;
    /// tx.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::Lost`]: the token is older than one that was accepted, or is [`Fence::NONE`]. In the first case
    ///   the transaction is in Postgres' failed state, and a commit of it commits nothing;
    /// * [`ErrorKind::Unavailable`]: the database wants the transaction to be run again, as with SQLSTATE 40001, or
    ///   could not be asked;
    /// * [`ErrorKind::Missing`]: the table is not there;
    /// * [`ErrorKind::Denied`]: the user may not write it, or the transaction is read-only;
    /// * [`ErrorKind::Invalid`]: the connection is in no transaction that sqlx knows of, the transaction had failed
    ///   before, or the resource's name is empty, has a zero byte or more than 1,024 bytes.
    ///
    /// After any of them the transaction must not be committed.
    ///
    /// # Cancel safety
    ///
    /// The check may have been made in the transaction. Drop that, too.
    pub async fn check_sqlx(&self, tx: &mut PgConnection, resource: &str, fence: Fence) -> Result<()> {
        let number = token(resource, fence)?;
        if !tx.is_in_transaction() {
            let message = "the connection is in no transaction, and the token was not checked: give `&mut tx` of one";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let explain = |error: Failure| {
            let state = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
            self.explain_postgres(state.as_deref(), error)
        };
        let statement = self.postgres_statement();
        // By the connection's own methods: with those of the query, the compiler does not see that this may be spawned.
        let checked = tx.execute(query::<Postgres>(&statement).bind(resource).bind(number)).await;
        if checked.map_err(explain)?.rows_affected() == 1 {
            return Ok(());
        }
        let newest = self.newest_statement();
        let newest = tx.fetch_optional(query::<Postgres>(&newest).bind(resource)).await;
        let newest = newest.ok().flatten().and_then(|row| row.try_get(0).ok());
        // It fails, as it is meant to.
        let _ = tx.execute(POISON).await;
        Err(stale(resource, fence, newest))
    }
}
