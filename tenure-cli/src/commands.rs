//! The subcommands, each in a few lines.

use std::io::{IsTerminal, Write, stderr, stdin, stdout};
use std::time::Duration;

use clap::CommandFactory;
use tenure::Locks;

use crate::args::{Cli, Command, How, Run, Try};
use crate::exit::{DECLINED, Failure, Result};
use crate::look::{HolderJson, LockJson, details, is_free, list, who};
use crate::out::{print, say};
use crate::report::{News, Report, by};
use crate::run::Job;
use crate::store::Choice;
use crate::text::{Paint, json, printable};
use crate::{doctor, exporter, quorum, run, tx, watch};

/// Carries out what was asked for, and gives the exit code.
pub(crate) async fn run(cli: Cli) -> Result<u8> {
    let as_json = cli.json;
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "tenure", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        return Ok(0);
    }
    if let Command::Tx(tx) = cli.command {
        return tx::tx(tx, as_json).await;
    }
    let store = Choice::of(cli.store.as_deref())?;
    match cli.command {
        Command::Run(Run { name, wait, no_wait, how, command }) => {
            let wait = if no_wait { Some(Duration::ZERO) } else { wait };
            return run::run(&store, Job { name, how, wait, command }, as_json).await;
        }
        Command::Try(Try { name, how, command }) if !command.is_empty() => {
            return run::run(&store, Job { name, how, wait: Some(Duration::ZERO), command }, as_json).await;
        }
        Command::Quorum(action) => {
            quorum::quorum(&store, action, as_json).await?;
            return Ok(0);
        }
        Command::Doctor { keys } => return doctor::doctor(&store, keys, as_json).await,
        Command::Exporter(options) => {
            exporter::run(&store, options, as_json).await?;
            return Ok(0);
        }
        Command::Watch { name, interval } => {
            watch::watch(&store, name.as_deref(), interval, as_json).await?;
            return Ok(0);
        }
        _ => {}
    }
    let quiet = as_json || matches!(&cli.command, Command::Try(Try { how, .. }) if how.quiet);
    let locks = look(&store, quiet).await?;
    match cli.command {
        Command::Try(Try { name, how, .. }) => return try_only(&locks, &name, &how, as_json).await,
        Command::Break { name, yes } => return break_lock(&locks, &name, yes, as_json).await,
        Command::Ls => {
            let infos = locks.list().await?;
            if as_json {
                print(&json(&infos.iter().map(LockJson::from).collect::<Vec<_>>()))?;
            } else if infos.is_empty() {
                say("tenure: nobody holds a lock or waits for one");
            } else {
                print(&list(&infos, Paint::on(&stdout())))?;
            }
        }
        Command::Show { name } => {
            let info = locks.info(&name).await?;
            print(&if as_json { json(&LockJson::from(&info)) } else { details(&info, Paint::on(&stdout())) })?;
        }
        Command::Run(_)
        | Command::Watch { .. }
        | Command::Doctor { .. }
        | Command::Exporter(_)
        | Command::Quorum(_)
        | Command::Tx(_)
        | Command::Completions { .. } => {
            unreachable!("done above")
        }
    }
    Ok(0)
}

/// Opens the store to look. In one that is not there yet nothing is held, as in an empty one.
async fn look(store: &Choice, quiet: bool) -> Result<Locks> {
    let missing = match store.look().await? {
        Ok(locks) => return Ok(locks),
        Err(missing) => missing,
    };
    if !quiet {
        say(&format!("tenure: {missing}"));
    }
    Ok(Locks::new(tenure::store::Memory::new()))
}

async fn try_only(locks: &Locks, name: &str, how: &How, as_json: bool) -> Result<u8> {
    let info = locks.info(name).await?;
    let is_free = is_free(&info, how)?;
    let (name, held_by) = (printable(name), info.holders.iter().map(who).collect());
    let news = if is_free { News::Free { name } } else { News::Busy { name, held_by } };
    match as_json && !how.quiet {
        true => print(&json(&news))?,
        false => Report::new(how, as_json).say(&news),
    }
    Ok(if is_free { 0 } else { how.busy_code })
}

async fn break_lock(locks: &Locks, name: &str, yes: bool, as_json: bool) -> Result<u8> {
    if !yes && !stdin().is_terminal() {
        return Err(Failure::usage("there is no terminal to ask at: give --yes to break it nevertheless"));
    }
    let info = locks.info(name).await?;
    let shown = printable(name);
    if !yes && !info.holders.is_empty() {
        let held_by: Vec<String> = info.holders.iter().map(who).collect();
        let _ = write!(stderr(), "Take {shown} away, held{}? [y/N] ", by(&held_by));
        let mut answer = String::new();
        let read = stdin().read_line(&mut answer);
        if read.is_err() || !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            say(&format!("tenure: {shown} is left as it is"));
            return Ok(DECLINED);
        }
    }
    let broken = locks.break_lock(name).await?;
    match (as_json, broken.as_slice()) {
        (true, _) => print(&json(&broken.iter().map(HolderJson::from).collect::<Vec<_>>()))?,
        (false, []) => say(&format!("tenure: nobody holds {shown}")),
        (false, _) => {
            let were: Vec<String> = broken.iter().map(who).collect();
            print(&format!("{shown} is no longer held{}", by(&were)))?;
        }
    }
    Ok(0)
}
