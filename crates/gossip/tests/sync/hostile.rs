//! Peers that say anything: every answer is a typed stop or close, never a panic, and never more
//! memory than the windows allow.

use bytes::Bytes;
use proptest::prelude::*;
use rejoin_crdt::{CommitHash, Fork, Head, ReplicaId, SpaceId, VersionVector};
use rejoin_gossip::wire::{
    ControlMessage, Hello, Lane, PROTOCOL_MAX, Preamble, REPLICAS_MAX, SESSION_WINDOW_BYTES_MAX,
    SPACES_MAX, SpaceMessage, WINDOW_BATCHES_MAX,
};
use rejoin_gossip::{
    CloseReason, CommitsAfter, Config, Event, Host, HostRequest, LocalFacts, Output, Run, Session,
    StateRow, StopReason, serve,
};
use std::sync::Arc;

use crate::host::MemoryHost;
use crate::network::{CART, device};

const STRANGER: ReplicaId = ReplicaId::from_bytes([0x66; 16]);
const LANE: Lane = Lane::Space(CART);

/// A session whose peer is the test.
struct Victim {
    session: Session,
    host: Arc<MemoryHost>,
    /// Storage requests that the test has not answered.
    requests: Vec<HostRequest>,
    stops: Vec<StopReason>,
    close: Option<CloseReason>,
    sent: Vec<SpaceMessage>,
    /// How often anything was sent on the control lane.
    control_sent: u64,
}

impl Victim {
    /// A session that waits for a hello, and has one commit in the cart.
    fn new() -> Self {
        let host = MemoryHost::new(0, &[CART]);
        host.increment(CART, "milk", 1);
        Self::with(host)
    }

    fn with(host: Arc<MemoryHost>) -> Self {
        let local = LocalFacts { replica: host.replica(), wall_time_ms: 0 };
        let session = Session::new(Config::default(), device(9), local, 0);
        let mut victim = Self {
            session,
            host,
            requests: vec![],
            stops: vec![],
            close: None,
            sent: vec![],
            control_sent: 0,
        };
        victim.drain();
        victim
    }

    /// A session that has shaken hands and opened its lane.
    fn ready() -> Self {
        let mut victim = Self::new();
        victim.preamble(Lane::Control, 0);
        victim.control(&ControlMessage::Hello(hello()));
        victim.answer_all();
        victim.preamble(LANE, PROTOCOL_MAX);
        victim.answer_all();
        assert_eq!(victim.close, None);
        victim
    }

    /// One that also knows our version.
    fn syncing() -> Self {
        let mut victim = Self::ready();
        victim.say(&SpaceMessage::Versions { version: VersionVector::default(), taken: 0 });
        victim.answer_all();
        victim
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            assert_eq!(self.close, None, "nothing follows a close");
            match output {
                Output::Send { lane: Lane::Control, .. } => self.control_sent += 1,
                Output::Send { bytes, .. } => {
                    self.sent.extend(SpaceMessage::from_payload(bytes.get(4..).unwrap_or(&[])));
                }
                Output::Request(request) => self.requests.push(request),
                Output::Event(Event::SpaceStopped { reason, .. }) => self.stops.push(reason),
                Output::Event(_) => {}
                Output::Close(reason) => self.close = Some(reason),
            }
        }
    }

    fn answer_all(&mut self) {
        while !self.requests.is_empty() {
            let response = serve(&*self.host, self.requests.remove(0));
            self.session.handle_response(response, 0);
            self.drain();
        }
    }

    fn preamble(&mut self, lane: Lane, protocol: u16) {
        self.session.handle_preamble(Preamble { lane, protocol }, 0);
        self.drain();
    }

    fn control(&mut self, message: &ControlMessage) {
        self.session.handle_frame(Lane::Control, &message.to_frame().unwrap()[4..], 0);
        self.drain();
    }

    fn say(&mut self, message: &SpaceMessage) {
        self.say_on(LANE, message);
    }

    fn say_on(&mut self, lane: Lane, message: &SpaceMessage) {
        self.session.handle_frame(lane, &message.to_frame().unwrap()[4..], 0);
        self.drain();
    }

    fn expect_violation(&self, what: &str) {
        match &self.close {
            Some(CloseReason::Violation(found)) => assert!(found.contains(what), "{found}"),
            other => panic!("expected a violation about {what:?}, found {other:?}"),
        }
    }
}

fn hello() -> Hello {
    Hello { protocol_min: 1, protocol_max: 1, replica: STRANGER, wall_time_ms: u64::MAX }
}

fn run_of(replica: ReplicaId, first_sequence: u64, bodies: Vec<Bytes>) -> Run {
    let previous =
        if first_sequence == 1 { CommitHash::ZERO } else { CommitHash::from_bytes([1; 32]) };
    Run { replica, first_sequence, previous, bodies }
}

