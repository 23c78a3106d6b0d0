//! The command line of the simulator: what its arguments mean, what it prints, and how it exits.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::crash::IMAGES_PER_RUN;
use crate::history::Violation;
use crate::outcome::Outcome;
use crate::report::summary::{
    CrashJson, FailureJson, HuntJson, SummaryJson, VerdictJson, counted, crash_text, grouped, hex,
    hunt_text, summary_text,
};
use crate::report::{svg, timeline};
use crate::runner::{
    self, CrashSample, Failure, MUTANT_WORLDS, Mutant, SHRINK_RUNS, Simulate, Sweep,
};
use crate::trace::Trace;

/// How many worlds are run if no seeds are given.
const FRESH_WORLDS: u64 = 100;

/// What the command line drives.
pub struct Parts<S> {
    /// The worlds, with so many replicas if a number is given; or why there can be none like that.
    pub worlds: fn(replicas: Option<usize>) -> Result<S, String>,
    /// The mutants, in builds that have them.
    pub mutants: Option<Mutants>,
    /// Opens stores on sampled images of disks that lost power: how many images, the seed of the first, and
    /// on how many threads.
    pub crash: Option<fn(images: u64, first_seed: u64, threads: NonZeroUsize) -> CrashSample>,
}

/// The mutants of a build.
#[derive(Debug, Clone, Copy)]
pub struct Mutants {
    /// All of them.
    pub list: &'static [Mutant],
    /// Plays the world of a seed with the mutant at this place of the list, as [`runner::hunt`] demands.
    pub run: fn(mutant: usize, seed: u64, with_trace: bool) -> Outcome,
}

/// A deterministic simulator for rejoin: worlds of replicas whose networks, disks, clocks and processes
/// fail, each from one seed.
#[derive(Debug, Parser)]
#[command(name = "rejoin-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run many worlds, and check each of them.
    ///
    /// Exit status: 0 if all is well, 1 if a world failed, 2 if the command was wrong.
    Run(Run),
    /// Run one world, tell its story, and draw it.
    Replay(Replay),
    /// Take away from a failing world whatever it fails without.
    Shrink(Shrink),
    /// Score the checkers by bugs planted on purpose. Needs a build with `--features mutants`.
    Mutants(Hunt),
    /// Open stores on sampled images of disks that lost power.
    Crash(Crash),
}

#[derive(Debug, Args)]
struct Run {
    /// The seeds, with both ends: `1..1000` is a thousand worlds, as is `1..=1000`; `7` is one. Without
    /// it: 100 worlds from a fresh start, which is printed.
    #[arg(long, value_name = "A..B")]
    seeds: Option<Seeds>,
    #[command(flatten)]
    world: World,
    /// Go on with one seed after the other, from the first of --seeds, until so many minutes are up.
    #[arg(long, value_name = "M", value_parser = minutes)]
    minutes: Option<Duration>,
    /// How many worlds to run at once. Without it: as many as there are cores.
    #[arg(long, value_name = "T")]
    threads: Option<NonZeroUsize>,
}

#[derive(Debug, Args)]
struct World {
    /// How many replicas each world has. Without it, the seed decides.
    #[arg(long, value_name = "N")]
    replicas: Option<NonZeroUsize>,
    /// Print JSON and nothing else; the last line is one object with what came of it.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Replay {
    /// The seed of the world.
    seed: u64,
    #[command(flatten)]
    world: World,
    /// Where to draw the world. Without it: `world-SEED.svg` in the current folder.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Tell of every message too.
    #[arg(long)]
    messages: bool,
}

#[derive(Debug, Args)]
struct Shrink {
    /// The seed of the world.
    seed: u64,
    #[command(flatten)]
    world: World,
    /// How many smaller worlds to try at most.
    #[arg(long, value_name = "N", default_value_t = SHRINK_RUNS)]
    runs: u32,
    /// Where to draw the smallest world. Without it, it is not drawn.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Tell of every message of the smallest world too.
    #[arg(long)]
    messages: bool,
}

