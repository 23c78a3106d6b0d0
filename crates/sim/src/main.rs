//! The simulator's command.

use std::io;
use std::process::ExitCode;

use rejoin_sim::cli::{self, Parts};
use rejoin_sim::outcome::Outcome;
use rejoin_sim::runner::Simulate;

fn main() -> ExitCode {
    let parts: Parts<NoWorlds> = Parts {
        worlds: |_| Err("this build has no worlds".to_owned()),
        mutants: None,
        crash: None,
    };
    let (mut out, mut err) = (io::stdout().lock(), io::stderr());
    ExitCode::from(cli::main(std::env::args_os(), &parts, &mut out, &mut err))
}

/// Stands where the worlds will be. There is none of it.
enum NoWorlds {}

impl Simulate for NoWorlds {
    type Plan = ();

    fn plan(&self, _seed: u64) {
        match *self {}
    }

    fn run(&self, (): &(), _with_trace: bool) -> Outcome {
        match *self {}
    }

    fn smaller(&self, (): &()) -> Vec<()> {
        match *self {}
    }

    fn describe(&self, (): &()) -> String {
        match *self {}
    }
}
