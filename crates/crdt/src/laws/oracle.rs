//! The oracle: what a read must return, from the visible commits alone.
//!
//! It knows of each commit its name, what its writer had seen (its *past*), what the writer wanted
//! (its *intents*), the writer's clock, and how much of the writer's own history a peer could know by
//! then. It knows nothing of operations, rows, effects or joins, and none of their code runs here.
//!
//! Say that a commit *removes* a row if one of its intents does, and that an event *has seen* another
//! if that is in its past. Then, with only visible commits counted:
//!
//! - A **register** holds the puts that no put to it and no removal of it has seen; the winner has the
//!   latest wall time, then the greatest replica id.
//! - A **flag** is on, and an **element** is a member, if there is an enabling or addition that no
//!   removal has seen.
//! - A **counter** is, ideally, the sum of the increments that no removal has seen
//!   ([`Oracle::counter_ideal`]). Folding bends this: an increment *carries* the amounts of those earlier
//!   increments of its own replica that are alive in its past and that no peer could know by then, or of
//!   all of them where they are more than 16. What counts is what is carried by an increment that no
//!   later one carries and that no removal has seen. So an increment that a removal *has* seen counts
//!   again if a later one of the same replica, unseen by that removal, carries it. That takes a
//!   fold past 16, or a removal whose writer had received the first commits of a batch
//!   and not yet the rest; [`Oracle::counter_range`] says how far the sum can be off.
//!
//! Inside one transaction, a removal undoes the additions to the row before it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::laws::Intent;
use crate::{Dot, Kind, ReplicaId, RowKey, Value, VersionVector};

/// As `kind::counter::FOLD_PAST`, stated a second time because the oracle shares nothing with the kinds.
const FOLD_PAST: usize = 16;

/// One transaction as the oracle knows it.
#[derive(Debug, Clone)]
pub struct Event {
    /// The name of its commit.
    pub dot: Dot,
    /// What its writer had applied.
    pub past: VersionVector,
    /// Its writer's clock, in milliseconds since the Unix epoch.
    pub wall_time_ms: u64,
    /// The highest sequence number of its writer's own commits that a peer could know by then.
    pub sent: u64,
    /// What the writer wanted, in order.
    pub intents: Vec<Intent>,
}

/// What a reader sees in one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// Wall time in milliseconds, replica and value of each sibling, the winner first.
    Register(Vec<(u64, ReplicaId, Value)>),
    /// The sum.
    Counter(i64),
    /// Whether it is on.
    Flag(bool),
    /// Whether it is a member.
    Element(bool),
}

/// All commits that ever happened, and what they demand of reads.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    /// In an order in which each comes after its past.
    events: Vec<Recorded>,
}

#[derive(Debug, Clone)]
struct Recorded {
    event: Event,
    /// What is left of the additions of the transaction, by row.
    added: BTreeMap<RowKey, Added>,
    /// For its increments, the earlier ones that they carry.
    carries: BTreeMap<RowKey, Vec<Dot>>,
}

#[derive(Debug, Clone)]
enum Added {
    Value(Value),
    /// The own amount of an increment, and with it all that it carries.
    Amount {
        own: i128,
        carried: i128,
    },
    Presence,
}

impl Oracle {
    /// Learns of an event. Everything in its past must be known already.
    pub fn record(&mut self, event: Event) {
        let mut added = BTreeMap::new();
        let mut carries = BTreeMap::new();
        for key in event.intents.iter().filter_map(Intent::adds_to) {
            let Some(addition) = net_addition(&event.intents, &key) else { continue };
            if let (Added::Amount { own, .. }, false) = (&addition, removes(&event, &key)) {
                let dots = self.carried_by_next(&event, &key);
                let carried: i128 = dots.iter().map(|dot| self.carried(*dot, &key)).sum();
                added.insert(key.clone(), Added::Amount { own: *own, carried: own + carried });
                carries.insert(key, dots);
            } else {
                added.insert(key, addition);
            }
        }
        self.events.push(Recorded { event, added, carries });
    }

    /// What every row must read where exactly the commits covered by `visible` are visible. A row
    /// that is not named must not exist.
    pub fn reads(&self, visible: &VersionVector) -> BTreeMap<RowKey, Read> {
        let keys = self.visible(visible).flat_map(|recorded| recorded.added.keys());
        let keys: std::collections::BTreeSet<_> = keys.collect();
        keys.into_iter()
            .filter_map(|key| self.read(key, visible).map(|read| (key.clone(), read)))
            .collect()
    }

    /// What one row must read; `None` if it must not exist.
    pub fn read(&self, key: &RowKey, visible: &VersionVector) -> Option<Read> {
        match key.kind {
            Kind::Register => self.register(key, visible),
            Kind::Counter => {
                let alive = self.alive_increments(key, visible);
                let sum: i128 = alive.iter().map(|dot| self.carried(*dot, key)).sum();
                (!alive.is_empty()).then(|| Read::Counter(saturated(sum)))
            }
            Kind::Flag => self.any_unseen(key, visible).then_some(Read::Flag(true)),
            Kind::Element => self.any_unseen(key, visible).then_some(Read::Element(true)),
        }
    }

    /// The sum of the visible increments that no visible removal has seen: what a counter is meant to
    /// be, and is wherever peers take whole batches and no replica has more than 16 increments alive.
    pub fn counter_ideal(&self, key: &RowKey, visible: &VersionVector) -> i128 {
        let increments = self.additions(key, visible);
        increments.filter(|added| !self.is_removed(added, key, visible)).map(|r| own(r, key)).sum()
    }

