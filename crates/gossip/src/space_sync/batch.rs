//! Runs of commits: what they weigh, where they end, and which part of them to send.

use rejoin_crdt::{Dot, Fork, Head, SpaceId, VersionVector, commit_hash};

use crate::host::{Run, StateRow};
use crate::wire::{COMMITS_MAX, ITEM_BYTES, RUNS_MAX};

/// What runs count against a window.
pub(super) fn runs_weight(runs: &[Run]) -> usize {
    let commits: usize = runs.iter().map(|run| run.bodies.len()).sum();
    let bytes: usize = runs.iter().map(Run::body_bytes).sum();
    bytes + (runs.len() + commits) * ITEM_BYTES
}

/// What rows count against a window.
pub(super) fn rows_weight(rows: &[StateRow]) -> usize {
    rows.iter().map(|row| row.key.len() + row.row.len() + ITEM_BYTES).sum()
}

/// The last commit of each writer in `runs`, hashed from what the runs say of themselves.
pub(super) fn heads(space: SpaceId, runs: &[Run]) -> VersionVector {
    let mut heads = VersionVector::default();
    for run in runs {
        let mut hash = run.previous;
        for (sequence, body) in (run.first_sequence..).zip(&run.bodies) {
            hash = commit_hash(space, Dot { replica: run.replica, sequence }, hash, body);
        }
        if run.last_sequence() > heads.sequence(run.replica) {
            heads.set(run.replica, Head { sequence: run.last_sequence(), hash });
        }
    }
    heads
}

/// The part of `runs` to send to a peer that has `sent`, and the heads that it ends with: without
/// the commits that the peer has got meanwhile, and up to the first that `goal` does not cover or
/// that no longer fits in a frame. It is a prefix of a causal order, so what is sent is causally
/// closed.
///
/// # Errors
/// A [`Fork`], where `sent` names a commit of these runs by another hash.
pub(super) fn part_to_send(
    space: SpaceId,
    runs: &[Run],
    sent: &VersionVector,
    goal: &VersionVector,
) -> Result<(Vec<Run>, VersionVector), Fork> {
    let mut part: Vec<Run> = Vec::new();
    let mut heads = VersionVector::default();
    let mut commits = 0;
    for run in runs {
        let known = sent.head(run.replica);
        let mut hash = run.previous;
        let mut open = false;
        for (sequence, body) in (run.first_sequence..).zip(&run.bodies) {
            let dot = Dot { replica: run.replica, sequence };
            if !goal.covers(dot) || commits == COMMITS_MAX || (!open && part.len() == RUNS_MAX) {
                return Ok((part, heads));
            }
            let previous = hash;
            hash = commit_hash(space, dot, previous, body);
            match known {
                Some(known) if known.sequence > sequence => continue,
                Some(known) if known.sequence == sequence => {
                    if known.hash != hash {
                        return Err(Fork { replica: run.replica, sequence });
                    }
                    continue;
                }
                _ => {}
            }
            if !open {
                let bodies = Vec::new();
                part.push(Run { first_sequence: sequence, previous, bodies, ..*run });
                open = true;
            }
            let last = part.last_mut().expect("a run was pushed above");
            last.bodies.push(body.clone());
            heads.set(run.replica, Head { sequence, hash });
            commits += 1;
        }
    }
    Ok((part, heads))
}
