//! Runs of commits: what they weigh, where they end, and which part of them to send.

use rejoin_crdt::planted::{self, Bug};
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
            if planted::is(Bug::CausesNotAwaited) && !goal.covers(dot) {
                break;
            }
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rejoin_crdt::{CommitHash, ReplicaId};

    use super::*;

    const SPACE: SpaceId = SpaceId::from_bytes([1; 32]);
    const A: ReplicaId = ReplicaId::from_bytes([0xa; 16]);
    const B: ReplicaId = ReplicaId::from_bytes([0xb; 16]);

    /// Commits `first..=last` of a writer whose every body is its own number.
    fn run(replica: ReplicaId, first: u64, last: u64) -> Run {
        let body = |sequence: u64| Bytes::copy_from_slice(&sequence.to_le_bytes());
        let whole = Run {
            replica,
            first_sequence: 1,
            previous: CommitHash::ZERO,
            bodies: (1..=last).map(body).collect(),
        };
        let before = Run { bodies: whole.bodies[..first as usize - 1].to_vec(), ..whole.clone() };
        let previous = heads(SPACE, &[before]).previous_hash(replica);
        Run {
            first_sequence: first,
            previous,
            bodies: whole.bodies[first as usize - 1..].to_vec(),
            replica,
        }
    }

    fn version(entries: &[(ReplicaId, u64)]) -> VersionVector {
        heads(SPACE, &entries.iter().map(|(id, last)| run(*id, 1, *last)).collect::<Vec<_>>())
    }

    #[test]
    fn what_the_peer_has_got_meanwhile_is_left_out_and_the_chain_goes_on_behind_it() {
        let read = [run(A, 3, 8), run(B, 1, 2), run(A, 9, 9)];
        let goal = version(&[(A, 9), (B, 2)]);
        let sent = version(&[(A, 5), (B, 2)]);
        let (part, ends) = part_to_send(SPACE, &read, &sent, &goal).unwrap();
        assert_eq!(part, vec![run(A, 6, 8), run(A, 9, 9)]);
        assert_eq!(ends, version(&[(A, 9)]));
        // All of it, and more than all of it.
        for sent in [version(&[(A, 9), (B, 2)]), version(&[(A, 12), (B, 4)])] {
            let nothing = part_to_send(SPACE, &read, &sent, &goal).unwrap();
            assert_eq!(nothing, (vec![], VersionVector::default()));
        }
    }

    #[test]
    fn nothing_behind_the_first_commit_past_the_goal_is_sent() {
        let read = [run(A, 1, 2), run(B, 1, 3), run(A, 3, 4)];
        let goal = version(&[(A, 4), (B, 2)]);
        let (part, ends) = part_to_send(SPACE, &read, &VersionVector::default(), &goal).unwrap();
        assert_eq!(part, vec![run(A, 1, 2), run(B, 1, 2)]);
        assert_eq!(ends, version(&[(A, 2), (B, 2)]));
    }

    #[test]
    fn a_commit_that_the_peer_knows_by_another_hash_is_a_fork() {
        let hash = CommitHash::from_bytes([0xff; 32]);
        let sent: VersionVector = [(A, Head { sequence: 2, hash })].into_iter().collect();
        let goal = version(&[(A, 3)]);
        let fork = part_to_send(SPACE, &[run(A, 1, 3)], &sent, &goal);
        assert_eq!(fork, Err(Fork { replica: A, sequence: 2 }));
    }

    #[test]
    fn a_frame_takes_so_many_commits_and_runs_and_no_more() {
        let many = [run(A, 1, COMMITS_MAX as u64 + 10)];
        let goal = version(&[(A, COMMITS_MAX as u64 + 10)]);
        let (part, ends) = part_to_send(SPACE, &many, &VersionVector::default(), &goal).unwrap();
        assert_eq!(part[0].bodies.len(), COMMITS_MAX);
        assert_eq!(ends.sequence(A), COMMITS_MAX as u64);

        let one = run(A, 1, RUNS_MAX as u64 + 10);
        let previous = |sequence: usize| match sequence {
            1 => CommitHash::ZERO,
            _ => CommitHash::from_bytes([1; 32]),
        };
        let scattered: Vec<Run> = (1..=one.bodies.len())
            .map(|sequence| Run {
                first_sequence: sequence as u64,
                previous: previous(sequence),
                bodies: vec![one.bodies[sequence - 1].clone()],
                replica: A,
            })
            .collect();
        let goal = version(&[(A, RUNS_MAX as u64 + 10)]);
        let (part, _) = part_to_send(SPACE, &scattered, &VersionVector::default(), &goal).unwrap();
        assert_eq!(part.len(), RUNS_MAX);
    }
}
