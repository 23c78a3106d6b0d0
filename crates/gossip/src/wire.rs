//! Message layouts, framing and the limits of the protocol: their one home.
//!
//! # Streams
//!
//! A connection has one control stream, opened by the dialler and used both ways, and for each
//! shared space one one-way stream in each direction, opened by its sender when it first has
//! something to say. Every direction of a stream is a [`Preamble`] followed by frames:
//!
//! | part | bytes |
//! |---|---|
//! | preamble: magic | 4: `rjn` and 0 |
//! | preamble: kind of lane | 1: 0 control, 1 space |
//! | preamble: protocol version | 2, little-endian: the agreed one on space lanes; 0 on the control lane, where it is agreed |
//! | preamble: space id | 32, on space lanes only |
//! | frame: length of the payload | 4, little-endian, from 1 to the lane's limit |
//! | frame: payload | a [`ControlMessage`] or [`SpaceMessage`], in the canonical encoding of [`rejoin_crdt::codec`] |
//!
//! [`Hello`] and its place in [`ControlMessage`] are the same in all versions, or no version could
//! be agreed on. Everything else may change with the version. Golden vectors in the tests hold the
//! layout still.

mod bounded;
mod frame;

use bytes::Bytes;
use rejoin_crdt::codec::{self, Class, DecodeError};
use rejoin_crdt::{COMMIT_BYTES_MAX, ReplicaId, SpaceId, VersionVector};
use serde::{Deserialize, Serialize};

use crate::host::{Run, StateRow};

pub use frame::{FrameError, FrameReader, Incoming, Lane, PREAMBLE_BYTES_MAX, Preamble};

/// The lowest protocol version spoken here.
pub const PROTOCOL_MIN: u16 = 1;
/// The highest protocol version spoken here.
pub const PROTOCOL_MAX: u16 = 1;

/// The longest payload of a frame on the control lane.
pub const FRAME_CONTROL_BYTES_MAX: usize = 64 << 10;
/// The longest payload of a frame on a space lane: one commit of the largest size, and what is
/// around it.
pub const FRAME_SPACE_BYTES_MAX: usize = COMMIT_BYTES_MAX + (64 << 10);

/// About how many bytes of bodies or rows a sender puts in one frame. One commit, or one dot of a
/// row, may be larger and then travels alone.
pub const BATCH_BYTES_MAX: usize = 256 << 10;
/// How many bytes of bodies and rows a sender may have unacknowledged in one space. A batch may be
/// sent while there are fewer, so at most [`FRAME_SPACE_BYTES_MAX`] come on top.
pub const WINDOW_BYTES_MAX: usize = 1 << 20;
/// How many bytes of bodies and rows a sender may have unacknowledged in all spaces of a
/// connection. A read for a further batch begins only while the largest frame would still fit.
pub const SESSION_WINDOW_BYTES_MAX: usize = 16 << 20;
/// What a commit, run or row counts against a window beside its bytes: about what it takes in
/// memory.
pub const ITEM_BYTES: usize = 64;
/// How many batches a sender may have unacknowledged in one space.
pub const WINDOW_BATCHES_MAX: usize = 256;

/// The most spaces that two peers can share over one connection, and the most in one message. The
/// transport must allow as many one-way streams in each direction.
pub const SPACES_MAX: usize = 1_024;
/// The most writers of one space that a version vector on the wire can name.
pub const REPLICAS_MAX: usize = 16_384;
/// The most runs in one frame.
pub const RUNS_MAX: usize = 8_192;
/// The most commits in one frame.
pub const COMMITS_MAX: usize = 16_384;
/// The most rows in one frame.
pub const ROWS_MAX: usize = 16_384;
/// The longest explanation of a stop, in bytes; longer ones are cut.
pub const STOP_TEXT_BYTES_MAX: usize = 512;

const _: () = assert!(FRAME_SPACE_BYTES_MAX <= Class::Bulk.bytes_max());
const _: () = assert!(FRAME_CONTROL_BYTES_MAX <= Class::Control.bytes_max());
const _: () = assert!(2 * FRAME_SPACE_BYTES_MAX <= SESSION_WINDOW_BYTES_MAX);
const _: () = assert!(REPLICAS_MAX * 64 <= FRAME_SPACE_BYTES_MAX);
const _: () = assert!(SPACES_MAX * 33 <= FRAME_CONTROL_BYTES_MAX);

