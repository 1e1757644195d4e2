//! Asks the Sentinels of a deployment where its master is, and hears from them when that changes.
//!
//! ```text
//!   Sentinel ── get-master-addr-by-name, master: address and epoch, which must fit ──┐
//!   Sentinel ── … ──────────────────────────────────────────────────────────────────┼─▶ a majority agrees: there
//!   Sentinel ── … ──────────────────────────────────────────────────────────────────┘
//!           └── +switch-master ──▶ whoever is at the old one leaves at once
//! ```
//!
//! One Sentinel is not believed: it may be cut off from the others, or in the middle of a failover, when the one that leads
//! it pairs the new epoch with the old address. Two majorities have a member in common, so once one agrees on the outcome
//! of a failover, none agrees any more on what was before.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline, PushInfo, PushKind, RedisError, Value};
use tokio::sync::watch;

use self::answer::{Answer, agreed, fit_replicas, named_master, switched};
use super::url::{Address, Config, Place};
use super::{connect, errors};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

mod answer;

/// How often the Sentinels are asked whether all is as it was, should they not have told.
const POLL: Duration = Duration::from_secs(2);

/// The Sentinels of one master.
pub(super) struct Sentinels {
    config: Config,
    env: Env,
    master: String,
    each: Vec<Sentinel>,
    /// Where a Sentinel last said that the master has gone.
    switched: watch::Sender<Option<Address>>,
}

