//! The network of one replica: its endpoint, its peers, and what it tells of them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::{Connection, Endpoint};
use rejoin_crdt::{SpaceId, VersionVector};
use rejoin_gossip::{DeviceId, Event, Host, SpaceStatus};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};

use crate::clock::Clock;
use crate::close::{LinkError, NetworkClose};
use crate::config::NetworkConfig;
use crate::dial::keep_dialled;
use crate::driver::{self, HOST_CALLS_MAX};
use crate::duplicates::DialledBy;
use crate::endpoint;
use crate::handshakes::Handshakes;
use crate::identity::DeviceKey;
use crate::listen::{ListenerCounters, Turned, accept_connections};
use crate::peers::{Link, Peer, PeerStatus, Serial};
use crate::tls::ExpectedPeers;

/// The most peers that a network can be given.
pub const PEERS_MAX: usize = 4_096;

/// How many events are kept for a reader that does not keep up; beyond them it misses the oldest, and is told.
pub const EVENTS_MAX: usize = 1_024;

/// How long [`QuicNetwork::close`] waits for peers to acknowledge that it closes.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// Keeps one replica in sync with its peers over QUIC.
///
/// It listens on one UDP address and dials every peer whose address it knows, again and again for as long as it lives.
/// Each connection proves the device keys of both ends and carries one [`Session`](rejoin_gossip::Session), whose
/// storage requests reach the [`Host`] on threads that may block.
///
/// - **Commands** ([`set_peer`](Self::set_peer), [`set_link`](Self::set_link), [`local_change`](Self::local_change), ..)
///   are synchronous, return at once, and may be called from any thread.
/// - **Queries** ([`status`](Self::status), [`listener`](Self::listener), ..) are snapshots.
/// - [`events`](Self::events) is a bounded stream of what happens.
/// - [`close`](Self::close) ends it all in an orderly way. Dropping the network ends it too, but does not wait.
#[derive(Debug)]
pub struct QuicNetwork {
    shared: Arc<Shared>,
}

/// Why a network could not start. Nothing is left behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// The caller is not in a tokio runtime with time and network enabled. The caller is at fault.
    #[error("a network needs a tokio runtime")]
    NoRuntime,
    /// The relations that [`NetworkConfig`] states do not hold. The caller is at fault.
    #[error("the timeouts of the network do not fit each other")]
    Config,
    /// The address cannot be bound: in use, not of this machine, or not permitted.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
}

/// Why a command on a peer was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PeerError {
    /// There is no such peer. The caller is at fault: add it first.
    #[error("device {0} is not a peer")]
    Unknown(DeviceId),
    /// The device is this one. The caller is at fault.
    #[error("a device is not its own peer")]
    Own,
    /// There are [`PEERS_MAX`] peers already. Remove some.
    #[error("more than {PEERS_MAX} peers")]
    TooMany,
    /// The network was closed.
    #[error("the network was closed")]
    Closed,
}

/// What happens on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkEvent {
    /// A session says something. [`Event::Established`] comes first of each connection.
    Session {
        /// With which peer.
        device: DeviceId,
        /// What.
        event: Event,
    },
    /// A connection ended. A dial follows, if it is wanted and the peer's address is known.
    Disconnected {
        /// Which peer's.
        device: DeviceId,
        /// Why.
        error: LinkError,
    },
    /// The reader was too slow, and so many events are lost to it. [`QuicNetwork::status`] shows how things stand now.
    Missed(u64),
}

/// A reader of [`NetworkEvent`]s, from the moment it was made. Holds [`EVENTS_MAX`] of them.
#[derive(Debug)]
pub struct NetworkEvents {
    receiver: broadcast::Receiver<NetworkEvent>,
}

impl NetworkEvents {
    /// The next event, once there is one; `None` after the network has closed. Cancel safe.
    pub async fn next(&mut self) -> Option<NetworkEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(NetworkEvent::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl QuicNetwork {
    /// Listens on `address` as the device that `key` proves, and syncs `host` with the peers to be added. Port 0 takes
    /// any free one.
    ///
    /// # Errors
    ///
    /// A [`BindError`]; nothing is left behind.
    pub fn bind(
        address: SocketAddr,
        key: DeviceKey,
        host: Arc<dyn Host>,
        config: NetworkConfig,
    ) -> Result<Self, BindError> {
        let runtime = Handle::try_current().map_err(|_| BindError::NoRuntime)?;
        if !config.is_coherent() {
            return Err(BindError::Config);
        }
        let expected = ExpectedPeers::default();
        let bind_error = |error| BindError::Bind { address, error };
        let endpoint =
            endpoint::bind(address, &key, expected.clone(), &config).map_err(bind_error)?;
        let address = endpoint.local_addr().map_err(bind_error)?;
        let (tasks, tasks_ended) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            device: key.id(),
            address,
            key,
            host,
            handshakes: Handshakes::new(config.handshakes_max),
            config,
            endpoint,
            expected,
            clock: Clock::start(),
            turned: Turned::default(),
            host_calls: Semaphore::new(HOST_CALLS_MAX),
            peers: Mutex::default(),
            events: Mutex::new(Some(broadcast::Sender::new(EVENTS_MAX))),
            runtime,
            closing: watch::Sender::new(false),
            tasks: Mutex::new(Some(tasks)),
            tasks_ended: tokio::sync::Mutex::new(tasks_ended),
        });
        shared.spawn_until_closed(accept_connections(Arc::clone(&shared)));
        Ok(Self { shared })
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.address
    }