#[derive(Debug, Args)]
struct Hunt {
    /// How many worlds a mutant has to live through to count as a survivor.
    #[arg(long, value_name = "N", default_value_t = MUTANT_WORLDS)]
    worlds: u64,
    /// Run only the mutants with this in their name, and tell the story of the world each was caught in.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// How many mutants to run at once. Without it: as many as there are cores.
    #[arg(long, value_name = "T")]
    threads: Option<NonZeroUsize>,
    /// Print JSON and nothing else: a line for each mutant, and one with the counts.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Crash {
    /// How many images to open.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    images: u64,
    /// The seed of the first image; the others follow.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// How many images to open at once. Without it: as many as there are cores.
    #[arg(long, value_name = "T")]
    threads: Option<NonZeroUsize>,
    /// Print JSON and nothing else.
    #[arg(long)]
    json: bool,
}

/// Seeds that follow each other, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seeds(pub(crate) RangeInclusive<u64>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seed = |text: &str| {
            text.trim()
                .parse::<u64>()
                .map_err(|_| "must be A..B (both ends included), A..=B, or one number".to_owned())
        };
        let (first, last) = match text.split_once("..") {
            None => (seed(text)?, seed(text)?),
            Some((first, last)) => (seed(first)?, seed(last.strip_prefix('=').unwrap_or(last))?),
        };
        if first > last {
            return Err(format!("is empty: {first} comes after {last}"));
        }
        Ok(Self(first..=last))
    }
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes = text.parse().ok().filter(|minutes: &f64| *minutes > 0.0);
    minutes
        .and_then(|minutes| Duration::try_from_secs_f64(minutes * 60.0).ok())
        .ok_or_else(|| "must be a number of minutes above 0".to_owned())
}

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Usage(String),
    #[error("cannot write the picture {}: {cause}", file.display())]
    Picture { file: PathBuf, cause: io::Error },
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
    #[error("cannot print: {0}")]
    Json(#[from] serde_json::Error),
}

/// Does what the arguments say. What it finds goes to `out`, what stops it to `err`.
///
/// The exit status: 0 if all is well, 1 if a world failed or a mutant survived, 2 if the command was wrong or
/// could not be carried out. If nobody reads `out` any more, the work goes on for the sake of the status.
pub fn main<S: Simulate>(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    parts: &Parts<S>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let mut out = Patient(out);
    let mut err = Patient(err);
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Asking for help is no error.
            let to: &mut dyn Write = if error.use_stderr() { &mut err } else { &mut out };
            let written = write!(to, "{}", error.render());
            return if error.use_stderr() || written.is_err() { 2 } else { 0 };
        }
    };
    let result = match arguments.command {
        Command::Run(run) => run.carry_out(parts, &mut out),
        Command::Replay(replay) => replay.carry_out(parts, &mut out),
        Command::Shrink(shrink) => shrink.carry_out(parts, &mut out),
        Command::Mutants(hunt) => hunt.carry_out(parts.mutants, &mut out),
        Command::Crash(crash) => crash.carry_out(parts.crash, &mut out),
    };
    match result.and_then(|well| Ok(out.flush().map(|()| well)?)) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(trouble) => {
            // There is nobody left to tell if this fails too.
            let _ = writeln!(err, "error: {trouble}");
            2
        }
    }
}

/// Whether all is well, if the command could be carried out.
type Carried = Result<bool, Trouble>;

impl Run {
    fn carry_out<S: Simulate>(&self, parts: &Parts<S>, out: &mut dyn Write) -> Carried {
        let worlds = self.world.worlds(parts)?;
        let seeds = match &self.seeds {
            Some(Seeds(seeds)) => seeds.clone(),
            None => {
                let first = u64::from(rand::random::<u32>());
                self.announce(first, out)?;
                first..=first + (FRESH_WORLDS - 1)
            }
        };
        let sweep =
            Sweep { seeds, time: self.minutes, threads: cores(self.threads), until_failure: false };
        let bar = self.bar(&sweep);
        let summary = runner::sweep(&worlds, &sweep, &|progress| {
            bar.set_position(progress.worlds);
            bar.set_message(counted(progress.failures, "failure"));
        });
        bar.finish_and_clear();
        if self.world.json {
            json_line(out, &SummaryJson::from(&summary))?;
        } else {
            if let Some(more) = summary.worlds.checked_sub(1) {
                let last = summary.first_seed + more;
                writeln!(out, "{:<18} {}..{last}", "seeds", summary.first_seed)?;
            }
            write!(out, "{}", summary_text(&summary))?;
            self.world.failures(&summary.failures, out)?;
        }
        Ok(summary.failures.is_empty())
    }

