//! Bringing the buffer of rows into the tree, while writers go on.

use std::sync::{Arc, MutexGuard};

use super::Store;
use crate::entry::SpaceIndex;
use crate::error::StoreError;
use crate::head::Head;
use crate::sync::lock;
use crate::tree::{Fold, Tree, TreeStore};
use crate::view::View;

impl Store {
    /// Whether enough was written since the last checkpoint that another should be made.
    pub fn checkpoint_due(&self) -> bool {
        lock(&self.head).view.active.bytes >= self.options.buffer_bytes
    }

    /// Brings everything written so far into the tree. Writers and readers go on meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Poisoned`] if it fails: a tree that could not be written cannot be written to again.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.checkpoint_if(|_| true)
    }

    /// Makes a checkpoint if `due` still says so once it is this caller's turn.
    pub(super) fn checkpoint_if(&self, due: impl Fn(&Head) -> bool) -> Result<(), StoreError> {
        let mut tree = lock(&self.tree);
        {
            let head = lock(&self.head);
            head.check_poison()?;
            if !due(&head) {
                return Ok(());
            }
        }
        self.checkpoint_held(&mut tree)
    }

    pub(super) fn checkpoint_held(
        &self,
        tree: &mut MutexGuard<'_, TreeStore>,
    ) -> Result<(), StoreError> {
        if !lock(&self.head).is_ahead_of(tree.meta().mark) {
            return Ok(());
        }
        // The log is made durable up to the mark before the tree may hold what it says.
        let (view, changed) = self.freeze()?;
        let buffer = view.frozen.as_ref().expect("the view was taken when its buffer was frozen");
        let (replicas, spaces, mark) = (&*view.replicas, &view.spaces, view.lsn);
        let folded = tree.fold(&Fold { buffer, replicas, spaces, changed, mark });
        folded.map_err(|error| self.poisoned("making a checkpoint", &error))?;
        self.rebase(tree.current());
        Ok(())
    }

    /// Sets the active buffer aside and makes the log durable up to there; returns the view of that moment
    /// and the spaces whose state the tree lacks.
    ///
    /// All views that are published afterwards were taken on the new, empty buffer.
    fn freeze(&self) -> Result<(View, Vec<SpaceIndex>), StoreError> {
        let mut flusher = lock(&self.flusher);
        let mut frozen = None;
        self.flush(&mut flusher, |head| {
            let changed = head.freeze();
            frozen = Some((head.view.clone(), changed));
            Ok(())
        })?;
        Ok(frozen.expect("a flush that succeeds has run its change"))
    }

    /// Rests all views on a tree that has what was frozen.
    pub(super) fn rebase(&self, tree: &Arc<Tree>) {
        let mut head = lock(&self.head);
        head.view.rebase(tree);
        for published in [&self.latest, &self.durable] {
            let mut view = View::clone(&published.load());
            view.rebase(tree);
            published.store(Arc::new(view));
        }
    }

    /// Poisons the store for an error of the tree.
    pub(super) fn poisoned(&self, action: &str, error: &StoreError) -> StoreError {
        StoreError::Poisoned { cause: self.poison(action, error) }
    }
}
