//! redb over a [`StorageFile`], and what its errors mean here.

use std::io;
use std::sync::Arc;

use super::TREE_FILE;
use crate::backend::StorageFile;
use crate::error::StoreError;

/// Lets redb do all its I/O on one file of the backend.
#[derive(Debug)]
pub(super) struct TreeFile(pub(super) Arc<dyn StorageFile>);

impl redb::StorageBackend for TreeFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

pub(super) fn tree_error(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(detail) => damaged(detail),
        redb::Error::Io(source) => StoreError::Io { action: "using the tree", source },
        other => StoreError::Io { action: "using the tree", source: io::Error::other(other) },
    }
}

pub(super) fn damaged(detail: impl Into<String>) -> StoreError {
    StoreError::Damaged { file: TREE_FILE.to_owned(), position: 0, detail: detail.into() }
}
