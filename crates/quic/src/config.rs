//! What can be set on a network, and the fixed bounds on one connection.

use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, TransportConfig, VarInt};
use rejoin_gossip::wire::SPACES_MAX;
use rejoin_gossip::{Config as SessionConfig, RedialConfig};

/// How many one-way streams a peer may open: one for each space that can be shared.
pub(crate) const LANES_MAX: u32 = SPACES_MAX as u32;

/// How much of one stream may be in flight or unread: a lane moves at most this per round trip. A guess: 1 MiB
/// over 100 ms is 10 MB/s, more than a phone's disk takes in.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// How much of all streams of one connection together may be in flight or unread: with
/// [`INBOUND_BYTES_MAX`](crate::inbound::INBOUND_BYTES_MAX) it bounds the memory that a peer can make us hold.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// How much written and unacknowledged data one connection keeps for retransmission; beyond it, writers wait.
pub(crate) const SEND_WINDOW_BYTES: u64 = 4 << 20;

/// The most handshake bytes held out of order per connection. Ours are under 4 KiB a flight.
const CRYPTO_BUFFER_BYTES: usize = 16 << 10;

/// The most bytes held per incoming connection that nobody has accepted yet, and for all of them together.
pub(crate) const INCOMING_BUFFER_BYTES: u64 = 16 << 10;
/// See [`INCOMING_BUFFER_BYTES`].
pub(crate) const INCOMING_BUFFER_TOTAL_BYTES: u64 = 1 << 20;

/// What can be set on a [`QuicNetwork`](crate::QuicNetwork).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// A handshake that takes longer than this has failed. 5 s, a guess: five round trips of a bad mobile link.
    pub handshake_timeout_ms: u64,
    /// A connection over which nothing arrives for this long is dead. 10 s: a tunnel is noticed within it.
    /// At least three times `keep_alive_ms`, so that two lost packets do not end a connection.
    pub idle_timeout_ms: u64,
    /// An idle connection sends a packet this often, which also keeps address translation open. 3 s.
    pub keep_alive_ms: u64,
    /// Handshakes in progress on the accepting side, at most; further ones are refused, and their dialler tries
    /// again. One network address may hold half of them. 64.
    pub handshakes_max: usize,
    /// Connections to peers, at most; further ones are refused. 256. Per device there is one.
    pub connections_max: usize,
    /// When to dial a lost peer again.
    pub redial: RedialConfig,
    /// The times that sessions go by.
    pub session: SessionConfig,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            handshake_timeout_ms: 5_000,
            idle_timeout_ms: 10_000,
            keep_alive_ms: 3_000,
            handshakes_max: 64,
            connections_max: 256,
            redial: RedialConfig::default(),
            session: SessionConfig::default(),
        }
    }
}

impl NetworkConfig {
    /// Whether the relations stated on the fields hold.
    pub(crate) fn is_coherent(&self) -> bool {
        let idle = u32::try_from(self.idle_timeout_ms).is_ok_and(|idle_ms| idle_ms > 0);
        idle && self.handshake_timeout_ms > 0
            && self.keep_alive_ms > 0
            && self.keep_alive_ms.saturating_mul(3) <= self.idle_timeout_ms
    }

    pub(crate) fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }

    /// The transport of a connection on which the peer may open `bidirectional` two-way streams and `unidirectional`
    /// one-way streams at a time.
    pub(crate) fn transport(
        &self,
        bidirectional: u32,
        unidirectional: u32,
    ) -> Arc<TransportConfig> {
        let idle_ms = u32::try_from(self.idle_timeout_ms).unwrap_or(u32::MAX);
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(bidirectional))
            .max_concurrent_uni_streams(VarInt::from_u32(unidirectional))
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
            .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
            .send_window(SEND_WINDOW_BYTES)
            .crypto_buffer_size(CRYPTO_BUFFER_BYTES)
            .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms))))
            .keep_alive_interval(Some(Duration::from_millis(self.keep_alive_ms)))
            .datagram_receive_buffer_size(None);
        Arc::new(transport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_coherent_and_a_keep_alive_too_rare_is_not() {
        assert!(NetworkConfig::default().is_coherent());
        assert!(!NetworkConfig { keep_alive_ms: 4_000, ..NetworkConfig::default() }.is_coherent());
        assert!(!NetworkConfig { keep_alive_ms: 0, ..NetworkConfig::default() }.is_coherent());
        assert!(
            !NetworkConfig { idle_timeout_ms: u64::MAX, ..NetworkConfig::default() }.is_coherent()
        );
        assert!(
            !NetworkConfig { handshake_timeout_ms: 0, ..NetworkConfig::default() }.is_coherent()
        );
    }
}
