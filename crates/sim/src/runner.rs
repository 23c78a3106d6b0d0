//! Runs worlds: many at once, one again and again while it shrinks, and mutants until they are caught.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use crate::history::{Checker, Violation};
use crate::outcome::Outcome;

/// How many runs a shrink may take if nobody says otherwise.
pub const SHRINK_RUNS: u32 = 400;
/// How many worlds a mutant may live through if nobody says otherwise.
pub const MUTANT_WORLDS: u64 = 2_000;

/// A family of worlds, one for each seed.
pub trait Simulate: Sync {
    /// All that the run of a world depends on.
    type Plan: Clone + Send;

    /// The plan that a seed stands for.
    fn plan(&self, seed: u64) -> Self::Plan;

    /// Plays a plan to its end. Equal plans must give equal trace hashes, with or without the story.
    fn run(&self, plan: &Self::Plan, with_trace: bool) -> Outcome;

    /// Plans with something taken away, the most drastic first. None of them may be as large as `plan`.
    fn smaller(&self, plan: &Self::Plan) -> Vec<Self::Plan>;

    /// A plan as a paragraph for people: replicas, faults with their rates, workload.
    fn describe(&self, plan: &Self::Plan) -> String;
}

/// Which worlds to run, and how.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// The seeds, both ends included. With a `time`, only the first of them counts.
    pub seeds: RangeInclusive<u64>,
    /// If given, one seed after the other is run until so much real time has passed.
    pub time: Option<Duration>,
    /// How many worlds are run at once.
    pub threads: NonZeroUsize,
    /// Whether no further world is begun once one has failed. Which is the first to fail does not depend on
    /// the threads; how many are run after it does.
    pub until_failure: bool,
}

/// How far a sweep is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How many worlds are through.
    pub worlds: u64,
    /// How many of them failed.
    pub failures: u64,
}

/// A world that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed it was made from.
    pub seed: u64,
    /// What it did.
    pub violation: Violation,
}

/// What came of many worlds.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// The first seed. The others follow without a gap.
    pub first_seed: u64,
    /// How many worlds were run.
    pub worlds: u64,
    /// Those that failed, by seed.
    pub failures: Vec<Failure>,
    /// How much real time passed.
    pub seconds: f64,
    /// How many events the worlds went through.
    pub events: u64,
    /// How many faults of each class took effect.
    pub faults: BTreeMap<&'static str, u64>,
    /// How much virtual time passed, in milliseconds.
    pub simulated_ms: u64,
    /// How many rounds the worlds took to converge after they were healed.
    pub rounds_after_heal: Tally,
    /// The hash over the trace hashes of all worlds, in the order of their seeds.
    pub trace_hash: [u8; 32],
}

/// How often each number came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    counts: BTreeMap<u64, u64>,
    total: u64,
}

impl Tally {
    /// Counts a number.
    pub fn add(&mut self, number: u64) {
        *self.counts.entry(number).or_default() += 1;
        self.total += 1;
    }

    /// The smallest number that at least `percent` of all numbers do not exceed (nearest rank).
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        let rank = (u128::from(percent) * u128::from(self.total)).div_ceil(100);
        let mut passed = 0;
        self.counts.iter().find_map(|(number, count)| {
            passed += u128::from(*count);
            (passed >= rank).then_some(*number)
        })
    }

    /// The largest number.
    pub fn max(&self) -> Option<u64> {
        self.counts.keys().next_back().copied()
    }
}

impl FromIterator<u64> for Tally {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut tally = Self::default();
        numbers.into_iter().for_each(|number| tally.add(number));
        tally
    }
}

/// Runs many worlds at once. What comes of it does not depend on how many threads there are or how fast
/// they are, except for the seconds, and for the number of worlds if a time is given or a failure ends it.
pub fn sweep<S: Simulate>(
    worlds: &S,
    sweep: &Sweep,
    on_progress: &(dyn Fn(Progress) + Sync),
) -> Summary {
    #[expect(clippy::disallowed_methods, reason = "real time passes while worlds run")]
    let began = Instant::now();
    let first = *sweep.seeds.start();
    let last = if sweep.time.is_some() { u64::MAX } else { *sweep.seeds.end() };
    let taken = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    // A seed that was taken is run, whatever the time, so that there is never a gap among them. There is
    // always a first one: no worlds would be no failures.
    let take = || {
        let late = sweep.time.is_some_and(|time| began.elapsed() >= time)
            && taken.load(Ordering::Relaxed) > 0;
        let over = late || sweep.until_failure && failed.load(Ordering::Relaxed);
        let place = if over { return None } else { taken.fetch_add(1, Ordering::Relaxed) };
        let seed = first.checked_add(place).filter(|seed| *seed <= last)?;
        Some((place, seed))
    };
    let fold = Mutex::new(Fold::new(first));
    std::thread::scope(|scope| {
        for _ in 0..sweep.threads.get() {
            scope.spawn(|| {
                while let Some((place, seed)) = take() {
                    let outcome = play_seed(worlds, seed);
                    failed.fetch_or(outcome.violation.is_some(), Ordering::Relaxed);
                    let progress = locked(&fold).add(place, outcome);
                    on_progress(progress);
                }
            });
        }
    });
    fold.into_inner().unwrap_or_else(PoisonError::into_inner).finish(began)
}

