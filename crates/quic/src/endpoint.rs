//! The UDP socket and the QUIC endpoint on it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{Endpoint, EndpointConfig, TokioRuntime};
use quinn_proto::HashedConnectionIdGenerator;
use rejoin_gossip::DeviceId;

use crate::config::LANES_MAX;
use crate::config::{INCOMING_BUFFER_BYTES, INCOMING_BUFFER_TOTAL_BYTES, NetworkConfig};
use crate::identity::DeviceKey;
use crate::tls::{self, ExpectedPeers};

const RESET_CONTEXT: &str = "rejoin 2026-11 QUIC stateless reset key";
const CONNECTION_ID_CONTEXT: &str = "rejoin 2026-11 QUIC connection id key";

/// Binds `address` and accepts connections of the devices in `expected`.
///
/// # Errors
///
/// When the address cannot be bound, or the TLS library refuses its settings ([`io::ErrorKind::Other`]).
pub(crate) fn bind(
    address: SocketAddr,
    key: &DeviceKey,
    expected: ExpectedPeers,
    config: &NetworkConfig,
) -> io::Result<Endpoint> {
    let crypto = tls::accepting(key, expected).map_err(io::Error::other)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(config.transport(1, LANES_MAX))
        .max_incoming(config.handshakes_max)
        .incoming_buffer_size(INCOMING_BUFFER_BYTES)
        .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL_BYTES);
    let socket = UdpSocket::bind(address)?;
    Endpoint::new(endpoint_config(key), Some(server), socket, Arc::new(TokioRuntime))
}

/// How `peer` is dialled. The control stream is ours to open, so the peer may open no two-way stream.
///
/// # Errors
///
/// If the TLS library refuses its settings.
pub(crate) fn client_config(
    key: &DeviceKey,
    peer: DeviceId,
    config: &NetworkConfig,
) -> Result<quinn::ClientConfig, rustls::Error> {
    let mut client = quinn::ClientConfig::new(Arc::new(tls::dialling(key, peer)?));
    client.transport_config(config.transport(0, LANES_MAX));
    Ok(client)
}

/// Keys that stay the same over restarts let an endpoint that came back tell peers at once, by stateless reset (RFC
/// 9000 section 10.3), that it has lost their connections. With random ones they would wait for the idle timeout.
fn endpoint_config(key: &DeviceKey) -> EndpointConfig {
    let [a, b, c, d, e, f, g, h, ..] = key.derive(CONNECTION_ID_CONTEXT);
    let id_key = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let mut config = EndpointConfig::new(Arc::new(ResetKey(key.derive(RESET_CONTEXT))));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    config
}

/// Keyed BLAKE3 as the function that turns connection ids into reset tokens.
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let signature: [u8; blake3::OUT_LEN] = signature.try_into().map_err(|_| CryptoError)?;
        // `blake3::Hash` compares in constant time.
        if blake3::keyed_hash(&self.0, data) == signature { Ok(()) } else { Err(CryptoError) }
    }
}
