//! One direction of a link: what becomes of the datagrams that are sent over it.

use bytes::Bytes;

use crate::random::Random;

/// How one direction of a link treats datagrams.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkConditions {
    /// Whether anything passes. What is under way when this becomes `false` is lost too.
    pub up: bool,
    /// How long a datagram is under way.
    pub latency: Latency,
    /// How probable it is that a datagram is lost.
    pub loss: f64,
    /// Losses that come in bursts, beside those of `loss`.
    pub bursts: Option<Bursts>,
    /// How probable it is that a datagram arrives twice.
    pub duplicate: f64,
    /// How probable it is that a datagram is held up, so that later ones overtake it. All others keep their order.
    pub reorder: f64,
    /// How probable it is that 1 to 8 bits of a datagram flip.
    pub corrupt: f64,
    /// How many bytes pass in a millisecond; `None` for as many as come.
    pub bytes_per_ms: Option<f64>,
    /// How many bytes may wait for their turn under `bytes_per_ms`; what comes when so many wait is dropped.
    pub queue_bytes: usize,
    /// The largest datagram that passes. Larger ones vanish without a word.
    pub mtu: usize,
}

/// How long a datagram is under way: a fixed part, and a random one with an exponential distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// The shortest time. Nothing arrives in the millisecond in which it is sent.
    pub min_ms: u64,
    /// The mean of what comes on top.
    pub tail_ms: f64,
    /// The longest time.
    pub max_ms: u64,
}

impl Latency {
    /// Always the same.
    pub fn fixed(ms: u64) -> Self {
        Self { min_ms: ms, tail_ms: 0.0, max_ms: ms }
    }

    fn draw(&self, random: &mut Random) -> u64 {
        let tail = if self.tail_ms > 0.0 { random.wait_ms(self.tail_ms) } else { 0 };
        self.min_ms.saturating_add(tail).min(self.max_ms).max(1)
    }
}

/// Losses in bursts: a link that is good or bad, and changes between the two (Gilbert 1960, Elliott 1963).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bursts {
    /// How probable it is that it turns bad, with each datagram.
    pub begin: f64,
    /// How probable it is that it turns good again, with each datagram.
    pub end: f64,
    /// How probable it is that a datagram is lost while it is bad.
    pub loss: f64,
}

impl Default for LinkConditions {
    /// A local network: a millisecond or two, and nothing goes wrong.
    fn default() -> Self {
        Self {
            up: true,
            latency: Latency { min_ms: 1, tail_ms: 0.5, max_ms: 20 },
            loss: 0.0,
            bursts: None,
            duplicate: 0.0,
            reorder: 0.0,
            corrupt: 0.0,
            bytes_per_ms: None,
            queue_bytes: 64 << 10,
            mtu: 1_500,
        }
    }
}

impl LinkConditions {
    /// A direction over which nothing passes.
    pub fn cut() -> Self {
        Self { up: false, ..Self::default() }
    }
}

/// Mean extra delay of a datagram that is held up, as a multiple of the time that it would take.
const HELD_UP_FACTOR: u64 = 3;

/// How often each fault has struck.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Faults {
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) reordered: u64,
    pub(super) corrupted: u64,
    pub(super) cut_off: u64,
    pub(super) rate_limited: u64,
    pub(super) too_large: u64,
}

/// One direction of a link, with chance of its own: what is sent over other links does not change its ways.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) conditions: LinkConditions,
    random: Random,
    bad: bool,
    /// When the last of what waits under the rate limit will have passed.
    free_at_ms: f64,
    /// When the last datagram that was not held up arrives.
    last_at_ms: u64,
}

impl Link {
    pub(super) fn new(random: Random) -> Self {
        Self {
            conditions: LinkConditions::default(),
            random,
            bad: false,
            free_at_ms: 0.0,
            last_at_ms: 0,
        }
    }

    /// Puts other conditions in force. What waits in the queue of a rate limit that is lifted no longer counts.
    pub(super) fn set(&mut self, conditions: LinkConditions) {
        if conditions.bytes_per_ms != self.conditions.bytes_per_ms {
            self.free_at_ms = 0.0;
        }
        self.bad &= conditions.bursts.is_some();
        self.conditions = conditions;
    }

    /// Sends a datagram: `arrive` is called with each copy that arrives and the time when it does.
    pub(super) fn send(
        &mut self,
        bytes: Bytes,
        now_ms: u64,
        faults: &mut Faults,
        mut arrive: impl FnMut(Bytes, u64),
    ) {
        if !self.conditions.up {
            faults.cut_off += 1;
            return;
        }
        if bytes.len() > self.conditions.mtu {
            faults.too_large += 1;
            return;
        }
        let Some(leaves_ms) = self.queue(bytes.len(), now_ms, faults) else { return };
        if self.is_lost() {
            faults.lost += 1;
            return;
        }
        let bytes = if self.happens(self.conditions.corrupt) {
            faults.corrupted += 1;
            self.corrupt(&bytes)
        } else {
            bytes
        };
        let latency_ms = self.conditions.latency.draw(&mut self.random);
        let at_ms = leaves_ms.saturating_add(latency_ms);
        if self.happens(self.conditions.duplicate) {
            faults.duplicated += 1;
            arrive(bytes.clone(), at_ms.saturating_add(self.hold_up(latency_ms)));
        }
        if self.happens(self.conditions.reorder) {
            faults.reordered += 1;
            arrive(bytes, at_ms.saturating_add(self.hold_up(latency_ms)));
        } else {
            self.last_at_ms = self.last_at_ms.max(at_ms);
            arrive(bytes, self.last_at_ms);
        }
    }

