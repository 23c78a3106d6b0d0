//! The seam to the disk: every byte that a store reads or writes goes through these two traits.
//!
//! Files ([`FileBackend`]), memory ([`MemoryBackend`]), and later encrypted and faulty disks stand
//! behind them. What the store asks of them, and nothing more:
//!
//! - what [`StorageFile::sync`] returned for survives a crash; of what was written since, any part
//!   may survive, in any order, torn at any byte;
//! - a file created or removed is so after a crash only once [`Backend::sync_directory`] returned;
//! - an error from `sync` leaves what was written since the last one in an unknown state. The store
//!   never retries it.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

mod files;
mod memory;

pub use files::FileBackend;
pub use memory::{Fate, MemoryBackend, Operation, crash_image};

/// A flat set of named files, held exclusively by one store at a time.
pub trait Backend: Send + Sync + Debug {
    /// Opens a file that exists.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is no such file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// Creates an empty file, replacing any of that name.
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// The names of all files, in byte order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Removes a file. Whoever has it open may go on reading it.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the creation and removal of files durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// Takes the exclusive lock, which is held until the guard is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another store, in this process or another, holds it.
    fn lock(&self) -> io::Result<Box<dyn BackendLock>>;
}

/// Holds the exclusive lock of a [`Backend`] until dropped.
pub trait BackendLock: Send + Sync + Debug {}

/// A file with positioned reads and writes; all offsets and lengths are in bytes.
#[allow(clippy::len_without_is_empty)] // Nothing asks whether a file is empty.
pub trait StorageFile: Send + Sync + Debug {
    /// Fills `out` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends before `out` is full.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, growing the file as needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// The length of the file.
    fn len(&self) -> io::Result<u64>;

    /// Cuts the file off, or grows it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes content and length durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
}
