//! What users are promised, one story each, by delivery of commits and by state joins alike.

use rejoin_crdt::laws::{Cluster, Intent, Read, Step};
use rejoin_crdt::*;

use crate::oracle::seventeen_sent_increments;

const ANN: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;

/// How two replicas meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Delivery,
    Join,
}

/// A cluster of three in which a test writes as it would tell it.
struct Story {
    cluster: Cluster,
    by: By,
}

impl Story {
    fn commit(&mut self, replica: usize, wall_time_ms: u64, intents: &[Intent]) -> &mut Self {
        let intents = intents.to_vec();
        self.run(&Step::Commit { replica, wall_time_ms, intents })
    }

    fn learns(&mut self, to: usize, from: usize) -> &mut Self {
        self.run(&match self.by {
            By::Delivery => Step::Pull { to, from, limit: None },
            By::Join => Step::Join { to, from },
        })
    }

    fn meet(&mut self, a: usize, b: usize) -> &mut Self {
        self.learns(a, b).learns(b, a)
    }

    fn everyone_meets(&mut self) -> &mut Self {
        self.learns(ANN, BEN).learns(ANN, CLEO).learns(BEN, ANN).learns(CLEO, ANN)
    }

    fn run(&mut self, step: &Step) -> &mut Self {
        self.cluster.run(step).unwrap_or_else(|violation| panic!("{violation}"));
        self
    }

    fn read(&self, replica: usize, path: &str, kind: Kind) -> Option<Read> {
        let key = RowKey { path: at(path), kind };
        self.cluster.replica(replica).state().reads().remove(&key)
    }

    fn counter(&self, replica: usize, path: &str) -> i64 {
        match self.read(replica, path, Kind::Counter) {
            Some(Read::Counter(sum)) => sum,
            _ => 0,
        }
    }

    /// The values of a register, the winner first.
    fn register(&self, replica: usize, path: &str) -> Vec<i64> {
        match self.read(replica, path, Kind::Register) {
            Some(Read::Register(siblings)) => siblings
                .iter()
                .map(|(_, _, value)| value.as_i64().expect("stories put integers"))
                .collect(),
            _ => Vec::new(),
        }
    }

    fn has(&self, replica: usize, path: &str, kind: Kind) -> bool {
        self.read(replica, path, kind).is_some()
    }

    fn rows(&self, replica: usize) -> usize {
        self.cluster.replica(replica).state().rows.len()
    }
}

/// Tells a story twice: with commits delivered, and with whole states joined.
fn story(tell: impl Fn(&mut Story)) {
    for by in [By::Delivery, By::Join] {
        let mut story = Story { cluster: Cluster::new(3), by };
        tell(&mut story);
        story.cluster.converge().unwrap_or_else(|violation| panic!("{violation}"));
    }
}

fn at(path: &str) -> Path {
    Path::of(path.split('/')).expect("stories use short paths")
}

fn put(path: &str, value: i64) -> Intent {
    Intent::Put { path: at(path), value: Value::I64(value) }
}

fn increment(path: &str, amount: i64) -> Intent {
    Intent::Increment { path: at(path), amount }
}

fn enable(path: &str) -> Intent {
    Intent::Enable { path: at(path) }
}

fn add(path: &str) -> Intent {
    Intent::AddElement { path: at(path) }
}

fn remove(path: &str) -> Intent {
    Intent::Remove { path: at(path) }
}

fn remove_tree(path: &str) -> Intent {
    Intent::RemoveTree { path: at(path) }
}

#[test]
fn concurrent_increments_both_count() {
    story(|s| {
        s.commit(ANN, 1, &[increment("milk", 2)]).commit(BEN, 1, &[increment("milk", 3)]);
        s.everyone_meets();
        assert_eq!(
            [s.counter(ANN, "milk"), s.counter(BEN, "milk"), s.counter(CLEO, "milk")],
            [5; 3]
        );
    });
}

