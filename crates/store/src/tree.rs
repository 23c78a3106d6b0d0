//! The rows, and what belongs with them, in a B-tree that checkpoints bring forward.
//!
//! `layout` is the home of what lies in the file.

use std::collections::VecDeque;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use imbl::OrdMap;
use redb::{Database, ReadableDatabase, WriteTransaction};
use rejoin_crdt::planted::{self, Bug};
use rejoin_crdt::{Kind, ReplicaId, Row};

use crate::backend::Backend;
use crate::entry::{ReplicaIndex, SpaceIndex};
use crate::error::StoreError;
use crate::log::{Location, Lsn};
use crate::options::FreshIds;
use crate::replicas::Replicas;
use crate::row_codec::{decode_row, encode_row};
use crate::view::{Buffer, IndexKey, KeyRange, SpaceState};

mod adapter;
mod blocks;
mod layout;
mod open;
mod rows;
mod survivor;

use adapter::{damaged, tree_error};
pub(crate) use blocks::Unreadable;
use layout::{
    JOINED, LOG, META, Meta, REPLICAS, ROWS, ReadTable, SPACES, decode_location, encode_location,
    encode_meta, encode_space, index_bytes, open, put, remove,
};
pub(crate) use rows::{TreeRows, TreeScan};
use survivor::SurvivorFile;

/// The name of the tree's file.
pub(crate) const TREE_FILE: &str = "tree.redb";

/// The tree and its one writer.
#[derive(Debug)]
pub(crate) struct TreeStore {
    database: Database,
    /// Knows whether what the database wrote is written.
    disk: Arc<SurvivorFile>,
    /// Knows whether the database has refused to be read since.
    unreadable: Unreadable,
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
        let (file, disk) = open::open_file(backend, has_log)?;
        let unreadable = file.unreadable();
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .create_with_backend(file)
            .map_err(tree_error)?;
        let stored = open::read_meta(&database)?;
        let created = stored.is_none();
        let meta = match stored {
            Some(meta) => meta,
            None if has_log => return Err(damaged("there is a log, and the tree is empty")),
            None => {
                let mut replica = fresh.replica;
                if planted::is(Bug::CoarseReplicaId) {
                    replica = ReplicaId::from_bytes([replica.as_bytes()[0] % 8; 16]);
                }
                let meta = Meta { replica, salt: fresh.salt, mark: Lsn::ZERO };
                open::create_tables(&database, &meta)?;
                meta
            }
        };
        if !has_log {
            // The tree may be left over from a process that was killed before it came to this.
            backend.sync_directory().map_err(StoreError::io("syncing the folder"))?;
        }
        let content = open::read_content(&database)?;
        disk.check()?;
        let current = Arc::new(read_tree(&database, 0)?);
        let store = Self {
            database,
            disk,
            unreadable,
            meta,
            replicas_stored: content.replicas.next(),
            spaces: content.spaces.clone(),
            current,
            past: VecDeque::new(),
            past_max,
        };
        Ok((store, content, created))
    }

    /// Why the tree can be read no more, once it cannot.
    pub(crate) fn unreadable(&self) -> Unreadable {
        Arc::clone(&self.unreadable)
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
                    Some(row) => put(&mut rows, key, &encode_row(row, fold.replicas))?,
                    None if planted::is(Bug::FoldKeepsRemoved) => {}
                    None => remove(&mut rows, key)?,
                }
            }
            let mut log = open(&transaction, LOG)?;
            for (key, location) in &fold.buffer.index {
                put(&mut log, &index_bytes(*key), &encode_location(*location))?;
            }
            let mut replicas = open(&transaction, REPLICAS)?;
            for (index, id) in fold.replicas.from(self.replicas_stored) {
                put(&mut replicas, &index.0.to_be_bytes(), id.as_bytes())?;
            }
            let mut spaces = open(&transaction, SPACES)?;
            for index in &fold.changed {
                let state = fold.spaces.get(index).ok_or(StoreError::NoSuchSpace)?;
                put(&mut spaces, &index.0.to_be_bytes(), &encode_space(state, fold.replicas))?;
            }
            open(&transaction, JOINED)?.retain(|_, _| false).map_err(tree_error)?;
            let meta = Meta { mark: fold.mark, ..self.meta };
            put(&mut open(&transaction, META)?, &[], &encode_meta(&meta))?;
        }
        self.commit(transaction)?;
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
            let mut rows =
                TreeRows { rows: open(&transaction, ROWS)?, disk: &self.disk, space, replicas };
            let state = change(&mut rows)?;
            let key = space.0.to_be_bytes();
            put(&mut open(&transaction, SPACES)?, &key, &encode_space(&state, replicas))?;
            put(&mut open(&transaction, JOINED)?, &key, &[])?;
            state
        };
        self.commit(transaction)?;
        self.spaces.insert(space, state);
        Ok(self.advance()?)
    }

    /// Forgets where commits are that leave the log.
    pub(crate) fn forget(&mut self, commits: &[IndexKey]) -> Result<(), StoreError> {
        let transaction = self.begin()?;
        {
            let mut log = open(&transaction, LOG)?;
            for key in commits {
                remove(&mut log, &index_bytes(*key))?;
            }
        }
        self.commit(transaction)?;
        self.advance()
    }

    /// Every commit makes recovery of the file a matter of milliseconds, at the price of a second sync.
    fn begin(&self) -> Result<WriteTransaction, StoreError> {
        self.disk.check()?;
        let mut transaction = self.database.begin_write().map_err(tree_error)?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    fn commit(&self, transaction: WriteTransaction) -> Result<(), StoreError> {
        transaction.commit().map_err(tree_error)?;
        self.disk.check()
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
        kind: Kind,
        replicas: &Replicas,
    ) -> Result<Option<Row>, StoreError> {
        let tables = self.tables()?;
        let Some(value) = tables.rows.get(key).map_err(tree_error)? else { return Ok(None) };
        let row = decode_row(kind, value.value(), replicas);
        row.map(Some).ok_or_else(|| damaged("a row is malformed"))
    }

    /// The rows whose keys lie between the bounds, in order, decoded by the caller ([`stored_row`]).
    pub(crate) fn rows(&self, range: &KeyRange) -> Result<TreeScan, StoreError> {
        let tables = self.tables()?;
        let range = tables.rows.range::<&[u8]>(range.bounds()).map_err(tree_error)?;
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
            let location = decode_location(value.value());
            let sequence = key.value().last_chunk().map(|bytes| u64::from_be_bytes(*bytes));
            match (sequence, location) {
                (Some(sequence), Some(location)) => locations.push((sequence, location)),
                _ => return Err(damaged("an index entry is malformed")),
            }
        }
        Ok(locations)
    }
}

fn read_tree(database: &Database, generation: u64) -> Result<Tree, StoreError> {
    let transaction = database.begin_read().map_err(tree_error)?;
    let rows = transaction.open_table(ROWS).map_err(tree_error)?;
    let log = transaction.open_table(LOG).map_err(tree_error)?;
    Ok(Tree { generation, tables: ArcSwapOption::from_pointee(Tables { rows, log }) })
}
