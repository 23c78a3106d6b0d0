//! The search for the largest packet that a path carries.

use super::recovery::Sent;

/// The size that every path must carry.
pub(super) const PACKET_BYTES_MIN: usize = 600;
/// The sizes of packets that are tried, smallest first.
const PACKET_SIZES: [usize; 3] = [PACKET_BYTES_MIN, 1_200, 1_452];
/// How many packets larger than the smallest must be lost, and none of them arrive, before smaller ones are sent.
const BLACK_HOLE_LOSSES: u32 = 3;
/// How often a larger size is tried in a row, and how long until that is done again.
const SIZE_TRIES: u32 = 3;
const SIZE_RETRY_MS: u64 = 30_000;

/// The search for the largest packet that arrives (after RFC 8899).
#[derive(Debug)]
pub(super) struct SizeSearch {
    /// The place of the present size in [`PACKET_SIZES`].
    level: usize,
    tries: u32,
    /// Whether a packet of the size that is tried is under way.
    pub(super) probing: bool,
    retry_at_ms: u64,
    /// Whether packets were full, so that a larger size is of use.
    pub(super) wanted: bool,
    losses: u32,
    least_lost: usize,
}

impl SizeSearch {
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            level: 1,
            tries: 0,
            probing: false,
            retry_at_ms: now_ms,
            wanted: false,
            losses: 0,
            least_lost: usize::MAX,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        PACKET_SIZES[self.level]
    }

    /// The size to try now, if any.
    pub(super) fn probe(&self, now_ms: u64) -> Option<usize> {
        let larger = PACKET_SIZES.get(self.level + 1)?;
        (self.wanted && !self.probing && now_ms >= self.retry_at_ms).then_some(*larger)
    }

    pub(super) fn on_arrived(&mut self, sent: &Sent) {
        if sent.bytes >= self.least_lost {
            (self.losses, self.least_lost) = (0, usize::MAX);
        }
        if sent.is_probe {
            self.probing = false;
            self.tries = 0;
            if let Some(level) = PACKET_SIZES.iter().position(|size| *size == sent.bytes) {
                self.level = self.level.max(level);
            }
        }
    }

    /// Notes a loss: whether packets shrink.
    pub(super) fn on_lost(&mut self, sent: &Sent, now_ms: u64) -> bool {
        if sent.is_probe {
            self.probing = false;
            self.tries += 1;
            if self.tries >= SIZE_TRIES {
                self.tries = 0;
                self.retry_at_ms = now_ms.saturating_add(SIZE_RETRY_MS);
            }
            return false;
        }
        if sent.bytes <= PACKET_BYTES_MIN {
            return false;
        }
        self.losses += 1;
        self.least_lost = self.least_lost.min(sent.bytes);
        self.losses >= BLACK_HOLE_LOSSES && self.shrink(now_ms)
    }

    pub(super) fn shrink(&mut self, now_ms: u64) -> bool {
        (self.losses, self.least_lost, self.tries) = (0, usize::MAX, 0);
        self.retry_at_ms = now_ms.saturating_add(SIZE_RETRY_MS);
        let shrinks = self.level > 0;
        self.level = self.level.saturating_sub(1);
        shrinks
    }
}