#[test]
fn a_concurrent_increment_survives_a_reset_alone() {
    story(|s| {
        s.commit(ANN, 1, &[increment("milk", 2)]).everyone_meets();
        s.commit(BEN, 2, &[remove("milk")]).commit(CLEO, 2, &[increment("milk", 5)]);
        s.everyone_meets();
        assert_eq!(s.counter(ANN, "milk"), 5);
    });
}

#[test]
fn an_increment_survives_its_own_replicas_concurrent_reset_of_what_it_had_sent() {
    story(|s| {
        s.commit(ANN, 1, &[increment("milk", 2)]).everyone_meets();
        s.commit(BEN, 2, &[remove("milk")]).commit(ANN, 2, &[increment("milk", 5)]);
        s.everyone_meets();
        assert_eq!(s.counter(CLEO, "milk"), 5);
    });
}

#[test]
fn an_increment_folds_those_that_no_peer_knows_and_no_other() {
    story(|s| {
        s.commit(ANN, 1, &[increment("milk", 1)]).everyone_meets();
        for _ in 0..40 {
            s.commit(ANN, 2, &[increment("milk", 1)]);
        }
        let key = RowKey { path: at("milk"), kind: Kind::Counter };
        let Ok(row) = s.cluster.replica(ANN).state().rows.row(&key);
        let dots: Vec<_> = row.unwrap().iter().map(|(dot, p)| (dot.sequence, p.clone())).collect();
        assert_eq!(dots, [(1, Payload::Counter(1)), (41, Payload::Counter(40))]);
    });
}

#[test]
fn folding_past_sixteen_brings_back_what_a_concurrent_reset_had_seen() {
    story(|s| {
        for step in seventeen_sent_increments(&at("milk"), 1) {
            s.run(&step);
        }
        s.commit(BEN, 2, &[remove("milk")]).commit(ANN, 2, &[increment("milk", 5)]);
        s.everyone_meets();
        assert_eq!(s.counter(CLEO, "milk"), 22, "the documented imprecision: 5 would be exact");
    });
}

#[test]
fn sixteen_sent_increments_are_not_yet_folded() {
    story(|s| {
        for step in seventeen_sent_increments(&at("milk"), 1).into_iter().skip(2) {
            s.run(&step);
        }
        s.commit(BEN, 2, &[remove("milk")]).commit(ANN, 2, &[increment("milk", 5)]);
        s.everyone_meets();
        assert_eq!(s.counter(CLEO, "milk"), 5);
    });
}

#[test]
fn a_reset_that_saw_half_a_batch_leaves_what_the_other_half_had_folded() {
    story(|s| {
        s.commit(ANN, 1, &[increment("milk", 2)]).commit(ANN, 1, &[increment("milk", 3)]);
        s.run(&Step::Pull { to: BEN, from: ANN, limit: Some(1) });
        assert_eq!(s.counter(BEN, "milk"), 2);
        s.commit(BEN, 2, &[remove("milk")]).everyone_meets();
        assert_eq!(s.counter(CLEO, "milk"), 5, "the documented imprecision: 3 would be exact");
    });
}

#[test]
fn a_counter_saturates_in_reads_and_refuses_to_overflow_in_writes() {
    story(|s| {
        s.commit(ANN, 1, &[increment("milk", i64::MAX)]);
        s.commit(BEN, 1, &[increment("milk", i64::MAX)]).everyone_meets();
        assert_eq!(s.counter(CLEO, "milk"), i64::MAX);
        s.commit(CLEO, 1, &[increment("milk", i64::MIN)]);
        assert_eq!(s.counter(CLEO, "milk"), i64::MAX - 1);

        let state = s.cluster.replica(CLEO).state();
        let context = TransactionContext {
            replica: s.cluster.replica(CLEO).id(),
            ..TransactionContext::default()
        };
        let mut transaction = Transaction::new(&state.rows, &state.version, context);
        assert_eq!(transaction.increment(at("milk"), -1), Err(PrepareError::CounterOverflow));
        assert_eq!(transaction.finish(), None);
    });
}

