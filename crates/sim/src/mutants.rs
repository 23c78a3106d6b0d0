//! The bugs that can be planted, and who must find them.
//!
//! Each stands for a line of the list of what has gone wrong in systems like this one.
//!
//! # To add one
//!
//! 1. Name it in `Bug` of `rejoin_crdt::planted`, and in `Bug::ALL` at the same place.
//! 2. Ask `planted::is(Bug::...)` where the mistake would be made: as few lines as possible, and none that
//!    work without the bug differently.
//! 3. List it in [`PLANTED`], at the same place again, with the checker that sees it first if all is well with
//!    the checkers: judge by what can be seen from outside, not by what was first seen. Say under `needs` what
//!    not every world has; [`worlds`] makes worlds of that.
//! 4. Let it loose: `cargo run --release -p rejoin-sim --features mutants -- mutants --only its-name` tells the
//!    story of the world that it was caught in. If it survives, the worlds lack something that it takes (a
//!    fault, a use, a gauge), or a checker is blind, or nobody can ever see it, and then it is no bug.

pub use rejoin_crdt::planted::Bug;
use rejoin_crdt::planted::plant;

use crate::app::Worlds;
use crate::cli::Mutants;
use crate::history::Checker;
use crate::outcome::Outcome;
use crate::plan::{Class, PlanOptions, Use};
use crate::runner::{self, Mutant, Simulate};

/// A bug, how it is scored, and the worlds in which it is let loose.
#[derive(Debug, Clone, Copy)]
pub struct Planted {
    /// What is planted.
    pub bug: Bug,
    /// How it is scored.
    pub mutant: Mutant,
    /// What a world must have for it to show; all of it.
    pub needs: &'static [Need],
}

/// What the command runs.
pub const MUTANTS: Mutants = Mutants { list: &LIST, run };

const LIST: [Mutant; PLANTED.len()] = {
    let mut list = [PLANTED[0].mutant; PLANTED.len()];
    let mut place = 0;
    while place < list.len() {
        list[place] = PLANTED[place].mutant;
        place += 1;
    }
    list
};

/// Plays the world of a seed with the bug at this place of the list. A world that fails without the bug too
/// says nothing about it, and counts as one that it lived through.
pub fn run(place: usize, seed: u64, with_trace: bool) -> Outcome {
    let planted = &PLANTED[place];
    let worlds = worlds(planted.needs);
    let plan = worlds.plan(seed);
    let outcome = with(planted.bug, || runner::play(&worlds, seed, &plan, with_trace));
    if outcome.violation.is_none() {
        return outcome;
    }
    match runner::play(&worlds, seed, &plan, false).violation {
        None => outcome,
        Some(_) => Outcome { violation: None, ..outcome },
    }
}

/// The worlds that have all this. What worlds have often enough anyway is left to chance.
pub fn worlds(needs: &[Need]) -> Worlds {
    let always = needs.iter().flat_map(|need| need.classes()).copied().collect();
    let mut options = PlanOptions { always, ..PlanOptions::default() };
    for need in needs {
        match need {
            Need::Checkpoints => options.buffer_bytes = Some(4 << 10),
            Need::SmallSegments => {
                options.segment_bytes = Some(2 << 10);
                options.buffer_bytes = Some(64 << 10);
            }
            Need::FailedReads | Need::BitRot => options.tree_cache_bytes = Some(0),
            Need::WholeLogs => options.never = vec![Class::Truncation, Class::Absence],
            Need::Trees => options.work = Some(Use::Trees),
            Need::SameRows => {
                options.work = Some(Use::HotKeys);
                options.replicas = Some(4);
                options.buffer_bytes = Some(8 << 10);
                options.actions = Some(1_500);
                options.unwitnessed = true;
            }
            Need::LongHistories => options.long = true,
            Need::HotKeys => options.work = Some(Use::HotKeys),
            Need::SlowPeers => {
                options.work = Some(Use::LargeValues);
                options.replicas = Some(4);
                options.long = true;
            }
            _ => {}
        }
    }
    Worlds { options }
}

