//! L2: the join is a lattice join, and applying a commit equals joining its delta.

use std::collections::{BTreeMap, BTreeSet};

use crate::laws::order::same;
use crate::laws::{Commit, Commits, State, Violation};
use crate::{Dot, MemoryRows, Operation, Payload, Row, RowKey, VersionVector, WriteRows};

/// Checks that the join of three states is commutative, associative and idempotent, that it is an upper
/// bound, and that it is the state which `commits` give where all that either side sees is visible.
///
/// # Errors
/// [`Violation::Lattice`] or [`Violation::Order`] names what fails.
pub fn check_join(commits: &Commits, a: &State, b: &State, c: &State) -> Result<(), Violation> {
    let ab = a.join(b)?;
    equal("commutativity", &ab, &b.join(a)?)?;
    equal("associativity", &ab.join(c)?, &a.join(&b.join(c)?)?)?;
    equal("idempotence", a, &a.join(a)?)?;
    equal("absorption", &ab, &ab.join(a)?)?;
    equal("absorption", &ab, &b.join(&ab)?)?;
    same(&commits.state_at(&ab.version)?, &ab, || "a join".to_owned())
}

/// Checks that applying `commit` to `state`, where it is ready, equals joining its delta, in two
/// senses of the word.
///
/// *The delta of a commit* (a delta-mutator's result in Almeida, Shoker, Baquero 2018, section 4) is for
/// each row that it touches a dot store and a causal context: the dot store is the commit's dot with its
/// payload, or empty for a removal; the context is that dot and every dot that the commit supersedes
/// there: those it names, or for a removed tree those of the row that its past covers. These are joined by
/// the paper's formula, `(s, c) ⊔ (s', c') = ((s ∩ s') ∪ (s ∖ c') ∪ (s' ∖ c), c ∪ c')`, written out here on
/// plain sets. The context is per row, because a dot of ours names a commit, which may have written to
/// other rows also.
///
/// A context with gaps is no version vector, so the engine's own join cannot take that delta. It is
/// checked with *the least state that has the commit* (itself and its causal past, nothing else), a
/// join-irreducible element of the lattice of reachable states.
///
/// # Errors
/// [`Violation::Lattice`] names what fails.
pub fn check_delta(commits: &Commits, state: &State, commit: &Commit) -> Result<(), Violation> {
    let mut applied = state.clone();
    applied.apply(commit)?;
    equal("applying is joining the delta", &applied, &join_delta(state, commit))?;
    let least = commits.least_state_with(commit.dot)?;
    equal("applying is joining the least state", &applied, &state.join(&least)?)?;
    equal("applying is joining the least state", &applied, &least.join(state)?)
}

/// The join of a state and the delta of a commit, on plain sets.
fn join_delta(state: &State, commit: &Commit) -> State {
    let mut rows: BTreeMap<RowKey, BTreeMap<Dot, Payload>> = state
        .rows
        .iter()
        .map(|(key, row)| (key.clone(), row.iter().map(|(d, p)| (d, p.clone())).collect()))
        .collect();
    for (key, (store, context)) in delta(&rows, commit) {
        let mine = rows.remove(&key).unwrap_or_default();
        let mut joined = BTreeMap::new();
        for (dot, payload) in &mine {
            if store.contains_key(dot) || !context.contains(dot) {
                joined.insert(*dot, payload.clone());
            }
        }
        for (dot, payload) in store {
            if !state.version.covers(dot) {
                joined.insert(dot, payload);
            }
        }
        rows.insert(key, joined);
    }
    let mut version: VersionVector = state.version.iter().collect();
    version.set(commit.dot.replica, commit.head());
    let mut joined = State { rows: MemoryRows::default(), version };
    for (key, row) in rows {
        let Ok(()) = joined.rows.set_row(&key, row.into_iter().collect::<Row>());
    }
    joined
}

type Delta = BTreeMap<RowKey, (BTreeMap<Dot, Payload>, BTreeSet<Dot>)>;

/// The delta of a commit. Of the rows under a removed tree it has those that are in `rows`, and of their
/// contexts the dots that are alive there: no other could make a difference.
fn delta(rows: &BTreeMap<RowKey, BTreeMap<Dot, Payload>>, commit: &Commit) -> Delta {
    let mut delta = Delta::new();
    for operation in &commit.body.operations {
        match operation {
            Operation::Set { key, observed, payload } => {
                let (store, context) = delta.entry(key.clone()).or_default();
                store.insert(commit.dot, payload.clone());
                context.insert(commit.dot);
                context.extend(observed);
            }
            Operation::Remove { key, observed } => {
                let (_, context) = delta.entry(key.clone()).or_default();
                context.insert(commit.dot);
                context.extend(observed);
            }
            Operation::RemoveTree { path, past } => {
                let covered = |dot: &&Dot| {
                    past.iter().any(|p| p.replica == dot.replica && p.sequence >= dot.sequence)
                };
                for (key, row) in rows.iter().filter(|(key, _)| key.path.starts_with(path)) {
                    let (_, context) = delta.entry(key.clone()).or_default();
                    context.extend(row.keys().filter(covered));
                }
            }
        }
    }
    delta
}

fn equal(law: &'static str, expected: &State, found: &State) -> Result<(), Violation> {
    if expected.equals(found)? {
        return Ok(());
    }
    let (expected, found) = (Box::new(expected.clone()), Box::new(found.clone()));
    Err(Violation::Lattice { law, expected, found })
}
