//! What a check finds.

use std::convert::Infallible;

use crate::codec::DecodeError;
use crate::laws::{Read, State};
use crate::{CommitError, Dot, Fork, JoinError, NotReady, PrepareError, RowKey};

/// A law that does not hold, or a step that could not be taken although it should have been.
///
/// Always a bug in what is checked (or in the history, if a test made it by hand).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// L1: two ways to the same visible commits gave different states.
    #[error("L1: {way} gives\n  {found:?}\nbut the same commits also give\n  {expected:?}")]
    Order {
        /// How the second state came about.
        way: String,
        /// The state that the commits gave before.
        expected: Box<State>,
        /// The state that they gave now.
        found: Box<State>,
    },
    /// L2: the join is not the join of a lattice.
    #[error("L2: {law} fails:\n  {found:?}\nis not\n  {expected:?}")]
    Lattice {
        /// Which law of it.
        law: &'static str,
        /// One side of the equation.
        expected: Box<State>,
        /// The other side.
        found: Box<State>,
    },
    /// A read is not what the oracle says that it must be; `None` stands for no row.
    #[error("the oracle reads {expected:?} at {} ({:?}), the rows give {found:?}", key.path, key.kind)]
    Read {
        /// The row.
        key: Box<RowKey>,
        /// What the visible commits demand.
        expected: Option<Read>,
        /// What the rows gave.
        found: Option<Read>,
    },
    /// Inside its transaction a writer saw something else than what its commit left.
    #[error("the transaction of {0} saw other rows than its commit left")]
    OwnWrites(Dot),
    /// A commit declares other causal dependencies than what its writer had seen.
    #[error("the dependencies of {0} do not lead to what its writer had seen")]
    Dependencies(Dot),
    /// A version vector does not cover exactly the commits that have reached its replica.
    #[error(
        "the version vector does not stand for the {commits} commits that came in:\n  {state:?}"
    )]
    Version {
        /// How many came in.
        commits: usize,
        /// The state that they led to.
        state: Box<State>,
    },
    /// Two states have equal digests or equal bytes, but not both.
    #[error("the digest of a state does not stand for its bytes:\n  {0:?}")]
    Digest(Box<State>),
    /// A commit could not be applied where it should have been.
    #[error("{dot} could not be applied")]
    NotReady {
        /// The commit.
        dot: Dot,
        /// Why.
        source: NotReady,
    },
    /// A commit does not follow the head that the version vector records for its replica.
    #[error("{0} does not follow the hash of its predecessor")]
    Chain(Dot),
    /// Two states could not be joined.
    #[error(transparent)]
    Join(#[from] JoinError<Infallible>),
    /// Two version vectors could not be joined.
    #[error(transparent)]
    Fork(#[from] Fork),
    /// An intent could not be prepared.
    #[error(transparent)]
    Prepare(#[from] PrepareError<Infallible>),
    /// A commit could not be encoded.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A commit could not be decoded from its own encoding.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A commit changed on its way through its encoding.
    #[error("{0} is not what its encoding decodes to")]
    RoundTrip(Dot),
    /// A commit that is covered by a version vector was never recorded.
    #[error("{0} is covered but unknown")]
    Unknown(Dot),
    /// After everyone met everyone, two replicas differ.
    #[error("the replicas have not converged:\n  {0:?}\nis not\n  {1:?}")]
    NotConverged(Box<State>, Box<State>),
}
