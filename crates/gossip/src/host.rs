//! Storage as a session sees it: the [`Host`] trait, and the requests that reach it.
//!
//! A session never calls storage. It emits a [`HostRequest`], the driver answers it with [`serve`],
//! on whatever thread may block, and hands the [`HostResponse`] back. So the session stays a plain
//! state machine, and every driver shares one translation.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rejoin_crdt::{CommitHash, Fork, ReplicaId, SpaceId, VersionVector};

use crate::DeviceId;

/// Consecutive commits of one replica, as they lie in the log and travel on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Who wrote the commits.
    pub replica: ReplicaId,
    /// The sequence number of the first of them, from 1.
    pub first_sequence: u64,
    /// The hash of the commit before the first: [`CommitHash::ZERO`] if that is the replica's first
    /// ever.
    pub previous: CommitHash,
    /// The canonical bytes of each commit's body, in order; at least one.
    pub bodies: Vec<Bytes>,
}

/// One row of a state transfer, in canonical encodings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRow {
    /// The encoded [`RowKey`](rejoin_crdt::RowKey).
    pub key: Bytes,
    /// The encoded [`Row`](rejoin_crdt::Row).
    pub row: Bytes,
}

/// What [`Host::commits_after`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitsAfter {
    /// The missing commits, in an order in which each follows all that it depends on. Empty if
    /// nothing is missing.
    Runs(Vec<Run>),
    /// A commit that the peer needs is no longer in the log: it needs the whole state.
    LogGone,
    /// The peer's head is not in this replica's history of that writer.
    Fork(Fork),
}

/// Storage could not answer. The fault is local; what was asked for has not happened.
///
/// The session stops the space with this peer and says why; other spaces go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("storage: {0}")]
pub struct HostError(pub String);

