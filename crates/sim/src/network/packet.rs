//! Packets: how they are laid out in bytes, and the tag that seals them.
//!
//! A packet is a header of [`HEADER_BYTES`], a body and a tag of [`TAG_BYTES`] over both. The body of
//! [`Kind::Data`] is the packet's number in 4 bytes and then frames.

use bytes::{Buf, Bytes};
use rejoin_crdt::SpaceId;
use rejoin_gossip::wire::Lane;

use super::ranges::Ranges;

pub(super) const HEADER_BYTES: usize = 5;
pub(super) const NUMBER_BYTES: usize = 4;
pub(super) const TAG_BYTES: usize = 8;

/// More than the header of a chunk ever takes: kind, lane, offset, time, name of the lane and length.
pub(super) const CHUNK_HEADER_BYTES: usize = 1 + 2 + 10 + 10 + 1 + SpaceId::BYTES + 2;

/// The most that an acknowledgement takes beside its ranges, and for each of them.
const ACK_HEADER_BYTES: usize = 1 + 10 + 1;
const ACK_RANGE_BYTES: usize = 2 * 5;

/// The most ranges told in one acknowledgement.
pub(super) const ACK_RANGES_MAX: usize = 32;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first of a connection, from its dialler.
    Hello,
    /// What answers it.
    Answer,
    /// Everything after the handshake.
    Data,
    /// The connection is unknown where the packet comes from.
    Reset,
}

/// What every packet begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// Whether it goes to the end that dialled.
    pub(super) to_dialler: bool,
    pub(super) connection: u32,
}

impl Header {
    /// Begins a packet.
    pub(super) fn begin(self, capacity: usize) -> Writer {
        let kind = match self.kind {
            Kind::Hello => 0,
            Kind::Answer => 1,
            Kind::Data => 2,
            Kind::Reset => 3,
        };
        let mut bytes = Vec::with_capacity(capacity);
        bytes.push(kind << 1 | u8::from(self.to_dialler));
        bytes.extend_from_slice(&self.connection.to_le_bytes());
        Writer { bytes }
    }

    /// Reads the header of a packet; `None` if it is none.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let (first, rest) = packet.split_first()?;
        let kind = match first >> 1 {
            0 => Kind::Hello,
            1 => Kind::Answer,
            2 => Kind::Data,
            3 => Kind::Reset,
            _ => return None,
        };
        let connection = u32::from_le_bytes(*rest.first_chunk()?);
        (packet.len() >= HEADER_BYTES + TAG_BYTES).then_some(Self {
            kind,
            to_dialler: first & 1 == 1,
            connection,
        })
    }
}

