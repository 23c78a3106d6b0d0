//! State joins: staged, refused, dropped, and made while writers go on.

use std::thread;

use rejoin_crdt::{Dot, Kind, Payload, Row, VersionVector};
use rejoin_store::*;

use crate::support::*;

fn stages(backend: &MemoryBackend) -> usize {
    backend.list().unwrap().iter().filter(|name| name.starts_with("stage-")).count()
}

#[test]
fn a_stage_changes_nothing_until_it_is_committed_and_leaves_nothing_behind() {
    let (backend, a, space) = new_store(1);
    let (_, b, _) = new_store(2);
    (0..50).for_each(|number| {
        write_varied(&a, space, number);
        write_varied(&b, space, 100 + number);
    });
    let before = digest(&a, space);
    let staged = stage(&a, &b, space).unwrap();
    assert_eq!((digest(&a, space), stages(&backend)), (before, 1));
    drop(staged);
    assert_eq!((digest(&a, space), stages(&backend)), (before, 0));

    let staged = stage(&a, &b, space).unwrap();
    let crashed = backend.copy();
    assert_eq!(stages(&crashed), 1);
    assert_eq!(digest(&open(&crashed, 1), space), before);
    assert_eq!(stages(&crashed), 0, "an opening removes what a crash left");

    let joined = a.commit_state(staged).unwrap();
    assert_eq!(stages(&backend), 0);
    assert_eq!(joined, version(&a, space));
    assert_eq!(joined, a.durable_version(space).unwrap());
    join(&b, &a, space);
    assert_eq!(digest(&a, space), digest(&b, space));
}

#[test]
fn parts_of_a_row_may_come_one_after_the_other() {
    let (_, a, space) = new_store(1);
    let (_, b, _) = new_store(2);
    for number in 3..20 {
        let (_, writer, _) = new_store(number);
        put(&writer, space, "x", i64::from(number));
        pull(&b, &writer, space);
    }
    let snapshot = b.snapshot(space).unwrap();
    let mut staged = a.begin_state(space, VersionVector::clone(snapshot.version())).unwrap();
    for row in snapshot.iter(&rejoin_crdt::Path::root()) {
        let (key, row) = row.unwrap();
        let parts = row.split(100);
        assert!(parts.len() > 3);
        for part in parts {
            staged.push(&key.to_bytes(), &part.to_bytes()).unwrap();
        }
    }
    a.commit_state(staged).unwrap();
    assert_eq!(digest(&a, space), digest(&b, space));
}

#[test]
fn hostile_states_are_refused() {
    let backend = MemoryBackend::default();
    let options = StoreOptions { stage_bytes_max: 10_000, ..StoreOptions::default() };
    let (a, _) = try_open(&backend, 1, options).unwrap();
    let space = a.create_space(SPACE, "cart").unwrap();
    let (_, b, _) = new_store(2);
    put(&b, space, "x", 1);
    put(&b, space, "y", 1);
    let theirs = VersionVector::clone(&version(&b, space));
    let covered = Dot { replica: replica(2), sequence: 1 };
    let uncovered = Dot { replica: replica(2), sequence: 3 };
    let row = |dot| Row::from_iter([(dot, Payload::Flag)]).to_bytes();
    let at = |text| key(text, Kind::Flag).to_bytes();
    let begin = || a.begin_state(space, theirs.clone()).unwrap();

    let mut staged = begin();
    staged.push(&at("m"), &row(covered)).unwrap();
    assert!(matches!(staged.push(&at("l"), &row(covered)), Err(StageError::Unordered)));
    assert!(
        matches!(begin().push(&at("m"), &row(uncovered)), Err(StageError::NotCovered { dot }) if dot == uncovered)
    );
    let mut staged = begin();
    staged.push(&at("m"), &row(covered)).unwrap();
    assert!(matches!(staged.push(&at("m"), &row(covered)), Err(StageError::Malformed(_))));
    for (bad_key, bad_row) in [
        (at("m"), b"\xff\xff".to_vec()),
        (at("m"), Row::default().to_bytes()),
        (b"\xff".to_vec(), row(covered)),
        (Vec::new(), row(covered)),
    ] {
        assert!(matches!(begin().push(&bad_key, &bad_row), Err(StageError::Malformed(_))));
    }
    let mut staged = begin();
    let refused = (0..1_000u64).find_map(|number| {
        let at = rejoin_crdt::RowKey { path: path("n").child(number).unwrap(), kind: Kind::Flag };
        staged.push(&at.to_bytes(), &row(covered)).err()
    });
    assert!(matches!(refused, Some(StageError::TooLarge { limit: 10_000 })));

    // One dot with another payload than the one known here: found by the join, which then changes nothing.
    pull(&a, &b, space);
    let before = digest(&a, space);
    let mut staged = begin();
    let other = Payload::Register { value: rejoin_crdt::Value::I64(99), wall_time_ms: 1 };
    let lie = Row::from_iter([(covered, other)]).to_bytes();
    staged.push(&key("x", Kind::Register).to_bytes(), &lie).unwrap();
    assert!(matches!(a.commit_state(staged), Err(StageError::Malformed(_))));
    assert_eq!(digest(&a, space), before);
    put(&a, space, "x", 3);
    a.checkpoint().unwrap();
}

#[test]
fn joins_are_right_while_writers_and_peers_go_on() {
    let (backend, a, space) = new_store(1);
    let (_, b, _) = new_store(2);
    let (_, c, _) = new_store(3);
    for number in 0..200 {
        write_varied(&b, space, number);
    }
    pull(&c, &b, space);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..400 {
                write_varied(&a, space, 10_000 + number);
            }
        });
        scope.spawn(|| {
            for number in 0..60 {
                write_varied(&c, space, 20_000 + number);
                // The two race: a join may bring what the commits would have.
                let CommitsAfter::Commits { runs, .. } =
                    c.commits_after(space, &a.durable_version(space).unwrap(), usize::MAX).unwrap()
                else {
                    panic!("nothing was truncated")
                };
                a.apply(space, &runs).unwrap();
            }
        });
        scope.spawn(|| {
            for number in 0..20 {
                write_varied(&b, space, 30_000 + number);
                join(&a, &b, space);
            }
        });
        scope.spawn(|| {
            for _ in 0..20 {
                a.checkpoint().unwrap();
            }
        });
    });
    join(&b, &a, space);
    join(&c, &b, space);
    join(&b, &c, space);
    join(&a, &b, space);
    let expected = digest(&a, space);
    assert_eq!(digest(&b, space), expected);
    assert_eq!(digest(&c, space), expected);
    let crashed = backend.copy();
    assert_eq!(digest(&open(&crashed, 1), space), expected);
}
