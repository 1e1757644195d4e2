//! A client's options, and how it is built from them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use crate::client::{Client, Core};
use crate::env::Env;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::event::Teller;
#[cfg(feature = "metrics")]
use crate::facade::{self, Facade};
use crate::health::Vitals;
use crate::keeper::Keeper;
use crate::line::Lines;
use crate::locks::Locks;
use crate::meter::Meters;
use crate::options::{Options, invalid, option_setters};
use crate::reentry::Reentries;
use crate::sink::{Post, Sink, Sinks};
use crate::store::Store;

/// Options for a client: the defaults of all its locks.
#[derive(Clone)]
#[must_use = "nothing is made before `build`"]
pub struct LocksBuilder {
    store: Arc<dyn Store>,
    options: Arc<Options>,
    prefix: String,
    env: Env,
    sinks: Sinks,
    #[cfg(feature = "metrics")]
    told: Told,
}

/// How the client tells its figures through the `metrics` facade.
#[cfg(feature = "metrics")]
#[derive(Clone, Default)]
struct Told {
    recorder: Option<facade::Own>,
    names: usize,
}

impl LocksBuilder {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            options: Arc::default(),
            prefix: "tenure".to_owned(),
            env: Env::system(),
            sinks: Sinks::default(),
            #[cfg(feature = "metrics")]
            told: Told::default(),
        }
    }

    option_setters!();

    /// What the names of metrics begin with: `tenure` by default.
    pub fn metrics(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Tells a lock's name as the label `lock` of its figures in the `metrics` facade, for the first `most` names; all
    /// others are `other`. By default, and with zero, no names are told.
    ///
    /// Each name costs whoever stores the figures some 60 series for each kind of lock. Give it where there are a few names that stay.
    #[cfg(feature = "metrics")]
    pub fn metrics_by_name(mut self, most: usize) -> Self {
        self.told.names = most;
        self
    }

    /// Where the figures of the `metrics` facade go: by default to the recorder that is installed for the program when
    /// this client is built. One that is installed later is not told.
    #[cfg(feature = "metrics")]
    pub fn recorder(mut self, recorder: Arc<dyn metrics::Recorder + Send + Sync>) -> Self {
        self.told.recorder = Some(recorder);
        self
    }

    /// Tells every event to `sink`, besides those given before: see [`Sink`].
    pub fn sink(mut self, sink: impl Sink) -> Self {
        self.sinks.push(Arc::new(sink));
        self
    }

    /// Where time and randomness come from: the system by default.
    pub fn env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// The client.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for an option that cannot be meant; it says which, and what would do.
    /// [`ErrorKind::Unavailable`] where there are sinks, and the system has no thread for them.
    pub fn build(self) -> Result<Locks> {
        let Self { store, options, prefix, env, sinks, .. } = self;
        options.validate()?;
        let name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !prefix.bytes().all(name) || !prefix.starts_with(|first: char| !first.is_ascii_digit()) {
            return Err(invalid(format!(
                "metrics prefix {prefix:?}: give letters, digits and _, not beginning with a digit"
            )));
        }
        #[cfg(feature = "metrics")]
        let meters = Meters::new(Facade::new(prefix.clone(), self.told.recorder, self.told.names));
        #[cfg(not(feature = "metrics"))]
        let meters = Meters::new();
        let core = Arc::new(Core {
            teller: Teller::new(Post::start(sinks, &env)?),
            store,
            env,
            meters,
            lines: Lines::default(),
            reentries: Reentries::default(),
            vitals: Vitals::default(),
            members: AtomicU64::default(),
        });
        let keeper = Keeper::new(core.clone());
        let client = Client { core, keeper, options, prefix, closed: AtomicBool::new(false) };
        Ok(Locks { client: Arc::new(client), owner: None })
    }
}

impl fmt::Debug for LocksBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("LocksBuilder");
        debug.field("store", &self.store).field("options", &self.options).field("prefix", &self.prefix);
        debug.field("sinks", &self.sinks.len()).finish_non_exhaustive()
    }
}
