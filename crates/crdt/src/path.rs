//! Paths: the keys inside a space, in an encoding whose byte order is their order.
//!
//! Each segment is a tag and its content, and no segment's encoding is a prefix of another's. So the
//! encodings of everything under a path are exactly the byte strings that begin with its encoding: a
//! prefix scan is a byte-range scan. Integers sort before strings, strings before bytes.
//!
//! | segment | encoding |
//! |---|---|
//! | u64 | `0x10 + n`, then the n big-endian bytes without leading zeros (n = 0..=8) |
//! | string | `0x20`, content, `0x00` |
//! | bytes | `0x30`, content, `0x00` |
//!
//! In content, `0x00` is written `0x01 0x01` and `0x01` is written `0x01 0x02`. Tags up to `0x0f` are
//! left free: a [`RowKey`](crate::RowKey) ends a path with the kind of the row.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::codec::DecodeError;

/// The longest encoding of a path, in bytes.
pub const PATH_BYTES_MAX: usize = 1_024;
/// The most segments in a path.
pub const PATH_SEGMENTS_MAX: usize = 32;

const TAG_U64: u8 = 0x10;
const TAG_STRING: u8 = 0x20;
const TAG_BYTES: u8 = 0x30;
const END: u8 = 0x00;
const ESCAPE: u8 = 0x01;

/// A path that breaks a limit. The caller's fault; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The encoding would exceed [`PATH_BYTES_MAX`].
    #[error("the path would take more than {PATH_BYTES_MAX} bytes")]
    TooLong,
    /// There are more than [`PATH_SEGMENTS_MAX`] segments.
    #[error("the path has more than {PATH_SEGMENTS_MAX} segments")]
    TooDeep,
}

/// One step of a path, owned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// An unsigned integer.
    U64(u64),
    /// A Unicode string.
    String(String),
    /// Any bytes.
    Bytes(Vec<u8>),
}

/// One step of a path, borrowed where it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SegmentRef<'a> {
    /// An unsigned integer.
    U64(u64),
    /// A Unicode string.
    String(&'a str),
    /// Any bytes.
    Bytes(&'a [u8]),
}

impl Segment {
    /// Borrows the segment.
    pub fn as_ref(&self) -> SegmentRef<'_> {
        match self {
            Segment::U64(number) => SegmentRef::U64(*number),
            Segment::String(text) => SegmentRef::String(text),
            Segment::Bytes(bytes) => SegmentRef::Bytes(bytes),
        }
    }

    /// The text of a string segment.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Segment::String(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Segment::U64(number) => write!(f, "{number}"),
            Segment::String(text) => f.write_str(text),
            Segment::Bytes(bytes) => write!(f, "0x{}", hex::encode(bytes)),
        }
    }
}

impl<'a> From<&'a Segment> for SegmentRef<'a> {
    fn from(segment: &'a Segment) -> Self {
        segment.as_ref()
    }
}

impl<'a> From<&'a str> for SegmentRef<'a> {
    fn from(text: &'a str) -> Self {
        SegmentRef::String(text)
    }
}

impl<'a> From<&'a String> for SegmentRef<'a> {
    fn from(text: &'a String) -> Self {
        SegmentRef::String(text)
    }
}

impl<'a> From<&'a [u8]> for SegmentRef<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        SegmentRef::Bytes(bytes)
    }
}

impl From<u64> for SegmentRef<'_> {
    fn from(number: u64) -> Self {
        SegmentRef::U64(number)
    }
}

/// A key inside a space: a list of segments, kept as its order-preserving encoding.
///
/// ```
/// use rejoin_crdt::Path;
///
/// let items = Path::of(["items"])?;
/// let milk = items.child("oat milk")?.child(2)?;
/// assert!(milk.starts_with(&items));
/// assert!(items < milk, "a path sorts before what is under it");
/// assert_eq!(milk.to_string(), "items/oat milk/2");
/// # Ok::<(), rejoin_crdt::PathError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Path {
    encoded: Box<[u8]>,
}

