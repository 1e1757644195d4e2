//! What can be said on the command line.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::duration;
use crate::exporter::Exporter;
use crate::help;
use crate::quorum::Action;
use crate::signals::OnLost;
use crate::tx::Tx;

/// Runs commands under a lock that other machines see, and shows who holds what.
#[derive(Debug, Parser)]
#[command(name = "tenure", version, after_help = help::EXAMPLES, after_long_help = help::everything(), max_term_width = 100)]
pub(crate) struct Cli {
    /// Where the locks live: `sqlite:PATH`, `redis://HOST`, `redis-sentinel://`, `redis-cluster://`,
    /// `redlock://`, `ring://`; `--help` has their forms [env: TENURE_STORE] [default: a file of this user's]
    #[arg(long, global = true, value_name = "URL", help_heading = "Options of all commands")]
    pub(crate) store: Option<String>,

    /// Print JSON: answers on stdout, events and errors in lines on stderr
    #[arg(long, global = true, help_heading = "Options of all commands")]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command while holding a lock
    #[command(after_help = help::of_run_in_short(), after_long_help = help::of_run())]
    Run(Run),
    /// Say whether a lock is free; with a command, run it only if so
    #[command(after_help = help::TRY_EXAMPLES)]
    Try(Try),
    /// List the locks that somebody holds or waits for
    #[command(after_help = help::LS_EXAMPLES)]
    Ls,
    /// Show all there is to know about a lock
    #[command(after_help = help::SHOW_EXAMPLES)]
    Show {
        /// The lock's name
        name: String,
    },
    /// Take a lock away from whoever holds it
    #[command(after_help = help::BREAK_EXAMPLES)]
    Break {
        /// The lock's name
        name: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Follow who holds and who waits
    #[command(after_help = help::WATCH_EXAMPLES)]
    Watch {
        /// The lock's name; all of them without
        name: Option<String>,
        /// How often to look; what comes and goes in between is not seen
        #[arg(long, value_name = "DUR", default_value = "500ms", value_parser = duration::parse)]
        interval: Duration,
    },
    /// Check a deployment: versions, settings, rights, clocks; and say what to do
    #[command(after_help = help::DOCTOR_EXAMPLES)]
    Doctor {
        /// Look at no more than so many keys of each server for such as should not be there
        #[arg(long, value_name = "N", default_value = "100000")]
        keys: u64,
    },
    /// Tell Prometheus how the locks of a store stand
    #[command(after_help = help::EXPORTER_EXAMPLES)]
    Exporter(Exporter),
    /// Show or change the members of a quorum or a ring
    #[command(subcommand, after_help = help::QUORUM_EXAMPLES)]
    Quorum(Action),
    /// Show or settle transactions and sagas, by their journal
    #[command(after_help = help::TX_EXAMPLES)]
    Tx(Tx),
    /// Print the completions for a shell
    #[command(after_help = help::COMPLETIONS_EXAMPLES)]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The lock's name
    pub(crate) name: String,

    /// Wait no longer than this for the lock [default: for ever]
    #[arg(short, long, value_name = "DUR", value_parser = duration::parse)]
    pub(crate) wait: Option<Duration>,

    /// Do not wait at all: a lock that is busy is left (exit code 75, or -E)
    #[arg(short, long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,

    #[command(flatten)]
    pub(crate) how: How,

    /// The command, after `--`
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Try {
    /// The lock's name
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) how: How,

    /// A command to run if the lock is free, after `--`; as `tenure run --no-wait` would
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// How a lock is held, and what becomes of a command that holds it.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// Share it with all who ask for that; whoever does not, excludes them
    #[arg(short, long)]
    pub(crate) shared: bool,

    /// Let as many as N hold it at once; all have to name the same N
    #[arg(long, value_name = "N", conflicts_with = "shared", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) slots: Option<u32>,

    /// How long the hold lasts when this process dies, or loses the store; it is renewed three times as often
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = duration::parse)]
    pub(crate) ttl: Duration,

    /// End the command when it has held the lock for so long (exit code 124)
    #[arg(long, value_name = "DUR", value_parser = duration::parse)]
    pub(crate) max_hold: Option<Duration>,

    /// Tell the command this long before a hold in doubt ends [default: a fifth of the ttl, at most 10s]
    #[arg(long, value_name = "DUR", value_parser = duration::parse)]
    pub(crate) grace: Option<Duration>,

    /// What to do when the hold is lost: `kill`, `signal:NAME` or `warn`
    #[arg(long, value_name = "WHAT", default_value = "kill")]
    pub(crate) on_lost: OnLost,

    /// The exit code when the lock is busy
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = crate::exit::BUSY)]
    pub(crate) busy_code: u8,

    /// What the lock is held for, in a few words that others see
    #[arg(long, value_name = "TEXT")]
    pub(crate) purpose: Option<String>,

    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Say when the lock is waited for, held and released
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

impl How {
    /// When the command is told that a hold in doubt is about to end.
    pub(crate) fn grace(&self) -> Duration {
        self.grace.unwrap_or_else(|| (self.ttl / 5).min(Duration::from_secs(10)))
    }
}
