//! Rows: the dot store of one path and kind, and how two of them join.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::codec::{DecodeError, Reader, put_varint};
use crate::join::JoinConflict;
use crate::planted::{self, Bug};
use crate::{Dot, Path, ReplicaId, Value, VersionVector};

/// What a row is; see [`kind`](crate::kind) for what each means.
///
/// Its number ends the encoding of a [`RowKey`] and is never reused. Rows of different kinds at one
/// path are different rows and never conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Kind {
    /// A value, with concurrent ones beside it: [`kind::register`](crate::kind::register).
    Register = 1,
    /// A sum of increments: [`kind::counter`](crate::kind::counter).
    Counter = 2,
    /// On or off: [`kind::flag`](crate::kind::flag).
    Flag = 3,
    /// A member of a set: [`kind::element`](crate::kind::element).
    Element = 4,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Kind; 4] = [Kind::Register, Kind::Counter, Kind::Flag, Kind::Element];

    /// The kind with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The key of a row in its space: a path and a kind.
///
/// The order of keys is the byte order of their encodings: a path's own rows, by kind, then what is
/// under it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// Where.
    pub path: Path,
    /// What.
    pub kind: Kind,
}

impl RowKey {
    /// The encoding: that of the path, then the number of the kind.
    pub fn to_bytes(&self) -> Vec<u8> {
        let path = self.path.as_bytes();
        let mut bytes = Vec::with_capacity(path.len() + 1);
        bytes.extend_from_slice(path);
        bytes.push(self.kind as u8);
        bytes
    }

    /// Reads an encoding.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not the encoding of a key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (kind, path) = bytes.split_last().ok_or(DecodeError::Invalid("a row key is empty"))?;
        let kind = Kind::from_number(*kind).ok_or(DecodeError::Invalid("unknown kind of row"))?;
        Ok(Self { path: Path::from_bytes(path)?, kind })
    }
}

/// What one dot carries; its variant is the kind of its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// A value put, and the wall time of its commit in milliseconds since the Unix epoch.
    Register {
        /// The value.
        value: Value,
        /// Breaks ties between concurrent puts, and does nothing else.
        wall_time_ms: u64,
    },
    /// An amount added.
    Counter(i64),
    /// The flag was enabled.
    Flag,
    /// The element was added.
    Element,
}

impl Payload {
    /// The kind of row that this payload belongs to.
    pub fn kind(&self) -> Kind {
        match self {
            Payload::Register { .. } => Kind::Register,
            Payload::Counter(_) => Kind::Counter,
            Payload::Flag => Kind::Flag,
            Payload::Element => Kind::Element,
        }
    }

    /// Appends the canonical encoding, which does not repeat the kind: a register is its wall time
    /// and its value, a counter a zigzag integer, the others nothing.
    ///
    /// # Panics
    /// If the value breaks a limit, which [`Transaction`](crate::Transaction) and decoding rule out.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Payload::Register { value, wall_time_ms } => {
                put_varint(out, *wall_time_ms);
                value.append_to(out).expect("payloads hold only values within the limits");
            }
            Payload::Counter(amount) => put_varint(out, ((amount << 1) ^ (amount >> 63)) as u64),
            Payload::Flag | Payload::Element => {}
        }
    }

    /// Reads the encoding of a payload of `kind`, which must be the whole of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not the canonical encoding of one.
    pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let payload = Self::decode_from(kind, &mut reader)?;
        reader.finish()?;
        Ok(payload)
    }

    pub(crate) fn decode_from(kind: Kind, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match kind {
            Kind::Register => {
                let wall_time_ms = reader.varint()?;
                Payload::Register { value: Value::read_from(reader)?, wall_time_ms }
            }
            Kind::Counter => {
                let zigzag = reader.varint()?;
                Payload::Counter((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
            }
            Kind::Flag => Payload::Flag,
            Kind::Element => Payload::Element,
        })
    }
}

/// A dot store: the live dots of one row, each with its payload, in the order of dots.
///
/// Only what is live is here. A dot that a version vector covers and a row does not hold has been
/// removed: that is why a removal leaves nothing behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    entries: SmallVec<[(Dot, Payload); 1]>,
}