/// Outcomes on their way into a summary. They come in any order and go in by seed.
struct Fold {
    summary: Summary,
    trace_hash: blake3::Hasher,
    early: BTreeMap<u64, Outcome>,
    come: Progress,
}

impl Fold {
    fn new(first_seed: u64) -> Self {
        Self {
            summary: Summary { first_seed, ..Summary::default() },
            trace_hash: blake3::Hasher::new(),
            early: BTreeMap::new(),
            come: Progress { worlds: 0, failures: 0 },
        }
    }

    fn add(&mut self, place: u64, outcome: Outcome) -> Progress {
        self.come.worlds += 1;
        self.come.failures += u64::from(outcome.violation.is_some());
        self.early.insert(place, outcome);
        while let Some(outcome) = self.early.remove(&self.summary.worlds) {
            self.fold(outcome);
        }
        self.come
    }

    fn fold(&mut self, outcome: Outcome) {
        let summary = &mut self.summary;
        if let Some(violation) = outcome.violation {
            summary.failures.push(Failure { seed: outcome.seed, violation });
        }
        summary.worlds += 1;
        summary.events += outcome.events;
        for (class, count) in outcome.faults {
            *summary.faults.entry(class).or_default() += count;
        }
        summary.simulated_ms += outcome.simulated_ms;
        if let Some(rounds) = outcome.rounds_after_heal {
            summary.rounds_after_heal.add(u64::from(rounds));
        }
        self.trace_hash.update(&outcome.trace_hash);
    }

    fn finish(mut self, began: Instant) -> Summary {
        self.summary.trace_hash = *self.trace_hash.finalize().as_bytes();
        self.summary.seconds = began.elapsed().as_secs_f64();
        self.summary
    }
}

/// Plays one plan. A panic in it is a violation like any other.
pub fn play<S: Simulate>(worlds: &S, seed: u64, plan: &S::Plan, with_trace: bool) -> Outcome {
    let outcome = caught(true, || worlds.run(plan, with_trace));
    Outcome { seed, ..outcome.unwrap_or_else(|what| panicked(seed, what)) }
}

fn play_seed<S: Simulate>(worlds: &S, seed: u64) -> Outcome {
    let outcome = caught(true, || worlds.run(&worlds.plan(seed), false));
    Outcome { seed, ..outcome.unwrap_or_else(|what| panicked(seed, what)) }
}

fn panicked(seed: u64, what: String) -> Outcome {
    Outcome {
        seed,
        events: 0,
        faults: BTreeMap::new(),
        simulated_ms: 0,
        rounds_after_heal: None,
        healed: 0,
        trace_hash: *blake3::hash(what.as_bytes()).as_bytes(),
        trace: None,
        violation: Some(Violation { checker: Checker::Panic, at_ms: 0, node: None, what }),
    }
}

thread_local! {
    /// Whether a panic will be caught here, and if so, whether it may be printed.
    static CATCHING: Cell<Option<bool>> = const { Cell::new(None) };
    static CAUGHT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What `work` returns, or the words and the place of its panic. The panic is not printed, unless
/// `RUST_BACKTRACE` asks for more than that, and `loud` allows it.
pub(crate) fn caught<T>(loud: bool, work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        let backtrace = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
        panic::set_hook(Box::new(move |info| {
            let catching = CATCHING.get();
            if catching.is_some() {
                CAUGHT.replace(in_words(info));
            }
            if catching.is_none_or(|loud| loud && backtrace) {
                usual(info);
            }
        }));
    });
    let outer = CATCHING.replace(Some(loud));
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(outer);
    result.map_err(|_| CAUGHT.take())
}

