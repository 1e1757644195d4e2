//! Sagas: that they end carried out or undone whatever fails, and what they refuse.

#![allow(clippy::disallowed_methods, reason = "tests have their time and their tasks from tokio")]

#[path = "../common/mod.rs"]
mod common;

mod checker;
#[cfg(all(feature = "redis", target_os = "linux"))]
mod crash;
mod ends;
mod life;
mod records;
mod shop;
mod simulate;
mod world;
