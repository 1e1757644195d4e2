//! The scripts that the server knows by their names: what they do is in the `.lua` files, what they are told in `script.rs`.

#![allow(unreachable_pub, reason = "as in `script.rs`, which passes them on")]

use std::sync::LazyLock;

/// A script, and the name that the server knows it by once it was loaded.
#[derive(Debug)]
pub struct Script {
    /// For `SCRIPT LOAD`.
    pub source: &'static str,
    /// For `EVALSHA`.
    pub sha: String,
}

impl Script {
    pub(super) fn new(source: &'static str) -> Self {
        Self { source, sha: sha1_smol::Sha1::from(source).digest().to_string() }
    }
}

/// The script that [`command`](super::script::command) calls.
pub static APPLY: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("short.lua"), include_str!("apply.lua"))));

/// The same for renewals, hand-overs and releases alone: they take next to no room, and are let through where the memory is
/// full. So holds go on, and end.
pub static KEEP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!("#!lua flags=allow-oom\n", include_str!("short.lua"), include_str!("apply.lua")))
});

/// The script that [`read_command`](super::script::read_command) calls.
pub static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("read.lua")));

/// How a grant is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// To whoever listens on the server: `PUBLISH`.
    Server,
    /// Within the shard that has the lock's slot: `SPUBLISH`. A cluster would tell all its nodes of a `PUBLISH`.
    Shard,
}

impl Dialect {
    /// The scripts that [`command`](super::script::command) may call.
    pub fn scripts(self) -> [&'static Script; 2] {
        match self {
            Self::Server => [&APPLY, &KEEP],
            Self::Shard => [&SHARD_APPLY, &SHARD_KEEP],
        }
    }
}

/// [`APPLY`] for a node of a cluster.
pub static SHARD_APPLY: LazyLock<Script> = LazyLock::new(|| in_shard(&APPLY));

/// [`KEEP`] for a node of a cluster.
pub static SHARD_KEEP: LazyLock<Script> = LazyLock::new(|| in_shard(&KEEP));

fn in_shard(script: &Script) -> Script {
    // One text for the life of the process, as the others are.
    Script::new(Box::leak(script.source.replace("'PUBLISH'", "'SPUBLISH'").into_boxed_str()))
}