fn in_words(info: &PanicHookInfo<'_>) -> String {
    let what = info.payload_as_str().unwrap_or("a panic without words");
    match info.location() {
        Some(place) => format!("{what} ({}:{})", place.file(), place.line()),
        None => what.to_owned(),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A failing world, and the smallest one found that fails the same checker.
#[derive(Debug, Clone)]
pub struct Shrunk<P> {
    /// The plan as the seed gives it.
    pub before: P,
    /// What it did.
    pub violation: Violation,
    /// The smallest plan found.
    pub after: P,
    /// What came of the smallest plan, with its story.
    pub outcome: Outcome,
    /// How many smaller plans were tried.
    pub runs: u32,
    /// How many of them still failed, and were gone on with.
    pub steps: u32,
    /// Whether nothing more can be taken away; else the runs were used up.
    pub minimal: bool,
}

/// Takes away from a failing world whatever it fails without, in at most `runs_max` runs. `None` if it
/// does not fail.
pub fn shrink<S: Simulate>(
    worlds: &S,
    seed: u64,
    runs_max: u32,
    on_progress: &dyn Fn(u32),
) -> Option<Shrunk<S::Plan>> {
    let before = worlds.plan(seed);
    let violation = play(worlds, seed, &before, false).violation?;
    let mut after = before.clone();
    let (mut runs, mut steps) = (0, 0);
    let mut candidates = worlds.smaller(&after);
    // After a success it goes on where it is: what has just failed to help rarely helps at once.
    let (mut next, mut misses) = (0, 0);
    while misses < candidates.len() && runs < runs_max {
        next %= candidates.len();
        let outcome = play(worlds, seed, &candidates[next], false);
        runs += 1;
        on_progress(runs);
        if outcome.violation.is_some_and(|it| it.checker == violation.checker) {
            after = candidates.swap_remove(next);
            candidates = worlds.smaller(&after);
            misses = 0;
            steps += 1;
        } else {
            next += 1;
            misses += 1;
        }
    }
    let outcome = play(worlds, seed, &after, true);
    let minimal = misses == candidates.len();
    Some(Shrunk { before, violation, after, outcome, runs, steps, minimal })
}

/// A bug planted on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// The failure of other systems that it imitates, by its number in their list.
    pub failure_line: u8,
    /// What it does wrong.
    pub what: &'static str,
    /// Who ought to catch it.
    pub intended: Checker,
}

/// What became of a mutant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub mutant: Mutant,
    /// How many worlds it was let loose in.
    pub worlds: u64,
    /// The last of them, if it was caught there.
    pub caught: Option<Failure>,
}

impl Verdict {
    /// Whether it was caught by the checker that is meant to.
    pub fn as_intended(&self) -> bool {
        self.caught.as_ref().is_some_and(|it| it.violation.checker == self.mutant.intended)
    }
}

/// Runs each mutant in the worlds of the seeds from 1 until a checker objects, or for `worlds_max` worlds.
///
/// `run` plays the world of a seed with one mutant, by its place in `mutants`, switched on in the thread that
/// calls it, and must switch it off again even when the world panics.
pub fn hunt(
    mutants: &[Mutant],
    worlds_max: u64,
    threads: NonZeroUsize,
    run: &(dyn Fn(usize, u64) -> Outcome + Sync),
    on_verdict: &(dyn Fn(&Verdict) + Sync),
) -> Vec<Verdict> {
    let taken = AtomicUsize::new(0);
    let verdicts = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.get().min(mutants.len()) {
            scope.spawn(|| {
                loop {
                    let place = taken.fetch_add(1, Ordering::Relaxed);
                    let Some(mutant) = mutants.get(place) else { break };
                    let verdict = chase(mutant, worlds_max, &|seed| run(place, seed));
                    on_verdict(&verdict);
                    locked(&verdicts).insert(place, verdict);
                }
            });
        }
    });
    verdicts.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

fn chase(mutant: &Mutant, worlds_max: u64, run: &dyn Fn(u64) -> Outcome) -> Verdict {
    let mutant = *mutant;
    for seed in 1..=worlds_max {
        let outcome = caught(true, || run(seed)).unwrap_or_else(|what| panicked(seed, what));
        if let Some(violation) = outcome.violation {
            return Verdict { mutant, worlds: seed, caught: Some(Failure { seed, violation }) };
        }
    }
    Verdict { mutant, worlds: worlds_max, caught: None }
}

/// What came of opening stores on sampled images of disks that lost power.
#[derive(Debug, Clone, Default)]
pub struct CrashSample {
    /// How many images were opened.
    pub images: u64,
    /// How many images there were of each class.
    pub classes: BTreeMap<&'static str, u64>,
    /// Those that did not recover as they must, by the seed they were made from.
    pub failures: Vec<Failure>,
}

#[cfg(test)]
pub(crate) mod toy {
    use super::*;
    use crate::random::Random;
    use crate::trace::{Mark, Trace, TraceEvent};

