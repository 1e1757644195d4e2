//! `tenure quorum`: who the members of a quorum or a ring are, and changes of them.

use std::io::stdout;

use clap::Subcommand;
use serde::Serialize;
use tenure::store::{ChangeStep, Members, NodeStatus, Quorum, Ring};

use crate::exit::{Failure, Result};
use crate::out::{print, say};
use crate::store::Choice;
use crate::text::{Paint, json, printable, table};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Show the members, whether they answer, and whether they vote
    Status,
    /// Make one more node a member, while locks are held
    Add {
        /// The node: host and port, or a URL where the store's URL lists URLs
        node: String,
    },
    /// Make a node a member no more
    Remove {
        /// The node, as `status` shows it
        node: String,
    },
    /// Put a node in the place of another
    Replace {
        /// The node that goes
        old: String,
        /// The node that comes
        new: String,
    },
    /// Finish a change that was interrupted
    Finish,
    /// Undo a change that was interrupted
    Undo,
}

#[derive(Serialize)]
struct StatusJson {
    #[serde(flatten)]
    members: Members,
    nodes: Vec<NodeStatus>,
}

pub(crate) async fn quorum(store: &Choice, action: Action, as_json: bool) -> Result<()> {
    let quorum = match store.url().split(':').next() {
        Some("redlock" | "redlocks") => Quorum::connect(store.url()).await?,
        Some("ring" | "rings") => Ring::connect(store.url()).await?.quorum().clone(),
        _ => return Err(Failure::usage("only a redlock: or ring: store has members: give its URL with --store")),
    };
    let told = |step: ChangeStep| match as_json {
        true => say(&json(&step)),
        false => say(&format!("tenure: {}", text(&step))),
    };
    match action {
        Action::Status => return status(&quorum, as_json).await,
        Action::Add { node } => {
            let mut names = present(quorum.members().await?);
            if names.contains(&node) {
                return Err(Failure::usage(format!("{} is a member already", printable(&node))));
            }
            names.push(node);
            change(&quorum, &names, told).await?;
        }
        Action::Remove { node } => {
            let mut names = known(present(quorum.members().await?), &node)?;
            names.retain(|name| *name != node);
            change(&quorum, &names, told).await?;
        }
        Action::Replace { old, new } => {
            let mut names = known(present(quorum.members().await?), &old)?;
            names.iter_mut().filter(|name| **name == old).for_each(|name| name.clone_from(&new));
            change(&quorum, &names, told).await?;
        }
        Action::Finish => quorum.finish_change(told).await?,
        Action::Undo => quorum.undo_change(told).await?,
    }
    status(&quorum, as_json).await
}

async fn change(quorum: &Quorum, names: &[String], told: impl Fn(ChangeStep) + Send + Sync) -> Result<()> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Ok(quorum.change_members(&names, told).await?)
}

async fn status(quorum: &Quorum, as_json: bool) -> Result<()> {
    let members = quorum.members().await?;
    let nodes = quorum.status().await;
    if as_json {
        return print(&json(&StatusJson { members, nodes }));
    }
    let row = |node: &NodeStatus| {
        let state = match (&node.error, node.votes) {
            (Some(error), _) => format!("away: {error}"),
            (None, true) => "up".to_owned(),
            (None, false) => {
                "up, and has no vote yet: it was started less than the longest ttl ago, or does not tell; a user who \
                              may not ask is given it by ACL SETUSER USER +info +config|get"
                    .to_owned()
            }
        };
        vec![printable(&node.name), printable(&state)]
    };
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    let mut text = table(&["MEMBER", "STATE"], &rows, Paint::on(&stdout()));
    if let Some(becoming) = &members.becoming {
        text += &format!(
            "\na change is under way or was interrupted: from {} to {}; `tenure quorum finish` or `undo` ends it",
            members.members.join(", "),
            becoming.join(", ")
        );
    }
    print(&text)
}

/// Those who are members after the last change.
fn present(members: Members) -> Vec<String> {
    members.members
}

fn known(names: Vec<String>, node: &str) -> Result<Vec<String>> {
    match names.iter().any(|name| name == node) {
        true => Ok(names),
        false => {
            let names: Vec<String> = names.iter().map(|name| printable(name)).collect();
            Err(Failure::usage(format!("{} is no member: they are {}", printable(node), names.join(", "))))
        }
    }
}

fn text(step: &ChangeStep) -> String {
    let seconds = |millis: &u64| millis.div_ceil(1000);
    match step {
        ChangeStep::NewMember { name, wait_ms } => {
            format!("{} was started lately: waiting {} s until it may vote", printable(name), seconds(wait_ms))
        }
        ChangeStep::Joint { wait_ms } => {
            format!("old and new members have to agree for {} s; locks go on meanwhile", seconds(wait_ms))
        }
        _ => "the new members are in force".to_owned(),
    }
}
