//! The world: its queue of events, and the loop that runs it.

use std::collections::{BTreeMap, BTreeSet};

use rejoin::{DeviceKey, SpaceId};
use rejoin_gossip::HostResponse;
use rejoin_gossip::wire::{PROTOCOL_MAX, PROTOCOL_MIN};

use crate::checkers::{CheckerConfig, Checkers};
use crate::disk::SimDisk;
use crate::history::{Checker, NodeIndex, Observation, Violation};
use crate::network::{ConnectionId, Network};
use crate::node::{Node, WallClock};
use crate::outcome::Outcome;
use crate::plan::{Class, Plan};
use crate::random::Random;
use crate::trace::{Mark, Trace, TraceEvent};
use crate::workload::Workload;

mod actions;
mod lies;
mod process;
mod quiet;
mod sessions;
mod troubles;

pub(crate) use troubles::Trouble;

/// After so many events a world is taken to run in circles.
const EVENTS_MAX: u64 = 3_000_000;

/// How often the application looks after its store, in milliseconds.
const CARE_MS: u64 = 700;

/// Something that is due at some time.
#[derive(Debug)]
enum Event {
    /// The workload's next transaction.
    Act(NodeIndex),
    /// Everything is read and checked at one replica.
    Look(NodeIndex),
    /// The background work of a process.
    Care { node: NodeIndex, boot: u64 },
    /// A process is started.
    Start(NodeIndex),
    /// A peer is dialled.
    Dial { node: NodeIndex, boot: u64, peer: NodeIndex },
    /// A session's next request to storage is served.
    Serve { node: NodeIndex, boot: u64, connection: ConnectionId },
    /// The answer to a request reaches its session.
    Answer { node: NodeIndex, boot: u64, connection: ConnectionId, response: Box<HostResponse> },
    /// A session wanted to be called.
    Timeout { node: NodeIndex, boot: u64, connection: ConnectionId },
    /// Something goes wrong.
    Trouble(Trouble),
    /// A process that stood still goes on.
    Resume(NodeIndex),
    /// Replicas choose other peers.
    Round,
    /// The troubles end for some.
    Heal,
    /// They have ended, after an absence of a year.
    Return,
    /// The healed are compared.
    Compare,
    /// The healed must have fallen silent.
    Silence { data_bytes: u64 },
}

/// How far a world has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Troubled,
    /// A year passes.
    Away,
    /// Some are healed and are to converge.
    Quiet {
        since_ms: u64,
    },
    /// They have, and are to fall silent.
    Silent,
    Over,
}

/// A world that runs.
pub(crate) struct World<'a> {
    plan: &'a Plan,
    now_ms: u64,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    network: Network,
    nodes: Vec<Node>,
    checkers: Checkers,
    workload: Workload,
    script: Option<&'a mut (dyn Script + 'a)>,
    random: Random,
    space_ids: Vec<SpaceId>,
    phase: Phase,
    members: Vec<NodeIndex>,
    /// Spaces whose history a liar has forked, and somebody has noticed.
    forked: BTreeSet<usize>,
    rounds_after_heal: Option<u32>,
    events: u64,
    faults: BTreeMap<&'static str, u64>,
    hasher: blake3::Hasher,
    trace: Option<Trace>,
    actions_made: u64,
}

/// What an application under test does in a world.
pub(crate) trait Script {
    /// Acts at one replica.
    fn act(&mut self, replica: &rejoin::Replica, random: &mut Random) -> Result<(), rejoin::Error>;
    /// Says what is wrong at one replica, at any time.
    fn check(&mut self, replica: &rejoin::Replica) -> Result<(), String>;
    /// Says what is wrong with replicas that have converged.
    fn check_converged(&mut self, replicas: &[rejoin::Replica]) -> Result<(), String>;
    /// The spaces that it uses.
    fn spaces(&self) -> Vec<String>;
}

