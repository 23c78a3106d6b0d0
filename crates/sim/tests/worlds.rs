//! Worlds as their users see them: repeatable, full of trouble, and those that once failed.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use rejoin_sim::app::Worlds;
use rejoin_sim::history::Checker;
use rejoin_sim::outcome::Outcome;
use rejoin_sim::plan::{Class, Plan, PlanOptions, StoreShape, Topology, Use};
use rejoin_sim::runner::{Simulate, Summary, Sweep, sweep};

fn play(plan: &Plan) -> Outcome {
    Worlds::default().run(plan, false)
}

fn swept(threads: usize, last: u64) -> Summary {
    let threads = NonZeroUsize::new(threads).expect("at least one");
    sweep(
        &Worlds::default(),
        &Sweep { seeds: 1..=last, time: None, threads, until_failure: false },
        &|_| {},
    )
}

/// Fails with the story of the world.
fn must_hold(plan: &Plan) {
    let outcome = play(plan);
    if let Some(violation) = outcome.violation {
        panic!("{}\n{violation}", plan.describe());
    }
}

#[test]
fn a_seed_is_one_world_however_often_and_beside_whatever_it_runs() {
    let (alone, beside_others) = (swept(1, 12), swept(3, 12));
    assert_eq!(alone.trace_hash, beside_others.trace_hash);
    assert_eq!(alone.failures, []);
    let worlds = Worlds::default();
    let plan = worlds.plan(3);
    assert_eq!(worlds.run(&plan, true).trace_hash, worlds.run(&plan, false).trace_hash);
    assert_ne!(worlds.run(&worlds.plan(4), false).trace_hash, play(&plan).trace_hash);
}

#[test]
fn the_faults_that_a_plan_names_do_happen() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let named = [
        (Class::Partition, "net: partition"),
        (Class::OneWayCut, "net: one-way cut"),
        (Class::Loss, "net: lost"),
        (Class::Duplication, "net: duplicated"),
        (Class::Reordering, "net: reordered"),
        (Class::NetworkCorruption, "net: corrupted"),
        (Class::AddressChange, "net: address change"),
        (Class::PowerCut, "process: power cut"),
        (Class::Kill, "process: killed"),
        (Class::CleanRestart, "process: clean restart"),
        (Class::Pause, "process: pause"),
        (Class::ClockJump, "clock: jump"),
        (Class::FailedSync, "disk: failed sync"),
        (Class::FailedWrite, "disk: failed write"),
        (Class::Truncation, "history: log truncated"),
        (Class::Absence, "history: a year of absence"),
    ];
    let always = named.iter().map(|(class, _)| *class).collect();
    let worlds =
        Worlds { options: PlanOptions { replicas: Some(5), always, ..PlanOptions::default() } };
    for seed in 1..=10 {
        let outcome = worlds.run(&worlds.plan(seed), false);
        assert_eq!(outcome.violation, None, "seed {seed}");
        for (class, count) in outcome.faults {
            *seen.entry(class).or_default() += count;
        }
    }
    let missing: Vec<_> =
        named.iter().filter(|(_, name)| !seen.contains_key(name)).map(|(_, name)| name).collect();
    assert!(missing.is_empty(), "never seen in ten worlds: {missing:?}, among {seen:?}");
}

/// The engine does not heal these yet; the world can make them, and the checkers must see what they do.
#[test]
fn restored_backups_and_cloned_folders_are_seen_by_the_checkers() {
    for class in [Class::Rollback, Class::Clone] {
        let options = PlanOptions {
            replicas: Some(4),
            always: vec![class],
            work: Some(Use::HotKeys),
            ..PlanOptions::default()
        };
        let worlds = Worlds { options };
        let found = (1..=40).find_map(|seed| worlds.run(&worlds.plan(seed), false).violation);
        let checker = found.as_ref().map(|violation| violation.checker);
        assert!(
            matches!(
                checker,
                Some(Checker::DotLedger | Checker::Causality | Checker::Authenticity)
            ),
            "{class:?}: {found:?}"
        );
    }
}