struct Sentinel {
    address: Address,
    client: Client,
    /// It is kept, to ask again, and to hear of failovers.
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Sentinels {
    /// The Sentinels that the URL names, where it names any. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] where the certificates to trust cannot be read.
    pub(super) fn new(config: &Config, env: Env) -> Result<Option<Arc<Self>>> {
        let Place::Sentinel { sentinels, login, master } = &config.place else { return Ok(None) };
        let each = sentinels.iter().map(|address| {
            let client = connect::client(config, config.target(config.addr(address), login)?)?;
            Ok(Sentinel { address: address.clone(), client, connection: Mutex::default() })
        });
        let (each, master) = (each.collect::<Result<_>>()?, master.clone());
        let (switched, _) = watch::channel(None);
        Ok(Some(Arc::new(Self { config: config.clone(), env, master, each, switched })))
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Where a majority of the Sentinels agrees that the master is. It waits for no more of them than it takes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] where there is no such majority, with what each of them says;
    /// [`ErrorKind::Denied`] where most of them refuse the login, [`ErrorKind::Invalid`] where they know no such master.
    pub(super) async fn master(&self) -> Result<Address> {
        let asked = self.each.iter().map(async |sentinel| (sentinel, self.ask(sentinel).await));
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut answers = Vec::with_capacity(self.each.len());
        while let Some((sentinel, answer)) = asked.next().await {
            answers.push((&sentinel.address, answer));
            if let Some(address) = agreed(self.each.len(), answers.iter().map(|(_, answer)| answer)) {
                return Ok(address.clone());
            }
        }
        Err(self.disagreement(&answers))
    }

    /// A replica that is fit to be read from, if any Sentinel knows one. Any of them will do: what it says may be as
    /// stale as what is read.
    pub(super) async fn replica(&self) -> Option<Address> {
        let fit = self.replicas().await;
        let at = self.env.bits() as usize;
        (!fit.is_empty()).then(|| fit[at % fit.len()].clone())
    }

    async fn replicas(&self) -> Vec<Address> {
        let mut commands = Pipeline::new();
        commands.cmd("SENTINEL").arg("REPLICAS").arg(&self.master);
        let mut asked: FuturesUnordered<_> = self.each.iter().map(|one| self.exchange(one, &commands)).collect();
        while let Some(values) = asked.next().await {
            let fit = values.map(|values| fit_replicas(values.into_iter().next().unwrap_or_default()));
            if let Some(fit) = fit.ok().filter(|fit| !fit.is_empty()) {
                return fit;
            }
        }
        Vec::new()
    }

    /// Completes when a Sentinel says that the master has gone elsewhere, or a majority of them agrees on another one.
    pub(super) async fn master_moved(&self, from: &Address) {
        let mut switched = self.switched.subscribe();
        loop {
            tokio::select! {
                biased;
                _ = switched.changed() => {
                    let to = switched.borrow_and_update();
                    if to.as_ref().is_some_and(|to| to != from) {
                        return;
                    }
                }
                () = self.env.sleep(self.env.jitter(POLL)) => {
                    if self.master().await.is_ok_and(|master| master != *from) {
                        return;
                    }
                }
            }
        }
    }

    /// Completes when no Sentinel has the replica among those that are fit any more, and some has others.
    pub(super) async fn replica_gone(&self, from: &Address) {
        loop {
            self.env.sleep(self.env.jitter(POLL)).await;
            let fit = self.replicas().await;
            if !fit.is_empty() && !fit.contains(from) {
                return;
            }
        }
    }

    async fn ask(&self, sentinel: &Sentinel) -> Answer {
        let mut commands = Pipeline::new();
        commands.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
        commands.cmd("SENTINEL").arg("MASTER").arg(&self.master);
        match self.exchange(sentinel, &commands).await {
            Ok(values) => named_master(values),
            Err(error) => Answer::Failed(error),
        }
    }

    async fn exchange(&self, sentinel: &Sentinel, commands: &Pipeline) -> Result<Vec<Value>> {
        let limit = self.config.connect_timeout;
        let late = || Error::new(ErrorKind::Unavailable, format!("no answer within {limit:?}"));
        let values = self.env.timeout(limit, sentinel.exchange(self, commands)).await;
        values.unwrap_or_else(|| {
            sentinel.forget();
            Err(late())
        })
    }

    fn refused(&self, sentinel: &Sentinel, error: RedisError) -> Error {
        let config = Config { server: sentinel.address.to_string(), ..self.config.clone() };
        let error = errors::unreachable(&config, error);
        match error.kind() {
            ErrorKind::Denied => Error::with_source(
                ErrorKind::Denied,
                "it does not let us in: give its login as sentinel_user and sentinel_password in the URL",
                error,
            ),
            _ => error,
        }
    }

    fn disagreement(&self, answers: &[(&Address, Answer)]) -> Error {
        let (all, need) = (self.each.len(), self.each.len() / 2 + 1);
        let says: Vec<_> = answers.iter().map(|(address, answer)| format!("{address}: {answer}")).collect();
        let says = says.join("; ");
        let count = |is_so: fn(&Answer) -> bool| answers.iter().filter(|(_, answer)| is_so(answer)).count();
        let denied = |answer: &Answer| matches!(answer, Answer::Failed(error) if error.kind() == ErrorKind::Denied);
        let (kind, what) = if count(|answer| matches!(answer, Answer::Unknown)) >= need {
            (ErrorKind::Invalid, "know no master of that name: give the one from sentinel.conf".to_owned())
        } else if count(denied) >= need {
            (ErrorKind::Denied, "let nobody in with this login".to_owned())
        } else {
            (ErrorKind::Unavailable, format!("do not agree on where the master is: {need} of {all} have to"))
        };
        Error::new(kind, format!("Redis at {}: the Sentinels {what} ({says})", self.config.server))
    }
}

impl Sentinel {
    async fn exchange(&self, sentinels: &Sentinels, commands: &Pipeline) -> Result<Vec<Value>> {
        let count = commands.len();
        let kept = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(mut connection) = kept {
            match connection.send_packed_commands(commands, 0, count).await {
                Ok(values) => return Ok(values),
                // It may have ended long ago, unnoticed: a question may be asked twice.
                Err(_) => self.forget(),
            }
        }
        let mut connection = self.connect(sentinels).await.map_err(|error| sentinels.refused(self, error))?;
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        let values = connection.send_packed_commands(commands, 0, count).await;
        values.map_err(|error| sentinels.refused(self, error))
    }

    async fn connect(&self, sentinels: &Sentinels) -> Result<MultiplexedConnection, RedisError> {
        let limit = Some(sentinels.config.connect_timeout);
        let (master, told) = (sentinels.master.clone(), sentinels.switched.clone());
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(limit)
            .set_response_timeout(limit)
            .set_push_sender(move |push: PushInfo| {
                if let (PushKind::Message, [_channel, Value::BulkString(text)]) = (push.kind, push.data.as_slice())
                    && let Some(address) = switched(&master, text)
                {
                    told.send_replace(Some(address));
                }
                Ok::<_, redis::aio::SendError>(())
            });
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&options).await?;
        // Where it is not allowed, there is still the poll.
        let _ = connection.subscribe("+switch-master").await;
        Ok(connection)
    }

    fn forget(&self) {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
