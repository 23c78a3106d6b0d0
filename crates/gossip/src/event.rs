//! What a session reports: about the peer, about spaces, and why it ended.

use std::sync::Arc;

use rejoin_crdt::{Fork, ReplicaId, SpaceId, VersionVector};

use crate::DeviceId;
use crate::wire::{Lane, STOP_TEXT_BYTES_MAX, Stop};

/// What the application may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Both hellos are handled: the peer is who it should be and speaks our protocol.
    Established(PeerFacts),
    /// Both sides replicate this space; its sync begins.
    SpaceShared {
        /// Which space.
        space: SpaceId,
    },
    /// What the peer is known to have on disk has grown. Compare with the local version for "ahead
    /// by, behind by".
    PeerVersion {
        /// Which space.
        space: SpaceId,
        /// All that the peer has told and shown so far.
        version: Arc<VersionVector>,
    },
    /// Both sides have told each other the same version. Emitted each time that comes to hold.
    InSync {
        /// Which space.
        space: SpaceId,
    },
    /// The host offers more spaces than a connection can carry; those beyond the limit are not
    /// synced with this peer.
    SpacesOverLimit {
        /// How many.
        dropped: usize,
    },
    /// The log did not reach back far enough: a whole state is on its way.
    StateTransfer {
        /// Which space.
        space: SpaceId,
        /// Whether this replica sends it.
        sending: bool,
    },
    /// The space is no longer synced over this connection. Others go on.
    SpaceStopped {
        /// Which space.
        space: SpaceId,
        /// Who stopped.
        by: StoppedBy,
        /// Why.
        reason: StopReason,
    },
}

/// What the peer's hello told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerFacts {
    /// The device at the other end, as the transport proved it.
    pub device: DeviceId,
    /// The id under which the peer writes.
    pub replica: ReplicaId,
    /// The protocol version agreed on.
    pub protocol: u16,
    /// How far the peer's wall clock is ahead of ours, in milliseconds; too low by the time the
    /// hello travelled.
    pub clock_skew_ms: i64,
}

/// How one space stands with the peer, in commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpaceStatus {
    /// How many commits this replica has on disk that the peer is not known to have.
    pub ahead: u64,
    /// How many commits the peer is known to have that are not on disk here.
    pub behind: u64,
    /// Whether both sides have told each other the same version.
    pub in_sync: bool,
    /// Whether the space is no longer synced over this connection.
    pub stopped: bool,
}

/// Which side stopped syncing a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedBy {
    /// This replica.
    Us,
    /// The peer.
    Peer,
}

/// Why a space is no longer synced over a connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// The two sides hold different histories of one writer.
    #[error(transparent)]
    Fork(Fork),
    /// Whoever receives the commits of its own replica id has not made them: its store was rolled
    /// back or cloned. It must take a new id.
    #[error("commits up to {theirs} exist under a replica id whose owner has made only {ours}")]
    OwnReplicaAhead {
        /// The highest sequence number seen elsewhere.
        theirs: u64,
        /// The highest on the owner's disk.
        ours: u64,
    },
    /// What was sent is no commit, no row or no state. The text says what, on the side that found
    /// it.
    #[error("malformed data: {0}")]
    Malformed(String),
    /// Storage failed. The text says how, on the side where it did.
    #[error("storage failed: {0}")]
    Storage(String),
    /// The space has grown past a limit of the protocol.
    #[error("over a limit of the protocol: {0}")]
    TooLarge(String),
}

impl StopReason {
    pub(crate) fn to_wire(&self) -> Stop {
        match self {
            StopReason::Fork(Fork { replica, sequence }) => {
                Stop::Fork { replica: *replica, sequence: *sequence }
            }
            StopReason::OwnReplicaAhead { theirs, ours } => {
                Stop::OwnReplicaAhead { theirs: *theirs, ours: *ours }
            }
            StopReason::Malformed(what) => Stop::Malformed(shortened(what)),
            // What is wrong with our disk is not for peers.
            StopReason::Storage(_) => Stop::Storage,
            StopReason::TooLarge(what) => Stop::TooLarge(shortened(what)),
        }
    }

    pub(crate) fn from_wire(stop: Stop) -> Self {
        match stop {
            Stop::Fork { replica, sequence } => StopReason::Fork(Fork { replica, sequence }),
            Stop::OwnReplicaAhead { theirs, ours } => StopReason::OwnReplicaAhead { theirs, ours },
            Stop::Malformed(what) => StopReason::Malformed(what),
            Stop::Storage => StopReason::Storage("at the peer".to_owned()),
            Stop::TooLarge(what) => StopReason::TooLarge(what),
        }
    }
}

fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(STOP_TEXT_BYTES_MAX)].to_owned()
}

/// Why a session closed its connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// No hello came in time. The peer, or the path to it, is at fault.
    #[error("no hello within {timeout_ms} ms")]
    HelloTimeout {
        /// How long the session waited.
        timeout_ms: u64,
    },
    /// The two sides speak no common version. One of them must be upgraded.
    #[error("no common protocol version: this side speaks {ours:?}, the other {theirs:?}")]
    VersionMismatch {
        /// Lowest and highest version of this side.
        ours: (u16, u16),
        /// Lowest and highest version of the peer.
        theirs: (u16, u16),
    },
    /// The peer writes under this replica's id: one store is a copy of the other. One must take a
    /// new id.
    #[error("both sides write as replica {0}")]
    SameReplica(ReplicaId),
    /// The peer sent bytes that are no message. Nothing of them was acted on.
    #[error("malformed message on {lane}: {error}")]
    Malformed {
        /// Where.
        lane: Lane,
        /// What is wrong.
        error: String,
    },
    /// The peer sent a message that the protocol does not allow at that point.
    #[error("protocol violation: {0}")]
    Violation(&'static str),
    /// The peer sent more than the window allows, or offered more than the limits allow.
    #[error("over a limit: {0}")]
    Overrun(&'static str),
    /// Data was under way, and nothing of it was acknowledged in time.
    #[error("no progress in space {space} for {timeout_ms} ms")]
    NoProgress {
        /// Where.
        space: SpaceId,
        /// How long the session waited.
        timeout_ms: u64,
    },
    /// Storage here failed before anything could be synced. The peer is not at fault.
    #[error("local storage failed: {0}")]
    Storage(String),
    /// Storage, here or at the peer, stopped a space some time ago. A new connection tries it again.
    #[error("trying again after a failure of storage")]
    Retry,
}

impl CloseReason {
    /// The code that goes with the close on the wire, below 0x100 and never reused. 0 is an orderly
    /// end, and codes from 0x100 on are the driver's.
    pub fn code(&self) -> u32 {
        match self {
            CloseReason::HelloTimeout { .. } => 1,
            CloseReason::VersionMismatch { .. } => 2,
            CloseReason::SameReplica(_) => 3,
            CloseReason::Malformed { .. } => 4,
            CloseReason::Violation(_) => 5,
            CloseReason::Overrun(_) => 6,
            CloseReason::NoProgress { .. } => 7,
            CloseReason::Storage(_) => 8,
            CloseReason::Retry => 9,
        }
    }
}
