//! The store: what its owner calls.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use bytes::Bytes;
use rejoin_crdt::planted::{self, Bug};
use rejoin_crdt::{
    CommitBody, CommitHash, Dot, Fork, NotReady, ReplicaId, SpaceId, Transaction, VersionVector,
    commit_hash,
};

use crate::backend::{Backend, BackendLock};
use crate::entry::{SPACE_NAME_BYTES_MAX, SpaceIndex};
use crate::error::{ApplyError, StoreError, WriteError};
use crate::group::{Batch, Cause, Committed, Ticket};
use crate::head::{Head, ReadyCommit};
use crate::log::{Log, LogWriter, Lsn};
use crate::observer::Observer;
use crate::options::{Durability, StoreOptions};
use crate::snapshot::Snapshot;
use crate::sync::lock;
use crate::tree::TreeStore;
use crate::view::{SpaceInfo, View};

mod checkpoint;
mod history;
mod lookup;
mod open;
mod stage;
mod truncate;

pub use history::{CommitsAfter, LogPage};
pub use open::OpenReport;
pub use stage::StateStage;
pub use truncate::Truncated;

/// The spaces of one replica: their commit log, and the rows that follow from it.
///
/// # Threads
///
/// All methods take `&self` and may be called from any thread; the store has none of its own. Writers take
/// turns for as long as it takes to prepare a commit in memory, and share what takes long, the sync. Readers
/// hold [`Snapshot`]s and never wait for anybody. Whoever owns the store calls, from time to time:
///
/// - [`checkpoint`](Store::checkpoint), on a thread that may take its time, when
///   [`checkpoint_due`](Store::checkpoint_due) says so; a writer who finds far too much left over from
///   the last one makes it himself;
/// - [`sync`](Store::sync), as often as [`Durability::Eventual`] promises;
/// - [`close`](Store::close) at the end. A store that is dropped without it is as after a crash: all that is
///   durable is there.
///
/// # Failures
///
/// Any failure to write or sync *poisons* the store: what memory holds may not be on disk then, so nothing
/// more is written until the store is opened again ([`StoreError::Poisoned`]). Reads go on.
pub struct Store {
    // The fields are dropped in this order: the lock last.
    tree: Mutex<TreeStore>,
    flusher: Mutex<Flusher>,
    head: Mutex<Head>,
    log: Arc<Log>,
    /// What local readers see.
    latest: ArcSwap<View>,
    /// What peers may be told.
    durable: ArcSwap<View>,
    observer: Box<dyn Observer>,
    backend: Arc<dyn Backend>,
    options: StoreOptions,
    replica: ReplicaId,
    stages: std::sync::atomic::AtomicU64,
    _lock: Box<dyn BackendLock>,
}

// Locks are taken in the order `tree`, `flusher`, `head`; any may be skipped.

/// The right to write to the log. Whoever holds it leads the batch.
#[derive(Debug)]
struct Flusher {
    writer: LogWriter,
    /// Memory to fill the next batch into.
    spare: Vec<u8>,
}

/// Memory of a batch is kept for the next one up to this size, in bytes.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// Commits of one replica that follow each other, as they go over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitRun {
    /// Who made them.
    pub replica: ReplicaId,
    /// The sequence number of the first.
    pub first_sequence: u64,
    /// The hash of the commit before the first; zero before a replica's first commit.
    pub previous: CommitHash,
    /// Their canonical bytes.
    pub bodies: Vec<Bytes>,
}

/// What became of commits from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// How many took effect.
    pub applied: u64,
    /// How many were known already.
    pub duplicates: u64,
}

impl Store {
    /// The replica that writes here.
    pub fn replica_id(&self) -> ReplicaId {
        self.replica
    }

    /// What the store was opened with.
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// All spaces, in the order in which they were created.
    pub fn spaces(&self) -> Vec<(SpaceIndex, SpaceInfo)> {
        let view = self.latest.load();
        view.spaces.iter().map(|(index, state)| (*index, SpaceInfo::clone(&state.info))).collect()
    }

