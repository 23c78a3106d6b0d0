//! The bugs that can be planted, and who must find them.
//!
//! Each stands for a line of the list of what has gone wrong in systems like this one.

pub use rejoin_crdt::planted::Bug;

use crate::history::Checker;

/// One planted bug, as it is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mutant {
    /// What is planted.
    pub bug: Bug,
    /// Its name in reports.
    pub name: &'static str,
    /// The line of the list of failures that it stands for.
    pub failure: u8,
    /// What is wrong.
    pub what: &'static str,
    /// The checker that is meant to find it.
    pub intended: Checker,
    /// What a world must have for it to show; all of it.
    pub needs: &'static [Need],
}

/// Something that not every world has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// Cuts of power that lose or tear what was not synced.
    PowerCuts,
    /// Syncs or writes that fail.
    FailedWrites,
    /// Reads that fail.
    FailedReads,
    /// Bits that rot on disk.
    BitRot,
    /// Segments of the log that are small enough to be sealed now and then.
    SmallSegments,
    /// Checkpoints in the course of the world.
    Checkpoints,
    /// Logs that are dropped while a peer still lacks some of it: then states are transferred.
    StateTransfers,
    /// Replicas that acknowledge before it is durable.
    Eventual,
    /// Clocks that are seconds apart.
    Clocks,
    /// A watch of the whole space.
    Watches,
    /// Pairs of replicas that are never linked, with links that last.
    PartialMesh,
    /// Peers that cannot be reached for minutes, dialled by [`Redial`](rejoin_gossip::Redial).
    LongOutages,
    /// Links so slow, and so much written, that windows fill up.
    SlowPeers,
    /// Peers that speak another highest version of the protocol.
    MixedVersions,
    /// Peers who tell different peers different things.
    Equivocation,
    /// Peers who make commits in the name of others.
    Forgery,
    /// Peers who send more than they may.
    Flooding,
    /// Peers who send frames that contradict themselves.
    BrokenFrames,
    /// More than 64 commits of one writer.
    LongHistories,
}

