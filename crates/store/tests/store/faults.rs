//! A disk that fails once, at every operation in turn.

use rejoin_crdt::{Kind, ReadRows, Value};
use rejoin_store::*;

use crate::support::*;

/// What was acknowledged before the store failed.
#[derive(Default)]
struct Acknowledged {
    commits: u64,
    joined: bool,
}

/// A life of a store on a disk that may fail: ends at the first error, which it returns.
fn live(backend: &MemoryBackend, peer: &Store, done: &mut Acknowledged) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let options =
        StoreOptions { segment_bytes: 1_500, reserve_bytes: 100, ..StoreOptions::default() };
    let (store, _) = try_open(backend, 1, options).map_err(|error| text(&error))?;
    let space = store.create_space(SPACE, "cart").map_err(|error| text(&error))?;
    for number in 0..12 {
        if let Err(error) = store.write(space, number, |tx| varied(tx, number)) {
            must_be_poisoned(&store, space, &error.to_string());
            return Err(text(&error));
        }
        done.commits = number + 1;
        let result = match number {
            3 | 9 => store.checkpoint(),
            10 => store
                .mark_confirmed(space, 11)
                .and_then(|()| store.truncate_log(Lsn::MAX))
                .map(|_| ()),
            6 => {
                let joined = stage(&store, peer, space).and_then(|stage| store.commit_state(stage));
                match joined {
                    Err(error) => return Err(text(&error)),
                    Ok(_) => done.joined = true,
                }
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = result {
            must_be_poisoned(&store, space, &error.to_string());
            return Err(text(&error));
        }
    }
    store.close().map_err(|error| text(&error))
}

/// A store that failed to write takes no more writes, and still answers reads.
fn must_be_poisoned(store: &Store, space: SpaceIndex, error: &str) {
    let again = store.write(space, 0, |tx| tx.increment(path("late"), 1));
    if error.contains("takes no writes") {
        assert!(
            matches!(again, Err(WriteError::Store(StoreError::Poisoned { .. }))),
            "after: {error}"
        );
        assert!(matches!(store.checkpoint(), Err(StoreError::Poisoned { .. })));
        assert!(matches!(store.sync(), Err(StoreError::Poisoned { .. })));
    }
    store.snapshot(space).unwrap();
}

#[test]
fn a_failure_at_any_operation_loses_nothing_acknowledged() {
    let (_, peer, space) = new_store(2);
    (0..10).for_each(|number| {
        write_varied(&peer, space, 500 + number);
    });
    let whole = MemoryBackend::default();
    live(&whole, &peer, &mut Acknowledged::default()).unwrap();
    let operations = whole.operations();
    assert!(operations > 100);
    let mut failures = 0;
    for operation in 0..operations {
        let backend = MemoryBackend::default();
        backend.fail_after(Some(operation));
        let mut done = Acknowledged::default();
        // A stage that cannot be removed, or a clean close of the tree, fails silently: both are made up for.
        failures += u32::from(live(&backend, &peer, &mut done).is_err());
        backend.fail_after(None);

        let (store, _) = try_open(&backend, 1, StoreOptions::default())
            .unwrap_or_else(|error| panic!("after a failure at {operation}: {error}"));
        let space = store.create_space(SPACE, "cart").unwrap();
        let version = version(&store, space);
        let own = version.sequence(replica(1));
        assert!(own >= done.commits, "operation {operation}: {own} of {} commits", done.commits);
        assert!(version.sequence(replica(2)) == 10 || !done.joined, "operation {operation}");
        // Whatever is there is whole: it is what the same commits make of another store.
        let (_, oracle, _) = new_store(1);
        for number in 0..own {
            write_varied(&oracle, space, number);
            if number == 6 && version.sequence(replica(2)) == 10 {
                join(&oracle, &peer, space);
            }
        }
        assert_eq!(digest(&store, space), digest(&oracle, space), "operation {operation}");
        write_varied(&store, space, 77);
    }
    assert!(failures > 80, "{failures} of {operations} failures were noticed");
}

#[test]
fn a_failed_sync_is_never_retried_and_fails_all_who_wait() {
    let (backend, store, space) = new_store(1);
    put(&store, space, "x", 1);
    let appended = |value| {
        let write = |tx: &mut Tx<'_>| tx.increment(path("c"), value);
        store.append(space, 0, write).unwrap().1.unwrap()
    };
    let (first, second) = (appended(1), appended(2));
    // The batch is one write and one sync: let the sync fail.
    backend.fail_after(Some(1));
    assert!(matches!(store.wait(&first), Err(StoreError::Poisoned { .. })));
    assert!(matches!(store.wait(&second), Err(StoreError::Poisoned { .. })));
    assert!(matches!(store.sync(), Err(StoreError::Poisoned { .. })));
    assert_eq!(count(&store, space, "c"), 0, "readers never see what may not be durable");
    drop(store);
    let store = open(&backend, 1);
    assert_eq!(
        version(&store, space).sequence(replica(1)),
        3,
        "here the write had reached the disk"
    );
}

/// Found by the simulator: redb serves nothing any more after one failed read, and the store acknowledged
/// writes all the same, which no peer could get from it.
#[test]
fn a_store_whose_rows_could_not_be_read_takes_no_writes_until_it_is_opened_again() {
    let (backend, store, space) = new_store(1);
    for number in 0..200 {
        put(&store, space, &format!("row {number}"), number);
    }
    store.close().unwrap();
    // Not all of the tree fits into its cache.
    let options = StoreOptions { tree_cache_bytes: 0, ..StoreOptions::default() };
    let (store, _) = try_open(&backend, 1, options).unwrap();
    backend.fail_after(Some(0));
    let read = store.snapshot(space).unwrap().row(&key("row 7", Kind::Register));
    assert!(matches!(read, Err(StoreError::Io { .. })), "{read:?}");
    let written = store.write(space, 0, |tx| tx.put(path("late"), Value::from(1)));
    assert!(matches!(written, Err(WriteError::Store(StoreError::Poisoned { .. }))), "{written:?}");
    assert!(matches!(store.sync(), Err(StoreError::Poisoned { .. })));
    drop(store);
    let store = open(&backend, 1);
    assert_eq!(store.snapshot(space).unwrap().row(&key("late", Kind::Register)).unwrap(), None);
    put(&store, space, "late", 2);
}
