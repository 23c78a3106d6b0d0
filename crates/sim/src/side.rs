//! Where the simulator's words and the engine's meet: what a workload wishes becomes calls, and what the engine
//! shows becomes plain words.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rejoin::driven::Surroundings;
use rejoin::{Error, Path, ReplicaId, RowValue, Snapshot, SpaceId, Value, VersionVector};
use rejoin_crdt::CommitHash;
use rejoin_gossip::{
    ApplyError, CommitsAfter, DeviceId, Host, HostError, Run, StateSource, StateStage,
};

use crate::history::{Datum, DotName, Key, RowKind, Seen, Version, Wish, Writer};

/// The writer that a replica id stands for.
pub(crate) fn writer(replica: ReplicaId) -> Writer {
    Writer::from_be_bytes(*replica.as_bytes())
}

/// A version in plain words.
pub(crate) fn version(version: &VersionVector) -> Version {
    Version(version.iter().map(|(replica, head)| (writer(replica), head.sequence)).collect())
}

/// The path that a key stands for.
fn path(key: &str) -> Result<Path, Error> {
    let mut path = Path::root();
    for segment in key.split('/') {
        path = path.child(segment)?;
    }
    Ok(path)
}

fn value(datum: &Datum) -> Value {
    match datum {
        Datum::Integer(number) => Value::from(*number),
        Datum::Text(text) => Value::from(text.as_str()),
        Datum::Bytes(bytes) => Value::from(bytes.as_slice()),
    }
}

fn datum(value: &Value) -> Datum {
    if let Some(number) = value.as_i64() {
        Datum::Integer(number)
    } else if let Some(text) = value.as_str() {
        Datum::Text(text.to_owned())
    } else if let Some(bytes) = value.as_bytes() {
        Datum::Bytes(bytes.to_vec())
    } else {
        Datum::Text(format!("{value:?}"))
    }
}

/// Adds a wish to a transaction of the engine.
pub(crate) fn grant(tx: &mut rejoin::Transaction<'_, '_>, wish: &Wish) -> Result<(), Error> {
    match wish {
        Wish::Put(key, datum) => tx.register(path(key)?).put(value(datum)),
        Wish::Add(key, amount) => tx.counter(path(key)?).add(*amount),
        Wish::Enable(key) => tx.flag(path(key)?).enable(),
        Wish::Insert(key) => {
            let (set, element) = split(key);
            tx.set(path(set)?).insert(element)
        }
        Wish::RemoveRow(key, kind) => match kind {
            RowKind::Register => tx.register(path(key)?).remove(),
            RowKind::Counter => tx.counter(path(key)?).reset(),
            RowKind::Flag => tx.flag(path(key)?).disable(),
            RowKind::Element => {
                let (set, element) = split(key);
                tx.set(path(set)?).remove(element)
            }
        },
        Wish::Remove(key) => tx.remove(path(key)?),
        Wish::RemoveTree(key) => tx.remove_tree(path(key)?),
    }
}

/// The set and the element in the path of an element.
fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('/').unwrap_or(("", key))
}

/// All rows of a space, in plain words.
pub(crate) type Rows = BTreeMap<(Key, RowKind), Seen>;

/// Reads all of a space.
pub(crate) fn read_rows(snapshot: &Snapshot) -> Result<Rows, Error> {
    let mut rows = BTreeMap::new();
    for entry in snapshot.scan() {
        let entry = entry?;
        let key = entry.path.to_string();
        let (kind, seen) = match entry.value {
            RowValue::Register(_) => {
                let siblings = snapshot.conflicts(&entry.path)?;
                let siblings = siblings.into_iter().map(|sibling| {
                    (sibling.wall_time_ms, writer(sibling.dot.replica), datum(&sibling.value))
                });
                (RowKind::Register, Seen::Register(siblings.collect()))
            }
            RowValue::Counter(sum) => (RowKind::Counter, Seen::Counter(sum)),
            RowValue::Flag => (RowKind::Flag, Seen::Flag),
            RowValue::Element => (RowKind::Element, Seen::Element),
            _ => continue,
        };
        rows.insert((key, kind), seen);
    }
    Ok(rows)
}

/// What an engine is told of its world, and what it tells.
#[derive(Debug, Default)]
pub(crate) struct Side {
    wall_time_ms: AtomicU64,
    spaces_changed: AtomicBool,
    durable: Mutex<Vec<(SpaceId, Arc<VersionVector>)>>,
}

