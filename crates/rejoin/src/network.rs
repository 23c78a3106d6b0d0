//! Going online: the only part of the engine that needs a runtime.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rejoin_gossip::DeviceId;
use rejoin_quic::{NetworkConfig, NetworkEvents, PeerStatus, QuicNetwork};

use crate::host::EngineHost;
use crate::{Error, Replica};

/// How a replica goes online: where it listens, whom it knows, and its timeouts.
#[derive(Debug, Clone)]
pub struct Network {
    /// The UDP address to listen on. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// The devices that are let in, each with the addresses at which it is dialled, one after the other;
    /// with none it is only waited for.
    pub peers: Vec<(DeviceId, Vec<SocketAddr>)>,
    /// Timeouts and bounds.
    pub config: NetworkConfig,
}

impl Default for Network {
    /// Any free port on all IPv4 interfaces; nobody is known yet.
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 0).into(),
            peers: Vec::new(),
            config: NetworkConfig::default(),
        }
    }
}

impl Network {
    /// Any free port of the loopback interface: for replicas on one machine.
    pub fn loopback() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 0).into(), ..Self::default() }
    }
}

impl Replica {
    /// Listens, dials the peers, and keeps all spaces in sync with those of them that have the same, until
    /// [`offline`](Self::offline). Lost connections come back by themselves.
    ///
    /// Both ends of a connection prove their device keys; who is not a peer is refused. Needs to be called
    /// in a tokio runtime, which then carries the network.
    ///
    /// # Errors
    /// [`Error::AlreadyOnline`], [`Error::Bind`], or [`Error::Peer`] for the first peer that cannot be one;
    /// the replica stays offline.
    pub async fn online(&self, network: Network) -> Result<(), Error> {
        let Network { listen, peers, config } = network;
        if self.engine.hub.network().is_some() {
            return Err(Error::AlreadyOnline);
        }
        let host = Arc::new(EngineHost::new(&self.engine.store));
        let quic = QuicNetwork::bind(listen, self.engine.key.clone(), host, config)?;
        for (device, addresses) in peers {
            quic.set_peer(device, addresses)?;
        }
        let quic = Arc::new(quic);
        if !self.engine.hub.set_network(&quic) {
            quic.close().await;
            return Err(Error::AlreadyOnline);
        }
        Ok(())
    }

    /// Closes all connections and stops listening. Reads, writes and watches go on. Does nothing offline.
    pub async fn offline(&self) {
        if let Some(network) = self.engine.hub.take_network() {
            network.close().await;
        }
    }

    /// Whether the replica is online.
    pub fn is_online(&self) -> bool {
        self.engine.hub.network().is_some()
    }

    /// The address that the replica listens on, while it is online.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.engine.hub.network().map(|network| network.local_addr())
    }

    /// Lets a device in from now on, until the replica goes offline, and dials it at `addresses`. For a
    /// known peer the addresses take the place of the earlier ones.
    ///
    /// # Errors
    /// [`Error::Offline`] or [`Error::Peer`].
    pub fn add_peer(&self, device: DeviceId, addresses: Vec<SocketAddr>) -> Result<(), Error> {
        Ok(self.quic()?.set_peer(device, addresses)?)
    }

    /// Lets a device in no more, and closes its connection.
    ///
    /// # Errors
    /// [`Error::Offline`] or [`Error::Peer`].
    pub fn remove_peer(&self, device: DeviceId) -> Result<(), Error> {
        Ok(self.quic()?.remove_peer(device)?)
    }

    /// Takes the link to a peer down, or up again: down, there is no connection with it in either direction.
    ///
    /// # Errors
    /// [`Error::Offline`] or [`Error::Peer`].
    pub fn set_link(&self, device: DeviceId, up: bool) -> Result<(), Error> {
        Ok(self.quic()?.set_link(device, up)?)
    }

    /// How it stands with each peer, in the order of their ids; empty offline.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.engine.hub.network().map(|network| network.status()).unwrap_or_default()
    }

    /// What happens on the network from now on: connections made and lost, forks found, clocks that differ.
    ///
    /// # Errors
    /// [`Error::Offline`].
    pub fn network_events(&self) -> Result<NetworkEvents, Error> {
        Ok(self.quic()?.events())
    }

    fn quic(&self) -> Result<Arc<QuicNetwork>, Error> {
        self.engine.hub.network().ok_or(Error::Offline)
    }
}
