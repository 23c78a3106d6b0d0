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

use std::collections::{BTreeMap, BTreeSet};
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
    rows: BTreeMap<RowKey, RowEvents>,
}

/// The events that matter to one row, in an order in which each comes after its past.
#[derive(Debug, Clone, Default)]
struct RowEvents {
    additions: Vec<Addition>,
    removals: Vec<Removal>,
}

/// What is left of the additions of one transaction to one row.
#[derive(Debug, Clone)]
struct Addition {
    dot: Dot,
    past: VersionVector,
    wall_time_ms: u64,
    what: Added,
    /// The earlier increments whose amounts this one carries.
    carries: Vec<Dot>,
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

#[derive(Debug, Clone)]
struct Removal {
    dot: Dot,
    past: VersionVector,
}

impl Oracle {
    /// Learns of an event. Everything in its past must be known already.
    pub fn record(&mut self, event: &Event) {
        let added: BTreeSet<_> = event.intents.iter().filter_map(Intent::adds_to).collect();
        let additions: Vec<_> =
            added.into_iter().filter_map(|key| Some((self.addition(event, &key)?, key))).collect();
        // A row that is new with this event has nothing yet that a removal could have seen.
        for (key, row) in &mut self.rows {
            if removes(event, key) {
                row.removals.push(Removal { dot: event.dot, past: event.past.clone() });
            }
        }
        for (addition, key) in additions {
            self.rows.entry(key).or_default().additions.push(addition);
        }
    }

    /// What every row must read where exactly the commits covered by `visible` are visible. A row
    /// that is not named must not exist.
    pub fn reads(&self, visible: &VersionVector) -> BTreeMap<RowKey, Read> {
        let read = |key: &RowKey| Some((key.clone(), self.read(key, visible)?));
        self.rows.keys().filter_map(read).collect()
    }

    /// What one row must read; `None` if it must not exist.
    pub fn read(&self, key: &RowKey, visible: &VersionVector) -> Option<Read> {
        let row = self.rows.get(key)?;
        match key.kind {
            Kind::Register => row.siblings(visible),
            Kind::Counter => row.sum(visible),
            Kind::Flag => row.unseen(visible).next().map(|_| Read::Flag(true)),
            Kind::Element => row.unseen(visible).next().map(|_| Read::Element(true)),
        }
    }

    /// The sum of the visible increments that no visible removal has seen: what a counter is meant to
    /// be, and is wherever peers take whole batches and no replica has more than 16 increments alive.
    pub fn counter_ideal(&self, key: &RowKey, visible: &VersionVector) -> i128 {
        let row = self.rows.get(key).into_iter();
        row.flat_map(|row| row.unseen(visible)).map(Addition::own).sum()
    }

    /// Between what bounds the sum can lie when folds brought back increments that a removal had seen.
    ///
    /// Only those can come back after which the same replica made an increment that no removal has
    /// seen; one that no removal has seen always counts.
    pub fn counter_range(&self, key: &RowKey, visible: &VersionVector) -> RangeInclusive<i128> {
        let ideal = self.counter_ideal(key, visible);
        let (mut low, mut high) = (ideal, ideal);
        let Some(row) = self.rows.get(key) else { return low..=high };
        for seen in row.visible(visible).filter(|addition| row.is_removed(addition, visible)) {
            let later = |other: &Addition| {
                other.dot.replica == seen.dot.replica && other.dot.sequence > seen.dot.sequence
            };
            if row.unseen(visible).any(later) {
                low += seen.own().min(0);
                high += seen.own().max(0);
            }
        }
        low..=high
    }

    /// What is left of the additions of `event` to the row.
    fn addition(&self, event: &Event, key: &RowKey) -> Option<Addition> {
        let mut what = net_addition(&event.intents, key)?;
        let mut carries = Vec::new();
        if let Added::Amount { carried, .. } = &mut what
            && !removes(event, key)
            && let Some(row) = self.rows.get(key)
        {
            for earlier in row.carried_by_next(event) {
                *carried += earlier.carried();
                carries.push(earlier.dot);
            }
        }
        let Event { dot, wall_time_ms, .. } = *event;
        Some(Addition { dot, past: event.past.clone(), wall_time_ms, what, carries })
    }
}

impl RowEvents {
    /// The puts that no put and no removal has seen.
    fn siblings(&self, visible: &VersionVector) -> Option<Read> {
        let overwritten = |put: &Addition| {
            let mut later = self.visible(visible);
            later.any(|later| later.past.covers(put.dot))
        };
        let mut siblings = Vec::new();
        for put in self.unseen(visible).filter(|put| !overwritten(put)) {
            if let Added::Value(value) = &put.what {
                siblings.push((put.wall_time_ms, put.dot.replica, value.clone()));
            }
        }
        siblings.sort_by_key(|sibling| std::cmp::Reverse((sibling.0, sibling.1)));
        (!siblings.is_empty()).then_some(Read::Register(siblings))
    }

    fn sum(&self, visible: &VersionVector) -> Option<Read> {
        let alive = self.alive_increments(visible);
        let sum: i128 = alive.iter().map(|addition| addition.carried()).sum();
        let sum = sum.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
        (!alive.is_empty()).then_some(Read::Counter(sum))
    }

    /// The increments that no removal has seen and no other increment carries.
    fn alive_increments<'a>(&'a self, visible: &'a VersionVector) -> Vec<&'a Addition> {
        let carried: BTreeSet<_> =
            self.visible(visible).flat_map(|addition| &addition.carries).collect();
        self.unseen(visible).filter(|addition| !carried.contains(&addition.dot)).collect()
    }

    /// Which increments one by the writer of `event` carries.
    fn carried_by_next<'a>(&'a self, event: &'a Event) -> Vec<&'a Addition> {
        let mut own = self.alive_increments(&event.past);
        own.retain(|addition| addition.dot.replica == event.dot.replica);
        if own.len() <= FOLD_PAST {
            own.retain(|addition| addition.dot.sequence > event.sent);
        }
        own
    }

    /// The visible additions that no visible removal has seen.
    fn unseen<'a>(&'a self, visible: &'a VersionVector) -> impl Iterator<Item = &'a Addition> {
        self.visible(visible).filter(|addition| !self.is_removed(addition, visible))
    }

    /// Whether a visible removal has seen the addition.
    fn is_removed(&self, addition: &Addition, visible: &VersionVector) -> bool {
        let mut removals = self.removals.iter().filter(|removal| visible.covers(removal.dot));
        removals.any(|removal| removal.past.covers(addition.dot))
    }

    fn visible<'a>(&'a self, visible: &'a VersionVector) -> impl Iterator<Item = &'a Addition> {
        self.additions.iter().filter(|addition| visible.covers(addition.dot))
    }
}

impl Addition {
    /// The amount of an increment.
    fn own(&self) -> i128 {
        if let Added::Amount { own, .. } = self.what { own } else { 0 }
    }

    /// The amount of an increment with all that it carries.
    fn carried(&self) -> i128 {
        if let Added::Amount { carried, .. } = self.what { carried } else { 0 }
    }
}

/// What a transaction adds to a row in the end.
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