    /// Says where fresh seeds start, before anything else can happen.
    fn announce(&self, first_seed: u64, out: &mut dyn Write) -> Result<(), Trouble> {
        #[derive(Serialize)]
        struct Start {
            first_seed: u64,
        }
        if self.world.json {
            json_line(out, &Start { first_seed })?;
        } else {
            writeln!(out, "A fresh start: seed {first_seed}.")?;
        }
        Ok(out.flush()?)
    }

    fn bar(&self, sweep: &Sweep) -> ProgressBar {
        match sweep.time {
            Some(time) => {
                let minutes = time.as_secs_f64() / 60.0;
                let template = format!("{{elapsed}} of {minutes:.1} min, {{pos}} worlds, {{msg}}");
                styled(ProgressBar::no_length(), &template)
            }
            None => {
                let (first, last) = (*sweep.seeds.start(), *sweep.seeds.end());
                let bar = ProgressBar::new((last - first).saturating_add(1));
                styled(bar, "{bar:40} {pos}/{len} worlds, {msg}, {eta} left")
            }
        }
    }
}

impl World {
    fn worlds<S>(&self, parts: &Parts<S>) -> Result<S, Trouble> {
        (parts.worlds)(self.replicas.map(NonZeroUsize::get)).map_err(Trouble::Usage)
    }

    /// The failures, and how to look into them.
    fn failures(&self, failures: &[Failure], out: &mut dyn Write) -> io::Result<()> {
        if failures.is_empty() {
            return writeln!(out, "{:<18} none", "failures");
        }
        writeln!(out, "{:<18} {}", "failures", grouped(failures.len() as u64))?;
        for Failure { seed, violation } in failures {
            writeln!(out, "\nSeed {seed}: {violation}")?;
            for command in ["replay", "shrink"] {
                writeln!(out, "  {}", self.command(command, *seed))?;
            }
        }
        Ok(())
    }

    fn command(&self, command: &str, seed: u64) -> String {
        let replicas = self.replicas.map(|it| format!(" --replicas {it}")).unwrap_or_default();
        format!("cargo run --release -p rejoin-sim -- {command} {seed}{replicas}")
    }
}

/// A world that was run for its story, as its JSON object.
#[derive(Debug, Serialize)]
struct StoryJson<'a> {
    seed: u64,
    plan: String,
    violation: Option<FailureJson<'a>>,
    events: u64,
    faults: &'a std::collections::BTreeMap<&'static str, u64>,
    simulated_seconds: f64,
    rounds_after_heal: Option<u32>,
    trace_hash: String,
    svg: Option<String>,
    #[serde(flatten)]
    shrunk: Option<ShrunkJson<'a>>,
}

/// How a world shrank: fields of its JSON object.
#[derive(Debug, Serialize)]
struct ShrunkJson<'a> {
    original_plan: String,
    original_violation: FailureJson<'a>,
    runs: u32,
    steps: u32,
    minimal: bool,
}

impl<'a> StoryJson<'a> {
    fn new(outcome: &'a Outcome, plan: String, svg: Option<&PathBuf>) -> Self {
        Self {
            seed: outcome.seed,
            plan,
            violation: outcome.violation.as_ref().map(|it| FailureJson::new(outcome.seed, it)),
            events: outcome.events,
            faults: &outcome.faults,
            simulated_seconds: outcome.simulated_ms as f64 / 1_000.0,
            rounds_after_heal: outcome.rounds_after_heal,
            trace_hash: hex(&outcome.trace_hash),
            svg: svg.map(|file| file.display().to_string()),
            shrunk: None,
        }
    }
}