/// A packet being put together.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// How much there is so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn number(&mut self, number: u64) {
        self.bytes.extend_from_slice(&(number as u32).to_le_bytes());
    }

    pub(super) fn word(&mut self, word: u64) {
        self.bytes.extend_from_slice(&word.to_le_bytes());
    }

    /// Fills up with zeros, which are padding frames.
    pub(super) fn pad_to(&mut self, bytes: usize) {
        self.bytes.resize(bytes.max(self.bytes.len()), FRAME_PADDING);
    }

    pub(super) fn ping(&mut self) {
        self.bytes.push(FRAME_PING);
    }

    /// Acknowledges the highest of `numbers`, as many as fit into a packet of `capacity` bytes.
    pub(super) fn ack(&mut self, numbers: &Ranges, delay_ms: u64, capacity: usize) {
        let room = capacity.saturating_sub(self.len() + ACK_HEADER_BYTES) / ACK_RANGE_BYTES;
        let count = numbers.len().min(ACK_RANGES_MAX).min(room);
        if count == 0 {
            return;
        }
        self.bytes.push(FRAME_ACK);
        self.variable(delay_ms);
        self.bytes.push(count as u8);
        let mut below = None;
        for (start, end) in numbers.descending().take(count) {
            self.variable(below.map_or(end, |below| below - end));
            self.variable(end - start);
            below = Some(start);
        }
    }

    /// A part of a lane, which `copy` appends.
    pub(super) fn chunk(&mut self, chunk: &ChunkHeader, copy: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.push(FRAME_CHUNK);
        self.variable(chunk.number);
        self.variable(chunk.offset);
        self.variable(chunk.sent_ms);
        match chunk.name {
            Some(Lane::Control) => self.bytes.push(0),
            Some(Lane::Space(space)) => {
                self.bytes.push(1);
                self.bytes.extend_from_slice(space.as_bytes());
            }
            None => {}
        }
        let length_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        copy(&mut self.bytes);
        let length = (self.bytes.len() - length_at - 2) as u16;
        self.bytes[length_at..length_at + 2].copy_from_slice(&length.to_le_bytes());
    }

    pub(super) fn max_data(&mut self, limit: u64) {
        self.bytes.push(FRAME_MAX_DATA);
        self.variable(limit);
    }

    pub(super) fn max_lane(&mut self, number: u64, limit: u64) {
        self.bytes.push(FRAME_MAX_LANE);
        self.variable(number);
        self.variable(limit);
    }

    pub(super) fn challenge(&mut self, token: u64) {
        self.bytes.push(FRAME_CHALLENGE);
        self.word(token);
    }

    pub(super) fn response(&mut self, token: u64) {
        self.bytes.push(FRAME_RESPONSE);
        self.word(token);
    }

    pub(super) fn close(&mut self, code: u32, reason: &str) {
        self.bytes.push(FRAME_CLOSE);
        self.variable(u64::from(code));
        let length = reason.len() as u16;
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(reason.as_bytes());
    }

    /// The packet, sealed.
    pub(super) fn seal(mut self, key: u64) -> Bytes {
        let tag = tag(key, &self.bytes);
        self.word(tag);
        self.bytes.into()
    }

    fn variable(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

/// Where the bytes of a chunk belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkHeader {
    /// Which lane, by the sender's count.
    pub(super) number: u64,
    pub(super) offset: u64,
    /// When its first byte was given to the transport.
    pub(super) sent_ms: u64,
    /// Which lane that is; told with the beginning of the lane.
    pub(super) name: Option<Lane>,
}

/// One part of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Ping,
    Ack {
        delay_ms: u64,
        /// The highest first, ends excluded.
        ranges: Vec<(u64, u64)>,
    },
    Chunk(ChunkHeader, Bytes),
    MaxData(u64),
    MaxLane(u64, u64),
    Challenge(u64),
    Response(u64),
    Close(u32, String),
}

const FRAME_PADDING: u8 = 0;
const FRAME_PING: u8 = 1;
const FRAME_ACK: u8 = 2;
const FRAME_CHUNK: u8 = 3;
const FRAME_MAX_DATA: u8 = 4;
const FRAME_MAX_LANE: u8 = 5;
const FRAME_CHALLENGE: u8 = 6;
const FRAME_RESPONSE: u8 = 7;
const FRAME_CLOSE: u8 = 8;

/// The body of a packet, to be read from front to back. It may be anything: tags are not always checked.
#[derive(Debug)]
pub(super) struct Reader {
    rest: Bytes,
}

impl Reader {
    /// The body of a packet of which [`Header::read`] has read the header.
    pub(super) fn new(packet: &Bytes) -> Self {
        let end = packet.len().saturating_sub(TAG_BYTES);
        Self { rest: packet.slice(HEADER_BYTES.min(end)..end) }
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        self.rest.try_get_u32_le().ok().map(u64::from)
    }

    pub(super) fn word(&mut self) -> Option<u64> {
        self.rest.try_get_u64_le().ok()
    }

