//! Which packets have arrived, which are lost, how long to wait for the rest, and how many may be under way.
//!
//! After RFC 9002, whose sections are named where they apply.

use std::collections::VecDeque;

use super::sending::Chunk;

/// How much later packets may be acknowledged before an earlier one counts as lost (6.1.1).
const REORDERING_PACKETS: u64 = 3;
/// The round trip that is assumed before one was measured (6.2.2).
const FIRST_ROUND_TRIP_MS: f64 = 333.0;
/// The congestion window at first, in full packets (7.2).
const FIRST_WINDOW_PACKETS: usize = 10;
/// The smallest congestion window, in full packets. QUIC goes down to two; with four, a link that loses a third of
/// what it is given costs less virtual time, and no other kind of trouble.
const LEAST_WINDOW_PACKETS: usize = 4;
/// The largest congestion window: no more can be under way anyway.
const WINDOW_BYTES_MAX: usize = 4 << 20;
/// The packet size in which the congestion window is counted.
const FULL_PACKET_BYTES: usize = 1_200;

/// What was in a packet, to be noted as arrived or sent again.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) at_ms: u64,
    pub(super) bytes: usize,
    /// The first part of a lane, which most packets have, and the others.
    pub(super) chunk: Option<Chunk>,
    pub(super) more_chunks: Vec<Chunk>,
    /// Windows that it told of.
    pub(super) limit: bool,
    pub(super) lanes: Vec<u64>,
    /// The highest packet number that it acknowledged.
    pub(super) acked: Option<u64>,
    /// Whether it was sent to find out whether one of its size arrives.
    pub(super) is_probe: bool,
}

impl Sent {
    pub(super) fn chunks(&self) -> impl Iterator<Item = Chunk> + '_ {
        self.chunk.into_iter().chain(self.more_chunks.iter().copied())
    }
}

/// The packets of one end that wait for an acknowledgement.
#[derive(Debug)]
pub(super) struct Recovery {
    /// From this number on; `None` for what needs no acknowledgement or has it.
    sent: VecDeque<Option<Sent>>,
    first: u64,
    largest_acked: Option<u64>,
    waiting: usize,
    in_flight: usize,
    last_sent_ms: u64,
    /// How often in a row nothing came back in time.
    tries: u32,
    loss_at_ms: Option<u64>,
    round_trip: RoundTrip,
    window: usize,
    threshold: usize,
    /// When the window was last cut; only packets sent later speak of the window now (7.3.2).
    cut_ms: Option<u64>,
}

#[derive(Debug)]
struct RoundTrip {
    measured: bool,
    least: f64,
    latest: f64,
    smoothed: f64,
    variation: f64,
}

impl Recovery {
    pub(super) fn new() -> Self {
        Self {
            sent: VecDeque::new(),
            first: 0,
            largest_acked: None,
            waiting: 0,
            in_flight: 0,
            last_sent_ms: 0,
            tries: 0,
            loss_at_ms: None,
            round_trip: RoundTrip {
                measured: false,
                least: FIRST_ROUND_TRIP_MS,
                latest: FIRST_ROUND_TRIP_MS,
                smoothed: FIRST_ROUND_TRIP_MS,
                variation: FIRST_ROUND_TRIP_MS / 2.0,
            },
            window: FIRST_WINDOW_PACKETS * FULL_PACKET_BYTES,
            threshold: usize::MAX,
            cut_ms: None,
        }
    }

    /// The number of the packet that is sent next.
    pub(super) fn next_number(&self) -> u64 {
        self.first + self.sent.len() as u64
    }

    /// Whether the congestion window allows another packet.
    pub(super) fn may_send(&self) -> bool {
        self.in_flight < self.window
    }

    /// How often in a row nothing came back in time.
    pub(super) fn tries(&self) -> u32 {
        self.tries
    }

    /// How long to wait for an acknowledgement at least (6.2.1).
    pub(super) fn patience_ms(&self, ack_delay_ms: u64) -> u64 {
        let RoundTrip { smoothed, variation, .. } = self.round_trip;
        (smoothed + (4.0 * variation).max(1.0)).ceil() as u64 + ack_delay_ms
    }

    /// When to probe, as nothing has come back (6.2.1).
    pub(super) fn probe_at_ms(&self, ack_delay_ms: u64) -> Option<u64> {
        let patience_ms = self.patience_ms(ack_delay_ms).saturating_mul(1 << self.tries.min(16));
        (self.waiting > 0).then(|| self.last_sent_ms.saturating_add(patience_ms))
    }

    /// When to call [`detect`](Self::detect).
    pub(super) fn loss_at_ms(&self) -> Option<u64> {
        self.loss_at_ms
    }

