use rejoin_crdt::SpaceId;

use super::*;

/// A network whose events are kept, and checked against what was sent.
struct World {
    network: Network,
    random: Random,
    now_ms: u64,
    /// What each end sent on each lane, and what came of it at the other.
    sent: BTreeMap<(End, Lane), Vec<u8>>,
    received: BTreeMap<(End, Lane), Vec<u8>>,
    open: BTreeSet<End>,
    closed: Vec<(u64, End, CloseCause)>,
    polls: u64,
}

impl World {
    fn new(seed: u64, nodes: usize, config: TransportConfig) -> Self {
        Self {
            network: Network::new(Random::labelled(seed, "network"), nodes, config),
            random: Random::labelled(seed, "test"),
            now_ms: 0,
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            open: BTreeSet::new(),
            closed: Vec::new(),
            polls: 0,
        }
    }

    /// Two nodes that read everything and are connected, the first having dialled.
    fn pair(seed: u64, conditions: &LinkConditions) -> (Self, End, End) {
        let mut world = Self::new(seed, 2, reading_all());
        world.set_both(conditions);
        let [near, far] = world.connect(0, 1);
        (world, near, far)
    }

    fn connect(&mut self, from: NodeIndex, to: NodeIndex) -> [End; 2] {
        let connection = self.network.dial(from, to, self.now_ms);
        let ends = [from, to].map(|node| End { connection, node });
        let until_ms = self.now_ms + 5_000;
        self.run_until(until_ms, |world| ends.iter().all(|end| world.open.contains(end)));
        assert!(ends.iter().all(|end| self.network.is_open(*end)), "the handshake failed");
        ends
    }

    fn set_both(&mut self, conditions: &LinkConditions) {
        self.network.set_link(0, 1, conditions.clone());
        self.network.set_link(1, 0, conditions.clone());
    }

    fn send(&mut self, end: End, lane: Lane, length: usize) {
        let bytes: Vec<u8> = (0..length).map(|_| self.random.next_u64() as u8).collect();
        self.sent.entry((end, lane)).or_default().extend_from_slice(&bytes);
        self.network.send(end, lane, bytes.into(), self.now_ms);
    }

    fn run(&mut self, for_ms: u64) {
        self.run_until(self.now_ms + for_ms, |_| false);
    }

    /// Runs until something holds, or a time.
    fn run_until(&mut self, until_ms: u64, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            let next_ms = self.network.next_at_ms().unwrap_or(u64::MAX);
            assert!(next_ms >= self.now_ms || next_ms == self.network.now_ms);
            if next_ms > until_ms {
                self.now_ms = until_ms;
                break;
            }
            self.now_ms = self.now_ms.max(next_ms);
            self.polls += 1;
            assert!(self.polls < 20_000_000, "a storm of events");
            while let Some(event) = self.network.poll(self.now_ms) {
                self.take(event);
            }
        }
    }

    fn take(&mut self, event: NetworkEvent) {
        let end = event.end();
        match event {
            NetworkEvent::Connected { end, .. } | NetworkEvent::Incoming { end, .. } => {
                assert!(self.open.insert(end), "{end:?} opens twice");
            }
            NetworkEvent::Received { lane, bytes, sent_ms, .. } => {
                assert!(self.open.contains(&end), "{end:?} is not open");
                assert!(sent_ms <= self.now_ms && !bytes.is_empty());
                self.received.entry((end, lane)).or_default().extend_from_slice(&bytes);
            }
            NetworkEvent::Closed { why, .. } => {
                self.open.remove(&end);
                self.closed.push((self.now_ms, end, why));
            }
        }
    }

    fn other(&self, end: End) -> End {
        let nodes = self.network.pairs[end.connection.0 as usize].nodes;
        End { node: nodes[usize::from(nodes[0] == end.node)], ..end }
    }

    /// Checks that what came is the beginning of what was sent, lane by lane: whether it is all of it.
    fn check(&self) -> bool {
        for ((end, lane), received) in &self.received {
            let sent = &self.sent[&(self.other(*end), *lane)];
            assert!(sent.starts_with(received), "{end:?} got something else on {lane}");
        }
        self.sent.iter().all(|((end, lane), sent)| {
            self.received.get(&(self.other(*end), *lane)).is_some_and(|got| got == sent)
        })
    }

    fn why(&self, end: End) -> Option<(u64, CloseCause)> {
        let closed = self.closed.iter().find(|closed| closed.1 == end);
        closed.map(|(at_ms, _, why)| (*at_ms, why.clone()))
    }

    fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        self.network.trace_into(&mut hasher);
        hasher.finalize()
    }
}

