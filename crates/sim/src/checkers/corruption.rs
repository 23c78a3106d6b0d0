//! Corruption: damage on disk is found and never served, and never claimed where there is none.

use super::cut::slot;
use super::{Objection, Verdict, object};
use crate::history::{Checker, Damage, NodeIndex, SpaceNumber};

/// What was done to each disk.
#[derive(Debug, Default)]
pub(super) struct Corruption {
    nodes: Vec<Harm>,
}

#[derive(Debug, Default)]
struct Harm {
    /// Since the store was made.
    damage: Vec<Damage>,
    /// Whether the disk fails, or did, with errors.
    faults: bool,
}

impl Corruption {
    /// Whether a disk may fail with errors from now on. One that once did is never trusted again.
    pub(super) fn disk_faults(&mut self, node: NodeIndex, may_fail: bool) {
        slot(&mut self.nodes, node).faults |= may_fail;
    }

    /// Whether a disk may fail, or did.
    pub(super) fn may_fail(&self, node: NodeIndex) -> bool {
        self.nodes.get(node).is_some_and(|harm| harm.faults || !harm.damage.is_empty())
    }

    /// Whether a folder was copied.
    pub(super) fn is_cloned(&self, node: NodeIndex) -> bool {
        self.nodes.get(node).is_some_and(|harm| harm.damage.contains(&Damage::Cloned))
    }

    /// A disk was harmed.
    pub(super) fn damaged(&mut self, node: NodeIndex, damage: Damage) {
        slot(&mut self.nodes, node).damage.push(damage);
    }

    /// A new store begins on a clean disk.
    pub(super) fn fresh(&mut self, node: NodeIndex) {
        slot(&mut self.nodes, node).damage.clear();
    }

    /// A store could not be opened.
    pub(super) fn open_failed(&self, node: NodeIndex, error: &str, damaged: bool) -> Verdict {
        let harmed = self.nodes.get(node).is_some_and(|harm| !harm.damage.is_empty());
        if !damaged || harmed {
            return Ok(());
        }
        object(Checker::Corruption, || {
            format!("the store says that it is damaged, but nothing was done to it: {error}")
        })
    }

    /// A read failed.
    pub(super) fn read_failed(
        &self,
        node: NodeIndex,
        space: SpaceNumber,
        error: &str,
        disk: bool,
    ) -> Verdict {
        if !disk || self.may_fail(node) {
            return Ok(());
        }
        object(Checker::Corruption, || {
            format!("space {space}: a read failed on a disk that never did anything wrong: {error}")
        })
    }

    /// Whatever is wrong at a replica whose stored bytes were changed is damage that was served.
    pub(super) fn blame(&self, node: NodeIndex, objection: Objection) -> Objection {
        let Some(harm) = self.nodes.get(node) else { return objection };
        let changed = |damage: &&Damage| matches!(damage, Damage::BitRot | Damage::Misdirected);
        let Some(damage) = harm.damage.iter().rev().find(changed) else { return objection };
        match objection.checker {
            Checker::Bounds | Checker::Liveness | Checker::Panic | Checker::Application => {
                objection
            }
            checker => Objection {
                checker: Checker::Corruption,
                what: format!("after {damage:?}, {}: {}", checker.name(), objection.what),
            },
        }
    }
}
