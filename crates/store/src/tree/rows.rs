//! The rows of the tree: read in order, and changed inside a transaction.

use std::sync::Arc;

use redb::{AccessGuard, ReadableTable};
use rejoin_crdt::{Path, ReadRows, Row, RowKey, RowPage, WriteRows};

use super::Tables;
use super::adapter::{damaged, tree_error};
use super::layout::{WriteTable, put, remove};
use super::survivor::SurvivorFile;
use crate::entry::SpaceIndex;
use crate::error::StoreError;
use crate::replicas::Replicas;
use crate::row_codec::{decode_row, encode_row};
use crate::view::{KeyRange, row_key_of, tree_key};

/// Stored rows in the order of their keys.
pub(crate) struct TreeScan {
    pub(super) range: redb::Range<'static, &'static [u8], &'static [u8]>,
    /// Keeps the transaction alive for as long as it is read.
    pub(super) _tables: Arc<Tables>,
}

/// A row as it is stored.
pub(crate) struct StoredRow {
    key: AccessGuard<'static, &'static [u8]>,
    value: AccessGuard<'static, &'static [u8]>,
}

impl Iterator for TreeScan {
    type Item = Result<StoredRow, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.range.next()?;
        Some(entry.map(|(key, value)| StoredRow { key, value }).map_err(tree_error))
    }
}

impl StoredRow {
    /// The key in the whole store.
    pub(crate) fn key(&self) -> &[u8] {
        self.key.value()
    }

    pub(crate) fn decode(&self, replicas: &Replicas) -> Result<(RowKey, Row), StoreError> {
        stored_row(self.key.value(), self.value.value(), replicas)
    }
}

fn stored_row(key: &[u8], bytes: &[u8], replicas: &Replicas) -> Result<(RowKey, Row), StoreError> {
    let key = row_key_of(key).ok_or_else(|| damaged("a row key is malformed"))?;
    let row = decode_row(key.kind, bytes, replicas).ok_or_else(|| damaged("a row is malformed"))?;
    Ok((key, row))
}

/// The rows of one space inside a write transaction.
pub(crate) struct TreeRows<'a> {
    pub(super) rows: WriteTable<'a>,
    pub(super) disk: &'a SurvivorFile,
    pub(super) space: SpaceIndex,
    pub(super) replicas: &'a Replicas,
}

impl ReadRows for TreeRows<'_> {
    type Error = StoreError;

    fn row(&self, key: &RowKey) -> Result<Option<Row>, StoreError> {
        let bytes = tree_key(self.space, key);
        let Some(value) = self.rows.get(&bytes[..]).map_err(tree_error)? else { return Ok(None) };
        let (_, row) = stored_row(&bytes, value.value(), self.replicas)?;
        Ok(Some(row))
    }

    fn page(
        &self,
        prefix: &Path,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<RowPage, StoreError> {
        let Some(range) = KeyRange::new(self.space, prefix, after) else {
            return Ok(RowPage::new());
        };
        let range = self.rows.range::<&[u8]>(range.bounds()).map_err(tree_error)?;
        range
            .take(limit)
            .map(|entry| {
                let (key, value) = entry.map_err(tree_error)?;
                stored_row(key.value(), value.value(), self.replicas)
            })
            .collect()
    }
}

impl WriteRows for TreeRows<'_> {
    fn set_row(&mut self, key: &RowKey, row: Row) -> Result<(), StoreError> {
        // What the disk refuses stays in memory, so a large state must not be joined to its end in vain.
        self.disk.check()?;
        let key = tree_key(self.space, key);
        if row.is_empty() {
            return remove(&mut self.rows, &key);
        }
        put(&mut self.rows, &key, &encode_row(&row, self.replicas))
    }
}
