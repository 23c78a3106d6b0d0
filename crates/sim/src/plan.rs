//! What a world is made of: everything that is decided before its first event, drawn from its seed.

use std::collections::BTreeMap;

use crate::random::Random;

/// A class of faults. Each is on or off in a world (swarm testing: Groce et al., ISSTA 2012), at a rate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // Each is named by what `describe` says of it.
pub enum Class {
    Loss,
    Duplication,
    Reordering,
    NetworkCorruption,
    RateLimit,
    SmallMtu,
    Partition,
    OneWayCut,
    Flapping,
    AddressChange,
    SlowReader,
    PowerCut,
    PowerCutInWrite,
    Kill,
    CleanRestart,
    Pause,
    OutOfMemory,
    OtherVersion,
    ClockSkew,
    ClockDrift,
    ClockJump,
    ClockFrozen,
    FailedSync,
    FailedWrite,
    FailedRead,
    BitRot,
    MisdirectedWrite,
    FullDisk,
    SlowDisk,
    Truncation,
    Absence,
    Rollback,
    Clone,
    Equivocation,
    Withholding,
    FalseVersion,
    Bomb,
    FarFuture,
    LongOutage,
    Forgery,
    Flooding,
    BrokenFrames,
}

use Class as C;

/// Every class that worlds have by default, and how likely a world has it.
const DEFAULT: [(Class, f64); 36] = [
    (C::Loss, 0.6),
    (C::Duplication, 0.5),
    (C::Reordering, 0.5),
    (C::NetworkCorruption, 0.4),
    (C::RateLimit, 0.3),
    (C::SmallMtu, 0.2),
    (C::Partition, 0.6),
    (C::OneWayCut, 0.4),
    (C::Flapping, 0.3),
    (C::AddressChange, 0.3),
    (C::SlowReader, 0.3),
    (C::PowerCut, 0.5),
    (C::PowerCutInWrite, 0.5),
    (C::Kill, 0.4),
    (C::CleanRestart, 0.3),
    (C::Pause, 0.4),
    (C::OutOfMemory, 0.2),
    (C::OtherVersion, 0.2),
    (C::ClockSkew, 0.5),
    (C::ClockDrift, 0.3),
    (C::ClockJump, 0.4),
    (C::ClockFrozen, 0.2),
    (C::FailedSync, 0.25),
    (C::FailedWrite, 0.2),
    (C::FailedRead, 0.2),
    (C::BitRot, 0.15),
    (C::MisdirectedWrite, 0.1),
    (C::FullDisk, 0.15),
    (C::SlowDisk, 0.3),
    (C::Truncation, 0.5),
    (C::Absence, 0.2),
    (C::Equivocation, 0.08),
    (C::Withholding, 0.08),
    (C::FalseVersion, 0.08),
    (C::Bomb, 0.08),
    (C::FarFuture, 0.08),
];

/// Classes that came later, and draw from streams of their own: what worlds drew before stays as it was.
const LATER: [(Class, f64); 4] =
    [(C::LongOutage, 0.04), (C::Forgery, 0.06), (C::Flooding, 0.06), (C::BrokenFrames, 0.06)];

/// The most replicas in one, unless it is asked for.
const LONG_REPLICAS_MAX: usize = 9;

/// How likely a transaction carries witnesses, in most worlds.
const WITNESSED: f64 = 0.4;

/// How likely a world is one of long histories.
const LONG: f64 = 0.06;

impl Class {
    /// The classes that come with a peer that lies.
    pub const LIES: [Class; 8] = [
        C::Equivocation,
        C::Withholding,
        C::FalseVersion,
        C::Bomb,
        C::FarFuture,
        C::Forgery,
        C::Flooding,
        C::BrokenFrames,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            C::Loss => "net: loss",
            C::Duplication => "net: duplication",
            C::Reordering => "net: reordering",
            C::NetworkCorruption => "net: corruption",
            C::RateLimit => "net: rate limit",
            C::SmallMtu => "net: small MTU",
            C::Partition => "net: partition",
            C::OneWayCut => "net: one-way cut",
            C::Flapping => "net: flapping link",
            C::AddressChange => "net: address change",
            C::SlowReader => "net: slow reader",
            C::PowerCut => "process: power cut",
            C::PowerCutInWrite => "process: power cut at a disk operation",
            C::Kill => "process: killed",
            C::CleanRestart => "process: clean restart",
            C::Pause => "process: pause",
            C::OutOfMemory => "process: out of memory",
            C::OtherVersion => "process: other version",
            C::ClockSkew => "clock: skew",
            C::ClockDrift => "clock: drift",
            C::ClockJump => "clock: jump",
            C::ClockFrozen => "clock: frozen",
            C::FailedSync => "disk: failed sync",
            C::FailedWrite => "disk: failed write",
            C::FailedRead => "disk: failed read",
            C::BitRot => "disk: bit rot",
            C::MisdirectedWrite => "disk: misdirected write",
            C::FullDisk => "disk: full",
            C::SlowDisk => "disk: slow",
            C::Truncation => "history: log truncated",
            C::Absence => "history: a year of absence",
            C::Rollback => "history: restored backup",
            C::Clone => "history: cloned twin",
            C::Equivocation => "liar: equivocation",
            C::Withholding => "liar: withheld commits",
            C::FalseVersion => "liar: false version",
            C::Bomb => "liar: bomb",
            C::FarFuture => "liar: far future",
            C::LongOutage => "net: cut off for a minute",
            C::Forgery => "liar: forged commits",
            C::Flooding => "liar: flood",
            C::BrokenFrames => "liar: broken frames",
        }
    }
}