impl Replay {
    fn carry_out<S: Simulate>(&self, parts: &Parts<S>, out: &mut dyn Write) -> Carried {
        let worlds = self.world.worlds(parts)?;
        let plan = worlds.plan(self.seed);
        let described = worlds.describe(&plan);
        if !self.world.json {
            writeln!(out, "{}\n", described.trim_end())?;
            out.flush()?;
        }
        let outcome = runner::play(&worlds, self.seed, &plan, true);
        let file = match &self.svg {
            Some(file) => file.clone(),
            None => PathBuf::from(format!("world-{}.svg", self.seed)),
        };
        let trace = outcome.trace.as_ref();
        let drawn = trace.map(|trace| draw(&file, &outcome, trace, &described)).transpose()?;
        let svg = drawn.map(|()| &file);
        if self.world.json {
            tell_json(trace, self.messages, out)?;
            json_line(out, &StoryJson::new(&outcome, described, svg))?;
        } else {
            tell(&outcome, self.messages, svg, out)?;
            if outcome.violation.is_some() {
                writeln!(out, "To make it smaller: {}", self.world.command("shrink", self.seed))?;
            }
        }
        Ok(outcome.violation.is_none())
    }
}

impl Shrink {
    fn carry_out<S: Simulate>(&self, parts: &Parts<S>, out: &mut dyn Write) -> Carried {
        let worlds = self.world.worlds(parts)?;
        let bar = ProgressBar::new(u64::from(self.runs));
        let bar = styled(bar, "{bar:40} {pos}/{len} smaller worlds");
        let shrunk = runner::shrink(&worlds, self.seed, self.runs, &|runs| {
            bar.set_position(u64::from(runs));
        });
        bar.finish_and_clear();
        let Some(shrunk) = shrunk else { return self.nothing_to_shrink(&worlds, out) };

        let (before, after) = (worlds.describe(&shrunk.before), worlds.describe(&shrunk.after));
        let outcome = &shrunk.outcome;
        let trace = outcome.trace.as_ref();
        let drawn = match (&self.svg, trace) {
            (Some(file), Some(trace)) => Some((file, draw(file, outcome, trace, &after)?)),
            _ => None,
        };
        let svg = drawn.map(|(file, ())| file);
        if self.world.json {
            tell_json(trace, self.messages, out)?;
            let how = ShrunkJson {
                original_plan: before,
                original_violation: FailureJson::new(self.seed, &shrunk.violation),
                runs: shrunk.runs,
                steps: shrunk.steps,
                minimal: shrunk.minimal,
            };
            let story = StoryJson { shrunk: Some(how), ..StoryJson::new(outcome, after, svg) };
            json_line(out, &story)?;
        } else {
            writeln!(out, "Seed {}: {}\n", self.seed, shrunk.violation)?;
            writeln!(out, "Before:\n{}\n", before.trim_end())?;
            let runs = counted(u64::from(shrunk.runs), "run");
            let why = if shrunk.minimal {
                "nothing more can be taken away"
            } else {
                "more runs might take more away"
            };
            writeln!(out, "After {runs} ({why}):\n{}\n", after.trim_end())?;
            tell(outcome, self.messages, svg, out)?;
            if outcome.violation.is_none() {
                writeln!(out, "It did not fail this time: this world is not deterministic.")?;
            }
        }
        Ok(false)
    }

    fn nothing_to_shrink<S: Simulate>(&self, worlds: &S, out: &mut dyn Write) -> Carried {
        if self.world.json {
            let plan = worlds.plan(self.seed);
            let outcome = runner::play(worlds, self.seed, &plan, false);
            json_line(out, &StoryJson::new(&outcome, worlds.describe(&plan), None))?;
        } else {
            writeln!(out, "Seed {} does not fail: there is nothing to shrink.", self.seed)?;
        }
        Ok(true)
    }
}