fn version_of(replica: ReplicaId, sequence: u64) -> VersionVector {
    let hash = CommitHash::from_bytes([0x13; 32]);
    [(replica, Head { sequence, hash })].into_iter().collect()
}

#[test]
fn what_comes_out_of_turn_is_a_violation() {
    let mut early = Victim::new();
    early.control(&ControlMessage::Hello(hello()));
    early.expect_violation("before its preamble");

    let mut early = Victim::new();
    early.preamble(Lane::Control, 0);
    early.control(&ControlMessage::Spaces(vec![CART]));
    early.expect_violation("spaces before the hello");

    let mut early = Victim::new();
    early.preamble(LANE, 1);
    early.expect_violation("before the hello");

    let mut twice = Victim::ready();
    twice.control(&ControlMessage::Hello(hello()));
    twice.expect_violation("second hello");

    let mut twice = Victim::ready();
    twice.preamble(LANE, 1);
    twice.expect_violation("second lane");

    let mut twice = Victim::ready();
    twice.preamble(Lane::Control, 0);
    twice.expect_violation("second control lane");

    let mut curious = Victim::ready();
    curious.preamble(Lane::Space(SpaceId::from_bytes([1; 32])), 1);
    curious.expect_violation("not offered");

    let mut data = Victim::ready();
    data.say(&SpaceMessage::StateEnd { complete: true });
    data.expect_violation("before versions");

    for message in [
        SpaceMessage::StateRows(vec![StateRow { key: Bytes::new(), row: Bytes::new() }]),
        SpaceMessage::StateEnd { complete: true },
    ] {
        let mut victim = Victim::syncing();
        victim.say(&message);
        victim.expect_violation("state");
    }

    let mut nested = Victim::syncing();
    nested.say(&SpaceMessage::StateBegin(version_of(STRANGER, 1)));
    nested.say(&SpaceMessage::StateBegin(version_of(STRANGER, 2)));
    nested.expect_violation("inside a state");

    let mut nested = Victim::syncing();
    nested.say(&SpaceMessage::StateBegin(version_of(STRANGER, 1)));
    nested.say(&SpaceMessage::Commits(vec![run_of(STRANGER, 1, vec![Bytes::from_static(b"x")])]));
    nested.expect_violation("inside a state");
}

#[test]
fn a_lane_of_a_version_that_was_not_agreed_on_is_refused() {
    let mut victim = Victim::new();
    victim.preamble(Lane::Control, 0);
    victim.control(&ControlMessage::Hello(hello()));
    victim.answer_all();
    victim.preamble(LANE, 2);
    victim.expect_violation("version");
}

#[test]
fn acknowledging_what_was_not_sent_is_a_violation() {
    let mut victim = Victim::syncing();
    victim.say(&SpaceMessage::Versions { version: VersionVector::default(), taken: 2 });
    victim.expect_violation("more is acknowledged");

    let mut victim = Victim::syncing();
    victim.say(&SpaceMessage::Versions { version: VersionVector::default(), taken: 1 });
    assert_eq!(victim.close, None, "one batch was sent");
    victim.say(&SpaceMessage::Versions { version: VersionVector::default(), taken: 0 });
    victim.expect_violation("less is acknowledged");
}

#[test]
fn a_peer_that_claims_to_lack_what_it_took_is_not_served_again() {
    let mut victim = Victim::syncing();
    for _ in 0..10 {
        victim.say(&SpaceMessage::Versions { version: VersionVector::default(), taken: 1 });
        victim.answer_all();
    }
    let batches = victim.sent.iter().filter(|sent| matches!(sent, SpaceMessage::Commits(_)));
    assert_eq!(batches.count(), 1);
}

#[test]
fn a_claim_of_more_than_exists_costs_only_the_liar() {
    let mut victim = Victim::ready();
    let version = version_of(STRANGER, u64::MAX);
    victim.say(&SpaceMessage::Versions { version, taken: 0 });
    victim.answer_all();
    assert_eq!(victim.close, None);
    assert_eq!(victim.session.space_status(CART).unwrap().behind, u64::MAX);

    let own = victim.host.replica();
    victim.say(&SpaceMessage::Versions { version: version_of(own, 7), taken: 0 });
    victim.answer_all();
    assert_eq!(victim.stops, vec![StopReason::OwnReplicaAhead { theirs: 7, ours: 1 }]);
    assert_eq!(victim.host.counter(CART, "milk"), 1);
}

