//! What a write, and a commit from a peer, does and does not do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rejoin_crdt::{CommitHash, Dot, Value};
use rejoin_store::*;

use crate::support::*;

#[test]
fn a_write_is_there_after_a_crash_and_after_a_close() {
    let (backend, store, space) = new_store(1);
    assert_eq!(add(&store, space, "a", 2).dot, Dot { replica: replica(1), sequence: 1 });
    drop(store);
    let (store, report) = try_open(&backend, 9, StoreOptions::default()).unwrap();
    assert_eq!((report.created, report.replayed_commits, report.torn_tail), (false, 1, None));
    assert_eq!(store.replica_id(), replica(1), "fresh ids are for new stores only");
    assert_eq!(add(&store, space, "a", 3).dot.sequence, 2);
    store.close().unwrap();
    let (store, report) = try_open(&backend, 9, StoreOptions::default()).unwrap();
    assert_eq!(report.replayed_commits, 0);
    assert_eq!(count(&store, space, "a"), 5);
    assert_eq!(store.spaces(), [(space, SpaceInfo { id: SPACE, name: "cart".into() })]);
    assert_eq!(store.create_space(SPACE, "other name").unwrap(), space);
}

#[test]
fn an_aborted_or_empty_transaction_changes_nothing() {
    let (backend, store, space) = new_store(1);
    add(&store, space, "a", 1);
    let before = (digest(&store, space), backend.operations(), store.durable_lsn());
    let aborted = store.write(space, 0, |tx| {
        tx.increment(path("a"), 1).unwrap();
        Err::<(), _>("no")
    });
    assert!(matches!(aborted, Err(WriteError::Aborted("no"))));
    let (value, committed) = store.write(space, 0, |_| Ok::<_, StoreError>(7)).unwrap();
    assert_eq!((value, committed), (7, None));
    assert_eq!((digest(&store, space), backend.operations(), store.durable_lsn()), before);
}

