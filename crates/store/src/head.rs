//! The writers' end of the store: everything appended, durable or not, and what waits for the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use rejoin_crdt::planted::{self, Bug};
use rejoin_crdt::{
    CommitBody, CommitHash, Dot, Path, ReadRows, ReplicaId, Row, RowKey, RowPage, SpaceId,
    Transaction, TransactionContext, VersionVector, WriteRows, apply,
};

use crate::entry::{Entry, ReplicaIndex, SpaceIndex};
use crate::error::{StoreError, WriteError};
use crate::group::{Batch, Cause};
use crate::log::{Framing, Location, Lsn};
use crate::observer::Change;
use crate::tree::Unreadable;
use crate::view::{BufferedRow, SpaceInfo, SpaceRows, SpaceState, StoredKey, View, tree_key};

/// The state that writers change, one at a time.
#[derive(Debug)]
pub(crate) struct Head {
    replica: ReplicaId,
    framing: Framing,
    /// Everything appended.
    pub(crate) view: View,
    pending: Pending,
    own: BTreeMap<SpaceIndex, Own>,
    /// The spaces whose state is not in the tree.
    changed: BTreeSet<SpaceIndex>,
    poisoned: Option<Cause>,
    /// Why the tree cannot be read any more: nothing can be written then that rests on what it holds.
    unreadable: Unreadable,
}

/// What is appended and not yet being written.
#[derive(Debug)]
struct Pending {
    start: Lsn,
    bytes: Vec<u8>,
    changes: Vec<Change>,
    batch: Arc<Batch>,
}

/// What a leader takes to write.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) start: Lsn,
    pub(crate) bytes: Vec<u8>,
    pub(crate) changes: Vec<Change>,
    pub(crate) batch: Arc<Batch>,
    /// What is visible once the batch is durable.
    pub(crate) view: View,
}

/// What the writer of a space must remember about its own commits.
#[derive(Debug, Default)]
struct Own {
    /// The other replicas with commits that this one's last commit does not depend on.
    advanced: BTreeSet<ReplicaId>,
    /// A peer may know own commits up to this sequence number.
    sent: u64,
}

/// A commit that is checked and can take effect.
#[derive(Debug)]
pub(crate) struct ReadyCommit<'a> {
    pub(crate) space: SpaceIndex,
    pub(crate) dot: Dot,
    pub(crate) previous: CommitHash,
    pub(crate) hash: CommitHash,
    pub(crate) body: &'a CommitBody,
    pub(crate) bytes: Bytes,
}

impl Head {
    /// Starts from what the tree holds.
    pub(crate) fn new(
        replica: ReplicaId,
        framing: Framing,
        view: View,
        unreadable: Unreadable,
    ) -> Self {
        let start = view.lsn;
        // What the last own commit depended on is not stored: naming all others is right, and costs bytes once.
        let others = |state: &SpaceState| {
            let others = state.version.iter().map(|(id, _)| id).filter(|id| *id != replica);
            Own { advanced: others.collect(), sent: 0 }
        };
        Self {
            replica,
            framing,
            own: view.spaces.iter().map(|(index, state)| (*index, others(state))).collect(),
            view,
            pending: Pending {
                start,
                bytes: Vec::new(),
                changes: Vec::new(),
                batch: Arc::default(),
            },
            changed: BTreeSet::new(),
            poisoned: None,
            unreadable,
        }
    }

    /// Assumes that a peer may know every own commit there is.
    pub(crate) fn assume_sent(&mut self) {
        for (index, own) in &mut self.own {
            own.sent =
                self.view.spaces.get(index).map_or(0, |state| state.version.sequence(self.replica));
        }
    }

    pub(crate) fn poisoned(&self) -> Option<Cause> {
        self.poisoned.clone().or_else(|| self.unreadable.get().cloned())
    }

    pub(crate) fn check_poison(&self) -> Result<(), StoreError> {
        self.poisoned().map_or(Ok(()), |cause| Err(StoreError::Poisoned { cause }))
    }

    /// Refuses all writes from now on; returns the first cause, and lets nobody wait any more.
    pub(crate) fn poison(&mut self, cause: &str) -> Cause {
        if planted::is(Bug::PoisonForgotten) {
            return cause.into();
        }
        let cause = self.poisoned.get_or_insert_with(|| cause.into()).clone();
        self.fail_pending(&cause);
        cause
    }

    /// Lets nobody wait for a batch that will never be written.
    pub(crate) fn fail_pending(&self, cause: &Cause) {
        self.pending.batch.resolve(Err(cause.clone()));
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.bytes.len()
    }

    /// The batch that is being filled: once it is durable, so is everything appended so far.
    pub(crate) fn batch(&self) -> Arc<Batch> {
        self.pending.batch.clone()
    }