impl Path {
    /// The path with no segment: the whole space.
    pub fn root() -> Self {
        Self::default()
    }

    /// The path of these segments, all of one type; see [`Path::child`] for mixed ones.
    ///
    /// # Errors
    /// [`PathError`] if a limit is broken.
    pub fn of<'a, S: Into<SegmentRef<'a>>>(
        segments: impl IntoIterator<Item = S>,
    ) -> Result<Self, PathError> {
        let mut encoded = Vec::new();
        let mut count = 0;
        for segment in segments {
            count += 1;
            push_segment(&mut encoded, segment.into(), count)?;
        }
        Ok(Self { encoded: encoded.into() })
    }

    /// The path one segment below this one.
    ///
    /// # Errors
    /// [`PathError`] if a limit is broken.
    pub fn child<'a>(&self, segment: impl Into<SegmentRef<'a>>) -> Result<Self, PathError> {
        let mut encoded = Vec::with_capacity(self.encoded.len() + 16);
        encoded.extend_from_slice(&self.encoded);
        push_segment(&mut encoded, segment.into(), self.segments().count() + 1)?;
        Ok(Self { encoded: encoded.into() })
    }

    /// The path that leads through this one and on through `below`.
    ///
    /// # Errors
    /// [`PathError`] if a limit is broken.
    pub fn join(&self, below: &Path) -> Result<Self, PathError> {
        if self.depth() + below.depth() > PATH_SEGMENTS_MAX {
            return Err(PathError::TooDeep);
        }
        let encoded = [&*self.encoded, &*below.encoded].concat();
        if encoded.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        Ok(Self { encoded: encoded.into() })
    }

    /// The encoding described at the top of this module.
    pub fn as_bytes(&self) -> &[u8] {
        &self.encoded
    }

    /// Reads an encoding.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not the encoding of a path within the limits.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > PATH_BYTES_MAX {
            return Err(DecodeError::TooLong { length: bytes.len(), limit: PATH_BYTES_MAX });
        }
        let mut rest = bytes;
        let mut count = 0;
        while !rest.is_empty() {
            count += 1;
            if count > PATH_SEGMENTS_MAX {
                return Err(DecodeError::Invalid("a path has too many segments"));
            }
            rest = parse_segment(rest)?.1;
        }
        Ok(Self { encoded: bytes.into() })
    }

    /// The segments, outermost first.
    pub fn segments(&self) -> Segments<'_> {
        Segments { rest: &self.encoded }
    }

    /// The number of segments.
    pub fn depth(&self) -> usize {
        self.segments().count()
    }

    /// The innermost segment, or `None` at the root.
    pub fn last(&self) -> Option<Segment> {
        self.segments().last()
    }

    /// Whether this path is `prefix` or under it.
    pub fn starts_with(&self, prefix: &Path) -> bool {
        self.encoded.starts_with(&prefix.encoded)
    }

    /// The segments of this path below `prefix`; `None` if it is not under it.
    pub fn below(&self, prefix: &Path) -> Option<Segments<'_>> {
        self.encoded.strip_prefix(&*prefix.encoded).map(|rest| Segments { rest })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.segments().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            write!(f, "{segment}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Path({self})")
    }
}

/// The segments of a path, outermost first; made by [`Path::segments`].
#[derive(Debug, Clone)]
pub struct Segments<'a> {
    rest: &'a [u8],
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if self.rest.is_empty() {
            return None;
        }
        let (segment, rest) = parse_segment(self.rest)
            .expect("a path holds only whole segments, checked when it was made");
        self.rest = rest;
        Some(segment.into())
    }
}

/// What can stand where a path is asked for.
///
/// A string or an integer is a path of one segment; a [`Path`] is itself; and a `Result` lets the
/// path macro of the `rejoin` crate hand its error on to the call that uses the path.
pub trait IntoPath {
    /// The path, or why it is none.
    ///
    /// # Errors
    /// [`PathError`] if a limit is broken.
    fn into_path(self) -> Result<Path, PathError>;
}

