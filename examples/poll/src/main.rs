//! Two devices vote apart from each other, and then meet.

use std::time::Duration;

use poll::Poll;
use rejoin::{Network, Replica};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let phone = Replica::open(folder.path().join("phone.rejoin"))?;
    let kiosk = Replica::open(folder.path().join("kiosk.rejoin"))?;
    let (at_phone, at_kiosk) = (Poll::open(&phone)?, Poll::open(&kiosk)?);

    // Nobody is online. Ann votes on both devices, and neither knows of the other.
    at_phone.vote("ann", "tea")?;
    at_kiosk.vote("ann", "coffee")?;
    at_kiosk.vote("bob", "tea")?;
    println!("the phone:  {:?}", at_phone.standing()?.tally);
    println!("the kiosk:  {:?}", at_kiosk.standing()?.tally);

    phone.online(Network::loopback()).await?;
    kiosk.online(Network::loopback()).await?;
    phone.add_peer(kiosk.device_id(), kiosk.local_address().into_iter().collect())?;
    kiosk.add_peer(phone.device_id(), vec![])?;
    while at_phone.standing()? != at_kiosk.standing()? {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("both, once they have met:  {:?}", at_kiosk.standing()?.tally);
    Ok(())
}
