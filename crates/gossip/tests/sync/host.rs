//! A host in memory: crdt's rows, a log that can be truncated, and faults on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use rejoin_crdt::{
    CommitBody, CommitHash, Dot, Fork, Head, Kind, MemoryRows, NotReady, Path, ReadRows, ReplicaId,
    Row, RowKey, SpaceId, StateDigest, Transaction, TransactionContext, VersionVector, apply,
    commit_hash, join, state_digest,
};
use rejoin_gossip::{
    ApplyError, CommitsAfter, DeviceId, Host, HostError, Run, StateRow, StateSource, StateStage,
};

#[derive(Debug, Clone)]
struct Logged {
    dot: Dot,
    previous: CommitHash,
    hash: CommitHash,
    body: Bytes,
}

#[derive(Debug, Clone, Default)]
struct Space {
    rows: MemoryRows,
    version: Arc<VersionVector>,
    log: Vec<Logged>,
    /// What the last own commit had seen.
    seen: VersionVector,
    sent: u64,
    confirmed: u64,
}

#[derive(Debug, Clone)]
struct Inner {
    replica: ReplicaId,
    offered: BTreeSet<SpaceId>,
    spaces: BTreeMap<SpaceId, Space>,
    failing: bool,
}

/// A store in memory. What it holds counts as on disk.
#[derive(Debug)]
pub(crate) struct MemoryHost {
    inner: Arc<Mutex<Inner>>,
    stages: Arc<Mutex<usize>>,
}

pub(crate) fn path(name: &str) -> Path {
    Path::of([name]).unwrap()
}

impl MemoryHost {
    pub(crate) fn new(number: u8, spaces: &[SpaceId]) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::new(Mutex::new(Inner {
                replica: ReplicaId::from_bytes([number + 1; 16]),
                offered: spaces.iter().copied().collect(),
                spaces: spaces.iter().map(|space| (*space, Space::default())).collect(),
                failing: false,
            })),
            stages: Arc::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The same store once more, as a copied disk or a restored backup gives it.
    pub(crate) fn copy(&self) -> Arc<Self> {
        let inner = Arc::new(Mutex::new(self.lock().clone()));
        Arc::new(Self { inner, stages: Arc::default() })
    }

    pub(crate) fn offer(&self, space: SpaceId) {
        let mut inner = self.lock();
        inner.offered.insert(space);
        inner.spaces.entry(space).or_default();
    }

    pub(crate) fn fail(&self) {
        self.lock().failing = true;
    }

    /// The disk works again.
    pub(crate) fn heal(&self) {
        self.lock().failing = false;
    }

    /// One transaction.
    pub(crate) fn write(
        &self,
        space: SpaceId,
        build: impl FnOnce(&mut Transaction<'_, std::convert::Infallible>),
    ) -> Dot {
        let mut inner = self.lock();
        let replica = inner.replica;
        let space_id = space;
        let space = inner.spaces.get_mut(&space_id).unwrap();
        let dependencies = space
            .version
            .dots()
            .filter(|dot| dot.replica != replica && !space.seen.covers(*dot))
            .collect();
        let context =
            TransactionContext { replica, wall_time_ms: 1_000, sent: space.sent, dependencies };
        let mut transaction = Transaction::new(&space.rows, &space.version, context);
        let dot = transaction.dot();
        build(&mut transaction);
        let body = transaction.finish().unwrap();
        let bytes = Bytes::from(body.to_bytes(replica).unwrap());
        space.append(space_id, dot, &body, bytes);
        space.seen = (*space.version).clone();
        dot
    }

    /// One commit that adds to a counter.
    pub(crate) fn increment(&self, space: SpaceId, name: &str, amount: i64) -> Dot {
        self.write(space, |transaction| transaction.increment(path(name), amount).unwrap())
    }

    pub(crate) fn counter(&self, space: SpaceId, name: &str) -> i64 {
        let key = RowKey { path: path(name), kind: Kind::Counter };
        let row = self.lock().spaces[&space].rows.row(&key).unwrap();
        rejoin_crdt::kind::counter::value(row.as_ref())
    }

    /// Drops the whole log. The rows stay.
    pub(crate) fn truncate(&self, space: SpaceId) {
        self.lock().spaces.get_mut(&space).unwrap().log.clear();
    }

    pub(crate) fn version(&self, space: SpaceId) -> Arc<VersionVector> {
        Arc::clone(&self.lock().spaces[&space].version)
    }

    pub(crate) fn digest(&self, space: SpaceId) -> StateDigest {
        let inner = self.lock();
        let space = &inner.spaces[&space];
        state_digest(&space.rows, &space.version).unwrap()
    }

    pub(crate) fn spaces_held(&self) -> Vec<SpaceId> {
        self.lock().spaces.keys().copied().collect()
    }

    pub(crate) fn sent(&self, space: SpaceId) -> u64 {
        self.lock().spaces[&space].sent
    }

    pub(crate) fn confirmed(&self, space: SpaceId) -> u64 {
        self.lock().spaces[&space].confirmed
    }

    /// How many stages are open.
    pub(crate) fn stages(&self) -> usize {
        *self.stages.lock().unwrap()
    }
}

impl Space {
    fn append(&mut self, id: SpaceId, dot: Dot, body: &CommitBody, bytes: Bytes) {
        let previous = self.version.previous_hash(dot.replica);
        let hash = commit_hash(id, dot, previous, &bytes);
        apply(&mut self.rows, dot, body).unwrap();
        let head = Head { sequence: dot.sequence, hash };
        Arc::make_mut(&mut self.version).set(dot.replica, head);
        self.log.push(Logged { dot, previous, hash, body: bytes });
    }

