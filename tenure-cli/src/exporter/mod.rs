//! `tenure exporter`: how the locks of a store stand, as Prometheus reads it, for deployments that only have the store.
//!
//! ```text
//!   Prometheus ──GET /metrics──▶ serve.rs ──▶ Watcher ──at most one look at a time──▶ store
//!                                                │ the last look, for a moment
//!                                                ▼
//!                                             text.rs
//! ```
//!
//! However often it is scraped, and by however many, the store is looked at no more often than `--cache` says, and for no
//! more than a fifth of the time.

mod look;
mod serve;
mod text;

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::duration;
use crate::exit::{Failure, Result, SYSTEM, USAGE};
use crate::exporter::look::Watcher;
use crate::out::say;
use crate::store::Choice;

#[derive(Debug, Args)]
pub(crate) struct Exporter {
    /// Where to listen; port 0 takes a free one and says which
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9797")]
    listen: SocketAddr,

    /// Tell so many locks by name: those that most wait for, and then those that are held longest
    #[arg(long, value_name = "N", default_value = "100")]
    max_locks: usize,

    /// Read so many locks in one look, and only count those beyond
    #[arg(long, value_name = "N", default_value = "10000")]
    max_read: usize,

    /// Only locks with such names; `*` stands for anything
    #[arg(long = "match", value_name = "PATTERN", default_value = "*")]
    pattern: String,

    /// Look at the store no more often than this, however often it is asked
    #[arg(long, value_name = "DUR", default_value = "5s", value_parser = duration::parse)]
    cache: Duration,

    /// Give up a look after this, and say that the store is down
    #[arg(long, value_name = "DUR", default_value = "8s", value_parser = duration::parse)]
    timeout: Duration,
}

/// Serves until it is interrupted.
pub(crate) async fn run(store: &Choice, options: Exporter, as_json: bool) -> Result<()> {
    if options.timeout.is_zero() {
        return Err(Failure::usage("--timeout is zero: give 8s or so"));
    }
    let (mut interrupt, mut terminate) = (listen_for(SignalKind::interrupt())?, listen_for(SignalKind::terminate())?);
    let listen = options.listen;
    let listener = TcpListener::bind(listen).await.map_err(|error| cannot_bind(listen, &error))?;
    let address = listener.local_addr().map_err(|error| Failure::system("the port", error))?;
    // What cannot be meant ends it here; a store that is away may come back.
    if let Err(failure) = store.look().await {
        if failure.code == USAGE {
            return Err(failure);
        }
        say(&format!("tenure: {}; it is looked for at each scrape", failure.message));
    }
    if as_json {
        say(&format!("{{\"event\":\"listening\",\"url\":\"http://{address}/metrics\"}}"));
    } else {
        say(&format!("tenure: http://{address}/metrics tells how the locks stand; ctrl-C ends it"));
    }
    if !address.ip().is_loopback() && !as_json {
        say("tenure: it is reachable from elsewhere, and tells the names of locks to whoever asks");
    }
    let watcher = Watcher::new(store, options);
    tokio::select! {
        biased;
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        never = serve::serve(listener, &watcher) => match never {},
    }
}

fn listen_for(kind: SignalKind) -> Result<tokio::signal::unix::Signal> {
    signal(kind).map_err(|error| Failure::system("signals cannot be listened for", error))
}

fn cannot_bind(address: SocketAddr, error: &std::io::Error) -> Failure {
    let way_out = match error.kind() {
        std::io::ErrorKind::AddrInUse => "something listens there already: give another port by --listen",
        std::io::ErrorKind::PermissionDenied => "ports below 1024 are the system's: give a higher one by --listen",
        _ => "give an address of this machine by --listen, as 127.0.0.1:9797",
    };
    Failure::new(SYSTEM, format!("{address} cannot be listened at ({error}): {way_out}"))
}
