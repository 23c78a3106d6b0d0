//! What can be set on the transport, and on one end.

use rejoin_gossip::wire::Lane;

/// What can be set on the transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportConfig {
    /// A handshake that takes longer than this has failed.
    pub handshake_timeout_ms: u64,
    /// A connection over which nothing arrives for this long is dead.
    pub idle_timeout_ms: u64,
    /// An idle connection sends a packet this often.
    pub keep_alive_ms: u64,
    /// How much of one lane may be under way or unread.
    pub lane_window_bytes: u64,
    /// How much of all lanes of a connection together may be under way or unread.
    pub connection_window_bytes: u64,
    /// What a new end reads until [`set_reading`](crate::network::Network::set_reading) says otherwise.
    pub reading: Reading,
    /// How much of what arrives at a paused node is kept for it; the rest is lost.
    pub socket_bytes: usize,
    /// Whether packets whose tag does not fit are dropped. Only a planted bug turns that off.
    pub verify_tags: bool,
}

impl Default for TransportConfig {
    /// As the real transport: see `rejoin_quic::NetworkConfig` and the windows beside it.
    fn default() -> Self {
        Self {
            handshake_timeout_ms: 5_000,
            idle_timeout_ms: 10_000,
            keep_alive_ms: 3_000,
            lane_window_bytes: 1 << 20,
            connection_window_bytes: 4 << 20,
            reading: Reading::Control,
            socket_bytes: 256 << 10,
            verify_tags: true,
        }
    }
}

/// What an end reads. What it does not read stays in the transport, and in the end holds the sender back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reading {
    /// Nothing.
    Nothing,
    /// The control lane alone, as until a session is established.
    Control,
    /// Everything.
    All,
}

impl Reading {
    /// Whether a lane is read.
    pub(super) fn includes(self, lane: Lane) -> bool {
        match self {
            Reading::Nothing => false,
            Reading::Control => lane == Lane::Control,
            Reading::All => true,
        }
    }
}
