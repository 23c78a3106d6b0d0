//! L2: the join is commutative, associative and idempotent, and applying a commit equals joining its delta.

use proptest::prelude::*;
use proptest::sample::Index;
use rejoin_crdt::Kind;
use rejoin_crdt::laws::{State, check_delta, check_every_order, check_join};

use crate::histories::{ALL, COUNTERS, ELEMENTS, FLAGS, REGISTERS, Shape, for_all, run};

const STATES_MAX: usize = 3_000;

/// The reachable states of a history: all of them, or where they are too many those of its replicas.
fn reachable(cluster: &rejoin_crdt::laws::Cluster) -> Vec<State> {
    let all = check_every_order(cluster.commits(), STATES_MAX);
    let replicas = || cluster.replicas().iter().map(|replica| replica.state().clone()).collect();
    all.ok().flatten().unwrap_or_else(replicas)
}

fn the_join_is_a_lattice_join(kinds: &'static [Kind]) {
    let triples = prop::collection::vec(any::<[Index; 3]>(), 1..16);
    for_all(4, &(Shape::small(kinds).history(), triples), |((replicas, steps), triples)| {
        let cluster = run(replicas, &steps)?;
        let states = reachable(&cluster);
        triples.iter().try_for_each(|triple| {
            let [a, b, c] = triple.map(|index| index.get(&states));
            check_join(cluster.commits(), a, b, c)
        })
    });
}

fn applying_a_commit_is_joining_its_delta(kinds: &'static [Kind]) {
    let picks = prop::collection::vec(any::<Index>(), 1..32);
    for_all(4, &(Shape::small(kinds).history(), picks), |((replicas, steps), picks)| {
        let cluster = run(replicas, &steps)?;
        let states = reachable(&cluster);
        for state in picks.iter().map(|pick| pick.get(&states)) {
            for commit in cluster.commits().ready(&state.version) {
                check_delta(cluster.commits(), state, commit)?;
            }
        }
        Ok(())
    });
}

#[test]
fn the_join_of_registers_is_a_lattice_join() {
    the_join_is_a_lattice_join(REGISTERS);
}

#[test]
fn the_join_of_counters_is_a_lattice_join() {
    the_join_is_a_lattice_join(COUNTERS);
}

#[test]
fn the_join_of_flags_is_a_lattice_join() {
    the_join_is_a_lattice_join(FLAGS);
}

#[test]
fn the_join_of_elements_is_a_lattice_join() {
    the_join_is_a_lattice_join(ELEMENTS);
}

#[test]
fn the_join_of_all_kinds_is_a_lattice_join() {
    the_join_is_a_lattice_join(ALL);
}

#[test]
fn applying_a_register_commit_is_joining_its_delta() {
    applying_a_commit_is_joining_its_delta(REGISTERS);
}

#[test]
fn applying_a_counter_commit_is_joining_its_delta() {
    applying_a_commit_is_joining_its_delta(COUNTERS);
}

#[test]
fn applying_a_flag_commit_is_joining_its_delta() {
    applying_a_commit_is_joining_its_delta(FLAGS);
}

#[test]
fn applying_an_element_commit_is_joining_its_delta() {
    applying_a_commit_is_joining_its_delta(ELEMENTS);
}

#[test]
fn applying_a_mixed_commit_is_joining_its_delta() {
    applying_a_commit_is_joining_its_delta(ALL);
}
