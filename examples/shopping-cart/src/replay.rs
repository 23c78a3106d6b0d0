//! Replays an order book over several devices whose links go down and up.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::cart::{self, Failure, Quantities};
use crate::device::{self, Device};
use crate::orders::{self, Invoice};

/// The time between two orders: long enough for links to go down and come back between them.
const PACE: Duration = Duration::from_millis(4);

/// How long all orders together take to come in, at most: those of a long book come faster.
const PACE_TOTAL: Duration = Duration::from_secs(20);

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
    let expected =
        cart::expected(&invoices).ok_or("a quantity of the order book leaves 64 bits")?;
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

/// Lets the orders come in, one after the other, each on the device that the seed chooses; with each of them
/// one link is drawn anew to be up or down. The number of commits that this makes.
async fn write_orders(
    options: &Options,
    devices: &[Device],
    invoices: &Arc<Vec<Invoice>>,
    bar: &ProgressBar,
) -> Result<u64, Failure> {
    device::connect(devices, PATIENCE).await?;
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut links = Vec::new();
    for_each_link(devices, |a, b| {
        links.push(Link { a, b, up: true });
        Ok(())
    })?;
    for link in &mut links {
        link.set(!rng.random_bool(options.offline))?;
    }
    let writers: Vec<_> = devices.iter().map(|device| Writer::start(device, invoices)).collect();
    let invoice_count = u32::try_from(invoices.len().max(1)).unwrap_or(u32::MAX);
    let pace = PACE.min(PACE_TOTAL / invoice_count);
    for index in 0..invoices.len() {
        let link = rng.random_range(0..links.len());
        links[link].set(!rng.random_bool(options.offline))?;
        // A writer that failed has hung up, and says why when it is joined.
        let _hung_up = writers[rng.random_range(0..devices.len())].orders.send(index);
        bar.set_position(index as u64 + 1);
        let down = links.iter().filter(|link| !link.up).count();
        bar.set_message(format!("{down} of {} links down", links.len()));
        tokio::time::sleep(pace).await;
    }
    for Writer { orders, task } in writers {
        drop(orders);
        task.await??;
    }
    Ok(invoices.iter().filter(|invoice| !invoice.lines.is_empty()).count() as u64)
}

/// The link between two devices.
struct Link<'d> {
    a: &'d Device,
    b: &'d Device,
    up: bool,
}

impl Link<'_> {
    fn set(&mut self, up: bool) -> Result<(), Failure> {
        if self.up != up {
            device::set_link(self.a, self.b, up)?;
            self.up = up;
        }
        Ok(())
    }
}

/// Books on one device the invoices whose numbers it is sent, while others do the same on theirs.
struct Writer {
    orders: Sender<usize>,
    task: JoinHandle<Result<(), rejoin::Error>>,
}

impl Writer {
    fn start(device: &Device, invoices: &Arc<Vec<Invoice>>) -> Self {
        let (orders, incoming) = std::sync::mpsc::channel();
        let (space, invoices) = (device.space.clone(), Arc::clone(invoices));
        let task = tokio::task::spawn_blocking(move || {
            incoming.into_iter().try_for_each(|index: usize| cart::book(&space, &invoices[index]))
        });
        Self { orders, task }
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
