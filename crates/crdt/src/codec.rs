//! The one codec module: every canonical encoding of rejoin passes through here.
//!
//! Values are encoded with bincode in its variable-length integer form. bincode alone accepts several
//! byte strings for one value, trailing bytes and absurd lengths; [`decode`] does not: it bounds the
//! input and the memory that decoding may claim by the [`Class`] of the message, requires that every
//! byte was used, and requires that encoding the result again gives the same bytes. So *one value has
//! one byte string*, and what was received may be hashed as received.
//!
//! Nothing decoded here may be recursive (bincode would recurse without bound); the one recursive
//! type, [`Value`](crate::Value), has an encoding of its own and travels as a byte string.

use serde::{Serialize, de::DeserializeOwned};

/// How large a message of some class may be, in bytes of input and of decoded memory.
///
/// The limit on memory is the limit on input times [`MEMORY_FACTOR`], because bincode counts the size
/// of decoded elements in memory and not of their encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Hellos, lists, probes: 64 KiB.
    Control,
    /// Version vectors, lists of spaces: 1 MiB.
    Vector,
    /// Commits, rows and batches of them: 16 MiB.
    Bulk,
}

/// How many times its encoding a decoded message may claim in memory.
pub const MEMORY_FACTOR: usize = 8;

const CONTROL_BYTES_MAX: usize = 64 << 10;
const VECTOR_BYTES_MAX: usize = 1 << 20;
const BULK_BYTES_MAX: usize = 16 << 20;

impl Class {
    /// The largest encoding of this class, in bytes.
    pub const fn bytes_max(self) -> usize {
        match self {
            Class::Control => CONTROL_BYTES_MAX,
            Class::Vector => VECTOR_BYTES_MAX,
            Class::Bulk => BULK_BYTES_MAX,
        }
    }
}

/// Bytes that are not the canonical encoding of what was expected.
///
/// The fault lies with whoever made the bytes; nothing was changed; the bytes must be dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input is larger than its class allows.
    #[error("{length} bytes exceed the limit of {limit}")]
    TooLong {
        /// The length of the input, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The input is not an encoding of the expected type, or claims more memory than its class allows.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The input goes on after the value.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
    /// The input decodes, but is not the one byte string that stands for the value.
    #[error("not in canonical form")]
    NotCanonical,
    /// A part of the value breaks a stated limit or rule.
    #[error("invalid: {0}")]
    Invalid(&'static str),
}

/// The canonical encoding of `value`.
///
/// # Panics
/// If `T` has no known length or is otherwise not fit for the wire: a bug in the type, never in its value.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .expect("wire types are plain data of known length, which bincode always encodes")
}

/// Decodes the canonical encoding of a `T`, which must be the whole of `bytes`.
///
/// # Errors
/// A [`DecodeError`] that says what is wrong; never a panic, and never more memory than `class` allows.
pub fn decode<T: DeserializeOwned + Serialize>(
    bytes: &[u8],
    class: Class,
) -> Result<T, DecodeError> {
    let value: T = decode_loosely(bytes, class)?;
    if encode(&value) != bytes {
        return Err(DecodeError::NotCanonical);
    }
    Ok(value)
}

/// As [`decode`], without the check that the form is canonical: for types whose own constructor makes it.
pub(crate) fn decode_loosely<T: DeserializeOwned>(
    bytes: &[u8],
    class: Class,
) -> Result<T, DecodeError> {
    let limit = class.bytes_max();
    if bytes.len() > limit {
        return Err(DecodeError::TooLong { length: bytes.len(), limit });
    }
    let decoded = match class {
        Class::Control => bincode::serde::decode_from_slice(
            bytes,
            bincode::config::standard().with_limit::<{ CONTROL_BYTES_MAX * MEMORY_FACTOR }>(),
        ),
        Class::Vector => bincode::serde::decode_from_slice(
            bytes,
            bincode::config::standard().with_limit::<{ VECTOR_BYTES_MAX * MEMORY_FACTOR }>(),
        ),
        Class::Bulk => bincode::serde::decode_from_slice(
            bytes,
            bincode::config::standard().with_limit::<{ BULK_BYTES_MAX * MEMORY_FACTOR }>(),
        ),
    };
    let (value, used) = decoded.map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if used != bytes.len() {
        return Err(DecodeError::Trailing(bytes.len() - used));
    }
    Ok(value)
}

/// Bytes in a serde structure, encoded as one byte string (a plain `Vec<u8>` would go element by element).
pub(crate) struct ByteString(pub(crate) Vec<u8>);

impl<'de> serde::Deserialize<'de> for ByteString {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ByteString;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<ByteString, E> {
                Ok(ByteString(bytes.to_vec()))
            }

            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<ByteString, E> {
                Ok(ByteString(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

/// Reads a sequence number, which counts from 1: zero would be a second way to say "none".
pub(crate) fn deserialize_sequence<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<u64, D::Error> {
    match <u64 as serde::Deserialize>::deserialize(deserializer)? {
        0 => Err(serde::de::Error::custom("a sequence number is zero")),
        sequence => Ok(sequence),
    }
}

/// A cursor over bytes for the few encodings written by hand ([`Value`](crate::Value)).
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Ends the reading: nothing may be left.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| DecodeError::Malformed("unexpected end".to_owned()))?;
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian base-128 integer in its shortest form.
    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(DecodeError::Invalid("integer over 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 {
                    Err(DecodeError::NotCanonical)
                } else {
                    Ok(value)
                };
            }
        }
        Err(DecodeError::Invalid("integer over 64 bits"))
    }

    /// A byte string with its length before it. The length cannot exceed what is there.
    pub(crate) fn sized(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.varint()?;
        let length = usize::try_from(length)
            .map_err(|_| DecodeError::Invalid("length over the address space"))?;
        self.take(length)
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absurd_length_is_refused_without_allocating() {
        // A vector that claims 2^60 elements.
        let mut bytes = vec![0xfd];
        bytes.extend_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(matches!(decode::<Vec<u64>>(&bytes, Class::Bulk), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn one_value_has_one_byte_string() {
        assert_eq!(decode::<u64>(&[5], Class::Control), Ok(5));
        // The same number in a longer form, which bincode alone would take.
        assert_eq!(decode::<u64>(&[0xfb, 5, 0], Class::Control), Err(DecodeError::NotCanonical));
        assert_eq!(decode::<u64>(&[5, 0], Class::Control), Err(DecodeError::Trailing(1)));
    }

    #[test]
    fn varints_are_minimal_and_bounded() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(Reader::new(&bytes).varint(), Ok(value));
        }
        assert_eq!(Reader::new(&[0x80, 0]).varint(), Err(DecodeError::NotCanonical));
        assert!(Reader::new(&[0xff; 11]).varint().is_err());
        assert!(Reader::new(&[0x80]).varint().is_err());
    }
}
