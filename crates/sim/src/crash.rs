//! Crashes of one store: at every moment, and with whatever a power cut leaves of what was not synced.
//!
//! A workload is run once on a disk that keeps every moment at which something changed. Each of these can then be
//! crashed at as often as wanted, for the price of opening what is left: it must open, show everything that was
//! acknowledged and nothing half, and go on. What it must show comes from plain maps that the workload keeps
//! beside the store.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rejoin_store::Store;

use crate::disk::{DiskFaults, Moment, SimDisk};
use crate::random::Random;
use crate::runner::caught;

mod workload;

use workload::{Run, State};

/// How many images are made of one run of a workload. Asked for so many, [`sample`] repeats all of one seed.
pub const IMAGES_PER_RUN: u64 = 1_000;
/// How many failures are told in words.
const FAILURES_MAX: usize = 100;

/// What came of many crashes.
#[derive(Debug, Clone, Default)]
pub struct CrashReport {
    /// How many crash images were opened.
    pub images: u64,
    /// How many acknowledged commits they had to show, all together.
    pub acknowledged: u64,
    /// How many of these they did not show.
    pub lost: u64,
    /// What went wrong, at most a hundred of it.
    pub failures: Vec<CrashFailure>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A crash after which a store was not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CrashFailure {
    /// The seed of its workload.
    pub seed: u64,
    /// What went wrong, in words.
    pub what: String,
}

impl std::fmt::Display for CrashFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "workload {}, {}", self.seed, self.what)
    }
}

/// How an image comes about.
#[derive(Debug, Clone, Copy)]
enum Crash {
    PowerCut,
    /// Everything reached the disk, or nothing that was not synced did.
    PowerCutAll {
        kept: bool,
    },
    Kill,
}

/// Crashes the workload of `seed` at every operation that it asks of the disk, as a power cut and as a kill.
///
/// First each moment at which the disk changed is crashed at in several ways, from a recording; then the workload is
/// run anew for every operation, reads too, and crashed in it.
pub fn exhaust(seed: u64, threads: usize) -> CrashReport {
    #[expect(clippy::disallowed_methods, reason = "real time passes while images are opened")]
    let began = Instant::now();
    let (run, moments) = recorded(seed);
    let operations = run.operations;
    let tally = Tally::default();
    if let Some(error) = &run.failed {
        tally.fail(seed, format!("without a crash: {error}"));
    }
    let crashes = [
        Crash::PowerCutAll { kept: false },
        Crash::PowerCutAll { kept: true },
        Crash::PowerCut,
        Crash::PowerCut,
        Crash::Kill,
    ];
    in_parallel(threads, moments.len() as u64, |index| {
        let Some(moment) = moments.get(index as usize) else { return };
        for (variant, crash) in crashes.into_iter().enumerate() {
            let label = format!("moment {index}, variant {variant}");
            let mut random = Random::labelled(seed, &label);
            tally.try_image(seed, &label, || image(&run, moment, crash, true, &mut random));
        }
    });
    in_parallel(threads, 2 * operations, |index| {
        let (operation, kill) = (index / 2, index % 2 == 1);
        let label = format!("operation {operation}, killed: {kill}");
        let mut random = Random::labelled(seed, &label);
        tally.try_image(seed, &label, || live(seed, operation, kill, &mut random));
    });
    tally.into_report(began)
}

/// Opens this many crash images of workloads with different seeds, from `first_seed` on.
///
/// What is found does not depend on the number of threads, but for which failures are told when there are more than a
/// hundred.
pub fn sample(images: u64, first_seed: u64, threads: usize) -> CrashReport {
    #[expect(clippy::disallowed_methods, reason = "real time passes while images are opened")]
    let began = Instant::now();
    let tally = Tally::default();
    in_parallel(threads, images.div_ceil(IMAGES_PER_RUN), |index| {
        let seed = first_seed.wrapping_add(index);
        let (run, moments) = recorded(seed);
        if let Some(error) = &run.failed {
            tally.fail(seed, format!("without a crash: {error}"));
        }
        for number in 0..IMAGES_PER_RUN.min(images - index * IMAGES_PER_RUN) {
            let label = format!("image {number}");
            let mut random = Random::labelled(seed, &label);
            let Some(moment) = random.pick(&moments) else { return };
            let crash = match random.below(8) {
                0 | 1 => Crash::Kill,
                2 => Crash::PowerCutAll { kept: random.chance(0.5) },
                _ => Crash::PowerCut,
            };
            let again = random.chance(0.25);
            tally.try_image(seed, &label, || image(&run, moment, crash, again, &mut random));
        }
    });
    tally.into_report(began)
}

/// One run of the workload of a seed, without any fault, and all its moments.
fn recorded(seed: u64) -> (Run, Vec<Moment>) {
    let disk = SimDisk::new(Random::labelled(seed, "disk"), DiskFaults::default());
    disk.record();
    let run = Run::of(seed, &disk);
    (run, disk.take_record())
}

/// Crashes at a moment of a recording and checks what is left.
fn image(
    run: &Run,
    moment: &Moment,
    crash: Crash,
    again: bool,
    random: &mut Random,
) -> Result<u64, Failure> {
    let disk = SimDisk::at(moment, random.fork("disk"), DiskFaults::default());
    match crash {
        Crash::PowerCut => disk.power_cut(),
        Crash::PowerCutAll { kept } => disk.power_cut_all(kept),
        Crash::Kill => disk.kill(),
    }
    let context = |failure: Failure| Failure {
        text: format!("{crash:?} after operation {}: {}", moment.operations, failure.text),
        ..failure
    };
    check(run, moment.operations, &disk, again, random).map_err(context)
}

