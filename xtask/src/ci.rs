//! `cargo xtask ci`: everything that a change must pass, the quick things first and the tests last.

use std::time::Instant;

use crate::run::{cargo, command, output, read, run};
use crate::{Outcome, simulate, test, tree};

type Step = (&'static str, fn() -> Outcome);

/// A step's outcome is a remark on what it found, or what it could not do.
const STEPS: &[Step] = &[
    ("tree", tree::main),
    ("fmt", fmt),
    ("clippy", clippy),
    ("docs", docs),
    ("deny", deny),
    ("msrv", msrv),
    ("simulate", simulate::ci),
    ("test", || test::main(&[])),
];

/// Runs all steps, or those named, until one fails. The outcome is that of the last.
pub(crate) fn main(names: &[&str]) -> Outcome {
    if let Some(other) = names.iter().find(|name| STEPS.iter().all(|(step, _)| step != *name)) {
        let steps: Vec<_> = STEPS.iter().map(|(name, _)| *name).collect();
        return Err(format!("there is no step {other}; there are {}", steps.join(", ")));
    }
    let (mut summary, mut outcome) = (String::new(), Ok(String::new()));
    for (name, step) in STEPS.iter().filter(|(name, _)| names.is_empty() || names.contains(name)) {
        println!("\n== {name}");
        let start = Instant::now();
        outcome = step().map_err(|error| format!("{name}: {error}"));
        let seconds = start.elapsed().as_secs_f64();
        let remark = outcome.as_deref().unwrap_or("FAILED");
        println!("== {name}: {seconds:.1} s");
        summary += &format!("{name:8}{seconds:8.1} s  {remark}\n");
        if outcome.is_err() {
            break;
        }
    }
    println!("\n{summary}");
    outcome
}

fn fmt() -> Outcome {
    run(&mut cargo("fmt --all --check"))?;
    Ok(String::new())
}

fn clippy() -> Outcome {
    run(&mut cargo("clippy --workspace --all-targets --all-features -- -D warnings"))?;
    run(&mut cargo("clippy --package tenure --lib --no-default-features -- -D warnings"))?;
    Ok(String::new())
}

/// Licences, bans and sources need nothing but the crates; the advisories are fetched from a git host.
fn deny() -> Outcome {
    if output(&mut cargo("deny --version")).is_none() {
        println!("cargo-deny is missing: installing it with cargo");
        // Optimised it would take some minutes to build, and then saves a second.
        run(&mut cargo("install --quiet --locked --debug cargo-deny"))?;
    }
    run(&mut cargo("deny check bans licenses sources"))?;
    if run(cargo("deny fetch db").env("GIT_TERMINAL_PROMPT", "0")).is_err() {
        return Ok("advisories NOT checked: their database cannot be fetched from here".to_owned());
    }
    run(&mut cargo("deny check --disable-fetch advisories"))?;
    Ok(String::new())
}

fn docs() -> Outcome {
    run(cargo("doc --workspace --lib --all-features --no-deps").env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(String::new())
}

/// Checks with the oldest compiler that `Cargo.toml` promises, where rustup can provide it.
fn msrv() -> Outcome {
    let manifest = read("Cargo.toml")?;
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"'));
    let version = version.ok_or("Cargo.toml has no rust-version")?;
    let there = || output(command("rustup").args(["run", version, "cargo", "--version"])).is_some();
    if !there() {
        println!("Rust {version} is missing: installing it with rustup");
        let _ =
            run(command("rustup").args(["toolchain", "install", version, "--profile", "minimal", "--no-self-update"]));
    }
    if !there() {
        return Ok(format!("Rust {version} NOT run: it cannot be had here; clippy's incompatible_msrv has to do"));
    }
    run(command("rustup").args(["run", version, "cargo", "check", "--workspace", "--all-features"]))?;
    Ok(format!("with Rust {version}"))
}
