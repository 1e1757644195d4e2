//! The check by rusqlite.

use ::rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::{FenceTable, stale, token};
use crate::error::{Error, ErrorKind, Result};
use crate::hold::Fence;

impl FenceTable {
    /// Accepts `fence` for `resource` unless a newer one was committed, as part of the transaction that the connection
    /// is in: give it the transaction, which ends without a commit when it is dropped. Begin it as `Immediate`.
    ///
    /// ```
    /// use rusqlite::{Connection, TransactionBehavior::Immediate};
    /// use tenure::Fence;
    /// use tenure::transaction::sql::{FenceTable, SQLITE_MIGRATION};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut database = Connection::open_in_memory()?;
    /// database.execute_batch(SQLITE_MIGRATION)?;
    /// database.execute_batch("CREATE TABLE account (id, balance); INSERT INTO account VALUES (7, 100)")?;
    ///
    /// let fence = Fence::new(8); // In earnest: `guard.fence()`.
    /// let tx = database.transaction_with_behavior(Immediate)?;
    /// FenceTable::default().check_rusqlite(&tx, "account-7", fence)?;
    /// tx.execute("UPDATE account SET balance = balance - 10 WHERE id = 7", [])?;
    /// tx.commit()?;
    ///
    /// let tx = database.transaction_with_behavior(Immediate)?;
    /// let late = FenceTable::default().check_rusqlite(&tx, "account-7", Fence::new(7));
    /// assert!(late.is_err_and(|error| error.is_lost()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::Lost`]: the token is older than one that was accepted, or is [`Fence::NONE`];
    /// * [`ErrorKind::Unavailable`]: another connection was writing for all of the `busy_timeout`, or wrote since this
    ///   transaction first read;
    /// * [`ErrorKind::Missing`]: the table is not there;
    /// * [`ErrorKind::Invalid`]: the connection is in no transaction, or the resource's name is empty, has a zero byte
    ///   or more than 1,024 bytes.
    ///
    /// After any of them the transaction must not be committed.
    pub fn check_rusqlite(&self, tx: &Connection, resource: &str, fence: Fence) -> Result<()> {
        let number = token(resource, fence)?;
        if tx.is_autocommit() {
            let message = "the connection is in no transaction, and the token was not checked: begin one, and give it";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let checked =
            tx.prepare_cached(&self.sqlite_statement()).and_then(|mut s| s.execute(params![resource, number]));
        if checked.map_err(|error| self.explain_sqlite(error))? == 1 {
            return Ok(());
        }
        let newest = format!("SELECT fence FROM {} WHERE resource = ?1", self.quoted);
        let newest = tx.query_row(&newest, [resource], |row| row.get(0)).optional();
        Err(stale(resource, fence, newest.ok().flatten()))
    }

    fn explain_sqlite(&self, error: ::rusqlite::Error) -> Error {
        use ErrorCode::{DatabaseBusy, DatabaseLocked, PermissionDenied, ReadOnly};
        let table = &self.quoted;
        let (kind, message) = match error.sqlite_error_code() {
            Some(DatabaseBusy | DatabaseLocked) => (
                ErrorKind::Unavailable,
                format!(
                    "another transaction is writing, or wrote since this one first read ({error}): roll back and run the \
                     whole transaction again, begun as immediate and with a busy_timeout"
                ),
            ),
            Some(ReadOnly | PermissionDenied) => (ErrorKind::Denied, format!("{table} cannot be written: {error}")),
            _ if error.to_string().contains("no such table") => (
                ErrorKind::Missing,
                format!("there is no table {table}: run tenure::transaction::sql::SQLITE_MIGRATION, or name the table"),
            ),
            Some(ErrorCode::Unknown) | None => {
                (ErrorKind::Foreign, format!("{table} is not the table that SQLITE_MIGRATION makes: {error}"))
            }
            Some(_) => (ErrorKind::Unavailable, format!("the token could not be checked: {error}")),
        };
        Error::with_source(kind, message, error)
    }
}
