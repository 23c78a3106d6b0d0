//! Choices that depend on a seed alone.

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to pick orders with.
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    /// A number below `bound`, which is not zero. The bias is below `bound` in 2^64.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}
