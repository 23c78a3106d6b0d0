//! What the log tells peers and watchers, and what may be dropped from it.

use rejoin_crdt::VersionVector;
use rejoin_store::*;

use crate::support::*;

fn small_segments(backend: &MemoryBackend, number: u8) -> Store {
    let options =
        StoreOptions { segment_bytes: 500, reserve_bytes: 100, ..StoreOptions::default() };
    try_open(backend, number, options).unwrap().0
}

#[test]
fn a_peer_gets_what_it_misses_in_pages_causes_first() {
    let (_, a, space) = new_store(1);
    let (_, b, _) = new_store(2);
    for number in 0..300 {
        let (writer, reader) = if number % 3 == 0 { (&a, &b) } else { (&b, &a) };
        write_varied(writer, space, number);
        if number % 4 == 0 {
            pull(reader, writer, space);
        }
        if number == 150 {
            a.checkpoint().unwrap();
        }
    }
    pull(&a, &b, space);
    let (_, c, _) = new_store(3);
    let mut pages = 0;
    loop {
        let answer = a.commits_after(space, &c.durable_version(space).unwrap(), 1_000).unwrap();
        let CommitsAfter::Commits { runs, more } = answer else { panic!("{answer:?}") };
        let applied = c.apply(space, &runs).unwrap();
        assert_eq!(applied.duplicates, 0, "exactly what is missing");
        pages += 1;
        if !more {
            break;
        }
        assert!(applied.applied > 0);
    }
    assert!(pages > 5);
    assert_eq!(digest(&c, space), digest(&a, space));
    assert!(all_runs(&c, space).len() > 2, "the two writers' commits are interleaved");
    let up_to_date = a.commits_after(space, &version(&c, space), 1_000).unwrap();
    assert_eq!(up_to_date, CommitsAfter::Commits { runs: Vec::new(), more: false });
}

#[test]
fn truncation_keeps_unconfirmed_own_commits_and_what_is_not_in_the_tree() {
    let backend = MemoryBackend::default();
    let store = small_segments(&backend, 1);
    let space = store.create_space(SPACE, "cart").unwrap();
    (0..30).for_each(|number| {
        write_varied(&store, space, number);
    });
    assert_eq!(
        store.truncate_log(Lsn::MAX).unwrap(),
        Truncated::default(),
        "nothing is in the tree"
    );
    store.checkpoint().unwrap();
    assert_eq!(store.truncate_log(Lsn::MAX).unwrap(), Truncated::default(), "nothing is confirmed");
    store.mark_confirmed(space, 20).unwrap();
    assert!(store.truncate_log(Lsn::MAX).unwrap().segments > 3);
    let expected = digest(&store, space);

    for store in [store, small_segments(&backend.copy(), 1)] {
        let at = |sequence: u64| {
            let head = rejoin_crdt::Head { sequence, hash: rejoin_crdt::CommitHash::ZERO };
            VersionVector::from_iter([(replica(1), head)])
        };
        assert_eq!(store.commits_after(space, &at(2), 1_000).unwrap(), CommitsAfter::LogGone);
        // The hash is made up, so that the answer shows that commit 21 was found and looked at.
        assert!(matches!(
            store.commits_after(space, &at(20), 1_000).unwrap(),
            CommitsAfter::Fork { .. }
        ));
        assert_eq!(digest(&store, space), expected);
        write_varied(&store, space, 50);
    }
}

#[test]
fn a_peer_behind_a_truncated_log_joins_the_state_and_goes_on_by_commits() {
    let backend = MemoryBackend::default();
    let a = small_segments(&backend, 1);
    let space = a.create_space(SPACE, "cart").unwrap();
    let (_, b, _) = new_store(2);
    (0..30).for_each(|number| {
        write_varied(&a, space, number);
    });
    a.mark_confirmed(space, 30).unwrap();
    a.checkpoint().unwrap();
    a.truncate_log(Lsn::MAX).unwrap();
    assert_eq!(backend.list().unwrap().iter().filter(|name| name.ends_with(".log")).count(), 1);
    let behind = b.durable_version(space).unwrap();
    assert_eq!(a.commits_after(space, &behind, 1_000).unwrap(), CommitsAfter::LogGone);
    join(&b, &a, space);
    write_varied(&a, space, 31);
    assert_eq!(pull(&b, &a, space).applied, 1);
    assert_eq!(digest(&a, space), digest(&b, space));
    // What came by the join is not in the log of the one that joined.
    let (_, c, _) = new_store(3);
    let nothing = c.durable_version(space).unwrap();
    assert_eq!(b.commits_after(space, &nothing, 1_000).unwrap(), CommitsAfter::LogGone);
    drop(a);
    let a = small_segments(&backend, 1);
    assert_eq!(a.commits_after(space, &nothing, 1_000).unwrap(), CommitsAfter::LogGone);
    assert_eq!(digest(&a, space), digest(&b, space));
}

