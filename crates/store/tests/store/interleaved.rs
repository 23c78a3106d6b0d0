//! What happens in the middle of a checkpoint or a join: made to happen there, by a disk that calls back.

use std::io;
use std::sync::{Arc, Mutex, Weak};

use rejoin_crdt::Path;
use rejoin_store::*;

use crate::support::*;

type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// Runs a hook, once, when the tree is synced: then a checkpoint or a join is under way.
#[derive(Clone)]
struct HookedDisk {
    memory: MemoryBackend,
    hook: Hook,
}

struct HookedFile {
    file: Arc<dyn StorageFile>,
    hook: Option<Hook>,
}

impl std::fmt::Debug for HookedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.memory.fmt(f)
    }
}

impl std::fmt::Debug for HookedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(f)
    }
}

impl HookedDisk {
    fn file(&self, name: &str, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(HookedFile { file, hook: (name == "tree.redb").then(|| self.hook.clone()) })
    }
}

impl Backend for HookedDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(name, self.memory.open(name)?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(name, self.memory.create(name)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.memory.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.memory.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.memory.sync_directory()
    }

    fn lock(&self) -> io::Result<Box<dyn BackendLock>> {
        self.memory.lock()
    }
}

impl StorageFile for HookedFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        let hook = self.hook.as_ref().and_then(|hook| hook.lock().unwrap().take());
        if let Some(hook) = hook {
            hook();
        }
        self.file.sync()
    }
}

/// A store whose disk calls back.
struct Hooked {
    store: Arc<Store>,
    space: SpaceIndex,
    disk: HookedDisk,
}

impl Hooked {
    fn new(durability: Durability) -> Self {
        let disk = HookedDisk { memory: MemoryBackend::default(), hook: Hook::default() };
        let options = StoreOptions { durability, ..StoreOptions::default() };
        let (store, _) =
            Store::open(Arc::new(disk.clone()), options, fresh(1), Box::new(())).unwrap();
        let space = store.create_space(SPACE, "cart").unwrap();
        Self { store: Arc::new(store), space, disk }
    }

    /// Lets `then` happen at the next sync of the tree.
    fn at_next_sync(&self, then: impl FnOnce(&Store) + Send + 'static) {
        let store: Weak<Store> = Arc::downgrade(&self.store);
        let hook = move || then(&store.upgrade().unwrap());
        *self.disk.hook.lock().unwrap() = Some(Box::new(hook));
    }

    fn assert_hook_ran(&self) {
        assert!(self.disk.hook.lock().unwrap().is_none(), "the hook was to run");
    }
}

const MODES: [Durability; 2] = [Durability::Immediate, Durability::Eventual { interval_ms: 10 }];

/// What the same commits make of a store to which nothing special happens.
fn oracle(stores: &[&Store], space: SpaceIndex) -> rejoin_crdt::StateDigest {
    let (_, oracle, _) = new_store(9);
    stores.iter().for_each(|store| {
        store.sync().unwrap();
        pull(&oracle, store, space);
    });
    digest(&oracle, space)
}

#[test]
fn reads_and_writes_go_on_while_a_checkpoint_is_made() {
    for durability in MODES {
        let hooked = Hooked::new(durability);
        let (store, space) = (&*hooked.store, hooked.space);
        (0..30).for_each(|number| {
            write_varied(store, space, number);
        });
        store.checkpoint().unwrap();
        (30..60).for_each(|number| {
            write_varied(store, space, number);
        });
        let before = store.snapshot(space).unwrap();
        let digest_before = digest(store, space);
        hooked.at_next_sync(move |store| {
            assert_eq!(digest(store, space), digest_before);
            // Rows now lie in the tree, in the frozen and in the active buffer, some in all three.
            (60..90).for_each(|number| {
                write_varied(store, space, number);
            });
            assert_eq!(digest(store, space), oracle(&[store], space), "three layers");
            let snapshot = store.snapshot(space).unwrap();
            let root = Path::root();
            let keys: Vec<_> = snapshot.iter(&root).map(|row| row.unwrap().0).collect();
            assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "each row once, in order");
        });
        store.checkpoint().unwrap();
        hooked.assert_hook_ran();
        assert_eq!(digest(store, space), oracle(&[store], space), "{durability:?}");
        assert_eq!(rejoin_crdt::state_digest(&before, before.version()).unwrap(), digest_before);
        store.sync().unwrap();
        let expected = digest(store, space);
        assert_eq!(digest(&open(&hooked.disk.memory.copy(), 1), space), expected);
    }
}

