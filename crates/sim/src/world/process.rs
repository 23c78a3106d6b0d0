//! Processes: how they start, what they look after, and how they end.

use std::collections::BTreeMap;
use std::sync::Arc;

use rejoin::driven::DrivenReplica;
use rejoin::{Durability, Error, Options, Path, StoreError, StoreOptions, WatchEvent};
use rejoin_gossip::wire::{BATCH_BYTES_MAX, SPACES_MAX, WINDOW_BATCHES_MAX, WINDOW_BYTES_MAX};
use rejoin_gossip::{Redial, RedialConfig};
use rejoin_store::Backend;

use super::{CARE_MS, Event, Phase, World};
use crate::history::{Death, Gauge, NodeIndex, Observation, Violation};
use crate::node::{PeerState, Process, SpaceHandle};
use crate::plan::{Class, Topology};
use crate::side::{self, OverheardHost, Side};
use crate::trace::Mark;

/// What a session may have under way of one space, in bytes: commits of worlds are far smaller than a batch.
const WAITING_BYTES_MAX: usize = WINDOW_BYTES_MAX + 2 * BATCH_BYTES_MAX;

/// What a commit takes of the row buffer, at least, in bytes of memory.
const COMMIT_BUFFERED_BYTES_MIN: usize = 80;

/// How long a machine takes to come up again, at least.
const RESTART_MS: u64 = 150;

/// Where the log of a process ends, as far as it is visible.
fn log_end(process: &Process) -> u64 {
    let snapshots = process.spaces.iter().filter_map(|handle| handle.space.read().ok());
    snapshots.map(|snapshot| snapshot.sequence().as_u64()).max().unwrap_or(0)
}

/// The header of a segment of the log, in bytes.
const SEGMENT_HEADER_BYTES: u64 = 40;

/// Where in the log a misdirected write has left a hole, from the disk's words: the name of a segment is the
/// position at which it begins.
pub(super) fn hole(place: &str) -> Option<u64> {
    let (file, what) = place.split_once(": a write for byte ")?;
    let first: u64 = file.strip_suffix(".log")?.parse().ok()?;
    let byte: u64 = what.split(' ').next()?.parse().ok()?;
    Some(first + byte.checked_sub(SEGMENT_HEADER_BYTES)?)
}

