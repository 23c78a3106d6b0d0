//! Power cuts: at every moment, with whatever part of what was not synced reaching the disk.

use std::collections::BTreeMap;

use rejoin_crdt::StateDigest;
use rejoin_store::*;

use crate::support::*;

/// What had been promised once so many changes of the disk had been made.
struct Promise {
    journal_len: usize,
    own_commits: u64,
    joined: bool,
}

/// Runs a store through commits, checkpoints, a join and a truncation on a recording disk.
fn recorded() -> (MemoryBackend, Vec<Promise>, BTreeMap<(u64, bool), StateDigest>) {
    let backend = MemoryBackend::recording();
    let options =
        StoreOptions { segment_bytes: 2_000, reserve_bytes: 100, ..StoreOptions::default() };
    let (store, _) = try_open(&backend, 1, options).unwrap();
    let space = store.create_space(SPACE, "cart").unwrap();
    let (_, peer, _) = new_store(2);
    (0..15).for_each(|number| {
        write_varied(&peer, space, 500 + number);
    });
    // What the store is to show after so many own commits, without and with the joined state.
    let (_, alone, _) = new_store(1);
    let (_, together, _) = new_store(1);
    let mut expected = BTreeMap::new();
    let mut promises = Vec::new();
    let mut joined = false;
    for number in 0..30 {
        write_varied(&store, space, number);
        let own_commits = number + 1;
        promises.push(Promise { journal_len: backend.journal_len(), own_commits, joined });
        match number {
            4 | 20 => store.checkpoint().unwrap(),
            12 => {
                join(&store, &peer, space);
                joined = true;
                promises.push(Promise { journal_len: backend.journal_len(), own_commits, joined });
            }
            22 => {
                store.mark_confirmed(space, 18).unwrap();
                store.checkpoint().unwrap();
                assert!(store.truncate_log(Lsn::MAX).unwrap().segments > 0);
            }
            _ => {}
        }
        write_varied(&alone, space, number);
        if number <= 12 {
            expected.insert((own_commits, false), digest(&alone, space));
            expected.insert((own_commits, true), {
                let (_, both, _) = new_store(1);
                (0..own_commits).for_each(|number| {
                    write_varied(&both, space, number);
                });
                join(&both, &peer, space);
                digest(&both, space)
            });
        }
        write_varied(&together, space, number);
        if number == 12 {
            join(&together, &peer, space);
        }
        if number >= 12 {
            expected.insert((own_commits, true), digest(&together, space));
        }
    }
    expected.insert((0, false), {
        let (_, empty, _) = new_store(1);
        digest(&empty, space)
    });
    (backend, promises, expected)
}

/// Opens what a crash left and checks it against what had been promised; returns what it shows.
fn check(
    image: &MemoryBackend,
    promise: Option<&Promise>,
    expected: &BTreeMap<(u64, bool), StateDigest>,
) {
    let options =
        StoreOptions { segment_bytes: 2_000, reserve_bytes: 100, ..StoreOptions::default() };
    let (store, _) = try_open(image, 1, options).expect("a crash is no damage");
    let space = store.create_space(SPACE, "cart").unwrap();
    let version = version(&store, space);
    let own = version.sequence(store.replica_id());
    let joined = version.sequence(replica(2)) > 0;
    if let Some(promise) = promise {
        assert!(own >= promise.own_commits, "{own} of {} commits", promise.own_commits);
        assert!(joined || !promise.joined, "the joined state is gone");
    }
    assert_eq!(
        Some(&digest(&store, space)),
        expected.get(&(own, joined)),
        "{own} commits, joined: {joined}"
    );
    assert_eq!(write_varied(&store, space, 99).dot.sequence, own + 1);
    let shown = digest(&store, space);
    drop(store);
    assert_eq!(digest(&open(image, 1), space), shown);
}

#[test]
fn every_crash_image_holds_all_that_was_acknowledged_and_nothing_half() {
    let (backend, promises, expected) = recorded();
    let journal = backend.journal();
    let mut tearing = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        tearing ^= tearing << 13;
        tearing ^= tearing >> 7;
        tearing ^= tearing << 17;
        tearing
    };
    for cut in 0..=journal.len() {
        let promise = promises.iter().rev().find(|promise| promise.journal_len <= cut);
        let before = &journal[..cut];
        check(&crash_image(before, |_| Fate::Drop), promise, &expected);
        check(&crash_image(before, |_| Fate::Keep), promise, &expected);
        for _ in 0..3 {
            let torn = crash_image(before, |_| match random() % 3 {
                0 => Fate::Keep,
                1 => Fate::Drop,
                _ => Fate::Tear(random()),
            });
            check(&torn, promise, &expected);
        }
    }
}
