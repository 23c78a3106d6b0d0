//! Version vectors: which commits a replica has applied.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::planted::{self, Bug};
use crate::{CommitHash, Dot, ReplicaId};

/// The last commit of one replica that is known: its sequence number and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The highest sequence number applied; all lower ones are applied too.
    #[serde(deserialize_with = "crate::codec::deserialize_sequence")]
    pub sequence: u64,
    /// The hash of that commit, which covers every earlier one of the same replica.
    pub hash: CommitHash,
}

/// Two histories of one replica that differ: evidence of a rolled-back store, a cloned disk or a lying writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("replica {replica} has two histories that differ at or before sequence {sequence}")]
pub struct Fork {
    /// Whose history forked.
    pub replica: ReplicaId,
    /// A sequence number at which the two histories are known to differ.
    pub sequence: u64,
}

/// For each replica, the highest sequence number applied, with the hash of that commit.
///
/// Delivery is causal, so there are no gaps: a vector `v` names exactly the commits `(r, n)` with
/// `n <= v[r]`. Kept in the order of replica ids, so equal vectors have equal encodings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionVector {
    heads: BTreeMap<ReplicaId, Head>,
}

impl VersionVector {
    /// The highest sequence number applied from `replica`; 0 if none is.
    pub fn sequence(&self, replica: ReplicaId) -> u64 {
        self.heads.get(&replica).map_or(0, |head| head.sequence)
    }

    /// The last applied commit of `replica`, if any is.
    pub fn head(&self, replica: ReplicaId) -> Option<Head> {
        self.heads.get(&replica).copied()
    }

    /// The hash that the next commit of `replica` must follow: that of its head, or
    /// [`CommitHash::ZERO`] before its first.
    pub fn previous_hash(&self, replica: ReplicaId) -> CommitHash {
        self.heads.get(&replica).map_or(CommitHash::ZERO, |head| head.hash)
    }

    /// Whether the commit named by `dot` is among those applied.
    pub fn covers(&self, dot: Dot) -> bool {
        self.sequence(dot.replica) >= dot.sequence
    }

    /// Whether every commit that `other` covers is covered by `self` (hashes are not compared).
    pub fn includes(&self, other: &VersionVector) -> bool {
        other.heads.iter().all(|(replica, head)| self.sequence(*replica) >= head.sequence)
    }

    /// Records `head` as the last applied commit of `replica`.
    pub fn set(&mut self, replica: ReplicaId, head: Head) {
        self.heads.insert(replica, head);
    }

    /// The entries, in the order of replica ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ReplicaId, Head)> + '_ {
        self.heads.iter().map(|(replica, head)| (*replica, *head))
    }

    /// The last dot of each replica, in the order of replica ids.
    pub fn dots(&self) -> impl ExactSizeIterator<Item = Dot> + '_ {
        self.iter().map(|(replica, head)| Dot { replica, sequence: head.sequence })
    }

    /// The number of replicas with at least one commit applied.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether no commit is applied.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The number of commits covered.
    pub fn commits(&self) -> u64 {
        self.heads.values().fold(0, |sum, head| sum.saturating_add(head.sequence))
    }

    /// Looks for a replica whose head differs between the two although its sequence number does not.
    ///
    /// # Errors
    /// The first such replica. Forks behind unequal sequence numbers cannot be seen here.
    pub fn check_fork(&self, other: &VersionVector) -> Result<(), Fork> {
        for (replica, theirs) in other.iter() {
            if let Some(mine) = self.head(replica)
                && mine.sequence == theirs.sequence
                && mine.hash != theirs.hash
                && !planted::is(Bug::ForkUnseen)
            {
                return Err(Fork { replica, sequence: mine.sequence });
            }
        }
        Ok(())
    }

    /// Takes the higher head of each replica: the least upper bound of the two vectors.
    ///
    /// # Errors
    /// A [`Fork`] if the two disagree on a commit; `self` is then unchanged.
    pub fn join(&mut self, other: &VersionVector) -> Result<(), Fork> {
        self.check_fork(other)?;
        for (replica, head) in other.iter() {
            if head.sequence > self.sequence(replica) {
                self.set(replica, head);
            }
        }
        Ok(())
    }
}

impl FromIterator<(ReplicaId, Head)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (ReplicaId, Head)>>(entries: I) -> Self {
        Self { heads: entries.into_iter().collect() }
    }
}