    /// Closes the batch being filled; `spare` becomes the memory of the next one.
    pub(crate) fn take(&mut self, spare: Vec<u8>) -> Taken {
        let next = Pending {
            start: self.view.lsn,
            bytes: spare,
            changes: Vec::new(),
            batch: Arc::default(),
        };
        let Pending { start, bytes, changes, batch } = std::mem::replace(&mut self.pending, next);
        Taken { start, bytes, changes, batch, view: self.view.clone() }
    }

    /// The changes that were appended since the `first` of this batch.
    pub(crate) fn changes_from(&self, first: usize) -> &[Change] {
        &self.pending.changes[first..]
    }

    pub(crate) fn changes_len(&self) -> usize {
        self.pending.changes.len()
    }

    /// Sets the active buffer aside for a checkpoint; returns the spaces whose state the tree lacks.
    pub(crate) fn freeze(&mut self) -> Vec<SpaceIndex> {
        assert!(self.view.frozen.is_none(), "checkpoints are made one after the other");
        self.view.frozen = Some(std::mem::take(&mut self.view.active));
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    /// Whether a checkpoint would bring anything into the tree, whose mark is given.
    pub(crate) fn is_ahead_of(&self, mark: Lsn) -> bool {
        self.view.lsn != mark || !self.changed.is_empty() || !self.view.active.is_empty()
    }

    pub(crate) fn find_space(&self, id: SpaceId) -> Option<SpaceIndex> {
        self.view.space_ids.get(&id).copied()
    }

    pub(crate) fn define_space(&mut self, id: SpaceId, name: &str) -> SpaceIndex {
        let last = self.view.spaces.get_max().map(|(index, _)| index.0);
        let next = last.map_or(Some(0), |last| last.checked_add(1));
        let index =
            SpaceIndex(next.expect("a store cannot hold 2^32 spaces: each takes space in its log"));
        self.log(&Entry::DefineSpace { index, id, name: name.to_owned() });
        self.enter_space(index, id, name);
        index
    }

    pub(crate) fn enter_space(&mut self, index: SpaceIndex, id: SpaceId, name: &str) {
        let state = SpaceState::new(SpaceInfo { id, name: name.to_owned() });
        self.view.spaces.insert(index, state);
        self.view.space_ids.insert(id, index);
        self.own.insert(index, Own::default());
        self.changed.insert(index);
    }

    /// The number of a replica, defined if need be.
    pub(crate) fn intern(&mut self, id: ReplicaId) -> ReplicaIndex {
        if let Some(index) = self.view.replicas.index(id) {
            return index;
        }
        let index = self.view.replicas.next();
        self.log(&Entry::DefineReplica { index, id });
        self.enter_replica(id)
    }

    pub(crate) fn enter_replica(&mut self, id: ReplicaId) -> ReplicaIndex {
        Arc::make_mut(&mut self.view.replicas).push(id)
    }

    /// Runs a transaction over everything appended. Nothing is changed.
    pub(crate) fn build<T, E>(
        &self,
        space: SpaceIndex,
        wall_time_ms: u64,
        build: impl FnOnce(&mut Transaction<'_, StoreError>) -> Result<T, E>,
    ) -> Result<(T, Option<CommitBody>), WriteError<E>> {
        let version = &self.view.space(space)?.version;
        let mut context =
            TransactionContext { replica: self.replica, wall_time_ms, ..Default::default() };
        if let Some(own) = self.own.get(&space) {
            context.sent = own.sent;
            let dot = |replica: &ReplicaId| Dot {
                replica: *replica,
                sequence: version.sequence(*replica),
            };
            context.dependencies = own.advanced.iter().map(dot).collect();
        }
        let rows = SpaceRows { view: &self.view, space };
        let mut transaction = Transaction::new(&rows, version, context);
        let value = build(&mut transaction).map_err(WriteError::Aborted)?;
        Ok((value, transaction.finish()))
    }

    /// Lets a commit take effect and appends it to the log. An error changes nothing.
    pub(crate) fn commit(&mut self, commit: &ReadyCommit<'_>) -> Result<Lsn, StoreError> {
        self.take_effect(commit.space, commit.dot, commit.body)?;
        let replica = self.intern(commit.dot.replica);
        let location = self.log(&Entry::Commit {
            space: commit.space,
            replica,
            sequence: commit.dot.sequence,
            previous: commit.previous,
            body: &commit.bytes[..],
        });
        self.enter(commit, replica, location);
        self.pending.changes.push(Change::Commit {
            lsn: location.end(),
            space: commit.space,
            dot: commit.dot,
            body: commit.bytes.clone(),
        });
        Ok(location.end())
    }

    /// Lets a commit take effect that the log has at `location`. An error changes nothing.
    pub(crate) fn replay(
        &mut self,
        commit: &ReadyCommit<'_>,
        location: Location,
    ) -> Result<(), StoreError> {
        self.take_effect(commit.space, commit.dot, commit.body)?;
        let replica = self.intern(commit.dot.replica);
        self.enter(commit, replica, location);
        Ok(())
    }

    /// Everything up to `lsn` is in the view, and in the log.
    pub(crate) fn reach(&mut self, lsn: Lsn) {
        assert!(self.pending.bytes.is_empty(), "nothing is appended while the log is replayed");
        self.view.lsn = lsn;
        self.pending.start = lsn;
    }

    /// Changes the rows as a commit says, all or nothing.
    fn take_effect(
        &mut self,
        space: SpaceIndex,
        dot: Dot,
        body: &CommitBody,
    ) -> Result<(), StoreError> {
        let mut rows = HeadRows { view: &mut self.view, space, undo: Vec::new() };
        let result = apply(&mut rows, dot, body);
        if result.is_err() {
            rows.roll_back();
        }
        result
    }

    /// Records a commit whose effect is in the rows.
    fn enter(&mut self, commit: &ReadyCommit<'_>, replica: ReplicaIndex, location: Location) {
        let Dot { replica: id, sequence } = commit.dot;
        self.view.active.index((commit.space, replica, sequence), location);
        let state = self.view.spaces.get_mut(&commit.space);
        let state = state
            .expect("a commit is checked against the version of its space before it is entered");
        let head = rejoin_crdt::Head { sequence, hash: commit.hash };
        Arc::make_mut(&mut state.version).set(id, head);
        self.changed.insert(commit.space);
        let own = self.own.entry(commit.space).or_default();
        if id == self.replica {
            own.advanced.clear();
        } else {
            own.advanced.insert(id);
        }
    }

    /// Enters a state that was joined in the tree: `rows` are what the active buffer holds of the space, joined.
    pub(crate) fn enter_joined(
        &mut self,
        space: SpaceIndex,
        version: VersionVector,
        rows: Vec<(StoredKey, BufferedRow)>,
    ) -> Result<(), StoreError> {
        let state = self.view.spaces.get_mut(&space).ok_or(StoreError::NoSuchSpace)?;
        let before = state.version.clone();
        state.version = Arc::new(version);
        let own = self.own.entry(space).or_default();
        for (replica, head) in state.version.iter().filter(|(replica, _)| *replica != self.replica)
        {
            if head.sequence > before.sequence(replica) {
                own.advanced.insert(replica);
            }
        }
        self.changed.insert(space);
        for (key, row) in rows {
            self.view.active.set(key, row);
        }
        let lsn = self.log(&Entry::Joined { space }).end();
        self.pending.changes.push(Change::Joined { lsn, space });
        Ok(())
    }

    /// Notes in the log that a state was joined.
    pub(crate) fn note_joined(&mut self, space: SpaceIndex) {
        self.log(&Entry::Joined { space });
    }

    pub(crate) fn mark_sent(&mut self, space: SpaceIndex, sequence: u64) -> Result<(), StoreError> {
        let own = self.own.get_mut(&space).ok_or(StoreError::NoSuchSpace)?;
        own.sent = own.sent.max(sequence);
        Ok(())
    }

    pub(crate) fn mark_confirmed(
        &mut self,
        space: SpaceIndex,
        sequence: u64,
    ) -> Result<(), StoreError> {
        let replica = self.replica;
        let state = self.view.spaces.get_mut(&space).ok_or(StoreError::NoSuchSpace)?;
        let confirmed = sequence.min(state.version.sequence(replica));
        if confirmed > state.confirmed {
            state.confirmed = confirmed;
            self.changed.insert(space);
        }
        Ok(())
    }

    fn log(&mut self, entry: &Entry<&[u8]>) -> Location {
        let Pending { start, bytes, .. } = &mut self.pending;
        let lsn = start.after(bytes.len());
        let body_bytes = self.framing.seal(bytes, *start, |out| entry.encode(out));
        let location = Location { lsn, body_bytes };
        self.view.lsn = location.end();
        location
    }
}

/// The rows of one space at the head, with what it takes to undo changes.
struct HeadRows<'a> {
    view: &'a mut View,
    space: SpaceIndex,
    undo: Vec<(StoredKey, Option<BufferedRow>)>,
}

impl HeadRows<'_> {
    fn roll_back(self) {
        for (key, old) in self.undo.into_iter().rev() {
            self.view.active.restore(key, old);
        }
    }

    fn reader(&self) -> SpaceRows<'_> {
        SpaceRows { view: self.view, space: self.space }
    }
}

impl ReadRows for HeadRows<'_> {
    type Error = StoreError;

    fn row(&self, key: &RowKey) -> Result<Option<Row>, StoreError> {
        self.reader().row(key)
    }

    fn page(
        &self,
        prefix: &Path,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<RowPage, StoreError> {
        self.reader().page(prefix, after, limit)
    }
}

impl WriteRows for HeadRows<'_> {
    fn set_row(&mut self, key: &RowKey, row: Row) -> Result<(), StoreError> {
        let key: StoredKey = tree_key(self.space, key).into();
        let row = (!row.is_empty()).then(|| Arc::new(row));
        let old = self.view.active.set(key.clone(), row);
        self.undo.push((key, old));
        Ok(())
    }
}
