//! The session: one replica's side of one connection.
//!
//! # Driving contract of `Session` (the state machine lands next, in this module)
//!
//! ```text
//! Session::new(config: Config, role: Role, device: DeviceId /* the peer, as TLS proved it */, local: LocalFacts, now_ms: u64)
//!
//! handle_preamble(Preamble, now_ms)              an incoming stream's beginning
//! handle_frame(Lane, &[u8] payload, now_ms)      a frame of an incoming stream
//! handle_response(HostResponse, now_ms)          the answer to an Output::Request
//! handle_local_change(SpaceId, &Arc<VersionVector>, now_ms)   the durable version of a space grew
//! handle_spaces_changed(now_ms)                  the host offers more spaces
//! handle_timeout(now_ms)                         the time of poll_timeout has come
//!
//! poll_output() -> Option<Output>                after every handle_*, until None
//! poll_timeout() -> Option<u64>                  then: when to call handle_timeout
//!
//! peer() -> Option<PeerFacts>; is_established(); is_closed(); space_status(SpaceId) -> Option<SpaceStatus>
//! ```
//!
//! The driver reads the control stream at once, and other incoming streams only once `is_established()`.

use std::sync::Arc;

use bytes::Bytes;
use rejoin_crdt::{Fork, ReplicaId, SpaceId, VersionVector};

use crate::DeviceId;
use crate::host::{HostRequest, HostResponse};
use crate::wire::{Lane, Preamble};

/// Which end of the connection a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// This end dialled, and opens the control stream.
    Dialler,
    /// This end accepted.
    Acceptor,
}

/// What a session tells its peer about this replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalFacts {
    /// The id under which this replica writes.
    pub replica: ReplicaId,
    /// The device's wall clock at the session's start, in milliseconds since 1970. Only reported, never acted on.
    pub wall_time_ms: u64,
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
    /// How far the peer's wall clock is ahead of ours, in milliseconds; too low by the time the hello travelled.
    pub clock_skew_ms: i64,
}

/// The times a session goes by. Sizes are part of the protocol and stand in [`wire`](crate::wire).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The peer's hello must have come within this time.
    pub hello_timeout_ms: u64,
    /// Commits of third parties are offered to the peer this long after they came here, unless it has them by
    /// then: in a mesh their writer has most likely sent them there itself. The session waits longer, up to
    /// `relay_delay_max_ms`, when this peer takes long to acknowledge.
    pub relay_delay_ms: u64,
    /// The longest that commits of third parties are held back.
    pub relay_delay_max_ms: u64,
    /// News of third parties' commits is gathered this long before the peer is told that they are here. Well below
    /// `relay_delay_ms`, or the peer will send them again. Acknowledgements never wait.
    pub announce_delay_ms: u64,
    /// The connection is closed when data is under way and nothing of it is acknowledged for this long. One
    /// batch ([`COMMITS_BYTES_MAX`](crate::wire::COMMITS_BYTES_MAX)) must pass the slowest link within it.
    pub progress_timeout_ms: u64,
    /// While a peer's state is being joined it is told so at this interval. Well below `progress_timeout_ms` of the peer.
    pub working_interval_ms: u64,
}

impl Default for Config {
    /// All guesses: 10 s for the hello, 20 ms to 1 s before relaying, 5 ms before announcing, 60 s without progress.
    fn default() -> Self {
        Self {
            hello_timeout_ms: 10_000,
            relay_delay_ms: 20,
            relay_delay_max_ms: 1_000,
            announce_delay_ms: 5,
            progress_timeout_ms: 60_000,
            working_interval_ms: 15_000,
        }
    }
}

/// What the driver has to do, in the order given.
#[derive(Debug)]
pub enum Output {
    /// Write these bytes to the lane's stream. The first on a lane opens the stream.
    Send {
        /// Which stream.
        lane: Lane,
        /// What to append to it, verbatim: preamble and frame headers are in it.
        bytes: Bytes,
    },
    /// Answer this with [`serve`](crate::serve) and hand the response to [`Session::handle_response`].
    Request(HostRequest),
    /// Tell the application.
    Event(Event),
    /// Close the connection with [`CloseReason::code`] and the reason's text. Nothing follows.
    Close(CloseReason),
}

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
    /// What the peer is known to have on disk has grown. Compare with the local version for "ahead by, behind by".
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
    /// Whoever receives the commits of its own replica id has not made them: its store was rolled back or cloned.
    /// It must take a new id.
    #[error("commits up to {theirs} exist under a replica id whose owner has made only {ours}")]
    OwnReplicaAhead {
        /// The highest sequence number seen elsewhere.
        theirs: u64,
        /// The highest on the owner's disk.
        ours: u64,
    },
    /// What was sent is no commit, no row or no state. The text says what, on the side that found it.
    #[error("malformed data: {0}")]
    Malformed(String),
    /// Storage failed. The text says how, on the side where it did.
    #[error("storage failed: {0}")]
    Storage(String),
    /// The space has grown past a limit of the protocol.
    #[error("over a limit of the protocol: {0}")]
    TooLarge(String),
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
    /// The peer writes under this replica's id: one store is a copy of the other. One must take a new id.
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
}

impl CloseReason {
    /// The code that goes with the close on the wire. Codes are never reused; 0 is an orderly end, which is the driver's.
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
        }
    }
}

/// How one space stands with the peer, in commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpaceStatus {
    /// How many commits this replica has on disk that the peer is not known to have.
    pub ahead: u64,
    /// How many commits the peer is known to have that are not on disk here.
    pub behind: u64,
    /// Whether the space is no longer synced over this connection.
    pub stopped: bool,
}
