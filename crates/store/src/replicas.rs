//! The replicas that a store has met, and the small numbers that stand for their ids on disk.

use std::collections::BTreeMap;

use rejoin_crdt::ReplicaId;

use crate::entry::ReplicaIndex;

/// Replica ids by number and numbers by id. It only ever grows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replicas {
    ids: Vec<ReplicaId>,
    indexes: BTreeMap<ReplicaId, ReplicaIndex>,
}

impl Replicas {
    pub(crate) fn index(&self, id: ReplicaId) -> Option<ReplicaIndex> {
        self.indexes.get(&id).copied()
    }

    pub(crate) fn id(&self, index: ReplicaIndex) -> Option<ReplicaId> {
        self.ids.get(usize::try_from(index.0).ok()?).copied()
    }

    /// Gives `id`, which has none, the next number.
    pub(crate) fn push(&mut self, id: ReplicaId) -> ReplicaIndex {
        let index = self.next();
        let known = self.indexes.insert(id, index);
        assert!(known.is_none(), "a replica has one number");
        self.ids.push(id);
        index
    }

    /// The number that the next replica will have.
    pub(crate) fn next(&self) -> ReplicaIndex {
        let count = u32::try_from(self.ids.len());
        ReplicaIndex(count.expect("a store cannot meet 2^32 replicas: each takes space in its log"))
    }

    /// The replicas from number `first` on.
    pub(crate) fn from(
        &self,
        first: ReplicaIndex,
    ) -> impl Iterator<Item = (ReplicaIndex, ReplicaId)> {
        let behind = self.ids.iter().zip(0u32..).skip(first.0 as usize);
        behind.map(|(id, index)| (ReplicaIndex(index), *id))
    }
}