impl World<'_> {
    /// Plans the start of a process, unless it is planned already.
    pub(super) fn plan_start(&mut self, node: NodeIndex, wait_ms: u64) {
        let at_ms = self.now_ms + wait_ms;
        self.nodes[node].start_at_ms = Some(at_ms);
        self.at(at_ms, Event::Start(node));
    }

    /// Starts a process: opens its store, or founds it.
    pub(super) fn start(&mut self, node: NodeIndex) -> Result<(), Violation> {
        let machine = &self.nodes[node];
        if machine.is_up() || machine.ruined || machine.absent || self.phase == Phase::Away {
            return Ok(());
        }
        if machine.start_at_ms.is_none_or(|at_ms| at_ms > self.now_ms) {
            return Ok(());
        }
        self.nodes[node].start_at_ms = None;
        self.nodes[node].boot += 1;
        let backend = self.nodes[node].disk.boot();
        self.network.set_node_up(node, true, self.now_ms);
        match self.open(node, &backend) {
            Ok(process) => self.started(node, process),
            Err(error) => self.start_failed(node, &error),
        }
    }

    fn open(&mut self, node: NodeIndex, backend: &Arc<dyn Backend>) -> Result<Process, Error> {
        let side = Arc::new(Side::default());
        let machine = &self.nodes[node];
        side.set_wall_time_ms(machine.clock.read_ms(self.now_ms));
        let open = |backend: &Arc<dyn Backend>| {
            let surroundings = Arc::clone(&side);
            DrivenReplica::open(backend, self.options(node), &machine.ids, surroundings)
        };
        let engine = open(backend)?;
        let names = match &self.script {
            Some(script) => script.spaces(),
            None => (0..self.plan.spaces).map(|number| format!("space {number}")).collect(),
        };
        let mut spaces = Vec::new();
        for name in names {
            let space = engine.replica().space(&name)?;
            let watch = space.watch(Path::root())?;
            spaces.push(SpaceHandle { id: space.id(), space, watch });
        }
        // A liar shows two histories: its store was copied when it was new.
        let twin = match machine.lies.contains(&Class::Equivocation) {
            true => {
                let copy = rejoin_store::MemoryBackend::default();
                let twin = open(&(Arc::new(copy) as Arc<dyn Backend>))?;
                for space in &spaces {
                    twin.replica().space(space.space.name())?;
                }
                Some(twin)
            }
            false => None,
        };
        let lying = |host| match machine.is_liar() {
            true => self.lying_host(node, host),
            false => host,
        };
        let host = Arc::new(OverheardHost::new(lying(engine.host())));
        let twin_host = twin.as_ref().map(|twin| Arc::new(OverheardHost::new(lying(twin.host()))));
        Ok(Process {
            engine,
            twin,
            host,
            twin_host,
            side,
            spaces,
            links: BTreeMap::new(),
            peers: BTreeMap::new(),
            broken: false,
        })
    }

    fn options(&self, node: NodeIndex) -> Options {
        let shape = self.plan.store;
        let machine = &self.nodes[node];
        let durability = match machine.durable_writes {
            true => Durability::Immediate,
            false => Durability::Eventual { interval_ms: CARE_MS },
        };
        Options {
            store: StoreOptions {
                durability,
                segment_bytes: shape.segment_bytes,
                reserve_bytes: shape.reserve_bytes,
                buffer_bytes: shape.buffer_bytes,
                buffer_bytes_max: shape.buffer_bytes * 4,
                tree_cache_bytes: shape.tree_cache_bytes,
                snapshot_checkpoints_max: shape.snapshot_checkpoints_max,
                ..StoreOptions::default()
            },
            device_key: Some(machine.key.clone()),
        }
    }

    fn started(&mut self, node: NodeIndex, process: Process) -> Result<(), Violation> {
        if self.nodes[node].disk.is_dead() {
            return self.die(node, Death::PowerCut);
        }
        let replica = process.engine.replica();
        let writer = side::writer(replica.replica_id());
        let report = *replica.open_report();
        if self.space_ids.is_empty() {
            self.space_ids = process.spaces.iter().map(|space| space.id).collect();
        }
        let mut versions = Vec::new();
        let sure = |(space, _): &(usize, _)| !self.plan.is_doubtful(*space);
        for (number, handle) in process.spaces.iter().enumerate().filter(sure) {
            match handle.space.read() {
                Ok(snapshot) => versions.push((number, side::version(snapshot.version()))),
                Err(error) => return self.start_failed(node, &error),
            }
        }
        if self.has_lost_harmed_tail(node, log_end(&process)) {
            self.note(node, Mark::Fault, || {
                "has lost a last batch that its disk harmed".to_owned()
            });
            self.nodes[node].ruined = true;
            self.nodes[node].disk.kill();
            self.network.set_node_up(node, false, self.now_ms);
            return Ok(());
        }
        let fresh = !self.nodes[node].founded;
        self.nodes[node].founded = true;
        self.nodes[node].writer = Some(writer);
        let clean = std::mem::take(&mut self.nodes[node].closed_cleanly);
        self.nodes[node].process = Some(process);
        self.note(node, Mark::Up, || match fresh {
            true => "starts for the first time".to_owned(),
            false => match report.torn_tail {
                None => format!("starts; {} commits applied again", report.replayed_commits),
                Some(tail) => format!(
                    "starts; {} commits applied again, {} torn bytes cut off at {}",
                    report.replayed_commits,
                    tail.bytes,
                    tail.position.get()
                ),
            },
        });
        self.observe(node, &Observation::Opened { writer, versions: &versions, fresh })?;
        if clean {
            let value = report.replayed_commits;
            let name = "commits applied again after a clean close";
            self.observe(node, &Observation::Measured(Gauge { name, value, limit: 0 }))?;
        }
        // A commit takes this much of the row buffer at least, and the buffer bounds what is replayed.
        let limit = (4 * self.plan.store.buffer_bytes / COMMIT_BUFFERED_BYTES_MIN + 1) as u64;
        let (name, value) = ("commits applied again", report.replayed_commits);
        self.observe(node, &Observation::Measured(Gauge { name, value, limit }))?;
        let boot = self.nodes[node].boot;
        let wait_ms = self.random.within(1..=CARE_MS);
        self.after(wait_ms, Event::Care { node, boot });
        self.choose_peers(node);
        self.pump(node)
    }

    /// Whether what was cut off as torn is the last batch that was written, on a disk that was harmed, or one that
    /// went to another place and behind which nothing whole is found. No store can tell that from a torn tail by
    /// itself; the replica is then one that was rolled back.
    fn has_lost_harmed_tail(&self, node: NodeIndex, end: u64) -> bool {
        let machine = &self.nodes[node];
        let unknowable = end >= machine.log_end.1 || machine.holes.contains(&end);
        machine.harmed && machine.founded && end < machine.log_end.0 && unknowable
    }

    /// Notes where the log ends, right after it was synced.
    fn note_log_end(&mut self, node: NodeIndex) {
        let Some(process) = &self.nodes[node].process else { return };
        let end = log_end(process);
        let known = &mut self.nodes[node].log_end;
        if end > known.0 {
            *known = (end, known.0);
        }
    }

    fn start_failed(&mut self, node: NodeIndex, error: &Error) -> Result<(), Violation> {
        if self.nodes[node].disk.is_dead() {
            return self.die(node, Death::PowerCut);
        }
        let damaged = matches!(error, Error::Store(StoreError::Damaged { .. }))
            || matches!(error, Error::Store(StoreError::UnknownFormat { .. }));
        let text = error.to_string();
        self.note(node, Mark::Fault, || format!("cannot open its store: {text}"));
        self.observe(node, &Observation::OpenFailed { error: &error.to_string(), damaged })?;
        // Whatever the engine still holds must let go of the disk.
        self.nodes[node].disk.kill();
        self.network.set_node_up(node, false, self.now_ms);
        if damaged {
            self.nodes[node].ruined = true;
        } else {
            self.plan_start(node, 4 * RESTART_MS);
        }
        Ok(())
    }

    /// What the application does from time to time: it lets the engine work, and sees whether it still can.
    pub(super) fn care(&mut self, node: NodeIndex, boot: u64) -> Result<(), Violation> {
        let Some(process) = self.running(node, boot) else { return Ok(()) };
        let worked = process.engine.work().and_then(|()| process.engine.replica().sync());
        let synced = worked.is_ok() && !self.nodes[node].disk.is_dead();
        if synced {
            self.observe(node, &Observation::Synced)?;
            self.after(CARE_MS, Event::Care { node, boot });
        } else if let Some(process) = &mut self.nodes[node].process {
            process.broken = true;
        }
        self.measure(node)?;
        self.pump(node)
    }

    /// Measures what has declared limits.
    pub(super) fn measure(&mut self, node: NodeIndex) -> Result<(), Violation> {
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        let mut gauges = Vec::new();
        let spaces = self.space_ids.len() as u64;
        for (connection, link) in &process.links {
            let end = crate::network::End { connection: *connection, node };
            // A window for each space, the batch that overshoots it, and small messages.
            let limit = spaces * WAITING_BYTES_MAX as u64 + (256 << 10);
            let value = self.network.buffered(end) as u64;
            gauges.push(Gauge { name: "bytes that wait for a peer", value, limit });
            let (value, limit) = (link.open_requests as u64, 3 * spaces + 1);
            gauges.push(Gauge { name: "requests of a session under way", value, limit });
            let (value, limit) = (link.overheard.offered.len() as u64, SPACES_MAX as u64);
            gauges.push(Gauge { name: "spaces that a peer has offered", value, limit });
            // A peer may have this many batches under way; one more is what storage works on.
            let (value, limit) = (link.overheard.rows_waiting, 2 * WINDOW_BATCHES_MAX as u64 + 1);
            gauges.push(Gauge { name: "frames that wait for storage", value, limit });
        }
        let held: usize = process
            .links
            .keys()
            .map(|connection| {
                let end = crate::network::End { connection: *connection, node };
                self.network.buffered(end) + self.network.unread(end)
            })
            .sum();
        for gauge in gauges {
            self.observe(node, &Observation::Measured(gauge))?;
        }
        if self.nodes[node].memory_limit.is_some_and(|limit| held > limit) {
            self.nodes[node].memory_limit = None;
            self.count(Class::OutOfMemory);
            self.note(node, Mark::Fault, || format!("out of memory with {held} bytes held"));
            self.die(node, Death::Killed)?;
        }
        Ok(())
    }

    /// Deals with what a call to the engine brought about, until nothing is left.
    pub(super) fn pump(&mut self, node: NodeIndex) -> Result<(), Violation> {
        if self.nodes[node].disk.is_dead() {
            return self.die(node, Death::PowerCut);
        }
        self.report_passed(node)?;
        self.report_watched(node)?;
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let news = process.side.take_durable();
        if !news.is_empty() {
            self.note_log_end(node);
        }
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let spaces_changed = process.side.take_spaces_changed();
        for link in process.links.values_mut() {
            if spaces_changed {
                link.session.handle_spaces_changed(self.now_ms);
            }
            for (space, version) in &news {
                link.session.handle_local_change(*space, version, self.now_ms);
            }
        }
        let connections: Vec<_> = process.links.keys().copied().collect();
        for connection in connections {
            self.drain(node, connection)?;
        }
        let broken = self.nodes[node].process.as_ref().is_some_and(|process| process.broken);
        if broken {
            self.note(node, Mark::Fault, || "its store takes no more writes".to_owned());
            self.die(node, Death::Killed)?;
        }
        Ok(())
    }

    fn report_passed(&mut self, node: NodeIndex) -> Result<(), Violation> {
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        let passed = process.host.take_passed();
        if let Some(twin) = &process.twin_host {
            drop(twin.take_passed());
        }
        let mut applied = 0;
        for carried in passed {
            let Some(space) = self.space_number(carried.space) else { continue };
            if self.plan.is_doubtful(space) {
                continue;
            }
            let (first, bodies) = (carried.first, &carried.bodies);
            if !carried.sending {
                applied += bodies.len();
            }
            let sending = carried.sending;
            if sending && self.nodes[node].is_liar() {
                continue;
            }
            self.observe(node, &Observation::Carried { space, first, bodies, sending })?;
        }
        if applied > 0 {
            self.note(node, Mark::Applied, || format!("takes {applied} commit(s) from a peer"));
        }
        Ok(())
    }

    fn report_watched(&mut self, node: NodeIndex) -> Result<(), Violation> {
        for space in 0..self.space_ids.len() {
            loop {
                let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
                let handle = &mut process.spaces[space];
                match handle.watch.try_next() {
                    Ok(Some(WatchEvent::Commit { dot, .. })) => {
                        let dot = crate::history::DotName {
                            writer: side::writer(dot.replica),
                            sequence: dot.sequence,
                        };
                        if !self.plan.is_doubtful(space) {
                            self.observe(node, &Observation::Delivered { space, dot })?;
                        }
                    }
                    Ok(Some(_)) => {
                        let Ok(snapshot) = handle.space.read() else { break };
                        let version = side::version(snapshot.version());
                        if !self.plan.is_doubtful(space) {
                            let observation = Observation::Reread { space, version: &version };
                            self.observe(node, &observation)?;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => break,
                }
            }
        }
        Ok(())
    }

    /// Ends a process.
    pub(super) fn die(&mut self, node: NodeIndex, death: Death) -> Result<(), Violation> {
        match death {
            Death::PowerCut => self.nodes[node].disk.power_cut(),
            Death::Killed | Death::Closed => self.nodes[node].disk.kill(),
        }
        self.network.forget_node(node);
        self.network.set_node_up(node, false, self.now_ms);
        // Its disk is dead: whatever it does on its way out changes nothing.
        drop(self.nodes[node].process.take());
        self.note(node, Mark::Down, || {
            match death {
                Death::PowerCut => "loses power",
                Death::Killed => "is killed",
                Death::Closed => "closes",
            }
            .to_owned()
        });
        if self.nodes[node].founded {
            self.observe(node, &Observation::Died(death))?;
        }
        let wait_ms = RESTART_MS + self.random.wait_ms(600.0);
        if matches!(self.phase, Phase::Troubled | Phase::Quiet { .. } | Phase::Silent) {
            self.plan_start(node, wait_ms);
        }
        Ok(())
    }

    /// Closes a process in good order.
    pub(super) fn close(&mut self, node: NodeIndex) -> Result<(), Violation> {
        let Some(process) = self.nodes[node].process.take() else { return Ok(()) };
        let closed = process.engine.replica().clone().close();
        drop(process);
        if self.nodes[node].disk.is_dead() {
            return self.die(node, Death::PowerCut);
        }
        if closed.is_ok() && self.nodes[node].founded {
            self.nodes[node].closed_cleanly = true;
            self.observe(node, &Observation::Synced)?;
        }
        self.die(node, Death::Closed)
    }

    /// The process of a node, if it still is the one of that boot.
    pub(super) fn running(&mut self, node: NodeIndex, boot: u64) -> Option<&mut Process> {
        let now_ms = self.now_ms;
        let machine = &mut self.nodes[node];
        let wall_ms = machine.clock.read_ms(now_ms);
        let process = machine.process.as_mut().filter(|_| machine.boot == boot)?;
        process.side.set_wall_time_ms(wall_ms);
        Some(process)
    }

    /// Chooses whom a process keeps connections with, and lets go of others that it dialled.
    pub(super) fn choose_peers(&mut self, node: NodeIndex) {
        let settled = matches!(self.phase, Phase::Quiet { .. } | Phase::Silent);
        let among: Vec<NodeIndex> = match settled && self.members.contains(&node) {
            true => self.members.clone(),
            false => (0..self.nodes.len()).collect(),
        };
        let mut others: Vec<_> = among.into_iter().filter(|other| *other != node).collect();
        if let Topology::RandomPeers(count) = self.plan.topology {
            self.random.shuffle(&mut others);
            others.truncate(count);
        }
        let seed = self.random.next_u64();
        let (boot, round_ms) = (self.nodes[node].boot, self.plan.round_ms);
        let now_ms = self.now_ms;
        let Some(process) = &mut self.nodes[node].process else { return };
        for state in process.peers.values_mut() {
            state.wanted = false;
        }
        let mut dials = Vec::new();
        for peer in others {
            let config =
                RedialConfig { base_ms: 50, cap_ms: round_ms / 4, settled_ms: round_ms / 2 };
            let state = process.peers.entry(peer).or_insert_with(|| PeerState {
                redial: Redial::new(config, seed ^ peer as u64),
                dialling: false,
                next_dial_ms: 0,
                wanted: true,
            });
            state.wanted = true;
            let linked = process.links.values().any(|link| link.peer == peer);
            if !linked && !state.dialling {
                state.dialling = true;
                if state.next_dial_ms <= now_ms {
                    dials.push(peer);
                }
            }
        }
        let unwanted: Vec<_> = process
            .links
            .iter()
            .filter(|(_, link)| {
                let state = process.peers.get(&link.peer);
                link.dialled && state.is_some_and(|state| !state.wanted)
            })
            .map(|(connection, _)| *connection)
            .collect();
        for connection in unwanted {
            self.hang_up(node, connection, 0, "another peer's turn");
        }
        for peer in dials {
            let wait_ms = self.random.below(50);
            self.after(wait_ms, Event::Dial { node, boot, peer });
        }
    }
}
