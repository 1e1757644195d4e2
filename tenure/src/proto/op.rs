//! What a client may ask of a lock, and what it may be told.
//!
//! There are four operations, and each is idempotent by claim id: when the reply to one got lost, the client sends the
//! same operation again and is told how things stand.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Micros;

/// Names one acquisition: 128 random bits, new for each.
///
/// The id belongs to the acquisition, never to the lock object, so that a handle that outlived its hold cannot touch
/// its successor's. Whoever knows it can release the claim; it is shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClaimId([u8; 16]);

impl ClaimId {
    /// An id from 128 bits, which must come from a source of randomness that cannot be guessed.
    pub const fn new(bits: u128) -> Self {
        Self(bits.to_be_bytes())
    }

    /// The id as its 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The id that `bytes` spell, if there are 16 of them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The id that 32 hex digits spell.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        digits.then(|| u128::from_str_radix(text, 16).ok().map(Self::new)).flatten()
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who claims, where that is somebody who may come back for more: claims of one owner do not exclude each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner(Arc<str>);

impl Owner {
    /// The owner of that name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The owner's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How much of a lock is claimed: `permits` out of `limit`.
///
/// | kind | permits | limit |
/// | --- | --- | --- |
/// | mutex, writer | [`Claim::ALL`] | [`Claim::ALL`] |
/// | reader | 1 | [`Claim::ALL`] |
/// | semaphore | n | k |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claim {
    permits: u32,
    limit: u32,
}

/// A claim that nothing could ever grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidClaim {
    /// The permits asked for.
    pub permits: u32,
    /// The limit they were to come out of.
    pub limit: u32,
}

impl fmt::Display for InvalidClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { permits, limit } = self;
        write!(
            f,
            "{permits} permits out of {limit} can never be granted: ask for 1 to {limit} of a limit of at least 1"
        )
    }
}

impl std::error::Error for InvalidClaim {}

impl Claim {
    /// All there is.
    pub const ALL: u32 = u32::MAX;
    /// The claim of a mutex, and of a writer.
    pub const EXCLUSIVE: Self = Self { permits: Self::ALL, limit: Self::ALL };
    /// The claim of a reader.
    pub const SHARED: Self = Self { permits: 1, limit: Self::ALL };

    /// A claim of `permits` out of `limit`.
    ///
    /// # Errors
    ///
    /// When no lock could ever grant it: no permits, or more of them than the limit.
    pub const fn new(permits: u32, limit: u32) -> Result<Self, InvalidClaim> {
        if permits == 0 || permits > limit { Err(InvalidClaim { permits, limit }) } else { Ok(Self { permits, limit }) }
    }

    /// How many permits are claimed.
    pub const fn permits(self) -> u32 {
        self.permits
    }

    /// Out of how many.
    pub const fn limit(self) -> u32 {
        self.limit
    }

    /// Whether two such claims exclude each other.
    pub const fn is_exclusive(self) -> bool {
        self.permits == self.limit
    }
}

/// What a client asks of a lock.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Enter, or take a place in the queue, or keep it; also confirms a grant that was pushed.
    Acquire(Acquire),
    /// Hold on for longer. Never re-creates what is gone.
    Renew(Renew),
    /// Leave, as a holder or out of the queue. Never touches another claim.
    Release(Release),
    /// A holder's claim becomes another one, of whomever: nobody is in between, and who waits goes on waiting.
    HandOver(HandOver),
}

impl Op {
    /// The claim that the operation is about.
    pub fn id(&self) -> ClaimId {
        match self {
            Op::Acquire(acquire) => acquire.id,
            Op::Renew(renew) => renew.id,
            Op::Release(release) => release.id,
            Op::HandOver(hand_over) => hand_over.id,
        }
    }
}

/// See [`Op::Acquire`].
#[derive(Clone, Debug, PartialEq)]
pub struct Acquire {
    /// Names the acquisition.
    pub id: ClaimId,
    /// How much is claimed.
    pub claim: Claim,
    /// How long the hold lasts unless it is renewed.
    pub ttl: Duration,
    /// How long a place in the queue lasts unless it is asked for again; zero: do not queue, and give up a place held.
    pub patience: Duration,
    /// Who claims; `None` is somebody whom no other claim belongs to.
    pub owner: Option<Owner>,
    /// How many claims the owner may have at once, in and waiting; without an owner it says nothing.
    pub max: u32,
    /// How long the lock remembers its last fence once nobody holds or awaits it.
    pub memory: Duration,
    /// What others may read about the holder; opaque here.
    pub meta: Bytes,
    /// The token that is proposed: the claim enters under it, or under the one after the last where that is not earlier;
    /// a claim that is in already takes it over where it is later than the last. Zero: the store mints one.
    pub fence: u64,
}

