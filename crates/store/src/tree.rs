//! The rows, and what belongs with them, in a B-tree that checkpoints bring forward.
//!
//! # Layout (this module is its one home)
//!
//! The file `tree.redb` holds these tables. Numbers in keys are big-endian, so that their order is that of
//! the bytes; elsewhere they are varints. Every value ends with a CRC-32 of the table's tag, the key and the
//! rest of the value, because redb verifies its pages only when it repairs a file.
//!
//! | table | tag | key | value |
//! |---|---|---|---|
//! | `meta` | 1 | empty | format, replica id (16 bytes), salt (16 bytes), mark |
//! | `replicas` | 2 | number (4) | id (16 bytes) |
//! | `spaces` | 3 | number (4) | id (32 bytes), name (length, bytes), confirmed, then per replica: number, sequence, head hash (32 bytes), floor |
//! | `rows` | 4 | space (4), row key | a row, see [`row_codec`](crate::row_codec) |
//! | `log` | 5 | space (4), replica (4), sequence (8) | LSN, body length of the commit's record |
//! | `joined` | 6 | space (4) | empty |
//!
//! The *mark* is the LSN up to which everything else here reflects the log. *confirmed* is the last own commit
//! that a peer is known to hold, *floor* the first sequence number from which on the log has every commit.
//! An entry in `joined` says that a state was joined behind the mark, of which the log may not tell.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use imbl::OrdMap;
use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use rejoin_crdt::{
    CommitHash, Head, Path, ReadRows, ReplicaId, Row, RowKey, RowPage, SpaceId, VersionVector,
    WriteRows,
};

use crate::backend::Backend;
use crate::entry::{ReplicaIndex, SpaceIndex};
use crate::error::StoreError;
use crate::log::{Location, Lsn};
use crate::options::FreshIds;
use crate::packing::{Unpacker, put_varint};
use crate::replicas::Replicas;
use crate::row_codec::{decode_row, encode_row};
use crate::view::{
    Buffer, IndexKey, SpaceInfo, SpaceState, key_range, row_key_of, space_prefix, tree_key,
};

mod adapter;

use adapter::{TreeFile, damaged, tree_error};

/// The name of the tree's file.
pub(crate) const TREE_FILE: &str = "tree.redb";

const FORMAT: u64 = 1;
const CHECKSUM_BYTES: usize = 4;

/// The size of a tree file whose creation was cut short is at most this, in bytes: redb lays out its first
/// region, of 1 MiB and a bit, before it writes its magic number.
const CREATION_BYTES_MAX: u64 = 8 << 20;
const REDB_MAGIC: &[u8; 4] = b"redb";

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;
type ReadTable = ReadOnlyTable<&'static [u8], &'static [u8]>;
type WriteTable<'txn> = redb::Table<'txn, &'static [u8], &'static [u8]>;

/// A table, and the tag that goes into its checksums.
#[derive(Clone, Copy)]
struct Table {
    tag: u8,
    definition: Definition,
}

const META: Table = Table { tag: 1, definition: TableDefinition::new("meta") };
const REPLICAS: Table = Table { tag: 2, definition: TableDefinition::new("replicas") };
const SPACES: Table = Table { tag: 3, definition: TableDefinition::new("spaces") };
const ROWS: Table = Table { tag: 4, definition: TableDefinition::new("rows") };
const LOG: Table = Table { tag: 5, definition: TableDefinition::new("log") };
const JOINED: Table = Table { tag: 6, definition: TableDefinition::new("joined") };

/// What the tree says of the store as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) replica: ReplicaId,
    pub(crate) salt: [u8; 16],
    pub(crate) mark: Lsn,
}

/// The tree and its one writer.
#[derive(Debug)]
pub(crate) struct TreeStore {
    database: Database,
    meta: Meta,
    /// How many replicas are stored.
    replicas_stored: ReplicaIndex,
    /// The spaces as of the mark.
    spaces: OrdMap<SpaceIndex, SpaceState>,
    current: Arc<Tree>,
    /// Those before the current one that have not expired, oldest first.
    past: VecDeque<Arc<Tree>>,
    past_max: usize,
}

/// What an opening finds in the tree.
#[derive(Debug)]
pub(crate) struct TreeContent {
    pub(crate) replicas: Replicas,
    pub(crate) spaces: OrdMap<SpaceIndex, SpaceState>,
    /// Spaces into which a state was joined behind the mark.
    pub(crate) joined: Vec<SpaceIndex>,
}

