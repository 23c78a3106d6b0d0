//! Dropping old history: whole segments, and never what only this store has.

use super::Store;
use crate::entry::Entry;
use crate::error::StoreError;
use crate::log::{Lsn, Scanned};
use crate::sync::lock;
use crate::view::{IndexKey, View};

/// What left the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Truncated {
    /// How many segments.
    pub segments: u64,
    /// How many bytes of records.
    pub bytes: u64,
}

impl Store {
    /// Drops those segments that end at or before `before` and that only history is in: the tree reflects
    /// them, and none holds a commit of this replica that no peer has [confirmed](Store::mark_confirmed).
    ///
    /// [`Lsn::MAX`] drops all it can; a [checkpoint](Store::checkpoint) just before makes that the most. The
    /// segment being written is sealed first if it can go too. Peers and watchers that would need what is
    /// gone are told so.
    ///
    /// # Errors
    /// [`StoreError::Poisoned`] if the disk fails, and [`StoreError::Damaged`].
    pub fn truncate_log(&self, before: Lsn) -> Result<Truncated, StoreError> {
        let mut tree = lock(&self.tree);
        lock(&self.head).check_poison()?;
        let limit = before.min(tree.meta().mark);
        self.seal_before(limit)?;
        let mut extents = self.log.extents();
        extents.pop();
        let mut truncated = Truncated::default();
        for (first, end) in extents.into_iter().filter(|(_, end)| *end <= limit) {
            let view = self.durable.load_full();
            let Some(commits) = self.droppable(&view, first, end)? else { continue };
            let forgotten = tree.forget(&commits);
            forgotten.map_err(|error| self.poisoned("truncating the log", &error))?;
            self.rebase(tree.current());
            let removed = self.log.remove(first).and_then(|()| self.backend.sync_directory());
            removed.map_err(|source| {
                self.poisoned(
                    "truncating the log",
                    &StoreError::Io { action: "removing a segment", source },
                )
            })?;
            truncated.segments += 1;
            truncated.bytes += end.get() - first.get();
        }
        Ok(truncated)
    }

    /// Seals the segment being written, if all of it lies before `limit`.
    fn seal_before(&self, limit: Lsn) -> Result<(), StoreError> {
        let mut flusher = lock(&self.flusher);
        if flusher.writer.end() > limit {
            return Ok(());
        }
        flusher.writer.seal().map_err(|source| {
            self.poisoned(
                "truncating the log",
                &StoreError::Io { action: "sealing a segment", source },
            )
        })
    }

    /// The commits in a segment; `None` if one of them must stay.
    fn droppable(
        &self,
        view: &View,
        first: Lsn,
        end: Lsn,
    ) -> Result<Option<Vec<IndexKey>>, StoreError> {
        let Some(mut scan) = self.log.scan(first) else { return Ok(None) };
        let own = view.replicas.index(self.replica);
        let mut commits = Vec::new();
        let mut next = first;
        while next < end {
            let Scanned::Record(location, record) = scan.step()? else { return Ok(None) };
            next = location.end();
            if let Some(Entry::Commit { space, replica, sequence, .. }) = Entry::decode(&record) {
                if Some(replica) == own && sequence > lock(&self.head).view.space(space)?.confirmed
                {
                    return Ok(None);
                }
                commits.push((space, replica, sequence));
            }
        }
        Ok(Some(commits))
    }
}
