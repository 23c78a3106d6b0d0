//! The one error of the public API.

use rejoin_crdt::{CommitError, PathError, PrepareError, ValueError};
use rejoin_quic::{BindError, PeerError};
use rejoin_store::{StoreError, WriteError};

/// Why a call on a replica failed.
///
/// Unless a variant says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A path breaks a limit. The caller's fault.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A value breaks a limit. The caller's fault.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// A counter would leave the range of `i64`. The caller's fault.
    #[error("the counter would overflow")]
    CounterOverflow,
    /// The transaction is too large for one commit. The caller's fault; divide it.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The closure of a transaction gave it up, with this reason; see [`Error::abort`].
    #[error("the transaction was given up: {0}")]
    Aborted(Box<dyn std::error::Error + Send + Sync>),
    /// The name of a space is empty or too long. The caller's fault.
    #[error("a space needs a name of 1 to {max} bytes, and this has {length}", max = crate::SPACE_NAME_BYTES_MAX)]
    SpaceName {
        /// The length of the name, in bytes.
        length: usize,
    },
    /// The store failed or refused. [`StoreError::Poisoned`] says that a write failed half-way: open the
    /// replica again to go on writing.
    #[error(transparent)]
    Store(StoreError),
    /// The folder or its device key could not be read or made.
    #[error("{action}: {source}")]
    Folder {
        /// What was being done.
        action: &'static str,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The device key file is not one.
    #[error("the device key is damaged: {0}")]
    DeviceKey(String),
    /// The system gave no random bytes for a new identity.
    #[error("the system gave no random bytes: {0}")]
    Random(getrandom::Error),
    /// The network could not be started.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A command about a peer was refused.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The replica is online already; go offline first.
    #[error("the replica is online already")]
    AlreadyOnline,
    /// The call was made from within a transaction of the same replica, which it would have to wait for.
    #[error("called from within a transaction of the same replica")]
    InsideTransaction,
    /// The replica was closed.
    #[error("the replica was closed")]
    Closed,
    /// The replica is not online.
    #[error("the replica is offline")]
    Offline,
}

impl Error {
    /// An error with which the closure of a transaction gives it up for a reason of its own.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let replica = rejoin::Replica::open(folder.path().join("app.rejoin"))?;
    /// let space = replica.space("stock")?;
    /// let refused = space.write(|tx| {
    ///     if tx.counter("pears").get()? < 3 {
    ///         return Err(rejoin::Error::abort("not enough pears"));
    ///     }
    ///     tx.counter("pears").add(-3)
    /// });
    /// assert!(matches!(refused, Err(rejoin::Error::Aborted(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn abort(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Aborted(reason.into())
    }

    pub(crate) fn folder(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Error::Folder { action, source }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Error::Store(error)
    }
}

impl From<PrepareError<StoreError>> for Error {
    fn from(error: PrepareError<StoreError>) -> Self {
        match error {
            PrepareError::Rows(error) => error.into(),
            PrepareError::Value(error) => error.into(),
            _ => Error::CounterOverflow,
        }
    }
}

impl From<WriteError<Error>> for Error {
    fn from(error: WriteError<Error>) -> Self {
        match error {
            WriteError::Aborted(error) => error,
            WriteError::TooLarge(error) => error.into(),
            WriteError::Store(error) => error.into(),
            other => Error::Aborted(other.to_string().into()),
        }
    }
}
