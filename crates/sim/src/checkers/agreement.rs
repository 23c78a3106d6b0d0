//! Agreement: equal versions, equal bytes, at every replica and at all times.

use std::collections::BTreeMap;

use super::cut::{Cut, slot};
use super::{Verdict, object};
use crate::history::{Checker, NodeIndex, SpaceNumber};

/// The bytes of every version that was ever read.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    spaces: Vec<BTreeMap<Cut, First>>,
}

/// Who read a version first.
#[derive(Debug)]
struct First {
    bytes: [u8; 32],
    node: NodeIndex,
    at_ms: u64,
}

impl Agreement {
    /// A version was read, with these bytes.
    pub(super) fn read(
        &mut self,
        at_ms: u64,
        node: NodeIndex,
        space: SpaceNumber,
        cut: &Cut,
        bytes: [u8; 32],
    ) -> Verdict {
        let known = slot(&mut self.spaces, space);
        let Some(first) = known.get(cut) else {
            known.insert(cut.clone(), First { bytes, node, at_ms });
            return Ok(());
        };
        if first.bytes == bytes {
            return Ok(());
        }
        let (theirs, ours) = (short(first.bytes), short(bytes));
        object(Checker::Agreement, || {
            format!(
                "space {space}: the rows have the hash {ours}, but at the same version replica {} had {theirs} at {} ms",
                first.node, first.at_ms,
            )
        })
    }

    /// Commits of a writer behind `keep` were lost before anybody else saw them.
    pub(super) fn lose(&mut self, space: SpaceNumber, writer: usize, keep: u64) {
        slot(&mut self.spaces, space).retain(|cut, _| cut.of(writer) <= keep);
    }
}

fn short(bytes: [u8; 32]) -> String {
    blake3::Hash::from_bytes(bytes).to_hex().as_str()[..12].to_owned()
}
