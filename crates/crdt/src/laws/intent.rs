//! What an application can want, as data.

use crate::{Kind, Path, PrepareError, RowKey, Transaction, Value};

/// One call on a [`Transaction`], as a value that histories are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// Puts a value into a register.
    Put {
        /// The register.
        path: Path,
        /// The value.
        value: Value,
    },
    /// Adds to a counter.
    Increment {
        /// The counter.
        path: Path,
        /// How much; may be negative.
        amount: i64,
    },
    /// Enables a flag.
    Enable {
        /// The flag.
        path: Path,
    },
    /// Adds an element to the set above it.
    AddElement {
        /// The element.
        path: Path,
    },
    /// Removes what is seen of one row.
    RemoveRow {
        /// The row.
        key: RowKey,
    },
    /// Removes what is seen of every kind at exactly one path.
    Remove {
        /// The path.
        path: Path,
    },
    /// Removes everything seen at and under a path.
    RemoveTree {
        /// The path.
        path: Path,
    },
}

impl Intent {
    /// Adds the intent to `transaction`.
    ///
    /// # Errors
    /// What the transaction answers; it is then as it was before.
    pub fn prepare<E>(&self, transaction: &mut Transaction<'_, E>) -> Result<(), PrepareError<E>> {
        match self {
            Intent::Put { path, value } => transaction.put(path.clone(), value.clone()),
            Intent::Increment { path, amount } => transaction.increment(path.clone(), *amount),
            Intent::Enable { path } => transaction.enable(path.clone()),
            Intent::AddElement { path } => transaction.add_element(path.clone()),
            Intent::RemoveRow { key } => transaction.remove_row(key.clone()),
            Intent::Remove { path } => transaction.remove(path),
            Intent::RemoveTree { path } => transaction.remove_tree(path),
        }
    }

    /// The row that the intent adds to; `None` for removals.
    pub fn adds_to(&self) -> Option<RowKey> {
        let (path, kind) = match self {
            Intent::Put { path, .. } => (path, Kind::Register),
            Intent::Increment { path, .. } => (path, Kind::Counter),
            Intent::Enable { path } => (path, Kind::Flag),
            Intent::AddElement { path } => (path, Kind::Element),
            Intent::RemoveRow { .. } | Intent::Remove { .. } | Intent::RemoveTree { .. } => {
                return None;
            }
        };
        Some(RowKey { path: path.clone(), kind })
    }

    /// Whether the intent removes what is seen of the row at `key`.
    pub fn removes(&self, key: &RowKey) -> bool {
        match self {
            Intent::RemoveRow { key: removed } => removed == key,
            Intent::Remove { path } => *path == key.path,
            Intent::RemoveTree { path } => {
                let mut segments = key.path.segments();
                path.segments().all(|segment| segments.next() == Some(segment))
            }
            _ => false,
        }
    }
}