#[test]
fn commits_that_are_none_stop_the_space() {
    let mut victim = Victim::syncing();
    let body = Bytes::from(vec![0xff; 100]);
    victim.say(&SpaceMessage::Commits(vec![run_of(STRANGER, 1, vec![body])]));
    victim.answer_all();
    assert!(matches!(victim.stops[..], [StopReason::Malformed(_)]), "{:?}", victim.stops);
    assert!(victim.session.space_status(CART).unwrap().stopped);
    assert_eq!(victim.host.version(CART).len(), 1, "nothing was applied");
    // What still comes is dropped.
    victim.say(&SpaceMessage::StateEnd { complete: true });
    assert_eq!(victim.close, None);
}

#[test]
fn commits_that_skip_others_end_the_connection() {
    let mut victim = Victim::syncing();
    let body = Bytes::from_static(&[0, 0, 0, 0]);
    victim.say(&SpaceMessage::Commits(vec![run_of(STRANGER, 5, vec![body])]));
    victim.answer_all();
    victim.expect_violation("depends on");
}

#[test]
fn rows_that_are_none_leave_no_trace() {
    let mut victim = Victim::syncing();
    let before = victim.host.digest(CART);
    victim.say(&SpaceMessage::StateBegin(version_of(STRANGER, 1)));
    let row = StateRow { key: Bytes::from_static(b"??"), row: Bytes::from_static(b"??") };
    victim.say(&SpaceMessage::StateRows(vec![row]));
    victim.say(&SpaceMessage::StateEnd { complete: true });
    victim.answer_all();
    assert!(matches!(victim.stops[..], [StopReason::Malformed(_)]), "{:?}", victim.stops);
    assert_eq!(victim.host.digest(CART), before);
    assert_eq!(victim.host.stages(), 0);
}

#[test]
fn a_peer_that_ignores_the_window_is_cut_off_before_it_fills_memory() {
    let mut victim = Victim::syncing();
    let mut sent = 0;
    let mut sequence = 1;
    while victim.close.is_none() {
        let body = Bytes::from(vec![0; 100_000]);
        victim.say(&SpaceMessage::Commits(vec![run_of(STRANGER, sequence, vec![body])]));
        sequence += 1;
        sent += 100_000;
        assert!(sent < SESSION_WINDOW_BYTES_MAX, "the window of one space is far less");
    }
    assert!(matches!(victim.close, Some(CloseReason::Overrun(_))), "{:?}", victim.close);

    // Small frames count too.
    let mut victim = Victim::syncing();
    let mut frames = 0;
    while victim.close.is_none() {
        frames += 1;
        let body = Bytes::from_static(b"x");
        victim.say(&SpaceMessage::Commits(vec![run_of(STRANGER, frames, vec![body])]));
        assert!(frames <= 2 * WINDOW_BATCHES_MAX as u64 + 2);
    }
    assert!(matches!(victim.close, Some(CloseReason::Overrun(_))), "{:?}", victim.close);
}

#[test]
fn offers_and_writers_without_end_are_cut_off() {
    let mut victim = Victim::ready();
    for batch in 0..3u8 {
        let space = |number: u16| {
            let mut id = [batch; 32];
            id[..2].copy_from_slice(&number.to_le_bytes());
            SpaceId::from_bytes(id)
        };
        let spaces = (0..SPACES_MAX as u16 - 1).map(space).collect();
        victim.control(&ControlMessage::Spaces(spaces));
    }
    assert!(matches!(victim.close, Some(CloseReason::Overrun(_))), "{:?}", victim.close);

    let mut victim = Victim::ready();
    for batch in 0..3u128 {
        let heads = (0..REPLICAS_MAX as u128 - 1).map(|number| {
            let id = ReplicaId::from_bytes((batch << 64 | number).to_le_bytes());
            (id, Head { sequence: 1, hash: CommitHash::ZERO })
        });
        victim.say(&SpaceMessage::Versions { version: heads.collect(), taken: 0 });
    }
    assert!(matches!(victim.close, Some(CloseReason::Overrun(_))), "{:?}", victim.close);
}

#[test]
fn windows_of_many_spaces_together_are_bounded_too() {
    let spaces: Vec<SpaceId> = (0..64u8).map(|byte| SpaceId::from_bytes([byte; 32])).collect();
    let mut victim = Victim::with(MemoryHost::new(0, &spaces));
    victim.preamble(Lane::Control, 0);
    victim.control(&ControlMessage::Hello(hello()));
    victim.answer_all();
    for space in &spaces {
        victim.preamble(Lane::Space(*space), PROTOCOL_MAX);
    }
    victim.answer_all();
    let mut sent = 0;
    for (lane, sequence) in
        spaces.iter().flat_map(|space| (1..10).map(|sequence| (Lane::Space(*space), sequence)))
    {
        if victim.close.is_some() {
            break;
        }
        if sequence == 1 {
            victim.say_on(lane, &SpaceMessage::Versions { version: Default::default(), taken: 0 });
        }
        let runs = vec![run_of(STRANGER, sequence, vec![Bytes::from(vec![0; 100_000])])];
        victim.say_on(lane, &SpaceMessage::Commits(runs));
        sent += 100_000;
    }
    assert!(matches!(victim.close, Some(CloseReason::Overrun(_))), "{:?}", victim.close);
    assert!(sent < SESSION_WINDOW_BYTES_MAX + 200_000, "{sent} bytes were held");
}