    fn hash_at(&self, dot: Dot) -> Option<CommitHash> {
        let head = self.version.head(dot.replica)?;
        if head.sequence == dot.sequence {
            return Some(head.hash);
        }
        self.log.iter().find(|logged| logged.dot == dot).map(|logged| logged.hash)
    }

    fn check_fork(&self, dot: Dot, hash: CommitHash) -> Result<(), Fork> {
        match self.hash_at(dot) {
            Some(mine) if mine != hash => {
                Err(Fork { replica: dot.replica, sequence: dot.sequence })
            }
            _ => Ok(()),
        }
    }

    fn commits_after(&self, version: &VersionVector, bytes_max: usize) -> CommitsAfter {
        for (replica, head) in version.iter() {
            let dot = Dot { replica, sequence: head.sequence };
            if let Err(fork) = self.check_fork(dot, head.hash) {
                return CommitsAfter::Fork(fork);
            }
        }
        let missing = |dot: Dot| !version.covers(dot);
        let there = self.log.iter().filter(|logged| missing(logged.dot)).count() as u64;
        let needed: u64 = self
            .version
            .iter()
            .map(|(id, head)| head.sequence.saturating_sub(version.sequence(id)))
            .sum();
        if there < needed {
            return CommitsAfter::LogGone;
        }
        let mut runs: Vec<Run> = Vec::new();
        let mut bytes = 0;
        for logged in self.log.iter().filter(|logged| missing(logged.dot)) {
            if bytes > 0 && bytes + logged.body.len() > bytes_max {
                break;
            }
            bytes += logged.body.len();
            let body = logged.body.clone();
            let Dot { replica, sequence } = logged.dot;
            match runs.last_mut() {
                Some(run) if run.replica == replica && run.last_sequence() + 1 == sequence => {
                    run.bodies.push(body);
                }
                _ => runs.push(Run {
                    replica,
                    first_sequence: sequence,
                    previous: logged.previous,
                    bodies: vec![body],
                }),
            }
        }
        CommitsAfter::Runs(runs)
    }

    fn apply_run(&mut self, id: SpaceId, own: ReplicaId, run: &Run) -> Result<(), ApplyError> {
        let ours = self.version.sequence(own);
        if run.replica == own && run.last_sequence() > ours {
            return Err(ApplyError::OwnReplicaAhead { theirs: run.last_sequence(), ours });
        }
        let mut hash = run.previous;
        for (sequence, body) in (run.first_sequence..).zip(&run.bodies) {
            let dot = Dot { replica: run.replica, sequence };
            let previous = hash;
            hash = commit_hash(id, dot, previous, body);
            if self.version.covers(dot) {
                self.check_fork(dot, hash)?;
                continue;
            }
            if sequence == self.version.sequence(run.replica) + 1
                && self.version.previous_hash(run.replica) != previous
            {
                return Err(Fork { replica: run.replica, sequence: sequence - 1 }.into());
            }
            let malformed =
                |error: &dyn std::fmt::Display| ApplyError::Malformed(error.to_string());
            let commit = CommitBody::from_bytes(dot, body).map_err(|error| malformed(&error))?;
            commit.ready(dot, &self.version).map_err(|reason| match reason {
                NotReady::Gap { .. } | NotReady::Missing(_) => ApplyError::Gap,
                other => malformed(&other),
            })?;
            self.append(id, dot, &commit, body.clone());
        }
        Ok(())
    }
}

impl Host for MemoryHost {
    fn replica(&self) -> ReplicaId {
        self.lock().replica
    }

    fn spaces(&self, _peer: DeviceId) -> Result<Vec<SpaceId>, HostError> {
        Ok(self.lock().offered.iter().copied().collect())
    }

    fn durable_version(&self, space: SpaceId) -> Result<Arc<VersionVector>, HostError> {
        Ok(self.version(space))
    }