    /// Creates a space, durably. One that is there already is returned as it is, under the name it has.
    ///
    /// # Errors
    /// [`StoreError::NameTooLong`], and whatever keeps the store from writing.
    pub fn create_space(&self, id: SpaceId, name: &str) -> Result<SpaceIndex, StoreError> {
        if name.len() > SPACE_NAME_BYTES_MAX {
            return Err(StoreError::NameTooLong { length: name.len() });
        }
        let (index, batch) = {
            let mut head = lock(&self.head);
            head.check_poison()?;
            let index = head.find_space(id).unwrap_or_else(|| head.define_space(id, name));
            (index, head.batch())
        };
        self.wait_for(&batch)?;
        Ok(index)
    }

    /// Runs a transaction and makes it durable, or visible, as the store's [`Durability`] says.
    ///
    /// `build` runs with the writers' lock held, over everything that was written before; it must not call
    /// this store's writing methods. Returns what `build` returned, and the commit unless it changes nothing.
    ///
    /// # Errors
    /// [`WriteError`]; an error of `build`, or an empty transaction, changes nothing.
    pub fn write<T, E>(
        &self,
        space: SpaceIndex,
        wall_time_ms: u64,
        build: impl FnOnce(&mut Transaction<'_, StoreError>) -> Result<T, E>,
    ) -> Result<(T, Option<Committed>), WriteError<E>> {
        let (value, ticket) = self.append(space, wall_time_ms, build)?;
        if let Some(ticket) = &ticket
            && self.options.durability == Durability::Immediate
        {
            self.wait(ticket)?;
        }
        Ok((value, ticket.map(|ticket| ticket.committed)))
    }

    /// As [`write`](Store::write), but does not wait: the ticket says what to [`wait`](Store::wait) for.
    ///
    /// In [`Durability::Immediate`] readers do not see the commit before somebody has waited.
    ///
    /// # Errors
    /// As [`write`](Store::write).
    pub fn append<T, E>(
        &self,
        space: SpaceIndex,
        wall_time_ms: u64,
        build: impl FnOnce(&mut Transaction<'_, StoreError>) -> Result<T, E>,
    ) -> Result<(T, Option<Ticket>), WriteError<E>> {
        let mut head = self.head_with_room()?;
        let (value, body) = head.build(space, wall_time_ms, build)?;
        let Some(body) = body else { return Ok((value, None)) };
        let bytes = Bytes::from(body.to_bytes(self.replica)?);
        let state = head.view.space(space)?;
        let dot = Dot { replica: self.replica, sequence: state.version.sequence(self.replica) + 1 };
        let previous = state.version.previous_hash(self.replica);
        let hash = commit_hash(state.info.id, dot, previous, &bytes);
        let first_change = head.changes_len();
        let lsn = head.commit(&ReadyCommit { space, dot, previous, hash, body: &body, bytes })?;
        self.publish_at_once(&head, first_change);
        Ok((value, Some(Ticket { batch: head.batch(), committed: Committed { dot, lsn } })))
    }

    /// Waits until what the ticket stands for is durable; writes it, if nobody else does.
    ///
    /// # Errors
    /// [`StoreError::Poisoned`] if it could not be written.
    pub fn wait(&self, ticket: &Ticket) -> Result<(), StoreError> {
        self.wait_for(&ticket.batch)
    }

    /// Applies commits from a peer: one batch, and one sync unless it is very large.
    ///
    /// Commits that are known already are skipped. All limits of a local commit hold.
    ///
    /// # Errors
    /// [`ApplyError`], about the first commit that cannot be applied; those before it are.
    pub fn apply(&self, space: SpaceIndex, runs: &[CommitRun]) -> Result<Applied, ApplyError> {
        let mut applied = Applied::default();
        let mut last = None;
        let result =
            runs.iter().try_for_each(|run| self.apply_run(space, run, &mut applied, &mut last));
        if let Some(batch) = last
            && self.options.durability == Durability::Immediate
        {
            self.wait_for(&batch)?;
        }
        result.map(|()| applied)
    }

    /// A view of a space that does not change; taking it costs next to nothing.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSpace`].
    pub fn snapshot(&self, space: SpaceIndex) -> Result<Snapshot, StoreError> {
        let behind = planted::is(Bug::ReadsDurableOnly);
        Snapshot::new(if behind { &self.durable } else { &self.latest }.load_full(), space)
    }

    /// The commits of a space that are on disk here, which is what peers may be told.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSpace`].
    pub fn durable_version(&self, space: SpaceIndex) -> Result<Arc<VersionVector>, StoreError> {
        Ok(self.durable.load().space(space)?.version.clone())
    }

    /// Behind everything that is on disk.
    pub fn durable_lsn(&self) -> Lsn {
        self.durable.load().lsn
    }

    /// Notes that a peer may know own commits up to `sequence`, which is done *before* they are sent: a
    /// counter may fold away only what no peer has seen. Not kept: a store that is opened assumes all was sent.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSpace`].
    pub fn mark_sent(&self, space: SpaceIndex, sequence: u64) -> Result<(), StoreError> {
        lock(&self.head).mark_sent(space, sequence)
    }

    /// Notes that a peer holds own commits up to `sequence`, durably; those not confirmed are never
    /// [truncated](Store::truncate_log). Kept from the next checkpoint on.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSpace`].
    pub fn mark_confirmed(&self, space: SpaceIndex, sequence: u64) -> Result<(), StoreError> {
        lock(&self.head).mark_confirmed(space, sequence)
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// [`StoreError::Poisoned`].
    pub fn sync(&self) -> Result<(), StoreError> {
        let mut flusher = lock(&self.flusher);
        if lock(&self.head).pending_bytes() == 0 {
            return lock(&self.head).check_poison();
        }
        self.flush(&mut flusher, |_| Ok(()))
    }

    /// Makes a checkpoint and closes the store, so that the next opening has nothing to replay.
    ///
    /// # Errors
    /// Whatever keeps the checkpoint from being made; the store is closed all the same, as after a crash.
    pub fn close(self) -> Result<(), StoreError> {
        self.checkpoint()
    }

    /// The writers' lock, once neither the log nor the buffer of rows is too far ahead of the disk.
    fn head_with_room(&self) -> Result<std::sync::MutexGuard<'_, Head>, StoreError> {
        loop {
            let head = lock(&self.head);
            head.check_poison()?;
            if head.pending_bytes() >= self.options.pending_bytes_max {
                let batch = head.batch();
                drop(head);
                self.wait_for(&batch)?;
            } else if head.view.active.bytes >= self.options.buffer_bytes_max {
                drop(head);
                self.checkpoint_if(|head| head.view.active.bytes >= self.options.buffer_bytes_max)?;
            } else {
                return Ok(head);
            }
        }
    }

    fn apply_run(
        &self,
        space: SpaceIndex,
        run: &CommitRun,
        applied: &mut Applied,
        last: &mut Option<Arc<Batch>>,
    ) -> Result<(), ApplyError> {
        let mut previous = run.previous;
        for (bytes, offset) in run.bodies.iter().zip(0u64..) {
            let sequence = run.first_sequence.saturating_add(offset);
            let dot = Dot { replica: run.replica, sequence };
            // Hashing and decoding are done outside the lock.
            let id = self.latest.load().space(space)?.info.id;
            let hash = commit_hash(id, dot, previous, bytes);
            let body = CommitBody::from_bytes(dot, bytes)
                .map_err(|error| ApplyError::Malformed { dot, detail: error.to_string() })?;
            let mut head = self.head_with_room()?;
            let version = &head.view.space(space)?.version;
            if check_ready(version, self.replica, dot, previous, hash, &body)? {
                let first_change = head.changes_len();
                let bytes = bytes.clone();
                head.commit(&ReadyCommit { space, dot, previous, hash, body: &body, bytes })?;
                self.publish_at_once(&head, first_change);
                *last = Some(head.batch());
                applied.applied += 1;
            } else {
                applied.duplicates += 1;
            }
            previous = hash;
        }
        Ok(())
    }

    /// Lets local readers see what was just appended, where that does not wait for the disk.
    fn publish_at_once(&self, head: &Head, first_change: usize) {
        if self.options.durability != Durability::Immediate {
            self.latest.store(Arc::new(head.view.clone()));
            if first_change < head.changes_len() {
                self.observer.published(head.changes_from(first_change));
            }
        }
    }

    fn wait_for(&self, batch: &Batch) -> Result<(), StoreError> {
        let outcome = batch.wait(|| self.lead(batch));
        outcome.map_err(|cause| StoreError::Poisoned { cause })
    }

    /// Writes a batch, unless it was written while the log's writer was busy.
    fn lead(&self, batch: &Batch) {
        let mut flusher = lock(&self.flusher);
        if batch.outcome().is_none() {
            // A batch without outcome is the one being filled, for only who holds the writer closes one.
            // Whoever waits finds the outcome in the batch.
            let _outcome_is_in_the_batch = self.flush(&mut flusher, |_| Ok(()));
        }
    }

    /// Closes the batch being filled, after `change`, writes it and lets everybody see it.
    ///
    /// An error, of `change` too, poisons the store.
    fn flush(
        &self,
        flusher: &mut Flusher,
        change: impl FnOnce(&mut Head) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let taken = {
            let mut head = lock(&self.head);
            if let Some(cause) = head.poisoned() {
                head.fail_pending(&cause);
                return Err(StoreError::Poisoned { cause });
            }
            let first_change = head.changes_len();
            if let Err(error) = change(&mut head) {
                let cause = head.poison(&error.to_string());
                return Err(StoreError::Poisoned { cause });
            }
            self.publish_at_once(&head, first_change);
            head.take(std::mem::take(&mut flusher.spare))
        };
        assert_eq!(taken.start, flusher.writer.end(), "batches are written end to end");
        if let Err(error) = flusher.writer.append(&taken.bytes) {
            let cause = self.poison("appending to the log", &error);
            taken.batch.resolve(Err(cause.clone()));
            return Err(StoreError::Poisoned { cause });
        }
        self.publish_durable(taken.view);
        if self.options.durability == Durability::Immediate && !taken.changes.is_empty() {
            self.observer.published(&taken.changes);
        }
        self.observer.durable(flusher.writer.end());
        taken.batch.resolve(Ok(()));
        flusher.spare = taken.bytes;
        flusher.spare.clear();
        flusher.spare.shrink_to(SPARE_BYTES_MAX);
        Ok(())
    }

    fn publish_durable(&self, mut view: View) {
        let head = lock(&self.head);
        // A checkpoint may have ended while the batch was written.
        view.rebase(&head.view.tree);
        let view = Arc::new(view);
        if self.options.durability == Durability::Immediate {
            self.latest.store(view.clone());
        }
        self.durable.store(view);
    }

    fn poison(&self, action: &str, error: &dyn std::fmt::Display) -> Cause {
        lock(&self.head).poison(&format!("{action} failed: {error}"))
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("replica", &self.replica).finish_non_exhaustive()
    }
}

/// Whether a commit from a peer can be applied at `version`; `false` if it has been.
fn check_ready(
    version: &VersionVector,
    own: ReplicaId,
    dot: Dot,
    previous: CommitHash,
    hash: CommitHash,
    body: &CommitBody,
) -> Result<bool, ApplyError> {
    let known = version.head(dot.replica);
    let fork = || ApplyError::Fork(Fork { replica: dot.replica, sequence: dot.sequence });
    match body.ready(dot, version) {
        Err(NotReady::Applied) => match known {
            Some(head) if planted::is(Bug::DuplicateApplied) && head.hash == hash => Ok(true),
            Some(head)
                if head.sequence == dot.sequence
                    && head.hash != hash
                    && !planted::is(Bug::ForkUnseen) =>
            {
                Err(fork())
            }
            _ => Ok(false),
        },
        _ if dot.replica == own && !planted::is(Bug::OwnTakenFromPeers) => {
            Err(ApplyError::RolledBack { dot })
        }
        Err(NotReady::Gap { applied }) => Err(ApplyError::Gap { dot, known: applied }),
        _ if previous != version.previous_hash(dot.replica)
            && !planted::is(Bug::ChainUnchecked) =>
        {
            Err(fork())
        }
        Err(NotReady::Missing(dependency)) => {
            Err(ApplyError::MissingDependency { dot, dependency })
        }
        Ok(()) => Ok(true),
    }
}