    /// The device that it proves to be.
    pub fn device(&self) -> DeviceId {
        self.shared.device
    }

    /// Expects `device` from now on, and dials it at `addresses`, one after the other, until it is reached. With no
    /// address it is only waited for. For a known peer the addresses take the place of the earlier ones, and a
    /// connection that there is stays.
    ///
    /// # Errors
    ///
    /// A [`PeerError`]; nothing has changed.
    pub fn set_peer(&self, device: DeviceId, addresses: Vec<SocketAddr>) -> Result<(), PeerError> {
        if device == self.shared.device {
            return Err(PeerError::Own);
        }
        if *self.shared.closing.borrow() {
            return Err(PeerError::Closed);
        }
        let mut peers = self.shared.peers();
        if let Some(peer) = peers.get(&device) {
            peer.set_addresses(addresses, self.shared.clock.now_ms());
            return Ok(());
        }
        if peers.len() >= PEERS_MAX {
            return Err(PeerError::TooMany);
        }
        let peer =
            Arc::new(Peer::new(self.shared.device, device, addresses, self.shared.config.redial));
        peers.insert(device, Arc::clone(&peer));
        self.shared.expected.insert(device);
        self.shared.spawn_until_closed(keep_dialled(Arc::clone(&self.shared), peer));
        Ok(())
    }

    /// Expects `device` no more: closes its connection and refuses further ones.
    ///
    /// # Errors
    ///
    /// [`PeerError::Unknown`].
    pub fn remove_peer(&self, device: DeviceId) -> Result<(), PeerError> {
        let mut peers = self.shared.peers();
        let peer = peers.remove(&device).ok_or(PeerError::Unknown(device))?;
        self.shared.expected.remove(&device);
        peer.remove();
        Ok(())
    }

    /// Takes the link to `device` down, or up again. While it is down, there is no connection: the live one closes,
    /// those of the peer are refused, and it is not dialled. Up, it is dialled at once; where its address is not known,
    /// it comes by itself, within the longest wait of its own redial policy.
    ///
    /// # Errors
    ///
    /// [`PeerError::Unknown`].
    pub fn set_link(&self, device: DeviceId, up: bool) -> Result<(), PeerError> {
        let peer = self.shared.peer(&device).ok_or(PeerError::Unknown(device))?;
        peer.set_link(up, self.shared.clock.now_ms());
        Ok(())
    }

    /// Tells all sessions that `version` of `space` is on disk now, be it by a local commit or by a peer's.
    pub fn local_change(&self, space: SpaceId, version: &Arc<VersionVector>) {
        for link in self.shared.links() {
            link.inbox.version_changed(space, Arc::clone(version));
        }
    }

    /// Tells all sessions that the host may now offer other spaces to peers.
    pub fn spaces_changed(&self) {
        for link in self.shared.links() {
            link.inbox.spaces_changed();
        }
    }

    /// Has every session start over: closes all connections, which then come back by themselves. For when the
    /// replica has taken a new id, which a session is told at its beginning only.
    pub fn reconnect(&self) {
        for link in self.shared.links() {
            link.close(NetworkClose::Reconnect);
        }
    }

    /// What happens from now on.
    pub fn events(&self) -> NetworkEvents {
        NetworkEvents { receiver: self.shared.subscribe() }
    }

    /// How it stands with every peer, in the order of their ids.
    pub fn status(&self) -> Vec<PeerStatus> {
        self.shared.peers().values().map(|peer| peer.status()).collect()
    }

    /// How it stands with one peer.
    pub fn peer_status(&self, device: DeviceId) -> Option<PeerStatus> {
        self.shared.peer(&device).map(|peer| peer.status())
    }

    /// How `space` stands with a peer, as far as its session has heard; `None` without a connection, or if the two do
    /// not share the space.
    pub fn space_status(&self, device: DeviceId, space: SpaceId) -> Option<SpaceStatus> {
        self.shared.peer(&device)?.link()?.spaces().get(&space).copied()
    }

    /// What was turned away before it was known who it was.
    pub fn listener(&self) -> ListenerCounters {
        self.shared.turned.counters()
    }

    /// Closes all connections and stops listening. When it returns, no call to the host is under way any more, and
    /// the address is free.
    pub async fn close(&self) {
        self.shared.begin_close();
        while self.shared.tasks_ended.lock().await.recv().await.is_some() {}
        // Peers that do not answer will find out by themselves.
        let _ = tokio::time::timeout(CLOSE_GRACE, self.shared.endpoint.wait_idle()).await;
        self.shared.release_address();
    }
}

impl Drop for QuicNetwork {
    fn drop(&mut self) {
        self.shared.begin_close();
    }
}