fn reading_all() -> TransportConfig {
    TransportConfig { reading: Reading::All, ..TransportConfig::default() }
}

fn space(number: u8) -> Lane {
    Lane::Space(SpaceId::from_bytes([number; 32]))
}

fn lossy() -> LinkConditions {
    LinkConditions {
        latency: Latency { min_ms: 5, tail_ms: 10.0, max_ms: 100 },
        loss: 0.3,
        duplicate: 0.1,
        reorder: 0.1,
        corrupt: 0.05,
        ..LinkConditions::default()
    }
}

#[test]
fn what_is_sent_arrives_in_order_on_every_lane() {
    let (mut world, near, far) = World::pair(1, &LinkConditions::default());
    for round in 0..20 {
        for (end, lane) in [(near, Lane::Control), (far, Lane::Control), (near, space(1))] {
            world.send(end, lane, 100 + round);
        }
        world.send(far, space(2), 30_000);
        world.run(20);
    }
    world.run(1_000);
    assert!(world.check());
    assert_eq!(world.network.data_bytes_sent(), world.network.data_bytes_received());
    assert!(world.network.is_silent());
    assert_eq!((world.network.buffered(near), world.network.buffered(far)), (0, 0));
}

#[test]
fn links_that_lose_double_hold_up_and_damage_deliver_everything_once() {
    let mut connected = 0;
    for seed in 0..30 {
        let mut world = World::new(seed, 2, reading_all());
        world.set_both(&lossy());
        let connection = world.network.dial(0, 1, 0);
        let ends = [0, 1].map(|node| End { connection, node });
        world.run(5_500);
        // A hello and its answer can be lost three times in a row; then there is nothing to test.
        if !ends.iter().all(|end| world.open.contains(end)) {
            continue;
        }
        connected += 1;
        for _ in 0..40 {
            let end = ends[world.random.index(2)];
            let lane = if world.random.chance(0.2) {
                Lane::Control
            } else {
                space(world.random.below(4) as u8)
            };
            let length = world.random.within(1..=4_000) as usize;
            world.send(end, lane, length);
            let mtu = *world.random.pick(&[600, 900, 1_200, 1_500]).unwrap();
            world.set_both(&LinkConditions { mtu, ..lossy() });
            let pause_ms = world.random.below(200);
            world.run(pause_ms);
        }
        let until_ms = world.now_ms + 120_000;
        world.run_until(until_ms, |world| world.network.is_silent() || !world.closed.is_empty());
        // Even ten seconds of bad luck in a row are possible.
        assert_eq!(world.closed, [], "seed {seed}");
        assert!(world.check(), "seed {seed}");
        let counts = world.network.counts();
        for class in ["lost", "duplicated", "reordered", "corrupted", "too large"] {
            assert!(counts[format!("net: {class}").as_str()] > 0, "{class}: {counts:?}");
        }
        assert!(world.network.packets_refused() > 0 && world.network.packets_repeated() > 0);
    }
    assert!(connected >= 20, "{connected}");
}

