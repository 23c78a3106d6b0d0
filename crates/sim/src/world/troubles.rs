//! What goes wrong, and when: drawn for each class of faults from a stream of its own.

use rejoin_gossip::wire::PROTOCOL_MAX;

use super::{Event, Phase, World};
use crate::disk::DiskFaults;
use crate::history::{Damage, Death, NodeIndex, Observation, Violation};
use crate::network::{Bursts, Latency, LinkConditions, TransportConfig};
use crate::plan::{Class, OUTAGE_MS, Plan};
use crate::random::Random;
use crate::trace::{Mark, TraceEvent};

/// A day and a year, in milliseconds.
const DAY_MS: u64 = 86_400_000;
pub(super) const YEAR_MS: u64 = 365 * DAY_MS;

/// Something that goes wrong at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Trouble {
    /// Nothing passes over these directions for a time.
    Cut { class: Class, directions: Vec<(NodeIndex, NodeIndex)>, ms: u64 },
    /// They are whole again.
    Mend { directions: Vec<(NodeIndex, NodeIndex)> },
    /// A device moves to another network.
    Move(NodeIndex),
    /// A process reads nothing from its connections for a time.
    ReadSlowly { node: NodeIndex, ms: u64 },
    /// It reads again.
    ReadAgain(NodeIndex),
    /// Power is lost, or the process killed.
    Crash { node: NodeIndex, death: Death },
    /// The same, in the middle of a disk operation to come.
    CrashAt { node: NodeIndex, operations: u64, death: Death },
    /// The application closes the replica and opens it again.
    Restart(NodeIndex),
    /// A process stands still for a time.
    Pause { node: NodeIndex, ms: u64 },
    /// There is only so much memory for a time.
    LittleMemory { node: NodeIndex, ms: u64 },
    /// There is enough again.
    EnoughMemory(NodeIndex),
    /// A clock is set.
    Jump { node: NodeIndex, by_ms: i64 },
    /// A clock stands still for a time.
    Freeze { node: NodeIndex, ms: u64 },
    /// It goes on.
    Thaw(NodeIndex),
    /// Bits of a disk change.
    Rot(NodeIndex),
    /// The next write of a disk goes to another place.
    Misdirect(NodeIndex),
    /// A disk is nearly full for a time.
    Fill { node: NodeIndex, ms: u64 },
    /// It has room again.
    Empty(NodeIndex),
    /// A log is dropped as far as it may be.
    Truncate(NodeIndex),
    /// A replica goes away until the heal, and the heal is a year later.
    Leave(NodeIndex),
    /// A disk is copied.
    Backup(NodeIndex),
    /// The copy takes the disk's place.
    Restore(NodeIndex),
    /// A disk is copied to another device, and both are in use.
    Clone { node: NodeIndex, to: NodeIndex },
    /// A liar sends what no session would, in this way.
    Lie { node: NodeIndex, class: Class },
}

/// How connections behave in worlds.
pub(super) fn transport_config() -> TransportConfig {
    TransportConfig { idle_timeout_ms: 3_000, keep_alive_ms: 900, ..TransportConfig::default() }
}

/// Which replica lies, in a world with a liar.
fn liar(plan: &Plan) -> Option<NodeIndex> {
    let lies = Class::LIES.iter().any(|class| plan.faults.contains_key(class));
    (lies && plan.replicas >= 4).then_some(plan.replicas - 1)
}

/// How likely a direction of a link has a fault that its world has.
const LINK_FAULTY: f64 = 0.5;

/// Draws everything that goes wrong at one moment.
pub(super) fn schedule(plan: &Plan) -> Vec<(u64, Trouble)> {
    let mut schedule = Vec::new();
    for (class, rate) in &plan.faults {
        let mut random = Random::labelled(plan.seed, class.name());
        let whole = *rate as u64;
        let count = whole + u64::from(random.chance(rate - whole as f64));
        for _ in 0..count {
            let at_ms = random.below(plan.troubled_ms);
            let node = random.index(plan.replicas);
            draw(plan, *class, at_ms, node, &mut random, &mut schedule);
        }
    }
    schedule
}

