//! What lies in the tree's file; this module is its one home.
//!
//! The file `tree.redb` is one of redb, in [`blocks`](super::blocks), and holds these tables. Numbers in
//! keys are big-endian, so that their order is that of the bytes; elsewhere they are varints.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | empty | format, replica id (16 bytes), salt (16 bytes), mark |
//! | `replicas` | number (4) | id (16 bytes) |
//! | `spaces` | number (4) | id (32 bytes), name (length, bytes), confirmed, then per replica: number, sequence, head hash (32 bytes) |
//! | `rows` | space (4), row key | a row, see [`row_codec`](crate::row_codec) |
//! | `log` | space (4), replica (4), sequence (8) | LSN, body length of the commit's record |
//! | `joined` | space (4) | empty |
//!
//! The *mark* is the LSN up to which everything else here reflects the log. *confirmed* is the last own commit
//! that a peer is known to hold. `log` says where commits are; what was truncated, or came by a state join, is
//! missing there. An entry in `joined` says that a state was joined behind the mark, of which the log may not tell.

use std::sync::Arc;

use redb::{ReadOnlyTable, TableDefinition, WriteTransaction};
use rejoin_crdt::{CommitHash, Head, ReplicaId, SpaceId, VersionVector};

use super::TREE_FILE;
use super::adapter::{damaged, tree_error};
use crate::entry::ReplicaIndex;
use crate::error::StoreError;
use crate::log::{Location, Lsn};
use crate::packing::{Unpacker, put_varint};
use crate::replicas::Replicas;
use crate::view::{IndexKey, SpaceInfo, SpaceState, space_prefix};

pub(super) const FORMAT: u64 = 1;

pub(super) type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;
pub(super) type ReadTable = ReadOnlyTable<&'static [u8], &'static [u8]>;
pub(super) type WriteTable<'txn> = redb::Table<'txn, &'static [u8], &'static [u8]>;

pub(super) const META: Table = TableDefinition::new("meta");
pub(super) const REPLICAS: Table = TableDefinition::new("replicas");
pub(super) const SPACES: Table = TableDefinition::new("spaces");
pub(super) const ROWS: Table = TableDefinition::new("rows");
pub(super) const LOG: Table = TableDefinition::new("log");
pub(super) const JOINED: Table = TableDefinition::new("joined");

/// What the tree says of the store as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) replica: ReplicaId,
    pub(crate) salt: [u8; 16],
    pub(crate) mark: Lsn,
}

pub(super) fn open<'txn>(
    transaction: &'txn WriteTransaction,
    table: Table,
) -> Result<WriteTable<'txn>, StoreError> {
    transaction.open_table(table).map_err(tree_error)
}

pub(super) fn put(table: &mut WriteTable<'_>, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    table.insert(key, value).map_err(tree_error)?;
    Ok(())
}

pub(super) fn remove(table: &mut WriteTable<'_>, key: &[u8]) -> Result<(), StoreError> {
    table.remove(key).map_err(tree_error)?;
    Ok(())
}

pub(super) fn encode_meta(meta: &Meta) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, FORMAT);
    out.extend_from_slice(meta.replica.as_bytes());
    out.extend_from_slice(&meta.salt);
    put_varint(&mut out, meta.mark.get());
    out
}

pub(super) fn encode_space(state: &SpaceState, replicas: &Replicas) -> Vec<u8> {
    let mut out = state.info.id.as_bytes().to_vec();
    put_varint(&mut out, state.info.name.len() as u64);
    out.extend_from_slice(state.info.name.as_bytes());
    put_varint(&mut out, state.confirmed);
    for (replica, head) in state.version.iter() {
        let index =
            replicas.index(replica).expect("a replica is numbered before it enters a version");
        put_varint(&mut out, index.0.into());
        put_varint(&mut out, head.sequence);
        out.extend_from_slice(head.hash.as_bytes());
    }
    out
}