/// Runs the workload of a seed up to its death in an operation and checks what is left.
fn live(seed: u64, operation: u64, kill: bool, random: &mut Random) -> Result<u64, Failure> {
    let disk = SimDisk::new(random.fork("disk"), DiskFaults::default());
    if kill {
        disk.crash_after_kill(Some(operation));
    } else {
        disk.crash_after(Some(operation));
    }
    let run = Run::of(seed, &disk);
    if let Some(error) = &run.failed {
        return Err(Failure::new(error.clone()));
    }
    if !disk.is_dead() {
        return Err(Failure::new("the workload never came to this operation".to_owned()));
    }
    check(&run, run.operations, &disk, true, random)
}

/// Why an image is wrong, and how many acknowledged commits it lacks.
#[derive(Debug)]
struct Failure {
    text: String,
    acknowledged: u64,
    lost: u64,
}

impl Failure {
    fn new(text: String) -> Self {
        Self { text, acknowledged: 0, lost: 0 }
    }
}

/// Opens what a crash left when so many operations had been made, and compares. `again` asks for a second crash.
///
/// Returns how many acknowledged commits there were to be shown.
fn check(
    run: &Run,
    operations: u64,
    disk: &SimDisk,
    again: bool,
    random: &mut Random,
) -> Result<u64, Failure> {
    let (least, most) = run.bounds(operations);
    let acknowledged = run.states[least].commits();
    let all_lost = |text| Failure { text, acknowledged, lost: acknowledged };
    if again && random.chance(0.25) {
        // Recovery can be cut short like anything else.
        disk.crash_after(Some(random.below(60)));
        let opened = run.open(disk);
        disk.crash_after(None);
        if let Err(error) = opened
            && !disk.is_dead()
        {
            return Err(all_lost(format!("opening: {error}")));
        }
        disk.power_cut();
    }
    let (store, _) = run.open(disk).map_err(|error| all_lost(format!("opening: {error}")))?;
    let found = run.find(&store, least..=most).map_err(|text| {
        let lost = workload::shown_version(&store)
            .map_or(acknowledged, |shown| run.states[least].missing_in(&shown));
        Failure { text, acknowledged, lost }
    })?;
    let state = &run.states[found];
    go_on(run, disk, store, state, again, random).map_err(|text| Failure {
        text,
        acknowledged,
        lost: 0,
    })?;
    Ok(acknowledged)
}

/// Writes to a store that shows `state`, and if `again` says so crashes and opens it once more.
fn go_on(
    run: &Run,
    disk: &SimDisk,
    store: Store,
    state: &State,
    again: bool,
    random: &mut Random,
) -> Result<(), String> {
    let dies = again && random.chance(0.5);
    if dies {
        let delay = Some(random.below(5));
        if random.chance(0.25) { disk.crash_after_kill(delay) } else { disk.crash_after(delay) }
    }
    let after = state.with_one_more();
    let is_written = match workload::write_one_more(&store) {
        Ok(()) => {
            let shown = std::slice::from_ref(&after);
            workload::find(&store, shown).map_err(|text| format!("after a write: {text}"))?;
            true
        }
        Err(_) if disk.is_dead() => false,
        Err(error) => return Err(format!("writing: {error}")),
    };
    disk.crash_after(None);
    if !again {
        // What is dropped would only write what nobody reads.
        disk.kill();
        return Ok(());
    }
    if random.chance(0.25) {
        disk.kill();
    } else {
        disk.power_cut();
    }
    drop(store);
    let (store, _) = run.open(disk).map_err(|error| format!("opening again: {error}"))?;
    let both = [state.clone(), state.with_space(), after];
    let shown = if is_written { &both[2..] } else { &both[..] };
    workload::find(&store, shown).map_err(|text| format!("opened again: {text}"))?;
    disk.kill();
    Ok(())
}

/// Gathers what comes of images, on all threads.
#[derive(Debug, Default)]
struct Tally {
    images: AtomicU64,
    acknowledged: AtomicU64,
    lost: AtomicU64,
    failures: Mutex<Vec<CrashFailure>>,
}

impl Tally {
    fn try_image(&self, seed: u64, label: &str, image: impl FnOnce() -> Result<u64, Failure>) {
        self.images.fetch_add(1, Ordering::Relaxed);
        let acknowledged = match caught(true, image) {
            Ok(Ok(acknowledged)) => acknowledged,
            Ok(Err(failure)) => {
                self.lost.fetch_add(failure.lost, Ordering::Relaxed);
                self.fail(seed, format!("{label}: {}", failure.text));
                failure.acknowledged
            }
            Err(what) => {
                self.fail(seed, format!("{label}: {what}"));
                0
            }
        };
        self.acknowledged.fetch_add(acknowledged, Ordering::Relaxed);
    }

    fn fail(&self, seed: u64, what: String) {
        let mut failures = self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if failures.len() < FAILURES_MAX {
            failures.push(CrashFailure { seed, what });
        }
    }

    fn into_report(self, began: Instant) -> CrashReport {
        let failures = self.failures.into_inner();
        let mut failures = failures.unwrap_or_else(std::sync::PoisonError::into_inner);
        failures.sort();
        CrashReport {
            images: self.images.into_inner(),
            acknowledged: self.acknowledged.into_inner(),
            lost: self.lost.into_inner(),
            failures,
            seconds: began.elapsed().as_secs_f64(),
        }
    }
}

/// Does `job` for each number below `count`, on so many threads.
fn in_parallel(threads: usize, count: u64, job: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            job(index);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
}