    /// Worlds that are a few numbers each. Every seed that 10 divides fails, and needs two of its numbers
    /// for that; every seed that 100 divides panics.
    pub(crate) struct Toy {
        pub(crate) replicas: usize,
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) struct Numbers {
        pub(crate) seed: u64,
        pub(crate) numbers: Vec<u64>,
    }

    impl Simulate for Toy {
        type Plan = Numbers;

        fn plan(&self, seed: u64) -> Numbers {
            Numbers { seed, numbers: (0..40).collect() }
        }

        fn run(&self, plan: &Numbers, with_trace: bool) -> Outcome {
            assert!(!plan.seed.is_multiple_of(100), "the toy <broke>");
            let mut random = Random::new(plan.seed);
            // Worlds take their time, and not the same.
            std::thread::sleep(Duration::from_micros(random.below(300)));
            let needed = plan.numbers.contains(&7) && plan.numbers.contains(&30);
            let violation = (plan.seed.is_multiple_of(10) && needed).then(|| Violation {
                checker: Checker::Oracle,
                at_ms: 800,
                node: Some(1),
                what: "read 1 & not 2".to_owned(),
            });
            Outcome {
                seed: plan.seed,
                violation,
                events: plan.numbers.len() as u64,
                faults: BTreeMap::from([("loss", random.below(5)), ("power cut", 1)]),
                simulated_ms: 1_500,
                rounds_after_heal: u32::try_from(random.within(1..=6)).ok(),
                healed: self.replicas,
                trace_hash: *blake3::hash(&random.bytes::<32>()).as_bytes(),
                trace: with_trace.then(|| story(self.replicas)),
            }
        }

        fn smaller(&self, plan: &Numbers) -> Vec<Numbers> {
            let length = plan.numbers.len();
            let mut smaller = Vec::new();
            for part in [length / 2, 1] {
                for begin in (0..length).step_by(part.max(1)) {
                    let mut numbers = plan.numbers.clone();
                    numbers.drain(begin..(begin + part.max(1)).min(length));
                    smaller.push(Numbers { seed: plan.seed, numbers });
                }
            }
            smaller
        }

        fn describe(&self, plan: &Numbers) -> String {
            format!("{} replicas, {} numbers", self.replicas, plan.numbers.len())
        }
    }

    fn story(replicas: usize) -> Trace {
        let nodes = (0..replicas).map(|node| format!("r{node}")).collect();
        let events = vec![
            TraceEvent::At { ms: 0, node: 0, mark: Mark::Up, text: "opens".to_owned() },
            TraceEvent::Message {
                from: 0,
                to: 1,
                sent_ms: 10,
                arrived_ms: Some(30),
                text: "hello".to_owned(),
            },
            TraceEvent::World { ms: 700, text: "everything heals".to_owned() },
        ];
        Trace { nodes, events }
    }
}

#[cfg(test)]
mod tests {
    use super::toy::{Numbers, Toy};
    use super::*;

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    fn options(seeds: RangeInclusive<u64>, time: Option<Duration>, count: usize) -> Sweep {
        Sweep { seeds, time, threads: threads(count), until_failure: false }
    }

    fn swept(seeds: RangeInclusive<u64>, count: usize) -> Summary {
        sweep(&Toy { replicas: 3 }, &options(seeds, None, count), &|_| ())
    }

    #[test]
    fn a_summary_does_not_depend_on_the_number_of_threads() {
        let one = swept(1..=99, 1);
        for count in [2, 7] {
            let many = swept(1..=99, count);
            assert_eq!(
                (one.trace_hash, &one.failures, &one.faults, &one.rounds_after_heal),
                (many.trace_hash, &many.failures, &many.faults, &many.rounds_after_heal),
            );
        }
        assert_ne!(one.trace_hash, swept(2..=100, 2).trace_hash);
        assert_eq!((one.worlds, one.events, one.simulated_ms), (99, 99 * 40, 99 * 1_500));
        assert_eq!(one.faults["power cut"], 99);
        let failed: Vec<u64> = one.failures.iter().map(|it| it.seed).collect();
        assert_eq!(failed, [10, 20, 30, 40, 50, 60, 70, 80, 90]);
    }

    #[test]
    fn a_failure_ends_a_sweep_that_is_to_end_with_it() {
        for count in [1, 4] {
            let options = Sweep { until_failure: true, ..options(1..=u64::MAX, None, count) };
            let summary = sweep(&Toy { replicas: 3 }, &options, &|_| ());
            assert_eq!(summary.failures[0].seed, 10);
        }
    }

