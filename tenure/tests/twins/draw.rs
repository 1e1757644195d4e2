//! What is drawn: histories of every size, pace and mixture.

use super::*;

/// How a history is drawn.
pub(super) struct Shape {
    ids: u128,
    limit: u32,
    ttl: Micros,
    patience: Micros,
    memory: Micros,
    step: Micros,
    owned: f64,
    whole: f64,
}

impl Twins {
    pub(super) fn shape(&mut self) -> Shape {
        let rng = &mut self.rng;
        let mut of = |choices: &[u64]| choices[rng.random_range(0..choices.len())];
        let second = 1_000_000;
        Shape {
            ids: of(&[2, 3, 5, 12, 12, 40, 1_000]).into(),
            limit: of(&[u64::from(Claim::ALL), u64::from(Claim::ALL), 1, 3, 50]) as u32,
            ttl: of(&[second / 100, second, 30 * second]),
            patience: of(&[second / 100, second, 30 * second]),
            memory: of(&[0, 1_000, second, 60 * second]),
            step: of(&[1, 10, 1_000, 100_000, 2 * second]),
            owned: of(&[0, 1, 3]) as f64 * 0.3,
            whole: of(&[0, 1, 5]) as f64 * 0.1,
        }
    }

    /// The time at the next call; now and then the clock is set back.
    pub(super) fn next_time(&mut self, shape: &Shape) -> Micros {
        match self.rng.random_range(0..200) {
            0..20 => self.now,
            197 | 198 => self.now - self.rng.random_range(0..shape.step * 100),
            199 => self.now + self.rng.random_range(0..shape.step * 100),
            _ => self.now + self.rng.random_range(0..=shape.step),
        }
    }

    pub(super) fn op(&mut self, history: &History, shape: &Shape) -> (usize, Op) {
        let rng = &mut self.rng;
        let earlier = history.calls.last().and_then(|call| call.ops.first());
        if let Some(again) = earlier.filter(|_| rng.random_bool(0.05)) {
            return again.clone();
        }
        let lock = rng.random_range(0..history.records.len());
        let record = &history.records[lock];
        let known: Vec<ClaimId> = match rng.random_range(0..12) {
            0..3 => record.holders.iter().map(|entry| entry.id).collect(),
            3 => record.queue.iter().map(|entry| entry.id).collect(),
            4 => record.queue.iter().take(1).map(|entry| entry.id).collect(),
            5 => record.buried.iter().take(2).map(|grave| grave.id).collect(),
            _ => Vec::new(),
        };
        let drawn = ClaimId::new(rng.random_range(0..shape.ids));
        let id = if known.is_empty() { drawn } else { known[rng.random_range(0..known.len())] };
        let op = match rng.random_range(0..100) {
            0..70 => Op::Acquire(Acquire { fence: self.fence(record), ..self.acquire(id, shape) }),
            70..76 => self.hand_over(id, shape, record),
            76..82 => Op::Renew(Renew { id, ttl: self.span(shape.ttl), fence: self.fence(record) }),
            _ => {
                let bury = if rng.random_bool(0.1) { rng.random_range(0..=shape.ttl) } else { 0 };
                Op::Release(Release { id, bury: Duration::from_micros(bury), fence: self.fence(record) })
            }
        };
        (lock, op)
    }

    /// Mostly none, else the latest, one that a client may have minted, or one that none could.
    fn fence(&mut self, record: &Record) -> u64 {
        match self.rng.random_range(0..10) {
            0 => record.fence + self.rng.random_range(0..1_000),
            1 => self.rng.random_range(0..2 * self.now),
            2..4 => record.fence,
            _ => 0,
        }
    }

    fn acquire(&mut self, id: ClaimId, shape: &Shape) -> Acquire {
        let (ttl, memory) = (self.span(shape.ttl), self.span(shape.memory));
        let patience = if self.rng.random_bool(0.2) { Duration::ZERO } else { self.span(shape.patience) };
        let rng = &mut self.rng;
        // Most ids ask for the same each time, as clients do.
        let mut own = StdRng::seed_from_u64(u64::from(id.as_bytes()[15]));
        let draw = if rng.random_bool(0.9) { &mut own } else { &mut *rng };
        let limit = if draw.random_bool(0.01) { draw.random_range(1..5) } else { shape.limit };
        let permits = if draw.random_bool(shape.whole) { limit } else { draw.random_range(1..=limit.min(3)) };
        let owner = draw.random_bool(shape.owned).then(|| Owner::new(["", "ann", "bob"][draw.random_range(0..3)]));
        let meta: Vec<u8> = (0..draw.random_range(0..40)).map(|_| draw.random()).collect();
        let max = if rng.random_bool(0.1) { rng.random_range(0..3) } else { rng.random_range(1..30) };
        let claim = Claim::new(permits, limit).unwrap();
        Acquire { id, claim, ttl, patience, owner, max, memory, meta: Bytes::from(meta), fence: 0 }
    }

    /// Mostly of somebody who is in, and mostly to somebody new.
    fn hand_over(&mut self, id: ClaimId, shape: &Shape, record: &Record) -> Op {
        let holders = &record.holders;
        let is_known = !holders.is_empty() && self.rng.random_bool(0.9);
        let from = if is_known { holders[self.rng.random_range(0..holders.len())].id } else { id };
        let heir = if self.rng.random_bool(0.3) { id } else { ClaimId::new(self.rng.random_range(0..2 * shape.ids)) };
        let bury = if self.rng.random_bool(0.3) { self.span(shape.ttl) } else { Duration::ZERO };
        let Acquire { id, ttl, owner, meta, .. } = self.acquire(heir, shape);
        Op::HandOver(HandOver { id, from, bury, ttl, owner, meta, fence: self.fence(record) })
    }

    fn span(&mut self, most: Micros) -> Duration {
        let least = if self.rng.random_bool(0.05) { 0 } else { most / 2 };
        Duration::from_micros(self.rng.random_range(least..=most))
    }
}