    /// Between what bounds the sum can lie when folds brought back increments that a removal had seen.
    ///
    /// Only those can come back after which the same replica made an increment that no removal has
    /// seen; one that no removal has seen always counts.
    pub fn counter_range(&self, key: &RowKey, visible: &VersionVector) -> RangeInclusive<i128> {
        let ideal = self.counter_ideal(key, visible);
        let (mut low, mut high) = (ideal, ideal);
        for seen in self.additions(key, visible).filter(|r| self.is_removed(r, key, visible)) {
            let brought_back = self.additions(key, visible).any(|later| {
                later.event.dot.replica == seen.event.dot.replica
                    && later.event.dot.sequence > seen.event.dot.sequence
                    && !self.is_removed(later, key, visible)
            });
            if brought_back {
                low += own(seen, key).min(0);
                high += own(seen, key).max(0);
            }
        }
        low..=high
    }

    fn register(&self, key: &RowKey, visible: &VersionVector) -> Option<Read> {
        let puts = self.additions(key, visible).filter(|put| {
            let superseding = |later: &&Recorded| later.added.contains_key(key);
            let mut later = self.visible(visible).filter(superseding);
            !later.any(|later| has_seen(later, put)) && !self.is_removed(put, key, visible)
        });
        let mut siblings: Vec<_> = puts
            .filter_map(|put| match &put.added[key] {
                Added::Value(value) => {
                    Some((put.event.wall_time_ms, put.event.dot.replica, value.clone()))
                }
                _ => None,
            })
            .collect();
        siblings.sort_by_key(|sibling| std::cmp::Reverse((sibling.0, sibling.1)));
        (!siblings.is_empty()).then_some(Read::Register(siblings))
    }

    /// Whether there is an addition to the row that no removal has seen.
    fn any_unseen(&self, key: &RowKey, visible: &VersionVector) -> bool {
        self.additions(key, visible).any(|added| !self.is_removed(added, key, visible))
    }

    /// The increments that no removal has seen and no other increment carries.
    fn alive_increments(&self, key: &RowKey, visible: &VersionVector) -> Vec<Dot> {
        let carried = |dot: Dot| {
            let mut carriers = self.visible(visible).filter_map(|later| later.carries.get(key));
            carriers.any(|dots| dots.contains(&dot))
        };
        let unseen = self.additions(key, visible).filter(|r| !self.is_removed(r, key, visible));
        unseen.map(|recorded| recorded.event.dot).filter(|dot| !carried(*dot)).collect()
    }

    /// Which increments one by the writer of `event` carries.
    fn carried_by_next(&self, event: &Event, key: &RowKey) -> Vec<Dot> {
        let mut own = self.alive_increments(key, &event.past);
        own.retain(|dot| dot.replica == event.dot.replica);
        if own.len() <= FOLD_PAST {
            own.retain(|dot| dot.sequence > event.sent);
        }
        own
    }

    /// The amount of an increment with all that it carries.
    fn carried(&self, dot: Dot, key: &RowKey) -> i128 {
        let recorded = self.events.iter().find(|recorded| recorded.event.dot == dot);
        match recorded.and_then(|recorded| recorded.added.get(key)) {
            Some(Added::Amount { carried, .. }) => *carried,
            _ => 0,
        }
    }

    /// Whether a visible removal of the row has seen the addition.
    fn is_removed(&self, added: &Recorded, key: &RowKey, visible: &VersionVector) -> bool {
        let mut removals = self.visible(visible).filter(|later| removes(&later.event, key));
        removals.any(|removal| has_seen(removal, added))
    }

    /// The visible events that add to the row.
    fn additions<'a>(
        &'a self,
        key: &'a RowKey,
        visible: &'a VersionVector,
    ) -> impl Iterator<Item = &'a Recorded> {
        self.visible(visible).filter(|recorded| recorded.added.contains_key(key))
    }

    fn visible<'a>(&'a self, visible: &'a VersionVector) -> impl Iterator<Item = &'a Recorded> {
        self.events.iter().filter(|recorded| visible.covers(recorded.event.dot))
    }
}

/// What is left of the additions of one transaction to one row.
fn net_addition(intents: &[Intent], key: &RowKey) -> Option<Added> {
    let mut net = None;
    for intent in intents {
        if intent.removes(key) {
            net = None;
        } else if intent.adds_to().as_ref() == Some(key) {
            net = Some(match intent {
                Intent::Put { value, .. } => Added::Value(value.clone()),
                Intent::Increment { amount, .. } => {
                    let before = match net {
                        Some(Added::Amount { own, .. }) => own,
                        _ => 0,
                    };
                    let own = before + i128::from(*amount);
                    Added::Amount { own, carried: own }
                }
                _ => Added::Presence,
            });
        }
    }
    net
}

fn removes(event: &Event, key: &RowKey) -> bool {
    event.intents.iter().any(|intent| intent.removes(key))
}

fn has_seen(later: &Recorded, earlier: &Recorded) -> bool {
    later.event.past.covers(earlier.event.dot)
}

fn own(recorded: &Recorded, key: &RowKey) -> i128 {
    match recorded.added.get(key) {
        Some(Added::Amount { own, .. }) => *own,
        _ => 0,
    }
}

fn saturated(sum: i128) -> i64 {
    sum.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}
