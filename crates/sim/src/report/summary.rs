//! What came of many worlds, as text for people and as JSON objects of one line each for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::history::Violation;
use crate::runner::{CrashSample, Failure, Summary, Tally, Verdict};

/// What came of a sweep, as its JSON object.
#[derive(Debug, Serialize)]
pub struct SummaryJson<'a> {
    /// How many worlds were run.
    pub seeds: u64,
    /// Those that failed.
    pub failures: Vec<FailureJson<'a>>,
    /// How much real time passed.
    pub seconds: f64,
    /// How many events the worlds went through.
    pub events: u64,
    /// How many faults of each class took effect.
    pub faults: &'a BTreeMap<&'static str, u64>,
    /// How much virtual time passed.
    pub simulated_seconds: f64,
    /// How many rounds the worlds took to converge after they were healed.
    pub rounds_after_heal: RoundsJson,
    /// The hash over all worlds, in hexadecimal digits.
    pub trace_hash: String,
}

/// Percentiles by nearest rank; null if no world converged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "they are what they are called")]
pub struct RoundsJson {
    pub p50: Option<u64>,
    pub p99: Option<u64>,
    pub max: Option<u64>,
}

/// A failure, as its JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailureJson<'a> {
    /// The seed of the world.
    pub seed: u64,
    /// Who objected.
    pub checker: &'static str,
    /// When, in virtual milliseconds.
    pub at_ms: u64,
    /// At which replica, by its index, if at one.
    pub replica: Option<usize>,
    /// To what.
    pub what: &'a str,
}

impl<'a> FailureJson<'a> {
    /// The violation of a seed.
    pub fn new(seed: u64, violation: &'a Violation) -> Self {
        Self {
            seed,
            checker: violation.checker.name(),
            at_ms: violation.at_ms,
            replica: violation.node,
            what: &violation.what,
        }
    }
}

impl<'a> From<&'a Failure> for FailureJson<'a> {
    fn from(failure: &'a Failure) -> Self {
        Self::new(failure.seed, &failure.violation)
    }
}

impl<'a> From<&'a Summary> for SummaryJson<'a> {
    fn from(summary: &'a Summary) -> Self {
        let rounds = &summary.rounds_after_heal;
        Self {
            seeds: summary.worlds,
            failures: summary.failures.iter().map(FailureJson::from).collect(),
            seconds: summary.seconds,
            events: summary.events,
            faults: &summary.faults,
            simulated_seconds: summary.simulated_ms as f64 / 1_000.0,
            rounds_after_heal: RoundsJson {
                p50: rounds.percentile(50),
                p99: rounds.percentile(99),
                max: rounds.max(),
            },
            trace_hash: hex(&summary.trace_hash),
        }
    }
}

/// A sweep's summary as text, without its failures.
pub fn summary_text(summary: &Summary) -> String {
    let mut text = String::new();
    let worlds = summary.worlds as f64;
    let faults: u64 = summary.faults.values().sum();
    let simulated = summary.simulated_ms as f64 / 1_000.0;
    let line = |text: &mut String, what: &str, value: String| {
        // Writing into a string does not fail.
        let _ = writeln!(text, "{what:<18} {value}");
    };
    let per_second = worlds / summary.seconds.max(1e-9);
    let pace = format!("{} in {:.1} s", grouped(summary.worlds), summary.seconds);
    line(&mut text, "worlds", format!("{pace}, {per_second:.1} per second"));
    let speed = simulated / summary.seconds.max(1e-9);
    line(&mut text, "simulated time", format!("{}, {speed:.0} times as fast", span(simulated)));
    line(&mut text, "events", grouped(summary.events));
    let mean = |count: u64| if summary.worlds == 0 { 0.0 } else { count as f64 / worlds };
    line(&mut text, "faults", format!("{}, {:.1} per world", grouped(faults), mean(faults)));
    let width = summary.faults.values().map(|it| grouped(*it).len()).max().unwrap_or(0);
    for (class, count) in &summary.faults {
        let counted = format!("{:>width$}, {:.1} per world", grouped(*count), mean(*count));
        line(&mut text, &format!("  {class}"), counted);
    }
    line(&mut text, "rounds after heal", rounds(&summary.rounds_after_heal));
    line(&mut text, "trace hash", hex(&summary.trace_hash));
    text
}

fn rounds(tally: &Tally) -> String {
    match (tally.percentile(50), tally.percentile(99), tally.max()) {
        (Some(p50), Some(p99), Some(max)) => format!("p50 {p50}, p99 {p99}, max {max}"),
        _ => "no world converged".to_owned(),
    }
}

/// A hunt's outcome, as its JSON object.
#[derive(Debug, Serialize)]
pub struct HuntJson {
    /// How many mutants there are.
    pub mutants: usize,
    /// How many of them were caught.
    pub killed: usize,
    /// How many of those by the checker that is meant to.
    pub by_intended_checker: usize,
    /// How many worlds it took.
    pub worlds_to_kill: WorldsJson,
    /// Those that nobody caught, by name.
    pub survivors: Vec<&'static str>,
}