    /// The next frame; `None` at the end, and where no frame can be made out.
    pub(super) fn frame(&mut self) -> Option<Frame> {
        match self.rest.try_get_u8().ok()? {
            FRAME_PING => Some(Frame::Ping),
            FRAME_ACK => self.ack(),
            FRAME_CHUNK => self.chunk(),
            FRAME_MAX_DATA => Some(Frame::MaxData(self.variable()?)),
            FRAME_MAX_LANE => Some(Frame::MaxLane(self.variable()?, self.variable()?)),
            FRAME_CHALLENGE => Some(Frame::Challenge(self.word()?)),
            FRAME_RESPONSE => Some(Frame::Response(self.word()?)),
            FRAME_CLOSE => {
                let code = self.variable()? as u32;
                let reason = self.sized()?;
                Some(Frame::Close(code, String::from_utf8_lossy(&reason).into_owned()))
            }
            _ => None,
        }
    }

    fn ack(&mut self) -> Option<Frame> {
        let delay_ms = self.variable()?;
        let count = self.rest.try_get_u8().ok()?;
        let mut ranges = Vec::with_capacity(usize::from(count));
        let mut below = None::<u64>;
        for _ in 0..count {
            let distance = self.variable()?;
            let end = below.map_or(Some(distance), |below| below.checked_sub(distance))?;
            let start = end.checked_sub(self.variable()?)?;
            ranges.push((start, end));
            below = Some(start);
        }
        Some(Frame::Ack { delay_ms, ranges })
    }

    fn chunk(&mut self) -> Option<Frame> {
        let (number, offset, sent_ms) = (self.variable()?, self.variable()?, self.variable()?);
        let name = if offset == 0 {
            Some(match self.rest.try_get_u8().ok()? {
                0 => Lane::Control,
                _ => {
                    let mut id = [0; SpaceId::BYTES];
                    self.rest.try_copy_to_slice(&mut id).ok()?;
                    Lane::Space(SpaceId::from_bytes(id))
                }
            })
        } else {
            None
        };
        let bytes = self.sized()?;
        Some(Frame::Chunk(ChunkHeader { number, offset, sent_ms, name }, bytes))
    }

    fn sized(&mut self) -> Option<Bytes> {
        let length = usize::from(self.rest.try_get_u16_le().ok()?);
        (length <= self.rest.len()).then(|| self.rest.split_to(length))
    }

