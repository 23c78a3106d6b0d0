//! A host that keeps commits in memory and looks into none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rejoin_crdt::{Dot, Head, ReplicaId, SpaceId, VersionVector, commit_hash};
use rejoin_gossip::{
    ApplyError, CommitsAfter, DeviceId, Host, HostError, Run, StateSource, StateStage,
};

#[derive(Debug)]
pub(super) struct MemoryHost {
    replica: ReplicaId,
    spaces: Mutex<BTreeMap<SpaceId, Space>>,
    /// Calls under way.
    pub(super) busy: AtomicUsize,
    /// Has the next applied commits panic.
    pub(super) panics: AtomicBool,
    /// How long every application of commits takes.
    pub(super) apply_takes: Mutex<Duration>,
}

#[derive(Debug, Default)]
struct Space {
    /// In the order in which they were applied, which is causal.
    log: Vec<(Dot, Bytes)>,
    version: Arc<VersionVector>,
}

impl MemoryHost {
    pub(super) fn new(number: u8, spaces: &[SpaceId]) -> Arc<Self> {
        Arc::new(Self {
            replica: ReplicaId::from_bytes([number; 16]),
            spaces: Mutex::new(spaces.iter().map(|space| (*space, Space::default())).collect()),
            busy: AtomicUsize::new(0),
            panics: AtomicBool::new(false),
            apply_takes: Mutex::default(),
        })
    }

    pub(super) fn write(&self, space: SpaceId, body: Vec<u8>) -> Arc<VersionVector> {
        let mut spaces = self.spaces.lock().unwrap();
        let log = spaces.get_mut(&space).unwrap();
        let sequence = log.version.sequence(self.replica) + 1;
        log.append(space, Dot { replica: self.replica, sequence }, body.into());
        Arc::clone(&log.version)
    }

    pub(super) fn add_space(&self, space: SpaceId) {
        self.spaces.lock().unwrap().entry(space).or_default();
    }

    pub(super) fn commits(&self, space: SpaceId) -> BTreeSet<(Dot, Bytes)> {
        let spaces = self.spaces.lock().unwrap();
        spaces[&space].log.iter().cloned().collect()
    }
}

impl Space {
    fn append(&mut self, space: SpaceId, dot: Dot, body: Bytes) {
        let previous = self.version.previous_hash(dot.replica);
        let hash = commit_hash(space, dot, previous, &body);
        let mut version = VersionVector::clone(&self.version);
        version.set(dot.replica, Head { sequence: dot.sequence, hash });
        self.version = Arc::new(version);
        self.log.push((dot, body));
    }

    /// The hash of the commit before `dot`.
    fn previous(&self, space: SpaceId, dot: Dot) -> rejoin_crdt::CommitHash {
        let mut hash = rejoin_crdt::CommitHash::ZERO;
        for (at, body) in self.log.iter().filter(|(at, _)| at.replica == dot.replica) {
            if at.sequence < dot.sequence {
                hash = commit_hash(space, *at, hash, body);
            }
        }
        hash
    }
}

struct Busy<'a>(&'a AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Host for MemoryHost {
    fn replica(&self) -> ReplicaId {
        self.replica
    }

    fn spaces(&self, _peer: DeviceId) -> Result<Vec<SpaceId>, HostError> {
        Ok(self.spaces.lock().unwrap().keys().copied().collect())
    }

    fn durable_version(&self, space: SpaceId) -> Result<Arc<VersionVector>, HostError> {
        Ok(Arc::clone(&self.spaces.lock().unwrap()[&space].version))
    }

    fn commits_after(
        &self,
        space: SpaceId,
        version: &VersionVector,
        bytes_max: usize,
    ) -> Result<CommitsAfter, HostError> {
        let spaces = self.spaces.lock().unwrap();
        let log = &spaces[&space];
        let mut runs: Vec<Run> = Vec::new();
        let mut bytes = 0;
        for (dot, body) in log.log.iter().filter(|(dot, _)| !version.covers(*dot)) {
            if bytes > 0 && bytes + body.len() > bytes_max {
                break;
            }
            bytes += body.len();
            match runs.last_mut() {
                Some(run) if run.replica == dot.replica => run.bodies.push(body.clone()),
                _ => runs.push(Run {
                    replica: dot.replica,
                    first_sequence: dot.sequence,
                    previous: log.previous(space, *dot),
                    bodies: vec![body.clone()],
                }),
            }
        }
        Ok(CommitsAfter::Runs(runs))
    }

    fn apply(&self, space: SpaceId, runs: &[Run]) -> Result<Arc<VersionVector>, ApplyError> {
        self.busy.fetch_add(1, Ordering::SeqCst);
        let _busy = Busy(&self.busy);
        assert!(!self.panics.swap(false, Ordering::SeqCst), "as the test wants it");
        let takes = *self.apply_takes.lock().unwrap();
        std::thread::sleep(takes);
        let mut spaces = self.spaces.lock().unwrap();
        let log = spaces.get_mut(&space).unwrap();
        for run in runs {
            for (sequence, body) in (run.first_sequence..).zip(&run.bodies) {
                match log.version.sequence(run.replica) + 1 {
                    next if sequence == next => {
                        log.append(space, Dot { replica: run.replica, sequence }, body.clone());
                    }
                    next if sequence > next => return Err(ApplyError::Gap),
                    _ => {}
                }
            }
        }
        Ok(Arc::clone(&log.version))
    }

    fn mark_sent(&self, _space: SpaceId, _sequence: u64) -> Result<(), HostError> {
        Ok(())
    }

    fn mark_confirmed(&self, _space: SpaceId, _sequence: u64) -> Result<(), HostError> {
        Ok(())
    }

    fn open_state(&self, _space: SpaceId) -> Result<Box<dyn StateSource>, HostError> {
        Err(HostError("this log is never truncated".into()))
    }

    fn begin_stage(
        &self,
        _space: SpaceId,
        _theirs: &VersionVector,
    ) -> Result<Box<dyn StateStage>, ApplyError> {
        Err(HostError("this log is never truncated".into()).into())
    }
}
