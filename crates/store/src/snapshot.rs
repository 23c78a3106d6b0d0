//! Reading a space as it was at one moment.

use std::sync::Arc;

use rejoin_crdt::{Path, ReadRows, Row, RowKey, RowPage, VersionVector};

use crate::entry::SpaceIndex;
use crate::error::StoreError;
use crate::log::Lsn;
use crate::view::{SpaceRows, SpaceState, View};

/// How many rows an iterator fetches at once.
const ITER_PAGE_ROWS: usize = 256;

/// A space as it was when the snapshot was taken.
///
/// Cheap to take, to clone and to hold for a while. It keeps alive what it shows: memory of buffers, and
/// pages of the file; so it *expires* after
/// [`snapshot_checkpoints_max`](crate::StoreOptions::snapshot_checkpoints_max) checkpoints, and reads of what
/// is not in memory answer [`StoreError::SnapshotExpired`].
#[derive(Debug, Clone)]
pub struct Snapshot {
    view: Arc<View>,
    space: SpaceIndex,
    state: SpaceState,
}

impl Snapshot {
    pub(crate) fn new(view: Arc<View>, space: SpaceIndex) -> Result<Self, StoreError> {
        let state = view.space(space)?.clone();
        Ok(Self { view, space, state })
    }

    /// The space.
    pub fn space(&self) -> SpaceIndex {
        self.space
    }

    /// The commits whose effects the snapshot shows, exactly.
    pub fn version(&self) -> &Arc<VersionVector> {
        &self.state.version
    }

    /// Behind the last record of the log whose effects the snapshot shows: who watches for changes
    /// from here on misses none and sees none twice.
    pub fn lsn(&self) -> Lsn {
        self.view.lsn
    }

    /// The rows at and under `prefix`, in the order of their keys. It ends after an error.
    pub fn iter<'a>(&'a self, prefix: &'a Path) -> Rows<'a> {
        Rows { snapshot: self, prefix, after: None, page: Vec::new().into_iter(), ended: false }
    }

    fn rows(&self) -> SpaceRows<'_> {
        SpaceRows { view: &self.view, space: self.space }
    }
}

impl ReadRows for Snapshot {
    type Error = StoreError;

    fn row(&self, key: &RowKey) -> Result<Option<Row>, StoreError> {
        self.rows().row(key)
    }

    fn page(
        &self,
        prefix: &Path,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<RowPage, StoreError> {
        self.rows().page(prefix, after, limit)
    }
}

/// Rows in the order of their keys; made by [`Snapshot::iter`].
#[derive(Debug)]
pub struct Rows<'a> {
    snapshot: &'a Snapshot,
    prefix: &'a Path,
    after: Option<RowKey>,
    page: std::vec::IntoIter<(RowKey, Row)>,
    ended: bool,
}

impl Iterator for Rows<'_> {
    type Item = Result<(RowKey, Row), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.as_slice().is_empty() && !self.ended {
            match self.snapshot.page(self.prefix, self.after.as_ref(), ITER_PAGE_ROWS) {
                Ok(page) => {
                    self.ended = page.len() < ITER_PAGE_ROWS;
                    self.after = page.last().map(|(key, _)| key.clone());
                    self.page = page.into_iter();
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        self.page.next().map(Ok)
    }
}