#[test]
fn losses_in_bursts_and_a_narrow_link_are_survived() {
    for seed in 0..10 {
        let conditions = LinkConditions {
            latency: Latency { min_ms: 20, tail_ms: 5.0, max_ms: 80 },
            bursts: Some(Bursts { begin: 0.01, end: 0.2, loss: 0.8 }),
            bytes_per_ms: Some(100.0),
            queue_bytes: 20_000,
            ..LinkConditions::default()
        };
        let (mut world, near, far) = World::pair(seed, &conditions);
        world.send(near, space(1), 300_000);
        world.send(far, space(1), 100_000);
        world.run(60_000);
        assert!(world.check(), "seed {seed}");
        let counts = world.network.counts();
        assert!(counts["net: rate limited"] > 0 && counts["net: lost"] > 0, "{counts:?}");
    }
}

#[test]
fn a_fast_link_is_used() {
    let latency = Latency::fixed(20);
    let (mut world, near, _) =
        World::pair(1, &LinkConditions { latency, ..LinkConditions::default() });
    world.send(near, space(1), 3_000_000);
    let began_ms = world.now_ms;
    let until_ms = began_ms + 10_000;
    world.run_until(until_ms, |world| world.network.is_silent());
    assert!(world.check());
    let took_ms = world.now_ms - began_ms;
    assert!(took_ms < 800, "a megabyte a round trip once it is up to speed, not {took_ms} ms");
}

#[test]
fn packets_shrink_where_large_ones_vanish_and_grow_again() {
    for mtu in [600, 1_200] {
        let (mut world, near, far) = World::pair(1, &LinkConditions::default());
        world.send(near, space(1), 100_000);
        world.run(1_000);
        assert!(world.check(), "at first everything passes");
        world.set_both(&LinkConditions { mtu, ..LinkConditions::default() });
        world.send(near, space(1), 100_000);
        world.send(far, space(2), 100_000);
        world.run(9_000);
        assert!(world.check(), "nothing larger than {mtu} passes");
        assert!(world.network.counts()["net: too large"] > 0);
        assert!(world.network.tally.black_holes >= 2);
        world.set_both(&LinkConditions::default());
        for _ in 0..20 {
            world.send(near, space(1), 50_000);
            world.run(5_000);
        }
        assert!(world.check());
        let before = world.network.packets();
        world.send(near, space(1), 1_000_000);
        world.run(5_000);
        assert!(world.check());
        let packets = world.network.packets() - before;
        assert!(packets < 1_200, "{packets} packets for a megabyte");
    }
}

#[test]
fn a_lane_that_has_lost_something_does_not_hold_up_another() {
    let (mut world, near, far) = World::pair(1, &lossless_far());
    world.network.set_link(0, 1, LinkConditions::cut());
    world.send(near, space(1), 500);
    world.run(10);
    world.network.set_link(0, 1, lossless_far());
    world.send(near, space(2), 500);
    world.run(85);
    assert!(!world.received.contains_key(&(far, space(1))));
    assert_eq!(world.received[&(far, space(2))].len(), 500);
    world.run(1_000);
    assert!(world.check());
}

#[test]
fn both_ends_notice_a_cut_that_lasts() {
    let (mut world, near, far) = World::pair(1, &LinkConditions::default());
    world.send(near, space(1), 5_000);
    world.run(1_000);
    let cut_ms = world.now_ms;
    world.set_both(&LinkConditions::cut());
    world.send(near, space(1), 5_000);
    world.run(20_000);
    for end in [near, far] {
        let (at_ms, why) = world.why(end).unwrap();
        assert_eq!(why, CloseCause::IdleTimeout);
        assert!((cut_ms + 9_000..cut_ms + 13_500).contains(&at_ms), "{at_ms}");
    }
    assert!(!world.check());
    assert!(world.network.counts()["net: cut off"] > 0);
    assert_eq!((world.network.next_at_ms(), world.network.in_flight()), (None, 0));
}

