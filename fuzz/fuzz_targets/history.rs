//! Any stream of operations keeps the laws: after every step the state is a function of the visible
//! commits, and reads as the oracle says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rejoin_crdt::laws::{Cluster, Intent, Step};
use rejoin_crdt::{Path, Value};

const REPLICAS: u8 = 3;
/// Longer streams find nothing more, only later: each step costs as much as all before it.
const STEPS_MAX: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    let mut cluster = Cluster::new(REPLICAS);
    for chunk in bytes.chunks_exact(4).take(STEPS_MAX) {
        if let Err(violation) = cluster.run(&step([chunk[0], chunk[1], chunk[2], chunk[3]])) {
            panic!("{violation}");
        }
    }
    if let Err(violation) = cluster.converge() {
        panic!("{violation}");
    }
});

/// Four bytes as a step: what, who, and two arguments.
fn step([what, who, first, second]: [u8; 4]) -> Step {
    let (replica, from) = (usize::from(who & 3), usize::from(who >> 2 & 3));
    match what % 8 {
        0 => Step::Join { to: replica, from },
        1 => Step::Truncate { replica, keep: u64::from(first) * 0x0101_0101_0101_0101 },
        2 | 3 => {
            let limit = (first > 0).then_some(usize::from(first));
            Step::Pull { to: replica, from, limit }
        }
        _ => Step::Commit {
            replica,
            wall_time_ms: u64::from(who >> 4),
            intents: vec![intent(first), intent(second)],
        },
    }
}

fn intent(byte: u8) -> Intent {
    let paths: [&[&str]; 4] = [&[], &["m"], &["m", "x"], &["n"]];
    let path = Path::of(paths[usize::from(byte & 3)].iter().copied()).expect("these are short");
    let number = i64::from(byte >> 5);
    match byte >> 2 & 7 {
        0 | 1 => Intent::Put { path, value: Value::I64(number) },
        2 | 3 => Intent::Increment { path, amount: number - 3 },
        4 => Intent::Enable { path },
        5 => Intent::AddElement { path },
        6 => Intent::Remove { path },
        _ => Intent::RemoveTree { path },
    }
}
