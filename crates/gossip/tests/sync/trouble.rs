//! Peers that fail, lie or have been copied.

use rejoin_crdt::SpaceId;
use rejoin_gossip::wire::{ControlMessage, Hello, Lane, Preamble};
use rejoin_gossip::{CloseReason, Event, Host, StopReason, StoppedBy};

use crate::host::MemoryHost;
use crate::network::{CART, EndId, Network};

const OTHER: SpaceId = SpaceId::from_bytes([0x07; 32]);

fn stops(network: &Network) -> Vec<(EndId, StoppedBy, StopReason)> {
    let stopped = network.events.iter().filter_map(|(id, event)| match event {
        Event::SpaceStopped { by, reason, .. } => Some((*id, *by, reason.clone())),
        _ => None,
    });
    stopped.collect()
}

/// Hosts 0 and 1, and two copies of one store, which wrote on separately, as hosts 2 and 3.
fn with_a_clone(seed: u64) -> Network {
    let spaces = [CART, OTHER];
    let writer = MemoryHost::new(9, &spaces);
    writer.increment(CART, "milk", 1);
    let copy = writer.copy();
    let hosts = vec![MemoryHost::new(0, &spaces), MemoryHost::new(1, &spaces), writer, copy];
    Network::of(hosts, seed)
}

#[test]
fn a_fork_stops_the_space_on_both_sides_and_nothing_else() {
    for seed in 0..20 {
        let mut network = with_a_clone(seed);
        network.hosts[2].increment(CART, "milk", 1);
        network.hosts[3].increment(CART, "milk", 2);
        // Some of the two branches differ in length, some do not.
        for _ in 0..seed % 4 {
            network.hosts[3].increment(CART, "milk", 3);
        }
        network.link(0, 2);
        network.link(1, 3);
        network.run_until_quiescent();
        network.events.clear();
        network.hosts[0].increment(OTHER, "bread", 1);
        network.link(0, 1);
        network.run_until_quiescent();
        let stops = stops(&network);
        for id in [(0, 1), (1, 0)] {
            let found = stops.iter().find(|(end, ..)| *end == id);
            let Some((_, _, StopReason::Fork(fork))) = found else { panic!("{id:?}: {stops:?}") };
            assert_eq!(fork.replica, network.hosts[2].replica());
        }
        assert_eq!(network.hosts[1].counter(OTHER, "bread"), 1, "other spaces go on");
        assert!(network.is_linked(0, 1));
        assert_eq!(network.hosts[0].counter(CART, "milk"), 2, "no branch mixes with the other");
    }
}

#[test]
fn a_store_that_was_rolled_back_learns_it_from_its_peer() {
    for seed in 0..20 {
        let mut network = with_a_clone(seed);
        network.hosts[2].increment(CART, "milk", 1);
        network.link(0, 2);
        network.run_until_quiescent();
        network.cut(0, 2);
        network.events.clear();
        network.link(0, 3); // the copy is from before that commit
        network.run_until_quiescent();
        let found = stops(&network);
        let ahead = StopReason::OwnReplicaAhead { theirs: 2, ours: 1 };
        assert!(found.contains(&((3, 0), StoppedBy::Us, ahead.clone())), "{found:?}");
        assert!(found.contains(&((0, 3), StoppedBy::Peer, ahead)), "{found:?}");
    }
}

#[test]
fn two_copies_that_meet_refuse_each_other() {
    let mut network = with_a_clone(1);
    network.link(2, 3);
    network.run_until_quiescent();
    let replica = network.hosts[2].replica();
    assert!(network.closes.iter().all(|(_, reason)| *reason == CloseReason::SameReplica(replica)));
    assert!(!network.closes.is_empty());
}

#[test]
fn a_peer_of_another_version_is_refused_with_both_ranges() {
    let mut network = Network::new(2, 1);
    network.link(0, 1);
    network.cut(0, 1);
    let stranger = |min, max| Hello {
        protocol_min: min,
        protocol_max: max,
        replica: rejoin_crdt::ReplicaId::from_bytes([99; 16]),
        wall_time_ms: 0,
    };
    for (min, max, agreed) in [(2, 9, None), (0, 0, None), (1, 5, Some(1)), (5, 1, None)] {
        let mut session = network.lone_session(0);
        session.handle_preamble(Preamble { lane: Lane::Control, protocol: 0 }, 1_000);
        let hello = ControlMessage::Hello(stranger(min, max)).to_frame().unwrap();
        session.handle_frame(Lane::Control, &hello[4..], 1_000);
        let close = std::iter::from_fn(|| session.poll_output()).find_map(|output| match output {
            rejoin_gossip::Output::Close(reason) => Some(reason),
            _ => None,
        });
        assert_eq!(session.peer().map(|peer| peer.protocol), agreed);
        if agreed.is_none() {
            let expected = CloseReason::VersionMismatch { ours: (1, 1), theirs: (min, max) };
            assert_eq!(close, Some(expected));
        }
    }
}

