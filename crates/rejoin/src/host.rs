//! The store as sync sees it: gossip's [`Host`] over it.

use std::sync::{Arc, Weak};

use rejoin_crdt::{Path, ReadRows, ReplicaId, Row, RowKey, SpaceId, VersionVector};
use rejoin_gossip::{
    ApplyError, CommitsAfter, DeviceId, Host, HostError, Run, StateRow, StateSource, StateStage,
};
use rejoin_store::{CommitRun, Durability, Snapshot, SpaceIndex, StageError, Store, StoreError};

/// How many rows of a state are read at a time.
const STATE_PAGE_ROWS: usize = 256;

/// A row whose encoding is longer than this goes out in parts, so that it fits through a frame.
const ROW_PART_BYTES: usize = 256 << 10;

/// Serves the spaces of one store to sessions. It does not keep the store open: a replica that is dropped
/// while it is online lets go of its folder at once.
#[derive(Debug)]
pub(crate) struct EngineHost {
    store: Weak<Store>,
    replica: ReplicaId,
}

impl EngineHost {
    pub(crate) fn new(store: &Arc<Store>) -> Self {
        Self { store: Arc::downgrade(store), replica: store.replica_id() }
    }

    fn open(&self) -> Result<Arc<Store>, HostError> {
        self.store.upgrade().ok_or_else(|| HostError("the replica was closed".to_owned()))
    }

    fn open_space(&self, space: SpaceId) -> Result<(Arc<Store>, SpaceIndex), HostError> {
        let store = self.open()?;
        let index = store.find_space(space);
        let index = index.ok_or_else(|| HostError("no such space".to_owned()))?;
        Ok((store, index))
    }
}

impl Host for EngineHost {
    fn replica(&self) -> ReplicaId {
        self.replica
    }

    fn spaces(&self, _peer: DeviceId) -> Result<Vec<SpaceId>, HostError> {
        Ok(self.open()?.spaces().into_iter().map(|(_, space)| space.id).collect())
    }

    fn durable_version(&self, space: SpaceId) -> Result<Arc<VersionVector>, HostError> {
        let (store, index) = self.open_space(space)?;
        store.durable_version(index).map_err(host_error)
    }

    fn commits_after(
        &self,
        space: SpaceId,
        version: &VersionVector,
        bytes_max: usize,
    ) -> Result<CommitsAfter, HostError> {
        let (store, index) = self.open_space(space)?;
        let found = store.commits_after(index, version, bytes_max);
        Ok(match found.map_err(host_error)? {
            rejoin_store::CommitsAfter::Commits { runs, .. } => {
                CommitsAfter::Runs(runs.into_iter().map(run_out).collect())
            }
            rejoin_store::CommitsAfter::LogGone => CommitsAfter::LogGone,
            rejoin_store::CommitsAfter::Fork { replica, sequence } => {
                CommitsAfter::Fork(rejoin_crdt::Fork { replica, sequence })
            }
        })
    }

    fn apply(&self, space: SpaceId, runs: &[Run]) -> Result<Arc<VersionVector>, ApplyError> {
        let (store, index) = self.open_space(space)?;
        let runs: Vec<_> = runs.iter().map(run_in).collect();
        store.apply(index, &runs).map_err(|error| apply_error(&store, index, error))?;
        if store.options().durability != Durability::Immediate {
            // What is acknowledged to a peer is on disk, whatever local writers were promised.
            store.sync().map_err(host_error)?;
        }
        Ok(store.durable_version(index).map_err(host_error)?)
    }

    fn mark_sent(&self, space: SpaceId, sequence: u64) -> Result<(), HostError> {
        let (store, index) = self.open_space(space)?;
        store.mark_sent(index, sequence).map_err(host_error)
    }

    fn mark_confirmed(&self, space: SpaceId, sequence: u64) -> Result<(), HostError> {
        let (store, index) = self.open_space(space)?;
        store.mark_confirmed(index, sequence).map_err(host_error)
    }

    fn open_state(&self, space: SpaceId) -> Result<Box<dyn StateSource>, HostError> {
        let (store, index) = self.open_space(space)?;
        let snapshot = store.durable_snapshot(index).map_err(host_error)?;
        Ok(Box::new(Source { snapshot, after: None, ahead: Vec::new() }))
    }

    fn begin_stage(
        &self,
        space: SpaceId,
        theirs: &VersionVector,
    ) -> Result<Box<dyn StateStage>, ApplyError> {
        let (store, index) = self.open_space(space)?;
        let stage = store.begin_state(index, theirs.clone());
        let stage = stage.map_err(|error| stage_error(&store, index, error))?;
        Ok(Box::new(Stage { store: Arc::downgrade(&store), stage }))
    }
}

