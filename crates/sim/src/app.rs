//! An application's own logic in the simulator.
//!
//! [`Simulation`] runs it in worlds of its own; the [crate's documentation](crate) begins with an example.
//! [`Worlds`] are the simulator's own, for the command line.

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;

use rejoin::{Error, Replica};

use crate::cli::Seeds;
use crate::history::Violation;
use crate::outcome::Outcome;
use crate::plan::{Class, Plan, PlanOptions, Use};
use crate::random::Random;
use crate::report::timeline;
use crate::runner::{self, Shrunk, Simulate, Summary, Sweep};
use crate::trace::{Trace, TraceEvent};
use crate::world::{self, Script};

/// The environment variable that names the seeds to run instead of those that the test names: one, as
/// `17`, or a range, as `1..1000` (both ends included).
pub const SEEDS_VARIABLE: &str = "REJOIN_SIM_SEEDS";

/// How many smaller worlds are tried to make the story of a failure short, if nobody says otherwise.
const SHRINK_RUNS: u32 = 100;

/// How the world tells of an action about which the application itself says nothing.
const ACTS: &str = "the application acts";

/// One thing that a user does at one replica.
pub struct Turn<'w> {
    replica: &'w Replica,
    random: &'w mut Random,
    said: &'w mut String,
}

impl<'w> Turn<'w> {
    /// Where it is done. The [`Replica::device_id`] tells replicas apart, and stays the same across restarts.
    pub fn replica(&self) -> &'w Replica {
        self.replica
    }

    /// Where all chance must come from: then a seed is enough to see the same again.
    pub fn random(&mut self) -> &mut Random {
        self.random
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        self.random.pick(choices).expect("there is something to choose from")
    }

    /// Says what the user does; it is what the story of a failure has in this place. The last words count.
    pub fn say(&mut self, words: impl Into<String>) {
        *self.said = words.into();
    }
}

impl fmt::Debug for Turn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("replica", &self.replica.device_id()).finish_non_exhaustive()
    }
}

/// What an application's check has to say.
///
/// `?` turns an [`Error`] into it, and `.into()` a text. A check may as well panic (`assert_eq!`): that is an
/// objection too.
#[derive(Debug)]
pub enum Objection {
    /// Something is wrong; this is what.
    Broken(String),
    /// It could not be told, because a call failed. If it was the store that failed ([`Error::Store`]), no
    /// harm is done, as disks and machines fail in the middle of a check too; any other error is taken for
    /// something that is wrong.
    Failed(Error),
}

impl From<Error> for Objection {
    fn from(error: Error) -> Self {
        Objection::Failed(error)
    }
}

impl From<String> for Objection {
    fn from(what: String) -> Self {
        Objection::Broken(what)
    }
}

impl From<&str> for Objection {
    fn from(what: &str) -> Self {
        Objection::Broken(what.to_owned())
    }
}

type Act<'a> = Box<dyn Fn(&mut Turn<'_>) -> Result<(), Error> + Sync + 'a>;
type Check<'a> = Box<dyn Fn(&Replica) -> Result<(), Objection> + Sync + 'a>;
type CheckAll<'a> = Box<dyn Fn(&[Replica]) -> Result<(), Objection> + Sync + 'a>;

/// Worlds in which an application's own logic runs on every replica, while networks are cut, processes crash,
/// and disks and clocks fail; see the [crate's documentation](crate) for an example.
///
/// The application is three closures: what a user does, what must hold [`always`](Self::always), and what must
/// hold of replicas that have [`converged`](Self::converged). What they do must depend on nothing but what they
/// are handed, and they must keep nothing from one call to the next: a failing seed is then enough to see the
/// same again. Beside them, every checker of the engine looks on that need not know what transactions mean.
pub struct Simulation<'a> {
    spaces: Vec<String>,
    options: PlanOptions,
    replicas: RangeInclusive<usize>,
    seeds: RangeInclusive<u64>,
    shrink_runs: u32,
    threads: Option<NonZeroUsize>,
    act: Act<'a>,
    always: Check<'a>,
    converged: CheckAll<'a>,
}

/// A world in which the application, or the engine, did not hold what it promises.
#[derive(Clone)]
pub struct Failure {
    /// The seed of the world.
    pub seed: u64,
    /// What was found, and by which checker.
    pub violation: Violation,
    /// The smallest world found that fails in the same way: its plan in words, and what happened in it.
    pub story: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, violation, story } = self;
        // The test harness names a test's thread after the test.
        let thread = std::thread::current();
        let test = thread.name().filter(|name| *name != "main").unwrap_or_default();
        writeln!(f, "seed {seed}: {violation}")?;
        writeln!(
            f,
            "To see it again: {}",
            format!("{SEEDS_VARIABLE}={seed} cargo test {test}").trim_end()
        )?;
        write!(f, "\n{story}")
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Failure {}