    fn commits_after(
        &self,
        space: SpaceId,
        version: &VersionVector,
        bytes_max: usize,
    ) -> Result<CommitsAfter, HostError> {
        Ok(self.lock().spaces[&space].commits_after(version, bytes_max))
    }

    fn apply(&self, space: SpaceId, runs: &[Run]) -> Result<Arc<VersionVector>, ApplyError> {
        let mut inner = self.lock();
        if inner.failing {
            return Err(HostError("the disk is gone".to_owned()).into());
        }
        let own = inner.replica;
        for run in runs {
            inner.spaces.get_mut(&space).unwrap().apply_run(space, own, run)?;
        }
        Ok(Arc::clone(&inner.spaces[&space].version))
    }

    fn mark_sent(&self, space: SpaceId, sequence: u64) -> Result<(), HostError> {
        let mut inner = self.lock();
        let space = inner.spaces.get_mut(&space).unwrap();
        space.sent = space.sent.max(sequence);
        Ok(())
    }

    fn mark_confirmed(&self, space: SpaceId, sequence: u64) -> Result<(), HostError> {
        let mut inner = self.lock();
        let space = inner.spaces.get_mut(&space).unwrap();
        space.confirmed = space.confirmed.max(sequence);
        space.sent = space.sent.max(sequence);
        Ok(())
    }

    fn open_state(&self, space: SpaceId) -> Result<Box<dyn StateSource>, HostError> {
        let inner = self.lock();
        let space = &inner.spaces[&space];
        let parts = space.rows.iter().flat_map(|(key, row)| {
            let key = Bytes::from(key.to_bytes());
            row.split(1 << 10)
                .into_iter()
                .map(move |part| StateRow { key: key.clone(), row: Bytes::from(part.to_bytes()) })
        });
        let rows = parts.collect::<Vec<_>>().into_iter();
        Ok(Box::new(Source { version: Arc::clone(&space.version), rows }))
    }

    fn begin_stage(
        &self,
        space: SpaceId,
        theirs: &VersionVector,
    ) -> Result<Box<dyn StateStage>, ApplyError> {
        let mine = self.version(space);
        mine.check_fork(theirs)?;
        let own = self.replica();
        let (theirs_own, ours) = (theirs.sequence(own), mine.sequence(own));
        if theirs_own > ours {
            return Err(ApplyError::OwnReplicaAhead { theirs: theirs_own, ours });
        }
        *self.stages.lock().unwrap() += 1;
        Ok(Box::new(Stage {
            host: Arc::clone(&self.inner),
            open: Arc::clone(&self.stages),
            space,
            version: theirs.clone(),
            rows: BTreeMap::new(),
        }))
    }
}

#[derive(Debug)]
struct Source {
    version: Arc<VersionVector>,
    rows: std::vec::IntoIter<StateRow>,
}

impl StateSource for Source {
    fn version(&self) -> &VersionVector {
        &self.version
    }

    fn next_page(&mut self, bytes_max: usize) -> Result<Vec<StateRow>, HostError> {
        let mut bytes = 0;
        let mut page = Vec::new();
        while bytes < bytes_max
            && let Some(row) = self.rows.next()
        {
            bytes += row.key.len() + row.row.len();
            page.push(row);
        }
        Ok(page)
    }
}

#[derive(Debug)]
struct Stage {
    host: Arc<Mutex<Inner>>,
    open: Arc<Mutex<usize>>,
    space: SpaceId,
    version: VersionVector,
    rows: BTreeMap<RowKey, Row>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        *self.open.lock().unwrap() -= 1;
    }
}

impl StateStage for Stage {
    fn stage(&mut self, rows: &[StateRow]) -> Result<(), ApplyError> {
        let malformed = |error: &dyn std::fmt::Display| ApplyError::Malformed(error.to_string());
        for part in rows {
            let key = RowKey::from_bytes(&part.key).map_err(|error| malformed(&error))?;
            let row = Row::from_bytes(key.kind, &part.row).map_err(|error| malformed(&error))?;
            if self.rows.last_key_value().is_some_and(|(last, _)| *last > key) {
                return Err(ApplyError::Malformed("rows out of order".to_owned()));
            }
            let staged = self.rows.entry(key).or_default();
            row.iter().for_each(|(dot, payload)| staged.insert(dot, payload.clone()));
        }
        Ok(())
    }

    fn commit(mut self: Box<Self>) -> Result<Arc<VersionVector>, ApplyError> {
        let staged = std::mem::take(&mut self.rows).into_iter().map(Ok);
        let mut inner = self.host.lock().unwrap();
        let space = inner.spaces.get_mut(&self.space).unwrap();
        let mut rows = space.rows.clone();
        let joined = join(&mut rows, &space.version, staged, &self.version)
            .map_err(|error| ApplyError::Malformed(error.to_string()))?;
        space.rows = rows;
        space.version = Arc::new(joined);
        Ok(Arc::clone(&space.version))
    }
}
