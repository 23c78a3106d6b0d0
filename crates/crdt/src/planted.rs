//! Bugs planted on purpose, to score the simulator: mistakes that a tired engineer would make.
//!
//! They exist only under the feature `mutants`, which no build that is shipped has; without it [`is`] is
//! constantly false and every switch vanishes. The simulator plants one at a time, for its own thread,
//! and must find it. Each stands for a failure that systems like this one have had; the number is the
//! failure's in the design's list of them.

/// One planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    // Identity and dots
    /// New stores draw their replica id from a handful of values (2).
    CoarseReplicaId,
    /// A record that falls within the reserve is not synced before it counts as durable (3).
    ReserveNotSynced,
    /// Histories of equal length are taken for equal without a look at their hashes (4).
    ForkUnseen,
    /// A state join drops the entries of writers that the other side does not mention, as of writers who
    /// have left (7).
    VersionPruned,
    /// The tree keeps the low 6 bits of a sequence number: 32 of 64, at the scale of a world (8).
    SequenceNarrowed,

    // Clocks
    /// A put leaves alone what it has seen if that carries a later wall time (9).
    ClockBeatsCause,
    /// Peers whose clock is off are refused, with a bound in seconds held against milliseconds (10).
    SkewRefused,
    /// Commits of third parties are sent on with their wall time in whole seconds (10).
    RelayedInSeconds,

    // Data types
    /// A state join leaves one dot of a flag or element that has several: it is present all the same (11).
    JoinPrunesSiblings,
    /// A state join passes over the wall time of the registers that it takes (11).
    JoinLosesWallTime,
    /// Adding an element takes the place of the additions it has not seen (12).
    AddForgetsSiblings,
    /// Removing a subtree takes what was added there concurrently (12).
    RemoveTreeBlind,
    /// Removing a path forgets the kind that was added last to the list of kinds (12).
    RemoveForgetsKind,
    /// An increment folds in what peers have seen (13).
    CounterFoldsSent,
    /// The last commit of a writer takes effect once more when it comes again (13).
    DuplicateApplied,
    /// A put takes the place of values it has not seen (14).
    BlindPut,
    /// A checkpoint leaves rows in the tree that were deleted in the buffer (15).
    FoldKeepsRemoved,
    /// A state join brings back what was removed here and the other side still has (17).
    JoinKeepsCovered,
    /// A state join goes by the joined version, and so drops what only this side has (17).
    JoinForgetsOurs,

    // Sync and liveness
    /// Every acknowledgement is acknowledged (18).
    AcknowledgesForEver,
    /// Own commits do not wait for what they depend on, neither here nor there (19).
    CausesNotAwaited,
    /// Readers see what is on disk, not what was acknowledged (19).
    ReadsDurableOnly,
    /// A log that begins behind what a peer lacks is sent from where it begins (20).
    GapInLogUnnoticed,
    /// A watch is not told that a state was joined (20).
    WatchMissesJoin,
    /// What third parties wrote is left for them to send (23).
    RelayOmitted,
    /// A peer that could not be reached ten times is dialled no more (23).
    RedialGivesUp,
    /// A sender knows no window (24).
    WindowIgnored,
    /// Two sides with equally many commits count as in sync (26).
    CountsCompared,

    // Resources
    /// A receiver takes in whatever is sent, before it is durable (29).
    InboxUnbounded,
    /// A peer may offer any number of spaces (30).
    OffersUnbounded,
    /// The lengths within a frame are believed (33).
    LengthBelieved,
    /// A commit ends at a removal of a row that is gone already (33).
    RemovalEndsCommit,

    // Storage and upgrade
    /// The tree's file is never synced, although the log behind it is dropped (34).
    TreeNotSynced,
    /// The entry of a new segment in its directory is not synced (34).
    SegmentEntryNotSynced,
    /// A sync that failed is tried again, and believed then (35).
    SyncRetried,
    /// A failed write does not keep the next one from being made (35).
    PoisonForgotten,
    /// Commits do not count towards the size at which a checkpoint is due (36).
    BufferUncounted,
    /// A record at the end of the log is taken for good by its header (37).
    TornTailAccepted,
    /// Damage within the log is taken for its torn end, and cut off (37).
    DamageCutOff,
    /// The checksum of a block of the tree covers its first quarter (28).
    BlockPartlyChecked,
    /// The highest version that this side speaks is spoken, whatever the peer speaks (39).
    ProtocolOwnHighest,

    // Malice
    /// A commit need not follow the one before it by its hash (40).
    ChainUnchecked,
    /// Commits of this very replica are taken from peers (40).
    OwnTakenFromPeers,
}

