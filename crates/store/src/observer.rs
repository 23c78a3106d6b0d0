//! Telling the rest of the program what became visible, and what durable.

use bytes::Bytes;
use rejoin_crdt::Dot;

use crate::{Lsn, SpaceIndex};

/// Something that happened to a space, in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A commit took effect, a local one or one from a peer.
    Commit {
        /// Behind its record: from here on the log holds what followed.
        lsn: Lsn,
        /// The space.
        space: SpaceIndex,
        /// The commit.
        dot: Dot,
        /// Its canonical bytes; see [`CommitBody`](rejoin_crdt::CommitBody).
        body: Bytes,
    },
    /// A whole state was joined: any row may have changed, and must be read again.
    Joined {
        /// Behind its record.
        lsn: Lsn,
        /// The space.
        space: SpaceIndex,
    },
}

impl Change {
    /// Behind the record of the change: from here on the log holds what followed.
    pub fn lsn(&self) -> Lsn {
        match self {
            Change::Commit { lsn, .. } | Change::Joined { lsn, .. } => *lsn,
        }
    }

    /// How large the commit's canonical bytes are; 0 for a joined state.
    pub fn bytes(&self) -> usize {
        match self {
            Change::Commit { body, .. } => body.len(),
            Change::Joined { .. } => 0,
        }
    }

    /// The space that changed.
    pub fn space(&self) -> SpaceIndex {
        match self {
            Change::Commit { space, .. } | Change::Joined { space, .. } => *space,
        }
    }
}

/// Is told of changes by whichever thread made them visible, in the order of the log.
///
/// It is called with a lock of the store held: it must be quick, and it must not write to the store or sync
/// it. Taking snapshots, reading versions and reading the log is fine.
pub trait Observer: Send + Sync {
    /// These changes have just become visible to local readers.
    fn published(&self, changes: &[Change]);

    /// Everything before `lsn` is durable now, and may be told to peers.
    fn durable(&self, lsn: Lsn);
}

/// Observes nothing.
impl Observer for () {
    fn published(&self, _changes: &[Change]) {}

    fn durable(&self, _lsn: Lsn) {}
}
