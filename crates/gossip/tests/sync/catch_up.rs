//! Two replicas that find each other.

use rejoin_crdt::{Path, SpaceId, Value};
use rejoin_gossip::wire::{SESSION_WINDOW_BYTES_MAX, WINDOW_BYTES_MAX};
use rejoin_gossip::{Event, Host};

use crate::host::{MemoryHost, path};
use crate::network::{CART, Network};

const HOUR_MS: u64 = 3_600_000;

#[test]
fn a_newcomer_gets_everything_in_one_round() {
    for seed in 0..20 {
        let mut network = Network::new(2, seed);
        for number in 0..500 {
            network.hosts[0].increment(CART, &format!("item {number}"), 1);
        }
        network.link(0, 1);
        network.run_until_quiescent();
        network.assert_converged(CART);
        network.assert_in_sync(CART);
        assert_eq!(network.commits_sent.len(), 500, "exactly the missing commits");
        assert_eq!(network.hosts[0].confirmed(CART), 500);
        assert!(network.events.iter().any(|(_, event)| matches!(event, Event::InSync { .. })));
    }
}

#[test]
fn concurrent_writes_on_both_sides_cross_and_meet() {
    for seed in 0..50 {
        let mut network = Network::new(2, seed);
        for number in 0..20 {
            network.hosts[number % 2].increment(CART, "milk", 1);
            let winner = Value::I64(number as i64);
            network.hosts[number % 2].write(CART, |tx| tx.put(path("title"), winner).unwrap());
        }
        network.link(0, 1);
        network.run_until_quiescent();
        network.assert_converged(CART);
        network.assert_in_sync(CART);
        assert_eq!(network.hosts[0].counter(CART, "milk"), 20);
        assert_eq!(network.commits_sent.len(), 40);
    }
}

#[test]
fn a_new_commit_is_pushed_at_once_and_costs_two_messages() {
    let mut network = Network::new(2, 3);
    network.link(0, 1);
    network.run_until_quiescent();
    let (before, at_ms) = (network.frame_count(), network.now_ms);
    network.hosts[1].increment(CART, "milk", 1);
    network.run_until(at_ms);
    assert_eq!(network.hosts[0].counter(CART, "milk"), 1, "no timer was needed");
    network.assert_in_sync(CART);
    assert_eq!(network.frame_count() - before, 2, "the commit and its acknowledgement");
    assert_eq!(network.hosts[1].confirmed(CART), 1);
}

#[test]
fn replicas_in_sync_are_silent() {
    let mut network = Network::new(3, 4);
    network.link_all();
    network.hosts[0].increment(CART, "milk", 1);
    network.run_until(network.now_ms + 60_000);
    network.assert_in_sync(CART);
    let (frames, events) = (network.frame_count(), network.events.len());
    network.run_until(network.now_ms + HOUR_MS);
    assert_eq!(network.frame_count(), frames, "an hour in sync costs nothing");
    assert_eq!(network.events.len(), events);
}

#[test]
fn a_log_that_is_gone_is_replaced_by_the_state() {
    for seed in 0..20 {
        let mut network = Network::new(2, seed);
        for number in 0..3_000 {
            network.hosts[0].increment(CART, &format!("item {}", number % 700), 1);
        }
        network.hosts[0].write(CART, |tx| tx.remove_tree(&path("item 7")).unwrap());
        network.hosts[1].increment(CART, "mine", 5);
        network.hosts[0].truncate(CART);
        network.link(0, 1);
        network.run_until_quiescent();
        network.assert_converged(CART);
        network.assert_in_sync(CART);
        assert_eq!(network.count("state end"), 1, "one state, one way");
        assert_eq!(network.commits_sent.len(), 1, "the other way, the log reaches back");
        assert_eq!(network.hosts[1].stages(), 0);
        // What comes later comes as commits again.
        network.hosts[0].increment(CART, "later", 1);
        network.run_until_quiescent();
        network.assert_converged(CART);
        assert_eq!(network.count("state end"), 1);
    }
}

#[test]
fn both_logs_may_be_gone() {
    for seed in 0..20 {
        let mut network = Network::new(2, seed);
        for number in 0..100 {
            network.hosts[0].increment(CART, &format!("left {number}"), 1);
            network.hosts[1].increment(CART, &format!("right {number}"), 1);
        }
        network.hosts[0].truncate(CART);
        network.hosts[1].truncate(CART);
        network.link(0, 1);
        network.run_until_quiescent();
        network.assert_converged(CART);
        network.assert_in_sync(CART);
        assert_eq!(network.hosts[1].counter(CART, "left 99"), 1);
    }
}

#[test]
fn writes_made_during_a_state_transfer_follow_it() {
    for seed in 0..8 {
        let mut network = Network::new(2, seed);
        network.chunk_bytes_max = 20_000;
        for number in 0..2_000 {
            network.hosts[0].write(CART, |tx| {
                let value = Value::Bytes(vec![number as u8; 300]);
                tx.put(Path::of(["item", &number.to_string()]).unwrap(), value).unwrap();
            });
        }
        network.hosts[0].truncate(CART);
        network.link(0, 1);
        while network.count("state rows") == 0 {
            assert!(network.run_steps(1));
        }
        for _ in 0..50 {
            network.hosts[0].increment(CART, "late", 1);
            network.hosts[1].increment(CART, "early", 1);
            network.run_steps(2);
        }
        network.run_until_quiescent();
        network.assert_converged(CART);
        network.assert_in_sync(CART);
        assert_eq!(network.hosts[1].counter(CART, "late"), 50);
        assert_eq!(network.hosts[0].counter(CART, "early"), 50);
    }
}

