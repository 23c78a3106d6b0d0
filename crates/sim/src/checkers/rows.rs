//! What was done to every row of a space, and what is to be seen of it at a version.
//!
//! An addition is *removed* where a visible removal has it in its past. So of each writer, all additions up to
//! some number are removed, and a removal is known by one number for each writer: its past.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::cut::{Cut, slot};
use super::wishes::{Added, Net, Scope};
use crate::history::{Datum, Key, RowKind, Transaction, Writer};

/// A counter may fold all increments of one writer into one where it has more than this many of them.
const FOLD_PAST: usize = 16;

/// Every row that a transaction of the space ever added to.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) index: BTreeMap<(Key, RowKind), usize>,
    pub(super) rows: Vec<Row>,
    /// The lists of what removes a path, by path.
    scopes: BTreeMap<Key, BTreeMap<Scope, usize>>,
    removals: Vec<Removals>,
    /// By writer and sequence number, what the transaction touched.
    effects: Vec<Vec<Effects>>,
}

/// What was added to one row, in the order of time, and what may remove it.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) additions: Vec<Addition>,
    removals: Vec<usize>,
}

/// What one transaction left in one row.
#[derive(Debug)]
pub(super) struct Addition {
    pub(super) writer: usize,
    pub(super) name: Writer,
    pub(super) sequence: u64,
    pub(super) wall_time_ms: u64,
    pub(super) added: Added,
    past: Arc<Cut>,
    /// It may carry the amounts of earlier increments of its writer that come after this one.
    carries_after: u64,
}

/// What removes one row, one path or one tree.
#[derive(Debug, Default)]
struct Removals {
    /// Writer, sequence and past of each, in the order of time.
    events: Vec<(usize, u64, Arc<Cut>)>,
    rows: Vec<usize>,
}

#[derive(Debug, Default)]
struct Effects {
    rows: Vec<usize>,
    removals: Vec<usize>,
    past: Arc<Cut>,
}

/// What a row must read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// These additions side by side, the winner first.
    Register(Vec<usize>),
    /// A sum between these two.
    Counter(i64, i64),
    /// A flag that is on, or an element that is in.
    Present,
}

/// What is to be seen at a version, kept from one read to the next of the same replica.
#[derive(Debug, Default)]
pub(super) struct View {
    cut: Cut,
    /// By row; `None` if it must not exist.
    pub(super) expected: Vec<Option<Expected>>,
    /// By list of removals, up to which commit of each writer it removes.
    removed: Vec<Cut>,
    marks: Vec<bool>,
}

/// Room to work in, kept from row to row.
#[derive(Debug, Default)]
struct Scratch {
    removed: Cut,
    /// By writer, the increments behind this one may be carried by those that were looked at.
    carried: Vec<Option<u64>>,
}

impl Rows {
    /// Learns of a transaction. All that it has seen is known already. `shared` tells up to which of its
    /// writer's commits a peer was told before.
    pub(super) fn record(
        &mut self,
        writer: usize,
        transaction: &Transaction,
        past: &Arc<Cut>,
        shared: u64,
    ) {
        let net = Net::of(&transaction.wishes);
        let sequence = transaction.dot.sequence;
        let mut effects = Effects { past: Arc::clone(past), ..Effects::default() };
        for (key, added) in net.added {
            let row = self.row(&key);
            let carries_after = match added {
                // What the transaction has removed itself, it does not carry.
                Added::Amount(_) if net.removed.iter().any(|scope| scope.holds(&key)) => u64::MAX,
                Added::Amount(_) => self.carries_after(row, writer, past, shared),
                _ => 0,
            };
            let wall_time_ms = transaction.wall_time_ms;
            let past = Arc::clone(past);
            let name = transaction.dot.writer;
            self.rows[row].additions.push(Addition {
                writer,
                name,
                sequence,
                wall_time_ms,
                added,
                past,
                carries_after,
            });
            effects.rows.push(row);
        }
        for scope in net.removed {
            let list = self.list(scope);
            self.removals[list].events.push((writer, sequence, Arc::clone(past)));
            effects.removals.push(list);
        }
        *slot(slot(&mut self.effects, writer), place(sequence)) = effects;
    }

    /// Forgets the transactions of a writer behind `keep`.
    pub(super) fn lose(&mut self, writer: usize, keep: u64) {
        let effects = slot(&mut self.effects, writer);
        let first = effects.len().min(usize::try_from(keep).unwrap_or(usize::MAX));
        for lost in effects.drain(first..) {
            // They keep their places, which views know additions by, and are never visible again.
            for row in lost.rows {
                let additions = self.rows[row].additions.iter_mut();
                additions
                    .filter(|a| a.writer == writer && a.sequence > keep)
                    .for_each(Addition::lose);
            }
            for list in lost.removals {
                self.removals[list].events.retain(|(by, seq, _)| *by != writer || *seq <= keep);
            }
        }
    }

