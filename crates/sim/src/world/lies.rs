//! Peers that lie: real sessions over storage that does not tell the truth, and bytes that are no messages.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rejoin_crdt::{Head, ReplicaId, SpaceId, VersionVector};
use rejoin_gossip::wire::{FRAME_SPACE_BYTES_MAX, Lane, Preamble};
use rejoin_gossip::{
    ApplyError, CommitsAfter, DeviceId, Host, HostError, Run, StateSource, StateStage,
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
    pub(super) fn throw_bomb(&mut self, node: NodeIndex) {
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