impl Row {
    /// Whether no dot is live; such a row is not stored.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of live dots.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The live dots and their payloads, in the order of dots.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Dot, &Payload)> {
        self.entries.iter().map(|(dot, payload)| (*dot, payload))
    }

    /// The live dots, in order.
    pub fn dots(&self) -> impl ExactSizeIterator<Item = Dot> + '_ {
        self.entries.iter().map(|(dot, _)| *dot)
    }

    /// The payload of a live dot.
    pub fn get(&self, dot: Dot) -> Option<&Payload> {
        self.position(dot).ok().map(|index| &self.entries[index].1)
    }

    /// Adds a live dot, or replaces its payload.
    pub fn insert(&mut self, dot: Dot, payload: Payload) {
        match self.position(dot) {
            Ok(index) => self.entries[index].1 = payload,
            Err(index) => self.entries.insert(index, (dot, payload)),
        }
    }

    /// Removes a dot; those that are not live are ignored.
    pub fn remove(&mut self, dot: Dot) {
        if let Ok(index) = self.position(dot) {
            self.entries.remove(index);
        }
    }

    /// Keeps only the dots for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(Dot) -> bool) {
        self.entries.retain(|(dot, _)| keep(*dot));
    }

    /// The causal join: a dot survives if both sides hold it, or if one side holds it and the other
    /// side's version vector does not cover it (Almeida, Shoker, Baquero 2018, figure 3).
    ///
    /// # Errors
    /// The dot, if both sides hold it with different payloads: one dot, one payload.
    pub(crate) fn join(
        &self,
        version: &VersionVector,
        other: &Row,
        other_version: &VersionVector,
    ) -> Result<Row, JoinConflict> {
        let mut joined = Row::default();
        let (mut mine, mut theirs) = (self.iter().peekable(), other.iter().peekable());
        loop {
            let order = match (mine.peek(), theirs.peek()) {
                (None, None) => return Ok(joined),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let survivor = match order {
                std::cmp::Ordering::Less => {
                    mine.next().filter(|(dot, _)| !other_version.covers(*dot))
                }
                std::cmp::Ordering::Greater => theirs
                    .next()
                    .filter(|(dot, _)| !version.covers(*dot) || planted::is(Bug::JoinKeepsCovered)),
                std::cmp::Ordering::Equal => {
                    let (a, b) = (mine.next(), theirs.next());
                    if a != b {
                        return Err(JoinConflict(a.map(|(dot, _)| dot)));
                    }
                    a
                }
            };
            if let Some((dot, payload)) = survivor {
                let payload = payload.clone();
                #[cfg(feature = "mutants")]
                let payload = planted::joined(order, payload);
                joined.entries.push((dot, payload));
            }
        }
    }

    /// The canonical encoding: the number of dots, then each dot (16 bytes of replica id, sequence
    /// number in base 128) with its payload.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.entries.len() * 24);
        put_varint(&mut out, self.entries.len() as u64);
        for (dot, payload) in &self.entries {
            out.extend_from_slice(dot.replica.as_bytes());
            put_varint(&mut out, dot.sequence);
            payload.encode_into(&mut out);
        }
        out
    }

    /// Reads the canonical encoding of a row of `kind`, which must be the whole of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not that: among other things if dots are out of order.
    pub fn from_bytes(kind: Kind, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let count = reader.varint()?;
        let mut row = Row::default();
        for _ in 0..count {
            let replica = reader.take(ReplicaId::BYTES)?;
            let replica = replica.try_into().expect("as many bytes were taken as an id has");
            let dot = Dot { replica: ReplicaId::from_bytes(replica), sequence: reader.varint()? };
            if dot.sequence == 0 || row.entries.last().is_some_and(|(last, _)| *last >= dot) {
                return Err(DecodeError::NotCanonical);
            }
            row.entries.push((dot, Payload::decode_from(kind, &mut reader)?));
        }
        reader.finish()?;
        Ok(row)
    }

    /// Divides the row into rows with disjoint dots, each with an encoding of at most about
    /// `bytes_max` (one dot may exceed it), so that a row of any size fits through a frame.
    pub fn split(&self, bytes_max: usize) -> Vec<Row> {
        let mut parts = vec![Row::default()];
        let mut bytes = 0;
        for (dot, payload) in &self.entries {
            let mut encoded = Vec::new();
            payload.encode_into(&mut encoded);
            let size = ReplicaId::BYTES + 10 + encoded.len();
            if bytes + size > bytes_max && bytes > 0 {
                parts.push(Row::default());
                bytes = 0;
            }
            bytes += size;
            if let Some(part) = parts.last_mut() {
                part.entries.push((*dot, payload.clone()));
            }
        }
        parts
    }

    fn position(&self, dot: Dot) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&dot, |(dot, _)| *dot)
    }
}

impl FromIterator<(Dot, Payload)> for Row {
    fn from_iter<I: IntoIterator<Item = (Dot, Payload)>>(entries: I) -> Self {
        let mut row = Row::default();
        for (dot, payload) in entries {
            row.insert(dot, payload);
        }
        row
    }
}
