//! Watches: what changed in a space, in the order in which it became visible here.
//!
//! Each space has one [`Feed`], a ring of its latest changes that all its watches read, each at its own
//! place. So a watch holds no queue, a slow consumer costs nothing, and one that falls behind the ring
//! is told to read again. A watch that is resumed from further back reads the log until it reaches the ring.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_core::Stream;
use rejoin_crdt::planted::{self, Bug};
use rejoin_crdt::{CommitBody, Dot, Kind, Operation, Path, ReplicaId};

use crate::Error;
use crate::hub::lock;

/// How many changes of a space are kept for watches that are behind. A watch that is further behind
/// than this while it runs gets [`WatchEvent::Reread`].
pub const WATCH_BACKLOG_MAX: usize = 1_024;

/// How many bytes of commits are kept for watches that are behind, at most.
pub const WATCH_BACKLOG_BYTES_MAX: usize = 4 << 20;

/// How many events a watch takes from the ring at a time.
const TAKE_EVENTS: usize = 64;

/// How many log records a resumed watch reads at a time.
const RESUME_RECORDS: usize = 256;

/// A place in the order of a replica's changes, from which a watch can be resumed.
///
/// It belongs to one store: it means nothing on another replica. It grows with each change, not by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeSequence(u64);

impl ChangeSequence {
    /// The sequence with this number, as [`as_u64`](Self::as_u64) gave it.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The number, to be kept by an application that resumes later.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// What one commit did to what is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The row of this kind at this path was set or removed.
    Row {
        /// Where.
        path: Path,
        /// What.
        kind: Kind,
    },
    /// Everything that the commit's writer had seen at and under this path was removed.
    Tree {
        /// The root of the removed subtree.
        path: Path,
    },
}

impl Change {
    fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Set { key, .. } | Operation::Remove { key, .. } => {
                Change::Row { path: key.path.clone(), kind: key.kind }
            }
            Operation::RemoveTree { path, .. } => Change::Tree { path: path.clone() },
        }
    }

    fn touches(&self, prefix: &Path) -> bool {
        match self {
            Change::Row { path, .. } => path.starts_with(prefix),
            Change::Tree { path } => path.starts_with(prefix) || prefix.starts_with(path),
        }
    }
}

/// News from a [`Watch`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// A commit, of this replica or another, changed what is watched. A read now sees all of it.
    Commit {
        /// Resume from here to get what follows this event.
        sequence: ChangeSequence,
        /// The commit; its replica tells who wrote it.
        dot: Dot,
        /// Whether this replica wrote it.
        local: bool,
        /// What it changed below the watched path.
        changes: Vec<Change>,
    },
    /// Changes were passed over: read again what is of interest, then go on watching.
    Reread {
        /// Resume from here to get what follows this event.
        sequence: ChangeSequence,
        /// Why.
        reason: RereadReason,
    },
}

/// Why a watch cannot tell what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RereadReason {
    /// The consumer fell more than [`WATCH_BACKLOG_MAX`] changes, or [`WATCH_BACKLOG_BYTES_MAX`] bytes of
    /// them, behind.
    Lagged,
    /// The watch was resumed from before what the log still holds.
    LogGone,
    /// Another replica's whole state was joined at once.
    StateJoined,
}

/// A change of a space as the store reports it.
#[derive(Debug)]
pub(crate) struct FeedEvent {
    /// Behind the change's record in the log.
    end: u64,
    what: FeedChange,
}

#[derive(Debug)]
enum FeedChange {
    /// What the commit changed is read from its body when the first watch asks.
    Commit {
        dot: Dot,
        local: bool,
        body: Bytes,
        changes: OnceLock<Vec<Change>>,
    },
    StateJoined,
}

impl FeedEvent {
    pub(crate) fn new(change: rejoin_store::Change, own: ReplicaId) -> Self {
        let end = change.lsn().get();
        let what = match change {
            rejoin_store::Change::Commit { dot, body, .. } => {
                let local = dot.replica == own;
                FeedChange::Commit { dot, local, body, changes: OnceLock::new() }
            }
            rejoin_store::Change::Joined { .. } => FeedChange::StateJoined,
        };
        Self { end, what }
    }

    fn bytes(&self) -> usize {
        match &self.what {
            FeedChange::Commit { body, .. } => body.len(),
            FeedChange::StateJoined => 0,
        }
    }

