//! What `--help` says below the options: examples, the environment, what happens when, and the exit codes.

pub(crate) const EXAMPLES: &str = "\
Examples:
  tenure run nightly-report -- ./report.sh      one at a time; the others wait
  tenure run -n backup -- ./backup.sh           run, or leave it if it is running
  tenure ls                                     who holds what
  tenure --store redis://db1 run deploy -- ./deploy";

const MORE: &str = "\
Stores:
  sqlite:PATH               a file, for the processes of one machine
  redis://HOST[:PORT][/DB]  a Redis or Valkey server, 7.0 or later; with a password, redis://:PASSWORD@HOST
  rediss://HOST             the same over TLS
  redis+unix:///PATH        the same by a socket
  redis-sentinel://HOST,HOST,HOST/MASTER
                            the master that most of these Sentinels name; rediss-sentinel:// over TLS
  redis-cluster://HOST,HOST,HOST
                            a cluster, some of whose nodes these are; rediss-cluster:// over TLS
  redlock://HOST,HOST,HOST  several Redis, of which a majority decides; redlocks:// over TLS
  redlock:?node=URL&node=URL
                            the same over stores of any kind; the URLs are percent-encoded
  ring://HOST,HOST          names spread over several Redis; rings:// over TLS, ring:?node=URL over any stores
  `tenure doctor` checks any of them, and docs/guarantees.md says what each promises.
  Without --store and TENURE_STORE it is $XDG_STATE_HOME/tenure/locks.db or ~/.local/state/tenure/locks.db: for every
  process of this user on this machine. Commands that only look make no file: where there is none, nothing is held.
  A password is better kept in TENURE_STORE than in --store, which every user of the machine can read.

Durations: 500ms, 30s, 5m, 1h30m, 7d; without a unit, seconds.";

const EXIT_CODES: &str = "\
Exit codes:
  that of the command, and 128+N when signal N ended it, or this process while it waited
  0    done; where nothing is run, nothing went wrong
  1    `tenure break` asked, and the answer was no
  2    nothing was asked for
  64   the command line cannot be meant, or the lock is in use as one of another kind
  69   the store cannot be reached, does not answer, or does not do what it should
  71   the system refuses what it should not, such as a new process
  75   the lock is busy (-E changes it)
  76   the hold was lost before the command ended
  78   `tenure doctor` found something worse than a note
  124  the command was ended because of --max-hold
  126  the command cannot be run
  127  the command cannot be found";

/// Of `tenure --help`.
pub(crate) fn everything() -> String {
    format!("{EXAMPLES}\n\n{MORE}\n\n{EXIT_CODES}")
}

/// Of `tenure run -h`.
pub(crate) fn of_run_in_short() -> String {
    format!("{RUN_EXAMPLES}\n\n{RUN_SHORT}")
}

/// Of `tenure run --help`.
pub(crate) fn of_run() -> String {
    format!("{RUN_EXAMPLES}\n\n{RUN_MORE}\n\n{EXIT_CODES}")
}

const RUN_EXAMPLES: &str = "\
Examples:
  tenure run nightly-report -- ./report.sh
  tenure run -w 5m deploy -- ./deploy production      give up after five minutes
  tenure run -q -n -E 0 backup -- ./backup.sh         quietly leave it if it is running
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
  TENURE_OWNER     who holds the lock, as `tenure show --json` has it
  TENURE_FENCES    the fences of all holds that it runs under, its own last
  TENURE_STORE     the store, so that a `tenure` that the command runs uses the same; if --store had a password in it,
                   without that

While it waits:
  A wait of more than a second is shown on a terminal, told once with -v or --json elsewhere. When the store stays away,
  a line says so, and another one when it is back. One that fails for as long as --ttl, at least for 10s, ends
  the wait (exit code 69). Ctrl-C ends it at once, and the place in the queue is given up.
  A run inside of a run of the same name waits for itself, as flock(1) does: after a second a line says so. Give the
  inner one another name, or -n; or -s to both where they may share.

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
  lapsed is ended rather than continued.";

pub(crate) const TRY_EXAMPLES: &str = "\
Examples:
  tenure try backup && echo free
  tenure try backup -- ./backup.sh          the same as tenure run --no-wait

