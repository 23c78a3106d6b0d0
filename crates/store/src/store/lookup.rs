//! What is known of spaces, by id and by index.

use rejoin_crdt::SpaceId;

use super::Store;
use crate::entry::SpaceIndex;
use crate::error::StoreError;
use crate::snapshot::Snapshot;

impl Store {
    /// The space with this id, if it was created here.
    pub fn find_space(&self, id: SpaceId) -> Option<SpaceIndex> {
        self.latest.load().space_ids.get(&id).copied()
    }

    /// The id of a space.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSpace`].
    pub fn space_id(&self, space: SpaceIndex) -> Result<SpaceId, StoreError> {
        Ok(self.latest.load().space(space)?.info.id)
    }

    /// As [`snapshot`](Store::snapshot), but only of what is on disk: what peers may be told.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSpace`].
    pub fn durable_snapshot(&self, space: SpaceIndex) -> Result<Snapshot, StoreError> {
        Snapshot::new(self.durable.load_full(), space)
    }
}
