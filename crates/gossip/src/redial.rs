//! When to dial a peer again.

use rejoin_crdt::planted::{self, Bug};

/// How soon a lost peer is dialled again, and how that slows down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedialConfig {
    /// The wait after the first failure; it doubles with each further one.
    pub base_ms: u64,
    /// Where doubling stops. A peer known to be down is dialled at about this interval, for ever.
    pub cap_ms: u64,
    /// A connection that lasted at least this long clears the count of failures. Longer than the
    /// hello timeout of a session, so that a peer that accepts and then fails does not count as up.
    pub settled_ms: u64,
}

impl Default for RedialConfig {
    /// 100 ms, doubling to 30 s; settled after 15 s. All three are guesses.
    fn default() -> Self {
        Self { base_ms: 100, cap_ms: 30_000, settled_ms: 15_000 }
    }
}

/// Decides how long to wait before dialling one peer again: exponential backoff with jitter.
///
/// The jitter is applied *after* the cap. Applied before it, every peer that has reached the cap
/// would wait exactly as long as all others, and they would return in step.
///
/// Time and the seed are passed in. Peers of one replica need different seeds, and so do replicas.
///
/// ```
/// use rejoin_gossip::{Redial, RedialConfig};
///
/// let mut redial = Redial::new(RedialConfig::default(), 42);
/// let wait_ms = redial.failed(0); // the dial at time 0 failed
/// assert!((50..150).contains(&wait_ms));
/// redial.connected(wait_ms); // the next one succeeded
/// let wait_ms = redial.failed(60_000); // and lasted a minute
/// assert!((50..150).contains(&wait_ms));
/// ```
#[derive(Debug, Clone)]
pub struct Redial {
    config: RedialConfig,
    failures: u32,
    connected_at_ms: Option<u64>,
    random: u64,
}

impl Redial {
    /// A policy with no failures yet; `seed` drives its jitter.
    pub fn new(config: RedialConfig, seed: u64) -> Self {
        Self { config, failures: 0, connected_at_ms: None, random: seed }
    }

    /// The dial succeeded at `now_ms`.
    pub fn connected(&mut self, now_ms: u64) {
        self.connected_at_ms = Some(now_ms);
    }

    /// The dial failed, or the connection ended, at `now_ms`: how long to wait before the next
    /// dial, in milliseconds.
    pub fn failed(&mut self, now_ms: u64) -> u64 {
        if let Some(since_ms) = self.connected_at_ms.take()
            && now_ms.saturating_sub(since_ms) >= self.config.settled_ms
        {
            self.failures = 0;
        }
        let doubled =
            self.config.base_ms.saturating_mul(1u64.checked_shl(self.failures).unwrap_or(u64::MAX));
        self.failures = self.failures.saturating_add(1);
        if planted::is(Bug::RedialGivesUp) && self.failures > 10 {
            return 1 << 40;
        }
        self.jittered(doubled.min(self.config.cap_ms))
    }

    /// Forgets all failures: something suggests that the peer is back (the network changed, the
    /// peer dialled us).
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Uniform in [delay / 2, 3 * delay / 2).
    fn jittered(&mut self, delay_ms: u64) -> u64 {
        delay_ms / 2 + self.next_random() % delay_ms.max(1)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): spreads delays; not for secrets.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(seed: u64, count: usize) -> Vec<u64> {
        let mut redial = Redial::new(RedialConfig::default(), seed);
        (0..count).map(|_| redial.failed(0)).collect()
    }

    #[test]
    fn waits_double_up_to_the_cap_and_stay_there_for_ever() {
        for (failures, wait) in waits(1, 200).into_iter().enumerate() {
            let middle = if failures < 9 { 100 << failures } else { 30_000 };
            assert!(
                (middle / 2..middle / 2 + middle).contains(&wait),
                "{failures} failures: {wait} ms"
            );
        }
    }

    #[test]
    fn peers_at_the_cap_do_not_return_in_step() {
        let mut last: Vec<u64> = (0..100).map(|seed| waits(seed, 20)[19]).collect();
        last.sort_unstable();
        last.dedup();
        assert!(last.len() > 90, "{} of 100 waits differ", last.len());
        assert!(last[last.len() - 1] - last[0] > 20_000, "jitter spreads over most of the cap");
    }

    #[test]
    fn only_a_connection_that_lasted_clears_the_failures() {
        let mut redial = Redial::new(RedialConfig::default(), 7);
        for _ in 0..20 {
            redial.failed(0);
        }
        redial.connected(1_000);
        assert!(
            redial.failed(1_500) >= 15_000,
            "a connection of half a second is one more failure"
        );
        redial.connected(20_000);
        assert!(redial.failed(40_000) < 150);
    }
}