/// Does some work with a bug planted on this thread.
pub fn with<T>(bug: Bug, work: impl FnOnce() -> T) -> T {
    struct Unplant;
    impl Drop for Unplant {
        fn drop(&mut self) {
            plant(None);
        }
    }
    plant(Some(bug));
    let _unplant = Unplant;
    work()
}

impl Need {
    /// The classes of faults that bring it about.
    fn classes(self) -> &'static [Class] {
        match self {
            Need::PowerCuts => &[Class::PowerCut, Class::PowerCutInWrite],
            Need::FailedWrites => &[Class::FailedSync, Class::FailedWrite],
            Need::FailedReads => &[Class::FailedRead],
            Need::BitRot => &[Class::BitRot],
            Need::StateTransfers => &[Class::Truncation],
            Need::Clocks => &[Class::ClockSkew],
            Need::MixedVersions => &[Class::OtherVersion],
            Need::Equivocation => &[Class::Equivocation],
            Need::BrokenFrames => &[Class::BrokenFrames],
            Need::Forgery => &[Class::Forgery],
            Need::Flooding => &[Class::Flooding],
            Need::LongOutages => &[Class::LongOutage],
            Need::SlowPeers => &[Class::RateLimit, Class::SlowReader],
            _ => &[],
        }
    }
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
    /// Logs that nobody drops, so that no states are transferred.
    WholeLogs,
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
    /// A few rows that everybody writes.
    HotKeys,
    /// Trees that are removed while others write in them.
    Trees,
    /// The same rows are written again and again, with nothing beside them.
    SameRows,
    /// More than 64 commits of one writer.
    LongHistories,
}

