//! The accepting side: from a stranger's first packet to a peer's session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quinn::Incoming;

use crate::close::NetworkClose;
use crate::duplicates::DialledBy;
use crate::handshakes::Place;
use crate::network::Shared;
use crate::tls;

/// What the accepting side turned away before it knew who it was. Counts only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerCounters {
    /// Connections turned away because as many handshakes were in progress as may be.
    pub busy: u64,
    /// Handshakes that failed: unknown keys, other protocols, garbage, and those that took too long.
    pub failed: u64,
}

/// Where [`ListenerCounters`] are kept.
#[derive(Debug, Default)]
pub(crate) struct Turned {
    busy: AtomicU64,
    failed: AtomicU64,
}

impl Turned {
    pub(crate) fn counters(&self) -> ListenerCounters {
        ListenerCounters {
            busy: self.busy.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

/// Accepts connections until the endpoint closes.
pub(crate) async fn accept_connections(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        if shared.handshakes.is_crowded() && !incoming.remote_address_validated() {
            // A failure means that the address was validated after all; the dialler tries again either way.
            let _ = incoming.retry();
            continue;
        }
        match shared.handshakes.begin(incoming.remote_address().ip()) {
            Some(place) => {
                shared.spawn_until_closed(handshake(Arc::clone(&shared), incoming, place));
            }
            None => {
                shared.turned.busy.fetch_add(1, Ordering::Relaxed);
                incoming.refuse();
            }
        }
    }
}

/// Finishes one handshake and hands the connection over. Holds its place for as long as that takes.
async fn handshake(shared: Arc<Shared>, incoming: Incoming, place: Place) {
    let connecting = async { incoming.accept()?.await };
    let Ok(Ok(connection)) =
        tokio::time::timeout(shared.config.handshake_timeout(), connecting).await
    else {
        shared.turned.failed.fetch_add(1, Ordering::Relaxed);
        return;
    };
    drop(place);
    // The verifier has checked the key already; were it ever not called, or the peer removed since, this is what holds.
    match tls::peer_device(&connection).and_then(|device| shared.peer(&device)) {
        Some(peer) => {
            // A refusal is counted and told to the peer, and it is the peer that tries again.
            let _ = shared.start(&peer, connection, DialledBy::Peer);
        }
        None => {
            shared.turned.failed.fetch_add(1, Ordering::Relaxed);
            NetworkClose::NotExpected.close(&connection);
        }
    }
}
