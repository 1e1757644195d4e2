//! What must be true of every turn of every history, said without the rule: by counting, comparing and looking back.

use tenure::proto::{Acquire, At, ClaimId, Entry, Grant, Op, Outcome, Record, Refusal, Was};

use crate::turn::{Turn, ahead, entrants, fits, fits_claim, is_empty, is_in, is_shared, same_owner, untils, weight};

pub(crate) type Kept = Result<(), String>;

macro_rules! must {
    ($holds:expr, $($otherwise:tt)+) => {
        if !$holds {
            return Err(format!($($otherwise)+));
        }
    };
}

pub(crate) fn permits_never_exceed_the_limit(turn: &Turn<'_>) -> Kept {
    let (taken, limit) = (weight(&turn.after.holders), turn.after.limit);
    must!(taken <= u64::from(limit), "{taken} permits are taken out of {limit}");
    Ok(())
}

pub(crate) fn a_lock_lets_its_head_in_as_soon_as_it_fits(turn: &Turn<'_>) -> Kept {
    if let Some(head) = turn.after.queue.first() {
        must!(!fits(turn.after, &head.owner, head.permits), "the head is left waiting");
    }
    Ok(())
}

pub(crate) fn nobody_waits_in_vain(turn: &Turn<'_>) -> Kept {
    if let (Op::Acquire(asked), Outcome::Busy { .. }) = (turn.op, turn.outcome) {
        let all_ahead_are_in = ahead(turn.before, asked.id).next().is_none() || is_in(turn.before, &asked.owner);
        let may_enter = all_ahead_are_in && fits_claim(turn.before, asked);
        must!(!may_enter, "it could have entered");
    }
    Ok(())
}

pub(crate) fn the_dead_are_gone_wherever_they_stood(turn: &Turn<'_>) -> Kept {
    for until in untils(turn.after) {
        must!(until > turn.now, "somebody stays whose time passed at {until}");
    }
    Ok(())
}

pub(crate) fn everything_has_an_expiry(turn: &Turn<'_>) -> Kept {
    let Record { expires, alarm, .. } = *turn.after;
    for until in untils(turn.after) {
        must!(expires >= until, "the record may be forgotten at {expires}, before {until}");
        must!(alarm <= until, "nobody looks before {alarm}, and somebody's time passes at {until}");
    }
    Ok(())
}

pub(crate) fn a_lock_is_remembered_for_a_while_and_then_forgotten(turn: &Turn<'_>) -> Kept {
    let (after, memory) = (turn.after, turn.past.memory);
    let last_time = |record: &Record| record.holders.iter().chain(&record.queue).map(|entry| entry.until).max();
    // Where a look finds it empty, time has emptied it, maybe long ago.
    let emptied = last_time(turn.found).map(|last| if turn.is_look { last } else { turn.now });
    if let Some(used) = last_time(after).or(emptied) {
        // A fence may be ahead of the clock, and must not come again when the clock gets there.
        let kept = used.max(turn.found.fence.max(after.fence) + 1) + memory;
        must!(after.expires >= kept || turn.now >= kept, "it is forgotten at {}, before {kept}", after.expires);
    }
    must!(after.fence >= turn.past.remembered, "the last fence was {}", turn.past.remembered);
    if is_empty(turn.found) && is_empty(after) {
        let graves = untils(after).max().unwrap_or_default();
        must!(after.expires <= turn.found.expires.max(graves), "it is kept until {}, unused", after.expires);
    }
    let earlier = if is_empty(after) { 0 } else { turn.past.until };
    let last = untils(after).chain([earlier, turn.past.latest]).max().unwrap_or_default();
    let enough = last.max(after.fence + 1) + memory;
    must!(after.expires <= enough, "it is kept until {}, and {enough} is enough", after.expires);
    Ok(())
}

pub(crate) fn fences_rise_in_the_order_of_grants(turn: &Turn<'_>) -> Kept {
    let mut last = turn.past.fence;
    for (entry, inside) in entrants(turn) {
        let own = || inside.iter().filter(|other| other.owner.is_some() && other.owner == entry.owner);
        if !turn.is_heir(entry.id) && own().any(|other| other.permits >= entry.permits) {
            must!(own().any(|other| other.fence == entry.fence), "a re-entry has a fence of its own");
        } else {
            let next = (last + 1).max(turn.now);
            must!(entry.fence == next, "the fence after {last} is {}, not {next}", entry.fence);
            last = entry.fence;
        }
    }
    Ok(())
}