#[test]
fn a_short_cut_is_survived() {
    let (mut world, near, far) = World::pair(1, &LinkConditions::default());
    for _ in 0..10 {
        world.send(near, space(1), 50_000);
        world.send(far, space(1), 50_000);
        world.run(3);
        world.set_both(&LinkConditions::cut());
        world.run(4_000);
        world.set_both(&LinkConditions::default());
        world.run(8_000);
        assert!(world.check());
    }
    assert_eq!(world.closed, []);
}

#[test]
fn a_cut_in_one_direction_ends_the_connection_for_both() {
    let (mut world, near, far) = World::pair(1, &LinkConditions::default());
    world.network.set_link(0, 1, LinkConditions::cut());
    world.run(40_000);
    let (far_ms, why) = world.why(far).unwrap();
    assert_eq!(why, CloseCause::IdleTimeout);
    let (near_ms, _) = world.why(near).unwrap();
    assert!(near_ms > far_ms, "the one that still hears notices later");
}

#[test]
fn nobody_connects_where_nothing_passes() {
    let mut world = World::new(1, 2, reading_all());
    world.network.set_link(1, 0, LinkConditions::cut());
    let connection = world.network.dial(0, 1, 0);
    let near = End { connection, node: 0 };
    world.run(20_000);
    assert_eq!(world.closed, [(5_000, near, CloseCause::HandshakeTimeout)]);
    assert_eq!(world.network.next_at_ms(), None, "the other end gave up too, without a word");
}

#[test]
fn who_does_not_read_holds_the_sender_back_within_the_windows() {
    let config = TransportConfig {
        lane_window_bytes: 50_000,
        connection_window_bytes: 120_000,
        ..reading_all()
    };
    let mut world = World::new(1, 2, config);
    let [near, far] = world.connect(0, 1);
    world.network.set_reading(far, Reading::Control, world.now_ms);
    for lane in 0..4 {
        world.send(near, space(lane), 100_000);
    }
    world.send(near, Lane::Control, 1_000);
    world.run(30_000);
    assert_eq!(world.received[&(far, Lane::Control)].len(), 1_000, "it goes first");
    let unread = world.network.unread(far);
    assert!((110_000..=120_000).contains(&unread), "{unread}");
    assert_eq!(world.network.buffered(near), 400_000 - unread);
    world.network.set_reading(far, Reading::Nothing, world.now_ms);
    world.send(near, Lane::Control, 100_000);
    world.run(3_000);
    assert_eq!(world.received[&(far, Lane::Control)].len(), 1_000);
    assert!(world.network.unread(far) <= 120_000);
    world.network.set_reading(far, Reading::All, world.now_ms);
    world.run(5_000);
    assert!(world.check());
    assert_eq!((world.network.unread(far), world.network.buffered(near)), (0, 0));
    assert_eq!(world.closed, []);
}

#[test]
fn one_lane_cannot_use_up_the_window_of_another() {
    let config = TransportConfig { lane_window_bytes: 50_000, ..reading_all() };
    let mut world = World::new(1, 2, config);
    let [near, far] = world.connect(0, 1);
    world.network.set_slow(1, true, world.now_ms);
    world.send(near, space(1), 100_000);
    world.run(1_000);
    assert_eq!(world.network.unread(far), 50_000);
    world.send(near, space(2), 100_000);
    world.run(1_000);
    assert_eq!(world.network.unread(far), 100_000);
    assert!(world.network.counts()["net: slow reader"] > 0);
    assert!(world.received.is_empty() && !world.network.is_silent());
    world.network.set_slow(1, false, world.now_ms);
    world.run(1_000);
    assert!(world.check());
}