/// The first message on the control lane in each direction. Its layout never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The lowest protocol version that the sender speaks.
    pub protocol_min: u16,
    /// The highest.
    pub protocol_max: u16,
    /// The id under which the sender writes.
    pub replica: ReplicaId,
    /// The sender's wall clock, in milliseconds since 1970.
    pub wall_time_ms: u64,
}

/// What travels on the control lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlMessage {
    /// Who the sender is.
    Hello(Hello),
    /// Spaces that the sender offers to sync, beside those it offered before; at most
    /// [`SPACES_MAX`].
    ///
    /// The ids go to any peer that the transport let in. Once spaces are guarded by capabilities,
    /// what is offered here must not name a space to a peer that holds none for it.
    Spaces(#[serde(deserialize_with = "bounded::spaces")] Vec<SpaceId>),
}

/// What travels on a space's lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpaceMessage {
    /// What the sender holds, and what it has dealt with of this peer's data.
    Versions {
        /// Entries of the sender's durable version vector that changed since it last told them; the
        /// first message on a lane holds them all. At most [`REPLICAS_MAX`].
        #[serde(deserialize_with = "bounded::version")]
        version: VersionVector,
        /// How many [`Commits`](Self::Commits), [`StateRows`](Self::StateRows) and
        /// [`StateEnd`](Self::StateEnd) the sender has taken in on this connection, for good or,
        /// within a state, for the time being. Opens the other side's window.
        taken: u64,
    },
    /// Commits, in an order in which each follows all it depends on, given what the sender knows
    /// the receiver to have. At most [`RUNS_MAX`] runs and [`COMMITS_MAX`] commits.
    Commits(#[serde(with = "bounded::runs")] Vec<Run>),
    /// A whole state of this version follows.
    StateBegin(#[serde(deserialize_with = "bounded::version")] VersionVector),
    /// Rows of the state, in the order of keys; at most [`ROWS_MAX`]. A row too large for a frame
    /// comes as several rows of one key, whose dots are disjoint.
    StateRows(#[serde(with = "bounded::rows")] Vec<StateRow>),
    /// The state is complete, or given up because the receiver has meanwhile got it elsewhere.
    StateEnd {
        /// Whether it is complete.
        complete: bool,
    },
    /// The receiver of a state is still joining it.
    StateWorking,
    /// The sender no longer syncs this space over this connection.
    Stop(Stop),
}

/// Why the sender of a [`SpaceMessage::Stop`] stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// It holds another history of this writer than the receiver.
    Fork {
        /// Which writer.
        replica: ReplicaId,
        /// A sequence number at which the histories are known to differ.
        sequence: u64,
    },
    /// The receiver holds commits under the sender's replica id that the sender has not made.
    OwnReplicaAhead {
        /// The highest sequence number that the receiver was seen to hold.
        theirs: u64,
        /// The highest that the sender has made.
        ours: u64,
    },
    /// The receiver sent data that cannot be taken; the text says why.
    Malformed(#[serde(deserialize_with = "bounded::text")] String),
    /// The sender's storage failed.
    Storage,
    /// A limit of the protocol stands in the way; the text says which.
    TooLarge(#[serde(deserialize_with = "bounded::text")] String),
}

/// A message that does not fit in a frame: something here has grown past a limit of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {bytes} bytes exceeds the frame limit of {limit}")]
pub struct FrameTooLong {
    /// The length of the message.
    pub bytes: usize,
    /// The limit of its lane.
    pub limit: usize,
}

impl ControlMessage {
    /// The frame that carries the message, header included.
    ///
    /// # Errors
    /// [`FrameTooLong`], for a list longer than its limit.
    pub fn to_frame(&self) -> Result<Bytes, FrameTooLong> {
        frame::encode(&codec::encode(self), FRAME_CONTROL_BYTES_MAX)
    }

    /// Reads the payload of a frame.
    ///
    /// # Errors
    /// [`DecodeError`] if it is anything but the canonical encoding of a message within the limits.
    pub fn from_payload(payload: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(payload, Class::Control)
    }
}

impl SpaceMessage {
    /// The frame that carries the message, header included.
    ///
    /// # Errors
    /// [`FrameTooLong`], for a list longer than its limit.
    pub fn to_frame(&self) -> Result<Bytes, FrameTooLong> {
        frame::encode(&codec::encode(self), FRAME_SPACE_BYTES_MAX)
    }

    /// Reads the payload of a frame.
    ///
    /// # Errors
    /// [`DecodeError`] if it is anything but the canonical encoding of a message within the limits.
    pub fn from_payload(payload: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(payload, Class::Bulk)
    }
}

#[cfg(test)]
mod tests;