    /// The oldest packets that wait.
    pub(super) fn oldest(&self) -> impl Iterator<Item = &Sent> + '_ {
        self.sent.iter().flatten()
    }

    /// Notes that nothing has come back in time.
    pub(super) fn on_silence(&mut self) {
        self.tries += 1;
    }

    /// Notes a round trip that was measured otherwise.
    pub(super) fn measured(&mut self, ms: u64) {
        self.round_trip.measure(ms as f64, 0.0);
    }

    /// Begins anew on another path, of which nothing is known (9.4 of RFC 9000).
    pub(super) fn on_new_path(&mut self) {
        let Self { round_trip, window, threshold, .. } = Self::new();
        (self.round_trip, self.window, self.threshold) = (round_trip, window, threshold);
        self.tries = 0;
    }

    /// Notes the packet with [`next_number`](Self::next_number); `None` if it needs no acknowledgement.
    pub(super) fn on_sent(&mut self, sent: Option<Sent>) {
        match sent {
            Some(sent) => {
                self.waiting += 1;
                self.in_flight += sent.bytes;
                self.last_sent_ms = sent.at_ms;
                self.sent.push_back(Some(sent));
            }
            None if self.sent.is_empty() => self.first += 1,
            None => self.sent.push_back(None),
        }
    }

    /// Takes in an acknowledgement, highest range first: what has arrived, and what must be lost.
    pub(super) fn on_ack(
        &mut self,
        ranges: &[(u64, u64)],
        delay_ms: u64,
        now_ms: u64,
        arrived: &mut Vec<Sent>,
        lost: &mut Vec<Sent>,
    ) {
        // Only damage that went unnoticed acknowledges what was never sent.
        let next = self.next_number();
        let Some(largest) = ranges.first().and_then(|range| range.1.min(next).checked_sub(1))
        else {
            return;
        };
        let full = self.in_flight + FULL_PACKET_BYTES >= self.window;
        let mut sample_ms = None;
        for range in ranges {
            let from = range.0.max(self.first);
            for number in (from..range.1.min(next)).rev() {
                let Some(sent) = self.take(number) else { continue };
                if number == largest {
                    sample_ms = Some(now_ms.saturating_sub(sent.at_ms));
                }
                self.grow(&sent, full);
                arrived.push(sent);
            }
        }
        if let Some(sample_ms) = sample_ms {
            self.round_trip.measure(sample_ms as f64, delay_ms as f64);
        }
        if !arrived.is_empty() {
            self.tries = 0;
        }
        self.largest_acked = self.largest_acked.max(Some(largest));
        self.detect(now_ms, lost);
    }

    /// Finds what must be lost, as later packets have arrived, and enough of them or long enough ago (6.1).
    pub(super) fn detect(&mut self, now_ms: u64, lost: &mut Vec<Sent>) {
        self.loss_at_ms = None;
        let Some(largest) = self.largest_acked else { return self.forget_front() };
        let patience = (self.round_trip.smoothed.max(self.round_trip.latest) * 1.125).max(1.0);
        let patience_ms = patience.ceil() as u64;
        for number in self.first..largest.min(self.next_number()) {
            let index = (number - self.first) as usize;
            let Some(Some(sent)) = self.sent.get(index) else { continue };
            let due_ms = sent.at_ms.saturating_add(patience_ms);
            if largest - number < REORDERING_PACKETS && due_ms > now_ms {
                self.loss_at_ms = Some(self.loss_at_ms.map_or(due_ms, |at| at.min(due_ms)));
            } else if let Some(sent) = self.take(number) {
                self.shrink(&sent, now_ms);
                lost.push(sent);
            }
        }
        self.forget_front();
    }

    fn take(&mut self, number: u64) -> Option<Sent> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let sent = self.sent.get_mut(index)?.take()?;
        self.waiting -= 1;
        self.in_flight -= sent.bytes;
        Some(sent)
    }

    fn forget_front(&mut self) {
        while let Some(None) = self.sent.front() {
            self.sent.pop_front();
            self.first += 1;
        }
    }

    /// Slow start, then congestion avoidance (7.3.1, 7.3.3); only while the window is what limits.
    fn grow(&mut self, sent: &Sent, full: bool) {
        if !full || self.cut_ms.is_some_and(|cut_ms| sent.at_ms <= cut_ms) {
            return;
        }
        self.window += if self.window < self.threshold {
            sent.bytes
        } else {
            FULL_PACKET_BYTES * sent.bytes / self.window
        };
        self.window = self.window.min(WINDOW_BYTES_MAX);
    }

    /// Halves the window, once for all that is lost in a round trip (7.3.2).
    fn shrink(&mut self, sent: &Sent, now_ms: u64) {
        if sent.is_probe || self.cut_ms.is_some_and(|cut_ms| sent.at_ms <= cut_ms) {
            return;
        }
        self.cut_ms = Some(now_ms);
        self.window = (self.window / 2).max(LEAST_WINDOW_PACKETS * FULL_PACKET_BYTES);
        self.threshold = self.window;
    }
}

impl RoundTrip {
    /// Takes in a sample (5.3).
    fn measure(&mut self, sample_ms: f64, delay_ms: f64) {
        self.latest = sample_ms;
        if !self.measured {
            self.measured = true;
            (self.least, self.smoothed, self.variation) = (sample_ms, sample_ms, sample_ms / 2.0);
            return;
        }
        self.least = self.least.min(sample_ms);
        let adjusted =
            if sample_ms >= self.least + delay_ms { sample_ms - delay_ms } else { sample_ms };
        self.variation = 0.75 * self.variation + 0.25 * (self.smoothed - adjusted).abs();
        self.smoothed = 0.875 * self.smoothed + 0.125 * adjusted;
    }
}
