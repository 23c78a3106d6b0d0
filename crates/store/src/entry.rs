//! What the body of a log record says; this module is the one home of that layout.
//!
//! Spaces and replicas have long ids, so the log names them by small numbers, each of which a record
//! defines before another one uses it. Numbers count from 0 without gaps and are never reused. Integers are
//! varints (base 128, low bits first) unless a width is given.
//!
//! | tag | entry | content |
//! |---|---|---|
//! | 1 | define a space | number, id (32 bytes), name (the rest, UTF-8) |
//! | 2 | define a replica | number, id (16 bytes) |
//! | 3 | commit | space, replica, sequence, previous hash (32 bytes), body (the rest) |
//! | 4 | a state was joined | space |

use bytes::Bytes;
use rejoin_crdt::{CommitHash, ReplicaId, SpaceId};

use crate::packing::{Unpacker, put_varint};

/// The longest name of a space, in bytes of UTF-8.
pub const SPACE_NAME_BYTES_MAX: usize = 1_024;

/// A space as one store knows it: the small number that names it here, and nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceIndex(pub(crate) u32);

/// The small number that names a replica in one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReplicaIndex(pub(crate) u32);

const TAG_DEFINE_SPACE: u8 = 1;
const TAG_DEFINE_REPLICA: u8 = 2;
const TAG_COMMIT: u8 = 3;
const TAG_JOINED: u8 = 4;

/// The body of a log record; `B` holds a commit's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry<B> {
    DefineSpace {
        index: SpaceIndex,
        id: SpaceId,
        name: String,
    },
    DefineReplica {
        index: ReplicaIndex,
        id: ReplicaId,
    },
    Commit {
        space: SpaceIndex,
        replica: ReplicaIndex,
        sequence: u64,
        previous: CommitHash,
        body: B,
    },
    Joined {
        space: SpaceIndex,
    },
}

impl<B: AsRef<[u8]>> Entry<B> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Entry::DefineSpace { index, id, name } => {
                out.push(TAG_DEFINE_SPACE);
                put_varint(out, index.0.into());
                out.extend_from_slice(id.as_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            Entry::DefineReplica { index, id } => {
                out.push(TAG_DEFINE_REPLICA);
                put_varint(out, index.0.into());
                out.extend_from_slice(id.as_bytes());
            }
            Entry::Commit { space, replica, sequence, previous, body } => {
                out.push(TAG_COMMIT);
                put_varint(out, space.0.into());
                put_varint(out, replica.0.into());
                put_varint(out, *sequence);
                out.extend_from_slice(previous.as_bytes());
                out.extend_from_slice(body.as_ref());
            }
            Entry::Joined { space } => {
                out.push(TAG_JOINED);
                put_varint(out, space.0.into());
            }
        }
    }
}

impl Entry<Bytes> {
    /// Reads the body of a record that verified; `None` if it is of a form not known here.
    pub(crate) fn decode(record: &Bytes) -> Option<Self> {
        let mut unpacker = Unpacker::new(record);
        match unpacker.byte()? {
            TAG_DEFINE_SPACE => {
                let index = SpaceIndex(unpacker.varint_u32()?);
                let id = SpaceId::from_bytes(unpacker.array()?);
                let name = String::from_utf8(unpacker.rest().to_vec()).ok()?;
                Some(Entry::DefineSpace { index, id, name })
            }
            TAG_DEFINE_REPLICA => {
                let index = ReplicaIndex(unpacker.varint_u32()?);
                let id = ReplicaId::from_bytes(unpacker.array()?);
                unpacker.is_empty().then_some(Entry::DefineReplica { index, id })
            }
            TAG_COMMIT => {
                let space = SpaceIndex(unpacker.varint_u32()?);
                let replica = ReplicaIndex(unpacker.varint_u32()?);
                let sequence = unpacker.varint()?;
                let previous = CommitHash::from_bytes(unpacker.array()?);
                let body = record.slice_ref(unpacker.rest());
                Some(Entry::Commit { space, replica, sequence, previous, body })
            }
            TAG_JOINED => {
                let space = SpaceIndex(unpacker.varint_u32()?);
                unpacker.is_empty().then_some(Entry::Joined { space })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_has_these_bytes_and_reads_back() {
        let space = SpaceIndex(300);
        let replica = ReplicaIndex(1);
        let entries = [
            (
                Entry::DefineSpace {
                    index: space,
                    id: SpaceId::from_bytes([7; 32]),
                    name: "cart".into(),
                },
                [&[1, 0xac, 2][..], &[7; 32], b"cart"].concat(),
            ),
            (
                Entry::DefineReplica { index: replica, id: ReplicaId::from_bytes([8; 16]) },
                [&[2, 1][..], &[8; 16]].concat(),
            ),
            (
                Entry::Commit {
                    space,
                    replica,
                    sequence: 5,
                    previous: CommitHash::from_bytes([9; 32]),
                    body: Bytes::from_static(b"body"),
                },
                [&[3, 0xac, 2, 1, 5][..], &[9; 32], b"body"].concat(),
            ),
            (Entry::Joined { space }, vec![4, 0xac, 2]),
        ];
        for (entry, golden) in entries {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            assert_eq!(bytes, golden);
            assert_eq!(Entry::decode(&Bytes::from(bytes)), Some(entry));
        }
    }

    #[test]
    fn unknown_and_cut_off_entries_are_none() {
        for bytes in [&[][..], &[0], &[9, 1], &[3, 1, 1, 1, 0], &[4], &[4, 1, 1], &[2, 1, 0]] {
            assert_eq!(Entry::decode(&Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
        }
    }
}
