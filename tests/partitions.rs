//! Replicas over real QUIC and real disks: cut off, restarted, far behind, and together again.

use std::time::{Duration, Instant};

use rejoin::{Replica, Space, path};
use rejoin_tests::{Failure, PATIENCE, SPACE, converge, introduce, online, read_pairs, write_pair};

type Devices = Vec<(Replica, Space)>;

/// So many replicas, each known to all others.
async fn mesh(folder: &std::path::Path, count: usize) -> Result<Devices, Failure> {
    let mut devices = Devices::new();
    for number in 0..count {
        let device = online(&folder.join(format!("{number}.rejoin"))).await?;
        for (other, _) in &devices {
            introduce(other, &device.0)?;
        }
        devices.push(device);
    }
    Ok(devices)
}

fn set_link(a: &Replica, b: &Replica, up: bool) -> Result<(), Failure> {
    a.set_link(b.device_id(), up)?;
    b.set_link(a.device_id(), up)?;
    Ok(())
}

fn spaces(devices: &Devices) -> Vec<&Space> {
    devices.iter().map(|(_, space)| space).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_replicas_split_in_two_and_rejoin() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let devices = mesh(folder.path(), 5).await?;
    for (index, (_, space)) in devices.iter().enumerate() {
        write_pair(space, "before", index as u64)?;
    }
    converge(&spaces(&devices)).await?;
    for (a, _) in &devices[..2] {
        for (b, _) in &devices[2..] {
            set_link(a, b, false)?;
        }
    }
    for number in 0..100 {
        for (index, (_, space)) in devices.iter().enumerate() {
            write_pair(space, &format!("device {index}"), number)?;
        }
    }
    converge(&[&devices[0].1, &devices[1].1]).await?;
    converge(&[&devices[2].1, &devices[3].1, &devices[4].1]).await?;
    assert_eq!(read_pairs(&devices[0].1, "device 4")?, [], "a write crossed the partition");
    for (a, _) in &devices[..2] {
        for (b, _) in &devices[2..] {
            set_link(a, b, true)?;
        }
    }
    converge(&spaces(&devices)).await?;
    for index in 0..devices.len() {
        assert_eq!(read_pairs(&devices[0].1, &format!("device {index}"))?.len(), 100);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_relays_what_its_ends_write() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let devices = mesh(folder.path(), 3).await?;
    set_link(&devices[0].0, &devices[2].0, false)?;
    for number in 0..50 {
        write_pair(&devices[0].1, "left end", number)?;
        write_pair(&devices[2].1, "right end", number)?;
    }
    converge(&spaces(&devices)).await?;
    assert_eq!(read_pairs(&devices[0].1, "right end")?.len(), 50);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_peers_dropped_their_logs_gets_the_state() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let devices = mesh(folder.path(), 2).await?;
    let [(a, here), (b, there)] = &devices[..] else { unreachable!("two were made") };
    write_pair(here, "shared", 0)?;
    converge(&[here, there]).await?;
    set_link(a, b, false)?;
    for number in 0..200 {
        write_pair(here, "only here", number)?;
    }
    here.write(|tx| tx.remove_tree("shared"))?;
    here.write(|tx| tx.counter(path!["count", "shared"]).reset())?;
    write_pair(there, "only there", 7)?;
    // Somebody confirms the commits, so that they may leave the log: a third replica.
    let third = online(&folder.path().join("third.rejoin")).await?;
    introduce(&third.0, a)?;
    converge(&[here, &third.1]).await?;
    drop_log_once_confirmed(a).await?;

    set_link(a, b, true)?;
    converge(&[here, there]).await?;
    assert_eq!(read_pairs(there, "only here")?.len(), 200);
    assert_eq!(read_pairs(here, "only there")?, [7]);
    assert_eq!(read_pairs(there, "shared")?, [], "what was removed came back");
    Ok(())
}

/// Drops the log as soon as that is possible: a peer's confirmation comes a moment after it has the commits.
async fn drop_log_once_confirmed(replica: &Replica) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while replica.drop_log()? == 0 {
        if Instant::now() > deadline {
            return Err("the log kept everything".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_replica_goes_on_where_it_was() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let (peer, peer_space) = online(&folder.path().join("peer.rejoin")).await?;
    let path = folder.path().join("restarted.rejoin");
    let mut digest = None;
    for life in 0..5 {
        let (replica, space) = online(&path).await?;
        if let Some(digest) = digest {
            assert_eq!(space.read()?.digest()?, digest, "the state changed over a restart");
        }
        introduce(&replica, &peer)?;
        write_pair(&space, "restarted", life)?;
        write_pair(&peer_space, "peer", life)?;
        converge(&[&space, &peer_space]).await?;
        digest = Some(space.read()?.digest()?);
        replica.offline().await;
    }
    assert_eq!(read_pairs(&peer_space, "restarted")?.len(), 5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn spaces_that_only_one_side_has_stay_there() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let devices = mesh(folder.path(), 2).await?;
    let secret = devices[0].0.space("only mine")?;
    secret.write(|tx| tx.flag("hidden").enable())?;
    write_pair(&devices[0].1, "shared", 1)?;
    converge(&spaces(&devices)).await?;
    assert_eq!(devices[1].0.spaces().len(), 1);

    // Once the other side opens it too, it comes over the connection that there is.
    let mine_too = devices[1].0.space("only mine")?;
    converge(&[&secret, &mine_too]).await?;
    assert!(mine_too.read()?.flag("hidden")?);
    assert_ne!(SPACE, "only mine");
    Ok(())
}
