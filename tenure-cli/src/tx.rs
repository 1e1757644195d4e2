//! `tenure tx`: transactions and sagas as their journal has them, and settling what was left undone.

use std::collections::BTreeMap;
use std::io::stdout;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use tenure::transaction::coordinator::{Outcome, Party, Recovered};
use tenure::transaction::journal::{Journal, PostgresJournal, open_durable, open_journal};
use tenure::transaction::participant::{PostgresParticipant, RedisParticipant};
use tenure::transaction::{Coordinator, TransactionId, sql};

use crate::duration;
use crate::exit::{Failure, Result, STORE};
use crate::out::{print, say};
use crate::text::{Paint, json, printable};

mod shown;

use shown::{Shown, list, read};

#[derive(Debug, Args)]
pub(crate) struct Tx {
    /// Where transactions are written down: `postgres://…`, `redis://…` or `sqlite:PATH` [env: TENURE_JOURNAL]
    #[arg(long, global = true, value_name = "URL")]
    journal: Option<String>,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List what is not done yet, and what went another way than was decided
    Ls {
        /// What is done, too
        #[arg(short, long)]
        all: bool,
    },
    /// Show all there is to know about a transaction or a saga
    Show {
        /// Its id; of a saga, `saga:NAME/ID`
        id: String,
    },
    /// Settle transactions that were left undone: roll back what is undecided, finish what is decided
    Recover {
        /// That one alone, however old it is
        id: Option<TransactionId>,
        /// Only what was begun longer ago than this: a younger one may still be going on
        #[arg(long, value_name = "DUR", default_value = "1m", value_parser = duration::parse)]
        older: Duration,
        /// Where a participant is, with its password; more than once for more
        #[arg(long, value_name = "NAME=URL")]
        participant: Vec<String>,
        /// Where a participant was when it took part, as `show` tells it, if it is elsewhere now; more than once for more
        #[arg(long, value_name = "NAME=URL")]
        moved: Vec<String>,
    },
    /// Remove the record of a transaction that is done: one with heuristics that somebody has looked at
    Forget {
        /// Its id
        id: TransactionId,
    },
    /// Print the SQL that makes the tables: of fences, of a journal, of a participant
    Migration {
        /// For which database
        #[arg(long)]
        dialect: Dialect,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Dialect {
    Postgres,
    Sqlite,
}

/// Carries out what was asked for, and gives the exit code.
pub(crate) async fn tx(tx: Tx, as_json: bool) -> Result<u8> {
    let url = || journal_url(tx.journal.as_deref());
    match tx.action {
        Action::Migration { dialect } => {
            let tables = match dialect {
                Dialect::Postgres => {
                    let (fence, journal) = (sql::POSTGRES_MIGRATION, PostgresJournal::MIGRATION);
                    format!("{fence}\n{journal}\n{}", PostgresParticipant::MIGRATION)
                }
                Dialect::Sqlite => sql::SQLITE_MIGRATION.to_owned(),
            };
            print(&tables)?;
        }
        Action::Ls { all } => {
            let journal = open_journal(&url()?).await?;
            let mut shown = read(&journal.list().await?);
            shown.retain(|one| all || one.is_open());
            match (as_json, shown.is_empty()) {
                (true, _) => print(&json(&shown))?,
                (false, true) => say(&format!("tenure: nothing is undone in {}", printable(&journal.location()))),
                (false, false) => print(&list(&shown, Paint::on(&stdout())))?,
            }
        }
        Action::Show { id } => {
            let journal = open_journal(&url()?).await?;
            let entry = journal.load(&id).await?;
            let Some(one) = entry.and_then(|entry| read(&[entry]).pop()) else {
                let message = format!("{} has nothing of {}", journal.location(), printable(&id));
                return Err(Failure::usage(message));
            };
            print(&if as_json { json(&one) } else { one.details(Paint::on(&stdout())) })?;
        }
        Action::Recover { id, older, participant, moved } => {
            let coordinator = Coordinator::new(open_durable(&url()?).await?);
            let mut coordinator = with_participants(coordinator, id, &participant).await?;
            for text in &moved {
                let (name, from) = pair(text, "--moved")?;
                coordinator = coordinator.moved(name, from);
            }
            return recover(&coordinator, id, older, as_json).await;
        }
        Action::Forget { id } => Coordinator::new(open_durable(&url()?).await?).remove(id).await?,
    }
    Ok(0)
}

/// A participant's name and a URL.
fn pair<'a>(text: &'a str, option: &str) -> Result<(&'a str, &'a str)> {
    text.split_once('=').ok_or_else(|| Failure::usage(format!("{option} wants NAME=URL")))
}

fn journal_url(given: Option<&str>) -> Result<String> {
    let variable = std::env::var("TENURE_JOURNAL").ok().filter(|url| !url.is_empty());
    given.map(str::to_owned).or(variable).ok_or_else(|| {
        Failure::usage(
            "a transaction is in a journal: name it by --journal URL, or TENURE_JOURNAL; `--help` has the forms",
        )
    })
}

async fn recover(coordinator: &Coordinator, id: Option<TransactionId>, older: Duration, as_json: bool) -> Result<u8> {
    let recovered = match id {
        Some(id) => {
            let mut recovered = Recovered::default();
            recovered.outcomes.push(coordinator.resolve(id).await?);
            recovered
        }
        None => coordinator.recover_older(older).await?,
    };
    let lines: Vec<Shown> = recovered.outcomes.iter().map(Shown::of_outcome).collect();
    match as_json {
        true => print(&json(&lines))?,
        false if lines.is_empty() && recovered.is_complete() => say("tenure: there is nothing to settle"),
        false if lines.is_empty() => {}
        false => print(&list(&lines, Paint::on(&stdout())))?,
    }
    for outcome in &recovered.outcomes {
        let (Outcome::Committed { id, pending, .. } | Outcome::RolledBack { id, pending, .. }) = outcome else {
            continue;
        };
        for pending in pending {
            let (name, error) = (printable(&pending.participant), printable(&pending.error.to_string()));
            say(&format!("tenure: {id} is decided, and {name} does not know it yet: {error}"));
        }
    }
    for (name, branch) in &recovered.orphans {
        let (name, id, lock) = (printable(name), branch.id, printable(&branch.lock));
        say(&format!(
            "tenure: {name} has {id} of {lock} staged, and this journal has no record of it: is there another one?"
        ));
    }
    for away in &recovered.away {
        say(&format!("tenure: {} was not asked: {}", printable(&away.participant), printable(&away.error.to_string())));
    }
    for (id, error) in &recovered.unreadable {
        let (id, error) = (printable(id), printable(&error.to_string()));
        say(&format!("tenure: {id} cannot be read and is left as it is: {error}"));
    }
    Ok(if recovered.is_complete() { 0 } else { STORE })
}

/// Adds the participants that records name, or that transaction's, and that can be reached from here.
async fn with_participants(
    coordinator: Coordinator,
    id: Option<TransactionId>,
    given: &[String],
) -> Result<Coordinator> {
    let mut records = coordinator.list().await?;
    records.retain(|record| id.is_none_or(|id| record.branch.id == id));
    // What is done is asked for only where nothing else names a place.
    records.sort_by_key(|record| record.state.is_done());
    let (mut places, mut apart) = (BTreeMap::new(), BTreeMap::new());
    for record in records {
        for Party { name, location } in record.participants {
            let place = places.entry(name.clone()).or_insert_with(|| location.clone());
            if *place != location && !record.state.is_done() {
                apart.insert(name, (place.clone(), location));
            }
        }
    }
    for (name, place) in &mut places {
        let variable: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if let Ok(url) = std::env::var(format!("TENURE_PARTICIPANT_{}", variable.to_ascii_uppercase())) {
            *place = url;
            apart.remove(name);
        }
    }
    for text in given {
        let (name, url) = pair(text, "--participant")?;
        apart.remove(name);
        places.insert(name.to_owned(), url.to_owned());
    }
    for (name, (one, other)) in apart {
        places.remove(&name);
        let (name, one, other) = (printable(&name), printable(&one), printable(&other));
        say(&format!(
            "tenure: {name} is at {one} in one record and at {other} in another, so they may be two of one name: none is \
             asked; settle each transaction by `tenure tx recover ID`, or say by --participant which one to ask"
        ));
    }
    let mut coordinator = coordinator;
    for (name, place) in places {
        let added = match place.split(':').next().unwrap_or_default() {
            "redis" | "rediss" | "redis+unix" => match RedisParticipant::connect(&*name, &place).await {
                Ok(participant) => coordinator.clone().participant(participant),
                Err(error) => Err(error),
            },
            "postgres" | "postgresql" => match PostgresParticipant::connect(&*name, &place).await {
                Ok(participant) => coordinator.clone().participant(participant),
                Err(error) => Err(error),
            },
            // It is in the program that uses it.
            _ => continue,
        };
        match added {
            Ok(more) => coordinator = more,
            Err(error) => {
                say(&format!("tenure: {} is not reached: {}", printable(&name), printable(&error.to_string())))
            }
        }
    }
    Ok(coordinator)
}