#[test]
fn a_row_larger_than_a_page_arrives_in_parts() {
    let mut network = Network::new(2, 1);
    for number in 0..100u8 {
        // Concurrent puts are siblings in one row.
        let other = MemoryHost::new(10 + number, &[CART]);
        other.write(CART, |tx| tx.put(path("big"), Value::Bytes(vec![number; 5_000])).unwrap());
        let mut pair = Network::of(vec![network.hosts[0].clone(), other], u64::from(number));
        pair.link(0, 1);
        pair.run_until_quiescent();
    }
    network.hosts[0].truncate(CART);
    network.link(0, 1);
    network.run_until_quiescent();
    network.assert_converged(CART);
    assert!(network.count("state rows") > 1);
}

#[test]
fn only_spaces_that_both_offer_are_named_on_lanes_and_later_ones_join_in() {
    let [shared, left, right, late] = [1, 2, 3, 4].map(|byte| SpaceId::from_bytes([byte; 32]));
    let hosts = vec![MemoryHost::new(0, &[shared, left]), MemoryHost::new(1, &[shared, right])];
    let mut network = Network::of(hosts, 5);
    network.hosts[0].increment(shared, "milk", 1);
    network.hosts[0].increment(left, "secret", 1);
    network.link(0, 1);
    network.run_until_quiescent();
    network.assert_converged(shared);
    assert!(network.session(0, 1).space_status(left).is_none());
    assert!(network.session(1, 0).space_status(left).is_none());

    for host in 0..2 {
        network.hosts[host].offer(late);
    }
    network.hosts[1].increment(late, "milk", 7);
    network.offer_changed(0);
    network.run_until_quiescent();
    assert_eq!(network.hosts[0].counter(late, "milk"), 0, "only one side offers it");
    network.offer_changed(1);
    network.run_until_quiescent();
    network.assert_converged(late);
}

#[test]
fn many_spaces_share_one_connection() {
    let spaces: Vec<SpaceId> = (0..100u8).map(|byte| SpaceId::from_bytes([byte; 32])).collect();
    let hosts = vec![MemoryHost::new(0, &spaces), MemoryHost::new(1, &spaces)];
    let mut network = Network::of(hosts, 6);
    for (number, space) in spaces.iter().enumerate() {
        network.hosts[number % 2].increment(*space, "milk", number as i64);
    }
    network.link(0, 1);
    network.run_until_quiescent();
    for space in &spaces {
        network.assert_converged(*space);
        network.assert_in_sync(*space);
    }
    assert_eq!(network.commits_sent.len(), 100);
}

#[test]
fn a_large_history_goes_through_the_window() {
    let mut network = Network::new(2, 7);
    for number in 0..60 {
        let value = Value::Bytes(vec![number; 200_000]);
        network.hosts[0].write(CART, |tx| tx.put(path(&number.to_string()), value).unwrap());
    }
    network.link(0, 1);
    network.run_until_quiescent();
    network.assert_converged(CART);
    assert!(network.waiting_bytes_max < WINDOW_BYTES_MAX + 600_000, "12 MB never wait at once");
}

#[test]
fn the_clock_of_a_peer_is_reported_and_believed_in_nothing() {
    let mut network = Network::new(2, 8);
    network.link(0, 1);
    network.run_until_quiescent();
    let facts = network.session(0, 1).peer().unwrap();
    assert_eq!(facts.replica, network.hosts[1].replica());
    assert_eq!(facts.clock_skew_ms, 1);
}

#[test]
fn a_peer_that_takes_nothing_holds_one_window_of_all_spaces_together() {
    let spaces: Vec<SpaceId> = (0..40u8).map(|byte| SpaceId::from_bytes([byte; 32])).collect();
    let hosts = vec![MemoryHost::new(0, &spaces), MemoryHost::new(1, &spaces)];
    let mut network = Network::of(hosts, 9);
    network.link(0, 1);
    network.run_until_quiescent();
    network.block(0, 1, true);
    for space in &spaces {
        for number in 0..10 {
            let value = Value::Bytes(vec![number; 100_000]);
            network.hosts[0].write(*space, |tx| tx.put(path("title"), value).unwrap());
        }
    }
    network.run_until(network.now_ms + 1_000);
    let waiting = network.waiting_bytes_max;
    assert!(waiting > SESSION_WINDOW_BYTES_MAX / 2, "the window is used: {waiting}");
    assert!(waiting < SESSION_WINDOW_BYTES_MAX + 100_000, "40 MB were written: {waiting}");
    network.block(0, 1, false);
    network.run_until_quiescent();
    for space in &spaces {
        network.assert_converged(*space);
        network.assert_in_sync(*space);
    }
}
