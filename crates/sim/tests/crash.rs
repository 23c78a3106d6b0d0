//! Crashes of a store, from a workload that does everything that a store can do.

use rejoin_sim::crash::{CrashReport, exhaust, sample};

fn assert_clean(report: &CrashReport) {
    assert!(
        report.failures.is_empty() && report.lost == 0,
        "{} of {} commits lost in {} images:\n{}",
        report.lost,
        report.acknowledged,
        report.images,
        report.failures.iter().map(|failure| format!("{failure}\n")).collect::<String>()
    );
}

/// The number in an environment variable, for runs that are longer than a test may be.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn a_store_survives_a_crash_in_every_operation() {
    let report = exhaust(number("REJOIN_CRASH_SEED", 1), threads());
    assert_clean(&report);
    assert!(report.images > 1_000 && report.acknowledged > report.images, "{report:?}");
}

#[test]
fn a_store_survives_lost_and_torn_writes() {
    let images = number("REJOIN_CRASH_IMAGES", 3_000);
    let report = sample(images, number("REJOIN_CRASH_SEED", 1), threads());
    assert_clean(&report);
    assert_eq!(report.images, images);
    assert!(report.acknowledged > images, "{report:?}");
}

#[test]
fn what_is_found_depends_on_the_seed_alone() {
    let found = |threads| {
        let report = sample(300, 7, threads);
        (report.images, report.acknowledged, report.lost, report.failures)
    };
    assert_eq!(found(1), found(2));
}