/// How many worlds it took to catch a mutant; null if none was caught.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "they are what they are called")]
pub struct WorldsJson {
    pub median: Option<u64>,
    pub max: Option<u64>,
}

impl HuntJson {
    /// The counts of a hunt.
    pub fn new(verdicts: &[Verdict]) -> Self {
        let killed = || verdicts.iter().filter(|it| it.caught.is_some());
        let worlds: Tally = killed().map(|it| it.worlds).collect();
        let survivors = verdicts.iter().filter(|it| it.caught.is_none());
        Self {
            mutants: verdicts.len(),
            killed: killed().count(),
            by_intended_checker: verdicts.iter().filter(|it| it.as_intended()).count(),
            worlds_to_kill: WorldsJson { median: worlds.percentile(50), max: worlds.max() },
            survivors: survivors.map(|it| it.mutant.name).collect(),
        }
    }
}

/// What became of one mutant, as its JSON object.
#[derive(Debug, Serialize)]
pub struct VerdictJson<'a> {
    /// Its name.
    pub mutant: &'static str,
    /// The failure of other systems that it imitates.
    pub failure_line: u8,
    /// What it does wrong.
    pub what: &'static str,
    /// Who ought to catch it.
    pub intended: &'static str,
    /// How many worlds it was let loose in.
    pub worlds: u64,
    /// How it was caught; null if it survived.
    pub caught: Option<FailureJson<'a>>,
}

impl<'a> From<&'a Verdict> for VerdictJson<'a> {
    fn from(verdict: &'a Verdict) -> Self {
        Self {
            mutant: verdict.mutant.name,
            failure_line: verdict.mutant.failure_line,
            what: verdict.mutant.what,
            intended: verdict.mutant.intended.name(),
            worlds: verdict.worlds,
            caught: verdict.caught.as_ref().map(FailureJson::from),
        }
    }
}

/// A hunt as text: a line for each mutant, then who was caught by another than meant, then the counts.
pub fn hunt_text(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    let width = verdicts.iter().map(|it| it.mutant.name.chars().count()).max().unwrap_or(0);
    for verdict in verdicts {
        let worlds = counted(verdict.worlds, "world");
        let fate = match &verdict.caught {
            None => format!("SURVIVED {worlds}"),
            Some(failure) if verdict.as_intended() => {
                format!("caught by {} after {worlds}", failure.violation.checker.name())
            }
            Some(failure) => format!(
                "caught by {} after {worlds}, meant for {}",
                failure.violation.checker.name(),
                verdict.mutant.intended.name()
            ),
        };
        let Verdict { mutant, .. } = verdict;
        // Writing into a string does not fail.
        let _ = writeln!(text, "{:>3}  {:<width$}  {fate}", mutant.failure_line, mutant.name);
    }
    let strays: Vec<_> =
        verdicts.iter().filter(|it| it.caught.is_some() && !it.as_intended()).collect();
    if !strays.is_empty() {
        let _ = writeln!(text, "\nCaught by another checker than the one meant to. Is that right?");
        for Verdict { mutant, caught, .. } in &strays {
            let violation = caught.as_ref().map(|it| it.violation.to_string()).unwrap_or_default();
            let _ = writeln!(text, "  {}: {}\n    {violation}", mutant.name, mutant.what);
        }
    }
    let survivors: Vec<_> = verdicts.iter().filter(|it| it.caught.is_none()).collect();
    if !survivors.is_empty() {
        let _ = writeln!(text, "\nSurvivors:");
        for Verdict { mutant, .. } in &survivors {
            let intended = mutant.intended.name();
            let _ = writeln!(text, "  {}: {} (meant for {intended})", mutant.name, mutant.what);
        }
    }
    let json = HuntJson::new(verdicts);
    let _ = write!(text, "\n{} of {} caught", json.killed, counted(json.mutants as u64, "mutant"));
    let _ = write!(text, ", {} by the checker meant to", json.by_intended_checker);
    if let (Some(median), Some(max)) = (json.worlds_to_kill.median, json.worlds_to_kill.max) {
        let _ = write!(text, "; worlds to catch one: median {median}, max {max}");
    }
    text.push('\n');
    text
}

/// A sample of crash images, as its JSON object.
#[derive(Debug, Serialize)]
pub struct CrashJson<'a> {
    /// How many images were opened.
    pub images: u64,
    /// How many there were of each class.
    pub classes: &'a BTreeMap<&'static str, u64>,
    /// Those that did not recover as they must.
    pub failures: Vec<FailureJson<'a>>,
    /// How much real time passed.
    pub seconds: f64,
}

impl<'a> CrashJson<'a> {
    /// The sample, and how long it took.
    pub fn new(sample: &'a CrashSample, seconds: f64) -> Self {
        Self {
            images: sample.images,
            classes: &sample.classes,
            failures: sample.failures.iter().map(FailureJson::from).collect(),
            seconds,
        }
    }
}

/// A sample of crash images as text, without its failures.
pub fn crash_text(sample: &CrashSample, seconds: f64) -> String {
    let images = counted(sample.images, "crash image");
    let mut text = format!("{images} opened in {seconds:.1} s\n");
    for (class, count) in &sample.classes {
        let _ = writeln!(text, "  {class:<18} {}", grouped(*count));
    }
    text
}

