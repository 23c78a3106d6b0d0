//! The dialling side: one task per peer, which keeps a connection to it for ever.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{ConnectError, Connection};

use crate::close::{LinkError, NetworkClose};
use crate::duplicates::DialledBy;
use crate::endpoint;
use crate::network::Shared;
use crate::peers::{DialStep, Peer};
use crate::tls;

/// Dials `peer` whenever it is wanted and not connected, until it is removed.
pub(crate) async fn keep_dialled(shared: Arc<Shared>, peer: Arc<Peer>) {
    loop {
        match peer.next_dial(shared.clock.now_ms()) {
            DialStep::Stop => return,
            DialStep::Wait => peer.changed().await,
            DialStep::WaitUntil(at_ms) => tokio::select! {
                () = shared.clock.sleep_until(at_ms) => {}
                () = peer.changed() => {}
            },
            DialStep::Dial(address) => tokio::select! {
                dialled = dial(&shared, &peer, address) => {
                    if let Err(error) = dialled.and_then(|connection| shared.start(&peer, connection, DialledBy::Us)) {
                        peer.dial_failed(error, shared.clock.now_ms());
                    }
                }
                () = no_longer_wanted(&shared, &peer, address) => {}
            },
        }
    }
}

/// One attempt at one address, up to the end of the handshake.
async fn dial(shared: &Shared, peer: &Peer, address: SocketAddr) -> Result<Connection, LinkError> {
    let config = endpoint::client_config(&shared.key, peer.device, &shared.config)
        .map_err(|error| LinkError::NotDialled(error.to_string()))?;
    let connecting = shared
        .endpoint
        .connect_with(config, address, tls::SERVER_NAME)
        .map_err(|error: ConnectError| LinkError::NotDialled(error.to_string()))?;
    let connection = tokio::time::timeout(shared.config.handshake_timeout(), connecting)
        .await
        .map_err(|_| LinkError::TimedOut)?
        .map_err(|error| LinkError::of_connection(&error))?;
    // The verifier has checked this already; were it ever not called, this is what holds.
    if tls::peer_device(&connection) == Some(peer.device) {
        Ok(connection)
    } else {
        NetworkClose::NotExpected.close(&connection);
        Err(LinkError::OtherDevice)
    }
}

/// Completes when a dial to `address` is not what should happen any more: the peer came to us, or was taken down, moved
/// or removed.
async fn no_longer_wanted(shared: &Shared, peer: &Peer, address: SocketAddr) {
    while peer.next_dial(shared.clock.now_ms()) == DialStep::Dial(address) {
        peer.changed().await;
    }
}