impl Side {
    pub(crate) fn set_wall_time_ms(&self, wall_time_ms: u64) {
        self.wall_time_ms.store(wall_time_ms, Ordering::Relaxed);
    }

    /// What became durable since the last call.
    pub(crate) fn take_durable(&self) -> Vec<(SpaceId, Arc<VersionVector>)> {
        std::mem::take(&mut hold(&self.durable))
    }

    /// Whether spaces were added since the last call.
    pub(crate) fn take_spaces_changed(&self) -> bool {
        self.spaces_changed.swap(false, Ordering::Relaxed)
    }
}

impl Surroundings for Side {
    fn wall_time_ms(&self) -> u64 {
        self.wall_time_ms.load(Ordering::Relaxed)
    }

    fn durable(&self, space: SpaceId, version: &Arc<VersionVector>) {
        hold(&self.durable).push((space, Arc::clone(version)));
    }

    fn spaces_changed(&self) {
        self.spaces_changed.store(true, Ordering::Relaxed);
    }
}

/// Commits that passed between an engine and its sessions.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) space: SpaceId,
    pub(crate) first: DotName,
    pub(crate) bodies: Vec<bytes::Bytes>,
    pub(crate) sending: bool,
}

/// The engine's host, overheard.
#[derive(Debug)]
pub(crate) struct OverheardHost {
    inner: Arc<dyn Host>,
    passed: Mutex<Vec<Passed>>,
}

impl OverheardHost {
    pub(crate) fn new(inner: Arc<dyn Host>) -> Self {
        Self { inner, passed: Mutex::default() }
    }

    /// What passed since the last call.
    pub(crate) fn take_passed(&self) -> Vec<Passed> {
        std::mem::take(&mut hold(&self.passed))
    }

    fn note(&self, space: SpaceId, runs: &[Run], sending: bool) {
        let passed = runs.iter().map(|run| Passed {
            space,
            first: DotName { writer: writer(run.replica), sequence: run.first_sequence },
            bodies: run.bodies.clone(),
            sending,
        });
        hold(&self.passed).extend(passed);
    }
}

impl Host for OverheardHost {
    fn replica(&self) -> ReplicaId {
        self.inner.replica()
    }

    fn spaces(&self, peer: DeviceId) -> Result<Vec<SpaceId>, HostError> {
        self.inner.spaces(peer)
    }

    fn durable_version(&self, space: SpaceId) -> Result<Arc<VersionVector>, HostError> {
        self.inner.durable_version(space)
    }

    fn commits_after(
        &self,
        space: SpaceId,
        version: &VersionVector,
        bytes_max: usize,
    ) -> Result<CommitsAfter, HostError> {
        let found = self.inner.commits_after(space, version, bytes_max)?;
        if let CommitsAfter::Runs(runs) = &found {
            self.note(space, runs, true);
        }
        Ok(found)
    }

    fn apply(&self, space: SpaceId, runs: &[Run]) -> Result<Arc<VersionVector>, ApplyError> {
        let before = self.inner.durable_version(space);
        let applied = self.inner.apply(space, runs)?;
        // What was known before is passed over, whatever it says.
        let mut new = runs.to_vec();
        for run in &mut new {
            let known = before.as_ref().map_or(0, |version| version.sequence(run.replica));
            let passed =
                (known + 1).saturating_sub(run.first_sequence).min(run.bodies.len() as u64);
            run.first_sequence += passed;
            run.bodies.drain(..passed as usize);
        }
        new.retain(|run| !run.bodies.is_empty());
        self.note(space, &new, false);
        Ok(applied)
    }

    fn mark_sent(&self, space: SpaceId, sequence: u64) -> Result<(), HostError> {
        self.inner.mark_sent(space, sequence)
    }

    fn mark_confirmed(&self, space: SpaceId, sequence: u64) -> Result<(), HostError> {
        self.inner.mark_confirmed(space, sequence)
    }

    fn open_state(&self, space: SpaceId) -> Result<Box<dyn StateSource>, HostError> {
        self.inner.open_state(space)
    }

    fn begin_stage(
        &self,
        space: SpaceId,
        theirs: &VersionVector,
    ) -> Result<Box<dyn StateStage>, ApplyError> {
        self.inner.begin_stage(space, theirs)
    }
}

/// The head of a writer that a liar makes up.
pub(crate) fn made_up_hash(random: [u8; 32]) -> CommitHash {
    CommitHash::from_bytes(random)
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
