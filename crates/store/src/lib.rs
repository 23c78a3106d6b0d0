//! Durable storage for the spaces of one replica: **the commit log is the write-ahead log, and the rows are
//! a view of it.**
//!
//! - An acknowledged commit costs one append and one sync, which all writers that wait share.
//! - Rows go through a buffer in memory into a B-tree, a whole buffer at a time, and are rebuilt by an opening
//!   from the log behind the last such *checkpoint*: effects are deterministic, so recovery needs nothing else.
//! - Readers hold [`Snapshot`]s, a persistent buffer over a snapshot of the tree, and wait for nobody.
//! - Whole states of peers are [staged](Store::begin_state) on disk and joined in one transaction.
//! - All I/O goes through a [`Backend`]. Everything stored carries a checksum that is verified when it is read.
//!
//! The store has no clock, no randomness and no thread: it runs on those of its callers.
//!
//! ```
//! use std::sync::Arc;
//!
//! use rejoin_crdt::{Kind, Path, ReadRows, ReplicaId, RowKey, SpaceId, kind::counter};
//! use rejoin_store::*;
//!
//! // In a program the ids are random bytes, and the backend is a `FileBackend`.
//! let fresh = FreshIds { replica: ReplicaId::from_bytes([1; 16]), salt: [2; 16] };
//! let backend = Arc::new(MemoryBackend::default());
//! let (store, _) = Store::open(backend.clone(), StoreOptions::default(), fresh, Box::new(()))?;
//! let cart = store.create_space(SpaceId::from_bytes([3; 32]), "cart")?;
//!
//! let milk = Path::of(["items", "milk"])?;
//! let (_, committed) = store.write(cart, 1_000, |tx| tx.increment(milk.clone(), 2))?;
//! assert_eq!(committed.unwrap().dot.sequence, 1);
//!
//! // After a crash it is all there.
//! drop(store);
//! let (store, report) = Store::open(backend, StoreOptions::default(), fresh, Box::new(()))?;
//! assert_eq!(report.replayed_commits, 1);
//! let row = store.snapshot(cart)?.row(&RowKey { path: milk, kind: Kind::Counter })?;
//! assert_eq!(counter::value(row.as_ref()), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod backend;
mod entry;
mod error;
mod group;
mod head;
mod log;
mod observer;
mod options;
mod packing;
mod replicas;
mod row_codec;
mod snapshot;
mod store;
mod sync;
mod tree;
mod view;

pub use backend::{
    Backend, BackendLock, Fate, FileBackend, MemoryBackend, Operation, StorageFile, crash_image,
};
pub use entry::{SPACE_NAME_BYTES_MAX, SpaceIndex};
pub use error::{ApplyError, StageError, StoreError, TornTail, WriteError};
pub use group::{Committed, Ticket};
pub use log::Lsn;
pub use observer::{Change, Observer};
pub use options::{Durability, FreshIds, StoreOptions};
pub use snapshot::{Rows, Snapshot};
pub use store::{
    Applied, CommitRun, CommitsAfter, LogPage, OpenReport, StateStage, Store, Truncated,
};
pub use view::SpaceInfo;