Without a command nothing is taken: the lock is looked at, and the exit code is 0 if it could be had now and 75 (or -E)
if not. By the time you act on that it may have changed.";

pub(crate) const LS_EXAMPLES: &str = "\
Examples:
  tenure ls
  tenure ls --json | jq -r '.[].name'       one array";

pub(crate) const SHOW_EXAMPLES: &str = "\
Examples:
  tenure show deploy
  tenure show deploy --json | jq .fence     one object";

pub(crate) const BREAK_EXAMPLES: &str = "\
Examples:
  tenure break deploy                       shows who holds it, and asks
  tenure break --yes deploy

Whoever held it learns of it at its next renewal, up to a third of its ttl later; the next in line holds at once.
Only what checks TENURE_FENCE is safe in between.";

pub(crate) const WATCH_EXAMPLES: &str = "\
Examples:
  tenure watch                              redrawn on a terminal, a line per change elsewhere
  tenure watch deploy --json | jq .         a JSON line per change";

pub(crate) const DOCTOR_EXAMPLES: &str = "\
Examples:
  tenure doctor --store redis://db1
  tenure doctor --store redlock://r1,r2,r3 --json | jq -r 'select(.level == \"error\").found'

It only looks, and takes no lock. What it finds is ok, a note, a warning or an error; the exit code is 0 when nothing is
worse than a note, 69 when no server answers at all, and 78 otherwise. The rights to hold locks are not enough to look at all
of a server: give a user `+info +config|get +pttl +getrange` besides; what could not be looked at is said.
With --json it prints an object for each finding: level, check, place, found, why, fix.";

pub(crate) const EXPORTER_EXAMPLES: &str = "\
Examples:
  tenure --store redis://db1 exporter
  tenure --store redis://db1 exporter --match 'order-*' --max-locks 20
  tenure exporter --listen 0.0.0.0:9797     for others than this machine
  curl -s localhost:9797/metrics            and /healthz, which says that it runs

For deployments that only have the store: it takes no lock, and looks no more often than --cache says and for no more
than a fifth of the time, however often it is asked. Programs with the library tell more: docs/monitoring.md has all
figures, a dashboard and alerts. Ctrl-C ends it (exit code 0).";

pub(crate) const QUORUM_EXAMPLES: &str = "\
Examples:
  tenure --store redlock://r1,r2,r3 quorum status
  tenure --store redlock://r1,r2,r3 quorum add r4:6379
  tenure --store redlock://r1,r2,r3 quorum replace r2:6379 r5:6379

A change takes a view lease, a longest ttl and a token memory, 130 s by default, in which old and new members have to agree; locks that are
held stay held. Members learn of it by themselves; name the new ones in the store's URL when you next deploy.";

pub(crate) const TX_EXAMPLES: &str = "\
Examples:
  tenure tx --journal postgres://db1/shop ls      what is not done yet
  tenure tx ls --all --json | jq .                an object for each, done or not
  tenure tx show 0f3a…                            all there is to know about one
  tenure tx recover                               settle what was begun more than a minute ago
  tenure tx recover 0f3a…                         settle that one, now
  tenure tx forget 0f3a…                          one that is done, and has been looked at
  tenure tx migration --dialect postgres | psql shop

A transaction is in a journal, not in the store of the locks: name it by --journal, or TENURE_JOURNAL, where a password is
better kept. Behind a Postgres URL, ?sslmode=verify-full&sslrootcert=FILE is for TLS. To recover, the participants have to be reached: Redis and Postgres are found by what the record says, which
has no passwords: give those as NAME=URL by --participant, or in TENURE_PARTICIPANT_NAME. Participants of other kinds are in
the program that uses them; without them a transaction is decided here, and the program finishes it. Sagas are shown, and
resumed by the program that has their steps. What a participant did against the decision is a heuristic: it is shown until it
is forgotten. One that is elsewhere than the record says is told nothing, unless --moved says where it was. The exit code is 69
where something is not settled, or a record cannot be read.";

pub(crate) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  tenure completions bash > ~/.local/share/bash-completion/completions/tenure
  tenure completions zsh > ~/.zfunc/_tenure
  tenure completions fish > ~/.config/fish/completions/tenure.fish";
