//! Self-describing values, so that every tool can show what a register holds.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::codec::{DecodeError, Reader, put_sized, put_varint};

/// The longest encoding of a value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// How deep lists and maps may be nested; a scalar has depth 1.
pub const VALUE_DEPTH_MAX: usize = 32;
/// The most scalars, lists and maps in one value, all levels counted.
pub const VALUE_NODES_MAX: usize = 65_536;

/// A value: null, boolean, integer, float, string, bytes, list or map.
///
/// Floats are compared by their bits ([`f64::total_cmp`]), so that equal values have equal encodings:
/// `NaN` equals itself, and `0.0` differs from `-0.0`.
///
/// ```
/// use rejoin_crdt::Value;
///
/// let title = Value::from("Oat milk");
/// assert_eq!(title.as_str(), Some("Oat milk"));
/// assert_eq!(Value::from_bytes(&title.to_bytes()?), Ok(title));
/// # Ok::<(), rejoin_crdt::ValueError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub enum Value {
    /// Nothing.
    #[default]
    Null,
    /// A truth value.
    Bool(bool),
    /// A signed integer.
    I64(i64),
    /// A float.
    F64(f64),
    /// A Unicode string.
    String(String),
    /// Any bytes.
    Bytes(Vec<u8>),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Map(BTreeMap<String, Value>),
}

/// A value that breaks a limit. The caller's fault; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// The encoding would exceed [`VALUE_BYTES_MAX`].
    #[error("the value would take more than {VALUE_BYTES_MAX} bytes")]
    TooLong,
    /// Nesting exceeds [`VALUE_DEPTH_MAX`].
    #[error("the value is nested deeper than {VALUE_DEPTH_MAX}")]
    TooDeep,
    /// There are more than [`VALUE_NODES_MAX`] parts.
    #[error("the value has more than {VALUE_NODES_MAX} parts")]
    TooManyNodes,
}

const TAG_NULL: u8 = 0;
const TAG_FALSE: u8 = 1;
const TAG_TRUE: u8 = 2;
const TAG_I64: u8 = 3;
const TAG_F64: u8 = 4;
const TAG_STRING: u8 = 5;
const TAG_BYTES: u8 = 6;
const TAG_LIST: u8 = 7;
const TAG_MAP: u8 = 8;