#[test]
fn a_claim_that_a_later_commit_contradicts_is_a_fork() {
    let mut victim = Victim::syncing();
    victim.say(&SpaceMessage::Versions { version: version_of(STRANGER, 1), taken: 0 });
    // The same commit comes from elsewhere, and is another.
    let writer = MemoryHost::new(0x65, &[CART]);
    assert_eq!(writer.replica(), STRANGER);
    writer.increment(CART, "milk", 5);
    let CommitsAfter::Runs(runs) =
        writer.commits_after(CART, &VersionVector::default(), usize::MAX).unwrap()
    else {
        panic!("nothing was truncated");
    };
    let version = victim.host.apply(CART, &runs).unwrap();
    victim.session.handle_local_change(CART, &version, 0);
    victim.drain();
    let fork = Fork { replica: STRANGER, sequence: 1 };
    assert_eq!(victim.stops, vec![StopReason::Fork(fork)]);
}

#[test]
fn an_answer_meant_for_another_session_changes_nothing() {
    let mut victim = Victim::syncing();
    let other_space = SpaceId::from_bytes([3; 32]);
    let mut other = Victim::with(MemoryHost::new(1, &[CART, other_space]));
    other.preamble(Lane::Control, 0);
    other.control(&ControlMessage::Hello(hello()));
    let foreign = serve(&*other.host, other.requests.remove(0));
    let said = victim.control_sent;
    victim.session.handle_response(foreign, 0);
    victim.drain();
    assert_eq!((victim.control_sent, victim.close), (said, None), "no space was offered");
}

/// A message of any kind, honest or not, on the lane of the cart.
fn any_message() -> impl Strategy<Value = SpaceMessage> {
    let own = MemoryHost::new(0, &[]).replica();
    let replica = prop_oneof![Just(STRANGER), Just(own)];
    let version = (replica.clone(), 1u64..4).prop_map(|(id, sequence)| version_of(id, sequence));
    let body = proptest::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from);
    let bodies = proptest::collection::vec(body.clone(), 1..3);
    let run = (replica, 1u64..4, bodies).prop_map(|(id, first, bodies)| run_of(id, first, bodies));
    let row = (body.clone(), body).prop_map(|(key, row)| StateRow { key, row });
    prop_oneof![
        (version.clone(), 0u64..3)
            .prop_map(|(version, taken)| SpaceMessage::Versions { version, taken }),
        proptest::collection::vec(run, 1..3).prop_map(SpaceMessage::Commits),
        version.prop_map(SpaceMessage::StateBegin),
        proptest::collection::vec(row, 1..3).prop_map(SpaceMessage::StateRows),
        any::<bool>().prop_map(|complete| SpaceMessage::StateEnd { complete }),
        Just(SpaceMessage::StateWorking),
    ]
}

proptest! {
    #[test]
    fn any_bytes_at_any_stage_end_in_a_typed_close(
        stage in 0..3, lane in 0..2, payload: Vec<u8>,
    ) {
        let mut victim = match stage {
            0 => Victim::new(),
            1 => Victim::ready(),
            _ => Victim::syncing(),
        };
        if stage == 0 {
            victim.preamble(Lane::Control, 0);
        }
        let lane = if lane == 0 { Lane::Control } else { LANE };
        victim.session.handle_frame(lane, &payload, 0);
        victim.drain();
        victim.answer_all();
        let malformed = matches!(
            victim.close,
            Some(CloseReason::Malformed { .. } | CloseReason::Violation(_))
        );
        let meaningful = SpaceMessage::from_payload(&payload).is_ok()
            || ControlMessage::from_payload(&payload).is_ok();
        prop_assert!(malformed || meaningful, "{:?}", victim.close);
    }

    #[test]
    fn any_messages_in_any_order_leave_our_own_commits_as_they_are(
        messages in proptest::collection::vec((any_message(), any::<bool>()), 1..12),
    ) {
        let mut victim = Victim::syncing();
        let own = victim.host.replica();
        for (message, answer) in messages {
            victim.say(&message);
            if answer {
                victim.answer_all();
            }
        }
        victim.answer_all();
        prop_assert_eq!(victim.host.version(CART).sequence(own), 1);
        prop_assert_eq!(victim.host.counter(CART, "milk"), 1);
        drop(victim.session);
        prop_assert_eq!(victim.host.stages(), 0);
    }
}