#[test]
fn a_dead_process_is_noticed_by_silence_and_a_restarted_one_by_a_reset() {
    for restarts in [false, true] {
        let (mut world, near, far) = World::pair(1, &LinkConditions::default());
        world.send(near, space(1), 5_000);
        world.run(500);
        world.network.forget_node(1);
        world.network.set_node_up(1, false, world.now_ms);
        let died_ms = world.now_ms;
        world.run(1_000);
        if restarts {
            world.network.set_node_up(1, true, world.now_ms);
        }
        world.run(20_000);
        let (at_ms, why) = world.why(near).unwrap();
        assert_eq!(world.why(far), None, "the dead learn nothing");
        if restarts {
            assert_eq!(why, CloseCause::Reset);
            assert!(at_ms < died_ms + 3_200, "{at_ms}: at the next keep-alive");
            assert_eq!(world.network.counts()["net: reset"], 1);
            world.connect(0, 1);
        } else {
            assert_eq!(why, CloseCause::IdleTimeout);
            assert!(world.network.counts()["net: node down"] > 0);
        }
    }
}

#[test]
fn a_close_is_heard_or_found_out() {
    for heard in [true, false] {
        let (mut world, near, far) = World::pair(1, &LinkConditions::default());
        let link = if heard { LinkConditions::default() } else { LinkConditions::cut() };
        world.network.set_link(0, 1, link);
        world.network.close(near, 0x101, "taken down", world.now_ms);
        assert!(!world.network.is_open(near));
        world.run(2_000);
        world.network.set_link(0, 1, LinkConditions::default());
        world.run(8_000);
        assert_eq!(world.why(near), None, "who closes needs no telling");
        let (at_ms, why) = world.why(far).unwrap();
        if heard {
            let reason = "taken down".to_owned();
            assert_eq!(why, CloseCause::Peer { code: 0x101, reason });
            assert!(at_ms < 100, "{at_ms}");
        } else {
            assert_eq!(why, CloseCause::Reset);
        }
        assert_eq!(world.network.next_at_ms(), None);
        assert_eq!(world.network.ends(0).count() + world.network.ends(1).count(), 0);
    }
}

#[test]
fn a_close_that_is_lost_is_said_again_to_who_goes_on_sending() {
    let (mut world, near, far) = World::pair(1, &LinkConditions::default());
    world.network.set_link(0, 1, LinkConditions::cut());
    world.network.close(near, 7, "", world.now_ms);
    world.run(5);
    world.network.set_link(0, 1, LinkConditions::default());
    world.send(far, space(1), 10);
    world.run(100);
    assert!(matches!(world.why(far).unwrap().1, CloseCause::Peer { code: 7, .. }));
}

#[test]
fn both_ends_may_close_at_once() {
    let (mut world, near, far) = World::pair(1, &lossless_far());
    world.network.close(near, 1, "one", world.now_ms);
    world.network.close(far, 2, &"ä".repeat(200), world.now_ms);
    world.run(60_000);
    assert_eq!(world.closed, []);
    assert_eq!(world.network.next_at_ms(), None);
    assert!(world.network.packets() < 20);
}

fn lossless_far() -> LinkConditions {
    LinkConditions { latency: Latency::fixed(80), ..LinkConditions::default() }
}

#[test]
fn who_dialled_may_move_and_who_was_dialled_may_not() {
    for mover in [0, 1] {
        let (mut world, near, far) = World::pair(1, &lossless_far());
        world.send(far, space(1), 20_000);
        world.run(90);
        world.network.change_address(mover);
        world.send(near, space(1), 20_000);
        world.send(far, space(1), 20_000);
        world.run(30_000);
        assert!(world.network.counts()["net: address change"] > 0);
        if mover == 0 {
            assert!(world.check());
            assert_eq!(world.closed, []);
        } else {
            assert_eq!(world.why(near).unwrap().1, CloseCause::IdleTimeout);
            assert_eq!(world.why(far).unwrap().1, CloseCause::IdleTimeout);
            world.connect(0, 1);
        }
    }
}

