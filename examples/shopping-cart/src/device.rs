//! A device of the household: a replica in a folder of its own, on the network of this machine.

use std::time::{Duration, Instant};

use rejoin::{Network, Replica, Space, StateDigest};

use crate::cart::Failure;

/// How often a waiting device looks whether it has arrived.
const POLL: Duration = Duration::from_millis(5);

/// One device: its durable store, and its share of the carts.
pub struct Device {
    pub name: String,
    pub replica: Replica,
    pub space: Space,
}

impl Device {
    /// Opens a new store under `folder` and listens on a free port of the loopback interface.
    pub async fn start(folder: &std::path::Path, name: &str) -> Result<Self, Failure> {
        let replica = Replica::open(folder.join(format!("{name}.rejoin")))?;
        let space = replica.space("carts")?;
        replica.online(Network::loopback()).await?;
        Ok(Self { name: name.to_owned(), replica, space })
    }

    /// The digest of all that the device holds.
    pub fn digest(&self) -> Result<StateDigest, Failure> {
        Ok(self.space.read()?.digest()?)
    }
}

/// Makes all devices known to each other.
pub fn introduce(devices: &[Device]) -> Result<(), Failure> {
    for (index, device) in devices.iter().enumerate() {
        for (other_index, other) in devices.iter().enumerate() {
            if index == other_index {
                continue;
            }
            // Of two devices one dials, so that each pair has one connection.
            let address = other.replica.local_address().filter(|_| index < other_index);
            device.replica.add_peer(other.replica.device_id(), address.into_iter().collect())?;
        }
    }
    Ok(())
}

/// Waits until every device is connected with every other, at most so long.
pub async fn connect(devices: &[Device], patience: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + patience;
    let connected =
        |device: &Device| device.replica.peers().iter().all(|peer| peer.connection.is_some());
    while !devices.iter().all(connected) {
        if Instant::now() > deadline {
            return Err("the devices did not find each other".into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Cuts or restores the link between two devices.
pub fn set_link(a: &Device, b: &Device, up: bool) -> Result<(), Failure> {
    a.replica.set_link(b.replica.device_id(), up)?;
    b.replica.set_link(a.replica.device_id(), up)?;
    Ok(())
}

/// Waits until every device has applied `commits` commits, at most so long without any of them
/// applying another. Whether they have.
pub async fn settle(devices: &[Device], commits: u64, patience: Duration) -> Result<bool, Failure> {
    let mut last = Vec::new();
    let mut since = Instant::now();
    loop {
        let mut now = Vec::with_capacity(devices.len());
        for device in devices {
            now.push(device.space.read()?.version().commits());
        }
        if now.iter().all(|applied| *applied >= commits) {
            return Ok(true);
        }
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() > patience {
            return Ok(false);
        }
        tokio::time::sleep(POLL).await;
    }
}