    /// How many additions to a row are visible.
    pub(super) fn visible(&self, row: usize, view: &View) -> usize {
        self.rows[row].additions.iter().filter(|addition| view.shows(addition)).count()
    }

    /// A visible removal of a row that has seen an addition, if there is one.
    pub(super) fn remover(
        &self,
        row: usize,
        addition: &Addition,
        view: &View,
    ) -> Option<(usize, u64)> {
        let lists = self.rows[row].removals.iter();
        let mut events = lists.flat_map(|list| &self.removals[*list].events);
        let found = events.find(|(by, seq, past)| {
            view.cut.of(*by) >= *seq && past.of(addition.writer) >= addition.sequence
        });
        found.map(|(by, seq, _)| (*by, *seq))
    }

    /// The number of a row, a new one if it was never heard of.
    fn row(&mut self, key: &(Key, RowKind)) -> usize {
        if let Some(row) = self.index.get(key) {
            return *row;
        }
        let number = self.rows.len();
        let mut row = Row::default();
        for path in ancestors(&key.0) {
            let Some(scopes) = self.scopes.get(path) else { continue };
            for (scope, list) in scopes {
                if scope.holds(key) {
                    self.removals[*list].rows.push(number);
                    row.removals.push(*list);
                }
            }
        }
        self.rows.push(row);
        self.index.insert(key.clone(), number);
        number
    }

    /// The number of the list of what removes this, a new one if nothing did so far.
    fn list(&mut self, scope: Scope) -> usize {
        if let Some(list) = self.scopes.get(scope.path()).and_then(|scopes| scopes.get(&scope)) {
            return *list;
        }
        let number = self.removals.len();
        let mut list = Removals::default();
        for row in self.held(&scope) {
            self.rows[row].removals.push(number);
            list.rows.push(row);
        }
        self.removals.push(list);
        self.scopes.entry(scope.path().to_owned()).or_default().insert(scope, number);
        number
    }

    /// The rows that a removal takes.
    fn held(&self, scope: &Scope) -> Vec<usize> {
        let path = scope.path();
        let at = (path.to_owned(), RowKind::Register)..=(path.to_owned(), RowKind::Element);
        let at = self.index.range(at);
        // Nothing sorts between a slash and a zero.
        let (from, to) = match path {
            "" => (String::new(), None),
            path => (format!("{path}/"), Some((format!("{path}0"), RowKind::Register))),
        };
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        let below = self.index.range((Bound::Included((from, RowKind::Register)), to));
        let below = below.take_while(|_| matches!(scope, Scope::Tree(_)));
        let rows = at.chain(below.filter(|((key, _), _)| key != path));
        rows.filter(|(key, _)| scope.holds(key)).map(|(_, row)| *row).collect()
    }

    /// Which earlier increments of its writer one that is made now may carry: those behind the answer.
    ///
    /// Not those that a removal in its past has seen. And of the others only those that no peer was told,
    /// unless there are so many that all are folded.
    fn carries_after(&self, row: usize, writer: usize, past: &Cut, shared: u64) -> u64 {
        let row = &self.rows[row];
        let lists = row.removals.iter().flat_map(|list| &self.removals[*list].events);
        let seen = lists.filter(|(by, seq, _)| past.of(*by) >= *seq);
        let removed = seen.map(|(_, _, past)| past.of(writer)).max().unwrap_or(0);
        let own = row.additions.iter().filter(|a| {
            a.writer == writer && a.sequence > removed && a.sequence <= past.of(writer)
        });
        if own.count() > FOLD_PAST { removed } else { removed.max(shared) }
    }
}

impl Addition {
    /// Whether this is what a register shows.
    pub(super) fn reads(&self, seen: &(u64, Writer, Datum)) -> bool {
        (self.wall_time_ms, self.name) == (seen.0, seen.1)
            && matches!(&self.added, Added::Value(value) if *value == seen.2)
    }

    fn lose(&mut self) {
        self.sequence = u64::MAX;
    }
}

impl View {
    /// Forgets the transactions of a writer behind `keep`, if they were visible.
    pub(super) fn lose(&mut self, writer: usize, keep: u64) {
        if self.cut.of(writer) > keep {
            *self = View::default();
        }
    }

