//! The times a session goes by, and the versions it speaks.

use crate::wire::{PROTOCOL_MAX, PROTOCOL_MIN};

/// The times a session goes by, and the versions it speaks. Sizes are part of the protocol and stand in
/// [`wire`](crate::wire).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The peer's hello must have come within this time.
    pub hello_timeout_ms: u64,
    /// Commits of third parties are sent on to the peer this long after they came here, unless it
    /// has them by then: in a mesh their writer has most likely sent them there itself. It is twice
    /// the time in which this peer acknowledges, but not less than this.
    pub relay_delay_ms: u64,
    /// The longest that commits of third parties are held back.
    pub relay_delay_max_ms: u64,
    /// News of third parties' commits is gathered this long before the peer is told that they are
    /// here. Well below `relay_delay_ms`, or the peer will send them again. Acknowledgements never
    /// wait.
    pub announce_delay_ms: u64,
    /// The connection is closed when data is under way and nothing of it is acknowledged for this
    /// long, plus the time that what is under way takes at 4 KB/s.
    pub progress_timeout_ms: u64,
    /// While a peer's state is being joined, the peer is told so at this interval. Well below the
    /// peer's `progress_timeout_ms`.
    pub working_interval_ms: u64,
    /// When storage, here or at the peer, has stopped the sync of a space, the connection is closed after this
    /// long, so that the next one tries it again.
    pub retry_after_ms: u64,
    /// The lowest protocol version spoken: [`PROTOCOL_MIN`], unless old versions are to be refused.
    pub protocol_min: u16,
    /// The highest: [`PROTOCOL_MAX`]. Tests go beyond it, to be the next version of this program: what is
    /// agreed on beyond it is spoken as that is.
    pub protocol_max: u16,
}

impl Default for Config {
    /// All guesses: 10 s for the hello, 20 ms to 1 s before relaying, 5 ms before announcing, 60 s
    /// without progress, 15 s between signs of work, 30 s
    /// before failed storage is tried again.
    fn default() -> Self {
        Self {
            hello_timeout_ms: 10_000,
            relay_delay_ms: 20,
            relay_delay_max_ms: 1_000,
            announce_delay_ms: 5,
            progress_timeout_ms: 60_000,
            working_interval_ms: 15_000,
            retry_after_ms: 30_000,
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
        }
    }
}