/// What a checkpoint brings into the tree.
#[derive(Debug)]
pub(crate) struct Fold<'a> {
    pub(crate) buffer: &'a Buffer,
    pub(crate) replicas: &'a Replicas,
    pub(crate) spaces: &'a OrdMap<SpaceIndex, SpaceState>,
    /// Those of the spaces that differ from what is stored.
    pub(crate) changed: Vec<SpaceIndex>,
    pub(crate) mark: Lsn,
}

/// The tree as one checkpoint left it, until it expires.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Counts checkpoints and joins, so that two trees can be told apart.
    pub(crate) generation: u64,
    tables: ArcSwapOption<Tables>,
}

/// The open tables of one read transaction.
struct Tables {
    rows: ReadTable,
    log: ReadTable,
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tables")
    }
}

impl TreeStore {
    /// Opens the tree, or creates it if there is no log yet either (`has_log`).
    ///
    /// Says whether it was created. A tree whose creation a crash cut short is begun anew.
    pub(crate) fn open(
        backend: &dyn Backend,
        has_log: bool,
        cache_bytes: usize,
        past_max: usize,
        fresh: &FreshIds,
    ) -> Result<(Self, TreeContent, bool), StoreError> {
        let file = open_file(backend, has_log)?;
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .create_with_backend(TreeFile(file))
            .map_err(tree_error)?;
        let stored = read_meta(&database)?;
        let created = stored.is_none();
        let meta = match stored {
            Some(meta) => meta,
            None if has_log => return Err(damaged("there is a log, and the tree is empty")),
            None => {
                let meta = Meta { replica: fresh.replica, salt: fresh.salt, mark: Lsn::ZERO };
                create_tables(&database, &meta)?;
                backend.sync_directory().map_err(StoreError::io("syncing the folder"))?;
                meta
            }
        };
        let content = read_content(&database)?;
        let current = Arc::new(read_tree(&database, 0)?);
        let store = Self {
            database,
            meta,
            replicas_stored: content.replicas.next(),
            spaces: content.spaces.clone(),
            current,
            past: VecDeque::new(),
            past_max,
        };
        Ok((store, content, created))
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.meta
    }

    pub(crate) fn current(&self) -> &Arc<Tree> {
        &self.current
    }

    /// The space as of the mark.
    pub(crate) fn space(&self, space: SpaceIndex) -> Option<&SpaceState> {
        self.spaces.get(&space)
    }

    /// Brings a buffer into the tree, in one transaction. After an error of the disk the tree is dead.
    pub(crate) fn fold(&mut self, fold: &Fold<'_>) -> Result<(), StoreError> {
        let transaction = self.begin()?;
        {
            let mut rows = open(&transaction, ROWS)?;
            for (key, row) in &fold.buffer.rows {
                match row {
                    Some(row) => put(&mut rows, ROWS, key, &encode_row(row, fold.replicas))?,
                    None => remove(&mut rows, key)?,
                }
            }
            let mut log = open(&transaction, LOG)?;
            for (key, location) in &fold.buffer.index {
                put(&mut log, LOG, &index_bytes(*key), &encode_location(*location))?;
            }
            let mut replicas = open(&transaction, REPLICAS)?;
            for (index, id) in fold.replicas.from(self.replicas_stored) {
                put(&mut replicas, REPLICAS, &index.0.to_be_bytes(), id.as_bytes())?;
            }
            let mut spaces = open(&transaction, SPACES)?;
            for index in &fold.changed {
                let state = fold.spaces.get(index).ok_or(StoreError::NoSuchSpace)?;
                put(
                    &mut spaces,
                    SPACES,
                    &index.0.to_be_bytes(),
                    &encode_space(state, fold.replicas),
                )?;
            }
            open(&transaction, JOINED)?.retain(|_, _| false).map_err(tree_error)?;
            let meta = Meta { mark: fold.mark, ..self.meta };
            put(&mut open(&transaction, META)?, META, &[], &encode_meta(&meta))?;
        }
        transaction.commit().map_err(tree_error)?;
        self.meta.mark = fold.mark;
        self.replicas_stored = fold.replicas.next();
        self.spaces = fold.spaces.clone();
        self.advance()
    }