/// A plan without faults, to be filled in.
fn plan(seed: u64, replicas: usize, faults: &[(Class, f64)]) -> Plan {
    Plan {
        seed,
        replicas,
        actions: 64,
        troubled_ms: 3_000,
        round_ms: 5_000,
        spaces: 1,
        work: Use::Carts,
        witnessed: 0.3,
        busiest: 0.0,
        topology: Topology::Everybody,
        latency_ms: 1,
        store: StoreShape {
            segment_bytes: 16_384,
            reserve_bytes: 8_192,
            buffer_bytes: 8_192,
            tree_cache_bytes: 1 << 20,
            snapshot_checkpoints_max: 3,
            eventual: 0.0,
        },
        faults: faults.iter().copied().collect(),
    }
}

/// Seed 819: a session read commits that its peer got from elsewhere in the meantime, took the log for
/// incomplete, and stopped the space for as long as the connection lasted.
#[test]
fn regression_what_a_peer_got_from_elsewhere_while_it_was_read_is_no_gap() {
    must_hold(&Plan {
        actions: 35,
        troubled_ms: 16_000,
        work: Use::HotKeys,
        latency_ms: 128,
        store: StoreShape {
            segment_bytes: 24_576,
            reserve_bytes: 4_096,
            buffer_bytes: 4_096,
            tree_cache_bytes: 1 << 20,
            snapshot_checkpoints_max: 4,
            eventual: 0.5,
        },
        ..plan(
            819,
            8,
            &[(Class::AddressChange, 0.84), (Class::Pause, 5.36), (Class::Truncation, 12.48)],
        )
    });
}

/// Seed 986: power was lost while redb created its file, which could then not even tell its length, and redb
/// panicked.
#[test]
fn regression_a_tree_whose_disk_dies_while_it_is_created_does_not_panic() {
    must_hold(&plan(986, 10, &[(Class::PowerCutInWrite, 13.0)]));
}

/// Seed 1509: one failed read of the tree, and a replica acknowledged writes that no peer could get from it.
#[test]
fn regression_a_replica_whose_tree_cannot_be_read_says_so() {
    must_hold(&Plan {
        actions: 131,
        troubled_ms: 22_000,
        spaces: 2,
        latency_ms: 8,
        store: StoreShape {
            segment_bytes: 8_192,
            reserve_bytes: 4_096,
            buffer_bytes: 32_768,
            tree_cache_bytes: 1 << 20,
            snapshot_checkpoints_max: 10,
            eventual: 0.0,
        },
        ..plan(
            1_509,
            14,
            &[
                (Class::Reordering, 0.243),
                (Class::SmallMtu, 0.46),
                (Class::Partition, 1.0),
                (Class::PowerCut, 7.98),
                (Class::PowerCutInWrite, 1.0),
                (Class::CleanRestart, 2.94),
                (Class::FailedSync, 0.0053),
                (Class::FailedRead, 0.0048),
                (Class::SlowDisk, 0.021),
                (Class::Truncation, 21.28),
            ],
        )
    });
}

/// Seed 1173: a misdirected write left a hole before a last record that ended in a zero, and the opening cut both
/// off as a torn tail.
#[test]
fn regression_a_hole_before_a_record_that_ends_in_zeros_is_damage() {
    must_hold(&Plan {
        actions: 121,
        troubled_ms: 21_000,
        spaces: 2,
        work: Use::OrderBook,
        topology: Topology::RandomPeers(2),
        latency_ms: 4,
        store: StoreShape {
            segment_bytes: 10_240,
            reserve_bytes: 0,
            buffer_bytes: 16_384,
            tree_cache_bytes: 1 << 20,
            snapshot_checkpoints_max: 10,
            eventual: 0.5,
        },
        ..plan(
            1_173,
            8,
            &[
                (Class::Loss, 0.19683),
                (Class::Duplication, 0.084),
                (Class::RateLimit, 0.39),
                (Class::Partition, 3.16),
                (Class::PowerCut, 3.6),
                (Class::PowerCutInWrite, 2.72),
                (Class::CleanRestart, 3.36),
                (Class::ClockSkew, 0.325),
                (Class::ClockJump, 1.0),
                (Class::MisdirectedWrite, 1.0),
            ],
        )
    });
}
