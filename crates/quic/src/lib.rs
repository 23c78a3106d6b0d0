//! QUIC under rejoin's sync sessions: endpoint, connections, framed streams and device keys.
//!
//! A [`QuicNetwork`] keeps one replica in sync with its peers. It binds one UDP address, dials every peer
//! that it knows an address of, again and again for as long as it lives, and accepts the connections of
//! peers. Both ends of a connection prove an Ed25519 [`DeviceKey`] in TLS 1.3, and a device that is not
//! expected is turned away in the handshake.
//!
//! What is said over a connection is the business of [`rejoin_gossip::Session`], a state machine without
//! I/O. This crate moves its bytes, calls storage for it where blocking is allowed, and gives it the time.
//!
//! # What a peer can make us hold
//!
//! A stranger: one of [`NetworkConfig::handshakes_max`] places for at most
//! [`NetworkConfig::handshake_timeout_ms`], and a few dozen kilobytes. An expected peer: one connection, and
//! over all its streams a fixed number of bytes each for what it has begun to send, for what it has not
//! read yet, and for QUIC's windows in either direction: 64 MiB, however it behaves. The session's own
//! bounds are in [`rejoin_gossip::wire`].

mod clock;
mod close;
mod config;
mod dial;
mod driver;
mod duplicates;
mod endpoint;
mod handshakes;
mod identity;
mod inbound;
mod inbox;
mod listen;
mod network;
mod outbound;
mod peers;
mod tls;

pub use close::{LinkError, NetworkClose, StreamError};
pub use config::NetworkConfig;
pub use identity::{DeviceKey, DeviceKeyError};
pub use listen::ListenerCounters;
pub use network::{
    BindError, EVENTS_MAX, NetworkEvent, NetworkEvents, PEERS_MAX, PeerError, QuicNetwork,
};
pub use peers::{ConnectionStatus, PeerCounters, PeerStatus};
// Part of this crate's API.
pub use rejoin_gossip::DeviceId;
