//! How every world ends: a connected majority is healed, converges, and falls silent.

use std::collections::BTreeMap;

use rejoin_crdt::{CommitHash, ReplicaId};

use super::troubles::YEAR_MS;
use super::{Event, Phase, World};
use crate::disk::DiskFaults;
use crate::history::{Checker, NodeIndex, Version, Violation};
use crate::network::LinkConditions;
use crate::side;

/// For so long nothing at all may be sent, once all of them have converged, in rounds.
const SILENT_ROUNDS: u64 = 2;

impl World<'_> {
    /// Replicas turn to other peers.
    pub(super) fn round(&mut self) -> Result<(), Violation> {
        if self.phase == Phase::Troubled {
            for node in 0..self.nodes.len() {
                self.choose_peers(node);
            }
        }
        Ok(())
    }

    /// The troubles end: at once, or after a year if somebody is to be away for so long.
    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        if !self.nodes.iter().any(|node| node.absent) {
            return self.begin_quiet();
        }
        self.note_world(|| "a year passes".to_owned());
        self.phase = Phase::Away;
        for node in 0..self.nodes.len() {
            let boot = self.nodes[node].boot;
            if let Some(process) = self.running(node, boot) {
                // Nobody keeps a log for a year.
                drop(process.engine.replica().drop_log());
            }
            self.close(node)?;
        }
        self.after(YEAR_MS, Event::Return);
        Ok(())
    }

    /// Heals a random majority and cuts off the rest.
    pub(super) fn begin_quiet(&mut self) -> Result<(), Violation> {
        self.choose_members();
        self.phase = Phase::Quiet { since_ms: self.now_ms };
        self.note_world(|| "the heal: a majority is connected, and the rest cut off".to_owned());
        let nodes = self.nodes.len();
        for from in 0..nodes {
            for to in (0..nodes).filter(|to| *to != from) {
                let healed = self.members.contains(&from) && self.members.contains(&to);
                let conditions =
                    if healed { LinkConditions::default() } else { LinkConditions::cut() };
                self.network.set_link(from, to, conditions);
            }
        }
        for node in self.members.clone() {
            self.nodes[node].disk.set_faults(DiskFaults::default());
            self.nodes[node].disk.crash_after(None);
            self.nodes[node].absent = false;
            self.nodes[node].memory_limit = None;
            self.nodes[node].paused_until_ms = 0;
            self.network.pause(node, false, self.now_ms);
            self.network.set_slow(node, false, self.now_ms);
            // Whatever a failing disk left behind: the application opens its store again.
            self.plan_start(node, 0);
            self.choose_peers(node);
        }
        self.after(self.plan.round_ms, Event::Compare);
        Ok(())
    }

    /// Draws who is healed: a majority, all of whose disks are sound and all of whom speak the truth.
    fn choose_members(&mut self) {
        let mut sound: Vec<NodeIndex> = (0..self.nodes.len())
            .filter(|node| {
                let machine = &self.nodes[*node];
                !machine.harmed && !machine.ruined && !machine.is_liar()
            })
            .collect();
        self.random.shuffle(&mut sound);
        let majority = self.nodes.len() / 2 + 1;
        let most = sound.len().max(majority) as u64;
        let count = self.random.within(majority as u64..=most) as usize;
        // Who was away for a year is among those who come back.
        sound.sort_by_key(|node| !self.nodes[*node].absent);
        sound.truncate(count);
        sound.sort_unstable();
        self.members = sound;
    }

    /// Compares the healed at the end of a round.
    pub(super) fn compare(&mut self) -> Result<(), Violation> {
        let Phase::Quiet { since_ms } = self.phase else { return Ok(()) };
        let round = ((self.now_ms - since_ms) / self.plan.round_ms) as u32;
        match self.difference() {
            None => self.converged(round),
            Some(_) if round < self.plan.rounds_max() => {
                for node in self.members.clone() {
                    self.choose_peers(node);
                }
                self.after(self.plan.round_ms, Event::Compare);
                Ok(())
            }
            Some(difference) => {
                let what = format!("not converged {round} rounds after the heal: {difference}");
                Err(self.violation(Checker::Liveness, None, what))
            }
        }
    }

    /// What keeps the healed from being equal.
    fn difference(&self) -> Option<String> {
        for space in 0..self.space_ids.len() {
            if self.forked.contains(&space) {
                continue;
            }
            let mut first: Option<(NodeIndex, Version)> = None;
            for node in &self.members {
                let Some(process) = &self.nodes[*node].process else {
                    return Some(format!("r{node} is down"));
                };
                let version = match process.spaces[space].space.read() {
                    Ok(snapshot) => side::version(snapshot.version()),
                    Err(error) => return Some(format!("r{node} cannot be read: {error}")),
                };
                match &first {
                    None => first = Some((*node, version)),
                    Some((other, expected)) if *expected != version => {
                        return Some(format!(
                            "in space {space} r{other} has {expected:?}, and r{node} has {version:?}"
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
        None
    }

    /// The healed are equal: they are read once more, and must fall silent.
    fn converged(&mut self, round: u32) -> Result<(), Violation> {
        self.rounds_after_heal = Some(round);
        self.note_world(|| format!("all of them have converged after {round} round(s)"));
        self.phase = Phase::Silent;
        for node in self.members.clone() {
            if !self.look(node)? {
                let what = "a healed replica cannot be read";
                return Err(self.violation(Checker::Liveness, Some(node), what));
            }
        }
        let latest = self.latest();
        self.checkers.all_answered(self.now_ms)?;
        self.checkers.converged(self.now_ms, &latest)?;
        for (node, versions) in &latest {
            for (space, version) in versions {
                self.checkers.watch_told(self.now_ms, *node, *space, version)?;
            }
        }
        self.check_script_converged()?;
        // What was just sent may still be acknowledged.
        let wait_ms = self.plan.round_ms;
        self.after(wait_ms, Event::Silence { data_bytes: u64::MAX });
        Ok(())
    }

    /// What each of the healed shows of each space.
    fn latest(&self) -> Vec<(NodeIndex, Vec<(usize, Version)>)> {
        let members = self.members.iter();
        let spaces = |node: NodeIndex| {
            let process = self.nodes[node].process.iter();
            let handles = process.flat_map(|process| process.spaces.iter().enumerate());
            let sure = handles.filter(|(space, _)| !self.plan.is_doubtful(*space));
            let read = |(space, handle): (usize, &crate::node::SpaceHandle)| {
                let snapshot = handle.space.read().ok()?;
                Some((space, side::version(snapshot.version())))
            };
            sure.filter_map(read).collect()
        };
        members.map(|node| (*node, spaces(*node))).collect()
    }

    fn check_script_converged(&mut self) -> Result<(), Violation> {
        let Some(script) = self.script.as_mut() else { return Ok(()) };
        let processes = self.members.iter().filter_map(|node| self.nodes[*node].process.as_ref());
        let replicas: Vec<_> = processes.map(|process| process.engine.replica().clone()).collect();
        match script.check_converged(&replicas) {
            Ok(()) => Ok(()),
            Err(what) => Err(self.violation(Checker::Application, None, what)),
        }
    }

    /// Sees that no data was sent since the last look, and ends the world.
    pub(super) fn check_silence(&mut self, data_bytes: u64) -> Result<(), Violation> {
        let sent = self.network.data_bytes_sent();
        if data_bytes == u64::MAX {
            let wait_ms = SILENT_ROUNDS * self.plan.round_ms;
            self.after(wait_ms, Event::Silence { data_bytes: sent });
            return Ok(());
        }
        self.check_forks()?;
        if sent > data_bytes {
            let bytes = sent - data_bytes;
            let what = format!("{bytes} bytes were sent although all healed replicas are equal");
            return Err(self.violation(Checker::Liveness, None, what));
        }
        self.phase = Phase::Over;
        Ok(())
    }

    /// Where a liar has told two histories, two that are connected and stand at the same commit of it in
    /// different histories have noticed.
    fn check_forks(&self) -> Result<(), Violation> {
        for space in (0..self.space_ids.len()).filter(|space| self.plan.is_doubtful(*space)) {
            for node in &self.members {
                let Some(process) = &self.nodes[*node].process else { continue };
                let blind = process.links.values().filter(|link| {
                    self.members.contains(&link.peer) && !link.overheard.forked.contains(&space)
                });
                for peer in blind.map(|link| link.peer) {
                    let (here, there) = (self.heads(*node, space), self.heads(peer, space));
                    let differs = |(writer, (sequence, hash)): (&ReplicaId, &(u64, CommitHash))| {
                        there.get(writer).is_some_and(|it| it.0 == *sequence && it.1 != *hash)
                    };
                    if here.iter().any(differs) {
                        let what = format!(
                            "in space {space} r{node} and r{peer} hold different commits of a liar under the \
                             same name, and have not noticed"
                        );
                        return Err(self.violation(Checker::DotLedger, Some(*node), what));
                    }
                }
            }
        }
        Ok(())
    }

    /// The last commit of each writer at a replica.
    fn heads(&self, node: NodeIndex, space: usize) -> BTreeMap<ReplicaId, (u64, CommitHash)> {
        let process = self.nodes[node].process.as_ref();
        let snapshot = process.and_then(|process| process.spaces[space].space.read().ok());
        let heads = snapshot.iter().flat_map(|snapshot| snapshot.version().iter());
        heads.map(|(writer, head)| (writer, (head.sequence, head.hash))).collect()
    }
}
