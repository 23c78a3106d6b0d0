//! Links that break at any moment.

use std::collections::BTreeSet;

use rejoin_crdt::Value;

use crate::host::path;
use crate::network::{CART, Network};

/// Two replicas with something for each other; `gone` of the logs are truncated.
fn before(seed: u64, gone: usize) -> Network {
    let mut network = Network::new(2, seed);
    network.chunk_bytes_max = 2_000;
    for number in 0..12 {
        network.hosts[0].increment(CART, &format!("left {number}"), 1);
        network.hosts[1].increment(CART, "both", 1);
        let value = Value::Bytes(vec![number as u8; 700]);
        network.hosts[0].write(CART, |tx| tx.put(path("title"), value).unwrap());
    }
    for host in network.hosts.iter().take(gone) {
        host.truncate(CART);
    }
    network
}

fn cut_everywhere(gone: usize) {
    let mut cut = 0;
    loop {
        let mut network = before(cut as u64, gone);
        network.link(0, 1);
        let more = network.run_steps(cut);
        network.cut(0, 1);
        let durable = [network.hosts[0].version(CART), network.hosts[1].version(CART)];
        network.commits_sent.clear();

        network.link(0, 1);
        network.run_until_quiescent();
        network.assert_converged(CART);
        network.assert_in_sync(CART);
        let mut again = BTreeSet::new();
        for ((_, to), _, dot) in &network.commits_sent {
            assert!(!durable[*to].covers(*dot), "cut {cut}: {dot} was on the receiver's disk");
            assert!(again.insert((*to, *dot)), "cut {cut}: {dot} was sent twice");
        }
        assert_eq!(network.hosts[0].stages() + network.hosts[1].stages(), 0, "stages are released");
        if !more {
            break;
        }
        cut += 1;
    }
    assert!(cut > 30, "only {cut} places to cut");
}

#[test]
fn a_cut_at_any_moment_of_a_catch_up_resumes_from_what_is_durable() {
    cut_everywhere(0);
}

#[test]
fn a_cut_at_any_moment_of_a_state_transfer_leaves_no_half_state() {
    cut_everywhere(1);
}

#[test]
fn a_cut_at_any_moment_of_two_crossing_state_transfers_heals() {
    cut_everywhere(2);
}

#[test]
fn links_that_keep_breaking_while_both_sides_write_lose_nothing() {
    for seed in 0..40 {
        let mut network = Network::new(2, seed);
        network.chunk_bytes_max = 300;
        for round in 0..30u64 {
            network.link(0, 1);
            for _ in 0..(seed + round) % 7 {
                network.hosts[0].increment(CART, "milk", 1);
                network.hosts[1].increment(CART, "milk", 1);
                network.run_steps(((seed * 31 + round * 7) % 23) as usize);
            }
            network.cut(0, 1);
        }
        network.link(0, 1);
        network.run_until_quiescent();
        network.assert_converged(CART);
        network.assert_in_sync(CART);
        let written: u64 = network.hosts[0].version(CART).commits();
        assert_eq!(network.hosts[0].counter(CART, "milk"), written as i64);
    }
}
