//! A disk that takes nothing more, from any moment on: what was there is still read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rejoin_store::*;

use crate::support::*;

/// A disk in memory that takes so many more changes, and then refuses all.
#[derive(Debug, Clone)]
struct FillingDisk {
    disk: MemoryBackend,
    changes_left: Arc<AtomicU64>,
}

impl FillingDisk {
    fn new(disk: MemoryBackend) -> Self {
        Self { disk, changes_left: Arc::new(u64::MAX.into()) }
    }

    fn take(&self, changes: u64) {
        self.changes_left.store(changes, Ordering::Relaxed);
    }

    fn change(&self) -> io::Result<()> {
        let left = &self.changes_left;
        let update = |left: u64| left.checked_sub(1);
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
        taken.map(|_| ()).map_err(|_| io::ErrorKind::StorageFull.into())
    }

    fn file(&self, file: io::Result<Arc<dyn StorageFile>>) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(FillingFile { file: file?, disk: self.clone() }))
    }
}

impl Backend for FillingDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.file(self.disk.open(name))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.change()?;
        self.file(self.disk.create(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.change()?;
        self.disk.sync_directory()
    }

    fn lock(&self) -> io::Result<Box<dyn BackendLock>> {
        self.disk.lock()
    }
}

#[derive(Debug)]
struct FillingFile {
    file: Arc<dyn StorageFile>,
    disk: FillingDisk,
}

impl StorageFile for FillingFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    /// What does not fit is written in part, as files do.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let room = self.disk.change();
        let fits = if room.is_ok() { bytes.len() } else { bytes.len() / 2 };
        self.file.write_at(offset, &bytes[..fits]).and(room)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change()?;
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.change()?;
        self.file.sync()
    }
}

/// Opens the store so that nearly every read of it reaches the disk.
fn open_uncached(disk: &FillingDisk) -> Result<Store, StoreError> {
    let options = StoreOptions { tree_cache_bytes: 0, ..small_log() };
    let (store, _) = Store::open(Arc::new(disk.clone()), options, fresh(1), Box::new(()))?;
    Ok(store)
}

/// A closed store whose tree has more rows than a page holds.
fn many_rows() -> (MemoryBackend, SpaceIndex) {
    let (backend, store, space) = new_store(1);
    for number in 0..600u64 {
        let write = |tx: &mut Tx<'_>| tx.increment(path("z").child(number).unwrap(), 1);
        let _later = store.append(space, 0, write).unwrap();
    }
    store.close().unwrap();
    (backend, space)
}

/// Refuses every change from the n-th on, for each n up to where `act` succeeds, and demands each time that the
/// store is read as before, and can be opened again, on the full disk or at least later.
fn refuse_from_anywhere(
    act: impl Fn(&Store, SpaceIndex) -> Result<(), String>,
    mut after: impl FnMut(&Store, SpaceIndex),
) {
    let (whole, space) = many_rows();
    for changes in 0.. {
        let disk = FillingDisk::new(whole.copy());
        let store = open_uncached(&disk).unwrap();
        (0..50).for_each(|number| {
            write_varied(&store, space, number);
        });
        let snapshot = store.snapshot(space).unwrap();
        disk.take(changes);
        let done = act(&store, space);
        if done.is_ok() {
            assert!(changes > 10, "it takes {changes} changes only");
            return;
        }
        let sum = |snapshot: &Snapshot| {
            let root = rejoin_crdt::Path::root();
            snapshot.iter(&root).map(|row| row.map(|_| 1)).sum::<Result<u64, _>>()
        };
        assert!(sum(&snapshot).unwrap_or_else(|error| panic!("{changes}: {error}")) > 600);
        let expected = digest(&store, space);
        let refused = store.write(space, 0, |tx| tx.increment(path("late"), 1));
        assert!(
            matches!(refused, Err(WriteError::Store(StoreError::Poisoned { .. }))),
            "{changes}: {refused:?}"
        );
        drop((snapshot, store));
        if let Ok(store) = open_uncached(&disk) {
            assert_eq!(version(&store, space).sequence(replica(1)), 650, "after {changes}");
        }
        disk.take(u64::MAX);
        let store = open_uncached(&disk).unwrap();
        assert_eq!(version(&store, space).sequence(replica(1)), 650, "after {changes}");
        if version(&store, space).sequence(replica(2)) == 0 {
            assert_eq!(digest(&store, space), expected, "after {changes}");
        }
        after(&store, space);
    }
}

#[test]
fn reads_go_on_when_a_checkpoint_finds_the_disk_full() {
    let checkpoint = |store: &Store, _| store.checkpoint().map_err(|error| error.to_string());
    refuse_from_anywhere(checkpoint, |store, _| store.checkpoint().unwrap());
}

#[test]
fn reads_go_on_when_a_state_that_is_joined_finds_the_disk_full() {
    let (_, peer, space) = new_store(2);
    for number in 0..600u64 {
        let write = |tx: &mut Tx<'_>| tx.increment(path("y").child(number).unwrap(), 1);
        let _later = peer.append(space, 0, write).unwrap();
    }
    peer.sync().unwrap();
    let join_peer = |store: &Store, space| match stage(store, &peer, space) {
        // Staging that fails leaves the store as it was: have the checkpoint fail instead.
        Err(_) => store.checkpoint().map_err(|error| error.to_string()),
        Ok(stage) => store.commit_state(stage).map(|_| ()).map_err(|error| error.to_string()),
    };
    refuse_from_anywhere(join_peer, |store, space| {
        join(store, &peer, space);
    });
}
