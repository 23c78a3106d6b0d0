//! Peers that lie: real sessions over storage that does not tell the truth, and bytes that are no messages.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rejoin_crdt::{CommitBody, CommitHash, Dot, Kind, Operation, Path, Payload, RowKey, Value};
use rejoin_crdt::{Head, ReplicaId, SpaceId, VersionVector};
use rejoin_gossip::wire::{
    ControlMessage, FRAME_SPACE_BYTES_MAX, Lane, Preamble, SPACES_MAX, SpaceMessage,
};
use rejoin_gossip::{
    ApplyError, CommitsAfter, DeviceId, Host, HostError, Run, StateRow, StateSource, StateStage,
};

use super::World;
use crate::history::{DotName, NodeIndex, Violation, Wish};
use crate::network::End;
use crate::plan::Class;
use crate::random::Random;
use crate::side;
use crate::trace::Mark;

impl World<'_> {
    /// Storage as a liar's sessions see it.
    pub(super) fn lying_host(&self, node: NodeIndex, inner: Arc<dyn Host>) -> Arc<dyn Host> {
        let machine = &self.nodes[node];
        Arc::new(LyingHost {
            inner,
            withholds: machine.lies.contains(&Class::Withholding),
            exaggerates: machine.lies.contains(&Class::FalseVersion),
            random: Mutex::new(Random::labelled(self.plan.seed, "lies")),
        })
    }

    /// A liar's transaction: the same call, with another content for those who are shown its twin.
    pub(super) fn lie_write(
        &mut self,
        node: NodeIndex,
        space: usize,
        wishes: &[Wish],
    ) -> Result<(), Violation> {
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let handle = &process.spaces[space];
        let written = handle.space.write(|tx| {
            let dot = tx.dot();
            wishes.iter().try_for_each(|wish| side::grant(tx, wish))?;
            Ok(DotName { writer: side::writer(dot.replica), sequence: dot.sequence })
        });
        if let Some(twin) = &process.twin {
            let other = Wish::Put("of the twin".to_owned(), crate::history::Datum::Integer(1));
            let name = handle.space.name();
            if let Ok(space) = twin.replica().space(name) {
                // What becomes of a liar's own store is nobody's concern.
                let _ = space.write(|tx| side::grant(tx, &other));
            }
        }
        if let Ok(dot) = written {
            self.note(node, Mark::Write, || format!("{dot} in space {space}, a liar's"));
        }
        self.pump(node)
    }

    /// A liar sends what no session would.
    pub(super) fn lie_aloud(&mut self, node: NodeIndex, class: Class) {
        match class {
            Class::Forgery => self.forge(node),
            Class::Flooding => self.flood(node),
            Class::BrokenFrames => self.break_frame(node),
            _ => self.throw_bomb(node),
        }
    }

    /// One of the connections of a liar, and a space that is synced over it.
    fn victim(&mut self, node: NodeIndex) -> Option<(End, NodeIndex, usize)> {
        let sure = (0..self.space_ids.len()).filter(|space| !self.plan.is_doubtful(*space));
        let spaces: Vec<_> = sure.collect();
        let space = *self.random.pick(&spaces)?;
        let id = self.space_ids[space];
        let links = self.nodes[node].process.as_ref()?.links.iter();
        let synced = links.filter(|(_, link)| link.session.space_status(id).is_some());
        let choices: Vec<_> = synced.map(|(connection, link)| (*connection, link.peer)).collect();
        let (connection, peer) = self.random.pick(&choices).copied()?;
        self.nodes[peer].process.as_ref()?;
        Some((End { connection, node }, peer, space))
    }

    /// A liar makes the next commit of another writer: of whom it sends that to, or of a third with a hash that
    /// does not follow. One that follows could not be told from a true one.
    fn forge(&mut self, node: NodeIndex) {
        let Some((end, peer, space)) = self.victim(node) else { return };
        let others = (0..self.nodes.len()).filter(|other| *other != node && *other != peer);
        let mut authors: Vec<_> = others.collect();
        self.random.shuffle(&mut authors);
        authors.truncate(1);
        authors.push(peer);
        let Some(author) = self.random.pick(&authors).copied() else { return };
        let Some(Ok(seen)) =
            self.nodes[peer].process.as_ref().map(|process| process.spaces[space].space.read())
        else {
            return;
        };
        let Some(replica) = self.nodes[author]
            .process
            .as_ref()
            .map(|process| process.engine.replica().replica_id())
        else {
            return;
        };
        let first_sequence = seen.version().sequence(replica) + 1;
        let previous = match author == peer {
            true => seen.version().previous_hash(replica),
            false => side::made_up_hash(self.random.bytes()),
        };
        let Some(body) = forged_body(Dot { replica, sequence: first_sequence }) else { return };
        let run = Run { replica, first_sequence, previous, bodies: vec![body] };
        self.count(Class::Forgery);
        self.say(end, space, &SpaceMessage::Commits(vec![run]));
        self.note(node, Mark::Fault, || {
            format!("sends r{peer} a commit that r{author} never made")
        });
    }

    /// A liar offers more spaces than there may be, or sends a state that does not wait for its reader.
    fn flood(&mut self, node: NodeIndex) {
        let Some((end, peer, space)) = self.victim(node) else { return };
        self.count(Class::Flooding);
        self.note(node, Mark::Fault, || format!("floods r{peer}"));
        if self.random.chance(0.5) {
            for _ in 0..3 {
                let spaces = (0..SPACES_MAX / 2).map(|_| SpaceId::from_bytes(self.random.bytes()));
                if let Ok(frame) = ControlMessage::Spaces(spaces.collect()).to_frame() {
                    self.network.send(end, Lane::Control, frame, self.now_ms);
                }
            }
            return;
        }
        let mut version = VersionVector::default();
        let writer = ReplicaId::from_bytes(self.random.bytes());
        let hash = side::made_up_hash(self.random.bytes());
        version.set(writer, Head { sequence: 1, hash });
        self.say(end, space, &SpaceMessage::StateBegin(version));
        // As small as they get: they come faster than storage can even begin.
        let byte = Bytes::from_static(&[0]);
        let rows = SpaceMessage::StateRows(vec![StateRow { key: byte.clone(), row: byte }]);
        for _ in 0..2_000 {
            self.say(end, space, &rows);
        }
    }

    /// A liar sends a message in which a length goes past the end.
    fn break_frame(&mut self, node: NodeIndex) {
        const LENGTH: u8 = 45;
        let Some((end, peer, space)) = self.victim(node) else { return };
        let run = Run {
            replica: ReplicaId::from_bytes([1; 16]),
            first_sequence: 1,
            previous: CommitHash::ZERO,
            bodies: vec![Bytes::from_static(&[3; LENGTH as usize])],
        };
        let Ok(frame) = SpaceMessage::Commits(vec![run]).to_frame() else { return };
        let (header, payload) = frame.split_at(4);
        // There are lengths of what contains it too, and any of them may be the one.
        let lengths = (0..payload.len()).filter(|at| payload[*at].abs_diff(LENGTH) < 8);
        let lengths: Vec<_> = lengths.collect();
        let mut broken = [header, payload].concat();
        let Some(at) = self.random.pick(&lengths) else { return };
        broken[header.len() + at] = 200;
        self.count(Class::BrokenFrames);
        let lane = Lane::Space(self.space_ids[space]);
        self.network.send(end, lane, Bytes::from(broken), self.now_ms);
        self.note(node, Mark::Fault, || format!("sends r{peer} a broken frame"));
    }

    fn say(&mut self, end: End, space: usize, message: &SpaceMessage) {
        let lane = Lane::Space(self.space_ids[space]);
        if let Ok(frame) = message.to_frame() {
            self.network.send(end, lane, frame, self.now_ms);
        }
    }

    fn throw_bomb(&mut self, node: NodeIndex) {
        let Some(process) = &self.nodes[node].process else { return };
        let connections: Vec<_> =
            process.links.iter().map(|(connection, link)| (*connection, link.peer)).collect();
        let Some((connection, peer)) = self.random.pick(&connections).copied() else { return };
        self.count(Class::Bomb);
        let lane = match self.random.chance(0.3) {
            true => Lane::Control,
            false => Lane::Space(SpaceId::from_bytes(self.random.bytes())),
        };
        let space = self.random.pick(&self.space_ids).copied();
        let lane = match (lane, space) {
            (Lane::Space(_), Some(space)) if self.random.chance(0.8) => Lane::Space(space),
            (lane, _) => lane,
        };
        let noise: [u8; 64] = self.random.bytes();
        let bytes: Vec<u8> = match self.random.below(4) {
            // A length of four gigabytes, and one that is just allowed, with nothing behind it.
            0 => vec![0xff; 8],
            1 => (FRAME_SPACE_BYTES_MAX as u32).to_le_bytes().to_vec(),
            // A list that claims to be very long.
            2 => {
                [&[12, 0, 0, 0, 1][..], &[0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]].concat()
            }
            _ => [Preamble { lane, protocol: 1 }.to_bytes().to_vec(), noise.to_vec()].concat(),
        };
        self.network.send(End { connection, node }, lane, Bytes::from(bytes), self.now_ms);
        self.note(node, Mark::Fault, || format!("throws a bomb at r{peer}"));
    }
}