/// Draws one thing that goes wrong, and with it when it ends.
fn draw(
    plan: &Plan,
    class: Class,
    at_ms: u64,
    node: NodeIndex,
    random: &mut Random,
    schedule: &mut Vec<(u64, Trouble)>,
) {
    let ms = random.wait_ms(3_000.0).min(plan.troubled_ms);
    let others = |random: &mut Random| {
        let mut others: Vec<_> = (0..plan.replicas).filter(|other| *other != node).collect();
        random.shuffle(&mut others);
        others
    };
    let mut with_end = |begin: Trouble, end: Trouble| {
        schedule.push((at_ms, begin));
        schedule.push((at_ms + ms, end));
    };
    match class {
        Class::Partition => {
            let mut side: Vec<_> = (0..plan.replicas).collect();
            random.shuffle(&mut side);
            let (left, right) = side.split_at(1 + random.index(plan.replicas - 1));
            let pairs = left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b)));
            let directions: Vec<_> = pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect();
            with_end(
                Trouble::Cut { class, directions: directions.clone(), ms },
                Trouble::Mend { directions },
            );
        }
        Class::OneWayCut => {
            let mut others = others(random);
            others.truncate(1 + random.index(plan.replicas - 1));
            let outward = random.chance(0.5);
            let direction = |other| if outward { (node, other) } else { (other, node) };
            let directions: Vec<_> = others.into_iter().map(direction).collect();
            with_end(
                Trouble::Cut { class, directions: directions.clone(), ms },
                Trouble::Mend { directions },
            );
        }
        Class::Flapping => {
            let Some(other) = others(random).first().copied() else { return };
            let directions = vec![(node, other), (other, node)];
            let mut from_ms = at_ms;
            for _ in 0..random.within(2..=8) {
                let (down_ms, up_ms) = (random.within(10..=900), random.within(10..=900));
                let cut = Trouble::Cut { class, directions: directions.clone(), ms: down_ms };
                schedule.push((from_ms, cut));
                let mend = Trouble::Mend { directions: directions.clone() };
                schedule.push((from_ms + down_ms, mend));
                from_ms += down_ms + up_ms;
            }
        }
        Class::AddressChange => schedule.push((at_ms, Trouble::Move(node))),
        Class::SlowReader => {
            with_end(Trouble::ReadSlowly { node, ms }, Trouble::ReadAgain(node));
        }
        Class::PowerCut => {
            schedule.push((at_ms, Trouble::Crash { node, death: Death::PowerCut }));
        }
        Class::Kill => schedule.push((at_ms, Trouble::Crash { node, death: Death::Killed })),
        Class::PowerCutInWrite => {
            let death = if random.chance(0.7) { Death::PowerCut } else { Death::Killed };
            let operations = random.below(40);
            schedule.push((at_ms, Trouble::CrashAt { node, operations, death }));
        }
        Class::CleanRestart => schedule.push((at_ms, Trouble::Restart(node))),
        Class::Pause => {
            schedule.push((at_ms, Trouble::Pause { node, ms: ms.min(6_000) }));
        }
        Class::OutOfMemory => {
            with_end(Trouble::LittleMemory { node, ms }, Trouble::EnoughMemory(node));
        }
        Class::ClockJump => {
            let by_ms = random.within(1..=4 * YEAR_MS) >> random.below(32);
            let sign = if random.chance(0.5) { 1 } else { -1 };
            schedule.push((at_ms, Trouble::Jump { node, by_ms: sign * by_ms as i64 }));
        }
        Class::ClockFrozen => {
            with_end(Trouble::Freeze { node, ms }, Trouble::Thaw(node));
        }
        Class::BitRot => {
            for _ in 0..random.within(1..=3) {
                schedule.push((at_ms, Trouble::Rot(node)));
            }
            if random.chance(0.5) {
                // What has rotted is read.
                schedule.push((at_ms + ms, Trouble::Crash { node, death: Death::Killed }));
            }
        }
        Class::MisdirectedWrite => schedule.push((at_ms, Trouble::Misdirect(node))),
        Class::FullDisk => with_end(Trouble::Fill { node, ms }, Trouble::Empty(node)),
        Class::Truncation => schedule.push((at_ms, Trouble::Truncate(node))),
        Class::Absence => schedule.push((at_ms / 2, Trouble::Leave(node))),
        Class::Rollback => with_end(Trouble::Backup(node), Trouble::Restore(node)),
        Class::Clone => {
            if let Some(to) = others(random).first().copied() {
                schedule.push((at_ms, Trouble::Clone { node, to }));
            }
        }
        Class::LongOutage => {
            let directions: Vec<_> = others(random)
                .into_iter()
                .flat_map(|other| [(node, other), (other, node)])
                .collect();
            // It ends with the troubles.
            let ms = plan.troubled_ms;
            schedule
                .push((at_ms % (ms - OUTAGE_MS).max(1), Trouble::Cut { class, directions, ms }));
        }
        Class::Bomb | Class::Forgery | Class::Flooding | Class::BrokenFrames => {
            if let Some(node) = liar(plan) {
                schedule.push((at_ms, Trouble::Lie { node, class }));
            }
        }
        // These are conditions of links, disks, clocks and builds, and lies: not of one moment.
        Class::Loss
        | Class::Duplication
        | Class::Reordering
        | Class::NetworkCorruption
        | Class::RateLimit
        | Class::SmallMtu
        | Class::OtherVersion
        | Class::ClockSkew
        | Class::ClockDrift
        | Class::FailedSync
        | Class::FailedWrite
        | Class::FailedRead
        | Class::SlowDisk
        | Class::Equivocation
        | Class::Withholding
        | Class::FalseVersion
        | Class::FarFuture => {}
    }
}

