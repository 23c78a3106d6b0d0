//! Liveness: every write is answered, and in the end everybody has everything.

use super::cut::{Cut, Writers, slot};
use super::{Verdict, object};
use crate::history::{Checker, NodeIndex, SpaceNumber};

/// What is still owed.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// By replica and space, when the writes under way began.
    writing: Vec<Vec<Vec<u64>>>,
}

impl Liveness {
    /// A write begins.
    pub(super) fn began_write(&mut self, at_ms: u64, node: NodeIndex, space: SpaceNumber) {
        slot(slot(&mut self.writing, node), space).push(at_ms);
    }

    /// A write was answered.
    pub(super) fn answered(&mut self, node: NodeIndex, space: SpaceNumber) {
        let writing = slot(slot(&mut self.writing, node), space);
        if !writing.is_empty() {
            writing.remove(0);
        }
    }

    /// How many writes of a replica are under way.
    pub(super) fn writing(&self, node: NodeIndex, space: SpaceNumber) -> u64 {
        let writing = self.writing.get(node).and_then(|spaces| spaces.get(space));
        writing.map_or(0, |writing| writing.len() as u64)
    }

    /// No write of a replica is without an answer.
    pub(super) fn all_answered(&self, node: NodeIndex) -> Verdict {
        let spaces =
            self.writing.get(node).into_iter().flat_map(|spaces| spaces.iter().enumerate());
        for (space, writing) in spaces {
            if let Some(began) = writing.first() {
                let others = writing.len() - 1;
                return object(Checker::Liveness, || {
                    format!(
                        "space {space}: a write that began at {began} ms was never answered, nor were {others} others"
                    )
                });
            }
        }
        Ok(())
    }
}

/// A replica has all that any has, and all that any had promised.
pub(super) fn complete(
    writers: &Writers,
    space: SpaceNumber,
    cut: &Cut,
    all: &Cut,
    whose: &str,
) -> Verdict {
    let Some((writer, sequence)) = cut.first_missing(all) else { return Ok(()) };
    let (dot, there) = (writers.dot(writer, sequence), cut.of(writer));
    object(Checker::Liveness, || {
        format!(
            "space {space}: {dot}, {whose}, has not come here: of that writer {there} are visible"
        )
    })
}
