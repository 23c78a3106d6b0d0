//! An application's own logic in the simulator.

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;

use rejoin::{Error, Replica};

use crate::history::Violation;
use crate::outcome::Outcome;
use crate::plan::{Class, Plan, PlanOptions, Use};
use crate::random::Random;
use crate::report::timeline;
use crate::runner::{self, Simulate, Summary, Sweep};
use crate::world::{self, Script};

/// What an application's check has to say.
#[derive(Debug)]
pub enum Objection {
    /// Something is wrong; this is what.
    Broken(String),
    /// It could not be told, because a read failed. In worlds whose disks fail, that is no fault of the
    /// application.
    Unreadable(Error),
}

impl From<Error> for Objection {
    fn from(error: Error) -> Self {
        Objection::Unreadable(error)
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

type Act<'a> = Box<dyn Fn(&Replica, &mut Random) -> Result<(), Error> + Sync + 'a>;
type Check<'a> = Box<dyn Fn(&Replica) -> Result<(), Objection> + Sync + 'a>;
type CheckAll<'a> = Box<dyn Fn(&[Replica]) -> Result<(), Objection> + Sync + 'a>;

/// Worlds in which an application's own logic runs on every replica, while networks are cut, processes crash,
/// and disks and clocks fail; see the [crate's documentation](crate) for an example.
///
/// The application is three closures. What they do must depend on nothing but what they are handed: a failing
/// seed is then enough to see the same again.
pub struct Simulation<'a> {
    space: String,
    options: PlanOptions,
    replicas: RangeInclusive<usize>,
    first_seed: u64,
    worlds: u64,
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
    /// The world's plan in words, and what happened in it.
    pub story: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}\n\n{}", self.seed, self.violation, self.story)
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
    /// called again and again, at one replica or another. An error that it returns is taken as the user's bad
    /// luck: the world goes on.
    pub fn new(
        space: &str,
        act: impl Fn(&Replica, &mut Random) -> Result<(), Error> + Sync + 'a,
    ) -> Self {
        Self {
            space: space.to_owned(),
            options: PlanOptions { work: Some(Use::Application), ..PlanOptions::default() },
            replicas: 3..=7,
            first_seed: 1,
            worlds: 100,
            threads: None,
            act: Box::new(act),
            always: Box::new(|_| Ok(())),
            converged: Box::new(|_| Ok(())),
        }
    }

    /// What must hold at every replica at any time, whatever it has heard of the others.
    #[must_use]
    pub fn always(mut self, check: impl Fn(&Replica) -> Result<(), Objection> + Sync + 'a) -> Self {
        self.always = Box::new(check);
        self
    }

    /// What must hold of replicas that have come together again: they are handed all at once.
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

    /// How many worlds are run, and the seed of the first: 100 from seed 1 on by default.
    #[must_use]
    pub fn worlds(mut self, worlds: u64, first_seed: u64) -> Self {
        (self.worlds, self.first_seed) = (worlds, first_seed);
        self
    }

    /// Leaves out faults of a class.
    #[must_use]
    pub fn without(mut self, class: Class) -> Self {
        self.options.never.push(class);
        self
    }

    /// Lets every world have faults of a class.
    #[must_use]
    pub fn with(mut self, class: Class) -> Self {
        self.options.always.push(class);
        self
    }

    /// How many worlds are run at once: by default as many as there are cores.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Runs the worlds.
    ///
    /// # Errors
    /// The first world, by seed, in which something did not hold, with its story.
    pub fn run(&self) -> Result<Summary, Failure> {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let sweep = Sweep {
            seeds: self.first_seed..=self.first_seed + self.worlds.saturating_sub(1),
            time: None,
            threads: self.threads.unwrap_or(cores),
        };
        let summary = runner::sweep(self, &sweep, &|_| {});
        match summary.failures.first() {
            None => Ok(summary),
            Some(failed) => Err(self.tell(failed.seed, failed.violation.clone())),
        }
    }

    fn tell(&self, seed: u64, violation: Violation) -> Failure {
        let plan = self.plan(seed);
        let outcome = runner::play(self, seed, &plan, true);
        let story = outcome.trace.map(|trace| timeline::text(&timeline::lines(&trace, false)));
        let story = format!("{}\n\n{}", plan.describe(), story.unwrap_or_default());
        Failure { seed, violation, story }
    }
}

impl fmt::Debug for Simulation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { space, replicas, worlds, .. } = self;
        f.debug_struct("Simulation")
            .field("space", space)
            .field("replicas", replicas)
            .field("worlds", worlds)
            .finish_non_exhaustive()
    }
}

impl Simulate for Simulation<'_> {
    type Plan = Plan;

    fn plan(&self, seed: u64) -> Plan {
        let (least, most) = (*self.replicas.start() as u64, *self.replicas.end() as u64);
        let replicas = Random::labelled(seed, "application").within(least..=most.max(least));
        let replicas = Some(replicas as usize);
        Plan::draw(seed, &PlanOptions { replicas, ..self.options.clone() })
    }

    fn run(&self, plan: &Plan, with_trace: bool) -> Outcome {
        let mut script = Closures { simulation: self };
        world::run(plan, Some(&mut script), with_trace)
    }

    fn smaller(&self, plan: &Plan) -> Vec<Plan> {
        plan.smaller()
    }

    fn describe(&self, plan: &Plan) -> String {
        plan.describe()
    }
}

/// The application's closures, as a world calls them.
struct Closures<'s, 'a> {
    simulation: &'s Simulation<'a>,
}

impl Script for Closures<'_, '_> {
    fn spaces(&self) -> Vec<String> {
        vec![self.simulation.space.clone()]
    }

    fn act(&mut self, replica: &Replica, random: &mut Random) -> Result<(), Error> {
        (self.simulation.act)(replica, random)
    }

    fn check(&mut self, replica: &Replica) -> Result<(), String> {
        said((self.simulation.always)(replica))
    }

    fn check_converged(&mut self, replicas: &[Replica]) -> Result<(), String> {
        said((self.simulation.converged)(replicas))
    }
}

/// What a check objects to, beside what it could not read.
fn said(verdict: Result<(), Objection>) -> Result<(), String> {
    match verdict {
        Err(Objection::Broken(what)) => Err(what),
        Err(Objection::Unreadable(_)) | Ok(()) => Ok(()),
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
