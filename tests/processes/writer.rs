//! A process to be killed: two threads write pairs into the replica in the folder given, and say on
//! standard output which were acknowledged. With a device and an address behind the folder it is online
//! with that peer all the while.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use rejoin::{DeviceId, Replica};
use rejoin_tests::{Failure, SPACE, write_pair};

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder: PathBuf = arguments.next().ok_or("usage: FOLDER FIRST [DEVICE ADDRESS]")?.into();
    let first: u64 = arguments.next().ok_or("usage: FOLDER FIRST [DEVICE ADDRESS]")?.parse()?;
    let replica = Replica::open(&folder)?;
    let space = replica.space(SPACE)?;
    say(&format!("device {}", replica.device_id()));

    let runtime = tokio::runtime::Runtime::new()?;
    if let (Some(device), Some(address)) = (arguments.next(), arguments.next()) {
        let (device, address): (DeviceId, SocketAddr) = (device.parse()?, address.parse()?);
        runtime.block_on(replica.online(rejoin::Network::loopback()))?;
        replica.add_peer(device, vec![address])?;
    }
    let writers: Vec<_> = ["alice", "bob"]
        .map(|writer| {
            let space = space.clone();
            std::thread::spawn(move || -> Result<(), rejoin::Error> {
                for number in first.. {
                    write_pair(&space, writer, number)?;
                    say(&format!("{writer} {number}"));
                }
                Ok(())
            })
        })
        .into();
    for writer in writers {
        writer.join().map_err(|_| "a writer panicked")??;
    }
    Ok(())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The parent kills this process; when its pipe is gone there is nobody to tell.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