impl IntoPath for Path {
    fn into_path(self) -> Result<Path, PathError> {
        Ok(self)
    }
}

impl IntoPath for &Path {
    fn into_path(self) -> Result<Path, PathError> {
        Ok(self.clone())
    }
}

impl IntoPath for Result<Path, PathError> {
    fn into_path(self) -> Result<Path, PathError> {
        self
    }
}

impl IntoPath for &str {
    fn into_path(self) -> Result<Path, PathError> {
        Path::of([self])
    }
}

impl IntoPath for &String {
    fn into_path(self) -> Result<Path, PathError> {
        Path::of([self])
    }
}

impl IntoPath for u64 {
    fn into_path(self) -> Result<Path, PathError> {
        Path::of([self])
    }
}

impl Serialize for Path {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.encoded)
    }
}

impl<'de> Deserialize<'de> for Path {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = crate::codec::ByteString::deserialize(deserializer)?;
        Path::from_bytes(&bytes.0).map_err(serde::de::Error::custom)
    }
}

fn push_segment(out: &mut Vec<u8>, segment: SegmentRef<'_>, count: usize) -> Result<(), PathError> {
    if count > PATH_SEGMENTS_MAX {
        return Err(PathError::TooDeep);
    }
    match segment {
        SegmentRef::U64(number) => {
            let bytes = number.to_be_bytes();
            let zeros = (number.leading_zeros() / 8) as usize;
            out.push(TAG_U64 + (8 - zeros) as u8);
            out.extend_from_slice(&bytes[zeros..]);
        }
        SegmentRef::String(text) => push_content(out, TAG_STRING, text.as_bytes())?,
        SegmentRef::Bytes(bytes) => push_content(out, TAG_BYTES, bytes)?,
    }
    if out.len() > PATH_BYTES_MAX { Err(PathError::TooLong) } else { Ok(()) }
}

fn push_content(out: &mut Vec<u8>, tag: u8, content: &[u8]) -> Result<(), PathError> {
    if content.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    out.push(tag);
    for byte in content {
        match byte {
            0x00 | 0x01 => out.extend_from_slice(&[ESCAPE, byte + 1]),
            _ => out.push(*byte),
        }
    }
    out.push(END);
    Ok(())
}

/// A segment as it stands in an encoding; nothing is copied unless it had to be unescaped.
enum Parsed<'a> {
    U64(u64),
    String(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
}

impl From<Parsed<'_>> for Segment {
    fn from(parsed: Parsed<'_>) -> Self {
        match parsed {
            Parsed::U64(number) => Segment::U64(number),
            Parsed::String(text) => Segment::String(text.into_owned()),
            Parsed::Bytes(bytes) => Segment::Bytes(bytes.into_owned()),
        }
    }
}

/// The first segment of `bytes`, which are not empty, and what follows it.
fn parse_segment(bytes: &[u8]) -> Result<(Parsed<'_>, &[u8]), DecodeError> {
    let malformed = || DecodeError::Malformed("not a path segment".to_owned());
    let (tag, rest) = bytes.split_first().ok_or_else(malformed)?;
    match *tag {
        tag @ TAG_U64..=0x18 => {
            let (digits, rest) =
                rest.split_at_checked(usize::from(tag - TAG_U64)).ok_or_else(malformed)?;
            if digits.first() == Some(&0) {
                return Err(DecodeError::NotCanonical);
            }
            let number = digits.iter().fold(0, |number, digit| number << 8 | u64::from(*digit));
            Ok((Parsed::U64(number), rest))
        }
        TAG_STRING => {
            let (content, rest) = parse_content(rest)?;
            let text = match content {
                Cow::Borrowed(bytes) => str::from_utf8(bytes).map(Cow::Borrowed).ok(),
                Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).ok(),
            };
            let text = text.ok_or(DecodeError::Invalid("a path segment is not UTF-8"))?;
            Ok((Parsed::String(text), rest))
        }
        TAG_BYTES => {
            let (content, rest) = parse_content(rest)?;
            Ok((Parsed::Bytes(content), rest))
        }
        _ => Err(malformed()),
    }
}

