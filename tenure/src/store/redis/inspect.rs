//! A server as an operator looks at it: any command, and its answer as it came. The store itself is not involved.

use std::fmt;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, Pipeline, RedisConnectionInfo, Value};

use super::url::{Address, Config, Place};
use super::{connect, errors};
use crate::error::Result;

/// A Redis server that a store's URL leads to, and how to log in there. Nothing is connected yet.
#[derive(Clone)]
pub struct Server {
    config: Config,
    addr: ConnectionAddr,
    login: RedisConnectionInfo,
}

/// Where a URL says that the data is to be found.
pub(crate) enum Found {
    Server(Server),
    Sentinels { sentinels: Vec<Server>, master: String, data: Server },
    Cluster(Vec<Server>),
}

/// Reads the URL of one server, of Sentinels or of a cluster.
pub(crate) fn find(url: &str) -> Result<Found> {
    let config = Config::parse(url)?;
    let of = |address: &Address, login: &RedisConnectionInfo| Server {
        config: Config { server: address.to_string(), ..config.clone() },
        addr: config.addr(address),
        login: login.clone(),
    };
    Ok(match &config.place {
        Place::One(addr) => {
            let (addr, login) = (addr.clone(), config.login.clone());
            Found::Server(Server { config, addr, login })
        }
        Place::Sentinel { sentinels, login, master } => Found::Sentinels {
            sentinels: sentinels.iter().map(|address| of(address, login)).collect(),
            master: master.clone(),
            data: of(&sentinels[0], &config.login),
        },
        Place::Cluster { seeds } => Found::Cluster(seeds.iter().map(|address| of(address, &config.login)).collect()),
    })
}

impl Server {
    /// Its address, as messages name it.
    pub fn name(&self) -> &str {
        &self.config.server
    }

    /// What the names of all keys begin with.
    pub fn prefix(&self) -> &str {
        &self.config.prefix
    }

    /// The user of the URL; `None` for the default one.
    pub fn user(&self) -> Option<&str> {
        self.login.username()
    }

    /// How many replicas have to acknowledge a grant, as the URL has it.
    pub fn replicas(&self) -> u32 {
        self.config.replicas
    }

    /// Another server of the same deployment, with the same login.
    #[must_use]
    pub fn at(&self, host: &str, port: u16) -> Self {
        let address = Address { host: host.to_owned(), port };
        let addr = self.config.addr(&address);
        Self { config: Config { server: address.to_string(), ..self.config.clone() }, addr, ..self.clone() }
    }

    /// Whether that is a key under which a lock's record may lie.
    pub fn is_place_of_a_lock(&self, key: &[u8]) -> bool {
        super::keys::Keys::new(&self.config.prefix).decode(key).is_some()
    }

    /// Connects and logs in.
    ///
    /// # Errors
    ///
    /// As [`Redis::connect`](super::Redis::connect), except that no rights and no version are asked for.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub async fn connect(&self) -> Result<Session> {
        let client = connect::client(&self.config, self.config.target(self.addr.clone(), &self.login)?)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(Some(self.config.response_timeout));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        let connection = connection.map_err(|error| errors::unreachable(&self.config, error))?;
        Ok(Session { server: self.config.server.clone(), connection })
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("name", &self.config.server).finish_non_exhaustive()
    }
}

/// A connection to a [`Server`]. It is not made anew when it is lost.
#[derive(Clone)]
pub struct Session {
    server: String,
    connection: MultiplexedConnection,
}

impl Session {
    /// Sends one command and waits for its answer, no longer than the URL's `response_timeout`.
    ///
    /// # Errors
    ///
    /// When no answer came. What the server refuses is an answer.
    ///
    /// # Cancel safety
    ///
    /// The command may be carried out.
    pub async fn ask(&self, words: &[&str]) -> Result<Answer> {
        Ok(self.ask_many(&[words]).await?.into_iter().next().unwrap_or(Answer::Nil))
    }

    /// Sends many at once; as many answers, in their order.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    ///
    /// # Cancel safety
    ///
    /// As [`ask`](Self::ask).
    pub async fn ask_many<W: AsRef<[u8]>>(&self, commands: &[&[W]]) -> Result<Vec<Answer>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::new();
        for words in commands {
            let mut command = redis::Cmd::new();
            words.iter().for_each(|word| _ = command.arg(word.as_ref()));
            pipeline.add_command(command);
        }
        let mut connection = self.connection.clone();
        let values = connection.send_packed_commands(&pipeline, 0, commands.len()).await;
        let values = values.map_err(|error| {
            let error = errors::no_reply(&self.server, error);
            errors::of_reading(&self.server, error)
        })?;
        Ok(values.into_iter().map(Answer::of).collect())
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("server", &self.server).finish_non_exhaustive()
    }
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// Nothing.
    Nil,
    /// A number.
    Number(i64),
    /// A text, or bytes.
    Text(Vec<u8>),
    /// A list; of a map, the names and values by turns.
    List(Vec<Answer>),
    /// It refused: its words, the code first.
    Refused(String),
}

impl Answer {
    fn of(value: Value) -> Self {
        match value {
            Value::Nil => Self::Nil,
            Value::Int(number) => Self::Number(number),
            Value::Boolean(is_so) => Self::Number(is_so.into()),
            Value::BulkString(bytes) => Self::Text(bytes),
            Value::SimpleString(text) | Value::VerbatimString { text, .. } => Self::Text(text.into_bytes()),
            Value::Okay => Self::Text(b"OK".to_vec()),
            Value::Array(items) | Value::Set(items) => Self::List(items.into_iter().map(Self::of).collect()),
            Value::Map(pairs) => {
                Self::List(pairs.into_iter().flat_map(|(name, value)| [Self::of(name), Self::of(value)]).collect())
            }
            Value::Attribute { data, .. } => Self::of(*data),
            Value::ServerError(error) => {
                Self::Refused(format!("{} {}", error.code(), error.details().unwrap_or_default()))
            }
            other => Self::Text(format!("{other:?}").into_bytes()),
        }
    }

    /// As text; a number, too. Empty for anything else.
    pub fn text(&self) -> String {
        match self {
            Self::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Number(number) => number.to_string(),
            Self::Nil | Self::List(_) | Self::Refused(_) => String::new(),
        }
    }

    /// Its items; none where it is no list.
    pub fn items(&self) -> &[Self] {
        if let Self::List(items) = self { items } else { &[] }
    }

    /// Whether the user has no right to ask that.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Refused(words) if words.starts_with("NOPERM"))
    }
}