/// What all tasks of a network share.
pub(crate) struct Shared {
    pub(crate) key: DeviceKey,
    pub(crate) device: DeviceId,
    pub(crate) address: SocketAddr,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) config: NetworkConfig,
    pub(crate) endpoint: Endpoint,
    pub(crate) clock: Clock,
    pub(crate) handshakes: Arc<Handshakes>,
    pub(crate) turned: Turned,
    pub(crate) host_calls: Semaphore,
    expected: ExpectedPeers,
    peers: Mutex<BTreeMap<DeviceId, Arc<Peer>>>,
    /// `None` once closed, so that readers see the end.
    events: Mutex<Option<broadcast::Sender<NetworkEvent>>>,
    runtime: Handle,
    closing: watch::Sender<bool>,
    /// Every task holds a clone, and nothing is ever sent: the channel closes when the last task has ended.
    tasks: Mutex<Option<mpsc::Sender<Infallible>>>,
    tasks_ended: tokio::sync::Mutex<mpsc::Receiver<Infallible>>,
}

impl Shared {
    pub(crate) fn peer(&self, device: &DeviceId) -> Option<Arc<Peer>> {
        self.peers().get(device).cloned()
    }

    /// Lets a connection in, whose other end has proved to be `peer`, and runs its session; or closes it.
    ///
    /// # Errors
    ///
    /// Why the connection was closed.
    pub(crate) fn start(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        connection: Connection,
        dialled_by: DialledBy,
    ) -> Result<(), LinkError> {
        let link = Link::new(connection, dialled_by);
        match self.admit(peer, &link) {
            Ok(serial) => {
                self.spawn(run_link(Arc::clone(self), Arc::clone(peer), link, serial));
                Ok(())
            }
            Err(refusal) => {
                link.close(refusal);
                if dialled_by == DialledBy::Peer {
                    peer.count_refused();
                }
                Err(LinkError::Closed(refusal))
            }
        }
    }

    fn admit(&self, peer: &Peer, link: &Arc<Link>) -> Result<Serial, NetworkClose> {
        // Held over the decision, so that two peers cannot both take the last place.
        let peers = self.peers();
        let others =
            peers.values().filter(|other| other.device != peer.device && other.is_connected());
        if others.count() >= self.config.connections_max {
            return Err(NetworkClose::TooManyConnections);
        }
        peer.admit(self.device, link, self.config.handshake_timeout(), self.clock.now_ms())
    }

    pub(crate) fn emit(&self, event: NetworkEvent) {
        if let Some(events) = lock(&self.events).as_ref() {
            // It fails when nobody reads, which is no failure.
            let _ = events.send(event);
        }
    }

    /// Runs `task` until it ends by itself, and has [`QuicNetwork::close`] wait for it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(running) = lock(&self.tasks).clone() else { return };
        self.runtime.spawn(async move {
            task.await;
            drop(running);
        });
    }

    /// Runs `task` until it ends or the network closes.
    pub(crate) fn spawn_until_closed(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut closing = self.closing.subscribe();
        self.spawn(async move {
            tokio::select! {
                () = task => {}
                // An error means that the network is gone, which is closing too.
                _ = closing.wait_for(|closing| *closing) => {}
            }
        });
    }

    fn begin_close(&self) {
        self.closing.send_replace(true);
        let close = NetworkClose::Shutdown;
        self.endpoint.close(close.code().into(), close.to_string().as_bytes());
        lock(&self.tasks).take();
        lock(&self.events).take();
    }

    /// Lets go of the UDP socket, which quinn itself does at a time of its own after the last handle is dropped. It
    /// keeps the socket that was replaced last, so this one goes with the second replacement.
    fn release_address(&self) {
        for _ in 0..2 {
            let nowhere = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
            if let Err(error) = nowhere.and_then(|socket| self.endpoint.rebind(socket)) {
                tracing::debug!(%error, "the address is released later");
            }
        }
    }

    fn subscribe(&self) -> broadcast::Receiver<NetworkEvent> {
        match lock(&self.events).as_ref() {
            Some(events) => events.subscribe(),
            // A reader of a closed network sees the end at once.
            None => broadcast::channel(1).1,
        }
    }

    fn links(&self) -> Vec<Arc<Link>> {
        self.peers().values().filter_map(|peer| peer.link()).collect()
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Arc<Peer>>> {
        lock(&self.peers)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("device", &self.device)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// One connection from its admission to its end.
async fn run_link(shared: Arc<Shared>, peer: Arc<Peer>, link: Arc<Link>, serial: Serial) {
    let turn = tokio::select! {
        turn = peer.turn.lock() => Ok(turn),
        error = link.ended() => Err(error),
    };
    let error = match &turn {
        Ok(_) => driver::run(&shared, &peer, &link, serial).await,
        Err(error) => error.clone(),
    };
    peer.ended(serial, error.clone(), shared.clock.now_ms());
    tracing::debug!(peer = %peer.device, %error, "connection ended");
    shared.emit(NetworkEvent::Disconnected { device: peer.device, error });
}

/// Nothing that runs under these locks can panic halfway through a change, so a poisoned one is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