#[test]
fn adding_an_element_wins_over_a_concurrent_removal() {
    story(|s| {
        s.commit(ANN, 1, &[add("coupons/autumn")]).everyone_meets();
        s.commit(BEN, 9, &[remove("coupons/autumn")]).commit(CLEO, 1, &[add("coupons/autumn")]);
        assert!(!s.has(BEN, "coupons/autumn", Kind::Element));
        s.everyone_meets();
        assert!(s.has(ANN, "coupons/autumn", Kind::Element));
        s.commit(ANN, 1, &[remove("coupons/autumn")]).everyone_meets();
        assert_eq!([s.rows(ANN), s.rows(BEN), s.rows(CLEO)], [0; 3]);
    });
}

#[test]
fn enabling_a_flag_wins_over_a_concurrent_disabling() {
    story(|s| {
        s.commit(ANN, 1, &[enable("gift")]).everyone_meets();
        s.commit(BEN, 9, &[remove("gift")]).commit(CLEO, 1, &[enable("gift")]);
        s.everyone_meets();
        assert!(s.has(BEN, "gift", Kind::Flag));
        s.commit(BEN, 1, &[remove("gift")]).everyone_meets();
        assert!(!s.has(CLEO, "gift", Kind::Flag));
    });
}

#[test]
fn concurrent_puts_are_siblings_and_the_latest_then_the_greatest_replica_wins() {
    story(|s| {
        s.commit(ANN, 5, &[put("title", 1)]).commit(BEN, 3, &[put("title", 2)]);
        s.commit(CLEO, 3, &[put("title", 3)]).everyone_meets();
        assert_eq!(s.register(ANN, "title"), [1, 3, 2]);
        s.commit(BEN, 0, &[put("title", 4)]).everyone_meets();
        assert_eq!(s.register(CLEO, "title"), [4], "one put supersedes all siblings it has seen");
    });
}

#[test]
fn a_put_supersedes_only_what_it_observed() {
    story(|s| {
        s.commit(ANN, 1, &[put("title", 1)]).meet(ANN, BEN);
        s.commit(CLEO, 9, &[put("title", 3)]);
        s.commit(BEN, 2, &[put("title", 2)]).everyone_meets();
        assert_eq!(s.register(ANN, "title"), [3, 2]);
    });
}

#[test]
fn removing_a_register_leaves_a_concurrent_put() {
    story(|s| {
        s.commit(ANN, 1, &[put("title", 1)]).everyone_meets();
        s.commit(BEN, 9, &[remove("title")]).commit(CLEO, 1, &[put("title", 2)]);
        s.everyone_meets();
        assert_eq!(s.register(ANN, "title"), [2]);
    });
}

#[test]
fn a_wrong_clock_cannot_lock_a_key() {
    story(|s| {
        s.commit(ANN, u64::MAX, &[put("title", 1)]).everyone_meets();
        s.commit(BEN, 0, &[put("title", 2)]).everyone_meets();
        assert_eq!(s.register(ANN, "title"), [2]);
    });
}

#[test]
fn removing_a_tree_leaves_what_was_concurrently_written_inside() {
    story(|s| {
        s.commit(ANN, 1, &[put("cart/milk/title", 1), increment("cart/milk/quantity", 2)]);
        s.commit(ANN, 1, &[add("cart"), enable("cartography")]).everyone_meets();
        s.commit(BEN, 2, &[remove_tree("cart")]);
        s.commit(CLEO, 2, &[increment("cart/milk/quantity", 5), add("cart/new")]);
        assert_eq!(s.rows(BEN), 1, "a tree is a path and what is under it, not a prefix of a name");
        s.everyone_meets();
        assert_eq!(s.counter(ANN, "cart/milk/quantity"), 5);
        assert!(s.has(ANN, "cart/new", Kind::Element) && s.has(ANN, "cartography", Kind::Flag));
        assert_eq!(s.rows(ANN), 3);
    });
}