pub(crate) fn nobody_overtakes_the_queue(turn: &Turn<'_>) -> Kept {
    for (entry, inside) in entrants(turn) {
        let comes_back = entry.id == turn.op.id() && inside.iter().any(|other| same_owner(other, &entry.owner));
        for other in ahead(turn.before, entry.id).filter(|_| !comes_back && !turn.is_heir(entry.id)) {
            let first = inside.iter().any(|holder| holder.id == other.id) || other.id == turn.op.id();
            must!(first, "{} enters before {}", entry.id, other.id);
        }
    }
    Ok(())
}

pub(crate) fn a_place_keeps_its_turn(turn: &Turn<'_>) -> Kept {
    let others = |record: &Record| -> Vec<ClaimId> {
        record.queue.iter().map(|place| place.id).filter(|id| *id != turn.op.id()).collect()
    };
    let (before, after) = (others(turn.before), others(turn.after));
    must!(before.ends_with(&after), "those who wait changed places: {before:?} became {after:?}");
    let Some(place) = turn.after.queue.iter().find(|place| place.id == turn.op.id()) else { return Ok(()) };
    if matches!(turn.op, Op::Acquire(_)) && is_in(turn.before, &place.owner) {
        must!(turn.after.queue[0].owner == place.owner, "an owner that is in stands behind those who wait for it");
    } else {
        let ids = |record: &Record| ahead(record, turn.op.id()).map(|other| other.id).collect::<Vec<_>>();
        must!(ids(turn.after) == ids(turn.before), "others stand ahead of it than before");
    }
    Ok(())
}

/// Where it may be done: the heir is in, and the old claim is not, nor can it be told that it is.
pub(crate) fn a_claim_is_handed_over_whole_or_not_at_all(turn: &Turn<'_>) -> Kept {
    let Op::HandOver(op) = turn.op else { return Ok(()) };
    let find = |record: &Record, id: ClaimId| record.holders.iter().find(|entry| entry.id == id).cloned();
    let (old, heir) = (find(turn.before, op.from), find(turn.after, op.id));
    if let (Some(old), Some(heir), true) = (&old, &heir, turn.past.follows.is_some()) {
        must!(find(turn.after, op.from).is_none(), "both are in");
        must!(heir.permits == old.permits, "{} permits became {}", old.permits, heir.permits);
        must!(heir.owner == op.owner && heir.meta == op.meta, "it is somebody else's");
        must!(heir.fence > turn.before.fence, "{} is no later token than {}", heir.fence, turn.before.fence);
    } else {
        must!(find(turn.after, op.from) == old, "it was touched and nobody follows");
    }
    Ok(())
}

pub(crate) fn a_renewal_never_recreates(turn: &Turn<'_>) -> Kept {
    let Op::Renew(renew) = turn.op else { return Ok(()) };
    if turn.before.holders.iter().all(|holder| holder.id != renew.id) {
        let waits = turn.before.queue.iter().any(|place| place.id == renew.id);
        let gone = Outcome::Gone { was: if waits { Was::Waiting } else { Was::Unknown } };
        must!(turn.outcome == gone, "it is told of a hold");
        must!(turn.after == turn.before, "what was gone came back");
    }
    Ok(())
}

pub(crate) fn an_operation_touches_no_other_claim(turn: &Turn<'_>) -> Kept {
    let (before, after, own) = (turn.before, turn.after, turn.op.id());
    let mut ids: Vec<_> = after.holders.iter().chain(&after.queue).map(|entry| entry.id).collect();
    let named = ids.len();
    ids.sort();
    ids.dedup();
    must!(ids.len() == named, "a claim is there twice");
    let known = |id| id == own || before.holders.iter().chain(&before.queue).any(|entry| entry.id == id);
    must!(ids.into_iter().all(known), "a claim comes from nowhere");
    for entry in before.holders.iter().filter(|entry| entry.id != own && !turn.hands_over(entry.id)) {
        must!(after.holders.contains(entry), "the hold {} was touched", entry.id);
    }
    for entry in before.queue.iter().filter(|entry| entry.id != own) {
        let let_in = |now: &Entry| Entry { since: turn.now, fence: now.fence, ..entry.clone() } == *now;
        let stays = after.queue.contains(entry) || after.holders.iter().any(let_in);
        must!(stays, "the place {} was touched", entry.id);
    }
    for grave in before.buried.iter().filter(|grave| grave.id != own) {
        must!(after.buried.contains(grave), "the grave {} was touched", grave.id);
    }
    Ok(())
}

