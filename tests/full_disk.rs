//! A disk that is really full: the replica is on a small file system of its own, in a process of its own.
//!
//! Where the system does not permit a mount in a namespace, the tests say so and pass.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rejoin_tests::child::{Answer, Peer, settle};
use rejoin_tests::{Failure, PATIENCE};

/// Makes a file system and runs the process on it, again whenever it was killed: the file system is gone
/// with the last process that sees it. The shell keeps to itself that a process was killed.
const SANDBOX: &str = r#"
    exec 3>&2 2>/dev/null
    mount -t tmpfs -o "$1" tmpfs "$2" || exit 77
    shift 2
    while :; do
        (exec 2>&3; exec "$@")
        status=$?
        [ "$status" = 137 ] || exit "$status"
    done
"#;

/// How a process may get a file system of its own, in the order in which it is tried.
const NAMESPACES: [&str; 2] = ["-rm", "-m"];

/// Small buffers, so that checkpoints come often.
const SMALL: &str = "65536 65536";

/// A folder on which file systems are mounted, if that is permitted.
struct Disks {
    folder: tempfile::TempDir,
    namespace: &'static str,
}

impl Disks {
    /// `None` where no file system can be mounted.
    fn new(test: &str) -> Result<Option<Self>, Failure> {
        let folder = tempfile::tempdir()?;
        for namespace in NAMESPACES {
            let probe = sandbox(namespace, "size=64k", folder.path())
                .arg("true")
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if probe.is_ok_and(|status| status.success()) {
                return Ok(Some(Self { folder, namespace }));
            }
        }
        // Past the capture of output, which hides what a test that passes prints.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED full_disk: {test}: no file system can be mounted here"
        );
        Ok(None)
    }

    /// A process whose replica is to be on a file system of its own.
    fn start(&self, name: &str, options: &str) -> Result<Peer, Failure> {
        let disk = self.place(name)?;
        let mut command = sandbox(self.namespace, options, &disk);
        command.arg(env!("CARGO_BIN_EXE_rejoin-test-peer")).arg(disk.join("replica"));
        Peer::start(name, &mut command)
    }

    /// A process whose replica is on the machine's disk.
    fn start_outside(&self, name: &str) -> Result<Peer, Failure> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rejoin-test-peer"));
        Peer::start(name, command.arg(self.place(name)?.join("replica")))
    }

    fn place(&self, name: &str) -> Result<PathBuf, Failure> {
        let place = self.folder.path().join(name);
        std::fs::create_dir_all(&place)?;
        Ok(place)
    }
}

fn sandbox(namespace: &str, options: &str, mount_point: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args([namespace, "sh", "-c", SANDBOX, "sh", options]).arg(mount_point);
    command
}

/// What a writer was told is durable, and what it was not told about.
#[derive(Default)]
struct Acknowledged {
    count: u64,
    /// One more write was begun, which may be there or not.
    unsure: bool,
}

impl Acknowledged {
    /// Writes until that is refused, or `count` pairs were written.
    fn write(&mut self, peer: &mut Peer, count: u64, bytes: usize) -> Result<bool, Failure> {
        let (written, error) = peer.write("writer", self.count, count, bytes)?;
        self.count += written;
        let Some(error) = error else { return Ok(true) };
        assert!(error.starts_with("Store(Poisoned"), "refused with {error}");
        self.unsure = true;
        Ok(false)
    }

    /// Everything acknowledged is there and whole, and nothing else but what was unsure.
    fn check(&mut self, peer: &mut Peer) -> Result<(), Failure> {
        let there = peer.pairs("writer")?;
        let expected: Vec<u64> = (0..self.count).collect();
        let more: Vec<u64> = (0..=self.count).collect();
        if there != expected && !(self.unsure && there == more) {
            let (count, found) = (self.count, there.len());
            return Err(format!("{count} pairs were acknowledged, {found} are there").into());
        }
        Ok(())
    }

    /// As [`check`](Self::check) after an opening, which decides what was unsure.
    fn check_opened(&mut self, peer: &mut Peer) -> Result<(), Failure> {
        self.check(peer)?;
        self.count = peer.pairs("writer")?.len() as u64;
        self.unsure = false;
        Ok(())
    }
}

/// Whoever opens a replica on a full disk is let in, or told in a word of the engine's why not.
fn open_while_full(peer: &mut Peer) -> Result<bool, Failure> {
    match peer.try_ask(&format!("open {SMALL}"))? {
        Answer::Done(_) => Ok(true),
        Answer::Refused(error) => {
            assert!(error.starts_with("Store("), "opening is refused with {error}");
            assert!(!error.contains("Damaged"), "a full disk is taken for damage: {error}");
            Ok(false)
        }
    }
}

