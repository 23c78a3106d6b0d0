//! The time that sessions and the redial policy are given: milliseconds since the network was bound.

use std::time::Duration;

use tokio::time::Instant;

/// A monotonic clock in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now_ms(self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Completes at `at_ms` or after it, never before: a timer that fires a fraction early would spin.
    pub(crate) async fn sleep_until(self, at_ms: u64) {
        // A wait of more than a year is for ever as far as a connection goes, and keeps the sum in range.
        let wait_ms = at_ms.min(self.now_ms().saturating_add(YEAR_MS));
        tokio::time::sleep_until(self.start + Duration::from_millis(wait_ms)).await;
    }
}

const YEAR_MS: u64 = 365 * 24 * 3_600 * 1_000;
