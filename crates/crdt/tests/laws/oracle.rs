//! The oracle on the one kind whose reads need more than a sentence, and what the sentence is.

use proptest::prelude::*;
use rejoin_crdt::laws::{Cluster, Intent, Read, Step};
use rejoin_crdt::{Kind, Path, RowKey};

use crate::histories::{COUNTERS, Shape, for_all};

/// The counters that stand in a replica's rows or that the oracle would look for there, with their reads.
fn counters(cluster: &Cluster, replica: usize) -> Vec<(RowKey, i128)> {
    let reads = cluster.replica(replica).state().reads();
    let sum = |key: &RowKey| match reads.get(key) {
        Some(Read::Counter(sum)) => i128::from(*sum),
        _ => 0,
    };
    let commits = cluster.commits().iter();
    let paths =
        commits.flat_map(|commit| commit.body.operations.iter().map(|op| op.path().clone()));
    let keys: std::collections::BTreeSet<_> =
        paths.map(|path| RowKey { path, kind: Kind::Counter }).collect();
    keys.into_iter().map(|key| (key.clone(), sum(&key))).collect()
}

fn changed(step: &Step) -> usize {
    match step {
        Step::Commit { replica, .. } | Step::Truncate { replica, .. } => *replica,
        Step::Pull { to, .. } | Step::Join { to, .. } => *to,
    }
}

/// Seventeen increments of replica 0, each at once known to replica 1: the next one folds them all.
pub(crate) fn seventeen_sent_increments(path: &Path, amount: i64) -> Vec<Step> {
    let increment = Intent::Increment { path: path.clone(), amount };
    let commit = Step::Commit { replica: 0, wall_time_ms: 0, intents: vec![increment] };
    let pull = Step::Pull { to: 1, from: 0, limit: None };
    std::iter::repeat_n([commit, pull], 17).flatten().collect()
}

#[test]
fn a_counter_is_exact_where_peers_take_whole_batches_and_no_row_is_crowded() {
    // At most sixteen increments of one replica in one row: a third of the steps are enough for that.
    let shape = Shape { partial_pulls: false, steps_max: 32, ..Shape::of(COUNTERS) };
    for_all(2, &shape.history(), |(replicas, steps)| {
        let mut cluster = Cluster::new(replicas);
        for step in &steps {
            cluster.run(step)?;
            let version = &cluster.replica(changed(step)).state().version;
            for (key, sum) in counters(&cluster, changed(step)) {
                let crowded = version.iter().any(|(_, head)| head.sequence > 16);
                let ideal = cluster.oracle().counter_ideal(&key, version);
                assert!(crowded || sum == ideal, "{}: {sum}, not {ideal}", key.path);
            }
        }
        Ok(())
    });
}

#[test]
fn folds_never_lose_an_increment_and_bring_back_none_but_those_a_later_one_carries() {
    let shape = Shape::of(COUNTERS);
    for_all(2, &(shape.history(), any::<bool>()), |((replicas, steps), crowded)| {
        let mut cluster = Cluster::new(replicas);
        let path = Path::of(["m", "x"]).unwrap();
        let before = if crowded { seventeen_sent_increments(&path, 3) } else { Vec::new() };
        for step in before.iter().chain(&steps) {
            cluster.run(step)?; // which compares the exact sums, folds and all
            let version = &cluster.replica(changed(step)).state().version;
            for (key, sum) in counters(&cluster, changed(step)) {
                let range = cluster.oracle().counter_range(&key, version);
                assert!(range.contains(&sum), "{}: {sum} is not within {range:?}", key.path);
            }
        }
        cluster.converge()
    });
}