    /// Changes the rows and the state of one space, in one transaction, by `change`; an error undoes it.
    ///
    /// `change` is given the rows, and gives back the state that belongs to them.
    pub(crate) fn join<E: From<StoreError>>(
        &mut self,
        space: SpaceIndex,
        replicas: &Replicas,
        change: impl FnOnce(&mut TreeRows<'_>) -> Result<SpaceState, E>,
    ) -> Result<(), E> {
        let transaction = self.begin()?;
        let state = {
            let mut rows = TreeRows { rows: open(&transaction, ROWS)?, space, replicas };
            let state = change(&mut rows)?;
            let key = space.0.to_be_bytes();
            put(&mut open(&transaction, SPACES)?, SPACES, &key, &encode_space(&state, replicas))?;
            put(&mut open(&transaction, JOINED)?, JOINED, &key, &[])?;
            state
        };
        transaction.commit().map_err(tree_error)?;
        self.spaces.insert(space, state);
        Ok(self.advance()?)
    }

    /// Forgets where commits are that leave the log, and raises the floors of their replicas.
    pub(crate) fn forget(
        &mut self,
        commits: &[IndexKey],
        replicas: &Replicas,
    ) -> Result<(), StoreError> {
        let mut floors: BTreeMap<(SpaceIndex, ReplicaId), u64> = BTreeMap::new();
        for (space, replica, sequence) in commits {
            let id = replicas.id(*replica).ok_or_else(|| damaged("a replica is not defined"))?;
            let floor = floors.entry((*space, id)).or_default();
            *floor = (*floor).max(sequence + 1);
        }
        let mut spaces = self.spaces.clone();
        let transaction = self.begin()?;
        {
            let mut log = open(&transaction, LOG)?;
            for key in commits {
                remove(&mut log, &index_bytes(*key))?;
            }
            let mut table = open(&transaction, SPACES)?;
            for ((space, replica), floor) in floors {
                let state = spaces.get_mut(&space).ok_or(StoreError::NoSuchSpace)?;
                state.raise_floor(replica, floor);
                put(&mut table, SPACES, &space.0.to_be_bytes(), &encode_space(state, replicas))?;
            }
        }
        transaction.commit().map_err(tree_error)?;
        self.spaces = spaces;
        self.advance()
    }

    /// Every commit makes recovery of the file a matter of milliseconds, at the price of a second sync.
    fn begin(&self) -> Result<WriteTransaction, StoreError> {
        let mut transaction = self.database.begin_write().map_err(tree_error)?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    /// Makes the state of the file the current tree, and lets the oldest past one expire.
    fn advance(&mut self) -> Result<(), StoreError> {
        let next = Arc::new(read_tree(&self.database, self.current.generation + 1)?);
        self.past.push_back(std::mem::replace(&mut self.current, next));
        while self.past.len() > self.past_max {
            if let Some(expired) = self.past.pop_front() {
                expired.tables.store(None);
            }
        }
        Ok(())
    }
}

impl Tree {
    /// # Errors
    /// [`StoreError::SnapshotExpired`] if the tree has expired, here as in all its reads.
    fn tables(&self) -> Result<Arc<Tables>, StoreError> {
        self.tables.load_full().ok_or(StoreError::SnapshotExpired)
    }

    pub(crate) fn row(
        &self,
        key: &[u8],
        kind: rejoin_crdt::Kind,
        replicas: &Replicas,
    ) -> Result<Option<Row>, StoreError> {
        let tables = self.tables()?;
        let Some(value) = tables.rows.get(key).map_err(tree_error)? else { return Ok(None) };
        let bytes = check(ROWS, key, value.value())?;
        let row = decode_row(kind, bytes, replicas);
        row.map(Some).ok_or_else(|| damaged("a row is malformed"))
    }

    /// The rows whose keys lie between the bounds, in order, decoded by the caller ([`stored_row`]).
    pub(crate) fn rows(
        &self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> Result<TreeScan, StoreError> {
        let tables = self.tables()?;
        let range = tables.rows.range::<&[u8]>((start, end)).map_err(tree_error)?;
        Ok(TreeScan { range, _tables: tables })
    }

    /// Where the commits of a replica are, from a sequence number on, up to `limit` of them.
    pub(crate) fn locations(
        &self,
        first: IndexKey,
        limit: usize,
    ) -> Result<Vec<(u64, Location)>, StoreError> {
        let tables = self.tables()?;
        let (start, end) = (index_bytes(first), index_bytes((first.0, first.1, u64::MAX)));
        let range = tables.log.range::<&[u8]>(&start[..]..=&end[..]).map_err(tree_error)?;
        let mut locations = Vec::new();
        for entry in range.take(limit) {
            let (key, value) = entry.map_err(tree_error)?;
            let location = decode_location(check(LOG, key.value(), value.value())?);
            let sequence = key.value().last_chunk().map(|bytes| u64::from_be_bytes(*bytes));
            match (sequence, location) {
                (Some(sequence), Some(location)) => locations.push((sequence, location)),
                _ => return Err(damaged("an index entry is malformed")),
            }
        }
        Ok(locations)
    }
}

/// Stored rows in the order of their keys: key, and bytes for [`stored_row`].
pub(crate) struct TreeScan {
    range: redb::Range<'static, &'static [u8], &'static [u8]>,
    /// Keeps the transaction alive for as long as it is read.
    _tables: Arc<Tables>,
}

impl Iterator for TreeScan {
    type Item = Result<(Vec<u8>, Vec<u8>), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let checked =
            |(key, value): (redb::AccessGuard<'_, &[u8]>, redb::AccessGuard<'_, &[u8]>)| {
                let bytes = check(ROWS, key.value(), value.value())?;
                Ok((key.value().to_vec(), bytes.to_vec()))
            };
        self.range.next().map(|entry| entry.map_err(tree_error).and_then(checked))
    }
}

/// The row key and row that a [`TreeScan`] gave.
pub(crate) fn stored_row(
    key: &[u8],
    bytes: &[u8],
    replicas: &Replicas,
) -> Result<(RowKey, Row), StoreError> {
    let key = row_key_of(key).ok_or_else(|| damaged("a row key is malformed"))?;
    let row = decode_row(key.kind, bytes, replicas).ok_or_else(|| damaged("a row is malformed"))?;
    Ok((key, row))
}

/// The rows of one space inside a write transaction.
pub(crate) struct TreeRows<'a> {
    rows: WriteTable<'a>,
    space: SpaceIndex,
    replicas: &'a Replicas,
}

impl ReadRows for TreeRows<'_> {
    type Error = StoreError;