#[test]
fn many_moves_on_a_bad_link_lose_nothing() {
    let conditions = LinkConditions { loss: 0.05, reorder: 0.05, ..lossless_far() };
    let (mut world, near, far) = World::pair(2, &conditions);
    for _ in 0..20 {
        world.send(near, space(1), 5_000);
        world.send(far, space(2), 5_000);
        let pause_ms = world.random.below(2_000);
        world.run(pause_ms);
        world.network.change_address(0);
    }
    world.run(20_000);
    assert_eq!(world.closed, []);
    assert!(world.check());
}

#[test]
fn a_paused_node_answers_when_it_goes_on_unless_it_took_too_long() {
    for (pause_ms, survives) in [(5_000, true), (30_000, false)] {
        let (mut world, near, far) = World::pair(1, &LinkConditions::default());
        world.network.pause(1, true, world.now_ms);
        world.send(near, space(1), 20_000);
        world.run(pause_ms);
        assert!(!world.received.contains_key(&(far, space(1))));
        assert!(world.network.in_flight() > 0, "they wait");
        world.network.pause(1, false, world.now_ms);
        world.run(15_000);
        assert_eq!(world.check(), survives);
        assert_eq!(world.closed.is_empty(), survives);
        assert_eq!(world.network.is_open(near), survives);
    }
}

#[test]
fn a_paused_node_keeps_no_more_than_its_socket_holds() {
    let config = TransportConfig { socket_bytes: 3_000, ..reading_all() };
    let mut world = World::new(1, 2, config);
    let [near, _] = world.connect(0, 1);
    world.network.pause(1, true, world.now_ms);
    world.send(near, space(1), 20_000);
    world.run(1_000);
    assert!(world.network.counts()["net: socket full"] > 0);
    world.network.pause(1, false, world.now_ms);
    world.run(5_000);
    assert!(world.check());
}

#[test]
fn damage_is_delivered_only_where_tags_are_not_checked() {
    let mut damaged = 0;
    for seed in 0..20 {
        for verify_tags in [true, false] {
            let mut world = World::new(seed, 2, TransportConfig { verify_tags, ..reading_all() });
            let [near, far] = world.connect(0, 1);
            world.set_both(&LinkConditions { corrupt: 0.05, ..LinkConditions::default() });
            world.send(near, space(1), 100_000);
            world.run(8_000);
            assert!(world.network.counts()["net: corrupted"] > 0);
            if verify_tags {
                assert!(world.check());
                assert!(world.network.packets_refused() > 0);
            } else {
                assert_eq!(world.network.packets_refused(), 0);
                let sent = &world.sent[&(near, space(1))];
                let got = world.received.get(&(far, space(1)));
                damaged += u32::from(got.is_some_and(|got| !sent.starts_with(got)));
            }
        }
    }
    assert!(damaged >= 15, "{damaged} of 20");
}

#[test]
fn a_hello_that_comes_twice_opens_nothing_twice() {
    for seed in 0..20 {
        let mut world = World::new(seed, 2, reading_all());
        let latency = Latency::fixed(300);
        world.set_both(&LinkConditions { latency, duplicate: 1.0, ..LinkConditions::default() });
        let [near, far] = world.connect(0, 1);
        world.send(near, space(1), 3_000);
        // The one that was dialled restarts, and hears the hello of a connection that it knows nothing of.
        world.network.forget_node(1);
        world.open.remove(&far);
        world.run(30_000);
        assert_eq!(world.open, BTreeSet::new(), "seed {seed}");
        assert!(world.received.is_empty());
        assert!(world.why(near).is_some());
        assert_eq!(world.network.next_at_ms(), None);
    }
}

#[test]
fn bytes_given_while_dialling_are_sent_once_it_is_open() {
    let mut world = World::new(1, 2, reading_all());
    let connection = world.network.dial(0, 1, 0);
    world.send(End { connection, node: 0 }, space(1), 10_000);
    world.run(1_000);
    assert!(world.check());
}