#[test]
fn a_peer_that_stays_silent_is_closed() {
    let mut network = Network::new(2, 1);
    network.link(0, 1);
    network.block(1, 0, true);
    let began_ms = network.now_ms;
    network.run_until(began_ms + 9_999);
    assert!(network.closes.is_empty());
    network.run_until(began_ms + 10_000);
    let reason = CloseReason::HelloTimeout { timeout_ms: 10_000 };
    assert_eq!(network.closes, vec![((0, 1), reason)]);
}

#[test]
fn data_that_nobody_acknowledges_closes_the_connection_by_name() {
    let mut network = Network::new(2, 1);
    network.link(0, 1);
    network.run_until_quiescent();
    network.block(1, 0, true);
    network.hosts[0].increment(CART, "milk", 1);
    let timeout_ms = network.config.progress_timeout_ms;
    network.run_until(network.now_ms + timeout_ms - 1);
    assert!(network.closes.is_empty());
    network.run_until(network.now_ms + 1_000);
    let reason = CloseReason::NoProgress { space: CART, timeout_ms };
    assert_eq!(network.closes, vec![((0, 1), reason)]);
    // The next connection starts from what is durable.
    network.link(0, 1);
    network.run_until_quiescent();
    network.assert_converged(CART);
    network.assert_in_sync(CART);
}

#[test]
fn a_disk_that_fails_stops_the_space_and_keeps_its_reasons_at_home() {
    let mut network = Network::of(
        vec![MemoryHost::new(0, &[CART, OTHER]), MemoryHost::new(1, &[CART, OTHER])],
        1,
    );
    network.link(0, 1);
    network.run_until_quiescent();
    network.hosts[1].fail();
    network.hosts[0].increment(CART, "milk", 1);
    network.run_until(network.now_ms + 10_000);
    let found = stops(&network);
    let here = StopReason::Storage("the disk is gone".to_owned());
    let there = StopReason::Storage("at the peer".to_owned());
    assert!(found.contains(&((1, 0), StoppedBy::Us, here)), "{found:?}");
    assert!(found.contains(&((0, 1), StoppedBy::Peer, there)), "{found:?}");
    assert!(network.is_linked(0, 1), "other spaces go on");

    // Found by the simulator: without a new connection the space would stay stopped for as long as this one lasts.
    network.hosts[1].heal();
    network.run_until_quiescent();
    assert!(network.closes.iter().any(|(_, reason)| *reason == CloseReason::Retry));
    assert!(!network.is_linked(0, 1));
    network.link(0, 1);
    network.run_until_quiescent();
    network.assert_converged(CART);
}

#[test]
fn duplicates_are_taken_as_acknowledged() {
    // Both 0 and 1 have what 2 lacks, and both send it.
    for seed in 0..30 {
        let mut network = Network::new(3, seed);
        for number in 0..100 {
            network.hosts[0].increment(CART, &number.to_string(), 1);
        }
        network.link(0, 1);
        network.run_until_quiescent();
        network.link(2, 0);
        network.link(2, 1);
        network.run_until_quiescent();
        network.assert_converged(CART);
        network.assert_in_sync(CART);
        assert!(network.closes.is_empty());
    }
}

#[test]
fn a_join_that_takes_minutes_is_waited_for_and_a_write_that_does_is_not() {
    for (write, waited_for) in [("CommitStage", true), ("Apply", false)] {
        let mut network = Network::new(2, 2);
        network.hosts[0].increment(CART, "milk", 1);
        if write == "CommitStage" {
            network.hosts[0].truncate(CART);
        }
        network.link(0, 1);
        while !network.is_asked(1, 0, write) {
            assert!(network.run_steps(1));
        }
        network.stall(1, 0, true);
        network.run_until(network.now_ms + 300_000);
        assert_eq!(network.closes.is_empty(), waited_for, "{:?}", network.closes);
        if waited_for {
            assert!(network.count("state working") >= 19, "a sign of work each 15 s");
            network.stall(1, 0, false);
            network.run_until_quiescent();
            network.assert_converged(CART);
            network.assert_in_sync(CART);
        }
    }
}