    fn variable(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.rest.try_get_u8().ok()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

/// Whether the tag of a packet is that of its bytes under this key.
pub(super) fn is_sealed(key: u64, packet: &[u8]) -> bool {
    packet
        .split_last_chunk::<TAG_BYTES>()
        .is_some_and(|(sealed, told)| tag(key, sealed) == u64::from_le_bytes(*told))
}

/// Mixes two words so that each bit of either changes about half of what comes out.
pub(super) fn mix(one: u64, other: u64) -> u64 {
    fold(fold(one ^ SALT[0], other ^ SALT[1]) ^ SALT[2], one ^ SALT[3])
}

/// What stands for the seal of an AEAD: it tells damaged bytes from what was sealed, but for one time in 2^64, and
/// costs a fraction of one. Nobody forges anything here.
fn tag(key: u64, bytes: &[u8]) -> u64 {
    let (mut one, mut other) = (key ^ SALT[0], key.rotate_left(32) ^ SALT[1]);
    let mut blocks = bytes.chunks_exact(BLOCK_BYTES);
    for block in &mut blocks {
        (one, other) = absorb(one, other, block);
    }
    let mut last = [0; BLOCK_BYTES];
    let rest = blocks.remainder();
    last[..rest.len()].copy_from_slice(rest);
    (one, other) = absorb(one, other, &last);
    mix(one ^ bytes.len() as u64, other)
}

const BLOCK_BYTES: usize = 32;

/// The fractional digits of pi.
const SALT: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

fn absorb(one: u64, other: u64, block: &[u8]) -> (u64, u64) {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    (fold(words[0] ^ SALT[2], words[1] ^ one), fold(words[2] ^ SALT[3], words[3] ^ other))
}

fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
mod tests {
    use super::*;
    use crate::random::Random;

    fn packet() -> Bytes {
        let header = Header { kind: Kind::Data, to_dialler: true, connection: 77 };
        let mut writer = header.begin(64);
        writer.number(12);
        let mut numbers = Ranges::default();
        numbers.insert(3, 9);
        numbers.insert(300, 301);
        writer.ack(&numbers, 18, 200);
        let space = Lane::Space(SpaceId::from_bytes([9; 32]));
        let begin = ChunkHeader { number: 1, offset: 0, sent_ms: 5_000, name: Some(space) };
        writer.chunk(&begin, |out| out.extend_from_slice(b"first"));
        let on = ChunkHeader { number: 0, offset: 1 << 40, sent_ms: 1, name: None };
        writer.chunk(&on, |out| out.extend_from_slice(b"later"));
        writer.ping();
        writer.max_data(70_000);
        writer.max_lane(3, 4);
        writer.challenge(5);
        writer.response(6);
        writer.close(0x101, "enough");
        writer.pad_to(200);
        writer.seal(42)
    }

    #[test]
    fn what_is_written_is_read() {
        let packet = packet();
        let header = Header::read(&packet).unwrap();
        assert_eq!(header, Header { kind: Kind::Data, to_dialler: true, connection: 77 });
        let mut reader = Reader::new(&packet);
        assert_eq!(reader.number(), Some(12));
        let space = Lane::Space(SpaceId::from_bytes([9; 32]));
        let begin = ChunkHeader { number: 1, offset: 0, sent_ms: 5_000, name: Some(space) };
        let on = ChunkHeader { number: 0, offset: 1 << 40, sent_ms: 1, name: None };
        let frames = [
            Frame::Ack { delay_ms: 18, ranges: vec![(300, 301), (3, 9)] },
            Frame::Chunk(begin, Bytes::from_static(b"first")),
            Frame::Chunk(on, Bytes::from_static(b"later")),
            Frame::Ping,
            Frame::MaxData(70_000),
            Frame::MaxLane(3, 4),
            Frame::Challenge(5),
            Frame::Response(6),
            Frame::Close(0x101, "enough".to_owned()),
        ];
        for frame in frames {
            assert_eq!(reader.frame(), Some(frame));
        }
        assert_eq!(reader.frame(), None);
    }

    #[test]
    fn the_tag_tells_any_few_flipped_bits_and_other_keys() {
        let packet = packet();
        assert!(is_sealed(42, &packet));
        assert!(!is_sealed(43, &packet));
        for bit in 0..packet.len() * 8 {
            let mut copy = packet.to_vec();
            copy[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_sealed(42, &copy), "bit {bit}");
        }
        let mut random = Random::labelled(1, "flips");
        for _ in 0..10_000 {
            let mut copy = packet.to_vec();
            for _ in 0..random.within(1..=8) {
                let bit = random.index(copy.len() * 8);
                copy[bit / 8] ^= 1 << (bit % 8);
            }
            assert!(copy == packet || !is_sealed(42, &copy));
        }
    }

    #[test]
    fn any_bytes_can_be_read_without_harm() {
        let packet = packet();
        let mut random = Random::labelled(2, "rubbish");
        for _ in 0..20_000 {
            let mut copy = packet.to_vec();
            copy.truncate(random.index(packet.len() + 1));
            for _ in 0..random.below(20) {
                let at = random.index(copy.len());
                if let Some(byte) = copy.get_mut(at) {
                    *byte = random.next_u64() as u8;
                }
            }
            let copy = Bytes::from(copy);
            if Header::read(&copy).is_none() {
                continue;
            }
            let mut reader = Reader::new(&copy);
            let _ = reader.number();
            while reader.frame().is_some() {}
        }
    }
}