#[test]
fn a_quiet_connection_costs_its_keep_alives_and_nothing_else() {
    let (mut world, near, far) = World::pair(1, &lossless_far());
    world.send(near, space(1), 50_000);
    world.send(far, space(1), 50_000);
    world.run(10_000);
    let (packets, polls, data) =
        (world.network.packets(), world.polls, world.network.data_bytes_sent());
    world.run(300_000);
    let (packets, polls) = (world.network.packets() - packets, world.polls - polls);
    assert!((200..=420).contains(&packets), "{packets} packets in 100 keep-alives");
    assert!(polls <= 1_500, "{polls} polls");
    assert_eq!(world.network.data_bytes_sent(), data);
    assert_eq!(world.closed, []);
    assert!(world.network.is_silent());
}

#[test]
fn small_sends_of_one_moment_share_packets() {
    let (mut world, near, _) = World::pair(1, &LinkConditions::default());
    world.run(1_000);
    let before = world.network.packets();
    for _ in 0..20 {
        world.send(near, space(1), 20);
        world.send(near, Lane::Control, 20);
    }
    world.run(1_000);
    assert!(world.check());
    assert!(world.network.packets() - before <= 4);
}

#[test]
fn every_lane_that_can_be_shared_is_carried() {
    let (mut world, near, _) = World::pair(1, &LinkConditions::default());
    for number in 0..1_024_u16 {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_le_bytes());
        world.send(near, Lane::Space(SpaceId::from_bytes(id)), 50);
    }
    world.send(near, Lane::Control, 50);
    world.run(2_000);
    assert!(world.check() || world.network.buffered(near) > 0);
    assert!(world.check());
}

/// A run in which everything happens to five nodes that dial each other and send at random.
fn chaos(seed: u64, verify_tags: bool) -> World {
    const NODES: u64 = 5;
    let mut world =
        World::new(seed, NODES as usize, TransportConfig { verify_tags, ..reading_all() });
    for _ in 0..300 {
        let from = world.random.index(NODES as usize);
        let to = (from + 1 + world.random.index(NODES as usize - 1)) % NODES as usize;
        let now_ms = world.now_ms;
        let open: Vec<End> = world.open.iter().copied().collect();
        let end = world.random.pick(&open).copied();
        match (world.random.below(12), end) {
            (0 | 1, _) => drop(world.network.dial(from, to, now_ms)),
            (2..=5, Some(end)) => {
                let (lane, length) = (world.random.below(5) as u8, world.random.below(9_000));
                let lane = if lane == 0 { Lane::Control } else { space(lane) };
                if world.network.is_running(end.node) {
                    world.send(end, lane, length as usize);
                }
            }
            (6, Some(end)) if world.random.chance(0.2) => {
                world.network.close(end, 9, "chaos", now_ms);
                world.open.remove(&end);
            }
            (7, _) => {
                let rates = [0.0, 0.02, 0.3];
                let mut rate = || *world.random.pick(&rates).unwrap();
                let (loss, duplicate, reorder, corrupt) = (rate(), rate(), rate(), rate());
                let mtu = *world.random.pick(&[600, 1_250, 1_500]).unwrap();
                let up = world.random.chance(0.8);
                let conditions = LinkConditions {
                    up,
                    loss,
                    duplicate,
                    reorder,
                    corrupt,
                    mtu,
                    ..LinkConditions::default()
                };
                world.network.set_link(from, to, conditions);
            }
            (8, _) => world.network.change_address(from),
            (9, _) => {
                let on = world.random.chance(0.5);
                world.network.pause(from, on, now_ms);
                world.network.set_slow(to, !on, now_ms);
            }
            (10, _) => {
                world.network.forget_node(from);
                world.open.retain(|end| end.node != from);
                let up = world.random.chance(0.7);
                world.network.set_node_up(from, up, now_ms);
            }
            _ => {
                let pause_ms = world.random.below(3_000);
                world.run(pause_ms);
            }
        }
        let pause_ms = world.random.below(50);
        world.run(pause_ms);
        if verify_tags {
            world.check();
        }
    }
    world
}

