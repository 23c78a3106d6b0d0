//! The pure core of rejoin: values that can be replicated, and nothing else.
//!
//! A *space* is a pair of rows and a version vector. Each row is a *dot store*: a set of live
//! [`Dot`]s, each with a payload. Replicas change a space by *commits* ([`CommitBody`]), which are
//! prepared by a [`Transaction`] on one replica and take effect through [`apply`] on all of them.
//! Two whole states meet in [`join`]. Two laws hold, and the law tests of this crate check them:
//!
//! - **L1**: the state is a function of the visible commits, whatever their order of delivery.
//! - **L2**: the join is commutative, associative and idempotent, and applying a commit equals
//!   joining its delta.
//!
//! This crate knows no clock, no random source, no file, no socket and no thread. Rows are reached
//! through [`ReadRows`] and [`WriteRows`], so the same code runs over a map in memory
//! ([`MemoryRows`]) and over a store on disk.
//!
//! # One write, from intent to effect
//!
//! ```
//! use rejoin_crdt::*;
//!
//! let replica = ReplicaId::from_bytes([7; 16]);
//! let mut rows = MemoryRows::default();
//! let version = VersionVector::default();
//!
//! // Prepare: what the application wants becomes operations that name the dots it observed.
//! let context = TransactionContext { replica, wall_time_ms: 1_000, ..TransactionContext::default() };
//! let mut transaction = Transaction::new(&rows, &version, context);
//! transaction.increment(Path::of(["items", "oat milk"])?, 2)?;
//! let body = transaction.finish().expect("one operation was prepared");
//!
//! // Effect: the same on every replica.
//! let dot = Dot { replica, sequence: 1 };
//! body.ready(dot, &version).expect("nothing is missing");
//! apply(&mut rows, dot, &body)?;
//!
//! let key = RowKey { path: Path::of(["items", "oat milk"])?, kind: Kind::Counter };
//! assert_eq!(kind::counter::value(rows.row(&key)?.as_ref()), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod codec;
pub mod kind;
#[cfg(feature = "laws")]
pub mod laws;

mod apply;
mod commit;
mod digest;
mod id;
mod join;
mod path;
#[doc(hidden)]
pub mod planted;
mod row;
mod rows;
mod transaction;
mod value;
mod version;

pub use apply::apply;
pub use commit::{
    COMMIT_BYTES_MAX, CommitBody, CommitError, DEPENDENCIES_MAX, NotReady, OBSERVED_MAX,
    OPERATIONS_MAX, Operation, commit_hash,
};
pub use digest::{StateDigest, state_digest};
pub use id::{CommitHash, Dot, IdError, ReplicaId, SpaceId};
pub use join::{JoinError, join};
pub use path::{
    IntoPath, PATH_BYTES_MAX, PATH_SEGMENTS_MAX, Path, PathError, Segment, SegmentRef, Segments,
};
pub use row::{Kind, Payload, Row, RowKey};
pub use rows::{MemoryRows, PAGE_ROWS_MAX, ReadRows, RowPage, WriteRows};
pub use transaction::{PrepareError, Transaction, TransactionContext};
pub use value::{VALUE_BYTES_MAX, VALUE_DEPTH_MAX, VALUE_NODES_MAX, Value, ValueError};
pub use version::{Fork, Head, VersionVector};
