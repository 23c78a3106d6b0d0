//! What happened in a world: a hash of it always, and the story itself when somebody will read it.

use crate::history::NodeIndex;

/// One line of a world's story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceEvent {
    /// Something at one replica.
    At {
        /// When, in virtual milliseconds.
        ms: u64,
        /// Where.
        node: NodeIndex,
        /// What sort of thing.
        mark: Mark,
        /// In words.
        text: String,
    },
    /// A message of a session from one replica to another.
    Message {
        /// Who sent it.
        from: NodeIndex,
        /// To whom.
        to: NodeIndex,
        /// When it left.
        sent_ms: u64,
        /// When the last of it was read; `None` if it never was.
        arrived_ms: Option<u64>,
        /// What it was, in a few words.
        text: String,
    },
    /// One direction of a link was out of order for a time.
    Link {
        /// The sending side.
        from: NodeIndex,
        /// The receiving side.
        to: NodeIndex,
        /// From when.
        from_ms: u64,
        /// Until when; `None` if to the end.
        until_ms: Option<u64>,
        /// How, in a few words: `cut`, or what its faults are.
        text: String,
    },
    /// Something about the world as a whole.
    World {
        /// When, in virtual milliseconds.
        ms: u64,
        /// In words.
        text: String,
    },
}

/// What sort of thing happened at a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// Its process came up.
    Up,
    /// Its process ended.
    Down,
    /// It stood still, or went on.
    Pause,
    /// A local transaction was acknowledged.
    Write,
    /// A local transaction was refused or cut off.
    Refused,
    /// Commits or a state of a peer took effect.
    Applied,
    /// It was read and checked.
    Read,
    /// Disk, clock or memory failed it.
    Fault,
    /// A connection came up.
    Connected,
    /// A connection ended.
    Disconnected,
    /// A checker objects.
    Violation,
}

/// A world's story, in the order in which it was noted.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// Its replicas' names, by index.
    pub nodes: Vec<String>,
    /// What happened.
    pub events: Vec<TraceEvent>,
}

impl TraceEvent {
    /// When it began, in virtual milliseconds.
    pub fn at_ms(&self) -> u64 {
        match self {
            TraceEvent::At { ms, .. } | TraceEvent::World { ms, .. } => *ms,
            TraceEvent::Message { sent_ms, .. } => *sent_ms,
            TraceEvent::Link { from_ms, .. } => *from_ms,
        }
    }
}
