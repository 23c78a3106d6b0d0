//! The histories of the executable model of the design, with the reads that it expects after every step.
//!
//! `corpus.jsonl.gz` is what `export.py` wrote; see there for the form, the families of histories and
//! how to write it anew. Where the model itself is at hand, histories that no one has seen before are
//! checked too. Each history also passes by the oracle, so that model, oracle and engine agree.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path as FilePath;
use std::process::{Command, Stdio};

use rejoin_crdt::laws::{Cluster, Intent, Pulled, Read, State};
use rejoin_crdt::{Dot, Kind, Path, RowKey, Value};
use serde::Deserialize;
use serde_json::{Value as Json, json};

const HISTORIES_MIN: usize = 1_000;
const FRESH_HISTORIES: u64 = 100;

#[test]
fn the_histories_of_the_model_give_the_same_reads_after_every_step() {
    let file = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/corpus.jsonl.gz");
    let file = std::fs::File::open(file).unwrap();
    let replayed = replay_all(BufReader::new(flate2::read::GzDecoder::new(file)));
    assert!(replayed >= HISTORIES_MIN, "only {replayed} histories");
}

#[test]
fn fresh_histories_of_the_model_give_the_same_reads_after_every_step() {
    let here = FilePath::new(env!("CARGO_MANIFEST_DIR"));
    let model = here.join("../../../shared/design");
    if !model.join("model.py").exists() {
        skipped("the model is not beside the project");
        return;
    }
    // Another range in each run; a failure names its seed.
    let first = 1_000_000 + u64::from(std::process::id()) * FRESH_HISTORIES;
    let python = Command::new("python3")
        .arg(here.join("tests/model/export.py"))
        .arg(&model)
        .args([first.to_string(), FRESH_HISTORIES.to_string()])
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut python) = python else {
        skipped("there is no python3");
        return;
    };
    let replayed = replay_all(BufReader::new(python.stdout.take().unwrap()));
    assert!(python.wait().unwrap().success());
    assert_eq!(replayed, FRESH_HISTORIES as usize);
}

/// Says so past the harness, which hides what passing tests print.
fn skipped(reason: &str) {
    // If not even that can be written, there is no one to tell.
    let _ = writeln!(std::io::stderr(), "SKIPPED: fresh histories of the model: {reason}");
}

#[derive(Deserialize)]
struct History {
    seed: u64,
    replicas: Vec<String>,
    steps: Vec<Json>,
}

/// Replays the histories of `lines`, and counts them.
fn replay_all(lines: impl BufRead) -> usize {
    let histories = lines.lines().map(|line| {
        let line = line.expect("the corpus can be read");
        serde_json::from_str::<History>(&line).expect("a line of the corpus is a history")
    });
    histories.map(|history| replay(&history)).count()
}

fn replay(history: &History) {
    let seed = history.seed;
    let mut cluster = Cluster::new(u8::try_from(history.replicas.len()).expect("a few replicas"));
    let mut expected = vec![BTreeMap::<String, Json>::new(); history.replicas.len()];
    for (number, step) in history.steps.iter().enumerate() {
        let changed = take(&mut cluster, history, step)
            .unwrap_or_else(|error| panic!("seed {seed}, step {number}, {step}: {error}"));
        let reads = &mut expected[changed];
        for (path, read) in
            step.as_array().and_then(|parts| parts.last()?.as_object()).into_iter().flatten()
        {
            match read {
                Json::Null => reads.remove(path),
                read => reads.insert(path.clone(), read.clone()),
            };
        }
        let state = cluster.replica(changed).state();
        assert_eq!(&reads_of(state), reads, "seed {seed}, after step {number}: {step}");
        let oracle = cluster.check_reads(state);
        oracle.unwrap_or_else(|error| panic!("seed {seed}, after step {number}, {step}: {error}"));
    }
    let first = cluster.replica(0).state();
    for replica in cluster.replicas() {
        assert_eq!(first.digest(), replica.state().digest(), "seed {seed}: not converged");
    }
}

/// Takes one step of the model; the number of the replica that it changed.
fn take(
    cluster: &mut Cluster,
    history: &History,
    step: &Json,
) -> Result<usize, Box<dyn std::error::Error>> {
    let name = |name: &Json| {
        let name = name.as_str().expect("replicas are named by strings");
        history.replicas.iter().position(|r| r == name).expect("a step names a known replica")
    };
    let pair = || (name(&step[1][0]), name(&step[1][1]));
    match step[0].as_str() {
        Some("commit") => {
            let intents = step[3].as_array().expect("a commit lists its intents");
            let intents = intents.iter().map(intent).collect::<Result<Vec<_>, _>>()?;
            cluster.commit(name(&step[1]), step[2].as_u64().expect("a time"), &intents)?;
            Ok(name(&step[1]))
        }
        Some("pull") => {
            let (to, from) = pair();
            let limit = step[2].as_u64().map(|limit| limit as usize);
            let pulled = cluster.pull(to, from, limit)?;
            assert_ne!(pulled, Pulled::LogTooShort, "the model's log still had it all");
            Ok(to)
        }
        Some("join") => {
            let (to, from) = pair();
            cluster.join(to, from)?;
            Ok(to)
        }
        Some("truncate") => {
            let dots = step[2].as_array().expect("a truncation lists dots").iter();
            let dropped: Vec<_> = dots
                .map(|dot| Dot {
                    replica: cluster.replica(name(&dot[0])).id(),
                    sequence: dot[1].as_u64().expect("a sequence number"),
                })
                .collect();
            let before = cluster.replica(name(&step[1])).logged().len();
            cluster.truncate(name(&step[1]), |dot| !dropped.contains(&dot));
            let after = cluster.replica(name(&step[1])).logged().len();
            assert_eq!(before - after, dropped.len(), "the model's log had just these commits");
            Ok(name(&step[1]))
        }
        _ => panic!("no such step"),
    }
}

fn intent(json: &Json) -> Result<Intent, Box<dyn std::error::Error>> {
    let path = json[1].as_str().expect("an intent has a path");
    let kind = match path.split('/').next() {
        Some("register") => Kind::Register,
        Some("set") => Kind::Element,
        Some("counter") => Kind::Counter,
        _ => panic!("a path of the model begins with a kind"),
    };
    let path = Path::of(path.split('/'))?;
    let number = || json[2].as_i64().expect("the intent has an argument");
    Ok(match json[0].as_str() {
        Some("put") => Intent::Put { path, value: Value::I64(number()) },
        Some("add") => Intent::AddElement { path },
        Some("increment") => Intent::Increment { path, amount: number() },
        Some("remove") => Intent::RemoveRow { key: RowKey { path, kind } },
        Some("remove_tree") => Intent::RemoveTree { path },
        _ => panic!("no such intent"),
    })
}

/// The reads of a state in the form of the corpus.
fn reads_of(state: &State) -> BTreeMap<String, Json> {
    let form = |read: Read| match read {
        Read::Register(siblings) => json!([siblings[0].2.as_i64(), siblings.len()]),
        Read::Counter(sum) => json!(sum),
        Read::Flag(on) | Read::Element(on) => json!(on),
    };
    state.reads().into_iter().map(|(key, read)| (key.path.to_string(), form(read))).collect()
}
