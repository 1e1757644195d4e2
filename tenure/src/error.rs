//! One error: a kind that a program can act on, a sentence that a person can, and the cause where there is one.

use std::fmt;
use std::sync::Arc;

/// What went wrong, as far as a program would act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The time allowed for waiting passed, or the retries were used up; nothing is held and no place is kept.
    Timeout,
    /// The hold is no longer ours: it expired, was broken, or its store lost it.
    Lost,
    /// Two owners that are in both ask for more, and would wait for each other for ever.
    Deadlock,
    /// The owner has as many claims on the lock as it may have, or others beside the lease that was to be handed over.
    ReentryLimit,
    /// The lock is in use with another limit, as a mutex here and a semaphore there, say; or a saga was begun otherwise
    /// than it is to go on.
    Mismatch,
    /// An option, a name or a URL that cannot be meant.
    Invalid,
    /// The store cannot be reached, or cannot serve now. The operation was certainly not carried out.
    Unavailable,
    /// The operation was sent and no reply came: it may have been carried out.
    NoReply,
    /// The store refuses this user or password, or this user may not do what is needed.
    Denied,
    /// Something that is not ours lies where the lock's record should be. It was left alone.
    Foreign,
    /// The store is not there yet, and was not to be made.
    Missing,
    /// The store cannot do what was asked of it.
    Unsupported,
    /// The store broke its contract, or its data is damaged.
    Corrupt,
    /// The client was closed.
    Closed,
    /// A transaction was rolled back: nothing of it was written.
    RolledBack,
}

/// The error of everything here. It is cheap to clone.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of that kind. The message names what was given and what would do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, message: message.into(), source: None }))
    }

    /// The same with its cause, which [`source`](std::error::Error::source) then tells.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner { kind, message: message.into(), source: Some(source.into()) }))
    }

    /// What went wrong, as far as a program would act on it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the operation may have been carried out although no reply came.
    pub fn is_ambiguous(&self) -> bool {
        self.kind() == ErrorKind::NoReply
    }

    /// Whether the same operation may succeed when it is tried again later.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind(), ErrorKind::Unavailable | ErrorKind::NoReply)
    }

    /// Whether the time allowed for waiting passed.
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::Timeout
    }

    /// Whether the hold was no longer ours.
    pub fn is_lost(&self) -> bool {
        self.kind() == ErrorKind::Lost
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.0.kind).field("message", &self.0.message);
        if let Some(source) = &self.0.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