impl<'a> Simulation<'a> {
    /// Worlds whose replicas share the space of this name. `act` is what a user does at one replica: it is
    /// called again and again, at one replica or another.
    ///
    /// [`Error::Store`] and [`Error::Aborted`] from it are the user's bad luck, and the world goes on. Any other
    /// error says that the engine was called wrongly, and is reported.
    pub fn new(space: &str, act: impl Fn(&mut Turn<'_>) -> Result<(), Error> + Sync + 'a) -> Self {
        // A liar with two histories would need a second application, which says something else.
        let never = vec![Class::Equivocation];
        let options = PlanOptions { work: Some(Use::Application), never, ..PlanOptions::default() };
        Self {
            spaces: vec![space.to_owned()],
            options,
            replicas: 3..=7,
            seeds: 1..=100,
            shrink_runs: SHRINK_RUNS,
            threads: None,
            act: Box::new(act),
            always: Box::new(|_| Ok(())),
            converged: Box::new(|_| Ok(())),
        }
    }

    /// Another space that the replicas share. What is written to a space that is not named here stays at the
    /// replica where it was written, or not: nobody looks.
    #[must_use]
    pub fn space(mut self, name: &str) -> Self {
        self.spaces.push(name.to_owned());
        self
    }

    /// What must hold at every replica at any time, whatever it has heard of the others.
    #[must_use]
    pub fn always(mut self, check: impl Fn(&Replica) -> Result<(), Objection> + Sync + 'a) -> Self {
        self.always = Box::new(check);
        self
    }

    /// What must hold of replicas that have come together again: all of them are handed over at once.
    #[must_use]
    pub fn converged(
        mut self,
        check: impl Fn(&[Replica]) -> Result<(), Objection> + Sync + 'a,
    ) -> Self {
        self.converged = Box::new(check);
        self
    }

    /// How many replicas a world has; drawn for each. 3 to 7 by default.
    #[must_use]
    pub fn replicas(mut self, replicas: RangeInclusive<usize>) -> Self {
        self.replicas = replicas;
        self
    }

    /// Which worlds are run, both ends included: those of the seeds 1 to 100 by default. The environment
    /// variable [`REJOIN_SIM_SEEDS`](SEEDS_VARIABLE) overrules it.
    #[must_use]
    pub fn seeds(mut self, seeds: RangeInclusive<u64>) -> Self {
        self.seeds = seeds;
        self
    }

    /// How many smaller worlds are tried to make the story of a failure short; with 0 it is told as it
    /// happened. 100 by default.
    #[must_use]
    pub fn shrink_runs(mut self, runs: u32) -> Self {
        self.shrink_runs = runs;
        self
    }

    /// Lets no world have faults of a class.
    #[must_use]
    pub fn without(mut self, class: Class) -> Self {
        self.options.always.retain(|other| *other != class);
        self.options.never.push(class);
        self
    }

    /// Lets every world have faults of a class. By default each world has some of them.
    #[must_use]
    pub fn with(mut self, class: Class) -> Self {
        self.options.never.retain(|other| *other != class);
        self.options.always.push(class);
        self
    }

    /// How many worlds are run at once: by default as many as there are cores.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Runs the worlds, until one fails.
    ///
    /// # Errors
    /// The first world, by seed, in which something did not hold, with the story of a small one like it.
    ///
    /// # Panics
    /// If [`REJOIN_SIM_SEEDS`](SEEDS_VARIABLE) is set to something else than seeds.
    pub fn run(&self) -> Result<Summary, Failure> {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let sweep = Sweep {
            seeds: seeds_asked_for().unwrap_or_else(|| self.seeds.clone()),
            time: None,
            threads: self.threads.unwrap_or(cores),
            until_failure: true,
        };
        let summary = runner::sweep(self, &sweep, &|_| {});
        match summary.failures.first() {
            None => Ok(summary),
            Some(first) => Err(self.tell(first)),
        }
    }

    fn tell(&self, first: &runner::Failure) -> Failure {
        let runner::Failure { seed, violation } = first.clone();
        let shrunk = runner::shrink(self, seed, self.shrink_runs, &|_| {});
        let story = match shrunk.filter(|shrunk| shrunk.violation == violation) {
            Some(shrunk) => self.story(&shrunk),
            None => "It went otherwise when it was run again: what the application does depends on something \
                     else than what it is handed."
                .to_owned(),
        };
        Failure { seed, violation, story }
    }

    fn story(&self, shrunk: &Shrunk<Plan>) -> String {
        let mut story = String::new();
        if shrunk.steps > 0 {
            story += &format!("As it was drawn, {}\n", self.describe(&shrunk.before));
            story += &format!("What is left of it after {} runs, ", shrunk.runs);
        }
        story += &format!("{}\n\n", self.describe(&shrunk.after));
        if let Some(trace) = &shrunk.outcome.trace {
            story += &timeline::text(&timeline::lines(trace, false));
        } else if let Some(violation) = &shrunk.outcome.violation {
            story += &violation.to_string();
        }
        story
    }
}

/// The seeds that the environment asks for.
fn seeds_asked_for() -> Option<RangeInclusive<u64>> {
    let asked = std::env::var(SEEDS_VARIABLE).ok()?;
    match asked.parse::<Seeds>() {
        Ok(Seeds(seeds)) => Some(seeds),
        Err(why) => panic!("{SEEDS_VARIABLE}={asked} {why}"),
    }
}

impl fmt::Debug for Simulation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spaces, replicas, seeds, .. } = self;
        f.debug_struct("Simulation")
            .field("spaces", spaces)
            .field("replicas", replicas)
            .field("seeds", seeds)
            .finish_non_exhaustive()
    }
}

