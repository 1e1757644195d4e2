//! Connections to a Postgres server, as journal and participant share them: a few, made when they are needed, and errors
//! told for what they are.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, Transaction};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::env;
use crate::error::{Error, ErrorKind, Result};

mod tls;

/// How many connections one handle has at most.
const MOST: usize = 8;
/// How long one attempt to connect may take, where the URL does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What every connection begins with: a commit is on the disk before it is answered, and nobody waits for ever for a row.
const SETTINGS: &str = "SET synchronous_commit = on; SET lock_timeout = '3s'; \
                        SET idle_in_transaction_session_timeout = '30s'";

/// A Postgres server. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Postgres(Arc<Inner>);

struct Inner {
    config: Config,
    tls: MakeRustlsConnect,
    location: String,
    idle: Mutex<Vec<Client>>,
    permits: Semaphore,
}

impl Postgres {
    /// Connects to the server at a URL, `postgres://user:password@host/database?sslmode=verify-full`.
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let (mut config, tls) = tls::read(url)?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config.application_name("tenure");
        let location = location(&config);
        let (idle, permits) = (Mutex::default(), Semaphore::new(MOST));
        let server = Self(Arc::new(Inner { config, tls, location, idle, permits }));
        let client = server.open().await?;
        server.keep(client);
        Ok(server)
    }

    /// Where it is, without a password: `postgres://host:port/database`.
    pub(crate) fn location(&self) -> &str {
        &self.0.location
    }

    /// Does `work` in one SQL transaction, which is committed where it succeeds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoReply`] where the commit was not answered; any other error says that nothing happened.
    pub(crate) async fn within<T>(&self, work: impl AsyncFnOnce(&Transaction<'_>) -> Result<Step<T>>) -> Result<T> {
        let _permit = self.permit().await?;
        let mut client = self.client().await?;
        let tx = client.transaction().await.map_err(|error| self.explain(error))?;
        // A failure drops the connection with all that is open on it.
        let value = match work(&tx).await? {
            Step::Keep(value) => {
                tx.commit().await.map_err(|error| self.explain_commit(error))?;
                value
            }
            Step::Undo(value) => {
                tx.rollback().await.map_err(|error| self.explain(error))?;
                value
            }
        };
        self.keep(client);
        Ok(value)
    }

    /// Does `work` by statements that stand for themselves. `is_reading`: a missing reply leaves nothing in doubt.
    pub(crate) async fn by<T>(
        &self,
        is_reading: bool,
        work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T> {
        let _permit = self.permit().await?;
        let client = self.client().await?;
        let value = work(&client).await;
        let explain = |error| if is_reading { self.explain(error) } else { self.explain_commit(error) };
        let value = value.map_err(explain)?;
        self.keep(client);
        Ok(value)
    }

    /// Makes sure that the server writes to disk before it answers.
    pub(crate) async fn require_fsync(&self, what: &str) -> Result<()> {
        let row = self.by(true, async |client| client.query_one("SELECT current_setting('fsync')", &[]).await).await?;
        if row.get::<_, String>(0) == "on" {
            return Ok(());
        }
        let message = format!(
            "{} may forget what it acknowledged, and {what} must not be forgotten: set fsync = on there",
            self.location()
        );
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// Makes tables that are missing, one process after the other.
    pub(crate) async fn migrate(&self, statements: &str) -> Result<()> {
        // Two that find the same table missing would both make it. The number is "tenu".
        let statements = format!("BEGIN; SELECT pg_advisory_xact_lock(1952804469); {statements} COMMIT;");
        self.by(false, async |client| client.batch_execute(&statements).await).await
    }

    async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        self.0.permits.acquire().await.map_err(|_| Error::new(ErrorKind::Closed, "the connections were closed"))
    }

    async fn client(&self) -> Result<Client> {
        loop {
            let idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(client) if client.is_closed() => {}
                Some(client) => return Ok(client),
                None => return self.open().await,
            }
        }
    }

    fn keep(&self, client: Client) {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
    }

    async fn open(&self) -> Result<Client> {
        let limit = *self.0.config.get_connect_timeout().unwrap_or(&CONNECT_TIMEOUT);
        let connect = async {
            let (client, connection) = self.0.config.connect(self.0.tls.clone()).await?;
            env::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to Postgres ended");
                }
            });
            client.batch_execute(SETTINGS).await?;
            Ok(client)
        };
        let connected: Option<Result<Client, tokio_postgres::Error>> = within(limit, connect).await;
        match connected {
            Some(client) => client.map_err(|error| self.explain(error)),
            None => {
                let message = format!("{} did not let us in within {limit:?}", self.0.location);
                Err(Error::new(ErrorKind::Unavailable, message))
            }
        }
    }

    /// What a failure means where nothing was committed, and nothing will be.
    pub(crate) fn explain(&self, error: tokio_postgres::Error) -> Error {
        let location = &self.0.location;
        let Some(said) = error.as_db_error() else {
            if let Some(why) = tls::refused(&error) {
                return Error::with_source(ErrorKind::Unsupported, format!("{location} {why}"), error);
            }
            let message = format!("{location} cannot be reached, or the connection was lost: {}", root(&error));
            return Error::with_source(ErrorKind::Unavailable, message, error);
        };
        let code = said.code().clone();
        let (kind, way_out) = match code.code() {
            "28P01" => (ErrorKind::Denied, "does not know this user with this password"),
            "28000" if self.0.config.get_ssl_mode() == SslMode::Disable => {
                (ErrorKind::Denied, "does not let this user in from here, or not without TLS: see sslmode")
            }
            "28000" => (ErrorKind::Denied, "does not let this user in from here"),
            "42501" => (ErrorKind::Denied, "does not let this user do that: grant it"),
            "3D000" => (ErrorKind::Missing, "has no such database"),
            "42P01" => (ErrorKind::Missing, "has no such table: `tenure tx migration --dialect postgres` prints ours"),
            "40001" | "40P01" | "55P03" | "57014" | "53300" => {
                (ErrorKind::Unavailable, "could not do it now: try again")
            }
            code if code.starts_with("57P") || code.starts_with("08") => (ErrorKind::Unavailable, "is not there now"),
            code if code.starts_with("53") || code.starts_with("58") => (ErrorKind::Unavailable, "lacks what it needs"),
            code if code.starts_with("25006") => (ErrorKind::Unavailable, "takes no writes: it is a replica"),
            _ => (ErrorKind::Unsupported, "refused it"),
        };
        let message = format!("{location} {way_out} ({} {})", code.code(), said.message());
        Error::with_source(kind, message, error)
    }

    /// The same where something was to be committed: without the server's own word, nobody knows.
    fn explain_commit(&self, error: tokio_postgres::Error) -> Error {
        // A pooler tells in the server's place that the server is gone.
        let is_away = |code: &str| code.starts_with("08") || code.starts_with("57P");
        if error.as_db_error().is_some_and(|said| !is_away(said.code().code())) {
            return self.explain(error);
        }
        let message = format!(
            "the connection to {} was lost before the reply; what was asked may have been done",
            self.0.location
        );
        Error::with_source(ErrorKind::NoReply, message, error)
    }
}

/// What becomes of an SQL transaction.
#[derive(Debug)]
pub(crate) enum Step<T> {
    /// It is committed.
    Keep(T),
    /// It is rolled back.
    Undo(T),
}

async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    env::Env::system().timeout(limit, future).await
}

/// The cause that says most: the crate's own words are general.
fn root(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn location(config: &Config) -> String {
    let ports = config.get_ports();
    let host = config.get_hosts().first().map_or_else(
        || "localhost".to_owned(),
        |host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        },
    );
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("postgres://{host}:{}/{database}", ports.first().copied().unwrap_or(5432))
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("location", &self.0.location).finish_non_exhaustive()
    }
}
