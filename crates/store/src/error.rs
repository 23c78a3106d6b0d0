//! What can go wrong, and whose fault it is.

use std::io;
use std::sync::Arc;

use rejoin_crdt::{CommitError, Dot, Fork};

use crate::Lsn;

/// Why an operation on a store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another store, in this process or another, has the backend open. Nothing was changed; close it first.
    #[error("the store is open elsewhere")]
    Locked,
    /// The disk failed while the store was opened or read. Nothing was changed. An opening, and a read of the
    /// log, may be repeated; once a read of the rows has failed, the store must be opened again, and takes no
    /// writes before that.
    #[error("{action} failed: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// What the backend answered.
        source: io::Error,
    },
    /// What is stored is not what was written: the disk's fault, or that of whoever else wrote to it.
    /// Nothing was changed. The store needs to be restored, or rebuilt from its peers.
    #[error("{file} is damaged at byte {position}: {detail}")]
    Damaged {
        /// The damaged file.
        file: String,
        /// Where in the file, in bytes from its start; 0 where no position is known.
        position: u64,
        /// What was found.
        detail: String,
    },
    /// The files are of a format that this version of the program does not know. Nothing was changed.
    #[error("{file} has format {found}, and this program reads format {known}")]
    UnknownFormat {
        /// The file.
        file: String,
        /// Its format.
        found: u32,
        /// The format that is known.
        known: u32,
    },
    /// An earlier write failed, so what is on disk is not known to be what memory holds. Nothing more is
    /// written until the store is opened again; reads go on.
    #[error(
        "the store takes no writes until it is opened again, because of an earlier failure: {cause}"
    )]
    Poisoned {
        /// The first failure.
        cause: Arc<str>,
    },
    /// The snapshot was held across too many checkpoints. Nothing was changed; take a new one.
    #[error("the snapshot is too old; take a new one")]
    SnapshotExpired,
    /// The caller named a space by an index that this store never gave out. Nothing was changed.
    #[error("no such space")]
    NoSuchSpace,
    /// The caller named a space with more than [`SPACE_NAME_BYTES_MAX`](crate::SPACE_NAME_BYTES_MAX) bytes.
    /// Nothing was changed.
    #[error("a space name of {length} bytes is too long")]
    NameTooLong {
        /// The length of the name, in bytes.
        length: usize,
    },
}

impl StoreError {
    /// Wraps what the backend answered when asked to do `action`.
    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| StoreError::Io { action, source }
    }
}

/// Why a local transaction failed. It changed nothing, unless it says that the store is
/// [poisoned](StoreError::Poisoned): then the commit may or may not be there when the store is opened again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError<E> {
    /// The closure gave the transaction up.
    #[error("{0}")]
    Aborted(E),
    /// The transaction is too large for one commit. The caller's fault; divide it.
    #[error(transparent)]
    TooLarge(#[from] CommitError),
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why commits from a peer were not applied.
///
/// Commits are applied one by one, in the order given: those before the failing one are applied and
/// durable as ever, the failing one and those behind it are not, in any part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The commit does not follow the last one known of its replica: the sender left some out.
    #[error("commit {dot} follows none that is known: {known} is the last of its replica")]
    Gap {
        /// The commit.
        dot: Dot,
        /// The last sequence number known of its replica.
        known: u64,
    },
    /// The commit depends on one that is not applied: the sender broke causal order.
    #[error("commit {dot} depends on {dependency}, which is not applied")]
    MissingDependency {
        /// The commit.
        dot: Dot,
        /// What it depends on.
        dependency: Dot,
    },
    /// The commit follows another history of its replica than the one known here.
    #[error(transparent)]
    Fork(#[from] Fork),
    /// A peer knows commits of this store's own replica that the store does not: it was rolled back, or
    /// cloned. Its replica id must not be used for another commit.
    #[error("a peer knows commit {dot} of this very replica, which the store does not")]
    RolledBack {
        /// The unknown commit.
        dot: Dot,
    },
    /// The bytes are no commit. The sender's fault.
    #[error("commit {dot} is malformed: {detail}")]
    Malformed {
        /// The name under which the bytes came.
        dot: Dot,
        /// What is wrong with them.
        detail: String,
    },
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a state from a peer was not staged or joined. The space is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// Rows must come in strictly ascending order of their keys. The sender's fault; drop the stage.
    #[error("rows are not in ascending order of their keys")]
    Unordered,
    /// A row, or its key, is not in canonical form, or breaks a limit. The sender's fault; drop the stage.
    #[error("a row is malformed: {0}")]
    Malformed(String),
    /// A row holds a dot that the version sent with the state does not cover. The sender's fault; drop the stage.
    #[error("a row holds {dot}, which its version does not cover")]
    NotCovered {
        /// The dot.
        dot: Dot,
    },
    /// The state holds another history of a replica than the one known here.
    #[error(transparent)]
    Fork(#[from] Fork),
    /// The state knows commits of this store's own replica that the store does not; see
    /// [`ApplyError::RolledBack`].
    #[error("a peer knows commit {dot} of this very replica, which the store does not")]
    RolledBack {
        /// The unknown commit.
        dot: Dot,
    },
    /// The staged rows take more than [`StoreOptions::stage_bytes_max`](crate::StoreOptions::stage_bytes_max),
    /// or one of them more than 64 MiB. Drop the stage.
    #[error("the state, or one row of it, is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The tail of a log that a crash had torn, and that was cut off: bytes that no one had been told are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornTail {
    /// Where the log ends now.
    pub position: Lsn,
    /// How many bytes were cut off.
    pub bytes: u64,
}
