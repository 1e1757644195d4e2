//! `tenure tx`: transactions and sagas as their journal has them, and settling what was left undone.

use std::collections::BTreeMap;
use std::io::stdout;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use tenure::transaction::coordinator::{Outcome, Recovered};
use tenure::transaction::journal::{Durable, Journal, PostgresJournal, open_durable, open_journal};
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
        Action::Recover { id, older, participant } => {
            return recover(open_durable(&url()?).await?, id, older, &participant, as_json).await;
        }
        Action::Forget { id } => Coordinator::new(open_durable(&url()?).await?).remove(id).await?,
    }
    Ok(0)
}

fn journal_url(given: Option<&str>) -> Result<String> {
    let variable = std::env::var("TENURE_JOURNAL").ok().filter(|url| !url.is_empty());
    given.map(str::to_owned).or(variable).ok_or_else(|| {
        Failure::usage(
            "a transaction is in a journal: name it by --journal URL, or TENURE_JOURNAL; `--help` has the forms",
        )
    })
}

async fn recover(
    journal: Arc<dyn Durable>,
    id: Option<TransactionId>,
    older: Duration,
    given: &[String],
    as_json: bool,
) -> Result<u8> {
    let coordinator = with_participants(Coordinator::new(journal), given).await?;
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
    Ok(if recovered.is_complete() { 0 } else { STORE })
}

/// Adds the participants that records name and that can be reached from here.
async fn with_participants(coordinator: Coordinator, given: &[String]) -> Result<Coordinator> {
    let mut places = BTreeMap::new();
    for record in coordinator.list().await? {
        places.extend(record.participants.into_iter().map(|party| (party.name, party.location)));
    }
    for (name, place) in &mut places {
        let variable: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if let Ok(url) = std::env::var(format!("TENURE_PARTICIPANT_{}", variable.to_ascii_uppercase())) {
            *place = url;
        }
    }
    for text in given {
        let pair = text.split_once('=').ok_or_else(|| Failure::usage("--participant wants NAME=URL"))?;
        places.insert(pair.0.to_owned(), pair.1.to_owned());
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
