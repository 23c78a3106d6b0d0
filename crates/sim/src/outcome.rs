//! What came of one world.

use std::collections::BTreeMap;

use crate::history::Violation;
use crate::trace::Trace;

/// What came of one world.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed that it was made from.
    pub seed: u64,
    /// What must not have happened, and did.
    pub violation: Option<Violation>,
    /// How many events the world went through.
    pub events: u64,
    /// How many faults of each class took effect.
    pub faults: BTreeMap<&'static str, u64>,
    /// How much virtual time passed, in milliseconds.
    pub simulated_ms: u64,
    /// How many rounds of anti-entropy the healed replicas took to converge; `None` if they never did.
    pub rounds_after_heal: Option<u32>,
    /// How many replicas were healed.
    pub healed: usize,
    /// A hash of everything that happened: equal for equal worlds.
    pub trace_hash: [u8; 32],
    /// The story, if it was asked for.
    pub trace: Option<Trace>,
}