impl Value {
    /// The canonical encoding: a tag, then the content; integers are zigzag base-128, floats 8
    /// little-endian bytes, strings and bytes carry their length, lists and maps their count, and maps
    /// are in the order of their keys.
    ///
    /// # Errors
    /// [`ValueError`] if a limit is broken.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ValueError> {
        let mut out = Vec::new();
        self.append_to(&mut out)?;
        Ok(out)
    }

    /// Appends the canonical encoding to `out`.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) -> Result<(), ValueError> {
        let limit = out.len() + VALUE_BYTES_MAX;
        self.encode_into(out, limit, 1, &mut 0)
    }

    /// Reads a canonical encoding, which must be the whole of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not the canonical encoding of a value within the limits.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let value = Self::read_from(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }

    /// Reads one canonical encoding off the front of `reader`.
    pub(crate) fn read_from(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let before = reader.remaining();
        let value = Self::decode_from(reader, 1, &mut 0)?;
        let length = before - reader.remaining();
        if length > VALUE_BYTES_MAX {
            return Err(DecodeError::TooLong { length, limit: VALUE_BYTES_MAX });
        }
        Ok(value)
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self { Some(*value) } else { None }
    }

    /// The integer, if it is one.
    pub fn as_i64(&self) -> Option<i64> {
        if let Value::I64(value) = self { Some(*value) } else { None }
    }

    /// The float, if it is one.
    pub fn as_f64(&self) -> Option<f64> {
        if let Value::F64(value) = self { Some(*value) } else { None }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(value) = self { Some(value) } else { None }
    }

    /// The bytes, if it is bytes.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        if let Value::Bytes(value) = self { Some(value) } else { None }
    }

    /// The elements, if it is a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        if let Value::List(value) = self { Some(value) } else { None }
    }

    /// The entries, if it is a map.
    pub fn as_map(&self) -> Option<&BTreeMap<String, Value>> {
        if let Value::Map(value) = self { Some(value) } else { None }
    }

    fn encode_into(
        &self,
        out: &mut Vec<u8>,
        limit: usize,
        depth: usize,
        nodes: &mut usize,
    ) -> Result<(), ValueError> {
        if depth > VALUE_DEPTH_MAX {
            return Err(ValueError::TooDeep);
        }
        *nodes += 1;
        if *nodes > VALUE_NODES_MAX {
            return Err(ValueError::TooManyNodes);
        }
        match self {
            Value::Null => out.push(TAG_NULL),
            Value::Bool(value) => out.push(if *value { TAG_TRUE } else { TAG_FALSE }),
            Value::I64(value) => {
                out.push(TAG_I64);
                put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
            }
            Value::F64(value) => {
                out.push(TAG_F64);
                out.extend_from_slice(&value.to_le_bytes());
            }
            Value::String(value) => {
                out.push(TAG_STRING);
                put_bounded(out, value.as_bytes())?;
            }
            Value::Bytes(value) => {
                out.push(TAG_BYTES);
                put_bounded(out, value)?;
            }
            Value::List(values) => {
                out.push(TAG_LIST);
                put_varint(out, values.len() as u64);
                for value in values {
                    value.encode_into(out, limit, depth + 1, nodes)?;
                }
            }
            Value::Map(entries) => {
                out.push(TAG_MAP);
                put_varint(out, entries.len() as u64);
                for (key, value) in entries {
                    put_bounded(out, key.as_bytes())?;
                    value.encode_into(out, limit, depth + 1, nodes)?;
                }
            }
        }
        if out.len() > limit { Err(ValueError::TooLong) } else { Ok(()) }
    }

    fn decode_from(
        reader: &mut Reader<'_>,
        depth: usize,
        nodes: &mut usize,
    ) -> Result<Self, DecodeError> {
        if depth > VALUE_DEPTH_MAX {
            return Err(DecodeError::Invalid("a value is nested too deep"));
        }
        *nodes += 1;
        if *nodes > VALUE_NODES_MAX {
            return Err(DecodeError::Invalid("a value has too many parts"));
        }
        Ok(match reader.byte()? {
            TAG_NULL => Value::Null,
            TAG_FALSE => Value::Bool(false),
            TAG_TRUE => Value::Bool(true),
            TAG_I64 => {
                let zigzag = reader.varint()?;
                Value::I64((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
            }
            TAG_F64 => {
                let bytes = reader.take(8)?;
                Value::F64(f64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
            }
            TAG_STRING => Value::String(utf8(reader.sized()?)?),
            TAG_BYTES => Value::Bytes(reader.sized()?.to_vec()),
            TAG_LIST => {
                let count = reader.varint()?;
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(Self::decode_from(reader, depth + 1, nodes)?);
                }
                Value::List(values)
            }
            TAG_MAP => {
                let count = reader.varint()?;
                let mut entries = BTreeMap::new();
                for _ in 0..count {
                    let key = utf8(reader.sized()?)?;
                    if entries.last_key_value().is_some_and(|(last, _)| *last >= key) {
                        return Err(DecodeError::NotCanonical);
                    }
                    entries.insert(key, Self::decode_from(reader, depth + 1, nodes)?);
                }
                Value::Map(entries)
            }
            _ => return Err(DecodeError::Malformed("unknown tag of a value".to_owned())),
        })
    }

    /// The place of each variant in the order of values.
    fn rank(&self) -> u8 {
        match self {
            Value::Null => TAG_NULL,
            Value::Bool(_) => TAG_TRUE,
            Value::I64(_) => TAG_I64,
            Value::F64(_) => TAG_F64,
            Value::String(_) => TAG_STRING,
            Value::Bytes(_) => TAG_BYTES,
            Value::List(_) => TAG_LIST,
            Value::Map(_) => TAG_MAP,
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Value {}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::I64(a), Value::I64(b)) => a.cmp(b),
            (Value::F64(a), Value::F64(b)) => a.total_cmp(b),
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
            (Value::List(a), Value::List(b)) => a.cmp(b),
            (Value::Map(a), Value::Map(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::I64(value) => write!(f, "{value}"),
            Value::F64(value) => write!(f, "{value}"),
            Value::String(value) => write!(f, "{value:?}"),
            Value::Bytes(value) => write!(f, "0x{}", hex::encode(value)),
            Value::List(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
            Value::Map(entries) => {
                f.write_str("{")?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    write!(f, "{}{key:?}: {value}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str("}")
            }
        }
    }
}

impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.to_bytes().map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = crate::codec::ByteString::deserialize(deserializer)?;
        Value::from_bytes(&bytes.0).map_err(serde::de::Error::custom)
    }
}

/// Implements `From` for the types that are one variant of a value.
macro_rules! from_scalar {
    ($($from:ty => $variant:ident),* $(,)?) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Value::$variant(value.into())
            }
        })*
    };
}
from_scalar!(bool => Bool, i64 => I64, i32 => I64, u32 => I64, f64 => F64, &str => String, String => String,
    Vec<u8> => Bytes, &[u8] => Bytes, Vec<Value> => List, BTreeMap<String, Value> => Map);

