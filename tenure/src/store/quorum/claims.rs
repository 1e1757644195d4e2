//! What this process knows of each claim: where it stands, and under which id.
//!
//! A claim has an id of its own at each node, of which all but the last byte are always the client's. Once a release was
//! sent to a node, the last byte goes on by one, so that however late that release arrives it ends nothing that came after.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::env::Moment;
use crate::proto::{Acquire, ClaimId};
use crate::store::Told;

/// All but the last byte of a claim's id.
pub(super) type Base = [u8; 15];

pub(super) fn base(id: ClaimId) -> Base {
    let mut base = Base::default();
    base.copy_from_slice(&id.as_bytes()[..15]);
    base
}

/// The id with that much added to its last byte.
fn numbered(id: ClaimId, n: u8) -> ClaimId {
    let mut bytes = *id.as_bytes();
    bytes[15] = bytes[15].wrapping_add(n);
    ClaimId::new(u128::from_be_bytes(bytes))
}

/// How a claim stands at one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing of it is there.
    #[default]
    Out,
    /// A request is under way, and its answer will be heard.
    Asked,
    /// Something may be there: a request got no answer.
    Unknown,
    /// It is in.
    In,
    /// It waits there.
    Waits,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    n: u8,
    /// With which `n` somebody listens, if anybody does.
    heard: u8,
    pub(super) standing: Standing,
}

#[derive(Debug)]
pub(super) struct Claim {
    id: ClaimId,
    /// What it asks for.
    pub(super) asks: Option<Acquire>,
    /// Another process made it: it may be at more nodes than are known.
    pub(super) is_found: bool,
    /// The token under which it was granted; zero before.
    pub(super) fence: u64,
    /// When it was granted, by the clock of the node that told it first.
    pub(super) since: u64,
    /// The node in whose queue it stands.
    pub(super) home: Option<usize>,
    /// In how many rounds it had its home, and not the others.
    pub(super) rounds: u32,
    /// What those who listen for it say, and have to know.
    pub(super) told: Arc<Told>,
    places: Vec<Place>,
    /// It was released: what is still there is to go.
    pub(super) is_over: bool,
    /// When it has ended by itself.
    pub(super) until: Moment,
}

impl Claim {
    fn new(id: ClaimId) -> Self {
        Self {
            id,
            asks: None,
            is_found: false,
            fence: 0,
            since: 0,
            home: None,
            rounds: 0,
            told: Arc::default(),
            places: Vec::new(),
            is_over: false,
            until: Moment(0),
        }
    }

    /// Its id at that node.
    pub(super) fn id(&self, node: usize) -> ClaimId {
        numbered(self.id, self.places.get(node).map_or(0, |place| place.n))
    }

    pub(super) fn standing(&self, node: usize) -> Standing {
        self.places.get(node).map(|place| place.standing).unwrap_or_default()
    }

    pub(super) fn stand(&mut self, node: usize, standing: Standing) {
        let place = self.place(node);
        place.standing = standing;
        if standing == Standing::Waits && place.n != place.heard {
            self.told.turn.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The id to listen for at that node.
    pub(super) fn listen(&mut self, node: usize) -> ClaimId {
        let place = self.place(node);
        place.heard = place.n;
        self.id(node)
    }

    /// Whether an answer to that id is about the claim as it is now.
    pub(super) fn is_at(&self, node: usize, id: ClaimId) -> bool {
        self.id(node) == id
    }

    /// It is being released there under its present id, and will have the next one.
    pub(super) fn leave(&mut self, node: usize) -> (ClaimId, Standing) {
        let id = self.id(node);
        self.home = self.home.filter(|home| *home != node);
        let place = self.place(node);
        place.n = place.n.wrapping_add(1);
        (id, std::mem::take(&mut place.standing))
    }

    /// As another process made it.
    pub(super) fn is_known_as(&mut self, node: usize, id: ClaimId, standing: Standing) {
        let n = id.as_bytes()[15].wrapping_sub(self.id.as_bytes()[15]);
        *self.place(node) = Place { n, heard: n, standing };
    }

    /// The nodes where something of it may be.
    pub(super) fn nodes(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|node| self.standing(*node) != Standing::Out).collect()
    }

    /// The token of a grant that was pushed, once.
    pub(super) fn take_told(&self) -> Option<u64> {
        Some(self.told.fence.swap(0, Ordering::AcqRel)).filter(|fence| *fence > 0)
    }

    fn place(&mut self, node: usize) -> &mut Place {
        if self.places.len() <= node {
            self.places.resize(node + 1, Place::default());
        }
        &mut self.places[node]
    }
}

/// All claims, by base.
#[derive(Debug, Default)]
pub(super) struct Claims {
    by_base: HashMap<Base, Claim>,
    /// They are looked through for expired ones when there are this many: twice as many as were left the last time.
    purge_at: usize,
}

impl Claims {
    /// The claim of that id, which is made where it is not known.
    pub(super) fn of(&mut self, id: ClaimId, now: Moment, lasts: Duration) -> &mut Claim {
        if self.by_base.len() >= self.purge_at {
            // Who listens for a claim will ask for it.
            self.by_base.retain(|_, claim| claim.until > now || Arc::strong_count(&claim.told) > 1);
            self.purge_at = 2 * self.by_base.len() + 64;
        }
        let claim = self.by_base.entry(base(id)).or_insert_with(|| Claim::new(id));
        claim.until = claim.until.max(now + lasts);
        claim
    }

    pub(super) fn get(&mut self, id: ClaimId) -> Option<&mut Claim> {
        self.by_base.get_mut(&base(id))
    }

    /// How many claims are in at each of those nodes.
    pub(super) fn count(&self, nodes: &[usize]) -> Vec<usize> {
        let is_in =
            |claim: &Claim, node: usize| claim.fence > 0 && !claim.is_over && claim.standing(node) == Standing::In;
        nodes.iter().map(|node| self.by_base.values().filter(|claim| is_in(claim, *node)).count()).collect()
    }

    pub(super) fn forget(&mut self, id: ClaimId) {
        self.by_base.remove(&base(id));
    }
}
