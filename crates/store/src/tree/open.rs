//! Finding or founding the tree.

use std::sync::Arc;

use imbl::OrdMap;
use redb::{Database, ReadableDatabase, ReadableTable};
use rejoin_crdt::ReplicaId;

use super::adapter::{damaged, tree_error};
use super::blocks::BlockFile;
use super::layout::{
    JOINED, LOG, META, Meta, REPLICAS, ROWS, SPACES, Table, decode_meta, decode_space, encode_meta,
    open, put,
};
use super::survivor::SurvivorFile;
use super::{TREE_FILE, TreeContent};
use crate::backend::Backend;
use crate::entry::{ReplicaIndex, SpaceIndex};
use crate::error::StoreError;
use crate::replicas::Replicas;

/// The size of a tree file whose creation was cut short is at most this, in bytes: redb lays out its first
/// region, of 1 MiB and a bit, before it writes its magic number.
const CREATION_BYTES_MAX: u64 = 8 << 20;
/// What a redb file begins with, all of it: a crash can tear it like any other bytes.
const REDB_MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";

/// Opens or creates the tree's file; one whose creation was cut short, before there was any log, is emptied.
pub(super) fn open_file(
    backend: &dyn Backend,
    has_log: bool,
) -> Result<(BlockFile, Arc<SurvivorFile>), StoreError> {
    let open = || match backend.open(TREE_FILE) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !has_log => {
            backend.create(TREE_FILE)
        }
        other => other,
    };
    let disk = open().map_err(StoreError::io("opening the tree"))?;
    let disk = Arc::new(SurvivorFile::new(disk));
    let file = BlockFile::new(Arc::clone(&disk) as _);
    let begun_only = || {
        let len = file.len()?;
        if has_log || len == 0 || len > CREATION_BYTES_MAX {
            return Ok(false);
        }
        let mut magic = [0; REDB_MAGIC.len()];
        let readable = len >= magic.len() as u64;
        if readable {
            file.read(0, &mut magic)?;
        }
        Ok(!readable || magic != REDB_MAGIC)
    };
    if begun_only().map_err(StoreError::io("reading the tree"))? {
        file.set_len(0).map_err(StoreError::io("creating the tree"))?;
    }
    Ok((file, disk))
}

pub(super) fn read_meta(database: &Database) -> Result<Option<Meta>, StoreError> {
    let transaction = database.begin_read().map_err(tree_error)?;
    let table = match transaction.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        other => other.map_err(tree_error)?,
    };
    let Some(value) = table.get(&[][..]).map_err(tree_error)? else { return Ok(None) };
    decode_meta(value.value()).map(Some)
}

pub(super) fn create_tables(database: &Database, meta: &Meta) -> Result<(), StoreError> {
    let mut transaction = database.begin_write().map_err(tree_error)?;
    transaction.set_quick_repair(true);
    for table in [REPLICAS, SPACES, ROWS, LOG, JOINED] {
        open(&transaction, table)?;
    }
    put(&mut open(&transaction, META)?, &[], &encode_meta(meta))?;
    transaction.commit().map_err(tree_error)
}

pub(super) fn read_content(database: &Database) -> Result<TreeContent, StoreError> {
    let transaction = database.begin_read().map_err(tree_error)?;
    let mut replicas = Replicas::default();
    for (key, value) in read_all(&transaction, REPLICAS)? {
        match (key_number(&key), value[..].try_into()) {
            (Some(number), Ok(id)) if replicas.next() == ReplicaIndex(number) => {
                replicas.push(ReplicaId::from_bytes(id));
            }
            _ => return Err(damaged("a replica is malformed")),
        }
    }
    let mut spaces = OrdMap::new();
    for (key, value) in read_all(&transaction, SPACES)? {
        match (key_number(&key), decode_space(&value, &replicas)) {
            (Some(number), Some(state)) => spaces.insert(SpaceIndex(number), state),
            _ => return Err(damaged("a space is malformed")),
        };
    }
    let joined = read_all(&transaction, JOINED)?;
    let joined = joined.iter().filter_map(|(key, _)| key_number(key)).map(SpaceIndex).collect();
    Ok(TreeContent { replicas, spaces, joined })
}

/// A key and a value.
type Entry = (Vec<u8>, Vec<u8>);

/// All of a table that is known to be small.
fn read_all(transaction: &redb::ReadTransaction, table: Table) -> Result<Vec<Entry>, StoreError> {
    let opened = transaction.open_table(table).map_err(tree_error)?;
    let mut all = Vec::new();
    for entry in opened.iter().map_err(tree_error)? {
        let (key, value) = entry.map_err(tree_error)?;
        all.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(all)
}

fn key_number(key: &[u8]) -> Option<u32> {
    key.try_into().ok().map(u32::from_be_bytes)
}
