//! The store against an ordered map.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rejoin_crdt::{Kind, Path, ReadRows, kind::counter};
use rejoin_store::*;

use crate::support::*;

#[derive(Debug, Clone)]
enum Step {
    Add(u8, u8, i64),
    Remove(u8, u8),
    RemoveTree(u8),
    Many(u8),
    Checkpoint,
    Reopen,
    Crash,
    Truncate,
    Scan(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6u8, 0..6u8, -5..5i64).prop_map(|(a, b, amount)| Step::Add(a, b, amount)),
        3 => (0..6u8, 0..6u8).prop_map(|(a, b)| Step::Remove(a, b)),
        1 => (0..6u8).prop_map(Step::RemoveTree),
        1 => (0..6u8).prop_map(Step::Many),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        1 => Just(Step::Truncate),
        3 => (0..6u8, 0..6u8).prop_map(|(a, b)| Step::Scan(a, b)),
    ]
}

type Model = BTreeMap<(u8, u8), i64>;

fn at(a: u8, b: u8) -> Path {
    path("t").child(u64::from(a)).unwrap().child(u64::from(b)).unwrap()
}

fn read(store: &Store, space: SpaceIndex, prefix: &Path) -> Vec<(Path, i64)> {
    let snapshot = store.snapshot(space).unwrap();
    let rows: Vec<_> = snapshot.iter(prefix).map(Result::unwrap).collect();
    rows.into_iter().map(|(key, row)| (key.path, counter::value(Some(&row)))).collect()
}

fn expect(model: &Model, tree: Option<u8>) -> Vec<(Path, i64)> {
    let within = model.iter().filter(|((a, _), _)| tree.is_none_or(|tree| tree == *a));
    within.map(|((a, b), value)| (at(*a, *b), *value)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_store_is_an_ordered_map_that_lasts(steps in prop::collection::vec(step(), 1..80)) {
        let backend = MemoryBackend::default();
        let options = StoreOptions { segment_bytes: 400, reserve_bytes: 100, buffer_bytes_max: 20_000, ..StoreOptions::default() };
        let mut store = try_open(&backend, 1, options.clone()).unwrap().0;
        let space = store.create_space(SPACE, "cart").unwrap();
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Add(a, b, amount) => {
                    store.write(space, 0, |tx| tx.increment(at(a, b), amount)).unwrap();
                    *model.entry((a, b)).or_default() += amount;
                }
                Step::Remove(a, b) => {
                    let (_, committed) = store.write(space, 0, |tx| tx.remove(&at(a, b))).unwrap();
                    prop_assert_eq!(committed.is_some(), model.remove(&(a, b)).is_some());
                }
                Step::RemoveTree(a) => {
                    let tree = path("t").child(u64::from(a)).unwrap();
                    store.write(space, 0, |tx| tx.remove_tree(&tree)).unwrap();
                    model.retain(|(in_tree, _), _| *in_tree != a);
                }
                Step::Many(a) => {
                    store.write(space, 0, |tx| (0..6).try_for_each(|b| tx.increment(at(a, b), 1))).unwrap();
                    (0..6).for_each(|b| *model.entry((a, b)).or_default() += 1);
                }
                Step::Checkpoint => store.checkpoint().unwrap(),
                Step::Reopen => {
                    store.close().unwrap();
                    store = try_open(&backend, 1, options.clone()).unwrap().0;
                }
                Step::Crash => {
                    drop(store);
                    store = try_open(&backend, 1, options.clone()).unwrap().0;
                }
                Step::Truncate => {
                    store.mark_confirmed(space, u64::MAX).unwrap();
                    store.truncate_log(Lsn::MAX).unwrap();
                }
                Step::Scan(a, b) => {
                    let tree = path("t").child(u64::from(a)).unwrap();
                    prop_assert_eq!(read(&store, space, &tree), expect(&model, Some(a)));
                    let key = rejoin_crdt::RowKey { path: at(a, b), kind: Kind::Counter };
                    let row = store.snapshot(space).unwrap().row(&key).unwrap();
                    prop_assert_eq!(row.as_ref().map(|row| counter::value(Some(row))), model.get(&(a, b)).copied());
                    let page = store.snapshot(space).unwrap().page(&Path::root(), Some(&key), 2).unwrap();
                    let behind: Vec<_> = page.into_iter().map(|(key, _)| key.path).collect();
                    let expected: Vec<_> =
                        model.range((a, b)..).filter(|(at, _)| **at != (a, b)).take(2).map(|((a, b), _)| at(*a, *b)).collect();
                    prop_assert_eq!(behind, expected);
                }
            }
        }
        prop_assert_eq!(read(&store, space, &Path::root()), expect(&model, None));
    }
}