impl Simulate for Simulation<'_> {
    type Plan = Plan;

    fn plan(&self, seed: u64) -> Plan {
        let (least, most) = (*self.replicas.start() as u64, *self.replicas.end() as u64);
        let replicas = Random::labelled(seed, "application").within(least..=most.max(least));
        let replicas = Some(replicas as usize);
        let plan = Plan::draw(seed, &PlanOptions { replicas, ..self.options.clone() });
        Plan { spaces: self.spaces.len(), ..plan }
    }

    fn run(&self, plan: &Plan, with_trace: bool) -> Outcome {
        let mut script = Closures { simulation: self, said: Vec::new(), misuse: None };
        let mut outcome = world::run(plan, Some(&mut script), with_trace);
        if let Some(trace) = &mut outcome.trace {
            retell(trace, script.said);
        }
        outcome
    }

    fn smaller(&self, plan: &Plan) -> Vec<Plan> {
        let mut plans = plan.smaller();
        plans.retain(|smaller| smaller.spaces == plan.spaces);
        plans
    }

    fn describe(&self, plan: &Plan) -> String {
        plan.describe()
    }
}

/// The application's closures, as a world calls them.
struct Closures<'s, 'a> {
    simulation: &'s Simulation<'a>,
    /// What each action said of itself.
    said: Vec<String>,
    /// The first error that is nobody's bad luck.
    misuse: Option<String>,
}

impl Closures<'_, '_> {
    fn misused(&self) -> Result<(), String> {
        self.misuse.as_ref().map_or(Ok(()), |error| Err(format!("an action failed: {error}")))
    }
}

impl Script for Closures<'_, '_> {
    fn spaces(&self) -> Vec<String> {
        self.simulation.spaces.clone()
    }

    fn act(&mut self, replica: &Replica, random: &mut Random) -> Result<(), Error> {
        let mut said = String::new();
        let acted = (self.simulation.act)(&mut Turn { replica, random, said: &mut said });
        self.said.push(said);
        if let Err(error) = &acted
            && !matches!(error, Error::Store(_) | Error::Aborted(_))
        {
            self.misuse.get_or_insert_with(|| error.to_string());
        }
        acted
    }

    fn check(&mut self, replica: &Replica) -> Result<(), String> {
        self.misused()?;
        match checked(|| (self.simulation.always)(replica)) {
            Err(Objection::Failed(Error::Store(_))) => Ok(()),
            verdict => verdict.map_err(in_words),
        }
    }

    fn check_converged(&mut self, replicas: &[Replica]) -> Result<(), String> {
        self.misused()?;
        checked(|| (self.simulation.converged)(replicas)).map_err(in_words)
    }
}

/// What a check objects to; that it panics is an objection too.
fn checked(check: impl FnOnce() -> Result<(), Objection>) -> Result<(), Objection> {
    runner::caught(false, check).unwrap_or_else(|panicked| Err(Objection::Broken(panicked)))
}

