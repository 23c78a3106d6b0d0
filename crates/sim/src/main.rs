//! The simulator's command.

use std::io;
use std::process::ExitCode;

use rejoin_sim::app::Worlds;
use rejoin_sim::cli::{self, Mutants, Parts};
use rejoin_sim::plan::PlanOptions;

#[cfg(feature = "mutants")]
const MUTANTS: Option<Mutants> = Some(rejoin_sim::mutants::MUTANTS);
#[cfg(not(feature = "mutants"))]
const MUTANTS: Option<Mutants> = None;

fn main() -> ExitCode {
    let parts: Parts<Worlds> = Parts { worlds, mutants: MUTANTS, crash: None };
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