impl Hunt {
    fn carry_out(&self, mutants: Option<Mutants>, out: &mut dyn Write) -> Carried {
        let mutants = mutants.ok_or_else(|| {
            let message = "this build has no mutants; build it with --features mutants";
            Trouble::Usage(message.to_owned())
        })?;
        let wanted = |name: &str| self.only.as_ref().is_none_or(|only| name.contains(only));
        let places: Vec<usize> =
            (0..mutants.list.len()).filter(|at| wanted(mutants.list[*at].name)).collect();
        let list: Vec<Mutant> = places.iter().map(|at| mutants.list[*at]).collect();
        let run = |place: usize, seed: u64| (mutants.run)(places[place], seed, false);
        let bar = ProgressBar::new(list.len() as u64);
        let bar = styled(bar, "{bar:40} {pos}/{len} mutants, last: {msg}");
        let threads = cores(self.threads);
        let verdicts = runner::hunt(&list, self.worlds, threads, &run, &|verdict| {
            bar.set_message(verdict.mutant.name);
            bar.inc(1);
        });
        bar.finish_and_clear();
        if self.json {
            for verdict in &verdicts {
                json_line(out, &VerdictJson::from(verdict))?;
            }
            json_line(out, &HuntJson::new(&verdicts))?;
        } else {
            for (place, verdict) in verdicts.iter().enumerate() {
                if let (Some(_), Some(Failure { seed, .. })) = (&self.only, &verdict.caught) {
                    tell(&(mutants.run)(places[place], *seed, true), false, None, out)?;
                }
            }
            write!(out, "{}", hunt_text(&verdicts))?;
        }
        Ok(verdicts.iter().all(|verdict| verdict.caught.is_some()))
    }
}

impl Crash {
    fn carry_out(
        &self,
        sample: Option<fn(u64, u64, NonZeroUsize) -> CrashSample>,
        out: &mut dyn Write,
    ) -> Carried {
        let sample = sample
            .ok_or_else(|| Trouble::Usage("this build samples no crash images".to_owned()))?;
        #[expect(clippy::disallowed_methods, reason = "real time passes while worlds run")]
        let began = Instant::now();
        let sample = sample(self.images, self.seed, cores(self.threads));
        let seconds = began.elapsed().as_secs_f64();
        if self.json {
            json_line(out, &CrashJson::new(&sample, seconds))?;
        } else {
            write!(out, "{}", crash_text(&sample, seconds))?;
            for Failure { seed, violation } in &sample.failures {
                writeln!(out, "\nSeed {seed}: {violation}")?;
                let again = format!("crash --images {IMAGES_PER_RUN} --seed {seed}");
                writeln!(out, "  cargo run --release -p rejoin-sim -- {again}")?;
            }
        }
        Ok(sample.failures.is_empty())
    }
}

fn cores(threads: Option<NonZeroUsize>) -> NonZeroUsize {
    threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

/// A bar on standard error, if that is a terminal.
fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn draw(file: &PathBuf, outcome: &Outcome, trace: &Trace, plan: &str) -> Result<(), Trouble> {
    let title = format!("World {}", outcome.seed);
    let picture = svg::draw(trace, &title, plan, outcome.violation.as_ref());
    std::fs::write(file, picture).map_err(|cause| Trouble::Picture { file: file.clone(), cause })
}

fn tell(
    outcome: &Outcome,
    with_messages: bool,
    svg: Option<&PathBuf>,
    out: &mut dyn Write,
) -> io::Result<()> {
    match &outcome.trace {
        Some(trace) => {
            writeln!(out, "{}", timeline::text(&timeline::lines(trace, with_messages)))?;
        }
        None => writeln!(out, "This world left no story.\n")?,
    }
    if let Some(file) = svg {
        writeln!(out, "Drawn in {}", file.display())?;
    }
    let how = match &outcome.violation {
        Some(violation) => Ending::Failed(violation),
        None => Ending::Well(outcome.rounds_after_heal),
    };
    let faults: u64 = outcome.faults.values().sum();
    writeln!(out, "{}, {}", counted(outcome.events, "event"), counted(faults, "fault"))?;
    writeln!(out, "{how}")
}

enum Ending<'a> {
    Failed(&'a Violation),
    Well(Option<u32>),
}

impl fmt::Display for Ending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Failed(violation) => write!(f, "FAILED: {violation}"),
            Ending::Well(None) => f.write_str("All is well."),
            Ending::Well(Some(rounds)) => {
                let rounds = counted(u64::from(*rounds), "round");
                write!(f, "All is well. Converged {rounds} after healing.")
            }
        }
    }
}

