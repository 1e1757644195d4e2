//! Work for a participant that runs SQL: statements with their parameters.

use serde::{Deserialize, Serialize};

/// What a Postgres participant has to do in a transaction: statements for each of its three steps, each of which is one
/// SQL transaction.
///
/// **Reserve rather than check**: what the commit needs is taken at `reserve`, and given back by `rollback`. A look whether
/// something is there says nothing about the moment of the commit. Money goes out of its account, and is in the staged
/// work until it is decided where it goes:
///
/// ```
/// use tenure::transaction::participant::{SqlWork, Statement};
///
/// let (account, cents) = (17_i64, 2_500_i64);
/// let take = "UPDATE accounts SET cents = cents - $1 WHERE id = $2 AND cents >= $1";
/// let give = "UPDATE accounts SET cents = cents + $1 WHERE id = $2";
/// let debit = SqlWork::new()
///     .reserve(Statement::new(take).param(cents).param(account).rows(1))
///     .rollback(Statement::new(give).param(cents).param(account).rows(1));
/// let credit = SqlWork::new().commit(Statement::new(give).param(cents).param(account).rows(1));
/// ```
///
/// The statements of `commit` are tried at prepare and undone, so that what can never work is refused there. What others do
/// in between can still make them fail; then the transaction stays committed and unsettled, and `tenure tx ls` shows it.
/// Statements must not begin or end transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub struct SqlWork {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) reserve: Vec<Statement>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) commit: Vec<Statement>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) rollback: Vec<Statement>,
}

/// A statement, its parameters, and how many rows it has to be about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub struct Statement {
    pub(super) sql: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) params: Vec<Param>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rows: Option<u64>,
}

/// A parameter. Whatever is text here is read by the database as what it stands for: a number, a date, JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Param {
    /// `NULL`.
    Null,
    /// Anything that has a text.
    Text(String),
    /// Bytes, for a `bytea`.
    Bytes(Vec<u8>),
}

impl SqlWork {
    /// Nothing to do.
    pub fn new() -> Self {
        Self::default()
    }

    /// To be done at prepare: it takes what the commit needs.
    pub fn reserve(mut self, statement: Statement) -> Self {
        self.reserve.push(statement);
        self
    }

    /// To be done at commit.
    pub fn commit(mut self, statement: Statement) -> Self {
        self.commit.push(statement);
        self
    }

    /// To be done where a prepared transaction is rolled back: it gives back what was reserved.
    pub fn rollback(mut self, statement: Statement) -> Self {
        self.rollback.push(statement);
        self
    }
}

impl Statement {
    /// An SQL statement, with `$1`, `$2`, … for its parameters.
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), params: Vec::new(), rows: None }
    }

    /// Its next parameter.
    pub fn param(mut self, value: impl Into<Param>) -> Self {
        self.params.push(value.into());
        self
    }

    /// How many rows it has to be about: where it is another number, the step fails.
    pub fn rows(mut self, count: u64) -> Self {
        self.rows = Some(count);
        self
    }
}

impl From<SqlWork> for Vec<u8> {
    fn from(work: SqlWork) -> Self {
        serde_json::to_vec(&work).expect("text and numbers can be written")
    }
}

macro_rules! text_params {
    ($($type:ty)*) => {$(
        impl From<$type> for Param {
            fn from(value: $type) -> Self {
                Self::Text(value.to_string())
            }
        }
    )*};
}

text_params!(i16 i32 i64 u16 u32 u64 f32 f64 bool &str String serde_json::Value);

impl From<Vec<u8>> for Param {
    fn from(value: Vec<u8>) -> Self {
        Self::Bytes(value)
    }
}

impl<T: Into<Param>> From<Option<T>> for Param {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