/// A durable view of a space on its way out.
#[derive(Debug)]
struct Source {
    snapshot: Snapshot,
    after: Option<RowKey>,
    /// Read and not yet given out, in reverse order.
    ahead: Vec<(RowKey, Row)>,
}

impl StateSource for Source {
    fn version(&self) -> &VersionVector {
        self.snapshot.version()
    }

    fn next_page(&mut self, bytes_max: usize) -> Result<Vec<StateRow>, HostError> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while let Some((key, row)) = self.next_row()? {
            let encoded = StateRow { key: key.to_bytes().into(), row: row.to_bytes().into() };
            let size = encoded.key.len() + encoded.row.len();
            if !rows.is_empty() && bytes + size > bytes_max {
                self.ahead.push((key, row));
                break;
            }
            bytes += size;
            rows.push(encoded);
        }
        Ok(rows)
    }
}

impl Source {
    /// The next row, or the next part of a long one.
    fn next_row(&mut self) -> Result<Option<(RowKey, Row)>, HostError> {
        if self.ahead.is_empty() {
            let page = self.snapshot.page(&Path::root(), self.after.as_ref(), STATE_PAGE_ROWS);
            let page = page.map_err(host_error)?;
            self.after = page.last().map(|(key, _)| key.clone()).or(self.after.take());
            let parts = page.into_iter().flat_map(|(key, row)| {
                let parts = row.split(ROW_PART_BYTES).into_iter();
                parts.map(move |part| (key.clone(), part))
            });
            self.ahead = parts.collect();
            self.ahead.reverse();
        }
        Ok(self.ahead.pop())
    }
}

/// A peer's state on its way in.
#[derive(Debug)]
struct Stage {
    store: Weak<Store>,
    stage: rejoin_store::StateStage,
}

impl StateStage for Stage {
    fn stage(&mut self, rows: &[StateRow]) -> Result<(), ApplyError> {
        let space = self.stage.space();
        let mut pushed = rows.iter().map(|row| self.stage.push(&row.key, &row.row));
        let pushed = pushed.try_for_each(|pushed| pushed);
        pushed.map_err(|error| match self.store.upgrade() {
            Some(store) => stage_error(&store, space, error),
            None => HostError(error.to_string()).into(),
        })
    }

    fn commit(self: Box<Self>) -> Result<Arc<VersionVector>, ApplyError> {
        let Self { store, stage } = *self;
        let closed = || HostError("the replica was closed".to_owned());
        let (store, space) = (store.upgrade().ok_or_else(closed)?, stage.space());
        let joined = store.commit_state(stage);
        joined.map_err(|error| stage_error(&store, space, error))
    }
}

fn apply_error(store: &Store, space: SpaceIndex, error: rejoin_store::ApplyError) -> ApplyError {
    match error {
        rejoin_store::ApplyError::Gap { .. }
        | rejoin_store::ApplyError::MissingDependency { .. } => ApplyError::Gap,
        rejoin_store::ApplyError::Fork(fork) => ApplyError::Fork(fork),
        rejoin_store::ApplyError::RolledBack { dot } => {
            own_replica_ahead(store, space, dot.sequence)
        }
        rejoin_store::ApplyError::Store(error) => host_error(error).into(),
        malformed => ApplyError::Malformed(malformed.to_string()),
    }
}

fn stage_error(store: &Store, space: SpaceIndex, error: StageError) -> ApplyError {
    match error {
        StageError::Fork(fork) => ApplyError::Fork(fork),
        StageError::RolledBack { dot } => own_replica_ahead(store, space, dot.sequence),
        StageError::Store(error) => host_error(error).into(),
        malformed => ApplyError::Malformed(malformed.to_string()),
    }
}

fn own_replica_ahead(store: &Store, space: SpaceIndex, theirs: u64) -> ApplyError {
    match store.durable_version(space) {
        Ok(version) => {
            ApplyError::OwnReplicaAhead { theirs, ours: version.sequence(store.replica_id()) }
        }
        Err(error) => host_error(error).into(),
    }
}

#[allow(clippy::needless_pass_by_value)] // It stands where `map_err` wants a function of the error.
fn host_error(error: StoreError) -> HostError {
    HostError(error.to_string())
}

fn run_out(run: CommitRun) -> Run {
    let CommitRun { replica, first_sequence, previous, bodies } = run;
    Run { replica, first_sequence, previous, bodies }
}

fn run_in(run: &Run) -> CommitRun {
    let Run { replica, first_sequence, previous, bodies } = run.clone();
    CommitRun { replica, first_sequence, previous, bodies }
}