/// A commit that puts something where everybody will see it.
fn forged_body(dot: Dot) -> Option<Bytes> {
    let key = RowKey { path: Path::of(["forged"]).ok()?, kind: Kind::Register };
    let payload = Payload::Register { value: Value::from(1i64), wall_time_ms: 1 };
    let operations = vec![Operation::Set { key, observed: Vec::new(), payload }];
    let body = CommitBody { dependencies: Vec::new(), wall_time_ms: 1, operations };
    body.to_bytes(dot.replica).ok().map(Bytes::from)
}

/// Storage that does not tell the truth.
#[derive(Debug)]
struct LyingHost {
    inner: Arc<dyn Host>,
    /// Leaves commits out.
    withholds: bool,
    /// Claims to have more than it has.
    exaggerates: bool,
    random: Mutex<Random>,
}

impl LyingHost {
    fn chance(&self, probability: f64) -> bool {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).chance(probability)
    }
}

impl Host for LyingHost {
    fn replica(&self) -> ReplicaId {
        self.inner.replica()
    }

    fn spaces(&self, peer: DeviceId) -> Result<Vec<SpaceId>, HostError> {
        self.inner.spaces(peer)
    }

    fn durable_version(&self, space: SpaceId) -> Result<Arc<VersionVector>, HostError> {
        let version = self.inner.durable_version(space)?;
        if !self.exaggerates || !self.chance(0.5) {
            return Ok(version);
        }
        // Only about itself: what it says of others would be taken for a fork of theirs.
        let own = self.inner.replica();
        let mut claimed = VersionVector::clone(&version);
        let hash = side::made_up_hash([7; 32]);
        claimed.set(own, Head { sequence: version.sequence(own) + 1_000, hash });
        Ok(Arc::new(claimed))
    }

