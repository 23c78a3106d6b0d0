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

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::cut::{Cut, Writers, slot};
use super::ledger::Ledger;
use super::rows::{self, Expected, Row, Rows, View};
use super::wishes::{Added, is_witness};
use super::{Verdict, object};
use crate::history::{Checker, Key, NodeIndex, RowKind, Seen, SpaceNumber};

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

/// One row as it was read, beside one as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) key: &'a (Key, RowKind),
    /// The number of the row, if a transaction ever added to it.
    pub(super) row: Option<usize>,
    pub(super) seen: Option<&'a Seen>,
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
        self.views.clear();
    }

    /// What a replica must see at a version.
    pub(super) fn at(&mut self, node: NodeIndex, cut: &Cut) -> (&Rows, &View) {
        let view = slot(&mut self.views, node);
        view.advance(&self.rows, cut);
        (&self.rows, view)
    }
}

/// Brings what was read and what is known into one line, by key. Witnesses are left out.
pub(super) fn line_up<'a>(
    rows: &'a Rows,
    read: &'a BTreeMap<(Key, RowKind), Seen>,
) -> Vec<Pair<'a>> {
    let mut pairs = Vec::with_capacity(rows.index.len());
    let mut known = rows.index.iter().peekable();
    for (key, seen) in read.iter().filter(|((path, _), _)| !is_witness(path)) {
        while let Some((before, row)) = known.next_if(|(known, _)| *known < key) {
            pairs.push(Pair { key: before, row: Some(*row), seen: None });
        }
        let row = known.next_if(|(known, _)| *known == key).map(|(_, row)| *row);
        pairs.push(Pair { key, row, seen: Some(seen) });
    }
    pairs.extend(known.map(|(key, row)| Pair { key, row: Some(*row), seen: None }));
    pairs
}

/// Everything that was read is what the visible transactions demand.
pub(super) fn read(
    ledger: &Ledger,
    space: SpaceNumber,
    cut: &Cut,
    rows: &Rows,
    view: &View,
    pairs: &[Pair<'_>],
) -> Verdict {
    for pair in pairs {
        let known = pair.row.map(|row| (&rows.rows[row], view.expected[row].as_ref()));
        let row = known.map(|(row, _)| row);
        let expected = known.and_then(|(_, expected)| expected);
        if !fits(&ledger.writers, row, expected, pair.seen) {
            return object(Checker::Oracle, || {
                explain(ledger, space, cut, view, pair, row, expected)
            });
        }
    }
    Ok(())
}

/// The siblings that are expected, the winner first.
pub(super) fn siblings<'a>(
    writers: &Writers,
    row: &'a Row,
    at: &[usize],
) -> Vec<(u64, u128, &'a Added)> {
    let additions = at.iter().map(|at| &row.additions[*at]);
    let mut siblings: Vec<_> =
        additions.map(|put| (put.wall_time_ms, writers.name(put.writer), &put.added)).collect();
    siblings.sort_by_key(|sibling| std::cmp::Reverse((sibling.0, sibling.1)));
    siblings
}

fn fits(
    writers: &Writers,
    row: Option<&Row>,
    expected: Option<&Expected>,
    seen: Option<&Seen>,
) -> bool {
    match (expected, seen) {
        (None, None) => true,
        (Some(Expected::Present), Some(Seen::Flag | Seen::Element)) => true,
        (Some(Expected::Counter(low, high)), Some(Seen::Counter(sum))) => {
            (low..=high).contains(&sum)
        }
        (Some(Expected::Register(at)), Some(Seen::Register(seen))) => {
            let expected = row.map(|row| siblings(writers, row, at)).unwrap_or_default();
            let same = |(a, b): (&(u64, u128, &Added), &(u64, u128, crate::history::Datum))| {
                a.0 == b.0 && a.1 == b.1 && matches!(a.2, Added::Value(value) if *value == b.2)
            };
            expected.len() == seen.len() && expected.iter().zip(seen).all(same)
        }
        _ => false,
    }
}

fn explain(
    ledger: &Ledger,
    space: SpaceNumber,
    cut: &Cut,
    view: &View,
    pair: &Pair<'_>,
    row: Option<&Row>,
    expected: Option<&Expected>,
) -> String {
    let (key, kind) = pair.key;
    let mut text = format!("space {space}: {key} ({kind:?}) must ");
    let wanted = match (expected, row) {
        (None, _) | (_, None) => "not exist".to_owned(),
        (Some(Expected::Present), _) => "be there".to_owned(),
        (Some(Expected::Counter(low, high)), _) if low == high => format!("be {low}"),
        (Some(Expected::Counter(low, high)), _) => format!("be between {low} and {high}"),
        (Some(Expected::Register(at)), Some(row)) => {
            let siblings = siblings(&ledger.writers, row, at);
            let show = |(ms, writer, added): &(u64, u128, &Added)| {
                format!("{added:?} of {:08x} at {ms}", writer >> 96)
            };
            format!("hold [{}]", siblings.iter().map(show).collect::<Vec<_>>().join(", "))
        }
    };
    // Writing to a string does not fail.
    let _ = match pair.seen {
        Some(seen) => write!(text, "{wanted}, and reads {seen:?}"),
        None => write!(text, "{wanted}, and is not there"),
    };
    if let Some(row) = row {
        let removed = view.removed(row);
        let visible = row.additions.iter().filter(|addition| view.shows(addition));
        let show = |addition: &rows::Addition| {
            let gone = addition.sequence <= removed.of(addition.writer);
            let gone = if gone { " removed" } else { "" };
            format!("{} {:?}{gone}", rows::dot(&ledger.writers, addition), addition.added)
        };
        let all: Vec<_> = visible.map(show).collect();
        let latest = all.len().saturating_sub(8);
        let _ = write!(text, "; visible: [{}]", all[latest..].join(", "));
    }
    let _ = write!(text, "; version {}", super::words(&ledger.version(cut)));
    text
}
