//! Cutting byte streams into preambles and frames.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rejoin_crdt::SpaceId;

use super::{FRAME_CONTROL_BYTES_MAX, FRAME_SPACE_BYTES_MAX, FrameTooLong};

const MAGIC: [u8; 4] = *b"rjn\0";
const KIND_CONTROL: u8 = 0;
const KIND_SPACE: u8 = 1;
const FIXED_BYTES: usize = 7;
const LENGTH_BYTES: usize = 4;

/// The length of the longest preamble.
pub const PREAMBLE_BYTES_MAX: usize = FIXED_BYTES + SpaceId::BYTES;

/// One of the ordered streams of a connection, in one direction. Between lanes there is no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The stream on which the two sides agree.
    Control,
    /// The stream of one space.
    Space(SpaceId),
}

impl Lane {
    /// The longest payload of a frame on this lane.
    pub fn frame_bytes_max(self) -> usize {
        match self {
            Lane::Control => FRAME_CONTROL_BYTES_MAX,
            Lane::Space(_) => FRAME_SPACE_BYTES_MAX,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lane::Control => f.write_str("the control lane"),
            Lane::Space(space) => write!(f, "the lane of space {space}"),
        }
    }
}

/// What every stream begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// Which lane the stream is.
    pub lane: Lane,
    /// The protocol version of what follows; 0 on the control lane.
    pub protocol: u16,
}

impl Preamble {
    /// The preamble in bytes.
    pub fn to_bytes(self) -> Bytes {
        let mut out = BytesMut::with_capacity(PREAMBLE_BYTES_MAX);
        out.put_slice(&MAGIC);
        match self.lane {
            Lane::Control => {
                out.put_u8(KIND_CONTROL);
                out.put_u16_le(self.protocol);
            }
            Lane::Space(space) => {
                out.put_u8(KIND_SPACE);
                out.put_u16_le(self.protocol);
                out.put_slice(space.as_bytes());
            }
        }
        out.freeze()
    }

    /// Takes a preamble off the front of `buffer`, once all of it is there.
    fn take(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let known = buffer.len().min(MAGIC.len());
        if buffer[..known] != MAGIC[..known] {
            return Err(FrameError::NotOurs);
        }
        let Some(&kind) = buffer.get(MAGIC.len()) else { return Ok(None) };
        let length = match kind {
            KIND_CONTROL => FIXED_BYTES,
            KIND_SPACE => PREAMBLE_BYTES_MAX,
            other => return Err(FrameError::UnknownLane(other)),
        };
        if buffer.len() < length {
            return Ok(None);
        }
        buffer.advance(MAGIC.len() + 1);
        let protocol = buffer.get_u16_le();
        let lane = match kind {
            KIND_CONTROL => Lane::Control,
            _ => {
                let mut id = [0; SpaceId::BYTES];
                buffer.copy_to_slice(&mut id);
                Lane::Space(SpaceId::from_bytes(id))
            }
        };
        Ok(Some(Preamble { lane, protocol }))
    }
}

/// A stream that is not one of ours, or breaks a limit. The peer is at fault: close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The stream does not begin with our magic bytes.
    #[error("the stream does not begin as ours do")]
    NotOurs,
    /// The preamble names a kind of lane that does not exist.
    #[error("unknown kind of lane {0}")]
    UnknownLane(u8),
    /// A frame claims to be empty.
    #[error("an empty frame")]
    Empty,
    /// A frame claims more than its lane allows.
    #[error("a frame of {length} bytes exceeds the limit of {limit}")]
    TooLong {
        /// The claimed length of the payload.
        length: usize,
        /// The lane's limit.
        limit: usize,
    },
    /// The stream ended inside a preamble or a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
}

/// What a [`FrameReader`] found next in its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The beginning of the stream. Comes once, first.
    Preamble(Preamble),
    /// The payload of a frame.
    Frame(Bytes),
}

/// Cuts one incoming stream into its preamble and frames.
///
/// Push bytes as they arrive and take what is complete until there is none, before pushing more.
/// The reader then holds less than one frame of the lane's limit beside the last push, and never
/// allocates for bytes that have not come. After an error it must be dropped with its connection.
///
/// ```
/// use rejoin_gossip::wire::{ControlMessage, FrameReader, Incoming, Lane, Preamble};
///
/// let frame = ControlMessage::Spaces(vec![]).to_frame()?;
/// let mut reader = FrameReader::default();
/// reader.push(&Preamble { lane: Lane::Control, protocol: 0 }.to_bytes());
/// reader.push(&frame[..3]); // a part of the header
/// assert!(matches!(reader.next()?, Some(Incoming::Preamble(_))));
/// assert_eq!(reader.next()?, None);
/// reader.push(&frame[3..]);
/// let Some(Incoming::Frame(payload)) = reader.next()? else { panic!("all of it has come") };
/// assert_eq!(ControlMessage::from_payload(&payload)?, ControlMessage::Spaces(vec![]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
    lane: Option<Lane>,
}

impl FrameReader {
    /// Takes in bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The lane, once the preamble was taken.
    pub fn lane(&self) -> Option<Lane> {
        self.lane
    }

    /// The next complete part of the stream, or `None` until more has arrived.
    ///
    /// # Errors
    /// [`FrameError`] as soon as the bytes show it.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would end; a stream waits for more"
    )]
    pub fn next(&mut self) -> Result<Option<Incoming>, FrameError> {
        let Some(lane) = self.lane else {
            let preamble = Preamble::take(&mut self.buffer)?;
            self.lane = preamble.map(|preamble| preamble.lane);
            return Ok(preamble.map(Incoming::Preamble));
        };
        let Some(header) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header) as usize;
        let limit = lane.frame_bytes_max();
        if length == 0 {
            return Err(FrameError::Empty);
        }
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        if self.buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(Incoming::Frame(self.buffer.split_to(length).freeze())))
    }

    /// Checks that the stream did not end in the middle of something.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] if it did.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.buffer.is_empty() && self.lane.is_some() {
            Ok(())
        } else {
            Err(FrameError::Truncated)
        }
    }
}

/// A frame with this payload.
pub(super) fn encode(payload: &[u8], limit: usize) -> Result<Bytes, FrameTooLong> {
    let length = u32::try_from(payload.len()).ok().filter(|length| *length as usize <= limit);
    let Some(length) = length else {
        return Err(FrameTooLong { bytes: payload.len(), limit });
    };
    let mut out = BytesMut::with_capacity(LENGTH_BYTES + payload.len());
    out.put_u32_le(length);
    out.put_slice(payload);
    Ok(out.freeze())
}
