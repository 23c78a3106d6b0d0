//! The simulator's command.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::process::ExitCode;

use rejoin_sim::app::Worlds;
use rejoin_sim::cli::{self, Mutants, Parts};
use rejoin_sim::crash::{self, CrashFailure};
use rejoin_sim::history::{Checker, Violation};
use rejoin_sim::plan::PlanOptions;
use rejoin_sim::runner::{CrashSample, Failure};

#[cfg(feature = "mutants")]
const MUTANTS: Option<Mutants> = Some(rejoin_sim::mutants::MUTANTS);
#[cfg(not(feature = "mutants"))]
const MUTANTS: Option<Mutants> = None;

fn main() -> ExitCode {
    let parts: Parts<Worlds> = Parts { worlds, mutants: MUTANTS, crash: Some(crash_images) };
    let (mut out, mut err) = (io::stdout().lock(), io::stderr());
    ExitCode::from(cli::main(std::env::args_os(), &parts, &mut out, &mut err))
}

/// The simulator's worlds, with so many replicas if a number is given.
fn worlds(replicas: Option<usize>) -> Result<Worlds, String> {
    if replicas.is_some_and(|replicas| !(2..=64).contains(&replicas)) {
        return Err("a world has 2 to 64 replicas".to_owned());
    }
    Ok(Worlds { options: PlanOptions { replicas, ..PlanOptions::default() } })
}

/// Opens stores on sampled images of disks that lost power.
fn crash_images(images: u64, first_seed: u64, threads: NonZeroUsize) -> CrashSample {
    let report = crash::sample(images, first_seed, threads.get());
    let classes = BTreeMap::from([
        ("acknowledged commits looked for", report.acknowledged),
        ("acknowledged commits lost", report.lost),
    ]);
    let failed = |failure: CrashFailure| Failure {
        seed: failure.seed,
        violation: Violation {
            checker: Checker::Durability,
            at_ms: 0,
            node: None,
            what: failure.what,
        },
    };
    CrashSample {
        images: report.images,
        classes,
        failures: report.failures.into_iter().map(failed).collect(),
    }
}