    /// What a watch of `prefix` is told of this, if anything.
    fn seen_from(&self, prefix: &Path) -> Option<WatchEvent> {
        let sequence = ChangeSequence(self.end);
        let FeedChange::Commit { dot, local, body, changes } = &self.what else {
            let reason = RereadReason::StateJoined;
            if planted::is(Bug::WatchMissesJoin) {
                return None;
            }
            return Some(WatchEvent::Reread { sequence, reason });
        };
        let changes = changes.get_or_init(|| {
            let body = CommitBody::from_bytes(*dot, body);
            let body = body.expect("a commit that took effect was decoded before");
            body.operations.iter().map(Change::of).collect()
        });
        let changes: Vec<_> =
            changes.iter().filter(|change| change.touches(prefix)).cloned().collect();
        (!changes.is_empty()).then_some(WatchEvent::Commit {
            sequence,
            dot: *dot,
            local: *local,
            changes,
        })
    }
}

/// The latest changes of one space, and who waits for more.
#[derive(Debug)]
pub(crate) struct Feed {
    ring: Mutex<Ring>,
    changed: Condvar,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Arc<FeedEvent>>,
    /// The bodies in `events`, in bytes.
    bytes: usize,
    /// Every event that ends behind this position is in `events`, or still to come.
    start: u64,
    /// Where the last event ended, or where the feed began.
    end: u64,
    wakers: Vec<Waker>,
    closed: bool,
}

impl Feed {
    /// A feed of what happens behind `position`.
    pub(crate) fn new(position: u64) -> Self {
        let ring = Ring {
            events: VecDeque::new(),
            bytes: 0,
            start: position,
            end: position,
            wakers: Vec::new(),
            closed: false,
        };
        Self { ring: Mutex::new(ring), changed: Condvar::new() }
    }

    /// Adds what just became visible and wakes those who wait. What the feed began behind is passed over.
    pub(crate) fn publish(&self, event: FeedEvent) {
        let mut ring = lock(&self.ring);
        if event.end <= ring.end {
            return;
        }
        ring.end = event.end;
        ring.bytes += event.bytes();
        ring.events.push_back(Arc::new(event));
        while ring.events.len() > WATCH_BACKLOG_MAX || ring.bytes > WATCH_BACKLOG_BYTES_MAX {
            let Some(evicted) = ring.events.pop_front() else { break };
            ring.bytes -= evicted.bytes();
            ring.start = evicted.end;
        }
        self.wake(ring);
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        let mut ring = lock(&self.ring);
        ring.closed = true;
        self.wake(ring);
    }

