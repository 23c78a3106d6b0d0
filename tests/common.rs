//! What the tests of whole replicas share: waiting, meeting, and the pairs that a killed writer leaves.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use rejoin::{Network, Replica, Space, path};

pub mod child;

/// The space that the tests write.
pub const SPACE: &str = "pairs";
/// How long a test waits for what must happen. Far beyond what it takes, since machines stall.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whatever ends a test early.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Opens the replica in `folder` and goes online on a free loopback port.
pub async fn online(folder: &Path) -> Result<(Replica, Space), Failure> {
    let replica = Replica::open(folder)?;
    let space = replica.space(SPACE)?;
    replica.online(Network::loopback()).await?;
    Ok((replica, space))
}

/// Makes two online replicas known to each other; the first one dials.
pub fn introduce(a: &Replica, b: &Replica) -> Result<(), Failure> {
    a.add_peer(b.device_id(), b.local_address().into_iter().collect())?;
    b.add_peer(a.device_id(), Vec::new())?;
    Ok(())
}

/// Waits until all spaces hold the same commits, then checks that they hold the same bytes.
pub async fn converge(spaces: &[&Space]) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let versions: Result<Vec<_>, _> =
            spaces.iter().map(|space| space.durable_version()).collect();
        let versions = versions?;
        if versions.windows(2).all(|pair| pair[0] == pair[1]) {
            break;
        }
        if Instant::now() > deadline {
            return Err(format!("not converged: {versions:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let digests: Result<Vec<_>, rejoin::Error> =
        spaces.iter().map(|space| space.read()?.digest()).collect();
    let digests = digests?;
    if digests.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(format!("equal versions, other bytes: {digests:?}").into());
    }
    Ok(())
}

/// Writes the `number`-th pair of a writer: two rows and a count, in one transaction.
pub fn write_pair(space: &Space, writer: &str, number: u64) -> Result<(), rejoin::Error> {
    space.write(|tx| {
        tx.register(path![writer, number, "left"]).put(number as i64)?;
        tx.register(path![writer, number, "right"]).put(number as i64)?;
        tx.counter(path!["count", writer]).add(1)
    })
}

/// The numbers of the pairs of a writer that are there, checking that none is half there and that the
/// writer's count agrees.
pub fn read_pairs(space: &Space, writer: &str) -> Result<Vec<u64>, Failure> {
    let snapshot = space.read()?;
    let mut numbers = Vec::new();
    for pair in snapshot.tree(writer)?.children() {
        let (segment, pair) = pair?;
        let rejoin::Segment::U64(number) = segment else {
            return Err(format!("{segment} is no number").into());
        };
        let sides = [pair.register("left")?, pair.register("right")?];
        let whole = Some(rejoin::Value::from(number as i64));
        if sides.iter().any(|side| *side != whole) {
            return Err(format!("pair {number} of {writer} is half there: {sides:?}").into());
        }
        numbers.push(number);
    }
    let count = snapshot.counter(path!["count", writer])?;
    if count != numbers.len() as i64 {
        return Err(
            format!("{writer} counts {count} pairs, and {} are there", numbers.len()).into()
        );
    }
    Ok(numbers)
}