/// A number and its noun.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// A number with a comma after every three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn span(seconds: f64) -> String {
    let whole = seconds as u64;
    match (whole / 3_600, whole / 60 % 60) {
        (0, 0) => format!("{seconds:.1} s"),
        (0, minutes) => format!("{minutes} min {} s", whole % 60),
        (hours, minutes) => format!("{} h {minutes} min", grouped(hours)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Checker;
    use crate::runner::Mutant;
    use serde_json::{Value, json};

    fn failure() -> Failure {
        let what = "read \"a\"\nnot b".to_owned();
        let violation = Violation { checker: Checker::DotLedger, at_ms: 12, node: Some(3), what };
        Failure { seed: 17, violation }
    }

    fn parsed(value: &impl Serialize) -> Value {
        let line = serde_json::to_string(value).unwrap();
        assert!(!line.contains('\n'));
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn a_summary_has_exactly_these_fields() {
        let mut summary = Summary {
            first_seed: 1,
            worlds: 2,
            failures: vec![failure()],
            seconds: 0.5,
            events: 9,
            faults: BTreeMap::from([("cut", 4)]),
            simulated_ms: 1_500,
            rounds_after_heal: Tally::from_iter([2, 4, 5]),
            trace_hash: [0xab; 32],
        };
        let expected = json!({
            "seeds": 2,
            "failures": [{
                "seed": 17, "checker": "dot-ledger", "at_ms": 12, "replica": 3,
                "what": "read \"a\"\nnot b",
            }],
            "seconds": 0.5,
            "events": 9,
            "faults": {"cut": 4},
            "simulated_seconds": 1.5,
            "rounds_after_heal": {"p50": 4, "p99": 5, "max": 5},
            "trace_hash": "ab".repeat(32),
        });
        assert_eq!(parsed(&SummaryJson::from(&summary)), expected);

        summary.rounds_after_heal = Tally::default();
        let none = json!({"p50": null, "p99": null, "max": null});
        assert_eq!(parsed(&SummaryJson::from(&summary))["rounds_after_heal"], none);
    }

    #[test]
    fn a_summary_reads_well() {
        let summary = Summary {
            worlds: 1_000,
            seconds: 8.0,
            events: 1_234_567,
            faults: BTreeMap::from([("cut", 1_200), ("power cut", 40)]),
            simulated_ms: 7_260_000,
            rounds_after_heal: Tally::from_iter([2, 4, 5]),
            ..Summary::default()
        };
        let text = summary_text(&summary);
        let expected = "\
worlds             1,000 in 8.0 s, 125.0 per second
simulated time     2 h 1 min, 908 times as fast
events             1,234,567
faults             1,240, 1.2 per world
  cut              1,200, 1.2 per world
  power cut           40, 0.0 per world
rounds after heal  p50 4, p99 5, max 5
";
        assert!(text.starts_with(expected), "{text}");
    }

    fn verdicts() -> Vec<Verdict> {
        let mutant = |name, intended| Mutant { name, failure_line: 4, what: "forgets", intended };
        let caught = |name, intended, worlds| Verdict {
            mutant: mutant(name, intended),
            worlds,
            caught: Some(failure()),
        };
        vec![
            caught("a", Checker::DotLedger, 3),
            caught("b", Checker::DotLedger, 9),
            caught("c", Checker::Oracle, 40),
            Verdict { mutant: mutant("d", Checker::Oracle), worlds: 2_000, caught: None },
        ]
    }

    #[test]
    fn a_hunt_has_exactly_these_fields() {
        let expected = json!({
            "mutants": 4,
            "killed": 3,
            "by_intended_checker": 2,
            "worlds_to_kill": {"median": 9, "max": 40},
            "survivors": ["d"],
        });
        assert_eq!(parsed(&HuntJson::new(&verdicts())), expected);
        assert_eq!(parsed(&HuntJson::new(&[]))["worlds_to_kill"]["median"], Value::Null);
        assert_eq!(parsed(&VerdictJson::from(&verdicts()[3]))["caught"], Value::Null);
        assert_eq!(parsed(&VerdictJson::from(&verdicts()[0]))["caught"]["checker"], "dot-ledger");
    }

    #[test]
    fn a_catch_by_another_checker_is_a_question_and_no_survivor() {
        let text = hunt_text(&verdicts());
        assert!(text.contains("  4  c  caught by dot-ledger after 40 worlds, meant for oracle\n"));
        assert!(text.contains("  4  d  SURVIVED 2,000 worlds\n"), "{text}");
        assert!(text.contains("Is that right?\n  c: forgets\n"), "{text}");
        assert!(text.contains("Survivors:\n  d: forgets (meant for oracle)\n"), "{text}");
        assert!(text.ends_with(
            "3 of 4 mutants caught, 2 by the checker meant to; \
             worlds to catch one: median 9, max 40\n"
        ));
    }

    #[test]
    fn numbers_are_grouped() {
        let numbers = [0, 12, 123, 1_234, 123_456, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
    }
}