/// What the replicas are used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Shopping carts: counters, titles, coupons, whole items removed.
    Carts,
    /// A few rows of every kind that everybody writes.
    HotKeys,
    /// Trees that are removed while others write in them.
    Trees,
    /// Values of many kilobytes.
    LargeValues,
    /// Many spaces with little in each.
    ManySpaces,
    /// Nothing for a while, then much at once.
    Bursts,
    /// The shape of the order book of a real shop: invoices of many lines, popular articles, cancellations.
    OrderBook,
    /// What the application under test does.
    Application,
}

impl Use {
    /// What it is, in words.
    pub fn name(self) -> &'static str {
        match self {
            Use::Carts => "shopping carts",
            Use::HotKeys => "a few hot keys",
            Use::Trees => "trees removed while written",
            Use::LargeValues => "large values",
            Use::ManySpaces => "many spaces",
            Use::Bursts => "bursts after silence",
            Use::OrderBook => "an order book",
            Use::Application => "the application under test",
        }
    }
}

/// Whom a replica keeps connections with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// With everybody.
    Everybody,
    /// With this many random peers that it dials, others each round.
    RandomPeers(usize),
}

/// How the stores are set up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StoreShape {
    /// The size of a log segment, in bytes.
    pub segment_bytes: u64,
    /// How far the log is filled with zeros ahead, in bytes.
    pub reserve_bytes: usize,
    /// The size of the row buffer at which a checkpoint is due, in bytes.
    pub buffer_bytes: usize,
    /// The size of the tree's cache, in bytes: what does not fit is read from the disk again.
    pub tree_cache_bytes: usize,
    /// How many checkpoints a snapshot outlives.
    pub snapshot_checkpoints_max: usize,
    /// How likely a replica acknowledges before the disk has it.
    pub eventual: f64,
}

/// Everything that is decided before a world's first event.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What all chance in the world comes from.
    pub seed: u64,
    /// How many replicas there are.
    pub replicas: usize,
    /// How many transactions the workload makes, over all replicas.
    pub actions: u32,
    /// How long the troubled part lasts, in virtual milliseconds.
    pub troubled_ms: u64,
    /// How long one round of anti-entropy takes: time for each replica to dial a peer and to finish an exchange.
    pub round_ms: u64,
    /// How many spaces there are.
    pub spaces: usize,
    /// What the replicas are used for.
    pub work: Use,
    /// The share of the transactions that carry witnesses of their own.
    pub witnessed: f64,
    /// The share of the transactions that one replica makes, beside its part of the others.
    pub busiest: f64,
    /// Whom replicas are connected with.
    pub topology: Topology,
    /// The mean latency of links, in milliseconds.
    pub latency_ms: u64,
    /// How the stores are set up.
    pub store: StoreShape,
    /// The faults that happen, each with its rate: for those of packets and disk operations the chance of each
    /// of them; for the others how many there are in the world, on average.
    pub faults: BTreeMap<Class, f64>,
}

/// What may be asked of plans beside their seed.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// How many replicas; by default 3 to 20, few more often than many.
    pub replicas: Option<usize>,
    /// Classes that every world has, whatever else it draws: also such as are off by default.
    pub always: Vec<Class>,
    /// Classes that no world has.
    pub never: Vec<Class>,
    /// What the replicas are used for; drawn by default.
    pub work: Option<Use>,
    /// Whether histories are long: hundreds of transactions, most of them by one replica.
    pub long: bool,
    /// How many transactions the workload makes; drawn by default.
    pub actions: Option<u32>,
    /// Whether all that is written are the rows of the workload, with no witnesses beside them.
    pub unwitnessed: bool,
    /// The size of the row buffer at which a checkpoint is due, in bytes; drawn by default.
    pub buffer_bytes: Option<usize>,
    /// The size of a log segment, in bytes; drawn by default.
    pub segment_bytes: Option<u64>,
    /// The size of the tree's cache, in bytes; drawn by default.
    pub tree_cache_bytes: Option<usize>,
}