impl Bug {
    /// All of them.
    #[cfg(feature = "mutants")]
    pub const ALL: &[Bug] = &[
        Bug::CoarseReplicaId,
        Bug::ReserveNotSynced,
        Bug::ForkUnseen,
        Bug::VersionPruned,
        Bug::SequenceNarrowed,
        Bug::ClockBeatsCause,
        Bug::SkewRefused,
        Bug::RelayedInSeconds,
        Bug::JoinPrunesSiblings,
        Bug::JoinLosesWallTime,
        Bug::AddForgetsSiblings,
        Bug::RemoveTreeBlind,
        Bug::RemoveForgetsKind,
        Bug::CounterFoldsSent,
        Bug::DuplicateApplied,
        Bug::BlindPut,
        Bug::FoldKeepsRemoved,
        Bug::JoinKeepsCovered,
        Bug::JoinForgetsOurs,
        Bug::AcknowledgesForEver,
        Bug::CausesNotAwaited,
        Bug::ReadsDurableOnly,
        Bug::GapInLogUnnoticed,
        Bug::WatchMissesJoin,
        Bug::RelayOmitted,
        Bug::RedialGivesUp,
        Bug::WindowIgnored,
        Bug::CountsCompared,
        Bug::InboxUnbounded,
        Bug::OffersUnbounded,
        Bug::LengthBelieved,
        Bug::RemovalEndsCommit,
        Bug::TreeNotSynced,
        Bug::SegmentEntryNotSynced,
        Bug::SyncRetried,
        Bug::PoisonForgotten,
        Bug::BufferUncounted,
        Bug::TornTailAccepted,
        Bug::DamageCutOff,
        Bug::BlockPartlyChecked,
        Bug::ProtocolOwnHighest,
        Bug::ChainUnchecked,
        Bug::OwnTakenFromPeers,
    ];
}

/// Whether this bug is planted on this thread.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use mutants::*;

#[cfg(feature = "mutants")]
mod mutants {
    use std::cell::Cell;
    use std::cmp::Ordering;

    use super::Bug;
    use crate::{CommitBody, Dot, Kind, Payload, Row};

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug for this thread, in place of any other.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether this bug is planted on this thread.
    pub fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// The dots of a row that a put supersedes.
    pub(crate) fn superseded(row: &Row, observed: &[Dot], payload: &Payload) -> Vec<Dot> {
        let Payload::Register { wall_time_ms: ours, .. } = payload else {
            return observed.to_vec();
        };
        let later = |dot: &Dot| {
            is(Bug::ClockBeatsCause)
                && matches!(row.get(*dot), Some(Payload::Register { wall_time_ms, .. }) if wall_time_ms > ours)
        };
        observed.iter().copied().filter(|dot| !later(dot)).collect()
    }

    /// The payload of a dot that survives a join; `Greater` if only the other side has it.
    pub(crate) fn joined(side: Ordering, payload: Payload) -> Payload {
        match payload {
            Payload::Register { value, .. } if is(Bug::JoinLosesWallTime) && side.is_gt() => {
                Payload::Register { value, wall_time_ms: 0 }
            }
            payload => payload,
        }
    }

    /// The row of a joined state.
    pub(crate) fn joined_row(kind: Kind, mut row: Row) -> Row {
        let last = row.dots().last();
        if is(Bug::JoinPrunesSiblings) && matches!(kind, Kind::Flag | Kind::Element) {
            row.retain(|dot| Some(dot) == last);
        }
        row
    }

    /// Other bytes for a commit that is sent on.
    pub fn relayed(dot: Dot, bytes: &[u8]) -> Option<Vec<u8>> {
        if !is(Bug::RelayedInSeconds) {
            return None;
        }
        let mut body = CommitBody::from_bytes(dot, bytes).ok()?;
        body.wall_time_ms = body.wall_time_ms / 1_000 * 1_000;
        for operation in &mut body.operations {
            if let crate::Operation::Set {
                payload: Payload::Register { wall_time_ms, .. }, ..
            } = operation
            {
                *wall_time_ms = *wall_time_ms / 1_000 * 1_000;
            }
        }
        body.to_bytes(dot.replica).ok()
    }
}
