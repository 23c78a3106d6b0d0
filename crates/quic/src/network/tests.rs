//! Stories over real UDP sockets on the loopback interface.

mod hostile;
mod links;
mod memory_host;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rejoin_crdt::SpaceId;
use rejoin_gossip::{Config as SessionConfig, DeviceId, RedialConfig};

use crate::{
    DeviceKey, LinkError, NetworkConfig, NetworkEvent, NetworkEvents, PeerStatus, QuicNetwork,
};
use memory_host::MemoryHost;

/// Longer than anything here takes, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(20);

const CART: SpaceId = SpaceId::from_bytes([0xca; 32]);

/// One device: a network, and a host that holds its commits in memory.
struct Device {
    host: Arc<MemoryHost>,
    network: QuicNetwork,
    events: NetworkEvents,
}

impl Device {
    /// Device number `number`, on a free port, with the spaces given.
    fn new(number: u8, spaces: &[SpaceId]) -> Self {
        Self::with(number, MemoryHost::new(number, spaces), 0, config())
    }

    fn with(number: u8, host: Arc<MemoryHost>, port: u16, config: NetworkConfig) -> Self {
        let key = DeviceKey::from_seed([number; 32]);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let network = QuicNetwork::bind(address, key, host.clone(), config).unwrap();
        let events = network.events();
        Self { host, network, events }
    }

    fn id(&self) -> DeviceId {
        self.network.device()
    }

    fn address(&self) -> SocketAddr {
        self.network.local_addr()
    }

    /// Expects `other` and dials it.
    fn dials(&self, other: &Device) {
        self.network.set_peer(other.id(), vec![other.address()]).unwrap();
    }

    /// Expects `other` and waits for it.
    fn expects(&self, other: &Device) {
        self.network.set_peer(other.id(), vec![]).unwrap();
    }

    /// A commit of this device, on its "disk" and told to its sessions.
    fn write(&self, space: SpaceId, body: impl Into<Vec<u8>>) {
        let version = self.host.write(space, body.into());
        self.network.local_change(space, &version);
    }

    fn status(&self, other: &Device) -> PeerStatus {
        self.network.peer_status(other.id()).expect("a peer")
    }

    /// Waits for the next event that `wanted` makes something of.
    async fn event<T>(&mut self, mut wanted: impl FnMut(&NetworkEvent) -> Option<T>) -> T {
        let found = async {
            loop {
                let event = self.events.next().await.expect("the network is open");
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("the event comes")
    }

    /// Waits for a connection with `device` to end, and says why it did.
    async fn disconnected(&mut self, from: DeviceId) -> LinkError {
        self.event(|event| match event {
            NetworkEvent::Disconnected { device, error } if *device == from => Some(error.clone()),
            _ => None,
        })
        .await
    }
}

/// Dials again soon, so that stories are short.
fn config() -> NetworkConfig {
    NetworkConfig {
        redial: RedialConfig { base_ms: 20, cap_ms: 200, settled_ms: 500 },
        ..NetworkConfig::default()
    }
}

/// Gives up soon, for stories in which somebody has to.
fn impatient() -> NetworkConfig {
    NetworkConfig {
        session: SessionConfig { hello_timeout_ms: 1_000, ..SessionConfig::default() },
        handshake_timeout_ms: 1_500,
        ..config()
    }
}

/// Waits until `condition` holds.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Waits until all devices hold the same commits of `space`, `count` of them.
async fn converged(devices: &[&Device], space: SpaceId, count: usize) {
    let agree = || devices.iter().all(|device| device.host.commits(space).len() == count);
    eventually("the devices hold the same commits", agree).await;
    for device in &devices[1..] {
        assert_eq!(device.host.commits(space), devices[0].host.commits(space));
    }
}

/// Waits until `a` and `b` have said hello to each other.
async fn connected(a: &Device, b: &Device) {
    eventually("the devices are connected", || {
        a.status(b).connection.is_some() && b.status(a).connection.is_some()
    })
    .await;
}
