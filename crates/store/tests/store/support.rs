//! Stores on disks in memory, and the few things that nearly every test does with them.

use std::sync::Arc;

use rejoin_crdt::{
    Kind, Path, PrepareError, ReadRows, ReplicaId, RowKey, SpaceId, StateDigest, Transaction,
    Value, VersionVector, kind::counter, state_digest,
};
use rejoin_store::*;

pub(crate) const SPACE: SpaceId = SpaceId::from_bytes([5; 32]);

pub(crate) type Tx<'a> = Transaction<'a, StoreError>;
pub(crate) type Prepared = Result<(), PrepareError<StoreError>>;

pub(crate) fn replica(number: u8) -> ReplicaId {
    ReplicaId::from_bytes([number; 16])
}

pub(crate) fn fresh(number: u8) -> FreshIds {
    FreshIds { replica: replica(number), salt: [number ^ 0x55; 16] }
}

pub(crate) fn path(text: &str) -> Path {
    Path::of(text.split('/')).unwrap()
}

pub(crate) fn key(text: &str, kind: Kind) -> RowKey {
    RowKey { path: path(text), kind }
}

/// Opens the store of replica `number` in `backend`.
pub(crate) fn try_open(
    backend: &MemoryBackend,
    number: u8,
    options: StoreOptions,
) -> Result<(Store, OpenReport), StoreError> {
    Store::open(Arc::new(backend.clone()), options, fresh(number), Box::new(()))
}

pub(crate) fn open(backend: &MemoryBackend, number: u8) -> Store {
    try_open(backend, number, small_log()).unwrap().0
}

/// A store of its own with the space in it.
pub(crate) fn new_store(number: u8) -> (MemoryBackend, Store, SpaceIndex) {
    let backend = MemoryBackend::default();
    let store = open(&backend, number);
    let space = store.create_space(SPACE, "cart").unwrap();
    (backend, store, space)
}

pub(crate) fn put(store: &Store, space: SpaceIndex, at: &str, value: i64) -> Committed {
    let write = |tx: &mut Tx<'_>| tx.put(path(at), Value::I64(value));
    store.write(space, value.unsigned_abs(), write).unwrap().1.unwrap()
}

pub(crate) fn add(store: &Store, space: SpaceIndex, at: &str, amount: i64) -> Committed {
    store.write(space, 0, |tx| tx.increment(path(at), amount)).unwrap().1.unwrap()
}

pub(crate) fn count(store: &Store, space: SpaceIndex, at: &str) -> i64 {
    let snapshot = store.snapshot(space).unwrap();
    counter::value(snapshot.row(&key(at, Kind::Counter)).unwrap().as_ref())
}

/// Transaction number `number` of a fixed sequence that touches every kind, removes, and clears subtrees.
pub(crate) fn varied(tx: &mut Tx<'_>, number: u64) -> Prepared {
    let n = |modulus| number % modulus;
    tx.increment(path(&format!("items/{}/quantity", n(5))), number as i64)?;
    tx.put(path(&format!("items/{}/title", n(3))), Value::String(format!("title {number}")))?;
    match n(7) {
        0 => tx.enable(path("flags/gift")),
        1 => tx.add_element(path(&format!("coupons/{number}"))),
        2 => tx.remove(&path(&format!("items/{}/quantity", n(4)))),
        3 => tx.remove_row(key("flags/gift", Kind::Flag)),
        4 => tx.remove_tree(&path(&format!("items/{}", n(4)))),
        5 => tx.add_element(path("coupons/AUTUMN")),
        _ => tx.remove(&path("coupons/AUTUMN")),
    }
}

pub(crate) fn write_varied(store: &Store, space: SpaceIndex, number: u64) -> Committed {
    store.write(space, number, |tx| varied(tx, number)).unwrap().1.unwrap()
}

/// The digest of all that local readers see of the space, in canonical encoding.
pub(crate) fn digest(store: &Store, space: SpaceIndex) -> StateDigest {
    let snapshot = store.snapshot(space).unwrap();
    state_digest(&snapshot, snapshot.version()).unwrap()
}

pub(crate) fn version(store: &Store, space: SpaceIndex) -> Arc<VersionVector> {
    store.snapshot(space).unwrap().version().clone()
}

/// All commits of the space that are durable, in an order of causes first.
pub(crate) fn all_runs(store: &Store, space: SpaceIndex) -> Vec<CommitRun> {
    match store.commits_after(space, &VersionVector::default(), usize::MAX).unwrap() {
        CommitsAfter::Commits { runs, more: false } => runs,
        other => panic!("expected all commits, got {other:?}"),
    }
}

/// Brings `to` everything that `from` has, by commits.
pub(crate) fn pull(to: &Store, from: &Store, space: SpaceIndex) -> Applied {
    let version = to.durable_version(space).unwrap();
    match from.commits_after(space, &version, usize::MAX).unwrap() {
        CommitsAfter::Commits { runs, .. } => to.apply(space, &runs).unwrap(),
        other => panic!("expected commits, got {other:?}"),
    }
}

/// Stages all of `from`'s state at `to`.
pub(crate) fn stage(to: &Store, from: &Store, space: SpaceIndex) -> Result<StateStage, StageError> {
    let snapshot = from.snapshot(space).unwrap();
    let mut stage = to.begin_state(space, VersionVector::clone(snapshot.version()))?;
    for row in snapshot.iter(&Path::root()) {
        let (key, row) = row.unwrap();
        stage.push(&key.to_bytes(), &row.to_bytes())?;
    }
    Ok(stage)
}

/// Brings `to` everything that `from` has, by a state join.
pub(crate) fn join(to: &Store, from: &Store, space: SpaceIndex) -> Arc<VersionVector> {
    to.commit_state(stage(to, from, space).unwrap()).unwrap()
}

/// Options under which the log keeps little room ahead, so that trying every byte of it takes no time.
pub(crate) fn small_log() -> StoreOptions {
    StoreOptions { reserve_bytes: 100, ..StoreOptions::default() }
}
