//! A process is killed with SIGKILL while it commits, again and again: nothing acknowledged is lost,
//! nothing is half there, and the replica syncs on.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rejoin::{Error, Replica, Space, StoreError};
use rejoin_tests::{Failure, SPACE, converge, introduce, online, read_pairs, write_pair};

const KILLS: u64 = 50;
/// Each life of the writer numbers its pairs from here on, times its number.
const LIFE: u64 = 1_000_000;

/// The pairs that a writer process said were acknowledged, by writer.
type Acknowledged = BTreeMap<String, Vec<u64>>;

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let store = folder.path().join("killed.rejoin");
    let runtime = tokio::runtime::Runtime::new()?;
    let (peer, peer_space) = runtime.block_on(online(&folder.path().join("peer.rejoin")))?;
    let mut rng = ChaCha8Rng::seed_from_u64(50);
    let mut acknowledged = Acknowledged::new();

    for life in 0..KILLS {
        let with_peer = life % 2 == 1;
        let wait = Duration::from_millis(rng.random_range(1..60));
        let writer = start(&store, life * LIFE, with_peer.then_some(&peer))?;
        for (name, numbers) in kill_after(writer, wait, with_peer.then_some(&peer))? {
            acknowledged.entry(name).or_default().extend(numbers);
        }

        let (replica, space) = runtime.block_on(online(&store))?;
        check(&space, &acknowledged, life)?;
        write_pair(&space, "parent", life)?;
        introduce(&replica, &peer)?;
        runtime.block_on(converge(&[&space, &peer_space]))?;
        check(&peer_space, &acknowledged, life)?;
        runtime.block_on(replica.offline());
    }
    let total: usize = acknowledged.values().map(Vec::len).sum();
    assert!(total as u64 > KILLS, "the writers were killed before they wrote: {total} commits");
    Ok(())
}

#[test]
fn a_second_process_on_the_folder_is_refused_and_harmless() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let store = folder.path().join("shared.rejoin");
    let writer = start(&store, 0, None)?;
    let refused = Replica::open(&store);
    assert!(matches!(refused, Err(Error::Store(StoreError::Locked))), "{refused:?}");
    let acknowledged = kill_after(writer, Duration::from_millis(50), None)?;
    let replica = Replica::open(&store)?;
    check(&replica.space(SPACE)?, &acknowledged, 0)
}

/// Every acknowledged pair is there, and no pair is half there.
fn check(space: &Space, acknowledged: &Acknowledged, life: u64) -> Result<(), Failure> {
    for (writer, numbers) in acknowledged {
        let there = read_pairs(space, writer)?;
        let lost: Vec<_> =
            numbers.iter().filter(|number| there.binary_search(number).is_err()).collect();
        if !lost.is_empty() {
            return Err(format!("life {life}: {writer} lost acknowledged pairs {lost:?}").into());
        }
    }
    Ok(())
}

/// Starts a writer and waits until it has opened the store.
fn start(store: &Path, first: u64, peer: Option<&Replica>) -> Result<Writer, Failure> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rejoin-test-writer"));
    command.arg(store).arg(first.to_string()).stdout(Stdio::piped());
    if let Some(peer) = peer {
        let address = peer.local_address().ok_or("the peer is offline")?;
        command.arg(peer.device_id().to_string()).arg(address.to_string());
    }
    let mut process = command.spawn()?;
    let mut lines = BufReader::new(process.stdout.take().ok_or("no standard output")?).lines();
    let device = lines.next().ok_or("the writer ended before it began")??;
    let device = device.strip_prefix("device ").ok_or("the writer says no device")?.to_owned();
    Ok(Writer { process, lines, device })
}

struct Writer {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    device: String,
}

/// Lets the writer write for so long, kills it, and returns what it had acknowledged.
fn kill_after(
    mut writer: Writer,
    wait: Duration,
    peer: Option<&Replica>,
) -> Result<Acknowledged, Failure> {
    if let Some(peer) = peer {
        peer.add_peer(writer.device.parse()?, Vec::new())?;
    }
    std::thread::sleep(wait);
    writer.process.kill()?;
    writer.process.wait()?;
    let mut acknowledged = Acknowledged::new();
    for line in writer.lines {
        let line = line?;
        // The kill may have cut the last line short; then it was not said.
        if let Some((name, number)) = line.split_once(' ')
            && let Ok(number) = number.parse()
        {
            acknowledged.entry(name.to_owned()).or_default().push(number);
        }
    }
    Ok(acknowledged)
}