#[test]
fn a_watcher_resumes_where_it_was_or_is_told_to_read_again() {
    let backend = MemoryBackend::default();
    let store = small_segments(&backend, 1);
    let space = store.create_space(SPACE, "cart").unwrap();
    let other = store.create_space(rejoin_crdt::SpaceId::from_bytes([6; 32]), "other").unwrap();
    let start = store.snapshot(space).unwrap().lsn();
    let mut expected = Vec::new();
    for number in 0..20 {
        expected.push(write_varied(&store, space, number));
        write_varied(&store, other, number);
    }
    let (mut seen, mut next, mut more) = (Vec::new(), start, true);
    while more {
        let page = store.log_from(space, next, 3).unwrap();
        let LogPage::Changes { changes, next: behind, more: left } = page else {
            panic!("{page:?}")
        };
        seen.extend(changes.iter().map(|change| match change {
            Change::Commit { lsn, dot, .. } => Committed { lsn: *lsn, dot: *dot },
            other => panic!("{other:?}"),
        }));
        (next, more) = (behind, left);
    }
    assert_eq!(seen, expected);
    let LogPage::Changes { changes, .. } = store.log_from(space, expected[15].lsn, 100).unwrap()
    else {
        panic!()
    };
    assert_eq!(changes.len(), 4, "from any change on");

    let (_, peer, _) = new_store(2);
    put(&peer, space, "x", 1);
    join(&store, &peer, space);
    let resumed = store.log_from(space, expected[19].lsn, 100).unwrap();
    let LogPage::Changes { changes, .. } = resumed else { panic!("{resumed:?}") };
    assert!(matches!(changes[..], [Change::Joined { .. }]), "{changes:?}");

    assert_eq!(store.log_from(space, Lsn::new(start.get() + 1), 10).unwrap(), LogPage::Gone);
    assert_eq!(store.log_from(space, Lsn::MAX, 10).unwrap(), LogPage::Gone);
    store.mark_confirmed(space, 20).unwrap();
    store.mark_confirmed(other, 20).unwrap();
    store.checkpoint().unwrap();
    store.truncate_log(Lsn::MAX).unwrap();
    assert_eq!(store.log_from(space, start, 10).unwrap(), LogPage::Gone);
    let end = store.snapshot(space).unwrap().lsn();
    assert!(matches!(
        store.log_from(space, end, 10).unwrap(),
        LogPage::Changes { more: false, .. }
    ));
}

#[test]
fn a_peer_that_claims_to_know_everything_is_told_nothing() {
    let (_, a, space) = new_store(1);
    let (_, b, _) = new_store(2);
    put(&a, space, "x", 1);
    put(&b, space, "y", 1);
    pull(&a, &b, space);
    let head = rejoin_crdt::Head { sequence: u64::MAX, hash: rejoin_crdt::CommitHash::ZERO };
    let claimed = VersionVector::from_iter([1, 2, 3].map(|number| (replica(number), head)));
    let answer = a.commits_after(space, &claimed, 1_000).unwrap();
    assert_eq!(answer, CommitsAfter::Commits { runs: Vec::new(), more: false });
    let run = CommitRun {
        replica: replica(3),
        first_sequence: u64::MAX,
        previous: rejoin_crdt::CommitHash::ZERO,
        bodies: vec![all_runs(&b, space)[0].bodies[0].clone(); 2],
    };
    assert!(matches!(a.apply(space, &[run]), Err(ApplyError::Gap { known: 0, .. })));
    let own_head = VersionVector::from_iter([(replica(1), head)]);
    assert!(matches!(a.begin_state(space, own_head), Err(StageError::RolledBack { .. })));
    // The lie is believed of others, for nobody else can know better; it must not break anything.
    let others = VersionVector::from_iter([(replica(3), head)]);
    let staged = a.begin_state(space, others).unwrap();
    a.commit_state(staged).unwrap();
    put(&a, space, "x", 2);
    assert!(matches!(
        a.commits_after(space, &VersionVector::default(), 1_000).unwrap(),
        CommitsAfter::LogGone
    ));
    a.checkpoint().unwrap();
}
