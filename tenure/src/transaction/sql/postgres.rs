//! What the two clients of Postgres share: the statements around the check, and what its failures mean.

use super::FenceTable;
use crate::error::{Error, ErrorKind};

/// What is run after a check that was refused. It fails, and from then on the transaction can only be rolled back, also
/// by somebody who has not looked at the check's result.
pub(super) const POISON: &str = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'TF409', \
    MESSAGE = 'tenure: a fencing token was too old, so this transaction cannot be committed'; END $$";

impl FenceTable {
    pub(super) fn newest_statement(&self) -> String {
        format!("SELECT fence FROM {} WHERE resource = $1", self.quoted)
    }

    /// What a failure of the check means, by its SQLSTATE where the server has answered. Nothing has come of the check
    /// in any case, for nobody commits after it.
    pub(super) fn explain_postgres(
        &self,
        state: Option<&str>,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        let (table, said) = (&self.quoted, state.unwrap_or("no answer"));
        let again = "roll back and run the whole transaction again";
        let (kind, message) = match said {
            "40001" => (
                ErrorKind::Unavailable,
                format!("another transaction's token was accepted since this one began (SQLSTATE 40001): {again}"),
            ),
            "40P01" => (
                ErrorKind::Unavailable,
                format!("this transaction and another one waited for each other (SQLSTATE 40P01): {again}"),
            ),
            "55P03" | "57014" => (
                ErrorKind::Unavailable,
                format!(
                    "the wait for another transaction under the same resource was cut short (SQLSTATE {said}): {again}"
                ),
            ),
            "42P01" | "3F000" => (
                ErrorKind::Missing,
                format!(
                    "there is no table {table}: run tenure::transaction::sql::POSTGRES_MIGRATION, or name the table"
                ),
            ),
            "42703" | "42P10" | "42804" | "42809" => (
                ErrorKind::Foreign,
                format!("{table} is not the table that POSTGRES_MIGRATION makes (SQLSTATE {said})"),
            ),
            "42501" => (ErrorKind::Denied, format!("this user may not write {table}: grant it SELECT, INSERT, UPDATE")),
            "25006" => (
                ErrorKind::Denied,
                "the transaction is read-only, as all are on a replica: begin one that may write, at the primary"
                    .into(),
            ),
            "25P02" => (ErrorKind::Invalid, "the transaction had failed before, so the token was not checked".into()),
            _ => (ErrorKind::Unavailable, format!("the token could not be checked ({error}; {said}): {again}")),
        };
        Error::with_source(kind, message, error)
    }
}
