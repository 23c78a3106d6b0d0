//! Replays an order book over several devices whose links go down and up.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::cart::{self, Failure, Quantities};
use crate::device::{self, Device};
use crate::orders::{self, Invoice};

/// How long the devices may go without any progress, with all links up, before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to replay, and how.
pub struct Options {
    pub file: PathBuf,
    pub devices: usize,
    pub seed: u64,
    pub offline: f64,
    pub json: bool,
}

/// The outcome, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Outcome {
    converged: bool,
    devices: Vec<DeviceOutcome>,
    carts: Quantities,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct DeviceOutcome {
    name: String,
    state_digest: String,
    commits: u64,
    bytes_sent: u64,
    bytes_received: u64,
    reconnects: u64,
}

/// Runs the replay and prints its outcome. Whether all devices converged to the sums of the file.
pub async fn run(options: &Options) -> Result<bool, Failure> {
    let began = Instant::now();
    let invoices = Arc::new(orders::read(&options.file)?);
    let expected = cart::expected(&invoices);
    let folder = tempfile::tempdir()?;
    let mut devices = Vec::new();
    for number in 1..=options.devices {
        devices.push(Device::start(folder.path(), &format!("device-{number}")).await?);
    }
    device::introduce(&devices)?;

    let bar = ProgressBar::new(invoices.len() as u64)
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} invoices, {msg}")?);
    let written = write_orders(options, &devices, &invoices, &bar).await?;
    for_each_link(&devices, |a, b| device::set_link(a, b, true))?;
    bar.set_message("all links up: settling");
    let settled = device::settle(&devices, written, PATIENCE).await?;
    bar.finish_and_clear();

    let outcome = judge(&devices, settled, &expected, began)?;
    report(options, &outcome, &expected)?;
    for device in &devices {
        device.replica.offline().await;
    }
    Ok(outcome.converged)
}

/// Books every invoice on the device that the seed chooses, all devices at once, while links go down
/// and up. The number of commits that this made.
async fn write_orders(
    options: &Options,
    devices: &[Device],
    invoices: &Arc<Vec<Invoice>>,
    bar: &ProgressBar,
) -> Result<u64, Failure> {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut shares = vec![Vec::new(); devices.len()];
    for index in 0..invoices.len() {
        shares[rng.random_range(0..devices.len())].push(index);
    }
    let booked = Arc::new(AtomicUsize::new(0));
    let failure: Arc<Mutex<Option<rejoin::Error>>> = Arc::default();
    let mut writers = tokio::task::JoinSet::new();
    for (device, share) in devices.iter().zip(shares) {
        let (space, invoices) = (device.space.clone(), Arc::clone(invoices));
        let (booked, failure) = (Arc::clone(&booked), Arc::clone(&failure));
        writers.spawn_blocking(move || {
            for index in share {
                if let Err(error) = cart::book(&space, &invoices[index]) {
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
                booked.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    flap_links(options, devices, &mut rng, &mut writers, &booked, bar).await?;
    if let Some(error) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error.into());
    }
    Ok(invoices.iter().filter(|invoice| !invoice.lines.is_empty()).count() as u64)
}

/// Draws anew, for each invoice booked, whether some of the links are up, until all writers are done.
async fn flap_links(
    options: &Options,
    devices: &[Device],
    rng: &mut ChaCha8Rng,
    writers: &mut tokio::task::JoinSet<()>,
    booked: &AtomicUsize,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let mut links = Vec::new();
    for_each_link(devices, |a, b| {
        let up = !rng.random_bool(options.offline);
        device::set_link(a, b, up)?;
        links.push((a, b, up));
        Ok(())
    })?;
    let mut drawn = 0;
    loop {
        let step = tokio::time::timeout(Duration::from_millis(2), writers.join_next()).await;
        let now = booked.load(Ordering::Relaxed);
        bar.set_position(now as u64);
        for _ in drawn..now {
            let link = rng.random_range(0..links.len());
            let (a, b, up) = &mut links[link];
            let wanted = !rng.random_bool(options.offline);
            if wanted != *up {
                *up = wanted;
                device::set_link(a, b, wanted)?;
            }
        }
        drawn = now;
        let down = links.iter().filter(|(_, _, up)| !up).count();
        bar.set_message(format!("{down} of {} links down", links.len()));
        match step {
            Ok(Some(joined)) => joined?,
            Ok(None) => return Ok(()),
            Err(_elapsed) => {}
        }
    }
}

fn for_each_link<'d>(
    devices: &'d [Device],
    mut visit: impl FnMut(&'d Device, &'d Device) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for (index, a) in devices.iter().enumerate() {
        for b in &devices[index + 1..] {
            visit(a, b)?;
        }
    }
    Ok(())
}

/// Compares the devices with each other and with the file.
fn judge(
    devices: &[Device],
    settled: bool,
    expected: &Quantities,
    began: Instant,
) -> Result<Outcome, Failure> {
    let mut outcomes = Vec::new();
    let mut all_right = settled;
    let mut carts = Quantities::new();
    for (index, device) in devices.iter().enumerate() {
        let snapshot = device.space.read()?;
        let read = cart::quantities(&snapshot)?;
        all_right &= read == *expected;
        if index == 0 {
            carts = read;
        }
        let counters = device.replica.peers().into_iter().map(|peer| peer.counters);
        let (mut sent, mut received, mut reconnects) = (0, 0, 0);
        for counters in counters {
            sent += counters.bytes_sent;
            received += counters.bytes_received;
            reconnects += counters.reconnects;
        }
        outcomes.push(DeviceOutcome {
            name: device.name.clone(),
            state_digest: snapshot.digest()?.to_string(),
            commits: snapshot.version().commits(),
            bytes_sent: sent,
            bytes_received: received,
            reconnects,
        });
    }
    let equal = outcomes.windows(2).all(|pair| pair[0].state_digest == pair[1].state_digest);
    let seconds = began.elapsed().as_secs_f64();
    Ok(Outcome { converged: all_right && equal, devices: outcomes, carts, seconds })
}

fn report(options: &Options, outcome: &Outcome, expected: &Quantities) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for device in &outcome.devices {
        writeln!(
            out,
            "{:<10} digest {}  {} commits, {} kB sent, {} kB received, {} reconnects",
            device.name,
            &device.state_digest[..16],
            device.commits,
            device.bytes_sent / 1000,
            device.bytes_received / 1000,
            device.reconnects,
        )?;
    }
    let items: usize = outcome.carts.values().map(|cart| cart.len()).sum();
    let verdict = match outcome.converged {
        true => "all devices equal, and equal to the sums of the file",
        false if outcome.carts == *expected => "NOT CONVERGED: the devices differ",
        false => "NOT CONVERGED: the carts are not the sums of the file",
    };
    writeln!(
        out,
        "{} carts, {items} items: {verdict} ({:.1} s)",
        outcome.carts.len(),
        outcome.seconds
    )?;
    if options.json {
        writeln!(out, "{}", serde_json::to_string(outcome)?)?;
    }
    Ok(())
}
