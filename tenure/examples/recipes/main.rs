//! Recipes: whole pieces of work under locks, each of which shows what it promises.
//!
//! ```sh
//! cargo run --example recipes -- nightly-job redis://127.0.0.1
//! cargo run --example recipes                                     # all of them, in this process's memory
//! ```
//!
//! `docs/recipes.md` says which failures each survives and which it does not. `tests/recipes.rs` runs them all
//! against a real Redis; what a process is there, is a client of its own here.

#![allow(clippy::disallowed_methods, reason = "an example has its time and its tasks from tokio")]

mod failover_drill;
mod leader;
mod migration;
mod nightly_job;
mod order;
mod resource;
#[cfg(feature = "redis")]
mod transfer;
mod workers;

#[tokio::main]
async fn main() -> tenure::Result<()> {
    let mut args = std::env::args().skip(1);
    let (which, url) = (args.next(), args.next().unwrap_or_else(|| "memory:".to_owned()));
    let is = |name: &str| which.as_deref().is_none_or(|which| which == name);
    // What is in memory is one client's alone, so the clients of a recipe share a store.
    let store = tenure::open_store(&url).await?;
    if is("nightly-job") {
        nightly_job::show(&store).await?;
    }
    if is("leader") {
        leader::show(&store).await?;
    }
    if is("order") {
        order::show(&store).await?;
    }
    if is("workers") {
        workers::show(&store).await?;
    }
    if is("migration") {
        migration::show(&store).await?;
    }
    if is("failover-drill") {
        failover_drill::show(&store, async || println!("now stop your Redis for a moment, and start it again")).await?;
    }
    #[cfg(feature = "redis")]
    if is("transfer") {
        match url.starts_with("redis://") {
            true => transfer::show(&url).await?,
            false => println!("the transfer wants a Redis: give redis://host"),
        }
    }
    Ok(())
}
