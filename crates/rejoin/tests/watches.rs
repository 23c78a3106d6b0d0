//! What a watch tells, to consumers that keep up, that do not, and that come back later.

use std::time::Duration;

use futures_util::StreamExt;
use rejoin::{
    Change, ChangeSequence, Kind, Options, Replica, RereadReason, Space, WATCH_BACKLOG_MAX,
    WatchEvent, path,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Far longer than any wait here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn space() -> Result<(Replica, Space), Failure> {
    let replica = Replica::in_memory(Options::default())?;
    let space = replica.space("watched")?;
    Ok((replica, space))
}

fn count(space: &Space, name: &str) -> Result<(), rejoin::Error> {
    space.write(|tx| tx.counter(path![name]).add(1))
}

fn row(name: &str) -> Change {
    Change::Row { path: path![name].expect("a short path"), kind: Kind::Counter }
}

/// The changes of an event that must be a commit.
fn changes(event: Option<WatchEvent>) -> Vec<Change> {
    match event {
        Some(WatchEvent::Commit { changes, .. }) => changes,
        other => panic!("a commit is due, not {other:?}"),
    }
}

#[test]
fn a_watch_tells_what_is_at_and_under_its_path_and_nothing_else() -> Result<(), Failure> {
    let (_replica, space) = space()?;
    let mut watch = space.watch(path!["a", "b"])?;
    count(&space, "a")?;
    count(&space, "z")?;
    space.write(|tx| {
        tx.register(path!["a", "b"]).put(1)?;
        tx.flag(path!["a", "b", "c"]).enable()?;
        tx.counter(path!["a", "bb"]).add(1)
    })?;
    assert_eq!(
        changes(watch.try_next()?),
        [
            Change::Row { path: path!["a", "b"]?, kind: Kind::Register },
            Change::Row { path: path!["a", "b", "c"]?, kind: Kind::Flag },
        ]
    );
    assert_eq!(watch.try_next()?, None);
    Ok(())
}

#[test]
fn the_removal_of_a_subtree_is_told_above_and_below_its_root() -> Result<(), Failure> {
    let (_replica, space) = space()?;
    space.write(|tx| tx.register(path!["a", "b", "c"]).put(1))?;
    let mut above = space.watch("a")?;
    let mut below = space.watch(path!["a", "b", "c"])?;
    let mut beside = space.watch(path!["a", "x"])?;
    space.write(|tx| tx.remove_tree(path!["a", "b"]))?;
    let removed = [Change::Tree { path: path!["a", "b"]? }];
    assert_eq!(changes(above.try_next()?), removed);
    assert_eq!(changes(below.try_next()?), removed);
    assert_eq!(beside.try_next()?, None);
    Ok(())
}

#[test]
fn a_consumer_that_lags_is_told_to_read_again_and_then_goes_on() -> Result<(), Failure> {
    let (_replica, space) = space()?;
    let mut watch = space.watch("a")?;
    for _ in 0..=WATCH_BACKLOG_MAX {
        count(&space, "a")?;
    }
    let event = watch.try_next()?;
    assert!(
        matches!(event, Some(WatchEvent::Reread { reason: RereadReason::Lagged, .. })),
        "{event:?}"
    );
    assert_eq!(space.read()?.counter("a")?, 1 + WATCH_BACKLOG_MAX as i64);
    assert_eq!(watch.try_next()?, None);
    count(&space, "a")?;
    assert_eq!(changes(watch.try_next()?), [row("a")]);
    Ok(())
}

#[test]
fn a_consumer_at_the_edge_of_the_backlog_misses_nothing() -> Result<(), Failure> {
    let (_replica, space) = space()?;
    let mut watch = space.watch("a")?;
    for _ in 0..WATCH_BACKLOG_MAX {
        count(&space, "a")?;
    }
    for _ in 0..WATCH_BACKLOG_MAX {
        assert_eq!(changes(watch.try_next()?), [row("a")]);
    }
    assert_eq!(watch.try_next()?, None);
    Ok(())
}

#[test]
fn a_watch_from_a_snapshot_tells_each_later_change_once() -> Result<(), Failure> {
    let (_replica, space) = space()?;
    count(&space, "before")?;
    let snapshot = space.read()?;
    // Far more than the ring holds, so that the first ones come from the log.
    let written = 3 * WATCH_BACKLOG_MAX;
    for number in 0..written {
        space.write(|tx| tx.register(path!["n", number as u64]).put(number as i64))?;
    }
    let mut watch = space.watch_from(rejoin::Path::root(), snapshot.sequence())?;
    for number in 0..written {
        let expected = Change::Row { path: path!["n", number as u64]?, kind: Kind::Register };
        assert_eq!(changes(watch.try_next()?), [expected]);
    }
    assert_eq!(watch.try_next()?, None);
    Ok(())
}

#[test]
fn a_watch_resumes_after_a_restart_where_it_was() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let kept: u64 = {
        let replica = Replica::open(folder.path().join("app.rejoin"))?;
        let space = replica.space("watched")?;
        let mut watch = space.watch("a")?;
        count(&space, "a")?;
        count(&space, "a")?;
        assert_eq!(changes(watch.try_next()?), [row("a")]);
        watch.sequence().as_u64()
    };
    let replica = Replica::open(folder.path().join("app.rejoin"))?;
    let space = replica.space("watched")?;
    count(&space, "a")?;
    let mut watch = space.watch_from("a", ChangeSequence::from_u64(kept))?;
    assert_eq!(changes(watch.try_next()?), [row("a")]);
    assert_eq!(changes(watch.try_next()?), [row("a")]);
    assert_eq!(watch.try_next()?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_before_the_log_is_told_to_read_again() -> Result<(), Failure> {
    let (replica, space) = space()?;
    let (other, other_space) = self::space()?;
    for device in [&replica, &other] {
        device.online(rejoin::Network::loopback()).await?;
    }
    let start = space.read()?.sequence();
    count(&space, "a")?;
    replica.add_peer(other.device_id(), other.local_address().into_iter().collect())?;
    other.add_peer(replica.device_id(), Vec::new())?;
    // Only what a peer has confirmed leaves the log.
    let deadline = std::time::Instant::now() + PATIENCE;
    while replica.drop_log()? == 0 {
        assert!(std::time::Instant::now() < deadline, "the log kept everything");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(other_space.read()?.counter("a")?, 1);
    let mut watch = space.watch_from("a", start)?;
    let event = watch.try_next()?;
    assert!(
        matches!(event, Some(WatchEvent::Reread { reason: RereadReason::LogGone, .. })),
        "{event:?}"
    );
    count(&space, "a")?;
    assert_eq!(changes(watch.try_next()?), [row("a")]);
    replica.offline().await;
    other.offline().await;
    Ok(())
}

#[test]
fn a_waiting_watch_is_woken_by_a_write_and_ended_by_closing() -> Result<(), Failure> {
    let (replica, space) = space()?;
    let mut watch = space.watch("a")?;
    let waiting = std::thread::spawn(move || {
        let first = watch.next_timeout(PATIENCE);
        (first, watch.next_timeout(PATIENCE))
    });
    count(&space, "a")?;
    drop(space);
    // The watch is waiting again, or about to, when the replica closes.
    std::thread::sleep(Duration::from_millis(50));
    replica.close()?;
    let (first, last) = waiting.join().expect("the watcher does not panic");
    assert_eq!(changes(first?), [row("a")]);
    assert_eq!(last?, None);
    Ok(())
}

#[tokio::test]
async fn a_watch_is_a_stream() -> Result<(), Failure> {
    let (_replica, space) = space()?;
    let mut watch = space.watch("a")?;
    let writer = space.clone();
    let written = tokio::task::spawn_blocking(move || count(&writer, "a"));
    let event = tokio::time::timeout(PATIENCE, watch.next()).await?;
    written.await??;
    assert_eq!(changes(event.transpose()?), [row("a")]);
    Ok(())
}