    fn row(&self, key: &RowKey) -> Result<Option<Row>, StoreError> {
        let bytes = tree_key(self.space, key);
        let Some(value) = self.rows.get(&bytes[..]).map_err(tree_error)? else { return Ok(None) };
        let (_, row) = stored_row(&bytes, check(ROWS, &bytes, value.value())?, self.replicas)?;
        Ok(Some(row))
    }

    fn page(
        &self,
        prefix: &Path,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<RowPage, StoreError> {
        let Some((start, end)) = key_range(self.space, prefix, after) else {
            return Ok(RowPage::new());
        };
        let bounds = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
        let range = self.rows.range::<&[u8]>(bounds).map_err(tree_error)?;
        range
            .take(limit)
            .map(|entry| {
                let (key, value) = entry.map_err(tree_error)?;
                stored_row(key.value(), check(ROWS, key.value(), value.value())?, self.replicas)
            })
            .collect()
    }
}

impl WriteRows for TreeRows<'_> {
    fn set_row(&mut self, key: &RowKey, row: Row) -> Result<(), StoreError> {
        let key = tree_key(self.space, key);
        if row.is_empty() {
            return remove(&mut self.rows, &key);
        }
        put(&mut self.rows, ROWS, &key, &encode_row(&row, self.replicas))
    }
}

/// Opens or creates the tree's file; one whose creation was cut short, before there was any log, is emptied.
fn open_file(
    backend: &dyn Backend,
    has_log: bool,
) -> Result<Arc<dyn crate::backend::StorageFile>, StoreError> {
    let open = || match backend.open(TREE_FILE) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !has_log => {
            backend.create(TREE_FILE)
        }
        other => other,
    };
    let file = open().map_err(StoreError::io("opening the tree"))?;
    let begun_only = || {
        let len = file.len()?;
        if has_log || len == 0 || len > CREATION_BYTES_MAX {
            return Ok(false);
        }
        let mut magic = [0; REDB_MAGIC.len()];
        let readable = len >= magic.len() as u64;
        if readable {
            file.read_at(0, &mut magic)?;
        }
        Ok(!readable || magic != *REDB_MAGIC)
    };
    if begun_only().map_err(StoreError::io("reading the tree"))? {
        file.set_len(0).map_err(StoreError::io("creating the tree"))?;
    }
    Ok(file)
}

fn read_meta(database: &Database) -> Result<Option<Meta>, StoreError> {
    let transaction = database.begin_read().map_err(tree_error)?;
    let table = match transaction.open_table(META.definition) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        other => other.map_err(tree_error)?,
    };
    let Some(value) = table.get(&[][..]).map_err(tree_error)? else { return Ok(None) };
    let mut unpacker = Unpacker::new(check(META, &[], value.value())?);
    let format = unpacker.varint();
    if let Some(found) = format.filter(|format| *format != FORMAT) {
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        return Err(StoreError::UnknownFormat {
            file: TREE_FILE.to_owned(),
            found,
            known: FORMAT as u32,
        });
    }
    let mut read = || {
        let replica = ReplicaId::from_bytes(unpacker.array()?);
        let salt = unpacker.array()?;
        Some(Meta { replica, salt, mark: Lsn::new(unpacker.varint()?) })
    };
    read().map(Some).ok_or_else(|| damaged("the store's description is malformed"))
}

