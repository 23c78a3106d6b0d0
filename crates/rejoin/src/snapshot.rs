//! A snapshot: one consistent view of a space.

use std::sync::Arc;

use rejoin_crdt::{IntoPath, Path, SegmentRef, StateDigest, Value, VersionVector, state_digest};

use crate::Error;
use crate::read::{Conflict, Entry, Tree};
use crate::watch::ChangeSequence;

/// A consistent view of a space: a causally closed set of whole transactions. Made by
/// [`Space::read`](crate::Space::read); it does not move and blocks nobody.
///
/// It keeps old pages of the store from being reused, so drop it when done. One that is held very long
/// expires: its reads then fail with
/// [`StoreError::SnapshotExpired`](crate::StoreError::SnapshotExpired).
#[derive(Debug, Clone)]
pub struct Snapshot {
    inner: rejoin_store::Snapshot,
}

impl Snapshot {
    pub(crate) fn new(inner: rejoin_store::Snapshot) -> Self {
        Self { inner }
    }

    /// The whole space, to be read.
    pub fn root(&self) -> Tree<'_> {
        Tree::new(&self.inner, Path::root())
    }

    /// The subtree at `path`, to be read.
    ///
    /// # Errors
    /// [`Error::Path`] if the path breaks a limit.
    pub fn tree(&self, path: impl IntoPath) -> Result<Tree<'_>, Error> {
        self.root().tree(path)
    }

    /// The value of a register; see [`Tree::register`].
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn register(&self, path: impl IntoPath) -> Result<Option<Value>, Error> {
        self.root().register(path)
    }

    /// All values of a register; see [`Tree::conflicts`].
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn conflicts(&self, path: impl IntoPath) -> Result<Vec<Conflict>, Error> {
        self.root().conflicts(path)
    }

    /// The sum of a counter; 0 if there is none.
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn counter(&self, path: impl IntoPath) -> Result<i64, Error> {
        self.root().counter(path)
    }

    /// Whether a flag is on.
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn flag(&self, path: impl IntoPath) -> Result<bool, Error> {
        self.root().flag(path)
    }

    /// Whether `element` is in the set at `path`.
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn contains<'s>(
        &self,
        path: impl IntoPath,
        element: impl Into<SegmentRef<'s>>,
    ) -> Result<bool, Error> {
        self.root().contains(path, element)
    }

    /// Every row of the space, in the order of paths.
    pub fn scan(&self) -> impl Iterator<Item = Result<Entry, Error>> + '_ {
        self.root().scan()
    }

    /// Which commits the view shows.
    pub fn version(&self) -> &Arc<VersionVector> {
        self.inner.version()
    }

    /// Where the view stands among this replica's changes: watch from here to get what follows it.
    pub fn sequence(&self) -> ChangeSequence {
        ChangeSequence::from_u64(self.inner.lsn().get())
    }

    /// The digest of all that the view shows: equal digests mean equal states, byte for byte. Reads the
    /// whole space.
    ///
    /// # Errors
    /// [`Error::Store`] if the rows cannot be read.
    pub fn digest(&self) -> Result<StateDigest, Error> {
        Ok(state_digest(&self.inner, self.version())?)
    }
}
