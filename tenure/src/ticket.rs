//! A lease as a value: what is needed to find it again, in a form that can be stored and sent.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::hold::Fence;
use crate::info::time;
use crate::key::Key;
use crate::lock::OWNER_MAX;
use crate::options::{Options, within};
use crate::proto::{Claim, ClaimId, Micros, Owner};

/// A ticket for a [`Lease`](crate::Lease): whoever has it can refresh and release the lease. **Keep it as a secret.**
///
/// It is serialised by `serde`, or as one line of text by [`encode`](Self::encode) and [`decode`](Self::decode). What is
/// read is checked: a ticket that this version does not know, or that could not have been issued, is refused. Neither
/// `Debug` nor `Display` shows the claim's id.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Ticket {
    pub(crate) store: String,
    pub(crate) key: Key,
    pub(crate) id: ClaimId,
    pub(crate) owner: Owner,
    pub(crate) fence: Fence,
    pub(crate) claim: Claim,
    pub(crate) term: Duration,
    pub(crate) expires: Micros,
    pub(crate) bury: bool,
}

/// The version of the form below.
const VERSION: u32 = 1;

/// A ticket as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    /// The store's kind.
    store: String,
    name: String,
    /// The claim's id, in hex digits.
    id: String,
    owner: String,
    fence: u64,
    permits: u32,
    limit: u32,
    term_ms: u64,
    /// On the wall clock of whoever wrote it, in microseconds since the Unix epoch.
    expires: Micros,
    /// A request for the claim may have been under way when it was granted, so that its release refuses its id.
    bury: bool,
}

impl Ticket {
    /// The lock's name.
    pub fn name(&self) -> &str {
        self.key.as_str()
    }

    /// The token of the lease.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Who holds it; a name that was drawn for it, where no owner was named.
    pub fn owner(&self) -> &str {
        self.owner.as_str()
    }

    /// How long the lease lasts after each refresh.
    pub fn term(&self) -> Duration {
        self.term
    }

    /// When the lease ends unless it is refreshed, by the wall clock of the machine that wrote the ticket. The store
    /// decides by its own, so this is for people to read.
    pub fn expires(&self) -> SystemTime {
        time(self.expires)
    }

    /// The ticket as one line of text.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("text and numbers can be encoded")
    }

    /// The ticket that the text is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is none, or one of a version that is not known here. The text is not repeated.
    pub fn decode(text: &str) -> Result<Self> {
        // The cause may quote the text, and so the id.
        serde_json::from_str(text).map_err(|_| refused("is not what `encode` wrote"))
    }
}

fn refused(why: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("the lease's ticket {why}: give one as it was issued"))
}

impl TryFrom<Written> for Ticket {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        let Written { version, store, name, id, owner, fence, permits, limit, term_ms, expires, bury } = written;
        if version != VERSION {
            return Err(refused(&format!("is of version {version}, and version {VERSION} is what is known here")));
        }
        let key = Key::new(name)?;
        let id = ClaimId::parse(&id).ok_or_else(|| refused("names no claim"))?;
        let claim = Claim::new(permits, limit).map_err(|error| refused(&format!("is for a wrong claim ({error})")))?;
        if !(1..=OWNER_MAX).contains(&owner.len()) {
            return Err(refused("has an owner that nobody can be"));
        }
        if fence == 0 {
            return Err(refused("has no fence"));
        }
        let term = Duration::from_millis(term_ms);
        within("term", term, Options::TTL)?;
        let (owner, fence) = (Owner::new(owner), Fence(fence));
        Ok(Self { store, key, id, owner, fence, claim, term, expires, bury })
    }
}

impl From<Ticket> for Written {
    fn from(ticket: Ticket) -> Self {
        let Ticket { store, key, id, owner, fence, claim, term, expires, bury } = ticket;
        Self {
            version: VERSION,
            store,
            name: key.as_str().to_owned(),
            id: id.to_string(),
            owner: owner.as_str().to_owned(),
            fence: fence.get(),
            permits: claim.permits(),
            limit: claim.limit(),
            term_ms: term.as_millis() as u64,
            expires,
            bury,
        }
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a lease of {:?} on the lock {:?} with fence {}", self.term, self.key, self.fence)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Ticket");
        debug.field("name", &self.key).field("fence", &self.fence.get()).field("term", &self.term);
        debug.field("expires", &self.expires()).finish_non_exhaustive()
    }
}