    /// Moves to another version.
    pub(super) fn advance(&mut self, rows: &Rows, cut: &Cut) {
        if !cut.includes(&self.cut) {
            *self = View::default();
        }
        self.expected.resize_with(rows.rows.len(), || None);
        self.marks.resize(rows.rows.len(), false);
        self.removed.resize_with(rows.removals.len(), Cut::default);
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for (writer, sequence) in cut.iter() {
            let before = usize::try_from(self.cut.of(writer)).unwrap_or(usize::MAX);
            let all = rows.effects.get(writer).map_or(&[][..], Vec::as_slice);
            let until = all.len().min(usize::try_from(sequence).unwrap_or(usize::MAX));
            for effects in all.get(before..until).unwrap_or(&[]) {
                added.extend_from_slice(&effects.rows);
                for list in &effects.removals {
                    self.removed[*list].join(&effects.past);
                    removed.extend_from_slice(&rows.removals[*list].rows);
                }
            }
        }
        self.cut = cut.clone();
        let mut scratch = Scratch::default();
        for row in added {
            if !std::mem::replace(&mut self.marks[row], true) {
                self.expected[row] = self.read(rows, row, &mut scratch);
            }
        }
        for row in removed {
            // No removal makes anything appear.
            let looked = std::mem::replace(&mut self.marks[row], true);
            if !looked && self.expected[row].is_some() {
                self.expected[row] = self.read(rows, row, &mut scratch);
            }
        }
        self.marks.fill(false);
    }

    /// Whether an addition is visible.
    pub(super) fn shows(&self, addition: &Addition) -> bool {
        addition.sequence <= self.cut.of(addition.writer)
    }

    /// Whether a visible removal of the row has seen an addition to it.
    pub(super) fn is_removed(&self, row: &Row, addition: &Addition) -> bool {
        let mut removals = row.removals.iter().map(|list| &self.removed[*list]);
        removals.any(|removed| addition.sequence <= removed.of(addition.writer))
    }

    /// What the row must read.
    fn read(&self, rows: &Rows, number: usize, scratch: &mut Scratch) -> Option<Expected> {
        let row = &rows.rows[number];
        scratch.removed.clear();
        row.removals.iter().for_each(|list| scratch.removed.join(&self.removed[*list]));
        let removed = &scratch.removed;
        let alive = |a: &&Addition| self.shows(a) && a.sequence > removed.of(a.writer);
        let latest = row.additions.iter().rev().find(alive)?;
        match latest.added {
            Added::Presence => Some(Expected::Present),
            Added::Value(_) => Some(self.siblings(row, scratch)),
            Added::Amount(_) => Some(self.sum(row, scratch)),
        }
    }

    /// The puts that no visible put and no visible removal has seen.
    fn siblings(&self, row: &Row, scratch: &mut Scratch) -> Expected {
        let visible = || row.additions.iter().enumerate().filter(|(_, a)| self.shows(a));
        let gone = &mut scratch.removed;
        visible().for_each(|(_, put)| gone.join(&put.past));
        let alive = visible().filter(|(_, put)| put.sequence > gone.of(put.writer));
        let mut siblings: Vec<_> = alive.map(|(at, _)| at).collect();
        siblings.sort_by_key(|at| {
            let put = &row.additions[*at];
            std::cmp::Reverse((put.wall_time_ms, put.name))
        });
        Expected::Register(siblings)
    }

    /// The sum of the increments that no visible removal has seen, and how far folds may bend it.
    ///
    /// An increment that a removal has seen may count again if a later one of its writer, which none has
    /// seen, carries it; and that may go over several.
    fn sum(&self, row: &Row, scratch: &mut Scratch) -> Expected {
        let (mut low, mut high) = (0i128, 0i128);
        let Scratch { removed, carried } = scratch;
        carried.clear();
        for addition in row.additions.iter().rev().filter(|addition| self.shows(addition)) {
            let Added::Amount(amount) = addition.added else { continue };
            let carried = slot(carried, addition.writer);
            if addition.sequence > removed.of(addition.writer) {
                low += amount;
                high += amount;
            } else if carried.is_some_and(|after| addition.sequence > after) {
                low += amount.min(0);
                high += amount.max(0);
            } else {
                continue;
            }
            let after = addition.carries_after;
            *carried = Some(carried.map_or(after, |before| before.min(after)));
        }
        Expected::Counter(clamp(low), clamp(high))
    }
}

/// A path and all above it, the whole space among them.
fn ancestors(key: &str) -> impl Iterator<Item = &str> {
    let above = key.match_indices('/').map(|(at, _)| &key[..at]);
    let root = (!key.is_empty()).then_some("");
    root.into_iter().chain(above).chain([key])
}

fn place(sequence: u64) -> usize {
    usize::try_from(sequence.saturating_sub(1)).unwrap_or(usize::MAX)
}

fn clamp(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
}