/// Runs the world of a plan.
pub(crate) fn run<'a>(
    plan: &'a Plan,
    script: Option<&'a mut (dyn Script + 'a)>,
    with_trace: bool,
) -> Outcome {
    let mut world = World::new(plan, script, with_trace);
    let violation = world.run().err();
    world.finish(violation)
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, script: Option<&'a mut (dyn Script + 'a)>, with_trace: bool) -> Self {
        let mut world = Self {
            plan,
            now_ms: 0,
            queue: BTreeMap::new(),
            queued: 0,
            network: Network::new(
                Random::labelled(plan.seed, "network"),
                plan.replicas,
                troubles::transport_config(),
            ),
            nodes: Vec::new(),
            checkers: Checkers::new(CheckerConfig {
                nodes: plan.replicas,
                ..CheckerConfig::default()
            }),
            workload: Workload::new(plan),
            script,
            random: Random::labelled(plan.seed, "world"),
            space_ids: Vec::new(),
            phase: Phase::Troubled,
            members: Vec::new(),
            forked: BTreeSet::new(),
            rounds_after_heal: None,
            events: 0,
            faults: BTreeMap::new(),
            hasher: blake3::Hasher::new_derive_key("rejoin simulator trace v1"),
            trace: with_trace.then(Trace::default),
            actions_made: 0,
        };
        for index in 0..plan.replicas {
            let node = Self::machine(plan, index);
            if let Some(trace) = &mut world.trace {
                trace.nodes.push(format!("r{index}"));
            }
            world.checkers.eventual(index, !node.durable_writes);
            world.nodes.push(node);
        }
        world
    }

    /// A machine with nothing on it.
    fn machine(plan: &Plan, index: NodeIndex) -> Node {
        let mut random = Random::labelled(plan.seed, &format!("node {index}"));
        Node {
            disk: SimDisk::new(random.fork("disk"), crate::disk::DiskFaults::default()),
            clock: WallClock::default(),
            key: DeviceKey::from_seed(random.bytes()),
            ids: random.bytes(),
            durable_writes: !random.chance(plan.store.eventual),
            protocol: (PROTOCOL_MIN, PROTOCOL_MAX),
            lies: BTreeSet::new(),
            boot: 0,
            process: None,
            paused_until_ms: 0,
            start_at_ms: None,
            harmed: false,
            ruined: false,
            absent: false,
            memory_limit: None,
            backup: None,
            writer: None,
            founded: false,
            log_end: (0, 0),
            holes: Vec::new(),
            closed_cleanly: false,
            dials: 0,
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        self.prepare();
        while self.phase != Phase::Over {
            self.step()?;
            if self.events > EVENTS_MAX {
                return Err(self.violation(Checker::Liveness, None, "the world runs in circles"));
            }
        }
        Ok(())
    }

    /// Plans everything that does not depend on what happens.
    fn prepare(&mut self) {
        self.draw_conditions();
        for node in 0..self.nodes.len() {
            // All come up within a second, in any order.
            let at_ms = self.random.below(1_000);
            self.plan_start(node, at_ms);
        }
        for (at_ms, node) in self.workload.schedule(self.plan) {
            self.at(at_ms + 100, Event::Act(node));
        }
        for (at_ms, trouble) in troubles::schedule(self.plan) {
            self.at(at_ms, Event::Trouble(trouble));
        }
        for number in 1..self.plan.troubled_ms / self.plan.round_ms {
            self.at(number * self.plan.round_ms, Event::Round);
        }
        self.at(self.plan.troubled_ms, Event::Heal);
    }

    /// Lets the next thing happen.
    fn step(&mut self) -> Result<(), Violation> {
        let queued = self.queue.first_key_value().map(|((at_ms, _), _)| *at_ms);
        let network = self.network.next_at_ms();
        self.events += 1;
        match (queued, network) {
            (None, None) => {
                let what = "nothing will ever happen again, and the replicas have not converged";
                Err(self.violation(Checker::Liveness, None, what))
            }
            (queued, Some(at_ms)) if queued.is_none_or(|queued| at_ms <= queued) => {
                self.now_ms = self.now_ms.max(at_ms);
                while let Some(event) = self.network.poll(self.now_ms) {
                    self.take_network(event)?;
                }
                Ok(())
            }
            _ => {
                let Some(((at_ms, _), event)) = self.queue.pop_first() else { return Ok(()) };
                self.now_ms = self.now_ms.max(at_ms);
                self.happen(event)
            }
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        if let Some((node, until_ms)) = self.held_up(&event) {
            debug_assert!(node < self.nodes.len());
            self.at(until_ms, event);
            return Ok(());
        }
        match event {
            Event::Act(node) => self.act(node),
            Event::Look(node) => self.look(node).map(drop),
            Event::Care { node, boot } => self.care(node, boot),
            Event::Start(node) => self.start(node),
            Event::Dial { node, boot, peer } => self.dial(node, boot, peer),
            Event::Serve { node, boot, connection } => self.serve(node, boot, connection),
            Event::Answer { node, boot, connection, response } => {
                self.answer(node, boot, connection, *response)
            }
            Event::Timeout { node, boot, connection } => self.timeout(node, boot, connection),
            Event::Trouble(trouble) => self.trouble(trouble),
            Event::Resume(node) => {
                if self.nodes[node].paused_until_ms <= self.now_ms {
                    self.network.pause(node, false, self.now_ms);
                }
                Ok(())
            }
            Event::Round => self.round(),
            Event::Heal => self.heal(),
            Event::Return => self.begin_quiet(),
            Event::Compare => self.compare(),
            Event::Silence { data_bytes } => self.check_silence(data_bytes),
        }
    }

    /// Whether an event waits because its process stands still, and until when.
    fn held_up(&self, event: &Event) -> Option<(NodeIndex, u64)> {
        let node = match event {
            Event::Act(node) | Event::Look(node) => *node,
            Event::Care { node, .. }
            | Event::Dial { node, .. }
            | Event::Serve { node, .. }
            | Event::Answer { node, .. }
            | Event::Timeout { node, .. } => *node,
            _ => return None,
        };
        let until_ms = self.nodes[node].paused_until_ms;
        (until_ms > self.now_ms).then_some((node, until_ms))
    }

    /// Plans an event.
    fn at(&mut self, at_ms: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((at_ms.max(self.now_ms), self.queued), event);
    }

    /// Plans an event for some time from now.
    fn after(&mut self, wait_ms: u64, event: Event) {
        self.at(self.now_ms.saturating_add(wait_ms), event);
    }

    fn observe(&mut self, node: NodeIndex, observation: &Observation<'_>) -> Result<(), Violation> {
        for (damage, place) in self.nodes[node].disk.take_damage() {
            self.nodes[node].harmed = true;
            self.nodes[node].holes.extend(process::hole(&place));
            self.note(node, Mark::Fault, || format!("its disk is harmed: {damage:?} {place}"));
            self.checkers.observe(self.now_ms, node, &Observation::Damaged(damage))?;
        }
        self.checkers.observe(self.now_ms, node, observation)
    }

    fn violation(
        &self,
        checker: Checker,
        node: Option<NodeIndex>,
        what: impl Into<String>,
    ) -> Violation {
        Violation { checker, at_ms: self.now_ms, node, what: what.into() }
    }

    /// Adds to the hash of all that happened, and to the story.
    fn note(&mut self, node: NodeIndex, mark: Mark, text: impl FnOnce() -> String) {
        self.hasher.update(&self.now_ms.to_le_bytes());
        self.hasher.update(&[node as u8, mark as u8]);
        if let Some(trace) = &mut self.trace {
            trace.events.push(TraceEvent::At { ms: self.now_ms, node, mark, text: text() });
        }
    }

    fn note_world(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.events.push(TraceEvent::World { ms: self.now_ms, text: text() });
        }
    }

    fn count(&mut self, class: Class) {
        *self.faults.entry(class.name()).or_default() += 1;
    }

    fn finish(mut self, violation: Option<Violation>) -> Outcome {
        if let (Some(violation), Some(trace)) = (&violation, &mut self.trace) {
            trace.events.push(match violation.node {
                Some(node) => TraceEvent::At {
                    ms: violation.at_ms,
                    node,
                    mark: Mark::Violation,
                    text: violation.to_string(),
                },
                None => TraceEvent::World { ms: violation.at_ms, text: violation.to_string() },
            });
        }
        let mut faults = self.faults;
        // That packets find nobody is no fault of its own, and that a disk takes time neither.
        let follows = |class: &str| ["net: node down", "disk: slow"].contains(&class);
        for (class, count) in self.network.counts() {
            if follows(class) {
                continue;
            }
            *faults.entry(class).or_default() += count;
        }
        for node in &self.nodes {
            for (class, count) in node.disk.counts() {
                if follows(class) {
                    continue;
                }
                *faults.entry(class).or_default() += count;
            }
            node.disk.digest_into(&mut self.hasher);
        }
        self.network.trace_into(&mut self.hasher);
        // What engines would still write when they are dropped is not part of the world.
        for node in &mut self.nodes {
            node.disk.kill();
        }
        Outcome {
            seed: self.plan.seed,
            violation,
            events: self.events,
            faults,
            simulated_ms: self.now_ms,
            rounds_after_heal: self.rounds_after_heal,
            healed: self.members.len(),
            trace_hash: *self.hasher.finalize().as_bytes(),
            trace: self.trace.map(|mut trace| {
                trace.events.sort_by_key(TraceEvent::at_ms);
                trace
            }),
        }
    }

    /// The index of a space among those of the world.
    fn space_number(&self, id: SpaceId) -> Option<usize> {
        self.space_ids.iter().position(|known| *known == id)
    }
}