/// See [`Op::Renew`].
#[derive(Clone, Debug, PartialEq)]
pub struct Renew {
    /// Names the acquisition.
    pub id: ClaimId,
    /// How long from now the hold is to last. A renewal never shortens it.
    pub ttl: Duration,
    /// The newest token under which the claim was handed on without asking the store; zero where it was not.
    pub fence: u64,
}

/// See [`Op::Release`].
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// Names the acquisition.
    pub id: ClaimId,
    /// For how long the id is refused from now on, so that an `Acquire` still under way cannot bring it back; zero where
    /// none is under way.
    pub bury: Duration,
    /// As [`Renew::fence`].
    pub fence: u64,
}

/// See [`Op::HandOver`]. The heir has the permits of the claim that it follows, under a token of its own, later than any.
///
/// It is `Held` where the heir is in, by this operation or an earlier one of the same. `Busy` says that the old claim's owner has
/// others on the lock, in or waiting, beside which the heir has no room; it stays as it is. `Gone` says that the old
/// claim is not in. The heir's owner may be in already, or wait; how many claims it may have is not asked.
#[derive(Clone, Debug, PartialEq)]
pub struct HandOver {
    /// Names the heir: new for each hand-over.
    pub id: ClaimId,
    /// The claim that it takes the place of.
    pub from: ClaimId,
    /// For how long that one's id is refused from now on, as [`Release::bury`].
    pub bury: Duration,
    /// How long the heir's hold lasts unless it is renewed.
    pub ttl: Duration,
    /// Whose the heir is.
    pub owner: Option<Owner>,
    /// What others may read about the heir; opaque here.
    pub meta: Bytes,
    /// As [`Acquire::fence`].
    pub fence: u64,
}

/// The answer to an [`Op`], with the store's clock at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// How things stand for the claim.
    pub outcome: Outcome,
    /// The store's clock when it answered.
    pub now: Micros,
}

/// How things stand for a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The claim is in.
    Held {
        /// Strictly rising in the order of grants; a resource that has seen a later one refuses this one.
        fence: u64,
        /// When it was let in.
        since: Micros,
        /// When it ends unless it is renewed.
        until: Micros,
        /// How many claims stand in the queue.
        waiting: u32,
    },
    /// The claim is not in; with a `patience`, it stands in the queue.
    Busy {
        /// At most this many stand before it in the queue; zero is the head.
        ahead: u32,
        /// Nothing here expires before that time has passed, so without a push there is no use in asking sooner.
        retry_in: Duration,
    },
    /// The claim is neither in nor in the queue: the answer to a `Release`, and to a `Renew` or `HandOver` of what is gone.
    Gone {
        /// What it was before this operation.
        was: Was,
    },
    /// The claim was turned away, and waiting would not help.
    Refused(Refusal),
}

/// What a claim was before it was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Was {
    /// It was in.
    Holding,
    /// It stood in the queue.
    Waiting,
    /// It was unknown: released before, expired, or never there.
    Unknown,
}

/// Why a claim was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The lock is in use with another limit.
    Mismatch {
        /// The limit that it is in use with.
        limit: u32,
    },
    /// An owner that is in asks for more, and so does another one: each may wait for the other for ever.
    Deadlock,
    /// The owner has as many claims as it may have.
    Full,
    /// The claim was released before this request for it arrived.
    Buried,
}

/// Where a process can be told that a claim of its own was let in: a channel, a socket, or nothing, as the store has it.
pub type Inbox = Arc<str>;

/// A claim that an operation of somebody else's let in.
///
/// It holds until its place's deadline, which its owner knows without any message: it counted it from its own last send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whose turn it is.
    pub id: ClaimId,
    /// The token of the hold.
    pub fence: u64,
    /// Whom to tell.
    pub inbox: Inbox,
}