#[test]
fn a_join_takes_in_what_is_written_meanwhile() {
    for durability in MODES {
        let hooked = Hooked::new(durability);
        let (store, space) = (&*hooked.store, hooked.space);
        let (_, peer, _) = new_store(2);
        let (_, third, _) = new_store(3);
        (0..20).for_each(|number| {
            write_varied(store, space, number);
            write_varied(&third, space, 400 + number);
        });
        store.sync().unwrap();
        pull(&peer, store, space);
        // The peer has removed, overwritten and added, and it has commits of the third that come here, too.
        (200..215).for_each(|number| {
            write_varied(&peer, space, number);
        });
        pull(&peer, &third, space);
        put(&peer, space, "items/1/title", 5);
        let staged = stage(store, &peer, space).unwrap();
        // The first sync is the checkpoint's, in which the next hook is set: for a sync of the join.
        let (join_hook, third_runs) = (hooked.disk.hook.clone(), all_runs(&third, space));
        let weak = Arc::downgrade(&hooked.store);
        hooked.at_next_sync(move |_| {
            let meanwhile = move || {
                let store = weak.upgrade().unwrap();
                assert_eq!(
                    version(&store, space).sequence(replica(2)),
                    0,
                    "the join is not visible yet"
                );
                (20..50).for_each(|number| {
                    write_varied(&store, space, number);
                });
                store.apply(space, &third_runs).unwrap();
                put(&store, space, "items/1/title", 6);
            };
            // The two syncs of a commit of the tree: skip the second one of the checkpoint.
            let inner = join_hook.clone();
            let skip = move || *inner.lock().unwrap() = Some(Box::new(meanwhile));
            *join_hook.lock().unwrap() = Some(Box::new(skip));
        });
        let joined = store.commit_state(staged).unwrap();
        hooked.assert_hook_ran();
        assert_eq!(joined.sequence(replica(1)), 51, "writes went on during the join");
        assert_eq!(joined.sequence(replica(3)), 20);
        store.sync().unwrap();
        // The peer's commits are not in this log, but in the peer's.
        let (_, all, _) = new_store(8);
        pull(&all, &peer, space);
        pull(&all, store, space);
        let expected = digest(&all, space);
        assert_eq!(digest(store, space), expected, "{durability:?}");
        let crashed = hooked.disk.memory.copy();
        assert_eq!(digest(&open(&crashed, 1), space), expected, "after a crash");
        store.checkpoint().unwrap();
        assert_eq!(digest(store, space), expected, "after a checkpoint");
    }
}

#[test]
fn a_crash_between_the_join_and_its_note_in_the_log_leaves_a_note_all_the_same() {
    let (_, peer, space) = new_store(2);
    put(&peer, space, "y", 2);
    let recording = MemoryBackend::recording();
    let recorded = open(&recording, 1);
    recorded.create_space(SPACE, "cart").unwrap();
    let last = put(&recorded, space, "x", 1);
    join(&recorded, &peer, space);
    drop(recorded);
    // The last change of the log is the note of the join: cut the journal just before it.
    let journal = recording.journal();
    let note = journal
        .iter()
        .rposition(
            |operation| matches!(operation, Operation::Write(name, ..) if name.ends_with(".log")),
        )
        .unwrap();
    let image = crash_image(&journal[..note], |_| Fate::Keep);
    let store = open(&image, 1);
    assert_eq!(version(&store, space).sequence(replica(2)), 1, "the join itself is there");
    let LogPage::Changes { changes, .. } = store.log_from(space, last.lsn, 10).unwrap() else {
        panic!("the log reaches back")
    };
    assert!(matches!(changes[..], [Change::Joined { .. }]), "{changes:?}");
}

#[test]
fn a_commit_whose_effect_fails_half_way_leaves_no_half() {
    // Rows in the tree are not in the cache after an opening, so that reading them can fail.
    let (backend, store, space) = new_store(1);
    let (_, peer, _) = new_store(2);
    for number in 0..3_000u64 {
        let write = |tx: &mut Tx<'_>| tx.increment(path("z").child(number).unwrap(), 1);
        let _later = store.append(space, 0, write).unwrap();
    }
    store.checkpoint().unwrap();
    store.close().unwrap();
    let options = StoreOptions { tree_cache_bytes: 0, ..StoreOptions::default() };
    let (store, _) = try_open(&backend, 1, options).unwrap();
    add(&store, space, "a", 1);
    peer.write(space, 0, |tx| {
        tx.increment(path("a"), 10)?;
        tx.increment(path("z").child(1_500).unwrap(), 10)
    })
    .unwrap();
    backend.fail_after(Some(0));
    let refused = store.apply(space, &all_runs(&peer, space));
    assert!(matches!(refused, Err(ApplyError::Store(_))), "{refused:?}");
    backend.fail_after(None);
    // This would touch only what is in the buffer, and publish the buffer.
    let late = store.write(space, 0, |tx| tx.increment(path("a"), 1));
    assert!(matches!(late, Err(WriteError::Store(StoreError::Poisoned { .. }))), "{late:?}");
    assert_eq!(count(&store, space, "a"), 1);
    drop(store);
    let store = open(&backend, 1);
    add(&store, space, "a", 1);
    assert_eq!(count(&store, space, "a"), 2);
    assert_eq!(version(&store, space).sequence(replica(2)), 0);
}
