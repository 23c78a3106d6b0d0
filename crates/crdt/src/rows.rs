//! How this crate reaches rows: two small traits, and the rows in memory.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;

use crate::{Path, Row, RowKey};

/// The most rows that this crate asks a page for.
pub const PAGE_ROWS_MAX: usize = 1_024;

/// Some rows in the order of their keys.
pub type RowPage = Vec<(RowKey, Row)>;

/// Read access to the rows of one space.
pub trait ReadRows {
    /// Why a read can fail.
    type Error;

    /// The row at `key`; `None` if no dot of it is live.
    ///
    /// # Errors
    /// Whatever keeps the rows from being read.
    fn row(&self, key: &RowKey) -> Result<Option<Row>, Self::Error>;

    /// Up to `limit` rows at or under `prefix`, in the order of keys, from the first one past `after`.
    /// Fewer than `limit` rows mean that there are no more.
    ///
    /// # Errors
    /// Whatever keeps the rows from being read.
    fn page(
        &self,
        prefix: &Path,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<RowPage, Self::Error>;
}

/// Write access to the rows of one space.
pub trait WriteRows: ReadRows {
    /// Stores `row` at `key`; an empty row deletes what is there.
    ///
    /// # Errors
    /// Whatever keeps the row from being written.
    fn set_row(&mut self, key: &RowKey, row: Row) -> Result<(), Self::Error>;
}

/// The rows of one space as an ordered map in memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryRows {
    rows: BTreeMap<RowKey, Row>,
}

impl MemoryRows {
    /// All rows, in the order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&RowKey, &Row)> {
        self.rows.iter()
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl ReadRows for MemoryRows {
    type Error = Infallible;

    fn row(&self, key: &RowKey) -> Result<Option<Row>, Infallible> {
        Ok(self.rows.get(key).cloned())
    }

    fn page(
        &self,
        prefix: &Path,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<RowPage, Infallible> {
        let first = RowKey { path: prefix.clone(), kind: crate::Kind::ALL[0] };
        let start = match after {
            Some(after) if *after >= first => Bound::Excluded(after),
            _ => Bound::Included(&first),
        };
        let rows = self.rows.range((start, Bound::Unbounded));
        let under = rows.take_while(|(key, _)| key.path.starts_with(prefix)).take(limit);
        Ok(under.map(|(key, row)| (key.clone(), row.clone())).collect())
    }
}

impl WriteRows for MemoryRows {
    fn set_row(&mut self, key: &RowKey, row: Row) -> Result<(), Infallible> {
        if row.is_empty() {
            self.rows.remove(key);
        } else {
            self.rows.insert(key.clone(), row);
        }
        Ok(())
    }
}
