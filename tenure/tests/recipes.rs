//! The recipes of `examples/recipes`, each against a real Redis; and `docs/recipes.md`, which shows what is in them.

#![cfg(feature = "redis")]
#![allow(missing_docs, clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use testkit::Redis;

#[path = "../examples/recipes/failover_drill.rs"]
mod failover_drill;
#[path = "../examples/recipes/leader.rs"]
mod leader;
#[path = "../examples/recipes/migration.rs"]
mod migration;
#[path = "../examples/recipes/nightly_job.rs"]
mod nightly_job;
#[path = "../examples/recipes/order.rs"]
mod order;
#[path = "../examples/recipes/resource.rs"]
mod resource;
#[path = "../examples/recipes/transfer.rs"]
mod transfer;
#[path = "../examples/recipes/workers.rs"]
mod workers;

macro_rules! recipe {
    ($test:ident, $recipe:ident) => {
        #[tokio::test]
        async fn $test() {
            let server = Redis::start();
            $recipe::show(&tenure::open_store(&server.url()).await.unwrap()).await.unwrap();
        }
    };
}

recipe!(a_nightly_job_is_done_once_also_when_its_machine_dies, nightly_job);
recipe!(a_leader_is_followed_by_another, leader);
recipe!(what_happens_to_one_order_happens_one_after_the_other, order);
recipe!(no_more_workers_than_there_are_slots, workers);
recipe!(a_migration_is_applied_once_and_not_under_those_that_serve, migration);

#[tokio::test]
async fn a_transfer_moves_all_or_nothing_and_once() {
    let server = Redis::start();
    transfer::show(&server.url()).await.unwrap();
}

#[tokio::test]
async fn work_goes_on_after_a_failover() {
    let server = Mutex::new(Redis::start());
    let url = server.lock().unwrap().url();
    let outage = async || {
        server.lock().unwrap().kill();
        // For longer than a hold lasts.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        server.lock().unwrap().restart();
    };
    failover_drill::show(&tenure::open_store(&url).await.unwrap(), outage).await.unwrap();
}

/// The lines of a text, without what they are indented by.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// A snippet names the file that it is from, in the line above it.
#[test]
fn the_docs_show_what_the_recipes_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_to_string(root.join("../docs/recipes.md")).unwrap();
    let (mut shown, mut file) = (Vec::new(), "");
    for part in docs.split("```") {
        if let Some(snippet) = part.strip_prefix("rust\n") {
            let code =
                fs::read_to_string(root.join("examples/recipes").join(file)).unwrap_or_else(|_| panic!("no {file}"));
            let (snippet, code) = (lines(snippet), lines(&code));
            assert!(
                code.windows(snippet.len()).any(|window| window == snippet),
                "not in {file}:\n{}",
                snippet.join("\n")
            );
            shown.push(file);
        } else if let Some((_, name)) = part.rsplit_once("/examples/recipes/") {
            file = name.split(')').next().unwrap();
        }
    }
    let here = include_str!("recipes.rs");
    for recipe in fs::read_dir(root.join("examples/recipes")).unwrap() {
        let name = recipe.unwrap().file_name().into_string().unwrap();
        if !["main.rs", "resource.rs"].contains(&name.as_str()) {
            assert!(shown.contains(&name.as_str()), "docs/recipes.md does not show {name}");
            assert!(here.contains(&format!("/{name}\"]")), "no test runs {name}");
        }
    }
}