    #[test]
    fn a_panic_is_a_violation_of_its_seed() {
        let summary = swept(98..=101, 2);
        assert_eq!(summary.worlds, 4);
        let [failure] = &summary.failures[..] else { panic!("{:?}", summary.failures) };
        assert_eq!((failure.seed, failure.violation.checker), (100, Checker::Panic));
        assert!(failure.violation.what.starts_with("the toy <broke> (crates/sim/src/runner.rs:"));
    }

    #[test]
    fn with_a_time_seeds_follow_each_other_until_it_is_up() {
        let time = Some(Duration::from_millis(40));
        let options = options(1_001..=1_001, time, 3);
        let seen = Mutex::new(Vec::new());
        let summary = sweep(&Toy { replicas: 3 }, &options, &|it| locked(&seen).push(it.worlds));
        assert!(summary.worlds >= 1);
        assert!(summary.seconds >= 0.04);
        let again = swept(1_001..=1_000 + summary.worlds, 1);
        assert_eq!(summary.trace_hash, again.trace_hash);
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, (1..=summary.worlds).collect::<Vec<_>>());
    }

    #[test]
    fn the_last_seed_of_all_is_the_last() {
        let time = Some(Duration::from_secs(600));
        let seeds = u64::MAX - 2..=u64::MAX;
        let summary = sweep(&Toy { replicas: 3 }, &options(seeds, time, 2), &|_| ());
        assert_eq!(summary.worlds, 3);
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let tally: Tally = (1..=100).collect();
        assert_eq!((tally.percentile(50), tally.percentile(99)), (Some(50), Some(99)));
        let tally = Tally::from_iter([9, 3, 3, 4]);
        assert_eq!((tally.percentile(50), tally.percentile(99)), (Some(3), Some(9)));
        let tally = Tally::from_iter([1, 2, 3]);
        assert_eq!((tally.percentile(50), tally.max()), (Some(2), Some(3)));
        let tally: Tally = (0..1000).map(|it| u64::from(it >= 990) * 8).collect();
        assert_eq!((tally.percentile(99), tally.max()), (Some(0), Some(8)));
        assert_eq!((Tally::default().percentile(50), Tally::default().max()), (None, None));
    }

    #[test]
    fn a_world_shrinks_to_what_it_needs_to_fail() {
        let shrunk = shrink(&Toy { replicas: 3 }, 20, SHRINK_RUNS, &|_| ()).unwrap();
        assert_eq!(shrunk.before.numbers.len(), 40);
        assert_eq!(shrunk.after, Numbers { seed: 20, numbers: vec![7, 30] });
        assert!(shrunk.minimal && shrunk.runs <= SHRINK_RUNS, "{}", shrunk.runs);
        assert_eq!(shrunk.outcome.violation, Some(shrunk.violation));
        assert!(shrunk.outcome.trace.is_some());
    }

    #[test]
    fn a_shrink_keeps_to_its_runs_and_to_worlds_that_fail() {
        let toy = Toy { replicas: 3 };
        let shrunk = shrink(&toy, 20, 3, &|_| ()).unwrap();
        assert_eq!((shrunk.runs, shrunk.minimal), (3, false));
        assert!(shrunk.outcome.violation.is_some());
        assert!(shrink(&toy, 21, SHRINK_RUNS, &|_| ()).is_none());
        let untouched = shrink(&toy, 20, 0, &|_| ()).unwrap();
        assert_eq!(untouched.before, untouched.after);
    }

    #[test]
    fn a_hunt_tells_who_caught_which_mutant_and_when() {
        let mutant = |name, intended| Mutant { name, failure_line: 1, what: "breaks", intended };
        let mutants = [
            mutant("right", Checker::Oracle),
            mutant("other", Checker::Causality),
            mutant("panics", Checker::Panic),
            mutant("survives", Checker::Oracle),
        ];
        let toy = Toy { replicas: 3 };
        let run = |index: usize, seed: u64| match index {
            2 => panic!("mutants panic too"),
            3 => toy.run(&toy.plan(seed * 10 + 1), false),
            _ => toy.run(&toy.plan(seed), false),
        };
        let verdicts = hunt(&mutants, 30, threads(2), &run, &|_| ());
        let names: Vec<_> = verdicts.iter().map(|it| it.mutant.name).collect();
        assert_eq!(names, ["right", "other", "panics", "survives"]);
        let worlds: Vec<_> = verdicts.iter().map(|it| it.worlds).collect();
        assert_eq!(worlds, [10, 10, 1, 30]);
        let intended: Vec<_> = verdicts.iter().map(Verdict::as_intended).collect();
        assert_eq!(intended, [true, false, true, false]);
        assert!(verdicts[3].caught.is_none());
    }
}