#[test]
fn a_panic_in_a_transaction_leaves_the_store_as_it_was() {
    let (_, store, space) = new_store(1);
    add(&store, space, "a", 1);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        store.write(space, 0, |tx| -> Prepared {
            tx.increment(path("a"), 1)?;
            panic!("the application's bug")
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(count(&store, space, "a"), 1);
    assert_eq!(add(&store, space, "a", 1).dot.sequence, 2);
}

#[test]
fn a_transaction_sees_its_own_writes_and_those_not_yet_durable() {
    let (backend, store, space) = new_store(1);
    let syncs = backend.syncs();
    let tickets: Vec<Ticket> = (0..10)
        .map(|_| store.append(space, 0, |tx| tx.increment(path("a"), 1)).unwrap().1.unwrap())
        .collect();
    assert_eq!(count(&store, space, "a"), 0, "readers see only what is durable");
    tickets.iter().for_each(|ticket| store.wait(ticket).unwrap());
    assert_eq!(count(&store, space, "a"), 10);
    assert_eq!(backend.syncs(), syncs + 1, "ten commits, one sync");
}

#[test]
fn a_transaction_over_the_limits_is_refused_and_changes_nothing() {
    let (_, store, space) = new_store(1);
    let huge = store.write(space, 0, |tx| -> Prepared {
        for index in 0..10u64 {
            tx.put(path("big").child(index).unwrap(), Value::Bytes(vec![0; 1_000_000]))?;
        }
        Ok(())
    });
    assert!(matches!(huge, Err(WriteError::TooLarge(_) | WriteError::Aborted(_))), "{huge:?}");
    assert!(version(&store, space).is_empty());
    assert!(matches!(
        store.create_space(
            rejoin_crdt::SpaceId::from_bytes([8; 32]),
            &"x".repeat(SPACE_NAME_BYTES_MAX + 1)
        ),
        Err(StoreError::NameTooLong { .. })
    ));
}

#[test]
fn commits_from_a_peer_take_effect_once() {
    let (_, a, space) = new_store(1);
    let (_, b, _) = new_store(2);
    (0..20).for_each(|number| {
        write_varied(&a, space, number);
    });
    assert_eq!(
        b.apply(space, &all_runs(&a, space)).unwrap(),
        Applied { applied: 20, duplicates: 0 }
    );
    assert_eq!(
        b.apply(space, &all_runs(&a, space)).unwrap(),
        Applied { applied: 0, duplicates: 20 }
    );
    assert_eq!(digest(&a, space), digest(&b, space));
}

#[test]
fn commits_out_of_order_are_refused_one_by_one() {
    let (_, a, space) = new_store(1);
    let (_, b, _) = new_store(2);
    let (_, c, _) = new_store(3);
    (1..=4).for_each(|value| {
        put(&a, space, "x", value);
    });
    pull(&b, &a, space);
    put(&b, space, "x", 5);
    let of_a = &all_runs(&a, space)[0];
    let of_b = all_runs(&b, space).pop().unwrap();
    assert_eq!(of_b.replica, replica(2));

    let with_gap = CommitRun {
        first_sequence: 2,
        previous: CommitHash::ZERO,
        bodies: of_a.bodies[1..].to_vec(),
        ..of_a.clone()
    };
    let dot = |number, sequence| Dot { replica: replica(number), sequence };
    assert!(
        matches!(c.apply(space, &[with_gap]), Err(ApplyError::Gap { dot: d, known: 0 }) if d == dot(1, 2))
    );
    assert!(matches!(
        c.apply(space, std::slice::from_ref(&of_b)),
        Err(ApplyError::MissingDependency { dot: d, dependency }) if d == dot(2, 1) && dependency.replica == replica(1)
    ));
    assert!(version(&c, space).is_empty());

    // The first two are good, the third is not: it and what follows it are refused, and only they.
    let mut spoilt = of_a.clone();
    spoilt.bodies[2] = Bytes::from_static(b"\xff\xff");
    let refused = c.apply(space, &[spoilt, of_b]);
    assert!(matches!(refused, Err(ApplyError::Malformed { dot: d, .. }) if d == dot(1, 3)));
    assert_eq!(version(&c, space).sequence(replica(1)), 2);
    assert_eq!(c.durable_version(space).unwrap(), version(&c, space));
}

#[test]
fn a_fork_is_noticed_wherever_the_branches_meet() {
    let (backend, a, space) = new_store(1);
    (1..=3).for_each(|value| {
        put(&a, space, "x", value);
    });
    drop(a);
    let copied = backend.copy();
    let (a, clone) = (open(&backend, 1), open(&copied, 1));
    (0..2).for_each(|_| {
        put(&a, space, "x", 10);
        put(&clone, space, "y", 20);
    });
    let (_, b, _) = new_store(2);
    pull(&b, &a, space);
    let before = digest(&b, space);
    let branch = &all_runs(&clone, space)[0];
    let apply_from = |first: usize, previous: CommitHash| {
        let bodies = branch.bodies[first..].to_vec();
        let first_sequence = first as u64 + 1;
        b.apply(space, &[CommitRun { replica: replica(1), first_sequence, previous, bodies }])
    };
    assert!(
        matches!(apply_from(0, CommitHash::ZERO), Err(ApplyError::Fork(fork)) if fork.sequence == 5)
    );
    let theirs = version(&clone, space);
    put(&clone, space, "y", 30);
    let CommitsAfter::Commits { runs, .. } =
        clone.commits_after(space, &theirs, usize::MAX).unwrap()
    else {
        panic!("the clone has one more")
    };
    assert!(matches!(b.apply(space, &runs), Err(ApplyError::Fork(fork)) if fork.sequence == 6));
    assert_eq!(digest(&b, space), before);
    assert_eq!(
        b.commits_after(space, &theirs, usize::MAX).unwrap(),
        CommitsAfter::Fork { replica: replica(1), sequence: 5 }
    );
    assert!(matches!(
        b.begin_state(space, (*theirs).clone()),
        Err(StageError::Fork(fork)) if fork.sequence == 5
    ));
}

#[test]
fn a_rolled_back_store_is_told_so() {
    let (backend, a, space) = new_store(1);
    put(&a, space, "x", 1);
    drop(a);
    let backup = backend.copy();
    let a = open(&backend, 1);
    put(&a, space, "x", 2);
    let restored = open(&backup, 1);
    let refused = restored.apply(space, &all_runs(&a, space));
    assert!(matches!(refused, Err(ApplyError::RolledBack { dot }) if dot.sequence == 2));
    let refused = stage(&restored, &a, space);
    assert!(matches!(refused, Err(StageError::RolledBack { dot }) if dot.sequence == 2));
}

#[test]
fn a_commit_depends_on_exactly_what_came_since_the_last_one() {
    let (backend, a, space) = new_store(1);
    let (_, b, _) = new_store(2);
    let (_, c, _) = new_store(3);
    let depends_on = |store: &Store, at: &str| -> Vec<Dot> {
        let before = store.durable_version(space).unwrap();
        put(store, space, at, 1);
        let answer = store.commits_after(space, &before, usize::MAX).unwrap();
        let CommitsAfter::Commits { runs, .. } = answer else { panic!("{answer:?}") };
        let dot = Dot { replica: runs[0].replica, sequence: runs[0].first_sequence };
        rejoin_crdt::CommitBody::from_bytes(dot, &runs[0].bodies[0]).unwrap().dependencies
    };
    let dot = |number, sequence| Dot { replica: replica(number), sequence };
    assert_eq!(depends_on(&a, "a"), []);
    put(&b, space, "b", 1);
    put(&b, space, "b", 2);
    put(&c, space, "c", 1);
    pull(&a, &b, space);
    assert_eq!(depends_on(&a, "a"), [dot(2, 2)]);
    assert_eq!(depends_on(&a, "a"), []);
    join(&a, &c, space);
    assert_eq!(depends_on(&a, "a"), [dot(3, 1)]);
    drop(a);
    let a = open(&backend, 1);
    assert_eq!(depends_on(&a, "a"), [], "the log tells what the last commit came after");
    a.close().unwrap();
    let a = open(&backend, 1);
    let all = [dot(2, 2), dot(3, 1)];
    assert_eq!(depends_on(&a, "a"), all, "the tree does not: once, everything is named");
    assert_eq!(depends_on(&a, "a"), []);
}

#[test]
fn counters_fold_only_what_no_peer_can_have_seen() {
    let (backend, store, space) = new_store(1);
    let dots = |store: &Store| {
        use rejoin_crdt::ReadRows;
        let row =
            store.snapshot(space).unwrap().row(&key("c", rejoin_crdt::Kind::Counter)).unwrap();
        row.unwrap().len()
    };
    add(&store, space, "c", 1);
    add(&store, space, "c", 1);
    assert_eq!(dots(&store), 1, "nothing was sent: one dot");
    store.mark_sent(space, 2).unwrap();
    add(&store, space, "c", 1);
    add(&store, space, "c", 1);
    assert_eq!(dots(&store), 2, "the sent dot stays, the later ones fold");
    drop(store);
    let store = open(&backend, 1);
    add(&store, space, "c", 1);
    assert_eq!(dots(&store), 3, "what was sent before the crash is not known: nothing old folds");
    assert_eq!(count(&store, space, "c"), 5);
}

#[derive(Default, Clone)]
struct Recorder(Arc<Mutex<(Vec<Change>, Vec<Lsn>)>>);

impl Observer for Recorder {
    fn published(&self, changes: &[Change]) {
        self.0.lock().unwrap().0.extend_from_slice(changes);
    }

    fn durable(&self, lsn: Lsn) {
        self.0.lock().unwrap().1.push(lsn);
    }
}

#[test]
fn the_observer_hears_of_each_change_once_in_order_and_no_sooner_than_it_is_visible() {
    for durability in [Durability::Immediate, Durability::Eventual { interval_ms: 10 }] {
        let recorder = Recorder::default();
        let backend = MemoryBackend::default();
        let options = StoreOptions { durability, ..StoreOptions::default() };
        let (store, _) =
            Store::open(Arc::new(backend), options, fresh(1), Box::new(recorder.clone())).unwrap();
        let space = store.create_space(SPACE, "cart").unwrap();
        let lsns: Vec<Lsn> = (1..=5).map(|value| put(&store, space, "x", value).lsn).collect();
        let heard: Vec<Lsn> = recorder.0.lock().unwrap().0.iter().map(Change::lsn).collect();
        assert_eq!(heard, lsns, "{durability:?}");
        store.sync().unwrap();
        assert_eq!(recorder.0.lock().unwrap().1.last(), lsns.last());
        let (_, other, _) = new_store(2);
        put(&other, space, "y", 1);
        join(&store, &other, space);
        let last = recorder.0.lock().unwrap().0.last().cloned();
        assert!(matches!(last, Some(Change::Joined { .. })), "{durability:?}: {last:?}");
    }
}

#[test]
fn eventual_writes_are_visible_at_once_and_told_to_nobody_before_they_are_on_disk() {
    let backend = MemoryBackend::default();
    let durability = Durability::Eventual { interval_ms: 50 };
    let options = StoreOptions { durability, ..StoreOptions::default() };
    let (store, _) = try_open(&backend, 1, options.clone()).unwrap();
    let space = store.create_space(SPACE, "cart").unwrap();
    let syncs = backend.syncs();
    add(&store, space, "a", 1);
    add(&store, space, "a", 1);
    assert_eq!((count(&store, space, "a"), backend.syncs()), (2, syncs));
    assert!(store.durable_version(space).unwrap().is_empty());
    assert!(all_runs(&store, space).is_empty());
    let after = store.durable_lsn();
    let crashed = backend.copy();

    store.sync().unwrap();
    assert_eq!(backend.syncs(), syncs + 1);
    assert_eq!(store.durable_version(space).unwrap().sequence(replica(1)), 2);
    assert_eq!(all_runs(&store, space)[0].bodies.len(), 2);
    let LogPage::Changes { changes, .. } = store.log_from(space, after, 10).unwrap() else {
        panic!()
    };
    assert_eq!(changes.len(), 2);

    let (lost, _) = try_open(&crashed, 1, options).unwrap();
    assert_eq!(count(&lost, space, "a"), 0);
}

#[test]
fn a_second_opening_is_refused_while_the_first_lasts() {
    let (backend, store, _) = new_store(1);
    assert!(matches!(try_open(&backend, 1, StoreOptions::default()), Err(StoreError::Locked)));
    drop(store);
    open(&backend, 1);
}