pub(crate) fn a_lease_is_never_shortened(turn: &Turn<'_>) -> Kept {
    let own = |entry: &&Entry| entry.id == turn.op.id();
    let holds = turn.after.holders.iter().find(own);
    let waits = turn.after.queue.iter().find(own);
    let before = turn.before.holders.iter().chain(&turn.before.queue).find(own);
    let asked = match turn.op {
        Op::Acquire(op) if holds.is_some() => op.ttl,
        Op::Acquire(op) => op.patience,
        Op::Renew(op) if holds.is_some() => op.ttl,
        Op::HandOver(op) if holds.is_some() => op.ttl,
        _ => return Ok(()),
    };
    let asked = turn.now + asked.as_micros() as u64;
    if let Some(after) = holds.or(waits) {
        // A place that becomes a hold is counted anew from this very request.
        let kept = before.filter(|before| waits.is_some() || before.fence != 0).map_or(0, |before| before.until);
        must!(after.until == asked.max(kept), "it lasts until {}, not {}", after.until, asked.max(kept));
    }
    Ok(())
}

pub(crate) fn the_same_operation_twice_is_once(turn: &Turn<'_>) -> Kept {
    let mut again = turn.after.clone();
    if again.expires <= turn.now {
        again = Record::default();
    }
    let once = again.clone();
    let at = At { now: turn.now, inbox: turn.inbox };
    let (reply, grants) = again.apply(turn.op, at);
    must!(again == once, "the second time the record became {again:#?}");
    must!(grants.is_empty(), "the second time {grants:?} were told");
    let outcome = match (turn.op, turn.outcome) {
        (Op::Release(_), _) => Outcome::Gone { was: Was::Unknown },
        // Who gave its place up asks as a newcomer.
        (Op::Acquire(op), Outcome::Busy { .. }) if op.patience.is_zero() => reply.outcome,
        // Somebody of the heir's may have been let in behind it.
        (Op::HandOver(_), Outcome::Held { fence, since, until, .. }) => {
            Outcome::Held { fence, since, until, waiting: once.queue.len() as u32 }
        }
        (_, outcome) => outcome,
    };
    must!(reply.outcome == outcome, "the second answer is {:?}", reply.outcome);
    Ok(())
}

pub(crate) fn a_grant_is_told_once_and_to_its_own_inbox(turn: &Turn<'_>) -> Kept {
    let grants: Vec<_> = entrants(turn)
        .filter(|(entry, _)| entry.id != turn.op.id())
        .map(|(entry, _)| Grant { id: entry.id, fence: entry.fence, inbox: turn.past.inboxes[&entry.id].clone() })
        .collect();
    must!(turn.grants == grants, "these were let in: {grants:#?}");
    Ok(())
}

pub(crate) fn a_buried_id_never_comes_back(turn: &Turn<'_>) -> Kept {
    let buried = |id: &ClaimId| turn.past.buried.contains_key(id);
    for entry in turn.after.holders.iter().chain(&turn.after.queue) {
        must!(!buried(&entry.id), "{} came back", entry.id);
    }
    let refused = turn.outcome == Outcome::Refused(Refusal::Buried);
    let should = matches!(turn.op, Op::Acquire(_) | Op::HandOver(_)) && buried(&turn.op.id());
    must!(refused == should, "it should {}have been refused", if should { "" } else { "not " });
    Ok(())
}

pub(crate) fn max_bounds_the_claims_of_an_owner(turn: &Turn<'_>) -> Kept {
    let Op::Acquire(Acquire { id, owner: owner @ Some(_), max, .. }) = turn.op else {
        must!(turn.outcome != Outcome::Refused(Refusal::Full), "nobody's claims are without number");
        return Ok(());
    };
    let claims = |record: &Record| {
        let all = record.holders.iter().chain(&record.queue);
        all.filter(|entry| entry.id != *id && entry.owner == *owner).count() as u32
    };
    let is_there = |record: &Record| record.holders.iter().chain(&record.queue).any(|entry| entry.id == *id);
    if turn.outcome == Outcome::Refused(Refusal::Full) {
        must!(claims(turn.before) >= *max, "there were only {} others", claims(turn.before));
    } else if is_there(turn.after) && !is_there(turn.before) {
        must!(claims(turn.after) < *max, "there are {} others", claims(turn.after));
    }
    Ok(())
}

pub(crate) fn ahead_is_no_less_than_those_ahead(turn: &Turn<'_>) -> Kept {
    if let (Op::Acquire(_), Outcome::Busy { ahead: told, .. }) = (turn.op, turn.outcome) {
        let before =
            if turn.after.queue.iter().any(|place| place.id == turn.op.id()) { turn.after } else { turn.before };
        let ahead = ahead(before, turn.op.id()).count();
        must!(told as usize >= ahead, "{told} are told, {ahead} stand ahead");
        must!(told == 0 || ahead > 0, "the head is told of {told} ahead");
    }
    Ok(())
}