fn tell_json(
    trace: Option<&Trace>,
    with_messages: bool,
    out: &mut dyn Write,
) -> Result<(), Trouble> {
    for line in trace.map(|it| timeline::lines(it, with_messages)).unwrap_or_default() {
        json_line(out, &line)?;
    }
    Ok(())
}

fn json_line(out: &mut dyn Write, value: &impl Serialize) -> Result<(), Trouble> {
    Ok(writeln!(out, "{}", serde_json::to_string(value)?)?)
}

/// A writer that does not mind if nobody reads any more, as when the output is piped into `head`.
struct Patient<'a>(&'a mut dyn Write);

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Checker;
    use crate::runner::toy::Toy;
    use serde_json::Value;

    static MUTANTS: [Mutant; 2] = [
        Mutant { name: "one", failure_line: 1, what: "breaks", intended: Checker::Oracle },
        Mutant { name: "two", failure_line: 2, what: "hides", intended: Checker::Oracle },
    ];

    fn toy(replicas: Option<usize>) -> Result<Toy, String> {
        match replicas {
            Some(1) => Err("one replica has nobody to talk to".to_owned()),
            replicas => Ok(Toy { replicas: replicas.unwrap_or(3) }),
        }
    }

    fn run_mutant(mutant: usize, seed: u64, with_trace: bool) -> Outcome {
        let toy = Toy { replicas: 2 };
        toy.run(&toy.plan(if mutant == 0 { seed } else { seed * 10 + 1 }), with_trace)
    }

    fn sample(images: u64, first_seed: u64, _threads: NonZeroUsize) -> CrashSample {
        let violation = Violation {
            checker: Checker::Durability,
            at_ms: 0,
            node: None,
            what: "lost".to_owned(),
        };
        let failures = (first_seed == 13).then_some(Failure { seed: 13, violation });
        CrashSample { images, failures: failures.into_iter().collect(), ..CrashSample::default() }
    }

    fn parts() -> Parts<Toy> {
        let mutants = Some(Mutants { list: &MUTANTS, run: run_mutant });
        Parts { worlds: toy, mutants, crash: Some(sample) }
    }

    fn called_with(parts: &Parts<Toy>, line: &str) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let arguments = std::iter::once("rejoin-sim").chain(line.split_whitespace());
        let status = main(arguments, parts, &mut out, &mut err);
        (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn called(line: &str) -> (u8, String, String) {
        called_with(&parts(), line)
    }

    fn json(text: &str) -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn seeds_are_ranges_with_both_ends() {
        let seeds = |text: &str| text.parse::<Seeds>().map(|it| it.0);
        assert_eq!(seeds("1..1000"), Ok(1..=1000));
        assert_eq!(seeds("1..=1000"), Ok(1..=1000));
        assert_eq!(seeds("7"), Ok(7..=7));
        assert_eq!(seeds("7..7"), Ok(7..=7));
        assert_eq!(seeds("0..18446744073709551615"), Ok(0..=u64::MAX));
        assert_eq!(seeds("9..3"), Err("is empty: 9 comes after 3".to_owned()));
        for wrong in ["", "..", "1..", "..5", "1...5", "a..b", "-1..3", "1-5", "1..5..9"] {
            assert!(seeds(wrong).unwrap_err().starts_with("must be A..B"), "{wrong}");
        }
    }

    #[test]
    fn the_exit_status_tells_wrong_usage_from_failure() {
        let svg =
            std::env::temp_dir().join(format!("rejoin-sim-status-{}.svg", std::process::id()));
        let svg = svg.to_str().unwrap();
        let status = |line: &str| called(line).0;
        assert_eq!(status("run --seeds 1..9"), 0);
        assert_eq!(status("run --seeds 1..10"), 1);
        assert_eq!(status("run --seeds 9..1"), 2);
        assert_eq!(status("run --seeds x"), 2);
        assert_eq!(status("run --seeds 1..9 --threads 0"), 2);
        assert_eq!(status("run --seeds 1..9 --replicas 1"), 2);
        assert_eq!(status("run --minutes 0"), 2);
        assert_eq!(status("run --minutes NaN"), 2);
        assert_eq!(status("nonsense"), 2);
        assert_eq!(status(""), 2);
        assert_eq!(status("--help"), 0);
        assert_eq!(status("--version"), 0);
        assert_eq!(status(&format!("replay 9 --svg {svg}")), 0);
        assert_eq!(status(&format!("replay 10 --svg {svg}")), 1);
        assert_eq!(status("replay 10 --svg /no/such/folder/it.svg"), 2);
        assert_eq!(status("replay"), 2);
        assert_eq!(status("shrink 9"), 0);
        assert_eq!(status("shrink 10"), 1);
        assert_eq!(status("mutants --worlds 9"), 1);
        assert_eq!(status("crash"), 0);
        assert_eq!(status("crash --images 0"), 2);
        assert_eq!(status("crash --seed 13"), 1);
        let _ = std::fs::remove_file(svg);
    }

    #[test]
    fn what_a_build_lacks_it_says_on_standard_error() {
        let bare = Parts { worlds: toy, mutants: None, crash: None };
        for (command, word) in [("mutants --json", "--features mutants"), ("crash", "crash images")]
        {
            let (status, out, err) = called_with(&bare, command);
            assert_eq!((status, out.as_str()), (2, ""));
            assert!(err.starts_with("error: this build") && err.contains(word), "{err}");
        }
        let (_, out, err) = called("run --replicas 1");
        assert_eq!(
            (out.as_str(), err.as_str()),
            ("", "error: one replica has nobody to talk to\n")
        );
    }

    #[test]
    fn a_run_in_json_ends_with_its_summary() {
        let (status, out, err) = called("run --seeds 8..12 --json");
        assert_eq!((status, err.as_str()), (1, ""));
        let [summary] = &json(&out)[..] else { panic!("{out}") };
        let mut fields: Vec<_> = summary.as_object().unwrap().keys().cloned().collect();
        fields.sort_unstable();
        let expected = [
            "events",
            "failures",
            "faults",
            "rounds_after_heal",
            "seconds",
            "seeds",
            "simulated_seconds",
            "trace_hash",
        ];
        assert_eq!(fields, expected);
        assert_eq!((&summary["seeds"], &summary["events"]), (&5.into(), &200.into()));
        assert_eq!(summary["failures"][0]["seed"], 10);
        assert_eq!(summary["failures"][0]["checker"], "oracle");
    }

    #[test]
    fn a_run_without_seeds_says_where_it_starts() {
        let (_, out, _) = called("run --json");
        let [start, summary] = &json(&out)[..] else { panic!("{out}") };
        let first = start["first_seed"].as_u64().unwrap();
        assert_eq!(summary["seeds"], 100);
        let (_, again, _) = called(&format!("run --json --seeds {first}..{}", first + 99));
        assert_eq!(json(&again)[0]["trace_hash"], summary["trace_hash"]);
        assert!(called("run").1.starts_with("A fresh start: seed "));
    }

    #[test]
    fn a_run_for_some_time_starts_at_the_first_of_its_seeds() {
        let (status, out, _) = called("run --minutes 0.001 --seeds 101..102");
        assert!(out.starts_with("seeds              101.."), "{out}");
        assert_eq!(status, u8::from(!out.contains("failures           none")));
    }

    #[test]
    fn a_failure_comes_with_the_commands_to_look_into_it() {
        let (_, out, _) = called("run --seeds 10 --replicas 5");
        let expected = "
Seed 10: oracle at 800 ms, replica 1: read 1 & not 2
  cargo run --release -p rejoin-sim -- replay 10 --replicas 5
  cargo run --release -p rejoin-sim -- shrink 10 --replicas 5
";
        assert!(out.ends_with(expected), "{out}");
    }

    #[test]
    fn a_replay_tells_and_draws() {
        let file = std::env::temp_dir().join(format!("rejoin-sim-{}.svg", std::process::id()));
        let line = format!("replay 10 --svg {}", file.display());
        let (_, out, _) = called(&line);
        assert!(out.starts_with("3 replicas, 40 numbers\n\n0.000  r0     up     opens\n"), "{out}");
        assert!(out.contains(&format!("Drawn in {}\n", file.display())), "{out}");
        assert!(out.contains("FAILED: oracle at 800 ms, replica 1: read 1 & not 2\n"), "{out}");
        assert!(std::fs::read_to_string(&file).unwrap().starts_with("<svg "));

        let (_, out, _) = called(&format!("{line} --json --messages"));
        let lines = json(&out);
        assert_eq!(lines.len(), 4);
        assert_eq!((&lines[1]["mark"], &lines[1]["ms"]), (&"message".into(), &10.into()));
        assert_eq!(lines[3]["violation"]["what"], "read 1 & not 2");
        assert_eq!(lines[3]["svg"], file.to_str().unwrap());
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_shrink_tells_both_sizes() {
        let (_, out, _) = called("shrink 10");
        assert!(out.contains("Before:\n3 replicas, 40 numbers\n"), "{out}");
        assert!(
            out.contains("(nothing more can be taken away):\n3 replicas, 2 numbers\n"),
            "{out}"
        );
        let (_, out, _) = called("shrink 10 --json");
        let last = json(&out).pop().unwrap();
        assert_eq!(last["plan"], "3 replicas, 2 numbers");
        assert_eq!(last["original_plan"], "3 replicas, 40 numbers");
        assert_eq!((&last["minimal"], &last["svg"]), (&true.into(), &Value::Null));
        assert!(called("shrink 9").1.contains("nothing to shrink"));
        assert_eq!(json(&called("shrink 9 --json").1)[0]["violation"], Value::Null);
        let (status, out, _) = called("shrink 100");
        assert_eq!(status, 1);
        assert!(out.contains("Seed 100: panic at 0 ms: the toy <broke>"), "{out}");
    }

    #[test]
    fn mutants_are_listed_and_counted() {
        let (status, out, _) = called("mutants --json --worlds 30");
        assert_eq!(status, 1);
        let [one, two, counts] = &json(&out)[..] else { panic!("{out}") };
        assert_eq!((&one["mutant"], &one["worlds"]), (&"one".into(), &10.into()));
        assert_eq!((&two["mutant"], &two["caught"]), (&"two".into(), &Value::Null));
        assert_eq!((&counts["mutants"], &counts["killed"]), (&2.into(), &1.into()));
        assert_eq!(counts["survivors"][0], "two");
        let (_, out, _) = called("mutants --worlds 30 --only on");
        assert!(out.contains("FAILED: oracle") && !out.contains("two"), "{out}");
    }

    #[test]
    fn crash_images_are_counted() {
        let (_, out, _) = called("crash --images 40 --seed 13 --json");
        let [counts] = &json(&out)[..] else { panic!("{out}") };
        assert_eq!((&counts["images"], &counts["failures"][0]["seed"]), (&40.into(), &13.into()));
        assert!(called("crash --seed 13").1.contains("-- crash --images 1000 --seed 13\n"));
    }

    #[test]
    fn a_reader_that_goes_away_does_not_change_the_exit_status() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let line = |seeds| ["rejoin-sim", "run", "--seeds", seeds];
        assert_eq!(main(line("1..9"), &parts(), &mut Gone, &mut Gone), 0);
        assert_eq!(main(line("1..10"), &parts(), &mut Gone, &mut Gone), 1);
    }
}
