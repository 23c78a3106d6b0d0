//! L1: the state is a function of the visible commits, whatever the order of delivery.

use std::collections::BTreeMap;

use crate::VersionVector;
use crate::laws::seeded::Seeded;
use crate::laws::{Commits, State, Violation};

/// Checks every causal order of `commits`, and returns every state on the way, least first.
///
/// The causally closed sets of commits are walked level by level. Each is reached by every commit
/// that can come last in it, and all of these must lead to one state; since what follows depends on the
/// state alone, that covers each of the (possibly very many) linear extensions of causality.
///
/// `None` where there are more than `states_max` closed sets: then [`check_orders`] samples.
///
/// # Errors
/// [`Violation::Order`] where two orders part.
pub fn check_every_order(
    commits: &Commits,
    states_max: usize,
) -> Result<Option<Vec<State>>, Violation> {
    let mut all = vec![State::default()];
    let mut level = vec![State::default()];
    while !level.is_empty() {
        let mut next: BTreeMap<Vec<u64>, State> = BTreeMap::new();
        for state in &level {
            for commit in commits.ready(&state.version) {
                let mut after = state.clone();
                after.apply(commit)?;
                match next.get(&set_of(commits, &after.version)) {
                    Some(before) => same(before, &after, || format!("{} last", commit.dot))?,
                    None => {
                        next.insert(set_of(commits, &after.version), after);
                    }
                }
                if all.len() + next.len() > states_max {
                    return Ok(None);
                }
            }
        }
        level = next.into_values().collect();
        all.extend(level.iter().cloned());
    }
    complete(commits, all.last())?;
    Ok(Some(all))
}

/// Checks `orders` causal orders of `commits`, drawn by `seed`: all end in the same state.
///
/// # Errors
/// [`Violation::Order`] where two orders part.
pub fn check_orders(commits: &Commits, orders: usize, seed: u64) -> Result<(), Violation> {
    let mut seeded = Seeded(seed);
    let mut first: Option<State> = None;
    for _ in 0..orders {
        let mut state = State::default();
        let mut order = Vec::new();
        loop {
            let ready: Vec<_> = commits.ready(&state.version).cloned().collect();
            if ready.is_empty() {
                break;
            }
            let commit = &ready[seeded.below(ready.len())];
            state.apply(commit)?;
            order.push(commit.dot);
        }
        complete(commits, Some(&state))?;
        match &first {
            Some(first) => same(first, &state, || format!("the order {order:?}"))?,
            None => first = Some(state),
        }
    }
    Ok(())
}

/// That two ways to the same commits lead to one state.
pub(crate) fn same(
    expected: &State,
    found: &State,
    way: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if expected.equals(found)? {
        return Ok(());
    }
    let (expected, found) = (Box::new(expected.clone()), Box::new(found.clone()));
    Err(Violation::Order { way: way(), expected, found })
}

/// A closed set of commits, as the sequence number of each replica.
fn set_of(commits: &Commits, version: &VersionVector) -> Vec<u64> {
    commits.replicas().map(|replica| version.sequence(replica)).collect()
}

/// That a walk got through all commits, so that none was never ready.
fn complete(commits: &Commits, last: Option<&State>) -> Result<(), Violation> {
    let version = last.map(|state| &state.version);
    let missing = commits.iter().find(|commit| version.is_none_or(|v| !v.covers(commit.dot)));
    missing.map_or(Ok(()), |commit| {
        let version = version.cloned().unwrap_or_default();
        let source = commit.body.ready(commit.dot, &version).err();
        Err(source.map_or(Violation::Unknown(commit.dot), |source| Violation::NotReady {
            dot: commit.dot,
            source,
        }))
    })
}
