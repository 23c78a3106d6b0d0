//! More than two replicas.

use rejoin_gossip::Event;
use rejoin_gossip::wire::WINDOW_BATCHES_MAX;

use crate::network::{CART, Network};

#[test]
fn one_commit_in_a_mesh_is_sent_once_to_each_replica() {
    for seed in 0..20 {
        let mut network = Network::new(5, seed);
        network.link_all();
        network.run_until_quiescent();
        network.frames.clear();
        network.hosts[2].increment(CART, "milk", 1);
        network.run_until_quiescent();
        network.assert_converged(CART);
        network.assert_in_sync(CART);
        assert_eq!(network.count("commits"), 4, "nobody relays what its writer delivers");
        // Four acknowledgements, and each of the four tells the three others.
        assert!(network.count("versions") <= 4 + 4 * 3, "{:?}", network.frames);
    }
}

#[test]
fn a_mesh_in_which_all_write_converges_with_few_duplicates() {
    for seed in 0..3 {
        for latency_ms in [0, 2, 40] {
            let mut network = Network::new(5, seed);
            network.latency_ms = latency_ms;
            network.link_all();
            network.run_until(network.now_ms + 10_000);
            network.commits_sent.clear();
            for round in 0..60 {
                for host in 0..5 {
                    network.hosts[host].increment(CART, &format!("item {}", round % 9), 1);
                    network.run_steps(8);
                }
                network.run_until(network.now_ms + 2);
            }
            let began_ms = network.now_ms;
            while network.hosts.iter().any(|host| host.version(CART).commits() < 300) {
                network.run_until(network.now_ms + 10);
            }
            let lag_ms = network.now_ms - began_ms;
            network.run_until_quiescent();
            network.assert_converged(CART);
            network.assert_in_sync(CART);
            let needed = 300 * 4;
            let sent = network.commits_sent.len();
            assert!(lag_ms <= 10 + 3 * latency_ms, "the last commit took {lag_ms} ms");
            assert!(sent <= needed + needed / 10, "{sent} commits sent where {needed} are needed");
        }
    }
}

#[test]
fn what_a_writer_cannot_deliver_is_relayed() {
    for seed in 0..10 {
        // A line: 0 - 1 - 2 - 3.
        let mut network = Network::new(4, seed);
        for host in 0..3 {
            network.link(host, host + 1);
        }
        network.run_until_quiescent();
        network.hosts[0].increment(CART, "milk", 1);
        network.hosts[3].increment(CART, "milk", 1);
        // A hop takes no longer than the relay delay towards a peer that has not acknowledged
        // anything.
        let at_ms = network.now_ms;
        network.run_until(at_ms + 3 * 100);
        network.assert_converged(CART);
        network.assert_in_sync(CART);
        assert_eq!(network.commits_sent.len(), 2 * 3);
    }
}

#[test]
fn a_mesh_that_joins_up_after_long_separation_converges() {
    for seed in 0..10 {
        let mut network = Network::new(5, seed);
        for host in 0..5 {
            for number in 0..50 {
                network.hosts[host].increment(CART, &format!("item {number}"), 1);
            }
        }
        network.hosts[1].truncate(CART);
        network.hosts[3].truncate(CART);
        network.link_all();
        network.run_until_quiescent();
        network.assert_converged(CART);
        network.assert_in_sync(CART);
        assert_eq!(network.hosts[4].counter(CART, "item 49"), 5);
        assert!(network.closes.is_empty());
    }
}

#[test]
fn a_slow_peer_slows_only_itself_and_makes_nothing_grow() {
    let mut network = Network::new(3, 9);
    network.link_all();
    network.run_until_quiescent();
    network.block(0, 2, true);
    for _ in 0..20 {
        for number in 0..50 {
            let value = rejoin_crdt::Value::Bytes(vec![number; 20_000]);
            let name = crate::host::path(&number.to_string());
            network.hosts[0].write(CART, |tx| tx.put(name, value).unwrap());
        }
        network.run_until(network.now_ms + 5);
        assert_eq!(network.hosts[1].digest(CART), network.hosts[0].digest(CART));
    }
    assert!(network.waiting_bytes_max < 2 << 20, "20 MB were written, and wait in the log");
    network.block(0, 2, false);
    network.run_until_quiescent();
    network.assert_converged(CART);
    network.assert_in_sync(CART);
}

#[test]
fn a_state_that_came_from_elsewhere_is_given_up_or_dropped() {
    for seed in 0..6 {
        let mut network = Network::new(3, seed);
        for number in 0..3_000 {
            let name = crate::host::path(&format!("item {number}"));
            let value = rejoin_crdt::Value::Bytes(vec![1; 500]);
            network.hosts[0].write(CART, |tx| tx.put(name, value).unwrap());
        }
        network.link(0, 1);
        network.run_until_quiescent();
        network.hosts[0].truncate(CART);
        network.hosts[1].truncate(CART);
        network.frames.clear();

        network.link(0, 2);
        let begun_at_the_receiver = seed % 3 > 0;
        while network.count("state begin") == 0 || network.count("state rows") < seed % 3 {
            assert!(network.run_steps(1));
        }
        // The first sender's window closes on it while the second sends it all.
        network.block(0, 2, true);
        network.link(1, 2);
        network.run_until(network.now_ms + 1_000);
        assert_eq!(network.hosts[2].digest(CART), network.hosts[0].digest(CART));
        assert_eq!((network.count("state end"), network.count("state given up")), (1, 1));
        network.block(0, 2, false);
        network.hosts[0].increment(CART, "later", 1);
        network.run_until_quiescent();
        network.assert_converged(CART);
        network.assert_in_sync(CART);
        assert_eq!(network.hosts[2].stages(), 0);
        assert!(network.is_linked(0, 2), "{:?}", network.closes);
        let staged = Event::StateTransfer { space: CART, sending: false };
        let staged = network.events.iter().any(|(id, event)| *id == (2, 0) && *event == staged);
        assert!(begun_at_the_receiver || !staged, "a state that is here already is not staged");
    }
}

#[test]
fn many_small_commits_for_a_slow_peer_wait_in_the_log() {
    let mut network = Network::new(2, 10);
    network.link(0, 1);
    network.run_until_quiescent();
    network.block(0, 1, true);
    for _ in 0..3 * WINDOW_BATCHES_MAX {
        network.hosts[0].increment(CART, "milk", 1);
        network.run_until(network.now_ms);
    }
    assert_eq!(network.count("commits"), WINDOW_BATCHES_MAX as u64);
    // The receiver's storage is slow too: all that was sent waits there.
    network.stall(1, 0, true);
    network.block(0, 1, false);
    network.run_until(network.now_ms + 1_000);
    network.stall(1, 0, false);
    network.run_until_quiescent();
    network.assert_converged(CART);
    network.assert_in_sync(CART);
    assert!(
        network.count("commits") < WINDOW_BATCHES_MAX as u64 + 10,
        "the rest goes in few batches"
    );
}