/// Closing may fail on a full disk, and says so.
fn close_while_full(peer: &mut Peer) -> Result<(), Failure> {
    if let Answer::Refused(error) = peer.try_ask("close")? {
        assert!(error.starts_with("Store("), "closing is refused with {error}");
    }
    Ok(())
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() -> Result<(), Failure> {
    let Some(disks) = Disks::new("a_full_disk_refuses_writes_and_loses_nothing")? else {
        return Ok(());
    };
    let mut peer = disks.start("writer", "size=2m")?;
    peer.open(SMALL)?;
    let mut acknowledged = Acknowledged::default();
    assert!(acknowledged.write(&mut peer, 10, 100)?);
    peer.ask("fill ballast 524288")?;
    assert!(!acknowledged.write(&mut peer, 100_000, 500)?, "the disk was never full");
    assert!(acknowledged.count > 100, "only {} pairs fit", acknowledged.count);
    acknowledged.check(&mut peer)?;
    assert!(!acknowledged.write(&mut peer, 1, 1)?, "a poisoned store takes a write");

    // While the disk is full, whatever way the process ends.
    close_while_full(&mut peer)?;
    let opened = open_while_full(&mut peer)?;
    println!("closed, and opened while full: {opened}");
    if opened {
        acknowledged.check_opened(&mut peer)?;
        acknowledged.write(&mut peer, 100_000, 500)?;
        acknowledged.check(&mut peer)?;
    }
    peer.kill()?;
    let opened = open_while_full(&mut peer)?;
    println!("killed, and opened while full: {opened}");
    if opened {
        acknowledged.check_opened(&mut peer)?;
        close_while_full(&mut peer)?;
    }

    assert_eq!(peer.ask("remove ballast")?, "1");
    peer.open(SMALL)?;
    acknowledged.check_opened(&mut peer)?;
    assert!(acknowledged.write(&mut peer, 20, 100)?);
    peer.ask("close")?;
    peer.open(SMALL)?;
    acknowledged.check_opened(&mut peer)
}

/// However little room is left, and whatever it is that no longer fits: the log, its reserve, a new segment,
/// or the tree.
#[test]
fn a_disk_that_fills_up_at_any_point_loses_nothing() -> Result<(), Failure> {
    let Some(disks) = Disks::new("a_disk_that_fills_up_at_any_point_loses_nothing")? else {
        return Ok(());
    };
    let mut peer = disks.start("writer", "size=8m")?;
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut acknowledged = Acknowledged::default();
    let (mut refused_openings, mut refused_writes) = (0, 0);
    for round in 0..24 {
        peer.open(SMALL)?;
        acknowledged.check_opened(&mut peer)?;
        let filled: usize = peer.ask("fill ballast 100000000")?.parse()?;
        let room = rng.random_range(0..300_000);
        peer.ask(&format!("fill ballast {}", filled.saturating_sub(room)))?;
        let bytes = rng.random_range(1..6_000);
        let count = rng.random_range(1..200);
        refused_writes += u32::from(!acknowledged.write(&mut peer, count, bytes)?);
        let context = |error: Failure| format!("round {round}, {room} bytes free: {error}");
        acknowledged.check(&mut peer).map_err(context)?;
        if rng.random_bool(0.5) {
            peer.kill()?;
        } else {
            close_while_full(&mut peer)?;
        }
        if open_while_full(&mut peer)? {
            acknowledged.check_opened(&mut peer).map_err(context)?;
            refused_writes += u32::from(!acknowledged.write(&mut peer, 3, bytes)?);
            acknowledged.check(&mut peer).map_err(context)?;
            peer.kill()?;
        } else {
            refused_openings += 1;
        }
        peer.ask("remove ballast")?;
    }
    println!("{refused_writes} refused writes, {refused_openings} refused openings");
    assert!(refused_writes > 10, "the disk was full only {refused_writes} times");
    Ok(())
}

#[test]
fn a_disk_that_takes_no_more_files_loses_nothing() -> Result<(), Failure> {
    let Some(disks) = Disks::new("a_disk_that_takes_no_more_files_loses_nothing")? else {
        return Ok(());
    };
    let mut peer = disks.start("writer", "size=16m,nr_inodes=40")?;
    peer.open(SMALL)?;
    let mut acknowledged = Acknowledged::default();
    assert!(acknowledged.write(&mut peer, 5, 100)?);
    let files: u32 = peer.ask("clutter clutter")?.parse()?;
    assert!(files > 10);
    // What fits into the file that is there is written; the next segment has none.
    assert!(!acknowledged.write(&mut peer, 100_000, 500)?, "there was room for another file");
    assert!(acknowledged.count > 20, "appending failed at {}", acknowledged.count);
    acknowledged.check(&mut peer)?;
    close_while_full(&mut peer)?;
    for _ in 0..2 {
        assert!(open_while_full(&mut peer)?, "opening needs no new file");
        acknowledged.check_opened(&mut peer)?;
        acknowledged.write(&mut peer, 1_000, 500)?;
        acknowledged.check(&mut peer)?;
        peer.kill()?;
    }
    assert_eq!(peer.ask("remove clutter")?, files.to_string());
    peer.open(SMALL)?;
    acknowledged.check_opened(&mut peer)?;
    assert!(acknowledged.write(&mut peer, 300, 500)?);
    acknowledged.check(&mut peer)
}

/// A replica that cannot even be founded can be once there is room.
#[test]
fn a_replica_is_founded_once_there_is_room() -> Result<(), Failure> {
    let Some(disks) = Disks::new("a_replica_is_founded_once_there_is_room")? else {
        return Ok(());
    };
    let mut refused = 0;
    let mut peer = disks.start("founder", "size=1m")?;
    let room: usize = peer.ask("fill ballast 100000000")?.parse()?;
    for free in (0..room).step_by(16 << 10) {
        peer.ask(&format!("fill ballast {}", room - free))?;
        if open_while_founding(&mut peer)? {
            break;
        }
        refused += 1;
    }
    assert!(refused > 0, "the disk was never full");
    peer.ask("remove ballast")?;
    if peer.try_ask("version")? == Answer::Refused("closed".to_owned()) {
        peer.open(SMALL)?;
    }
    let mut acknowledged = Acknowledged::default();
    acknowledged.write(&mut peer, 10, 100)?;
    acknowledged.check(&mut peer)
}

/// As [`open_while_full`], where the folder and the device key are still to be made.
fn open_while_founding(peer: &mut Peer) -> Result<bool, Failure> {
    match peer.try_ask(&format!("open {SMALL}"))? {
        Answer::Done(_) => Ok(true),
        Answer::Refused(error) if error.starts_with("Folder") => Ok(false),
        Answer::Refused(error) => {
            assert!(error.starts_with("Store("), "founding is refused with {error}");
            assert!(!error.contains("Damaged"), "a full disk is taken for damage: {error}");
            Ok(false)
        }
    }
}

#[test]
fn a_peer_whose_disk_is_full_harms_nobody_and_catches_up() -> Result<(), Failure> {
    let Some(disks) = Disks::new("a_peer_whose_disk_is_full_harms_nobody_and_catches_up")? else {
        return Ok(());
    };
    let mut sender = disks.start_outside("sender")?;
    let mut full = disks.start("full", "size=12m")?;
    let mut third = disks.start_outside("third")?;
    for peer in [&mut sender, &mut full, &mut third] {
        peer.open("")?;
    }
    let address = sender.ask("online")?;
    for peer in [&mut full, &mut third] {
        peer.ask("online")?;
        peer.ask(&format!("peer {} {address}", sender.device()))?;
        sender.ask(&format!("peer {}", peer.device()))?;
    }
    full.write("before", 0, 10, 100)?;
    settle(&mut [&mut sender, &mut full, &mut third])?;

    let filled: usize = full.ask("fill ballast 100000000")?.parse()?;
    full.ask(&format!("fill ballast {}", filled - 400_000))?;
    sender.write("sender", 0, 400, 4_000)?;
    let (at_sender, at_full) = (stop_of(&mut sender)?, stop_of(&mut full)?);
    assert!(at_sender.contains("by: Peer") && at_sender.contains("Storage"), "{at_sender}");
    assert!(at_full.contains("by: Us") && at_full.contains("Storage"), "{at_full}");

    // The sender goes on as ever, with its other peers too.
    assert_eq!(sender.write("sender", 400, 10, 100)?, (10, None));
    settle(&mut [&mut sender, &mut third])?;
    // The full one still reads what it had, and whole pairs only.
    assert_eq!(full.pairs("before")?.len(), 10);
    let part = full.pairs("sender")?;
    assert!(part.len() < 400 && part == (0..part.len() as u64).collect::<Vec<_>>());

    close_while_full(&mut full)?;
    full.ask("remove ballast")?;
    full.open("")?;
    full.ask("online")?;
    full.ask(&format!("peer {} {address}", sender.device()))?;
    settle(&mut [&mut sender, &mut full, &mut third])?;
    assert_eq!(full.pairs("sender")?.len(), 410);
    assert_eq!(full.write("after", 0, 5, 100)?, (5, None));
    settle(&mut [&mut sender, &mut full, &mut third])
}

/// Waits until a session has stopped syncing the space, and says why.
fn stop_of(peer: &mut Peer) -> Result<String, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stops = peer.ask("stops")?;
        if !stops.is_empty() {
            return Ok(stops);
        }
        if Instant::now() > deadline {
            return Err(format!("{} goes on syncing", peer.name()).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
