//! A store whose log was tampered with anywhere opens to a prefix of what was written, or refuses; and what
//! it then reads and tells is whole.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use rejoin_crdt::{Path, PrepareError, ReplicaId, SpaceId, StateDigest, state_digest};
use rejoin_store::{FreshIds, MemoryBackend, SpaceIndex, Store, StoreError, StoreOptions};

const LOG: &str = "00000000000000000000.log";
const COMMITS: usize = 8;

struct Written {
    backend: MemoryBackend,
    space: SpaceIndex,
    /// After so many commits.
    digests: Vec<StateDigest>,
}

static WRITTEN: LazyLock<Written> = LazyLock::new(|| {
    let backend = MemoryBackend::default();
    let store = open(&backend).expect("a new store opens");
    let space =
        store.create_space(SpaceId::from_bytes([1; 32]), "fuzzed").expect("memory is no disk");
    let mut digests = vec![digest(&store, space)];
    for number in 0..COMMITS as u64 {
        let written = store.write(space, number, |tx| {
            let path = Path::of([number % 3]).expect("a short path");
            tx.increment(path.clone(), 1)?;
            tx.put(path, "some text".into())?;
            Ok::<_, PrepareError<StoreError>>(())
        });
        written.expect("memory is no disk");
        digests.push(digest(&store, space));
    }
    // Dropped without closing: all of it is in the log, and nothing in the tree.
    Written { backend, space, digests }
});

fn open(backend: &MemoryBackend) -> Result<Store, StoreError> {
    let options = StoreOptions { reserve_bytes: 64, ..StoreOptions::default() };
    let fresh = FreshIds { replica: ReplicaId::from_bytes([2; 16]), salt: [3; 16] };
    Ok(Store::open(Arc::new(backend.clone()), options, fresh, Box::new(()))?.0)
}

fn digest(store: &Store, space: SpaceIndex) -> StateDigest {
    let snapshot = store.snapshot(space).expect("the space is there");
    state_digest(&snapshot, snapshot.version()).expect("memory is no disk")
}

fuzz_target!(|patches: Vec<(u16, Vec<u8>)>| {
    let backend = WRITTEN.backend.copy();
    let mut log = backend.content(LOG).expect("the log is there");
    for (at, bytes) in patches {
        let at = usize::from(at).min(log.len());
        let end = (at + bytes.len()).min(log.len());
        log.splice(at..end, bytes);
    }
    backend.set_content(LOG, log);
    let Ok(store) = open(&backend) else { return };
    // Without its first record the space is not there.
    let Some((space, _)) = store.spaces().first().cloned() else { return };
    assert_eq!(space, WRITTEN.space);
    assert!(WRITTEN.digests.contains(&digest(&store, space)), "no prefix of what was written");
});