    fn wake(&self, mut ring: MutexGuard<'_, Ring>) {
        let wakers = std::mem::take(&mut ring.wakers);
        drop(ring);
        self.changed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Changes of a space that the log told.
#[derive(Debug)]
pub(crate) struct LogEvents {
    pub(crate) events: Vec<FeedEvent>,
    /// Where to go on reading, if there is more.
    pub(crate) next: Option<u64>,
}

/// Reads a space's past changes from the log: at most so many of those that end behind a position, or `None`
/// if the log does not reach back.
pub(crate) type ReadLog = Box<dyn Fn(u64, usize) -> Result<Option<LogEvents>, Error> + Send + Sync>;

/// The changes of a space at and under a path; made by [`Space::watch`](crate::Space::watch).
///
/// It is read by waiting for it ([`next_timeout`](Self::next_timeout)), by asking it
/// ([`try_next`](Self::try_next)) or, in async code, as a [`Stream`]. It ends when the replica is closed.
/// It holds no queue of its own: see [`WATCH_BACKLOG_MAX`] for what happens to a slow consumer.
pub struct Watch {
    feed: Arc<Feed>,
    read_log: ReadLog,
    prefix: Path,
    /// Events that end behind this position are still to be given.
    position: u64,
    /// Whether the watch is still on its way from where it was resumed to the ring.
    resuming: bool,
    /// Taken from the log or the ring, and not given yet.
    ahead: VecDeque<Arc<FeedEvent>>,
}

impl Watch {
    pub(crate) fn new(
        feed: Arc<Feed>,
        read_log: ReadLog,
        prefix: Path,
        from: Option<ChangeSequence>,
    ) -> Self {
        let position = from.map_or_else(|| lock(&feed.ring).end, ChangeSequence::as_u64);
        let resuming = from.is_some();
        Self { feed, read_log, prefix, position, resuming, ahead: VecDeque::new() }
    }

    /// Where the watch stands: resuming from here gives what it has not given yet.
    pub fn sequence(&self) -> ChangeSequence {
        ChangeSequence(self.position)
    }

    /// The next event if there is one now.
    ///
    /// # Errors
    /// [`Error::Store`] if a resumed watch cannot read the log.
    pub fn try_next(&mut self) -> Result<Option<WatchEvent>, Error> {
        let feed = Arc::clone(&self.feed);
        Ok(match self.advance(&feed)? {
            Advance::Event(event) => Some(event),
            Advance::NoMore(_) => None,
        })
    }

    /// Waits for the next event, at most so long. `None` if none came, or if the replica was closed.
    ///
    /// # Errors
    /// [`Error::Store`] if a resumed watch cannot read the log.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<WatchEvent>, Error> {
        let feed = Arc::clone(&self.feed);
        let deadline = Instant::now() + timeout;
        loop {
            let ring = match self.advance(&feed)? {
                Advance::Event(event) => return Ok(Some(event)),
                Advance::NoMore(ring) => ring,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if ring.closed || left.is_zero() {
                return Ok(None);
            }
            let waited = feed.changed.wait_timeout(ring, left);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn advance<'f>(&mut self, feed: &'f Feed) -> Result<Advance<'f>, Error> {
        loop {
            while let Some(event) = self.ahead.pop_front() {
                self.position = event.end;
                if let Some(event) = event.seen_from(&self.prefix) {
                    return Ok(Advance::Event(event));
                }
            }
            let ring = lock(&feed.ring);
            if self.position >= ring.start {
                self.resuming = false;
                // Looked at without the lock, which writers need.
                self.ahead = ring.behind(self.position);
                if self.ahead.is_empty() {
                    return Ok(Advance::NoMore(ring));
                }
                continue;
            }
            if !self.resuming {
                return Ok(Advance::Event(self.reread(&ring, RereadReason::Lagged)));
            }
            // Whatever lies before this was published, and so is in the log, before the log is read.
            let start = ring.start;
            drop(ring);
            match (self.read_log)(self.position, RESUME_RECORDS)? {
                Some(page) if !page.events.is_empty() => {
                    self.ahead = page.events.into_iter().map(Arc::new).collect();
                }
                Some(LogEvents { next: Some(next), .. }) => self.position = next,
                // Nothing of this space between here and the ring.
                Some(_) => self.position = start,
                None => {
                    let ring = lock(&feed.ring);
                    return Ok(Advance::Event(self.reread(&ring, RereadReason::LogGone)));
                }
            }
        }
    }

    fn reread(&mut self, ring: &Ring, reason: RereadReason) -> WatchEvent {
        self.position = ring.end;
        self.resuming = false;
        WatchEvent::Reread { sequence: self.sequence(), reason }
    }
}

/// What a watch comes to next.
enum Advance<'f> {
    Event(WatchEvent),
    /// Nothing now. The ring is held since that was found, so that nothing comes between it and waiting.
    NoMore(MutexGuard<'f, Ring>),
}

impl Ring {
    /// Some of the events that end behind `position`, the first of them first.
    fn behind(&self, position: u64) -> VecDeque<Arc<FeedEvent>> {
        let first = self.events.partition_point(|event| event.end <= position);
        self.events.range(first..).take(TAKE_EVENTS).cloned().collect()
    }
}

impl Stream for Watch {
    type Item = Result<WatchEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let feed = Arc::clone(&self.feed);
        match self.advance(&feed) {
            Err(error) => Poll::Ready(Some(Err(error))),
            Ok(Advance::Event(event)) => Poll::Ready(Some(Ok(event))),
            Ok(Advance::NoMore(ring)) if ring.closed => Poll::Ready(None),
            Ok(Advance::NoMore(mut ring)) => {
                if !ring.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                    ring.wakers.push(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { prefix, position, .. } = self;
        f.debug_struct("Watch")
            .field("prefix", prefix)
            .field("position", position)
            .finish_non_exhaustive()
    }
}