/// How long a long outage is, in milliseconds: long enough to give up, for who ever does.
pub(crate) const OUTAGE_MS: u64 = 90_000;

/// The smallest and the largest number of replicas in a world, unless another is asked for.
const REPLICAS: (usize, usize) = (3, 20);

impl Plan {
    /// Draws the plan of a seed.
    pub fn draw(seed: u64, options: &PlanOptions) -> Self {
        let mut random = Random::labelled(seed, "plan");
        let (least, most) = REPLICAS;
        // The square puts the weight on the small worlds, in which faults meet more often.
        let spread = (random.below(1_000) as f64 / 1_000.0).powi(2);
        let drawn = least + (spread * (most - least + 1) as f64) as usize;
        let replicas = options.replicas.unwrap_or(drawn);
        let work = [
            Use::Carts,
            Use::HotKeys,
            Use::Trees,
            Use::LargeValues,
            Use::ManySpaces,
            Use::Bursts,
            Use::OrderBook,
        ];
        let drawn = *random.pick(&work).unwrap_or(&Use::Carts);
        let work = options.work.unwrap_or(drawn);
        let spaces = match work {
            Use::ManySpaces => random.within(4..=8) as usize,
            Use::Application => 1,
            _ => random.within(1..=2) as usize,
        };
        let topology = match random.chance(0.5) {
            true => Topology::Everybody,
            false => Topology::RandomPeers(random.within(1..=3) as usize),
        };
        let mut store = StoreShape {
            segment_bytes: random.within(1..=16) << 11,
            reserve_bytes: (random.below(3) << 12) as usize,
            buffer_bytes: 4 << 10 << random.below(5),
            tree_cache_bytes: 1 << 20,
            snapshot_checkpoints_max: random.within(2..=16) as usize,
            eventual: if random.chance(0.3) { 0.5 } else { 0.0 },
        };
        let mut faults = BTreeMap::new();
        for (class, likely) in DEFAULT {
            let rate = rate(class, replicas, &mut random.fork(class.name()));
            let on = random.chance(likely) || options.always.contains(&class);
            if on && !options.never.contains(&class) {
                faults.insert(class, rate);
            }
        }
        for class in [Class::Rollback, Class::Clone] {
            if options.always.contains(&class) {
                faults.insert(class, rate(class, replicas, &mut random.fork(class.name())));
            }
        }
        for (class, likely) in LATER {
            let mut random = Random::labelled(seed, &format!("plan {}", class.name()));
            let on = random.chance(likely) || options.always.contains(&class);
            if on && !options.never.contains(&class) {
                faults.insert(class, rate(class, replicas, &mut random));
            }
        }
        let mut actions = random.within(40..=160) as u32;
        let mut troubled_ms = random.within(6..=24) * 1_000;
        let mut later = Random::labelled(seed, "plan, later");
        if later.chance(0.3) {
            store.tree_cache_bytes = 0;
        }
        store.buffer_bytes = options.buffer_bytes.unwrap_or(store.buffer_bytes);
        store.segment_bytes = options.segment_bytes.unwrap_or(store.segment_bytes);
        store.tree_cache_bytes = options.tree_cache_bytes.unwrap_or(store.tree_cache_bytes);
        let witnessed = if options.unwitnessed || later.chance(0.05) { 0.0 } else { WITNESSED };
        if witnessed == 0.0 {
            // What is not durable at once would have to be witnessed.
            store.eventual = 0.0;
        }
        // What many replicas write so much of takes too long to watch.
        let long = later.chance(LONG) && replicas <= LONG_REPLICAS_MAX || options.long;
        if long {
            actions = later.within(300..=500) as u32;
        }
        actions = options.actions.unwrap_or(actions);
        if faults.contains_key(&Class::LongOutage) {
            troubled_ms += OUTAGE_MS;
        }
        Plan {
            seed,
            replicas,
            actions,
            troubled_ms,
            round_ms: 5_000,
            spaces,
            work,
            witnessed,
            busiest: if long { 0.7 } else { 0.0 },
            topology,
            latency_ms: 1 << random.below(8),
            store,
            faults,
        }
    }

    /// Whether two histories of a liar may be about in a space, so that what is seen there depends on whom one
    /// met: the last space, in a world with a liar who equivocates.
    pub(crate) fn is_doubtful(&self, space: usize) -> bool {
        space + 1 == self.spaces && self.faults.contains_key(&Class::Equivocation)
    }

