//! A database refuses transactions under a token that is too old: on a real Postgres by both clients, and on SQLite.
//!
//! Bugs that were planted in the check's statement, one at a time, and found: no `WHERE`; `>` instead of `>=`; the
//! token is not stored with the update; the condition in a sub-select, which does not wait for the row; and in the code
//! around it: no check that there is a transaction; nothing that spoils the transaction after a refusal; `NONE` passes.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

#[path = "../common/mod.rs"]
mod common;
mod history;
mod postgres;
mod postgres_errors;
mod sqlite;
mod sqlx;

use tenure::transaction::sql::{FenceTable, POSTGRES_MIGRATION, SQLITE_MIGRATION};
use tenure::{Error, ErrorKind, Fence, Guard};

/// Two holds on one lock, one after the other, by clients that know nothing of each other. The first one is not
/// renewed, as if its process stood still; its guard is still there, as in the process when it goes on.
async fn a_late_and_a_present_hold() -> (Guard, Guard) {
    let env = tenure::env::Env::system();
    let store = common::Chaos::new(env.clone());
    let (one, other) = (common::another(&store, &env), common::another(&store, &env));
    let paused = one.mutex("account-7").ttl(common::ms(100)).watchdog(false).build().unwrap();
    let late = paused.lock().await.unwrap();
    let present = other.mutex("account-7").build().unwrap().lock().await.unwrap();
    (late, present)
}

fn kind<T>(result: Result<T, Error>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn a_table_is_named_by_words_alone() {
    for name in ["fences", "_f", "Billing.fences", "f1", &"n".repeat(63)] {
        FenceTable::named(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let words =
        ["", ".", "a.", ".a", "a.b.c", "1a", "a b", "a;b", "a\"b", "a'b", "a-b", "tänure", "a\0", &"n".repeat(64)];
    for name in words {
        let refused = FenceTable::named(name);
        assert_eq!(kind(refused), Some(ErrorKind::Invalid), "{name:?}");
    }
}

#[test]
fn the_migrations_are_those_of_the_default_table() {
    let table = FenceTable::default();
    assert_eq!(
        (table.postgres_migration(), table.sqlite_migration()),
        (POSTGRES_MIGRATION.into(), SQLITE_MIGRATION.into())
    );
    let named = FenceTable::named("app.fences").unwrap();
    for text in
        [named.postgres_migration(), named.sqlite_migration(), named.postgres_statement(), named.sqlite_statement()]
    {
        assert!(text.contains(r#""app"."fences""#) && !text.contains("tenure_fence"), "{text}");
    }
}

/// Tokens that are none, in the number of a database.
const NO_TOKENS: [(Fence, ErrorKind); 2] = [(Fence::NONE, ErrorKind::Lost), (Fence::new(1 << 63), ErrorKind::Invalid)];

/// Names that are none.
fn no_names() -> [String; 3] {
    [String::new(), "a\0b".to_owned(), "n".repeat(1_025)]
}