#[test]
fn a_transaction_that_removes_a_tree_and_writes_inside_keeps_its_writes() {
    story(|s| {
        s.commit(ANN, 1, &[put("cart/title", 1), increment("cart/quantity", 2)]).everyone_meets();
        s.commit(
            BEN,
            2,
            &[increment("cart/quantity", 7), remove_tree("cart"), put("cart/title", 2)],
        );
        s.everyone_meets();
        assert_eq!(s.register(ANN, "cart/title"), [2]);
        assert_eq!(s.rows(ANN), 1);
    });
}

#[test]
fn different_kinds_at_one_path_never_conflict() {
    story(|s| {
        s.commit(ANN, 1, &[put("x", 1), increment("x", 2), enable("x"), add("x")]).everyone_meets();
        let key = RowKey { path: at("x"), kind: Kind::Counter };
        s.commit(BEN, 1, &[Intent::RemoveRow { key }]).commit(CLEO, 1, &[put("x", 3)]);
        s.everyone_meets();
        assert_eq!((s.counter(ANN, "x"), s.register(ANN, "x"), s.rows(ANN)), (0, vec![3], 3));
    });
}

#[test]
fn removed_stays_removed_after_a_years_absence() {
    for by in [By::Delivery, By::Join] {
        let mut s = Story { cluster: Cluster::new(3), by };
        let everything =
            [put("cart/title", 1), increment("cart/milk", 2), add("cart/tea"), enable("gift")];
        s.commit(ANN, 1, &everything).everyone_meets();
        // Cleo leaves, with all of it. The others remove it, write on, and forget how it came about.
        s.commit(BEN, 2, &[remove_tree("cart"), remove("gift")]).meet(ANN, BEN);
        for day in 0..365 {
            s.commit(BEN, 3, &[put("today", day)]);
        }
        s.meet(ANN, BEN);
        for replica in [ANN, BEN] {
            s.run(&Step::Truncate { replica, keep: 0 });
            assert_eq!(s.cluster.replica(replica).logged().len(), 0);
        }
        s.commit(CLEO, 3, &[increment("cart/milk", 7)]);
        // Cleo comes back, and gives before she takes.
        s.learns(ANN, CLEO).learns(CLEO, ANN).learns(BEN, CLEO);
        for replica in [ANN, BEN, CLEO] {
            assert_eq!(s.counter(replica, "cart/milk"), 7, "only what she wrote meanwhile");
            assert_eq!(s.register(replica, "today"), [364]);
            assert_eq!(s.rows(replica), 2, "and nothing that was removed");
        }
    }
}

#[test]
fn removing_everything_leaves_no_row_and_no_operation_to_repeat() {
    story(|s| {
        s.commit(ANN, 1, &[put("a", 1), increment("b/c", 2), enable("d"), add("e/f")]);
        s.commit(ANN, 1, &[Intent::RemoveTree { path: Path::root() }]).everyone_meets();
        assert_eq!([s.rows(ANN), s.rows(BEN), s.rows(CLEO)], [0; 3]);

        let state = s.cluster.replica(ANN).state();
        let context = TransactionContext {
            replica: s.cluster.replica(ANN).id(),
            ..TransactionContext::default()
        };
        let mut transaction = Transaction::new(&state.rows, &state.version, context);
        transaction.remove_tree(&Path::root()).unwrap();
        transaction.remove(&at("a")).unwrap();
        assert_eq!(transaction.finish(), None, "nothing is there to remove");
    });
}