    /// The rate of a class; 0 if the world does not have it.
    pub fn rate(&self, class: Class) -> f64 {
        self.faults.get(&class).copied().unwrap_or(0.0)
    }

    /// The bound on the rounds of anti-entropy after the heal in which the healed must converge.
    pub fn rounds_max(&self) -> u32 {
        2 * self.replicas.max(2).next_power_of_two().ilog2() + 4
    }

    /// Worlds with a part of this one taken away, the most taken away first.
    pub fn smaller(&self) -> Vec<Plan> {
        let mut plans = Vec::new();
        let mut propose = |change: &dyn Fn(&mut Plan)| {
            let mut plan = self.clone();
            change(&mut plan);
            if plan != *self {
                plans.push(plan);
            }
        };
        propose(&|plan| plan.faults.clear());
        propose(&|plan| plan.replicas = (plan.replicas / 2).max(2));
        propose(&|plan| plan.actions /= 2);
        for half in [0, 1] {
            propose(&|plan| {
                let mut number = 0;
                plan.faults.retain(|_, _| {
                    number += 1;
                    number % 2 == half
                });
            });
        }
        propose(&|plan| plan.spaces = 1);
        propose(&|plan| plan.troubled_ms = (plan.troubled_ms / 2).max(1_000));
        propose(&|plan| plan.replicas = (plan.replicas - 1).max(2));
        for class in self.faults.keys() {
            propose(&|plan| plan.faults.retain(|other, _| other != class));
        }
        for class in self.faults.keys() {
            propose(&|plan| {
                if let Some(rate) = plan.faults.get_mut(class)
                    && *rate > 1.0
                {
                    *rate /= 2.0;
                }
            });
        }
        propose(&|plan| plan.actions = plan.actions * 3 / 4);
        propose(&|plan| plan.topology = Topology::Everybody);
        propose(&|plan| plan.store.eventual = 0.0);
        propose(&|plan| plan.busiest = 0.0);
        propose(&|plan| plan.latency_ms = 1);
        plans
    }

    /// The plan in words.
    pub fn describe(&self) -> String {
        let topology = match self.topology {
            Topology::Everybody => "each connected with all others".to_owned(),
            Topology::RandomPeers(count) => {
                format!("each dialling {count} random peers a round")
            }
        };
        let faults: Vec<_> = self
            .faults
            .iter()
            .map(|(class, rate)| match *rate < 1.0 {
                true => format!("{} {rate:.3}", class.name()),
                false => format!("{} x{rate:.0}", class.name()),
            })
            .collect();
        let faults = if faults.is_empty() { "none".to_owned() } else { faults.join(", ") };
        format!(
            "seed {}: {} replicas, {topology}, {} space(s), {}; {} transactions in {} s; latency {} ms; \
             segments of {} KiB, row buffers of {} KiB. Faults: {faults}.",
            self.seed,
            self.replicas,
            self.spaces,
            self.work.name(),
            self.actions,
            self.troubled_ms / 1_000,
            self.latency_ms,
            self.store.segment_bytes >> 10,
            self.store.buffer_bytes >> 10,
        )
    }
}

/// Draws the rate of a class: a chance for each packet or operation, or a number of events.
fn rate(class: Class, replicas: usize, random: &mut Random) -> f64 {
    let share = random.within(1..=100) as f64 / 100.0;
    let each = replicas as f64;
    match class {
        C::Loss => 0.3 * share * share,
        C::Duplication | C::Reordering => 0.3 * share,
        C::NetworkCorruption => 0.1 * share,
        C::RateLimit | C::SmallMtu | C::OtherVersion | C::ClockSkew | C::ClockDrift => 0.5 * share,
        C::FailedSync | C::FailedWrite => 0.01 * share,
        C::FailedRead => 0.02 * share,
        C::SlowDisk => 0.05 * share,
        C::Partition | C::OneWayCut | C::AddressChange => (4.0 * share).max(1.0),
        C::Flapping | C::SlowReader | C::Pause => (each * share).max(1.0),
        C::PowerCut | C::PowerCutInWrite | C::Kill | C::CleanRestart => (each * share).max(1.0),
        C::OutOfMemory | C::ClockJump | C::ClockFrozen => (3.0 * share).max(1.0),
        C::BitRot | C::MisdirectedWrite | C::FullDisk => (2.0 * share).max(1.0),
        C::Truncation => (2.0 * each * share).max(1.0),
        C::Absence | C::Rollback | C::Clone | C::LongOutage => 1.0,
        C::Forgery | C::Flooding | C::BrokenFrames => (8.0 * share).max(2.0),
        C::Equivocation | C::Withholding | C::FalseVersion | C::Bomb | C::FarFuture => {
            (3.0 * share).max(1.0)
        }
    }
}