    fn commits_after(
        &self,
        space: SpaceId,
        version: &VersionVector,
        bytes_max: usize,
    ) -> Result<CommitsAfter, HostError> {
        let found = self.inner.commits_after(space, version, bytes_max)?;
        Ok(match found {
            CommitsAfter::Runs(mut runs) if self.withholds && self.chance(0.5) => {
                // The first commit of a run goes missing, or the run does.
                if let Some(run) = runs.first_mut() {
                    run.first_sequence += 1;
                    run.bodies.remove(0);
                }
                runs.retain(|run| !run.bodies.is_empty());
                CommitsAfter::Runs(runs)
            }
            found => found,
        })
    }

    fn apply(&self, space: SpaceId, runs: &[Run]) -> Result<Arc<VersionVector>, ApplyError> {
        self.inner.apply(space, runs)
    }

    fn mark_sent(&self, space: SpaceId, sequence: u64) -> Result<(), HostError> {
        self.inner.mark_sent(space, sequence)
    }

    fn mark_confirmed(&self, space: SpaceId, sequence: u64) -> Result<(), HostError> {
        self.inner.mark_confirmed(space, sequence)
    }

    fn open_state(&self, space: SpaceId) -> Result<Box<dyn StateSource>, HostError> {
        self.inner.open_state(space)
    }

    fn begin_stage(
        &self,
        space: SpaceId,
        theirs: &VersionVector,
    ) -> Result<Box<dyn StateStage>, ApplyError> {
        self.inner.begin_stage(space, theirs)
    }
}