pub(super) fn decode_space(bytes: &[u8], replicas: &Replicas) -> Option<SpaceState> {
    let mut unpacker = Unpacker::new(bytes);
    let id = SpaceId::from_bytes(unpacker.array()?);
    let name = String::from_utf8(unpacker.sized()?.to_vec()).ok()?;
    let mut state = SpaceState::new(SpaceInfo { id, name });
    state.confirmed = unpacker.varint()?;
    let mut version = VersionVector::default();
    while !unpacker.is_empty() {
        let replica = replicas.id(ReplicaIndex(unpacker.varint_u32()?))?;
        let sequence = unpacker.varint()?;
        version.set(replica, Head { sequence, hash: CommitHash::from_bytes(unpacker.array()?) });
    }
    state.version = Arc::new(version);
    Some(state)
}

pub(super) fn index_bytes((space, replica, sequence): IndexKey) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&space_prefix(space));
    bytes[4..8].copy_from_slice(&replica.0.to_be_bytes());
    bytes[8..].copy_from_slice(&sequence.to_be_bytes());
    bytes
}

pub(super) fn encode_location(location: Location) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    put_varint(&mut out, location.lsn.get());
    put_varint(&mut out, location.body_bytes.into());
    out
}

pub(super) fn decode_location(bytes: &[u8]) -> Option<Location> {
    let mut unpacker = Unpacker::new(bytes);
    let lsn = Lsn::new(unpacker.varint()?);
    Some(Location { lsn, body_bytes: unpacker.varint_u32()? })
}

/// What the value of `meta` says.
pub(super) fn decode_meta(bytes: &[u8]) -> Result<Meta, StoreError> {
    let mut unpacker = Unpacker::new(bytes);
    if let Some(found) = unpacker.varint().filter(|format| *format != FORMAT) {
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        let file = TREE_FILE.to_owned();
        return Err(StoreError::UnknownFormat { file, found, known: FORMAT as u32 });
    }
    let mut read = || {
        let replica = ReplicaId::from_bytes(unpacker.array()?);
        let salt = unpacker.array()?;
        Some(Meta { replica, salt, mark: Lsn::new(unpacker.varint()?) })
    };
    read().ok_or_else(|| damaged("the store's description is malformed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_exactly_these_bytes_and_read_back() {
        let meta =
            Meta { replica: ReplicaId::from_bytes([1; 16]), salt: [2; 16], mark: Lsn::new(300) };
        let bytes = encode_meta(&meta);
        assert_eq!(bytes, [&[1][..], &[1; 16], &[2; 16], &[0xac, 2]].concat());
        assert_eq!(decode_meta(&bytes).unwrap(), meta);
        let later = [&[2][..], &bytes[1..]].concat();
        assert!(matches!(
            decode_meta(&later),
            Err(StoreError::UnknownFormat { found: 2, known: 1, .. })
        ));
        assert!(matches!(decode_meta(&bytes[..20]), Err(StoreError::Damaged { .. })));

        let mut replicas = Replicas::default();
        replicas.push(ReplicaId::from_bytes([9; 16]));
        let info = SpaceInfo { id: SpaceId::from_bytes([3; 32]), name: "cart".to_owned() };
        let mut state = SpaceState::new(info);
        state.confirmed = 5;
        let head = Head { sequence: 300, hash: CommitHash::from_bytes([4; 32]) };
        state.version =
            Arc::new(VersionVector::from_iter([(ReplicaId::from_bytes([9; 16]), head)]));
        let bytes = encode_space(&state, &replicas);
        assert_eq!(bytes, [&[3; 32][..], b"\x04cart\x05\x00\xac\x02", &[4; 32]].concat());
        let read = decode_space(&bytes, &replicas).unwrap();
        assert_eq!((read.info, read.version, read.confirmed), (state.info, state.version, 5));
        assert!(decode_space(&bytes[..40], &replicas).is_none());

        let key = index_bytes((crate::entry::SpaceIndex(1), ReplicaIndex(2), 3));
        assert_eq!(key, [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
        let location = Location { lsn: Lsn::new(300), body_bytes: 7 };
        assert_eq!(encode_location(location), [0xac, 2, 7]);
        assert_eq!(decode_location(&[0xac, 2, 7]), Some(location));
    }
}
