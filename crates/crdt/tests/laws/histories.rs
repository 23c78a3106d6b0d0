//! Random histories, for proptest to draw and to shrink.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rejoin_crdt::laws::{Cluster, Intent, Step, Violation};
use rejoin_crdt::{Kind, Path, RowKey, Value};

/// What a random history is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// The kinds of its rows.
    pub(crate) kinds: &'static [Kind],
    pub(crate) replicas_max: u8,
    pub(crate) steps_max: usize,
    /// Whether a pull may end after some commits of what is missing.
    pub(crate) partial_pulls: bool,
}

pub(crate) const REGISTERS: &[Kind] = &[Kind::Register];
pub(crate) const COUNTERS: &[Kind] = &[Kind::Counter];
pub(crate) const FLAGS: &[Kind] = &[Kind::Flag];
pub(crate) const ELEMENTS: &[Kind] = &[Kind::Element];
pub(crate) const ALL: &[Kind] = &Kind::ALL;

impl Shape {
    /// Up to five replicas and sixty steps, of these kinds.
    pub(crate) const fn of(kinds: &'static [Kind]) -> Self {
        Self { kinds, replicas_max: 5, steps_max: 60, partial_pulls: true }
    }

    /// So small that every order of its commits can be tried.
    pub(crate) const fn small(kinds: &'static [Kind]) -> Self {
        Self { kinds, replicas_max: 4, steps_max: 24, partial_pulls: true }
    }

    /// The number of replicas and the steps.
    pub(crate) fn history(self) -> impl Strategy<Value = (u8, Vec<Step>)> {
        // Mostly long ones; the short range is what a failure shrinks to.
        let short = prop::collection::vec(self.step(), 1..=self.steps_max / 2);
        let long = prop::collection::vec(self.step(), self.steps_max / 2..=self.steps_max);
        (2..=self.replicas_max, prop_oneof![1 => short, 3 => long])
    }

    pub(crate) fn step(self) -> impl Strategy<Value = Step> {
        let replica = 0..usize::from(self.replicas_max);
        let pair = || (replica.clone(), replica.clone());
        let limit = match self.partial_pulls {
            true => prop_oneof![2 => Just(None), 1 => Just(Some(1)), 1 => Just(Some(3))].boxed(),
            false => Just(None).boxed(),
        };
        let commit = (replica.clone(), wall_time(), prop::collection::vec(self.intent(), 1..=4));
        prop_oneof![
            10 => commit.prop_map(|(replica, wall_time_ms, intents)| {
                Step::Commit { replica, wall_time_ms, intents }
            }),
            6 => (pair(), limit).prop_map(|((to, from), limit)| Step::Pull { to, from, limit }),
            3 => pair().prop_map(|(to, from)| Step::Join { to, from }),
            1 => (replica.clone(), any::<u64>())
                .prop_map(|(replica, keep)| Step::Truncate { replica, keep }),
        ]
    }

    fn intent(self) -> impl Strategy<Value = Intent> {
        let kind = prop::sample::select(self.kinds);
        prop_oneof![
            7 => (kind.clone(), path(), -9..=9i64).prop_map(|(kind, path, number)| match kind {
                Kind::Register => Intent::Put { path, value: Value::I64(number) },
                Kind::Counter => Intent::Increment { path, amount: number },
                Kind::Flag => Intent::Enable { path },
                Kind::Element => Intent::AddElement { path },
            }),
            2 => (kind, path()).prop_map(|(kind, path)| Intent::RemoveRow { key: RowKey { path, kind } }),
            1 => path().prop_map(|path| Intent::Remove { path }),
            1 => path().prop_map(|path| Intent::RemoveTree { path }),
        ]
    }
}

/// A few paths, some of them above others.
fn path() -> impl Strategy<Value = Path> {
    let paths = [&[][..], &["m"], &["m", "x"], &["m", "x", "q"], &["m", "y"], &["mm"]];
    let path = |segments: &[&str]| Path::of(segments.iter().copied()).expect("these are short");
    prop::sample::select(paths.map(path).to_vec())
}

/// Clocks that tie, run backwards, and are very wrong.
fn wall_time() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..4u64, 1 => Just(u64::MAX), 1 => any::<u64>()]
}

/// Runs `test` on random values: a part of the usual number of cases (`PROPTEST_CASES`), one in `part`.
pub(crate) fn for_all<S: Strategy>(
    part: u32,
    strategy: &S,
    test: impl Fn(S::Value) -> Result<(), Violation>,
) {
    let defaults = Config::default();
    let config =
        Config { cases: (defaults.cases / part).max(1), failure_persistence: None, ..defaults };
    let run = |value| test(value).map_err(|violation| TestCaseError::fail(violation.to_string()));
    if let Err(failure) = TestRunner::new(config).run(strategy, run) {
        panic!("{failure}");
    }
}

/// A cluster that has gone through these steps, each one checked.
pub(crate) fn run(replicas: u8, steps: &[Step]) -> Result<Cluster, Violation> {
    let mut cluster = Cluster::new(replicas);
    steps.iter().try_for_each(|step| cluster.run(step))?;
    Ok(cluster)
}