    /// Lines a datagram up under the rate limit: when it has passed, if it is not dropped.
    fn queue(&mut self, bytes: usize, now_ms: u64, faults: &mut Faults) -> Option<u64> {
        let Some(rate) = self.conditions.bytes_per_ms.filter(|rate| *rate > 0.0) else {
            return Some(now_ms);
        };
        let now = now_ms as f64;
        let waiting = (self.free_at_ms - now).max(0.0) * rate;
        if waiting >= 1.0 {
            faults.rate_limited += 1;
            if waiting as usize + bytes > self.conditions.queue_bytes {
                return None;
            }
        }
        self.free_at_ms = self.free_at_ms.max(now) + bytes as f64 / rate;
        Some(self.free_at_ms as u64)
    }

    fn is_lost(&mut self) -> bool {
        let burst = self.conditions.bursts.is_some_and(|bursts| {
            let turns = if self.bad { bursts.end } else { bursts.begin };
            self.bad ^= self.happens(turns);
            self.bad && self.happens(bursts.loss)
        });
        burst || self.happens(self.conditions.loss)
    }

    fn corrupt(&mut self, bytes: &Bytes) -> Bytes {
        let mut copy = bytes.to_vec();
        for _ in 0..self.random.within(1..=8) {
            let bit = self.random.index(copy.len() * 8);
            if let Some(byte) = copy.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
        copy.into()
    }

    fn hold_up(&mut self, latency_ms: u64) -> u64 {
        self.random.wait_ms((latency_ms * HELD_UP_FACTOR) as f64)
    }

    /// Draws only where there is a choice: a link without faults costs next to nothing.
    fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.random.chance(probability)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
mod tests {
    use super::*;

    fn send(link: &mut Link, count: u64, bytes: usize) -> (Vec<(Bytes, u64)>, Faults) {
        let (mut arrived, mut faults) = (Vec::new(), Faults::default());
        for now_ms in 0..count {
            let datagram = Bytes::from(vec![0; bytes]);
            link.send(datagram, now_ms, &mut faults, |bytes, at_ms| arrived.push((bytes, at_ms)));
        }
        (arrived, faults)
    }

    fn link(conditions: LinkConditions) -> Link {
        let mut link = Link::new(Random::labelled(3, "link"));
        link.set(conditions);
        link
    }

    #[test]
    fn an_undisturbed_link_keeps_everything_and_its_order() {
        let latency = Latency { min_ms: 5, tail_ms: 10.0, max_ms: 50 };
        let (arrived, faults) =
            send(&mut link(LinkConditions { latency, ..LinkConditions::default() }), 500, 100);
        assert_eq!(faults, Faults::default());
        assert_eq!(arrived.len(), 500);
        assert!(arrived.windows(2).all(|pair| pair[0].1 <= pair[1].1));
        assert!(arrived.iter().zip(0..).all(|((_, at), sent)| (6..=550).contains(&(at - sent))));
    }

    #[test]
    fn every_fault_strikes_about_as_often_as_it_should() {
        let conditions = LinkConditions {
            loss: 0.2,
            duplicate: 0.1,
            reorder: 0.1,
            corrupt: 0.1,
            ..LinkConditions::default()
        };
        let (arrived, faults) = send(&mut link(conditions), 10_000, 100);
        assert!((1_800..2_200).contains(&faults.lost), "{faults:?}");
        for count in [faults.duplicated, faults.reordered, faults.corrupted] {
            assert!((650..950).contains(&count), "{faults:?}");
        }
        assert_eq!(arrived.len() as u64, 10_000 - faults.lost + faults.duplicated);
        let flipped = arrived.iter().filter(|(bytes, _)| bytes.iter().any(|byte| *byte != 0));
        assert!(flipped.count() as u64 >= faults.corrupted * 9 / 10);
    }

    #[test]
    fn losses_in_bursts_come_in_bursts() {
        let bursts = Some(Bursts { begin: 0.01, end: 0.1, loss: 0.9 });
        let (_, faults) =
            send(&mut link(LinkConditions { bursts, ..LinkConditions::default() }), 20_000, 10);
        // A share of 1 / 11 of the time is bad.
        assert!((1_200..2_100).contains(&faults.lost), "{faults:?}");
    }

    #[test]
    fn a_rate_limit_delays_and_then_drops() {
        let conditions = LinkConditions {
            latency: Latency::fixed(1),
            bytes_per_ms: Some(50.0),
            queue_bytes: 1_000,
            ..LinkConditions::default()
        };
        let (arrived, faults) = send(&mut link(conditions), 1_000, 100);
        assert!((505..530).contains(&arrived.len()), "half of it fits: {}", arrived.len());
        assert!(faults.rate_limited >= 900);
        let latest = arrived.iter().map(|(_, at_ms)| *at_ms).max().unwrap();
        assert!(latest <= 1_000 + 1_100 / 50 + 1, "{latest}");
    }

    #[test]
    fn nothing_passes_that_is_too_large_or_cut_off() {
        let conditions = LinkConditions { mtu: 99, ..LinkConditions::default() };
        let (arrived, faults) = send(&mut link(conditions), 10, 100);
        assert!(arrived.is_empty());
        assert_eq!(faults, Faults { too_large: 10, ..Faults::default() });
        let (arrived, faults) = send(&mut link(LinkConditions::cut()), 10, 100);
        assert!(arrived.is_empty());
        assert_eq!(faults, Faults { cut_off: 10, ..Faults::default() });
    }
}
