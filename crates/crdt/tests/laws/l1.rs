//! L1: for commits closed under causality, every causal order of delivery, and every mix of deliveries
//! and state joins, gives the same canonical bytes.

use proptest::prelude::*;
use rejoin_crdt::Kind;
use rejoin_crdt::laws::{check_every_order, check_orders};

use crate::histories::{ALL, COUNTERS, ELEMENTS, FLAGS, REGISTERS, Shape, for_all, run};

/// Graphs of commits with more causally closed subsets than this are sampled.
const STATES_MAX: usize = 3_000;
const ORDERS_SAMPLED: usize = 12;

fn every_order_gives_one_state(kinds: &'static [Kind]) {
    for_all(4, &(Shape::small(kinds).history(), any::<u64>()), |((replicas, steps), seed)| {
        let cluster = run(replicas, &steps)?;
        if let Some(states) = check_every_order(cluster.commits(), STATES_MAX)? {
            // The oracle must hold everywhere, not only where the history came by.
            states.iter().try_for_each(|state| cluster.check_reads(state))
        } else {
            check_orders(cluster.commits(), ORDERS_SAMPLED, seed)
        }
    });
}

fn sampled_orders_and_any_mix_of_deliveries_and_joins_give_one_state(kinds: &'static [Kind]) {
    for_all(4, &(Shape::of(kinds).history(), any::<u64>()), |((replicas, steps), seed)| {
        let mut cluster = run(replicas, &steps)?;
        cluster.converge()?;
        check_orders(cluster.commits(), ORDERS_SAMPLED, seed)
    });
}

#[test]
fn every_order_of_register_commits_gives_one_state() {
    every_order_gives_one_state(REGISTERS);
}

#[test]
fn every_order_of_counter_commits_gives_one_state() {
    every_order_gives_one_state(COUNTERS);
}

#[test]
fn every_order_of_flag_commits_gives_one_state() {
    every_order_gives_one_state(FLAGS);
}

#[test]
fn every_order_of_element_commits_gives_one_state() {
    every_order_gives_one_state(ELEMENTS);
}

#[test]
fn every_order_of_mixed_commits_gives_one_state() {
    every_order_gives_one_state(ALL);
}

#[test]
fn any_mix_of_deliveries_and_joins_of_registers_gives_one_state() {
    sampled_orders_and_any_mix_of_deliveries_and_joins_give_one_state(REGISTERS);
}

#[test]
fn any_mix_of_deliveries_and_joins_of_counters_gives_one_state() {
    sampled_orders_and_any_mix_of_deliveries_and_joins_give_one_state(COUNTERS);
}

#[test]
fn any_mix_of_deliveries_and_joins_of_flags_gives_one_state() {
    sampled_orders_and_any_mix_of_deliveries_and_joins_give_one_state(FLAGS);
}

#[test]
fn any_mix_of_deliveries_and_joins_of_elements_gives_one_state() {
    sampled_orders_and_any_mix_of_deliveries_and_joins_give_one_state(ELEMENTS);
}

#[test]
fn any_mix_of_deliveries_and_joins_of_all_kinds_gives_one_state() {
    sampled_orders_and_any_mix_of_deliveries_and_joins_give_one_state(ALL);
}
