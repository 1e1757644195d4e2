//! What can be said on the command line.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::duration;
use crate::signals::OnLost;

/// Runs commands under a lock that other machines see, and shows who holds what.
#[derive(Debug, Parser)]
#[command(name = "tenure", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{MORE}"), max_term_width = 100)]
pub(crate) struct Cli {
    /// Where the locks live: `sqlite:PATH`, `redis://HOST` and others [env: TENURE_STORE] [default: a file of this user's]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) store: Option<String>,

    /// Print for machines: JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command while holding a lock
    #[command(after_help = format!("{RUN_EXAMPLES}\n\n{RUN_SHORT}"), after_long_help = format!("{RUN_EXAMPLES}\n\n{RUN_MORE}"))]
    Run(Run),
    /// Say whether a lock is free; with a command, run it only if so
    #[command(after_help = TRY_EXAMPLES)]
    Try(Try),
    /// List the locks that somebody holds or waits for
    #[command(after_help = LS_EXAMPLES)]
    Ls,
    /// Show all there is to know about a lock
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// The lock's name
        name: String,
    },
    /// Take a lock away from whoever holds it
    #[command(after_help = BREAK_EXAMPLES)]
    Break {
        /// The lock's name
        name: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Follow who holds and who waits
    #[command(after_help = WATCH_EXAMPLES)]
    Watch {
        /// The lock's name; all of them without
        name: Option<String>,
        /// How often to look; what comes and goes in between is not seen
        #[arg(long, value_name = "DUR", default_value = "500ms", value_parser = duration::parse)]
        interval: Duration,
    },
    /// Print the completions for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
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

    /// Do not wait at all
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
    /// Hold it together with others who ask for that
    #[arg(short, long)]
    pub(crate) shared: bool,

    /// Let as many as N hold it at once
    #[arg(long, value_name = "N", conflicts_with = "shared", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) slots: Option<u32>,

    /// For how long the hold outlives this process; it is renewed three times as often
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

    /// What the lock is held for, for others to read
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

const EXAMPLES: &str = "\
Examples:
  tenure run nightly-report -- ./report.sh      one at a time; the others wait
  tenure run -n backup -- ./backup.sh           run, or leave it if it is running
  tenure ls                                     who holds what
  tenure --store redis://db1 run deploy -- ./deploy";

const MORE: &str = "\
Without --store and TENURE_STORE the locks live in $XDG_STATE_HOME/tenure/locks.db or
~/.local/state/tenure/locks.db: every process of this user on this machine.

Durations: 500ms, 30s, 5m, 1h30m; without a unit, seconds.

Exit codes:
  0    done
  1    it was answered no
  64   the command line cannot be meant
  69   the store cannot be reached, or does not do what it should
  75   the lock is busy
and those of `tenure run --help`.";

const RUN_EXAMPLES: &str = "\
Examples:
  tenure run nightly-report -- ./report.sh
  tenure run -w 5m deploy -- ./deploy production      give up after five minutes
  tenure run -n -E 0 backup -- ./backup.sh            quietly leave it if it is running
  tenure run --slots 3 crawl -- ./crawl               at most three at once
  tenure run -s data -- ./read                        readers together, writers alone
  tenure run deploy -- sh -c 'upload --token $TENURE_FENCE'";

const RUN_SHORT: &str = "\
The command finds TENURE_NAME, TENURE_FENCE, TENURE_DEADLINE and TENURE_OWNER in its environment.
`--help` tells what they mean, the exit codes, and what happens when the hold is lost.";

const RUN_MORE: &str = "\
Environment of the command:
  TENURE_NAME      the lock's name
  TENURE_FENCE     a number that is higher for each later holder: have what you write to refuse a lower one
  TENURE_DEADLINE  until when the hold was certain at its start, in milliseconds since 1970
  TENURE_OWNER     who holds the lock

When the hold is lost:
  The hold is renewed for as long as the command runs. When renewing fails and only --grace is left of what is certain,
  or when the lock turns out to be gone already, --on-lost says what happens:
    kill         TERM to the command and all of its process group at once, KILL before the hold ends (or, if it has
                 ended already, within a second); exit code 76
    signal:NAME  that signal, once; the command decides, and its exit code is ours
    warn         a line on stderr
  The command runs in a process group of its own; INT, TERM, HUP, QUIT, USR1, USR2, WINCH and CONT are passed on to it.
  If this process is killed by KILL, the kernel kills the command, on Linux; processes which the command has started
  itself are not reached then. Ctrl-Z suspends both, and the hold lapses unless they go on in time: a command whose hold
  lapsed is ended rather than continued.

Exit codes:
  that of the command, and 128+N when signal N ended it, or this process while it waited
  64   the command line cannot be meant
  69   the store cannot be reached, or does not do what it should
  75   the lock is busy (-E changes it)
  76   the hold was lost before the command ended
  124  the command was ended because of --max-hold
  126  the command cannot be run
  127  the command cannot be found";

const TRY_EXAMPLES: &str = "\
Examples:
  tenure try backup && echo free
  tenure try backup -- ./backup.sh          the same as tenure run --no-wait

Without a command nothing is taken: the lock is looked at, and the exit code is 0 if it could be had now and 75 (or -E) if
not. By the time you act on that it may have changed.";

const LS_EXAMPLES: &str = "\
Examples:
  tenure ls
  tenure ls --json | jq -r '.[].name'       one array";

const SHOW_EXAMPLES: &str = "\
Examples:
  tenure show deploy
  tenure show deploy --json | jq .fence     one object";

const BREAK_EXAMPLES: &str = "\
Examples:
  tenure break deploy                       shows who holds it, and asks
  tenure break --yes deploy

Whoever held it learns of it at its next renewal, up to a third of its ttl later; the next in line holds at once.
Only what checks TENURE_FENCE is safe in between.";

const WATCH_EXAMPLES: &str = "\
Examples:
  tenure watch                              redrawn on a terminal, a line per change elsewhere
  tenure watch deploy --json | jq .         a JSON line per change";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  tenure completions bash > ~/.local/share/bash-completion/completions/tenure
  tenure completions zsh > ~/.zfunc/_tenure
  tenure completions fish > ~/.config/fish/completions/tenure.fish";