#[test]
fn whatever_happens_no_lane_delivers_anything_but_the_beginning_of_what_was_sent() {
    for seed in 0..40 {
        let mut world = chaos(seed, true);
        // Then everything is well again: what is still open at both ends arrives.
        for from in 0..5 {
            for to in 0..5 {
                world.network.set_link(from, to, LinkConditions::default());
            }
            world.network.pause(from, false, world.now_ms);
            world.network.set_slow(from, false, world.now_ms);
            world.network.set_node_up(from, true, world.now_ms);
        }
        world.run(60_000);
        world.check();
        assert!(world.network.is_silent(), "seed {seed}");
        for end in &world.open {
            let other = world.other(*end);
            assert!(
                world.open.contains(&other),
                "seed {seed}: {end:?} has nobody at the other end"
            );
            for ((from, lane), sent) in world.sent.range((*end, Lane::Control)..) {
                if from == end {
                    let received = world.received.get(&(other, *lane));
                    assert_eq!(received, Some(sent), "seed {seed}: {from:?} {lane}");
                }
            }
        }
    }
}

#[test]
fn nothing_breaks_down_when_damage_goes_unnoticed() {
    for seed in 100..140 {
        chaos(seed, false);
    }
}

#[test]
fn a_run_is_its_seed_and_nothing_else() {
    let (one, same, other) = (chaos(5, true), chaos(5, true), chaos(6, true));
    assert_eq!(one.hash(), same.hash());
    assert_ne!(one.hash(), other.hash());
    assert_eq!((one.closed, one.received), (same.closed, same.received));
}

/// Prints what packets cost: run it in release, with `--nocapture`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stderr, reason = "it is for reading")]
fn measure() {
    let mut report = String::new();
    let mut note = |what: &str, network: &Network, began: std::time::Instant| {
        let (took, packets) = (began.elapsed(), network.packets());
        let rate = packets as f64 / took.as_secs_f64();
        report += &format!("{what}: {packets} packets in {took:?}, {rate:.0} a second\n");
    };

    #[expect(clippy::disallowed_methods, reason = "it measures real time")]
    let began = std::time::Instant::now();
    let (mut world, near, _) = World::pair(1, &LinkConditions::default());
    let bytes = Bytes::from(vec![7; 50 << 20]);
    world.network.send(near, space(1), bytes, world.now_ms);
    world.run(60_000);
    assert_eq!(world.network.data_bytes_received(), 50 << 20);
    note("bulk", &world.network, began);

    #[expect(clippy::disallowed_methods, reason = "it measures real time")]
    let began = std::time::Instant::now();
    let mut world = World::new(1, 20, reading_all());
    for from in 0..20 {
        for to in from + 1..20 {
            world.network.dial(from, to, 0);
        }
    }
    world.run(60_000);
    assert_eq!(world.open.len(), 380);
    note("20 nodes, idle for a minute", &world.network, began);

    #[expect(clippy::disallowed_methods, reason = "it measures real time")]
    let began = std::time::Instant::now();
    let mut world = World::new(1, 10, reading_all());
    let conditions = LinkConditions { loss: 0.02, reorder: 0.02, ..lossless_far() };
    for from in 0..10 {
        for to in 0..10 {
            world.network.set_link(from, to, conditions.clone());
        }
        for to in from + 1..10 {
            world.network.dial(from, to, 0);
        }
    }
    for _ in 0..100 {
        world.run(300);
        let open: Vec<End> = world.open.iter().copied().collect();
        for end in open {
            if world.random.chance(0.3) {
                world.send(end, space(1), 300);
            }
        }
    }
    note("10 nodes, busy for half a minute", &world.network, began);
    eprint!("{report}");
}