impl World<'_> {
    /// Draws how links, disks, clocks and builds are in the troubled part.
    pub(super) fn draw_conditions(&mut self) {
        let plan = self.plan;
        for from in 0..plan.replicas {
            for to in (0..plan.replicas).filter(|to| *to != from) {
                let conditions = Self::link_conditions(plan, from, to);
                self.network.set_link(from, to, conditions);
            }
        }
        for node in 0..plan.replicas {
            let faults = Self::disk_faults(plan, node);
            let faulty = faults != DiskFaults::default();
            self.nodes[node].disk.set_faults(faults);
            self.checkers.disk_faults(node, faulty);
            self.draw_machine(node);
        }
        if let Some(liar) = liar(plan) {
            let lies = Class::LIES.iter().copied();
            self.nodes[liar].lies = lies.filter(|class| plan.faults.contains_key(class)).collect();
            if self.nodes[liar].lies.contains(&Class::FarFuture) {
                self.nodes[liar].clock.frozen_at_ms = Some(u64::MAX - 1);
            }
            // A liar's own disk is of no interest.
            self.nodes[liar].disk.set_faults(DiskFaults::default());
        }
    }

    fn link_conditions(plan: &Plan, from: NodeIndex, to: NodeIndex) -> LinkConditions {
        let mut random = Random::labelled(plan.seed, &format!("link {from} {to}"));
        let mut drawn = |class: Class| {
            let rate = plan.rate(class);
            (random.chance(LINK_FAULTY) && rate > 0.0).then_some((rate, random.fork("rate")))
        };
        let latency = plan.latency_ms;
        let mut conditions = LinkConditions {
            latency: Latency {
                min_ms: latency / 2,
                tail_ms: latency as f64 / 2.0,
                max_ms: latency * 8 + 10,
            },
            ..LinkConditions::default()
        };
        if let Some((rate, mut random)) = drawn(Class::Loss) {
            match random.chance(0.3) {
                true => {
                    conditions.bursts = Some(Bursts { begin: rate / 5.0, end: 0.2, loss: 0.9 });
                }
                false => conditions.loss = rate,
            }
        }
        if let Some((rate, _)) = drawn(Class::Duplication) {
            conditions.duplicate = rate;
        }
        if let Some((rate, _)) = drawn(Class::Reordering) {
            conditions.reorder = rate;
        }
        if let Some((rate, _)) = drawn(Class::NetworkCorruption) {
            conditions.corrupt = rate;
        }
        if let Some((_, mut random)) = drawn(Class::RateLimit) {
            conditions.bytes_per_ms = Some(random.within(4..=400) as f64);
            conditions.queue_bytes = 8 << 10;
        }
        if let Some((_, mut random)) = drawn(Class::SmallMtu) {
            conditions.mtu = random.within(700..=1_400) as usize;
        }
        conditions
    }

    fn disk_faults(plan: &Plan, node: NodeIndex) -> DiskFaults {
        let mut random = Random::labelled(plan.seed, &format!("disk faults {node}"));
        let mut rate = |class| if random.chance(0.5) { plan.rate(class) } else { 0.0 };
        let stall = rate(Class::SlowDisk);
        DiskFaults {
            failed_sync: rate(Class::FailedSync),
            failed_write: rate(Class::FailedWrite),
            failed_read: rate(Class::FailedRead),
            operation_us: if stall > 0.0 { 200 } else { 0 },
            stall,
            stall_ms: 80,
            ..DiskFaults::default()
        }
    }

    fn draw_machine(&mut self, node: NodeIndex) {
        let plan = self.plan;
        let mut random = Random::labelled(plan.seed, &format!("machine {node}"));
        if random.chance(plan.rate(Class::ClockSkew)) {
            let by_ms = random.within(1_000..=8 * YEAR_MS) >> random.below(24);
            let sign = if random.chance(0.5) { 1 } else { -1 };
            self.nodes[node].clock.offset_ms = sign * by_ms as i64;
            self.count(Class::ClockSkew);
        }
        if random.chance(plan.rate(Class::ClockDrift)) {
            self.nodes[node].clock.drift = random.below(200) as f64 / 1_000.0 - 0.1;
            self.count(Class::ClockDrift);
        }
        if random.chance(plan.rate(Class::OtherVersion)) {
            self.nodes[node].protocol.1 = PROTOCOL_MAX + 1;
            self.count(Class::OtherVersion);
        }
    }

    /// Something goes wrong, or ends.
    pub(super) fn trouble(&mut self, trouble: Trouble) -> Result<(), Violation> {
        if self.phase != Phase::Troubled {
            return Ok(());
        }
        match trouble {
            Trouble::Cut { class, directions, ms } => self.cut(class, &directions, ms),
            Trouble::Mend { directions } => self.mend(&directions),
            Trouble::Move(node) => {
                self.network.change_address(node);
                self.note(node, Mark::Fault, || "moves to another address".to_owned());
            }
            Trouble::ReadSlowly { node, .. } => {
                self.network.set_slow(node, true, self.now_ms);
                self.count(Class::SlowReader);
                self.note(node, Mark::Fault, || "reads nothing for a while".to_owned());
            }
            Trouble::ReadAgain(node) => self.network.set_slow(node, false, self.now_ms),
            Trouble::Crash { node, death } => {
                if self.nodes[node].is_up() {
                    self.count(match death {
                        Death::PowerCut => Class::PowerCut,
                        _ => Class::Kill,
                    });
                    self.die(node, death)?;
                }
            }
            Trouble::CrashAt { node, operations, death } => {
                self.count(Class::PowerCutInWrite);
                match death {
                    Death::PowerCut => self.nodes[node].disk.crash_after(Some(operations)),
                    _ => self.nodes[node].disk.crash_after_kill(Some(operations)),
                }
            }
            Trouble::Restart(node) => {
                if self.nodes[node].is_up() {
                    self.count(Class::CleanRestart);
                    self.close(node)?;
                }
            }
            Trouble::Pause { node, ms } => self.stand_still(node, ms),
            Trouble::LittleMemory { node, .. } => {
                self.nodes[node].memory_limit = Some(16 << 10);
            }
            Trouble::EnoughMemory(node) => self.nodes[node].memory_limit = None,
            Trouble::Jump { node, by_ms } => {
                let clock = &mut self.nodes[node].clock;
                clock.offset_ms = clock.offset_ms.saturating_add(by_ms);
                self.count(Class::ClockJump);
                self.note(node, Mark::Fault, || format!("its clock jumps by {} s", by_ms / 1_000));
            }
            Trouble::Freeze { node, .. } => {
                let now_ms = self.now_ms;
                let clock = &mut self.nodes[node].clock;
                clock.frozen_at_ms = Some(clock.read_ms(now_ms));
                self.count(Class::ClockFrozen);
                self.note(node, Mark::Fault, || "its clock stands still".to_owned());
            }
            Trouble::Thaw(node) => {
                if !self.nodes[node].lies.contains(&Class::FarFuture) {
                    self.nodes[node].clock.frozen_at_ms = None;
                }
            }
            Trouble::Rot(node) => self.rot(node),
            Trouble::Misdirect(node) => {
                if self.may_harm(node) {
                    self.nodes[node].harmed = true;
                    self.nodes[node].disk.misdirect_next_write();
                }
            }
            Trouble::Fill { node, .. } => {
                let disk = &self.nodes[node].disk;
                let room = self.random.below(64) << 10;
                let capacity_bytes = Some(disk.used_bytes() + room);
                disk.set_faults(DiskFaults { capacity_bytes, ..disk.faults() });
                self.checkers.disk_faults(node, true);
                self.note(node, Mark::Fault, || format!("has room for {} KiB more", room >> 10));
            }
            Trouble::Empty(node) => {
                let disk = &self.nodes[node].disk;
                disk.set_faults(DiskFaults { capacity_bytes: None, ..disk.faults() });
            }
            Trouble::Truncate(node) => return self.truncate(node),
            Trouble::Leave(node) => {
                self.count(Class::Absence);
                self.nodes[node].absent = true;
                self.close(node)?;
                self.note(node, Mark::Down, || "goes away for a year".to_owned());
            }
            Trouble::Backup(node) => {
                self.nodes[node].backup = Some(self.nodes[node].disk.image());
            }
            Trouble::Restore(node) => return self.restore(node),
            Trouble::Clone { node, to } => return self.clone_disk(node, to),
            Trouble::Lie { node, class } => self.lie_aloud(node, class),
        }
        Ok(())
    }

    fn cut(&mut self, class: Class, directions: &[(NodeIndex, NodeIndex)], ms: u64) {
        self.count(class);
        for (from, to) in directions {
            let conditions = LinkConditions { up: false, ..self.network.link(*from, *to).clone() };
            self.network.set_link(*from, *to, conditions);
            let (now_ms, from, to) = (self.now_ms, *from, *to);
            if let Some(trace) = &mut self.trace {
                trace.events.push(TraceEvent::Link {
                    from,
                    to,
                    from_ms: now_ms,
                    until_ms: Some(now_ms + ms),
                    text: "cut".to_owned(),
                });
            }
        }
    }

    fn mend(&mut self, directions: &[(NodeIndex, NodeIndex)]) {
        for (from, to) in directions {
            let conditions = LinkConditions { up: true, ..self.network.link(*from, *to).clone() };
            self.network.set_link(*from, *to, conditions);
        }
    }

    fn stand_still(&mut self, node: NodeIndex, ms: u64) {
        self.count(Class::Pause);
        self.nodes[node].paused_until_ms = self.now_ms + ms;
        self.network.pause(node, true, self.now_ms);
        self.note(node, Mark::Pause, || format!("stands still for {ms} ms"));
        self.at(self.now_ms + ms, Event::Resume(node));
    }

    /// Whether a disk may be harmed: only a minority of them is, or nothing could converge.
    fn may_harm(&self, node: NodeIndex) -> bool {
        let harmed = self.nodes.iter().filter(|node| node.harmed || node.is_liar()).count();
        self.nodes[node].harmed || 2 * (harmed + 1) < self.nodes.len()
    }

    fn rot(&mut self, node: NodeIndex) {
        if !self.may_harm(node) || self.nodes[node].is_liar() {
            return;
        }
        if let Some(place) = self.nodes[node].disk.rot() {
            self.nodes[node].harmed = true;
            self.note(node, Mark::Fault, || format!("its disk rots: {place}"));
        }
    }

    fn truncate(&mut self, node: NodeIndex) -> Result<(), Violation> {
        let boot = self.nodes[node].boot;
        let Some(process) = self.running(node, boot) else { return Ok(()) };
        match process.engine.replica().drop_log() {
            Ok(bytes) => {
                if bytes > 0 {
                    self.count(Class::Truncation);
                    self.note(node, Mark::Fault, || format!("drops {bytes} bytes of its log"));
                }
            }
            Err(_) => process.broken = true,
        }
        self.pump(node)
    }

    fn restore(&mut self, node: NodeIndex) -> Result<(), Violation> {
        let Some(image) = self.nodes[node].backup.take() else { return Ok(()) };
        self.count(Class::Rollback);
        self.die(node, Death::Killed)?;
        self.nodes[node].disk.restore(&image);
        self.nodes[node].harmed = true;
        self.note(node, Mark::Fault, || "an old backup takes the place of its disk".to_owned());
        self.observe(node, &Observation::Damaged(Damage::RolledBack))
    }

    fn clone_disk(&mut self, node: NodeIndex, to: NodeIndex) -> Result<(), Violation> {
        if !self.nodes[node].founded || self.nodes[node].is_liar() || self.nodes[to].is_liar() {
            return Ok(());
        }
        self.count(Class::Clone);
        self.die(to, Death::Killed)?;
        let image = self.nodes[node].disk.image();
        self.nodes[to].disk.restore(&image);
        for harmed in [node, to] {
            self.nodes[harmed].harmed = true;
        }
        self.note(to, Mark::Fault, || format!("has a copy of the disk of r{node} from now on"));
        self.observe(to, &Observation::Damaged(Damage::Cloned))
    }
}