/// Every bug that can be planted, in the order of [`Bug`].
pub const PLANTED: &[Planted] = &[
    Planted {
        bug: Bug::CoarseReplicaId,
        mutant: Mutant {
            name: "coarse-replica-id",
            failure_line: 2,
            what: "A new store draws its replica id from 8 values, and so may have that of another.",
            intended: Checker::DotLedger,
        },
        needs: &[],
    },
    Planted {
        bug: Bug::ReserveNotSynced,
        mutant: Mutant {
            name: "reserve-not-synced",
            failure_line: 3,
            what: "What falls within the reserve of the log is acknowledged and sent without a sync.",
            intended: Checker::Durability,
        },
        needs: &[Need::PowerCuts],
    },
    Planted {
        bug: Bug::ForkUnseen,
        mutant: Mutant {
            name: "fork-unseen",
            failure_line: 4,
            what: "Two histories of one writer that are equally long are taken for the same.",
            intended: Checker::DotLedger,
        },
        needs: &[Need::Equivocation],
    },
    Planted {
        bug: Bug::VersionPruned,
        mutant: Mutant {
            name: "version-pruned",
            failure_line: 7,
            what: "A state join drops the writers that the other side has never heard of from the version.",
            intended: Checker::Causality,
        },
        needs: &[Need::StateTransfers],
    },
    Planted {
        bug: Bug::SequenceNarrowed,
        mutant: Mutant {
            name: "sequence-narrowed",
            failure_line: 8,
            what: "Rows on disk keep the low 6 bits of the sequence numbers of their dots.",
            intended: Checker::Resurrection,
        },
        needs: &[Need::Checkpoints, Need::LongHistories, Need::WholeLogs],
    },
    Planted {
        bug: Bug::ClockBeatsCause,
        mutant: Mutant {
            name: "clock-beats-cause",
            failure_line: 9,
            what: "A put leaves what it has seen if that carries a later wall time: a key is locked by a fast clock.",
            intended: Checker::Oracle,
        },
        needs: &[Need::Clocks],
    },
    Planted {
        bug: Bug::SkewRefused,
        mutant: Mutant {
            name: "skew-refused",
            failure_line: 10,
            what: "Peers whose clock is 3.6 s off are refused; an hour was meant.",
            intended: Checker::Liveness,
        },
        needs: &[Need::Clocks],
    },
    Planted {
        bug: Bug::RelayedInSeconds,
        mutant: Mutant {
            name: "relayed-in-seconds",
            failure_line: 10,
            what: "Commits of third parties are encoded anew when they are sent on, with wall times in seconds.",
            intended: Checker::Authenticity,
        },
        needs: &[],
    },
    Planted {
        bug: Bug::JoinPrunesSiblings,
        mutant: Mutant {
            name: "join-prunes-siblings",
            failure_line: 11,
            what: "A state join keeps one dot of each flag and element; commits keep them all.",
            intended: Checker::Agreement,
        },
        needs: &[Need::StateTransfers],
    },
    Planted {
        bug: Bug::JoinLosesWallTime,
        mutant: Mutant {
            name: "join-loses-wall-time",
            failure_line: 11,
            what: "Registers that come with a state have wall time 0; those that come with commits have theirs.",
            intended: Checker::Oracle,
        },
        needs: &[Need::StateTransfers],
    },
    Planted {
        bug: Bug::AddForgetsSiblings,
        mutant: Mutant {
            name: "add-forgets-siblings",
            failure_line: 12,
            what: "Adding an element drops concurrent additions of it, so replicas keep the one that came last.",
            intended: Checker::Resurrection,
        },
        needs: &[],
    },
    Planted {
        bug: Bug::RemoveTreeBlind,
        mutant: Mutant {
            name: "remove-tree-blind",
            failure_line: 12,
            what: "Removing a subtree removes all that a replica has there, seen by the remover or not.",
            intended: Checker::Oracle,
        },
        needs: &[],
    },
    Planted {
        bug: Bug::RemoveForgetsKind,
        mutant: Mutant {
            name: "remove-forgets-kind",
            failure_line: 12,
            what: "Removing a path leaves a set element at it.",
            intended: Checker::Resurrection,
        },
        needs: &[Need::HotKeys],
    },
    Planted {
        bug: Bug::CounterFoldsSent,
        mutant: Mutant {
            name: "counter-folds-sent",
            failure_line: 13,
            what: "An increment folds in increments that peers have seen, and so survives their removal.",
            intended: Checker::Oracle,
        },
        needs: &[],
    },
    Planted {
        bug: Bug::DuplicateApplied,
        mutant: Mutant {
            name: "duplicate-applied",
            failure_line: 13,
            what: "The last commit of a writer takes effect again when a second peer brings it.",
            intended: Checker::Causality,
        },
        needs: &[Need::Watches],
    },
    Planted {
        bug: Bug::BlindPut,
        mutant: Mutant {
            name: "blind-put",
            failure_line: 14,
            what: "A put drops concurrent values.",
            intended: Checker::Oracle,
        },
        needs: &[],
    },
    Planted {
        bug: Bug::FoldKeepsRemoved,
        mutant: Mutant {
            name: "fold-keeps-removed",
            failure_line: 15,
            what: "A checkpoint does not delete removed rows from the tree, and they show again.",
            intended: Checker::Resurrection,
        },
        needs: &[Need::Checkpoints],
    },
    Planted {
        bug: Bug::JoinKeepsCovered,
        mutant: Mutant {
            name: "join-keeps-covered",
            failure_line: 17,
            what: "A state join brings back what was removed here and is still in the state of the other side.",
            intended: Checker::Resurrection,
        },
        needs: &[Need::StateTransfers, Need::Trees],
    },
    Planted {
        bug: Bug::JoinForgetsOurs,
        mutant: Mutant {
            name: "join-forgets-ours",
            failure_line: 17,
            what: "A state join takes for removed what the other side has never seen.",
            intended: Checker::Oracle,
        },
        needs: &[Need::StateTransfers],
    },
    Planted {
        bug: Bug::AcknowledgesForEver,
        mutant: Mutant {
            name: "acknowledges-for-ever",
            failure_line: 18,
            what: "Two sides that both have received something acknowledge each other's acknowledgements.",
            intended: Checker::Liveness,
        },
        needs: &[],
    },
    Planted {
        bug: Bug::CausesNotAwaited,
        mutant: Mutant {
            name: "causes-not-awaited",
            failure_line: 19,
            what: "Own commits overtake those of third parties that they depend on, and are applied all the same.",
            intended: Checker::Causality,
        },
        needs: &[],
    },
    Planted {
        bug: Bug::ReadsDurableOnly,
        mutant: Mutant {
            name: "reads-durable-only",
            failure_line: 19,
            what: "With eventual durability a read does not show what the same process just wrote.",
            intended: Checker::Causality,
        },
        needs: &[Need::Eventual],
    },
    Planted {
        bug: Bug::GapInLogUnnoticed,
        mutant: Mutant {
            name: "gap-in-log-unnoticed",
            failure_line: 20,
            what: "A peer that needs what is no longer in the log gets what follows it, again and again.",
            intended: Checker::Authenticity,
        },
        needs: &[Need::StateTransfers],
    },
    Planted {
        bug: Bug::WatchMissesJoin,
        mutant: Mutant {
            name: "watch-misses-join",
            failure_line: 20,
            what: "A watch goes on after a state join as if nothing had been passed over.",
            intended: Checker::Causality,
        },
        needs: &[Need::Watches, Need::StateTransfers],
    },
    Planted {
        bug: Bug::RelayOmitted,
        mutant: Mutant {
            name: "relay-omitted",
            failure_line: 23,
            what: "Commits of third parties that come while a session lasts are not sent on.",
            intended: Checker::Liveness,
        },
        needs: &[Need::PartialMesh],
    },
    Planted {
        bug: Bug::RedialGivesUp,
        mutant: Mutant {
            name: "redial-gives-up",
            failure_line: 23,
            what: "After ten failures a peer is not dialled again.",
            intended: Checker::Liveness,
        },
        needs: &[Need::LongOutages],
    },
    Planted {
        bug: Bug::WindowIgnored,
        mutant: Mutant {
            name: "window-ignored",
            failure_line: 24,
            what: "A sender keeps sending to a peer that acknowledges nothing.",
            intended: Checker::Bounds,
        },
        needs: &[Need::SlowPeers],
    },
    Planted {
        bug: Bug::CountsCompared,
        mutant: Mutant {
            name: "counts-compared",
            failure_line: 26,
            what: "Two sides with as many commits take each other for in sync, whichever commits these are.",
            intended: Checker::Liveness,
        },
        needs: &[],
    },
    Planted {
        bug: Bug::InboxUnbounded,
        mutant: Mutant {
            name: "inbox-unbounded",
            failure_line: 29,
            what: "A receiver keeps in memory whatever a peer sends beyond its window.",
            intended: Checker::Bounds,
        },
        needs: &[Need::Flooding],
    },
    Planted {
        bug: Bug::OffersUnbounded,
        mutant: Mutant {
            name: "offers-unbounded",
            failure_line: 30,
            what: "A session remembers any number of spaces that a peer offers.",
            intended: Checker::Bounds,
        },
        needs: &[Need::Flooding],
    },
    Planted {
        bug: Bug::LengthBelieved,
        mutant: Mutant {
            name: "length-believed",
            failure_line: 33,
            what: "A length within a frame may go past its end, which panics.",
            intended: Checker::Panic,
        },
        needs: &[Need::BrokenFrames],
    },
    Planted {
        bug: Bug::RemovalEndsCommit,
        mutant: Mutant {
            name: "removal-ends-commit",
            failure_line: 33,
            what: "A commit that removes a row that is gone already has no further effect.",
            intended: Checker::Atomicity,
        },
        needs: &[],
    },
    Planted {
        bug: Bug::TreeNotSynced,
        mutant: Mutant {
            name: "tree-not-synced",
            failure_line: 34,
            what: "The tree is never synced, and the log that it replaces is dropped.",
            intended: Checker::Corruption,
        },
        needs: &[Need::Checkpoints, Need::PowerCuts],
    },
    Planted {
        bug: Bug::SegmentEntryNotSynced,
        mutant: Mutant {
            name: "segment-entry-not-synced",
            failure_line: 34,
            what: "A new segment of the log is synced, and the folder that it is in is not.",
            intended: Checker::Durability,
        },
        needs: &[Need::SmallSegments, Need::PowerCuts],
    },
    Planted {
        bug: Bug::SyncRetried,
        mutant: Mutant {
            name: "sync-retried",
            failure_line: 35,
            what: "A sync that fails is made again, and what it was to make durable counts as durable then.",
            intended: Checker::Corruption,
        },
        needs: &[Need::FailedWrites, Need::PowerCuts],
    },
    Planted {
        bug: Bug::PoisonForgotten,
        mutant: Mutant {
            name: "poison-forgotten",
            failure_line: 35,
            what: "After a failed write the store takes further ones, which do not join on to what is on disk.",
            intended: Checker::Panic,
        },
        needs: &[Need::FailedWrites],
    },
    Planted {
        bug: Bug::BufferUncounted,
        mutant: Mutant {
            name: "buffer-uncounted",
            failure_line: 36,
            what: "Commits to rows that are there already never make a checkpoint due.",
            intended: Checker::Bounds,
        },
        needs: &[Need::SameRows],
    },
    Planted {
        bug: Bug::TornTailAccepted,
        mutant: Mutant {
            name: "torn-tail-accepted",
            failure_line: 37,
            what: "A record whose header reached the disk and whose body did not is replayed.",
            intended: Checker::Corruption,
        },
        needs: &[Need::PowerCuts],
    },
    Planted {
        bug: Bug::DamageCutOff,
        mutant: Mutant {
            name: "damage-cut-off",
            failure_line: 37,
            what: "A damaged record in the log is cut off together with all that was synced behind it.",
            intended: Checker::Corruption,
        },
        needs: &[Need::BitRot],
    },
    Planted {
        bug: Bug::BlockPartlyChecked,
        mutant: Mutant {
            name: "block-partly-checked",
            failure_line: 28,
            what: "The checksum of a block of the tree covers its first quarter, and bits may rot in the rest.",
            intended: Checker::Panic,
        },
        needs: &[Need::Checkpoints, Need::BitRot],
    },
    Planted {
        bug: Bug::ProtocolOwnHighest,
        mutant: Mutant {
            name: "protocol-own-highest",
            failure_line: 39,
            what: "Each side speaks the highest version that it knows, not the highest that both know.",
            intended: Checker::Liveness,
        },
        needs: &[Need::MixedVersions],
    },
    Planted {
        bug: Bug::ChainUnchecked,
        mutant: Mutant {
            name: "chain-unchecked",
            failure_line: 40,
            what: "A commit is applied although it does not follow the last one of its writer by its hash.",
            intended: Checker::Authenticity,
        },
        needs: &[Need::Forgery],
    },
    Planted {
        bug: Bug::OwnTakenFromPeers,
        mutant: Mutant {
            name: "own-taken-from-peers",
            failure_line: 40,
            what: "A replica believes a peer that tells it what it wrote itself.",
            intended: Checker::Authenticity,
        },
        needs: &[Need::Forgery],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_bug_is_listed_once_under_a_name_of_its_own() {
        let bugs: Vec<Bug> = PLANTED.iter().map(|planted| planted.bug).collect();
        assert_eq!(bugs, Bug::ALL);
        let names: BTreeSet<&str> = LIST.iter().map(|mutant| mutant.name).collect();
        assert_eq!(names.len(), LIST.len());
    }

    #[test]
    fn every_checker_has_a_bug_to_find() {
        let intended: BTreeSet<Checker> = LIST.iter().map(|mutant| mutant.intended).collect();
        assert_eq!(intended.len(), 12, "all but the application's own");
    }

    /// A few that are caught at once, of different parts of the engine.
    #[test]
    fn planted_bugs_are_caught_by_the_checkers_meant_for_them() {
        for bug in [
            Bug::CoarseReplicaId,
            Bug::OwnTakenFromPeers,
            Bug::TreeNotSynced,
            Bug::RelayedInSeconds,
        ] {
            let place = PLANTED.iter().position(|planted| planted.bug == bug).unwrap();
            let caught = (1..=40).find_map(|seed| run(place, seed, false).violation);
            assert_eq!(
                caught.map(|it| it.checker),
                Some(PLANTED[place].mutant.intended),
                "{bug:?}"
            );
        }
    }

    #[test]
    fn a_bug_is_gone_once_its_world_is_over() {
        let panicked = std::panic::catch_unwind(|| with(Bug::BlindPut, || panic!("as some do")));
        assert!(panicked.is_err());
        assert!(!rejoin_crdt::planted::is(Bug::BlindPut));
    }
}