fn create_tables(database: &Database, meta: &Meta) -> Result<(), StoreError> {
    let mut transaction = database.begin_write().map_err(tree_error)?;
    transaction.set_quick_repair(true);
    for table in [REPLICAS, SPACES, ROWS, LOG, JOINED] {
        open(&transaction, table)?;
    }
    put(&mut open(&transaction, META)?, META, &[], &encode_meta(meta))?;
    transaction.commit().map_err(tree_error)
}

fn read_tree(database: &Database, generation: u64) -> Result<Tree, StoreError> {
    let transaction = database.begin_read().map_err(tree_error)?;
    let rows = transaction.open_table(ROWS.definition).map_err(tree_error)?;
    let log = transaction.open_table(LOG.definition).map_err(tree_error)?;
    Ok(Tree { generation, tables: ArcSwapOption::from_pointee(Tables { rows, log }) })
}

fn read_content(database: &Database) -> Result<TreeContent, StoreError> {
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

/// All of a table that is known to be small.
fn read_all(
    transaction: &redb::ReadTransaction,
    table: Table,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
    let opened = transaction.open_table(table.definition).map_err(tree_error)?;
    let mut all = Vec::new();
    for entry in opened.iter().map_err(tree_error)? {
        let (key, value) = entry.map_err(tree_error)?;
        let bytes = check(table, key.value(), value.value())?.to_vec();
        all.push((key.value().to_vec(), bytes));
    }
    Ok(all)
}

fn key_number(key: &[u8]) -> Option<u32> {
    key.try_into().ok().map(u32::from_be_bytes)
}

fn open<'txn>(
    transaction: &'txn WriteTransaction,
    table: Table,
) -> Result<WriteTable<'txn>, StoreError> {
    transaction.open_table(table.definition).map_err(tree_error)
}

fn put(
    opened: &mut WriteTable<'_>,
    table: Table,
    key: &[u8],
    bytes: &[u8],
) -> Result<(), StoreError> {
    let mut value = Vec::with_capacity(bytes.len() + CHECKSUM_BYTES);
    value.extend_from_slice(bytes);
    value.extend_from_slice(&checksum(table, key, bytes));
    opened.insert(key, &value[..]).map_err(tree_error)?;
    Ok(())
}

fn remove(opened: &mut WriteTable<'_>, key: &[u8]) -> Result<(), StoreError> {
    opened.remove(key).map_err(tree_error)?;
    Ok(())
}

/// The value without its checksum, which must be right.
fn check<'a>(table: Table, key: &[u8], value: &'a [u8]) -> Result<&'a [u8], StoreError> {
    match value.split_last_chunk::<CHECKSUM_BYTES>() {
        Some((bytes, found)) if *found == checksum(table, key, bytes) => Ok(bytes),
        _ => Err(damaged("an entry does not verify")),
    }
}

fn checksum(table: Table, key: &[u8], bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[table.tag]);
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(bytes);
    hasher.finalize().to_le_bytes()
}

fn encode_meta(meta: &Meta) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, FORMAT);
    out.extend_from_slice(meta.replica.as_bytes());
    out.extend_from_slice(&meta.salt);
    put_varint(&mut out, meta.mark.get());
    out
}

fn encode_space(state: &SpaceState, replicas: &Replicas) -> Vec<u8> {
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
        put_varint(&mut out, state.floor(replica));
    }
    out
}

fn decode_space(bytes: &[u8], replicas: &Replicas) -> Option<SpaceState> {
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
        state.raise_floor(replica, unpacker.varint()?);
    }
    state.version = Arc::new(version);
    Some(state)
}

fn index_bytes((space, replica, sequence): IndexKey) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&space_prefix(space));
    bytes[4..8].copy_from_slice(&replica.0.to_be_bytes());
    bytes[8..].copy_from_slice(&sequence.to_be_bytes());
    bytes
}

fn encode_location(location: Location) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    put_varint(&mut out, location.lsn.get());
    put_varint(&mut out, location.body_bytes.into());
    out
}

fn decode_location(bytes: &[u8]) -> Option<Location> {
    let mut unpacker = Unpacker::new(bytes);
    let lsn = Lsn::new(unpacker.varint()?);
    Some(Location { lsn, body_bytes: unpacker.varint_u32()? })
}
