//! A space: reads, writes and watches of one replicated keyspace.

use std::sync::Arc;

use rejoin_crdt::{IntoPath, SpaceId, VersionVector};
use rejoin_store::SpaceIndex;

use crate::replica::Engine;
use crate::watch::{ChangeSequence, Watch};
use crate::{Error, Snapshot, Transaction};

/// A named replicated keyspace of a [`Replica`](crate::Replica). Cheap to clone; all clones are the
/// same space, and keep the replica's store open.
#[derive(Clone)]
pub struct Space {
    pub(crate) engine: Arc<Engine>,
    pub(crate) index: SpaceIndex,
    pub(crate) id: SpaceId,
    pub(crate) name: Arc<str>,
}

impl Space {
    /// The name under which the space was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What names the space to peers; made from its name.
    pub fn id(&self) -> SpaceId {
        self.id
    }

    /// Runs one transaction: all that `build` writes becomes one commit, which is whole or not there at
    /// all, on this replica and on every other. Returns what `build` returns.
    ///
    /// The call returns when the commit is as durable as [`Durability`](crate::Durability) says. It waits
    /// for other writers of this replica while they build their transactions, never for the network. A
    /// transaction that changes nothing makes no commit.
    ///
    /// # Errors
    /// What `build` returned, or why the commit could not be made: nothing was changed.
    /// [`Error::InsideTransaction`] if `build` of another transaction of this replica makes the call. After
    /// [`StoreError::Poisoned`](crate::StoreError::Poisoned) the commit may be there or not when the
    /// replica is opened again.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let replica = rejoin::Replica::open(folder.path().join("app.rejoin"))?;
    /// let votes = replica.space("votes")?;
    /// let total = votes.write(|tx| {
    ///     tx.counter("yes").add(1)?;
    ///     tx.counter("yes").get()
    /// })?;
    /// assert_eq!(total, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write<T>(
        &self,
        build: impl FnOnce(&mut Transaction<'_, '_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if !self.engine.hub.is_open() {
            return Err(Error::Closed);
        }
        let _inside = self.engine.enter_transaction()?;
        let written = self.engine.store.write(self.index, self.engine.wall_time_ms(), |inner| {
            build(&mut Transaction::new(inner))
        });
        let (value, _committed) = written?;
        Ok(value)
    }

    /// A consistent view of the space as it is now. It does not move, and blocks nobody.
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be read.
    pub fn read(&self) -> Result<Snapshot, Error> {
        Ok(Snapshot::new(self.engine.store.snapshot(self.index)?))
    }

    /// Which commits are on disk here, and so may be sent to peers.
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be read.
    pub fn durable_version(&self) -> Result<Arc<VersionVector>, Error> {
        Ok(self.engine.store.durable_version(self.index)?)
    }

    /// The changes at and under `path` from now on.
    ///
    /// # Errors
    /// [`Error::Path`] if the path breaks a limit.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let replica = rejoin::Replica::open(folder.path().join("app.rejoin"))?;
    /// use rejoin::{Change, Kind, WatchEvent, path};
    ///
    /// let space = replica.space("cart")?;
    /// let mut watch = space.watch("items")?;
    /// space.write(|tx| tx.counter(path!["items", "milk"]).add(1))?;
    /// let Some(WatchEvent::Commit { changes, local: true, .. }) = watch.try_next()? else {
    ///     panic!("a commit is due");
    /// };
    /// assert_eq!(changes, [Change::Row { path: path!["items", "milk"]?, kind: Kind::Counter }]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn watch(&self, path: impl IntoPath) -> Result<Watch, Error> {
        self.watch_at(path, None)
    }

    /// The changes at and under `path` from `sequence` on, which a [`Snapshot::sequence`], an event or an
    /// earlier [`Watch::sequence`] gave, also before this process began. If the log does not reach back
    /// that far, the first event is a [`Reread`](crate::WatchEvent::Reread).
    ///
    /// Read a snapshot, then watch from its sequence: nothing falls between the two.
    ///
    /// # Errors
    /// [`Error::Path`] if the path breaks a limit.
    pub fn watch_from(
        &self,
        path: impl IntoPath,
        sequence: ChangeSequence,
    ) -> Result<Watch, Error> {
        self.watch_at(path, Some(sequence))
    }

    fn watch_at(&self, path: impl IntoPath, from: Option<ChangeSequence>) -> Result<Watch, Error> {
        let path = path.into_path()?;
        let (engine, index) = (Arc::clone(&self.engine), self.index);
        let read_log = move |position, limit| engine.read_log(index, position, limit);
        Ok(Watch::new(self.engine.hub.feed(self.index)?, Box::new(read_log), path, from))
    }
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space").field("name", &self.name).field("id", &self.id).finish()
    }
}