fn in_words(objection: Objection) -> String {
    match objection {
        Objection::Broken(what) => what,
        Objection::Failed(error) => format!("the check failed: {error}"),
    }
}

/// Puts what the application said of its actions in the place of the world's words for them.
fn retell(trace: &mut Trace, said: Vec<String>) {
    let mut said = said.into_iter();
    for event in &mut trace.events {
        if let TraceEvent::At { text, .. } = event
            && text.starts_with(ACTS)
            && let Some(words) = said.next().filter(|words| !words.is_empty())
        {
            text.replace_range(..ACTS.len(), &words);
        }
    }
}

/// The simulator's own worlds: the engine under workloads drawn at random.
#[derive(Debug, Clone, Default)]
pub struct Worlds {
    /// What is asked of them.
    pub options: PlanOptions,
}

impl Simulate for Worlds {
    type Plan = Plan;

    fn plan(&self, seed: u64) -> Plan {
        Plan::draw(seed, &self.options)
    }

    fn run(&self, plan: &Plan, with_trace: bool) -> Outcome {
        world::run(plan, None, with_trace)
    }

    fn smaller(&self, plan: &Plan) -> Vec<Plan> {
        plan.smaller()
    }

    fn describe(&self, plan: &Plan) -> String {
        plan.describe()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::history::Checker;

    fn counting() -> Simulation<'static> {
        let count = |turn: &mut Turn<'_>| {
            turn.say("counts");
            turn.replica().space("a")?.write(|tx| tx.counter("clicks").add(1))?;
            turn.replica().space("b")?.write(|tx| tx.set("devices").insert("one"))
        };
        Simulation::new("a", count).space("b").replicas(2..=3).seeds(1..=3)
    }

    #[test]
    fn a_world_is_the_same_every_time_and_on_any_thread() {
        let hashes = [1, 3].map(|count| {
            let threads = NonZeroUsize::new(count).unwrap();
            counting().threads(threads).run().unwrap().trace_hash
        });
        assert_eq!(hashes[0], hashes[1]);
        assert_ne!(hashes[0], counting().seeds(2..=4).run().unwrap().trace_hash);
    }

    #[test]
    fn all_its_spaces_converge() {
        let clicks = |replica: &Replica| replica.space("a")?.read()?.counter("clicks");
        let devices = |replica: &Replica| replica.space("b")?.read()?.contains("devices", "one");
        counting()
            .converged(|replicas| {
                for replica in replicas {
                    assert_eq!(clicks(replica)?, clicks(&replicas[0])?);
                    assert!(devices(replica)?);
                }
                Ok(())
            })
            .run()
            .unwrap();
    }

    #[test]
    fn a_failure_tells_what_the_application_said_and_how_to_see_it_again() {
        let none = |replica: &Replica| match replica.space("a")?.read()?.counter("clicks")? {
            0 => Ok(()),
            clicks => Err(format!("{clicks} clicks").into()),
        };
        let failure = counting().always(none).shrink_runs(0).run().unwrap_err();
        assert_eq!((failure.seed, failure.violation.checker), (1, Checker::Application));
        let told = failure.to_string();
        let test = "app::tests::a_failure_tells_what_the_application_said_and_how_to_see_it_again";
        assert!(
            told.contains(&format!("\nTo see it again: REJOIN_SIM_SEEDS=1 cargo test {test}\n"))
        );
        assert!(told.contains("  write  ") && told.contains("  counts\n"), "{told}");
        assert!(!told.contains(ACTS) && told.contains("VIOLATION"), "{told}");
    }

    #[test]
    fn the_engine_called_wrongly_is_no_bad_luck() {
        let wrong = |turn: &mut Turn<'_>| turn.replica().space("").map(drop);
        let failure = Simulation::new("a", wrong).shrink_runs(0).run().unwrap_err();
        assert!(failure.violation.what.starts_with("an action failed: a space needs a name"));
        let check = |replica: &Replica| Ok(replica.space("").map(drop)?);
        let failure = counting().always(check).shrink_runs(0).run().unwrap_err();
        assert!(failure.violation.what.starts_with("the check failed: a space needs a name"));
    }

    #[test]
    fn an_application_that_depends_on_something_else_is_told_so() {
        let calls = AtomicU64::new(0);
        let once = |_: &Replica| match calls.fetch_add(1, Ordering::Relaxed) {
            0 => Err("the first call of all".into()),
            _ => Ok(()),
        };
        let failure = counting().always(once).run().unwrap_err();
        assert!(failure.story.starts_with("It went otherwise"), "{failure}");
    }
}
