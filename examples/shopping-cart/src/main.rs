//! A shopping cart that several devices share, online or not.
//!
//! Without arguments it plays a scripted story in the terminal; with `--replay FILE.csv` it replays the
//! order book of a shop over several devices whose links go down and up, and checks that all of them
//! end with the exact sums of the file.

mod cart;
mod device;
mod orders;
mod replay;
mod story;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// An offline-first shopping cart on several devices, over real QUIC and real disks.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Replay this order book instead of telling the story. Its columns are InvoiceNo, StockCode,
    /// Description, Quantity, InvoiceDate, UnitPrice, CustomerID, Country.
    #[arg(long, value_name = "FILE.csv")]
    replay: Option<PathBuf>,
    /// How many devices share the carts.
    #[arg(long, requires = "replay", default_value_t = 5, value_parser = clap::value_parser!(u8).range(2..=20))]
    devices: u8,
    /// Chooses the device of each invoice, and when links go down and up.
    #[arg(long, requires = "replay", default_value_t = 1)]
    seed: u64,
    /// The part of the time that each link is down while orders come in, from 0 to 1.
    #[arg(long, value_name = "P", requires = "replay", default_value_t = 0.0, value_parser = probability)]
    offline: f64,
    /// Print the outcome as one JSON object, on the last line.
    #[arg(long, requires = "replay")]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let outcome = runtime.block_on(async {
        match &arguments.replay {
            None => story::tell().await,
            Some(file) => {
                let options = replay::Options {
                    file: file.clone(),
                    devices: usize::from(arguments.devices),
                    seed: arguments.seed,
                    offline: arguments.offline,
                    json: arguments.json,
                };
                replay::run(&options).await
            }
        }
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(error.as_ref()),
    }
}

/// Prints an error with its causes. Exit status 2: the run could not be made.
fn failed(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprint!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
    ExitCode::from(2)
}

fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("must be a number from 0 to 1".to_owned()),
    }
}
