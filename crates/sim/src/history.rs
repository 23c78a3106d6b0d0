//! What the world tells its checkers: who wrote what, who saw what, and what was done to whom.
//!
//! The words are the simulator's own, plain numbers and text, and share no code with what is checked.

use std::collections::BTreeMap;
use std::fmt;

/// A process of the world, by its place in it. It keeps it across restarts.
pub type NodeIndex = usize;

/// A writer, by the bytes of its replica id.
pub type Writer = u128;

/// A path as text: segments joined by `/`. Workloads use no `/` within a segment.
pub type Key = String;

/// A space, by its place among the world's spaces.
pub type SpaceNumber = usize;

/// The name of a commit: its writer, and its place among that writer's commits, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DotName {
    /// Who made it.
    pub writer: Writer,
    /// The how-manieth of its writer in that space.
    pub sequence: u64,
}

impl fmt::Display for DotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}:{}", self.writer >> 96, self.sequence)
    }
}

/// Which commits are visible: for each writer, how many.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub BTreeMap<Writer, u64>);

impl Version {
    /// How many commits of a writer are visible.
    pub fn sequence(&self, writer: Writer) -> u64 {
        self.0.get(&writer).copied().unwrap_or(0)
    }

    /// Whether a commit is visible.
    pub fn covers(&self, dot: DotName) -> bool {
        dot.sequence <= self.sequence(dot.writer)
    }

    /// Whether everything visible in `other` is visible here.
    pub fn includes(&self, other: &Version) -> bool {
        other.0.iter().all(|(writer, sequence)| *sequence <= self.sequence(*writer))
    }

    /// Adds what is visible in `other`.
    pub fn join(&mut self, other: &Version) {
        for (writer, sequence) in &other.0 {
            let ours = self.0.entry(*writer).or_default();
            *ours = (*ours).max(*sequence);
        }
    }
}

/// A value of a register.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Datum {
    /// A number.
    Integer(i64),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// What kind of row is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKind {
    /// A register.
    Register,
    /// A counter.
    Counter,
    /// A flag.
    Flag,
    /// An element of a set: its path is that of the set and the element.
    Element,
}

/// One thing that a transaction wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Puts a value into the register at a path.
    Put(Key, Datum),
    /// Adds to the counter at a path.
    Add(Key, i64),
    /// Turns the flag at a path on.
    Enable(Key),
    /// Adds an element, by its path, to the set above it.
    Insert(Key),
    /// Removes what is seen of one row.
    RemoveRow(Key, RowKind),
    /// Removes what is seen of every kind at exactly one path.
    Remove(Key),
    /// Removes everything seen at and under a path.
    RemoveTree(Key),
}

/// What one row reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The values side by side, the winner first: wall time in milliseconds, writer, value.
    Register(Vec<(u64, Writer, Datum)>),
    /// The sum.
    Counter(i64),
    /// It is on.
    Flag,
    /// It is in its set.
    Element,
}

/// One transaction, as the workload meant it.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// Its name.
    pub dot: DotName,
    /// What its writer saw when it began.
    pub past: Version,
    /// Its writer's clock, in milliseconds since 1970.
    pub wall_time_ms: u64,
    /// What it wanted, in order.
    pub wishes: Vec<Wish>,
}

/// How a local write ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The call returned without an error, and the process was still alive.
    Acknowledged {
        /// Whether the acknowledgement promises that it is on disk.
        durable: bool,
    },
    /// The call returned an error that promises that nothing was changed.
    Refused(String),
    /// The process died in the call, or the error leaves open whether the commit is there.
    Unknown(String),
}

/// How a process came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Death {
    /// The machine lost power: what was not synced is at the mercy of the disk.
    PowerCut,
    /// The process was killed: what it wrote is in the system's cache, and survives.
    Killed,
    /// The application closed the replica in good order.
    Closed,
}

/// What a disk did to what was stored on it, beside failing with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Damage {
    /// Bits changed that had been written and synced.
    BitRot,
    /// A write went to another place than it was meant for.
    Misdirected,
    /// Synced writes were lost: the folder was replaced by an older copy of itself.
    RolledBack,
    /// The folder was copied, and both are in use.
    Cloned,
}

/// A quantity with a declared limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gauge {
    /// What is measured.
    pub name: &'static str,
    /// How much there is.
    pub value: u64,
    /// How much there may be.
    pub limit: u64,
}