pub(crate) fn retry_in_is_never_after_somebodys_time(turn: &Turn<'_>) -> Kept {
    if let Outcome::Busy { retry_in, .. } = turn.outcome {
        must!(!retry_in.is_zero(), "it would ask in a loop");
        let retry_at = turn.now + retry_in.as_micros() as u64;
        let first = untils(turn.after).min();
        must!(first.is_none_or(|first| retry_at <= first), "somebody's time passes before {retry_at}");
    }
    Ok(())
}

/// Owners that are in and wait may wait for each other: there is one at most. Told so is only who would be the second.
pub(crate) fn of_two_owners_inside_that_would_wait_one_is_refused(turn: &Turn<'_>) -> Kept {
    let told =
        |id| matches!(turn.outcome, Outcome::Busy { .. }) && id == turn.op.id() || turn.past.insiders.contains(&id);
    let inside = |place: &&Entry| told(place.id) && is_in(turn.after, &place.owner);
    let mut owners: Vec<_> = turn.after.queue.iter().filter(inside).map(|place| &place.owner).collect();
    owners.sort();
    owners.dedup();
    must!(owners.len() <= 1, "they wait for each other: {owners:?}");
    if let (Op::Acquire(asked), Outcome::Refused(Refusal::Deadlock)) = (turn.op, turn.outcome) {
        let another = |place: &Entry| place.owner != asked.owner && is_in(turn.before, &place.owner);
        must!(is_in(turn.before, &asked.owner), "it is not in");
        must!(turn.before.queue.iter().any(another), "nobody inside waits");
        must!(!fits_claim(turn.before, asked), "it need not wait");
    }
    Ok(())
}

pub(crate) fn only_the_living_set_the_limit(turn: &Turn<'_>) -> Kept {
    let (before, after) = (turn.before, turn.after);
    for entry in after.holders.iter().chain(&after.queue) {
        must!(turn.past.limits[&entry.id] == after.limit, "{} was made with another limit", entry.id);
    }
    if let Op::Acquire(asked) = turn.op {
        let other = !is_empty(before) && asked.claim.limit() != before.limit;
        match turn.outcome {
            Outcome::Refused(Refusal::Mismatch { limit }) => {
                must!(other && limit == before.limit, "its limit is right")
            }
            Outcome::Busy { .. } => must!(!other, "it waits for what is another lock"),
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn the_answer_is_what_the_record_says(turn: &Turn<'_>) -> Kept {
    let own = |entry: &&Entry| entry.id == turn.op.id();
    let holds = turn.after.holders.iter().find(own);
    let waits = turn.after.queue.iter().any(|place| place.id == turn.op.id());
    let (held, waited) = (turn.before.holders.iter().any(|e| own(&e)), turn.before.queue.iter().any(|e| own(&e)));
    let right = match (turn.op, turn.outcome) {
        (Op::Acquire(_) | Op::Renew(_), Outcome::Held { fence, since, until, waiting }) => {
            let entry = holds.map(|entry| (entry.fence, entry.since, entry.until, turn.after.queue.len() as u32));
            entry == Some((fence, since, until, waiting))
        }
        (Op::HandOver(_), Outcome::Held { fence, since, until, .. }) => {
            holds.map(|entry| (entry.fence, entry.since, entry.until)) == Some((fence, since, until))
        }
        (Op::HandOver(op), Outcome::Busy { .. }) => holds.is_none() && is_shared(turn.before, op.from),
        (Op::HandOver(_), Outcome::Gone { was: Was::Unknown }) => holds.is_none() && turn.past.follows.is_none(),
        (Op::HandOver(_), Outcome::Refused(Refusal::Buried)) => holds.is_none() && !waits,
        (Op::Acquire(op), Outcome::Busy { .. }) => holds.is_none() && waits != op.patience.is_zero(),
        (Op::Acquire(_), Outcome::Refused(_)) => holds.is_none() && !waits,
        (Op::Renew(_), Outcome::Gone { .. }) => holds.is_none() && !held,
        (Op::Release(_), Outcome::Gone { was }) => {
            let stood = [(held, Was::Holding), (waited, Was::Waiting)];
            let expected = stood.into_iter().find(|(is, _)| *is).map_or(Was::Unknown, |(_, was)| was);
            holds.is_none() && !waits && was == expected
        }
        _ => false,
    };
    must!(right, "the answer is wrong");
    Ok(())
}

pub(crate) fn reading_shows_the_living_and_lets_nobody_in(turn: &Turn<'_>) -> Kept {
    let seen = turn.found.clone().seen_at(turn.now);
    let as_found =
        (&seen.holders, &seen.queue, &seen.buried) == (&turn.before.holders, &turn.before.queue, &turn.before.buried);
    must!(as_found, "it shows {seen:#?}");
    Ok(())
}
