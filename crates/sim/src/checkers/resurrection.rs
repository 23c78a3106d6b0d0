//! Resurrection: what was removed, by someone who had seen it, does not come back.

use super::cut::slot;
use super::oracle::{Pair, Sight};
use super::rows::{Addition, Expected};
use super::{Verdict, object};
use crate::history::{Checker, NodeIndex, Seen};

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
    pub(super) fn read(&mut self, node: NodeIndex, sight: &Sight<'_>) -> Verdict {
        let risen = |pair| Some((pair, risen(sight, pair)?));
        if let Some((pair, addition)) = sight.wrong().find_map(risen) {
            return object(Checker::Resurrection, || explain(sight, pair, addition));
        }
        let fates = slot(slot(&mut self.nodes, node), sight.space);
        for pair in &sight.pairs {
            let Some(row) = pair.row else { continue };
            let visible = || sight.rows.visible(row, sight.view);
            let fate = slot(fates, row);
            *fate = match (*fate, pair.seen) {
                (Fate::Gone(then), Some(_)) if visible() == then => {
                    let (space, (key, kind)) = (sight.space, pair.key);
                    return object(Checker::Resurrection, || {
                        format!(
                            "space {space}: {key} ({kind:?}) was seen to go and is back, though nothing was added since"
                        )
                    });
                }
                (_, Some(_)) => Fate::Present,
                (Fate::Present, None) => Fate::Gone(visible()),
                (fate, None) => fate,
            };
        }
        Ok(())
    }
}

/// An addition that is seen although a visible removal has seen it.
fn risen<'a>(sight: &Sight<'a>, pair: &Pair<'_>) -> Option<&'a Addition> {
    let row = &sight.rows.rows[pair.row?];
    let (view, expected) = (sight.view, pair.expected(sight.view));
    match (pair.seen?, expected) {
        (Seen::Flag | Seen::Element | Seen::Counter(_), None) => {
            row.additions.iter().rev().find(|a| view.shows(a))
        }
        (Seen::Register(values), expected) => {
            let known = match expected {
                Some(Expected::Register(at)) => at.as_slice(),
                _ => &[],
            };
            let is_new = |seen: &&_| !known.iter().any(|at| row.additions[*at].reads(seen));
            values.iter().filter(is_new).find_map(|seen| {
                let is_it =
                    |a: &&Addition| view.shows(a) && view.is_removed(row, a) && a.reads(seen);
                row.additions.iter().find(is_it)
            })
        }
        _ => None,
    }
}

fn explain(sight: &Sight<'_>, pair: &Pair<'_>, addition: &Addition) -> String {
    let (space, (key, kind), writers) = (sight.space, pair.key, &sight.ledger.writers);
    let dot = writers.dot(addition.writer, addition.sequence);
    let remover = pair.row.and_then(|row| sight.rows.remover(row, addition, sight.view));
    let remover = remover.map(|(by, sequence)| writers.dot(by, sequence).to_string());
    let remover = remover.unwrap_or_default();
    format!(
        "space {space}: {key} ({kind:?}) shows what {dot} added ({:?}), which {remover} removed and had seen",
        addition.added,
    )
}