/// Something that happened, as the checkers hear of it.
#[derive(Debug)]
pub enum Observation<'a> {
    /// A process opened its store and tells what is there.
    Opened {
        /// Its replica id.
        writer: Writer,
        /// By space, what is visible after recovery.
        versions: &'a [(SpaceNumber, Version)],
        /// Whether it is a new store, not one that was there before.
        fresh: bool,
    },
    /// A store could not be opened.
    OpenFailed {
        /// The error in words.
        error: &'a str,
        /// Whether the error says that what is stored is damaged.
        damaged: bool,
    },
    /// A process ended.
    Died(Death),
    /// A disk was harmed. Everything that the store serves from now on must still be right, or an error.
    Damaged(Damage),
    /// A local transaction, once its call has ended.
    Wrote {
        /// Where.
        space: SpaceNumber,
        /// What. `None` for a workload whose wishes are not known: then only its name counts.
        transaction: &'a Transaction,
        /// Whether the wishes are all that the transaction did.
        known: bool,
        /// How it ended.
        outcome: &'a WriteOutcome,
    },
    /// Everything that this process wrote so far was promised to be on disk (`Replica::sync`).
    Synced,
    /// Commits are about to leave for a peer, or came from one and were applied without an error: their bytes.
    Carried {
        /// Where.
        space: SpaceNumber,
        /// The first of them; the others follow in sequence.
        first: DotName,
        /// The canonical bytes of each.
        bodies: &'a [bytes::Bytes],
        /// Whether this process sends them; else it has applied them.
        sending: bool,
    },
    /// A watch of the whole space delivered a commit.
    Delivered {
        /// Where.
        space: SpaceNumber,
        /// Which.
        dot: DotName,
    },
    /// A watch passed commits over, and what it delivers from now on follows this version.
    Reread {
        /// Where.
        space: SpaceNumber,
        /// What is visible now.
        version: &'a Version,
    },
    /// All of a space was read at one moment.
    Read {
        /// Where.
        space: SpaceNumber,
        /// What is visible.
        version: &'a Version,
        /// Every row, by path and kind.
        rows: &'a BTreeMap<(Key, RowKind), Seen>,
        /// A hash of the canonical bytes of all rows.
        bytes: [u8; 32],
    },
    /// A read failed.
    ReadFailed {
        /// Where.
        space: SpaceNumber,
        /// The error in words.
        error: &'a str,
        /// Whether the error says that what is stored is damaged, or the disk failed.
        disk: bool,
    },
    /// How much of something there is.
    Measured(Gauge),
    /// A session ended because the peer lied or broke the protocol, or a fork was seen; `peer` is whom it blames.
    Blamed {
        /// The peer.
        peer: NodeIndex,
        /// Why, in words.
        why: &'a str,
    },
}

/// Which checker found something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Checker {
    /// A dot means one payload, for ever.
    DotLedger,
    /// Causal delivery and the four session guarantees.
    Causality,
    /// Transactions are visible whole or not at all.
    Atomicity,
    /// Acknowledged means durable; unacknowledged, all or nothing.
    Durability,
    /// What was removed and seen removed stays so.
    Resurrection,
    /// Every read is what the kind specifies over the visible events.
    Oracle,
    /// Equal versions, equal bytes.
    Agreement,
    /// Declared bounds hold.
    Bounds,
    /// Nothing forged is applied.
    Authenticity,
    /// Damage is found, and never served.
    Corruption,
    /// Convergence, then silence; every write is answered.
    Liveness,
    /// Nothing panics.
    Panic,
    /// What the application under test demands.
    Application,
}

impl Checker {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Checker::DotLedger => "dot-ledger",
            Checker::Causality => "causality",
            Checker::Atomicity => "atomicity",
            Checker::Durability => "durability",
            Checker::Resurrection => "resurrection",
            Checker::Oracle => "oracle",
            Checker::Agreement => "agreement",
            Checker::Bounds => "bounds",
            Checker::Authenticity => "authenticity",
            Checker::Corruption => "corruption",
            Checker::Liveness => "liveness",
            Checker::Panic => "panic",
            Checker::Application => "application",
        }
    }
}

/// What must not have happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} at {at_ms} ms{}: {what}", checker.name(), node.map(|node| format!(", replica {node}")).unwrap_or_default())]
pub struct Violation {
    /// Who found it.
    pub checker: Checker,
    /// When, in virtual milliseconds.
    pub at_ms: u64,
    /// Where, if at one place.
    pub node: Option<NodeIndex>,
    /// What.
    pub what: String,
}
