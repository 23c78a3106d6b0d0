//! Lists on the wire, refused while they are decoded once they pass their limit.
//!
//! Runs and rows are laid out with all their lengths before all their bytes. A list of byte strings
//! would let one byte on the wire become a whole buffer in memory.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use rejoin_crdt::planted::{self, Bug};
use rejoin_crdt::{CommitHash, Head, ReplicaId, SpaceId, VersionVector};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use super::{COMMITS_MAX, REPLICAS_MAX, ROWS_MAX, RUNS_MAX, SPACES_MAX, STOP_TEXT_BYTES_MAX};
use crate::host::{Run, StateRow};

/// A list of at most `MAX` elements.
struct List<T, const MAX: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Elements<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX} elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if elements.len() == MAX {
                        return Err(Error::custom(format_args!("more than {MAX} elements")));
                    }
                    elements.push(element);
                }
                Ok(List(elements))
            }
        }
        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

pub(super) fn spaces<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SpaceId>, D::Error> {
    List::<SpaceId, SPACES_MAX>::deserialize(deserializer).map(|list| list.0)
}

pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() > STOP_TEXT_BYTES_MAX {
        return Err(Error::custom("an explanation is too long"));
    }
    Ok(text)
}

/// A version vector of at most [`REPLICAS_MAX`] entries, none of which is zero.
pub(super) fn version<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<VersionVector, D::Error> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = VersionVector;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a version vector of at most {REPLICAS_MAX} entries")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VersionVector, A::Error> {
            let mut version = VersionVector::default();
            while let Some((replica, head)) = map.next_entry::<ReplicaId, Head>()? {
                if version.len() == REPLICAS_MAX {
                    return Err(Error::custom("too many entries in a version vector"));
                }
                if head.sequence == 0 {
                    return Err(Error::custom("a zero entry in a version vector"));
                }
                version.set(replica, head);
            }
            Ok(version)
        }
    }
    deserializer.deserialize_map(Entries)
}

/// Runs of commits: for each its place in the chain and the lengths of its bodies; then all bodies.
pub(super) mod runs {
    use super::*;

    #[derive(Serialize)]
    struct Layout {
        runs: Vec<RunLayout>,
        bodies: Bytes,
    }

    #[derive(Serialize)]
    struct RunLayout {
        replica: ReplicaId,
        first_sequence: u64,
        previous: CommitHash,
        lengths: Vec<u32>,
    }

    #[derive(serde::Deserialize)]
    struct BoundedLayout {
        runs: List<BoundedRunLayout, RUNS_MAX>,
        bodies: Bytes,
    }

    #[derive(serde::Deserialize)]
    struct BoundedRunLayout {
        replica: ReplicaId,
        first_sequence: u64,
        previous: CommitHash,
        lengths: List<u32, COMMITS_MAX>,
    }

    pub(crate) fn serialize<S: Serializer>(runs: &[Run], serializer: S) -> Result<S::Ok, S::Error> {
        let mut bodies = Vec::with_capacity(runs.iter().map(Run::body_bytes).sum());
        let mut layouts = Vec::with_capacity(runs.len());
        for run in runs {
            let mut lengths = Vec::with_capacity(run.bodies.len());
            for body in &run.bodies {
                lengths.push(length(body)?);
                bodies.extend_from_slice(body);
            }
            let Run { replica, first_sequence, previous, .. } = *run;
            layouts.push(RunLayout { replica, first_sequence, previous, lengths });
        }
        Layout { runs: layouts, bodies: bodies.into() }.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Run>, D::Error> {
        let BoundedLayout { runs: List(layouts), mut bodies } =
            BoundedLayout::deserialize(deserializer)?;
        let commits: usize = layouts.iter().map(|layout| layout.lengths.0.len()).sum();
        if layouts.is_empty() || commits > COMMITS_MAX {
            return Err(Error::custom("no run, or too many commits"));
        }
        let mut runs = Vec::with_capacity(layouts.len());
        for layout in layouts {
            let BoundedRunLayout { replica, first_sequence, previous, lengths: List(lengths) } =
                layout;
            let last = first_sequence.checked_add(lengths.len() as u64);
            if first_sequence == 0 || lengths.is_empty() || last.is_none() {
                return Err(Error::custom("a run has no place in the sequence"));
            }
            if (first_sequence == 1) != (previous == CommitHash::ZERO) {
                return Err(Error::custom("a run and its previous hash do not agree"));
            }
            let bodies = lengths.iter().map(|length| cut(&mut bodies, *length));
            let bodies = bodies.collect::<Result<Vec<_>, _>>()?;
            runs.push(Run { replica, first_sequence, previous, bodies });
        }
        used_up(&bodies)?;
        Ok(runs)
    }
}

/// Rows: the lengths of all keys, the lengths of all rows, then all bytes, each key before its row.
pub(super) mod rows {
    use super::*;

    #[derive(Serialize)]
    struct Layout {
        key_lengths: Vec<u32>,
        row_lengths: Vec<u32>,
        bytes: Bytes,
    }

    #[derive(serde::Deserialize)]
    struct BoundedLayout {
        key_lengths: List<u32, ROWS_MAX>,
        row_lengths: List<u32, ROWS_MAX>,
        bytes: Bytes,
    }

    pub(crate) fn serialize<S: Serializer>(
        rows: &[StateRow],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let total = rows.iter().map(|row| row.key.len() + row.row.len()).sum();
        let mut bytes = Vec::with_capacity(total);
        let mut key_lengths = Vec::with_capacity(rows.len());
        let mut row_lengths = Vec::with_capacity(rows.len());
        for row in rows {
            key_lengths.push(length(&row.key)?);
            row_lengths.push(length(&row.row)?);
            bytes.extend_from_slice(&row.key);
            bytes.extend_from_slice(&row.row);
        }
        Layout { key_lengths, row_lengths, bytes: bytes.into() }.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<StateRow>, D::Error> {
        let layout = BoundedLayout::deserialize(deserializer)?;
        let (List(keys), List(rows), mut bytes) =
            (layout.key_lengths, layout.row_lengths, layout.bytes);
        if keys.is_empty() || keys.len() != rows.len() {
            return Err(Error::custom("no row, or a key without a row"));
        }
        let cut_row = |(key, row): (&u32, &u32)| {
            Ok(StateRow { key: cut(&mut bytes, *key)?, row: cut(&mut bytes, *row)? })
        };
        let rows = keys.iter().zip(&rows).map(cut_row).collect::<Result<Vec<_>, D::Error>>()?;
        used_up(&bytes)?;
        Ok(rows)
    }
}

fn length<E: serde::ser::Error>(bytes: &Bytes) -> Result<u32, E> {
    u32::try_from(bytes.len()).map_err(|_| E::custom("longer than any frame"))
}

/// Cuts `length` bytes off the front.
fn cut<E: Error>(bytes: &mut Bytes, length: u32) -> Result<Bytes, E> {
    let length = length as usize;
    if length > bytes.len() && !planted::is(Bug::LengthBelieved) {
        return Err(E::custom("a length goes past the end"));
    }
    Ok(bytes.split_to(length))
}

fn used_up<E: Error>(bytes: &Bytes) -> Result<(), E> {
    if bytes.is_empty() { Ok(()) } else { Err(E::custom("bytes are left over")) }
}
