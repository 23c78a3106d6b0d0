//! The one source of chance: a stream that a seed and a label determine, on every machine and for ever.

use std::ops::RangeInclusive;

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Numbers drawn from a seed. Every part of a world has a stream of its own, so that taking one part away
/// leaves what the others draw as it was.
#[derive(Debug, Clone)]
pub struct Random {
    numbers: ChaCha8Rng,
}

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self::labelled(seed, "")
    }

    /// The stream of `seed` that belongs to the part of the world called `label`.
    pub fn labelled(seed: u64, label: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("rejoin simulator stream v1");
        hasher.update(&seed.to_le_bytes());
        hasher.update(label.as_bytes());
        Self { numbers: ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()) }
    }

    /// A stream of its own for a part, which the next draws of this one do not touch.
    pub fn fork(&mut self, label: &str) -> Self {
        Self::labelled(self.next_u64(), label)
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.numbers.next_u64()
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.numbers.fill_bytes(&mut bytes);
        bytes
    }

    /// A number below `end`, or 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.numbers.random_range(0..end) }
    }

    /// An index into something of this length, or 0 if it is empty.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// A number within the range.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.numbers.random_range(range)
    }

    /// Whether something happens that does with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.numbers.random::<f64>() < probability
    }

    /// One of `choices`, if there is any.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        choices.get(self.index(choices.len()))
    }

    /// Brings `items` into a random order (Fisher, Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }

    /// A waiting time with this mean, exponentially distributed, in whole milliseconds, at least 1.
    pub fn wait_ms(&mut self, mean_ms: f64) -> u64 {
        let uniform: f64 = self.numbers.random();
        ((-(1.0 - uniform).ln() * mean_ms) as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_its_seed_and_label_and_nothing_else() {
        let draw = |seed, label| Random::labelled(seed, label).next_u64();
        assert_eq!(draw(1, "disk"), draw(1, "disk"));
        assert_ne!(draw(1, "disk"), draw(2, "disk"));
        assert_ne!(draw(1, "disk"), draw(1, "network"));
        assert_eq!(Random::new(7).next_u64(), FIRST_OF_SEED_7, "old seeds must stay replayable");
    }

    /// Changing this makes every seed that was ever written down worthless.
    const FIRST_OF_SEED_7: u64 = 10_574_315_879_271_402_605;
}
