//! Threads: writers that share syncs, readers that see whole transactions and stand still.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rejoin_crdt::{Kind, Path, ReadRows, kind::counter};
use rejoin_store::*;

use crate::support::*;

#[test]
fn concurrent_writers_lose_nothing_and_share_syncs() {
    const WRITERS: u64 = 16;
    const COMMITS: u64 = 100;
    for durability in [Durability::Immediate, Durability::Eventual { interval_ms: 5 }] {
        let backend = MemoryBackend::default();
        let options = StoreOptions { durability, ..StoreOptions::default() };
        let (store, _) = try_open(&backend, 1, options).unwrap();
        let space = store.create_space(SPACE, "cart").unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let store = &store;
                    scope.spawn(move || {
                        for _ in 0..COMMITS {
                            let own = format!("of/{writer}");
                            store
                                .write(space, 0, |tx| {
                                    tx.increment(path("left"), 1)?;
                                    tx.increment(path(&own), 1)?;
                                    tx.increment(path("right"), 1)
                                })
                                .unwrap();
                            assert!(count(store, space, &own) > 0, "a writer reads its own writes");
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    store.checkpoint().unwrap();
                }
            });
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let snapshot = store.snapshot(space).unwrap();
                    let read = |at| {
                        counter::value(snapshot.row(&key(at, Kind::Counter)).unwrap().as_ref())
                    };
                    let (left, right) = (read("left"), read("right"));
                    assert_eq!(left, right, "a transaction is visible whole or not at all");
                    assert_eq!(left as u64, snapshot.version().sequence(replica(1)));
                    assert!(left >= last, "time does not run backwards");
                    last = left;
                }
            });
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(count(&store, space, "left"), (WRITERS * COMMITS) as i64);
        drop(store);
        let store = open(&backend, 1);
        if durability == Durability::Immediate {
            assert_eq!(count(&store, space, "left"), (WRITERS * COMMITS) as i64);
        }
        assert_eq!(count(&store, space, "left"), count(&store, space, "right"));
    }
}

/// Holds every sync until so many writers wait.
#[derive(Debug)]
struct SlowSync {
    inner: Arc<dyn StorageFile>,
}

#[derive(Debug)]
struct SlowDisk(MemoryBackend);

impl Backend for SlowDisk {
    fn open(&self, name: &str) -> std::io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(SlowSync { inner: self.0.open(name)? }))
    }

    fn create(&self, name: &str) -> std::io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(SlowSync { inner: self.0.create(name)? }))
    }

    fn list(&self) -> std::io::Result<Vec<String>> {
        self.0.list()
    }

    fn remove(&self, name: &str) -> std::io::Result<()> {
        Backend::remove(&self.0, name)
    }

    fn sync_directory(&self) -> std::io::Result<()> {
        self.0.sync_directory()
    }

    fn lock(&self) -> std::io::Result<Box<dyn BackendLock>> {
        self.0.lock()
    }
}

impl StorageFile for SlowSync {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.inner.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.inner.write_at(offset, bytes)
    }

    fn len(&self) -> std::io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync(&self) -> std::io::Result<()> {
        thread::sleep(std::time::Duration::from_millis(2));
        self.inner.sync()
    }
}

#[test]
fn many_writers_on_a_slow_disk_need_few_syncs() {
    const WRITERS: u64 = 100;
    const COMMITS: u64 = 5;
    let memory = MemoryBackend::default();
    let disk = Arc::new(SlowDisk(memory.clone()));
    let (store, _) = Store::open(disk, StoreOptions::default(), fresh(1), Box::new(())).unwrap();
    let space = store.create_space(SPACE, "cart").unwrap();
    let before = memory.syncs();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || {
                for value in 0..COMMITS {
                    put(store, space, &format!("{writer}"), value as i64);
                }
            });
        }
    });
    let syncs = memory.syncs() - before;
    assert!(syncs >= COMMITS, "a writer's commits are one after the other");
    assert!(syncs <= WRITERS * COMMITS / 10, "{syncs} syncs for {} commits", WRITERS * COMMITS);
}

#[test]
fn a_snapshot_does_not_move_and_expires_after_so_many_checkpoints() {
    let backend = MemoryBackend::default();
    let options = StoreOptions { snapshot_checkpoints_max: 2, ..StoreOptions::default() };
    let (store, _) = try_open(&backend, 1, options).unwrap();
    let space = store.create_space(SPACE, "cart").unwrap();
    add(&store, space, "a", 1);
    store.checkpoint().unwrap();
    let snapshot = store.snapshot(space).unwrap();
    let read = |snapshot: &Snapshot| {
        snapshot.row(&key("a", Kind::Counter)).map(|row| counter::value(row.as_ref()))
    };
    for checkpoint in 1..=2 {
        add(&store, space, "a", 1);
        store.write(space, 0, |tx| tx.remove_tree(&Path::root())).unwrap();
        store.checkpoint().unwrap();
        assert_eq!(read(&snapshot).unwrap(), 1, "after {checkpoint} more checkpoints");
        assert_eq!(count(&store, space, "a"), 0);
    }
    add(&store, space, "a", 1);
    store.checkpoint().unwrap();
    assert!(matches!(read(&snapshot), Err(StoreError::SnapshotExpired)));
    assert!(matches!(snapshot.iter(&Path::root()).next(), Some(Err(StoreError::SnapshotExpired))));
    assert_eq!(read(&store.snapshot(space).unwrap()).unwrap(), 1);
}

#[test]
fn what_waits_for_the_disk_is_bounded_although_nobody_waits_for_it() {
    let backend = MemoryBackend::default();
    let options = StoreOptions { pending_bytes_max: 2_000, ..StoreOptions::default() };
    let (store, _) = try_open(&backend, 1, options).unwrap();
    let space = store.create_space(SPACE, "cart").unwrap();
    for value in 0..100 {
        let write = |tx: &mut Tx<'_>| tx.put(path("x"), rejoin_crdt::Value::I64(value));
        let lsn = store.append(space, 0, write).unwrap().1.unwrap().committed().lsn;
        let pending = lsn.get() - store.durable_lsn().get();
        assert!(pending < 2_000 + 200, "{pending} bytes wait");
    }
    assert!(store.durable_version(space).unwrap().sequence(replica(1)) > 50);
}

#[test]
fn writers_fold_the_buffer_themselves_when_nobody_else_does() {
    let backend = MemoryBackend::default();
    let options = StoreOptions {
        buffer_bytes: 10_000,
        buffer_bytes_max: 20_000,
        pending_bytes_max: 2_000,
        ..StoreOptions::default()
    };
    let (store, _) = try_open(&backend, 1, options.clone()).unwrap();
    let space = store.create_space(SPACE, "cart").unwrap();
    let mut was_due = false;
    for number in 0..500u64 {
        let at = path("n").child(number).unwrap();
        store.append(space, 0, |tx| tx.increment(at, 1)).unwrap();
        was_due |= store.checkpoint_due();
    }
    assert!(was_due);
    store.sync().unwrap();
    let expected = digest(&store, space);
    drop(store);
    let (store, report) = try_open(&backend, 1, options).unwrap();
    assert!(report.replayed_commits < 200, "{} commits to replay", report.replayed_commits);
    assert_eq!(digest(&store, space), expected);
}