#[test]
fn trees_and_joins_larger_than_a_page_are_whole() {
    story(|s| {
        let count = 2 * PAGE_ROWS_MAX as u64 + 7;
        let rows = |from: u64, step: usize| -> Vec<Intent> {
            let numbers = (from..count).step_by(step);
            numbers.map(|n| Intent::AddElement { path: at("big").child(n).unwrap() }).collect()
        };
        s.commit(ANN, 1, &rows(0, 2)).commit(BEN, 1, &rows(1, 2)).commit(BEN, 1, &[add("other")]);
        s.meet(ANN, BEN);
        assert_eq!([s.rows(ANN), s.rows(BEN)], [count as usize + 1; 2]);
        s.commit(CLEO, 1, &rows(0, 700)).commit(BEN, 2, &[remove_tree("big")]).everyone_meets();
        assert_eq!([s.rows(ANN), s.rows(CLEO)], [rows(0, 700).len() + 1; 2]);
    });
}

#[test]
fn a_commit_is_refused_until_its_causal_past_is_there() {
    let mut s = Story { cluster: Cluster::new(3), by: By::Delivery };
    s.commit(ANN, 1, &[put("x", 1)]).meet(ANN, BEN);
    s.commit(BEN, 1, &[put("x", 2)]).commit(BEN, 1, &[put("x", 3)]);
    let [a1, b1, b2] = [(ANN, 1), (BEN, 1), (BEN, 2)]
        .map(|(replica, sequence)| Dot { replica: s.cluster.replica(replica).id(), sequence });
    let body = |dot| &s.cluster.commits().get(dot).unwrap().body;
    let nothing = VersionVector::default();
    assert_eq!(body(b1).ready(b1, &nothing), Err(NotReady::Missing(a1)));
    assert_eq!(body(b2).ready(b2, &nothing), Err(NotReady::Gap { applied: 0 }));
    let all = &s.cluster.replica(BEN).state().version;
    assert_eq!(body(b1).ready(b1, all), Err(NotReady::Applied));
    assert_eq!(body(a1).ready(a1, &nothing), Ok(()));
    // A writer that lies about what it depends on is held to what it observed.
    let lying = CommitBody { dependencies: vec![], ..body(b1).clone() };
    assert_eq!(lying.ready(b1, &nothing), Err(NotReady::Missing(a1)));
}

#[test]
fn a_state_that_lies_is_refused_by_the_join() {
    let mut s = Story { cluster: Cluster::new(3), by: By::Join };
    s.commit(ANN, 1, &[put("x", 1), put("y", 1)]).meet(ANN, BEN);
    let state = s.cluster.replica(ANN).state().clone();
    let dot = Dot { replica: s.cluster.replica(ANN).id(), sequence: 1 };
    let theirs = |rows: &[(&str, u64, i64)], version: &VersionVector| {
        let rows = rows.iter().map(|(path, sequence, value)| {
            let payload = Payload::Register { value: Value::I64(*value), wall_time_ms: 1 };
            let key = RowKey { path: at(path), kind: Kind::Register };
            Ok((key, Row::from_iter([(Dot { sequence: *sequence, ..dot }, payload)])))
        });
        join(&mut state.rows.clone(), &state.version, rows, version)
    };
    assert_eq!(theirs(&[("x", 1, 1), ("y", 1, 1)], &state.version), Ok(state.version.clone()));
    let key = Box::new(RowKey { path: at("x"), kind: Kind::Register });
    assert_eq!(theirs(&[("x", 1, 2)], &state.version), Err(JoinError::TwoPayloads { dot, key }));
    assert_eq!(
        theirs(&[("x", 2, 1)], &state.version),
        Err(JoinError::Uncovered(Dot { sequence: 2, ..dot }))
    );
    for rows in [[("y", 1, 1), ("x", 1, 1)], [("x", 1, 1), ("x", 1, 1)]] {
        assert_eq!(theirs(&rows, &state.version), Err(JoinError::OutOfOrder));
    }
    let head = Head { sequence: 1, hash: CommitHash::ZERO };
    assert_eq!(
        theirs(&[], &VersionVector::from_iter([(dot.replica, head)])),
        Err(JoinError::Fork(Fork { replica: dot.replica, sequence: 1 }))
    );
}
