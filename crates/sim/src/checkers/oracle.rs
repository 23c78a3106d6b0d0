//! The oracle: every read is what the kinds specify over the visible transactions.
//!
//! It knows of each transaction its name, what its writer had seen and what it wanted, and nothing of
//! operations, rows or joins.
//!
//! - A **register** holds the puts that no put to it and no removal of it has seen, the one with the latest
//!   wall time first, then the one of the greatest writer.
//! - A **flag** is on, and an **element** is in, if there is an addition that no removal has seen.
//! - A **counter** is the sum of the increments that no removal has seen. Folding may bring back one that a
//!   removal has seen, if a later one of the same writer carries it that none has seen.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::cut::{Cut, slot};
use super::ledger::Ledger;
use super::rows::{Addition, Expected, Row, Rows, View};
use super::{Verdict, object};
use crate::history::{Checker, Key, NodeIndex, RowKind, Seen, SpaceNumber};

/// How many additions to a row an objection names.
const HISTORY_MAX: usize = 8;

/// All rows of all spaces, and what each replica must see of them.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    spaces: Vec<SpaceOracle>,
}

#[derive(Debug, Default)]
pub(super) struct SpaceOracle {
    pub(super) rows: Rows,
    /// Whether a transaction was made here whose wishes are not known.
    pub(super) opaque: bool,
    views: Vec<View>,
}

impl Oracle {
    /// A space.
    pub(super) fn space(&mut self, space: SpaceNumber) -> &mut SpaceOracle {
        slot(&mut self.spaces, space)
    }

    /// Whether the wishes of all transactions of a space are known.
    pub(super) fn is_opaque(&self, space: SpaceNumber) -> bool {
        self.spaces.get(space).is_some_and(|space| space.opaque)
    }
}

impl SpaceOracle {
    /// Forgets the transactions of a writer behind `keep`.
    pub(super) fn lose(&mut self, writer: usize, keep: u64) {
        self.rows.lose(writer, keep);
        self.views.iter_mut().for_each(|view| view.lose(writer, keep));
    }

    /// What a replica sees at a version, beside what it must see.
    pub(super) fn look<'a>(
        &'a mut self,
        ledger: &'a Ledger,
        space: SpaceNumber,
        node: NodeIndex,
        cut: &'a Cut,
        read: &'a BTreeMap<(Key, RowKind), Seen>,
    ) -> Sight<'a> {
        let view = slot(&mut self.views, node);
        view.advance(&self.rows, cut);
        let (rows, view) = (&self.rows, &*view);
        let pairs = line_up(rows, read);
        let wrong = (0..pairs.len()).filter(|at| !pairs[*at].fits(rows, view)).collect();
        Sight { ledger, space, cut, rows, view, pairs, wrong }
    }
}

/// One read, beside what is known.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) space: SpaceNumber,
    cut: &'a Cut,
    pub(super) rows: &'a Rows,
    pub(super) view: &'a View,
    /// Every row that was read or ever added to, in order.
    pub(super) pairs: Vec<Pair<'a>>,
    /// The pairs that do not fit.
    wrong: Vec<usize>,
}

/// One row as it was read, beside one as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) key: &'a (Key, RowKind),
    /// The number of the row, if a transaction ever added to it.
    pub(super) row: Option<usize>,
    pub(super) seen: Option<&'a Seen>,
}

/// Brings what was read and what is known into one line, by key. Witnesses, which are everything under `!a`
/// and `~b`, are left out: nothing sorts between a slash and a zero.
fn line_up<'a>(rows: &'a Rows, read: &'a BTreeMap<(Key, RowKind), Seen>) -> Vec<Pair<'a>> {
    let mut pairs = Vec::with_capacity(rows.index.len());
    let mut known = rows.index.iter().peekable();
    let begin = |path: &str| (path.to_owned(), RowKind::Register);
    let before = read.range(..begin("!a/"));
    let between = read.range(begin("!a0")..begin("~b/"));
    let behind = read.range(begin("~b0")..);
    for (key, seen) in before.chain(between).chain(behind) {
        let row = loop {
            let Some((next, row)) = known.peek() else { break None };
            match (*next).cmp(key) {
                Ordering::Less => pairs.push(Pair { key: next, row: Some(**row), seen: None }),
                Ordering::Equal => break known.next().map(|(_, row)| *row),
                Ordering::Greater => break None,
            }
            known.next();
        };
        pairs.push(Pair { key, row, seen: Some(seen) });
    }
    pairs.extend(known.map(|(key, row)| Pair { key, row: Some(*row), seen: None }));
    pairs
}

