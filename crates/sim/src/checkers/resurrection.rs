//! Resurrection: what was removed, by someone who had seen it, does not come back.

use super::cut::slot;
use super::ledger::Ledger;
use super::oracle::{Pair, siblings};
use super::rows::{Addition, Expected, Rows, View, dot};
use super::wishes::Added;
use super::{Objection, Verdict};
use crate::history::{Checker, Datum, NodeIndex, Seen, SpaceNumber};

/// What became of each row before the eyes of each replica, in its present life.
#[derive(Debug, Default)]
pub(super) struct Resurrection {
    nodes: Vec<Vec<Vec<Fate>>>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Fate {
    #[default]
    NeverSeen,
    Present,
    /// It was seen and then it was not, when so many additions were visible.
    Gone(usize),
}

impl Resurrection {
    /// A new life begins.
    pub(super) fn opened(&mut self, node: NodeIndex) {
        slot(&mut self.nodes, node).clear();
    }

    /// All rows were read.
    pub(super) fn read(
        &mut self,
        ledger: &Ledger,
        node: NodeIndex,
        space: SpaceNumber,
        rows: &Rows,
        view: &View,
        pairs: &[Pair<'_>],
    ) -> Verdict {
        let fates = slot(slot(&mut self.nodes, node), space);
        for pair in pairs {
            let Some(row) = pair.row else { continue };
            if let Some(seen) = pair.seen
                && let Some((addition, value)) = risen(ledger, rows, view, row, seen)
            {
                return Err(explain(ledger, space, rows, view, row, pair, addition, value));
            }
            let fate = slot(fates, row);
            *fate = match (*fate, pair.seen) {
                (Fate::Gone(then), Some(_)) if rows.visible(row, view) == then => {
                    return Err(Objection::new(Checker::Resurrection, || {
                        let (key, kind) = pair.key;
                        format!(
                            "space {space}: {key} ({kind:?}) was seen to go and is back, though nothing was added since"
                        )
                    }));
                }
                (_, Some(_)) => Fate::Present,
                (Fate::Present, None) => Fate::Gone(rows.visible(row, view)),
                (fate, None) => fate,
            };
        }
        Ok(())
    }
}

/// An addition that is seen although it was removed, and the value if it is one.
fn risen<'a>(
    ledger: &Ledger,
    rows: &'a Rows,
    view: &View,
    row: usize,
    seen: &'a Seen,
) -> Option<(&'a Addition, Option<&'a Datum>)> {
    let additions = &rows.rows[row].additions;
    let expected = view.expected[row].as_ref();
    match (seen, expected) {
        (Seen::Flag | Seen::Element, None) => {
            let latest = additions.iter().rev().find(|addition| view.shows(addition))?;
            Some((latest, None))
        }
        (Seen::Register(values), expected) => {
            let known = match expected {
                Some(Expected::Register(at)) => siblings(&ledger.writers, &rows.rows[row], at),
                _ => Vec::new(),
            };
            let matches = |(ms, writer, added): (u64, u128, &Added), seen: &(u64, u128, Datum)| {
                (ms, writer) == (seen.0, seen.1)
                    && matches!(added, Added::Value(value) if *value == seen.2)
            };
            let new = |seen: &&(u64, u128, Datum)| !known.iter().any(|k| matches(*k, seen));
            let removed = view.removed(&rows.rows[row]);
            values.iter().filter(new).find_map(|seen| {
                let gone = |put: &&Addition| {
                    let name = ledger.writers.name(put.writer);
                    view.shows(put)
                        && put.sequence <= removed.of(put.writer)
                        && matches((put.wall_time_ms, name, &put.added), seen)
                };
                additions.iter().find(gone).map(|put| (put, Some(&seen.2)))
            })
        }
        _ => None,
    }
}

#[allow(clippy::too_many_arguments)] // All that a text about one row is made of.
fn explain(
    ledger: &Ledger,
    space: SpaceNumber,
    rows: &Rows,
    view: &View,
    row: usize,
    pair: &Pair<'_>,
    addition: &Addition,
    value: Option<&Datum>,
) -> Objection {
    let (key, kind) = pair.key;
    let remover = rows.remover(row, addition, view);
    let remover = remover.map(|(by, seq)| ledger.writers.dot(by, seq).to_string());
    Objection::new(Checker::Resurrection, || {
        let value = value.map(|value| format!(" {value:?}")).unwrap_or_default();
        format!(
            "space {space}: {key} ({kind:?}) shows{value} what {} added, which {} removed and had seen",
            dot(&ledger.writers, addition),
            remover.unwrap_or_default(),
        )
    })
}