fn parse_content(bytes: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), DecodeError> {
    let end = bytes
        .iter()
        .position(|byte| *byte == END)
        .ok_or_else(|| DecodeError::Malformed("a path segment has no end".to_owned()))?;
    let (escaped, rest) = (&bytes[..end], &bytes[end + 1..]);
    if !escaped.contains(&ESCAPE) {
        return Ok((Cow::Borrowed(escaped), rest));
    }
    let mut content = Vec::with_capacity(end);
    let mut escaped = escaped.iter();
    while let Some(byte) = escaped.next() {
        match *byte {
            ESCAPE => match escaped.next() {
                Some(code @ (1 | 2)) => content.push(code - 1),
                _ => {
                    let detail = "a path segment has a broken escape".to_owned();
                    return Err(DecodeError::Malformed(detail));
                }
            },
            byte => content.push(byte),
        }
    }
    Ok((Cow::Owned(content), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment() -> impl Strategy<Value = Segment> {
        prop_oneof![
            any::<u64>().prop_map(Segment::U64),
            (0u64..300).prop_map(Segment::U64),
            "[a-c\\x00-\\x02é]{0,5}".prop_map(Segment::String),
            prop::collection::vec(0u8..4, 0..5).prop_map(Segment::Bytes),
        ]
    }

    fn segments() -> impl Strategy<Value = Vec<Segment>> {
        prop::collection::vec(segment(), 0..5)
    }

    proptest! {
        #[test]
        fn byte_order_is_segment_order(a in segments(), b in segments()) {
            let (x, y) = (Path::of(&a).unwrap(), Path::of(&b).unwrap());
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x.as_bytes().cmp(y.as_bytes()), a.cmp(&b));
        }

        #[test]
        fn byte_prefix_is_path_prefix(a in segments(), b in segments()) {
            let (x, y) = (Path::of(&a).unwrap(), Path::of(&b).unwrap());
            prop_assert_eq!(y.starts_with(&x), b.starts_with(&a));
        }

        #[test]
        fn joined_paths_are_joined_segments(a in segments(), b in segments()) {
            let joined = Path::of(&a).unwrap().join(&Path::of(&b).unwrap()).unwrap();
            let all: Vec<_> = a.into_iter().chain(b).collect();
            prop_assert_eq!(joined, Path::of(&all).unwrap());
        }

        #[test]
        fn encoding_round_trips(a in segments()) {
            let path = Path::of(&a).unwrap();
            prop_assert_eq!(path.segments().collect::<Vec<_>>(), a);
            prop_assert_eq!(Path::from_bytes(path.as_bytes()).unwrap(), path);
        }

        #[test]
        fn any_bytes_are_a_path_with_one_encoding_or_refused(bytes in prop::collection::vec(prop_oneof![0u8..3, 0x10u8..0x19, Just(0x20), Just(0x30), any::<u8>()], 0..24)) {
            if let Ok(path) = Path::from_bytes(&bytes) {
                let again = Path::of(&path.segments().collect::<Vec<_>>()).unwrap();
                prop_assert_eq!(again.as_bytes(), &bytes[..]);
            }
        }
    }

    #[test]
    fn limits_are_errors() {
        let long = "x".repeat(PATH_BYTES_MAX);
        assert_eq!(Path::of([long.as_str()]), Err(PathError::TooLong));
        assert_eq!(Path::of(vec![1u64; PATH_SEGMENTS_MAX + 1]), Err(PathError::TooDeep));
        let mut deepest = Path::of(vec![1u64; PATH_SEGMENTS_MAX]).unwrap();
        assert_eq!(deepest.child(1), Err(PathError::TooDeep));
        deepest.encoded = [&deepest.encoded[..], &[0x10]].concat().into();
        assert!(Path::from_bytes(&deepest.encoded).is_err());
    }
}
