//! redb over a file of the backend, and what its errors mean here.

use std::io;

use super::TREE_FILE;
use super::blocks::{BlockFile, DamagedBlock};
use crate::error::StoreError;

impl redb::StorageBackend for BlockFile {
    fn len(&self) -> io::Result<u64> {
        BlockFile::len(self)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        BlockFile::read(self, offset, out).inspect_err(|error| self.note_unreadable(error))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        BlockFile::set_len(self, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        BlockFile::sync(self)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        BlockFile::write(self, offset, data)
    }
}

pub(super) fn tree_error(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(detail) => damaged(detail),
        redb::Error::Io(source) => {
            match source.get_ref().and_then(|inner| inner.downcast_ref::<DamagedBlock>()) {
                Some(block) => StoreError::Damaged {
                    file: TREE_FILE.to_owned(),
                    position: block.position,
                    detail: block.to_string(),
                },
                None => StoreError::Io { action: "using the tree", source },
            }
        }
        other => StoreError::Io { action: "using the tree", source: io::Error::other(other) },
    }
}

pub(super) fn damaged(detail: impl Into<String>) -> StoreError {
    StoreError::Damaged { file: TREE_FILE.to_owned(), position: 0, detail: detail.into() }
}