/// Why a peer's commits or state were not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The peer holds another history of some writer than this replica. Commits before the fork may
    /// have been applied; nothing at or after it was.
    #[error(transparent)]
    Fork(#[from] Fork),
    /// The peer holds commits under this replica's own id that this replica has never made: the
    /// store was rolled back or cloned. Nothing of them was applied. The engine mints a new id.
    #[error("the peer holds commits of this replica up to {theirs}, and it has made only {ours}")]
    OwnReplicaAhead {
        /// The highest of this replica's own sequence numbers that the peer has.
        theirs: u64,
        /// The highest that this replica has on disk.
        ours: u64,
    },
    /// The peer sent a commit before its predecessor or a dependency: it breaks the protocol.
    /// Commits before the gap may have been applied.
    #[error("a commit came before one that it depends on")]
    Gap,
    /// The peer sent bytes that are no commit, no row or no state. Commits before them may have
    /// been applied.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Storage failed; the peer is not at fault.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What sync needs of a store. Implemented by the engine over the store, and in tests over memory.
///
/// Every method is synchronous and may block on disk, so drivers call it where blocking is allowed.
/// Methods are called from several threads at once, but for one session and space at most one read
/// (`durable_version`, `commits_after`, `open_state`, a [`StateSource`]), one write (`apply`,
/// `begin_stage`, a [`StateStage`]) and one `mark_confirmed` are under way.
pub trait Host: fmt::Debug + Send + Sync {
    /// The id under which this replica writes.
    fn replica(&self) -> ReplicaId;

    /// The spaces that this replica offers to `peer`. Only what the peer may know: the list is sent
    /// to it.
    ///
    /// # Errors
    /// When storage fails.
    fn spaces(&self, peer: DeviceId) -> Result<Vec<SpaceId>, HostError>;

    /// The version vector of what is on disk. Never behind what an earlier call returned.
    ///
    /// # Errors
    /// When storage fails, or the space is not here.
    fn durable_version(&self, space: SpaceId) -> Result<Arc<VersionVector>, HostError>;

    /// Durable commits that `version` does not cover, in causal order, about `bytes_max` bytes of
    /// bodies: at least one commit if any is missing, and fewer than all if they do not fit.
    ///
    /// # Errors
    /// When storage fails.
    fn commits_after(
        &self,
        space: SpaceId,
        version: &VersionVector,
        bytes_max: usize,
    ) -> Result<CommitsAfter, HostError>;

    /// Applies a peer's commits, in order, skipping those already applied, and returns the durable
    /// version after that. All of it is on disk on return.
    ///
    /// # Errors
    /// An [`ApplyError`]; a commit that failed has changed nothing, those before it may have been
    /// applied.
    fn apply(&self, space: SpaceId, runs: &[Run]) -> Result<Arc<VersionVector>, ApplyError>;

    /// This replica's own commits up to `sequence` are about to be sent to a peer: from now on
    /// somebody else may have them. Called before they leave.
    ///
    /// # Errors
    /// When storage fails; nothing is sent then.
    fn mark_sent(&self, space: SpaceId, sequence: u64) -> Result<(), HostError>;

    /// A peer has this replica's own commits up to `sequence` on its disk. That they were sent
    /// follows from it, even where `mark_sent` was not called: the sending is forgotten by a store
    /// that was rolled back, not by its peers.
    ///
    /// # Errors
    /// When storage fails.
    fn mark_confirmed(&self, space: SpaceId, sequence: u64) -> Result<(), HostError>;

    /// Opens a consistent, durable view of a whole space for sending.
    ///
    /// # Errors
    /// When storage fails.
    fn open_state(&self, space: SpaceId) -> Result<Box<dyn StateSource>, HostError>;

    /// Begins to take in a peer's state of version `theirs`, aside from the space's own rows.
    ///
    /// # Errors
    /// [`ApplyError::Fork`] or [`ApplyError::OwnReplicaAhead`] if the version shows it, or a
    /// storage failure.
    fn begin_stage(
        &self,
        space: SpaceId,
        theirs: &VersionVector,
    ) -> Result<Box<dyn StateStage>, ApplyError>;
}

/// A consistent view of a space, read page by page. Dropping it releases it, and must not block for
/// long.
pub trait StateSource: fmt::Debug + Send {
    /// The version of the state.
    fn version(&self) -> &VersionVector;

    /// The next rows in key order, about `bytes_max` bytes of them: at least one until the end, and
    /// none after it. A row that does not fit comes in parts of one key, cut by
    /// [`Row::split`](rejoin_crdt::Row::split).
    ///
    /// # Errors
    /// When storage fails, or the view has expired.
    fn next_page(&mut self, bytes_max: usize) -> Result<Vec<StateRow>, HostError>;
}

/// A peer's state on its way in. Dropping it uncommitted discards it, and must not block for long.
pub trait StateStage: fmt::Debug + Send {
    /// Takes in more rows. Their keys follow those staged before, or repeat the last of them: then
    /// the row goes on with further dots.
    ///
    /// # Errors
    /// [`ApplyError::Malformed`] for rows that are not canonical or out of order, or a storage
    /// failure.
    fn stage(&mut self, rows: &[StateRow]) -> Result<(), ApplyError>;

    /// Joins what was staged into the space, atomically, and returns the durable version after
    /// that.
    ///
    /// # Errors
    /// An [`ApplyError`]; the space is then as it was.
    fn commit(self: Box<Self>) -> Result<Arc<VersionVector>, ApplyError>;
}

/// Names one request of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub(crate) u64);

/// Something that a session needs of storage. Answer it with [`serve`].
#[derive(Debug)]
pub struct HostRequest {
    pub(crate) id: RequestId,
    pub(crate) call: HostCall,
}

/// The answer to a [`HostRequest`], to be handed to the session that asked.
#[derive(Debug)]
pub struct HostResponse {
    pub(crate) id: RequestId,
    pub(crate) reply: HostReply,
}

#[derive(Debug)]
pub(crate) enum HostCall {
    Spaces { peer: DeviceId },
    Space { space: SpaceId, call: SpaceCall },
}

#[derive(Debug)]
pub(crate) enum HostReply {
    Spaces(Result<Vec<SpaceId>, HostError>),
    Space { space: SpaceId, reply: SpaceReply },
}

/// A storage call about one space.
#[derive(Debug)]
pub(crate) enum SpaceCall {
    DurableVersion,
    CommitsAfter { version: VersionVector, bytes_max: usize },
    OpenState,
    NextPage { source: Box<dyn StateSource>, bytes_max: usize },
    Apply { runs: Vec<Run> },
    BeginStage { theirs: VersionVector },
    Stage { stage: Box<dyn StateStage>, rows: Vec<StateRow> },
    CommitStage { stage: Box<dyn StateStage> },
    MarkConfirmed { sequence: u64 },
}

/// What came of a [`SpaceCall`]. Sources and stages travel with their calls and come back with the
/// reply, so that whoever drops a session, a request or a response also releases them.
#[derive(Debug)]
pub(crate) enum SpaceReply {
    DurableVersion(Result<Arc<VersionVector>, HostError>),
    CommitsAfter(Result<CommitsAfter, HostError>),
    OpenState(Result<Box<dyn StateSource>, HostError>),
    NextPage(Result<(Box<dyn StateSource>, Vec<StateRow>), HostError>),
    Applied(Result<Arc<VersionVector>, ApplyError>),
    BeginStage(Result<Box<dyn StateStage>, ApplyError>),
    Stage(Result<Box<dyn StateStage>, ApplyError>),
    StageCommitted(Result<Arc<VersionVector>, ApplyError>),
    MarkConfirmed(Result<(), HostError>),
}

impl HostRequest {
    /// Which request this is.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// The space that the request is about, if it is about one.
    pub fn space(&self) -> Option<SpaceId> {
        match self.call {
            HostCall::Spaces { .. } => None,
            HostCall::Space { space, .. } => Some(space),
        }
    }
}

/// Answers one request of a session from `host`. Blocks for as long as the host does.
///
/// This is also where own commits are marked as sent: [`Host::mark_sent`] returns before any commit
/// or state that holds them gets to a session, and so before they can leave.
pub fn serve(host: &dyn Host, request: HostRequest) -> HostResponse {
    let reply = match request.call {
        HostCall::Spaces { peer } => HostReply::Spaces(host.spaces(peer)),
        HostCall::Space { space, call } => {
            HostReply::Space { space, reply: serve_space(host, space, call) }
        }
    };
    HostResponse { id: request.id, reply }
}

fn serve_space(host: &dyn Host, space: SpaceId, call: SpaceCall) -> SpaceReply {
    match call {
        SpaceCall::DurableVersion => SpaceReply::DurableVersion(host.durable_version(space)),
        SpaceCall::CommitsAfter { version, bytes_max } => {
            SpaceReply::CommitsAfter(commits_marked_sent(host, space, &version, bytes_max))
        }
        SpaceCall::OpenState => SpaceReply::OpenState(state_marked_sent(host, space)),
        SpaceCall::NextPage { mut source, bytes_max } => {
            SpaceReply::NextPage(source.next_page(bytes_max).map(|rows| (source, rows)))
        }
        SpaceCall::Apply { runs } => SpaceReply::Applied(host.apply(space, &runs)),
        SpaceCall::BeginStage { theirs } => {
            SpaceReply::BeginStage(host.begin_stage(space, &theirs))
        }
        SpaceCall::Stage { mut stage, rows } => {
            SpaceReply::Stage(stage.stage(&rows).map(|()| stage))
        }
        SpaceCall::CommitStage { stage } => SpaceReply::StageCommitted(stage.commit()),
        SpaceCall::MarkConfirmed { sequence } => {
            SpaceReply::MarkConfirmed(host.mark_confirmed(space, sequence))
        }
    }
}

fn commits_marked_sent(
    host: &dyn Host,
    space: SpaceId,
    version: &VersionVector,
    bytes_max: usize,
) -> Result<CommitsAfter, HostError> {
    let found = host.commits_after(space, version, bytes_max)?;
    if let CommitsAfter::Runs(runs) = &found {
        let own = host.replica();
        let last = runs.iter().filter(|run| run.replica == own).map(Run::last_sequence).max();
        if let Some(sequence) = last {
            host.mark_sent(space, sequence)?;
        }
    }
    Ok(found)
}

fn state_marked_sent(host: &dyn Host, space: SpaceId) -> Result<Box<dyn StateSource>, HostError> {
    let source = host.open_state(space)?;
    let sequence = source.version().sequence(host.replica());
    if sequence > 0 {
        host.mark_sent(space, sequence)?;
    }
    Ok(source)
}

impl Run {
    /// The sequence number of the last commit.
    pub fn last_sequence(&self) -> u64 {
        self.first_sequence.saturating_add(self.bodies.len() as u64).saturating_sub(1)
    }

    /// The bytes of all bodies together.
    pub fn body_bytes(&self) -> usize {
        self.bodies.iter().map(Bytes::len).sum()
    }
}