/// Every bug that can be planted, in the order of [`Bug`].
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        bug: Bug::CoarseReplicaId,
        name: "coarse-replica-id",
        failure: 2,
        what: "A new store draws its replica id from 8 values, and so may have that of another.",
        intended: Checker::DotLedger,
        needs: &[],
    },
    Mutant {
        bug: Bug::ReserveNotSynced,
        name: "reserve-not-synced",
        failure: 3,
        what: "What falls within the reserve of the log is acknowledged and sent without a sync.",
        intended: Checker::Durability,
        needs: &[Need::PowerCuts],
    },
    Mutant {
        bug: Bug::ForkUnseen,
        name: "fork-unseen",
        failure: 4,
        what: "Two histories of one writer that are equally long are taken for the same.",
        intended: Checker::DotLedger,
        needs: &[Need::Equivocation],
    },
    Mutant {
        bug: Bug::VersionPruned,
        name: "version-pruned",
        failure: 7,
        what: "A state join drops the writers that the other side has never heard of from the version.",
        intended: Checker::Causality,
        needs: &[Need::StateTransfers],
    },
    Mutant {
        bug: Bug::SequenceNarrowed,
        name: "sequence-narrowed",
        failure: 8,
        what: "Rows on disk keep the low 6 bits of the sequence numbers of their dots.",
        intended: Checker::Agreement,
        needs: &[Need::Checkpoints, Need::LongHistories],
    },
    Mutant {
        bug: Bug::ClockBeatsCause,
        name: "clock-beats-cause",
        failure: 9,
        what: "A put leaves what it has seen if that carries a later wall time: a key is locked by a fast clock.",
        intended: Checker::Oracle,
        needs: &[Need::Clocks],
    },
    Mutant {
        bug: Bug::SkewRefused,
        name: "skew-refused",
        failure: 10,
        what: "Peers whose clock is 3.6 s off are refused; an hour was meant.",
        intended: Checker::Liveness,
        needs: &[Need::Clocks],
    },
    Mutant {
        bug: Bug::RelayedInSeconds,
        name: "relayed-in-seconds",
        failure: 10,
        what: "Commits of third parties are encoded anew when they are sent on, with wall times in seconds.",
        intended: Checker::Authenticity,
        needs: &[],
    },
    Mutant {
        bug: Bug::JoinPrunesSiblings,
        name: "join-prunes-siblings",
        failure: 11,
        what: "A state join keeps one dot of each flag and element; commits keep them all.",
        intended: Checker::Agreement,
        needs: &[Need::StateTransfers],
    },
    Mutant {
        bug: Bug::JoinLosesWallTime,
        name: "join-loses-wall-time",
        failure: 11,
        what: "Registers that come with a state have wall time 0; those that come with commits have theirs.",
        intended: Checker::Oracle,
        needs: &[Need::StateTransfers],
    },
    Mutant {
        bug: Bug::AddForgetsSiblings,
        name: "add-forgets-siblings",
        failure: 12,
        what: "Adding an element drops concurrent additions of it, so replicas keep the one that came last.",
        intended: Checker::Agreement,
        needs: &[],
    },
    Mutant {
        bug: Bug::RemoveTreeBlind,
        name: "remove-tree-blind",
        failure: 12,
        what: "Removing a subtree removes all that a replica has there, seen by the remover or not.",
        intended: Checker::Oracle,
        needs: &[],
    },
    Mutant {
        bug: Bug::RemoveForgetsKind,
        name: "remove-forgets-kind",
        failure: 12,
        what: "Removing a path leaves a set element at it.",
        intended: Checker::Oracle,
        needs: &[],
    },
    Mutant {
        bug: Bug::CounterFoldsSent,
        name: "counter-folds-sent",
        failure: 13,
        what: "An increment folds in increments that peers have seen, and so survives their removal.",
        intended: Checker::Oracle,
        needs: &[],
    },
    Mutant {
        bug: Bug::DuplicateApplied,
        name: "duplicate-applied",
        failure: 13,
        what: "The last commit of a writer takes effect again when a second peer brings it.",
        intended: Checker::Causality,
        needs: &[Need::Watches],
    },
    Mutant {
        bug: Bug::BlindPut,
        name: "blind-put",
        failure: 14,
        what: "A put drops concurrent values.",
        intended: Checker::Oracle,
        needs: &[],
    },
    Mutant {
        bug: Bug::FoldKeepsRemoved,
        name: "fold-keeps-removed",
        failure: 15,
        what: "A checkpoint does not delete removed rows from the tree, and they show again.",
        intended: Checker::Resurrection,
        needs: &[Need::Checkpoints],
    },
    Mutant {
        bug: Bug::JoinKeepsCovered,
        name: "join-keeps-covered",
        failure: 17,
        what: "A state join brings back what was removed here and is still in the state of the other side.",
        intended: Checker::Resurrection,
        needs: &[Need::StateTransfers],
    },
    Mutant {
        bug: Bug::JoinForgetsOurs,
        name: "join-forgets-ours",
        failure: 17,
        what: "A state join takes for removed what the other side has never seen.",
        intended: Checker::Oracle,
        needs: &[Need::StateTransfers],
    },
    Mutant {
        bug: Bug::AcknowledgesForEver,
        name: "acknowledges-for-ever",
        failure: 18,
        what: "Two sides that both have received something acknowledge each other's acknowledgements.",
        intended: Checker::Liveness,
        needs: &[],
    },
    Mutant {
        bug: Bug::CausesNotAwaited,
        name: "causes-not-awaited",
        failure: 19,
        what: "Own commits overtake those of third parties that they depend on, and are applied all the same.",
        intended: Checker::Causality,
        needs: &[],
    },
    Mutant {
        bug: Bug::ReadsDurableOnly,
        name: "reads-durable-only",
        failure: 19,
        what: "With eventual durability a read does not show what the same process just wrote.",
        intended: Checker::Causality,
        needs: &[Need::Eventual],
    },
    Mutant {
        bug: Bug::GapInLogUnnoticed,
        name: "gap-in-log-unnoticed",
        failure: 20,
        what: "A peer that needs what is no longer in the log gets what follows it, again and again.",
        intended: Checker::Liveness,
        needs: &[Need::StateTransfers],
    },
    Mutant {
        bug: Bug::WatchMissesJoin,
        name: "watch-misses-join",
        failure: 20,
        what: "A watch goes on after a state join as if nothing had been passed over.",
        intended: Checker::Causality,
        needs: &[Need::Watches, Need::StateTransfers],
    },
    Mutant {
        bug: Bug::RelayOmitted,
        name: "relay-omitted",
        failure: 23,
        what: "Commits of third parties that come while a session lasts are not sent on.",
        intended: Checker::Liveness,
        needs: &[Need::PartialMesh],
    },
    Mutant {
        bug: Bug::RedialGivesUp,
        name: "redial-gives-up",
        failure: 23,
        what: "After ten failures a peer is not dialled again.",
        intended: Checker::Liveness,
        needs: &[Need::LongOutages],
    },
    Mutant {
        bug: Bug::WindowIgnored,
        name: "window-ignored",
        failure: 24,
        what: "A sender keeps sending to a peer that acknowledges nothing.",
        intended: Checker::Bounds,
        needs: &[Need::SlowPeers],
    },
    Mutant {
        bug: Bug::CountsCompared,
        name: "counts-compared",
        failure: 26,
        what: "Two sides with as many commits take each other for in sync, whichever commits these are.",
        intended: Checker::Liveness,
        needs: &[],
    },
    Mutant {
        bug: Bug::InboxUnbounded,
        name: "inbox-unbounded",
        failure: 29,
        what: "A receiver keeps in memory whatever a peer sends beyond its window.",
        intended: Checker::Bounds,
        needs: &[Need::Flooding],
    },
    Mutant {
        bug: Bug::OffersUnbounded,
        name: "offers-unbounded",
        failure: 30,
        what: "A session remembers any number of spaces that a peer offers.",
        intended: Checker::Bounds,
        needs: &[Need::Flooding],
    },
    Mutant {
        bug: Bug::LengthBelieved,
        name: "length-believed",
        failure: 33,
        what: "A length within a frame may go past its end, which panics.",
        intended: Checker::Panic,
        needs: &[Need::BrokenFrames],
    },
    Mutant {
        bug: Bug::RemovalEndsCommit,
        name: "removal-ends-commit",
        failure: 33,
        what: "A commit that removes a row that is gone already has no further effect.",
        intended: Checker::Atomicity,
        needs: &[],
    },
    Mutant {
        bug: Bug::RollbackForgotten,
        name: "rollback-forgotten",
        failure: 33,
        what: "A commit that fails half-way because a row cannot be read leaves the first half in the rows.",
        intended: Checker::Atomicity,
        needs: &[Need::Checkpoints, Need::FailedReads],
    },
    Mutant {
        bug: Bug::TreeNotSynced,
        name: "tree-not-synced",
        failure: 34,
        what: "The tree is never synced, and the log that it replaces is dropped.",
        intended: Checker::Corruption,
        needs: &[Need::Checkpoints, Need::PowerCuts],
    },
    Mutant {
        bug: Bug::SegmentEntryNotSynced,
        name: "segment-entry-not-synced",
        failure: 34,
        what: "A new segment of the log is synced, and the folder that it is in is not.",
        intended: Checker::Durability,
        needs: &[Need::SmallSegments, Need::PowerCuts],
    },
    Mutant {
        bug: Bug::SyncRetried,
        name: "sync-retried",
        failure: 35,
        what: "A sync that fails is made again, and what it was to make durable counts as durable then.",
        intended: Checker::Durability,
        needs: &[Need::FailedWrites, Need::PowerCuts],
    },
    Mutant {
        bug: Bug::PoisonForgotten,
        name: "poison-forgotten",
        failure: 35,
        what: "After a failed write the store takes further ones, which do not join on to what is on disk.",
        intended: Checker::Panic,
        needs: &[Need::FailedWrites],
    },
    Mutant {
        bug: Bug::BufferUncounted,
        name: "buffer-uncounted",
        failure: 36,
        what: "Commits to rows that are there already never make a checkpoint due.",
        intended: Checker::Bounds,
        needs: &[Need::Checkpoints],
    },
    Mutant {
        bug: Bug::TornTailAccepted,
        name: "torn-tail-accepted",
        failure: 37,
        what: "A record whose header reached the disk and whose body did not is replayed.",
        intended: Checker::Corruption,
        needs: &[Need::PowerCuts],
    },
    Mutant {
        bug: Bug::DamageCutOff,
        name: "damage-cut-off",
        failure: 37,
        what: "A damaged record in the log is cut off together with all that was synced behind it.",
        intended: Checker::Corruption,
        needs: &[Need::BitRot],
    },
    Mutant {
        bug: Bug::BlockPartlyChecked,
        name: "block-partly-checked",
        failure: 28,
        what: "The checksum of a block of the tree covers its first quarter, and bits may rot in the rest.",
        intended: Checker::Corruption,
        needs: &[Need::Checkpoints, Need::BitRot],
    },
    Mutant {
        bug: Bug::ProtocolOwnHighest,
        name: "protocol-own-highest",
        failure: 39,
        what: "Each side speaks the highest version that it knows, not the highest that both know.",
        intended: Checker::Liveness,
        needs: &[Need::MixedVersions],
    },
    Mutant {
        bug: Bug::ChainUnchecked,
        name: "chain-unchecked",
        failure: 40,
        what: "A commit is applied although it does not follow the last one of its writer by its hash.",
        intended: Checker::Authenticity,
        needs: &[Need::Forgery],
    },
    Mutant {
        bug: Bug::OwnTakenFromPeers,
        name: "own-taken-from-peers",
        failure: 40,
        what: "A replica believes a peer that tells it what it wrote itself.",
        intended: Checker::Authenticity,
        needs: &[Need::Forgery],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_bug_is_listed_once_under_a_name_of_its_own() {
        let bugs: Vec<Bug> = MUTANTS.iter().map(|mutant| mutant.bug).collect();
        assert_eq!(bugs, Bug::ALL);
        let names: BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.name).collect();
        assert_eq!(names.len(), MUTANTS.len());
    }

    #[test]
    fn every_checker_has_a_bug_to_find() {
        let intended: BTreeSet<Checker> = MUTANTS.iter().map(|mutant| mutant.intended).collect();
        assert_eq!(intended.len(), 12, "all but the application's own");
    }
}