fn put_bounded(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), ValueError> {
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(ValueError::TooLong);
    }
    put_sized(out, bytes);
    Ok(())
}

fn utf8(bytes: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Invalid("a string is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::I64),
            any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
            ".{0,8}".prop_map(Value::String),
            prop::collection::vec(any::<u8>(), 0..8).prop_map(Value::Bytes),
        ];
        scalar.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
                prop::collection::btree_map(".{0,3}", inner, 0..4).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn encoding_round_trips_and_is_injective(a in value(), b in value()) {
            let bytes = a.to_bytes().unwrap();
            prop_assert_eq!(Value::from_bytes(&bytes), Ok(a.clone()));
            prop_assert_eq!(bytes == b.to_bytes().unwrap(), a == b);
        }

        #[test]
        fn any_bytes_are_the_one_encoding_of_a_value_or_refused(bytes in prop::collection::vec(prop_oneof![0u8..9, any::<u8>()], 0..24)) {
            if let Ok(value) = Value::from_bytes(&bytes) {
                prop_assert_eq!(value.to_bytes().unwrap(), bytes);
            }
        }
    }

    #[test]
    fn deep_nesting_and_long_counts_are_refused() {
        let deep = [[TAG_LIST, 1].repeat(VALUE_DEPTH_MAX), vec![TAG_NULL]].concat();
        assert_eq!(
            Value::from_bytes(&deep),
            Err(DecodeError::Invalid("a value is nested too deep"))
        );
        assert!(Value::from_bytes(&[TAG_LIST, 1].repeat(VALUE_BYTES_MAX / 2)).is_err());
        assert!(Value::from_bytes(&[TAG_LIST, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
        assert!(Value::from_bytes(&[TAG_STRING, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
        let mut wide = vec![TAG_LIST];
        put_varint(&mut wide, VALUE_NODES_MAX as u64);
        wide.extend(vec![TAG_NULL; VALUE_NODES_MAX]);
        assert_eq!(
            Value::from_bytes(&wide),
            Err(DecodeError::Invalid("a value has too many parts"))
        );

        let nested = (0..VALUE_DEPTH_MAX).fold(Value::Null, |inner, _| Value::List(vec![inner]));
        assert_eq!(nested.to_bytes(), Err(ValueError::TooDeep));
        assert_eq!(Value::Bytes(vec![0; VALUE_BYTES_MAX]).to_bytes(), Err(ValueError::TooLong));
        assert_eq!(
            Value::List(vec![Value::Null; VALUE_NODES_MAX]).to_bytes(),
            Err(ValueError::TooManyNodes)
        );
    }

    #[test]
    fn map_keys_out_of_order_are_not_canonical() {
        let bytes = [TAG_MAP, 2, 1, b'b', TAG_NULL, 1, b'a', TAG_NULL];
        assert_eq!(Value::from_bytes(&bytes), Err(DecodeError::NotCanonical));
    }
}