/// Everything that was read is what the visible transactions demand.
pub(super) fn read(sight: &Sight<'_>) -> Verdict {
    let Some(pair) = sight.wrong().next() else { return Ok(()) };
    object(Checker::Oracle, || sight.explain(pair))
}

impl<'a> Sight<'a> {
    /// The rows that do not read what they must.
    pub(super) fn wrong(&self) -> impl Iterator<Item = &Pair<'a>> {
        self.wrong.iter().map(|at| &self.pairs[*at])
    }

    fn explain(&self, pair: &Pair<'_>) -> String {
        let Sight { ledger, space, cut, rows, view, .. } = self;
        let (key, kind) = pair.key;
        let row = pair.row.map(|row| &rows.rows[row]);
        let wanted = match (pair.expected(view), row) {
            (None, _) | (_, None) => "not exist".to_owned(),
            (Some(Expected::Present), _) => "be there".to_owned(),
            (Some(Expected::Counter(low, high)), _) if low == high => format!("be {low}"),
            (Some(Expected::Counter(low, high)), _) => format!("be between {low} and {high}"),
            (Some(Expected::Register(at)), Some(row)) => {
                let show = |at: &usize| {
                    let Addition { added, name, wall_time_ms, .. } = &row.additions[*at];
                    format!("{added:?} of {:08x} at {wall_time_ms}", name >> 96)
                };
                format!("hold [{}]", at.iter().map(show).collect::<Vec<_>>().join(", "))
            }
        };
        let seen = match pair.seen {
            Some(seen) => format!("reads {seen:?}"),
            None => "is not there".to_owned(),
        };
        let history = row.map(|row| history(ledger, view, row)).unwrap_or_default();
        let version = super::words(&ledger.version(cut));
        format!(
            "space {space}: {key} ({kind:?}) must {wanted}, and {seen}{history}; version {version}"
        )
    }
}

impl Pair<'_> {
    /// What the row must read.
    pub(super) fn expected<'v>(&self, view: &'v View) -> Option<&'v Expected> {
        view.expected[self.row?].as_ref()
    }

    fn fits(&self, rows: &Rows, view: &View) -> bool {
        match (self.row, self.expected(view), self.seen) {
            (_, None, None) => true,
            (_, Some(Expected::Present), Some(Seen::Flag | Seen::Element)) => true,
            (_, Some(Expected::Counter(low, high)), Some(Seen::Counter(sum))) => {
                (low..=high).contains(&sum)
            }
            (Some(row), Some(Expected::Register(at)), Some(Seen::Register(seen))) => {
                let put = |at: &usize| &rows.rows[row].additions[*at];
                at.len() == seen.len() && at.iter().zip(seen).all(|(at, seen)| put(at).reads(seen))
            }
            _ => false,
        }
    }
}

/// The last additions to a row that are visible.
fn history(ledger: &Ledger, view: &View, row: &Row) -> String {
    let visible = row.additions.iter().filter(|addition| view.shows(addition));
    let show = |addition: &Addition| {
        let gone = if view.is_removed(row, addition) { " removed" } else { "" };
        let dot = ledger.writers.dot(addition.writer, addition.sequence);
        format!("{dot} {:?}{gone}", addition.added)
    };
    let all: Vec<_> = visible.map(show).collect();
    let first = all.len().saturating_sub(HISTORY_MAX);
    format!("; visible: [{}]", all[first..].join(", "))
}
