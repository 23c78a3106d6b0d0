//! What the log still tells: to a peer, the commits it misses; to a watcher, the changes it missed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rejoin_crdt::planted::{self, Bug};
use rejoin_crdt::{CommitHash, Dot, ReplicaId, VersionVector};

use super::{CommitRun, Store};
use crate::entry::{Entry, ReplicaIndex, SpaceIndex};
use crate::error::StoreError;
use crate::log::{Location, Lsn, Scanned};
use crate::observer::Change;
use crate::view::View;

/// How many places of commits are looked up at once for one replica.
const LOCATIONS_PAGE: usize = 256;
/// How much of the log one page of changes is looked for in, in bytes.
const LOG_PAGE_BYTES_MAX: u64 = 1 << 20;

/// What can be told to a peer at some version of a space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitsAfter {
    /// The commits that it misses, or the first of them.
    Commits {
        /// In causal order: each commit's dependencies come before it, or are covered by the peer's version.
        runs: Vec<CommitRun>,
        /// Whether there are more than fit.
        more: bool,
    },
    /// It misses commits that are no longer in the log: the states must be joined.
    LogGone,
    /// It knows another history of this replica than the one known here.
    Fork {
        /// Whose history forked.
        replica: ReplicaId,
        /// A commit of which the two sides know different ones.
        sequence: u64,
    },
}

/// Changes from some position of the log on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPage {
    /// Changes in the order of the log.
    Changes {
        /// At most as many as were asked for; possibly none although there are more.
        changes: Vec<Change>,
        /// Where to go on.
        next: Lsn,
        /// Whether there is more to read from there.
        more: bool,
    },
    /// The log no longer reaches back to the position, or never had it: read everything again.
    Gone,
}

impl Store {
    /// The commits that a peer whose version of the space is `theirs` misses, up to about `bytes_max` bytes
    /// of canonical bytes, and one at least. Only what is on disk here is told.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSpace`], [`StoreError::Damaged`] or [`StoreError::Io`].
    pub fn commits_after(
        &self,
        space: SpaceIndex,
        theirs: &VersionVector,
        bytes_max: usize,
    ) -> Result<CommitsAfter, StoreError> {
        let view = self.durable.load_full();
        let mut missing = match Missing::find(&view, space, theirs)? {
            Ok(missing) => missing,
            Err(answer) => return Ok(answer),
        };
        let mut chosen: Vec<(ReplicaId, u64, Location)> = Vec::new();
        let mut bytes = 0;
        while let Some((replica, sequence, location)) = missing.peek() {
            if !chosen.is_empty() && bytes + location.body_bytes as usize > bytes_max {
                break;
            }
            bytes += location.body_bytes as usize;
            chosen.push((replica, sequence, location));
            if !missing.advance(&view)? {
                return Ok(CommitsAfter::LogGone);
            }
        }
        let more = missing.peek().is_some();
        let locations: Vec<_> = chosen.iter().map(|(_, _, location)| *location).collect();
        let Some(records) = self.log.read(&locations)? else { return Ok(CommitsAfter::LogGone) };
        let mut runs = Runs::default();
        for ((replica, sequence, location), record) in chosen.into_iter().zip(records) {
            let Some(Entry::Commit { previous, body, sequence: found, .. }) =
                Entry::decode(&record)
            else {
                return Err(misplaced(location));
            };
            if found != sequence {
                return Err(misplaced(location));
            }
            #[cfg(feature = "mutants")]
            let body = match planted::relayed(Dot { replica, sequence }, &body) {
                Some(other) if replica != self.replica => other.into(),
                _ => body,
            };
            if sequence - 1 == theirs.sequence(replica) && previous != theirs.previous_hash(replica)
            {
                return Ok(CommitsAfter::Fork { replica, sequence: sequence - 1 });
            }
            runs.push(replica, sequence, previous, body);
        }
        Ok(CommitsAfter::Commits { runs: runs.0, more })
    }

    /// The changes of a space behind `after`, at most `limit`, as far as they are on disk.
    ///
    /// `after` is the [`lsn`](Change::lsn) of a change or of a snapshot. One that was told before it was
    /// [durable](crate::Observer::durable) may be lost in a crash, and stand for another position later.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSpace`], [`StoreError::Damaged`] or [`StoreError::Io`].
    pub fn log_from(
        &self,
        space: SpaceIndex,
        after: Lsn,
        limit: usize,
    ) -> Result<LogPage, StoreError> {
        let view = self.durable.load_full();
        view.space(space)?;
        if after > view.lsn {
            return Ok(LogPage::Gone);
        }
        let Some(mut scan) = self.log.scan(after) else { return Ok(LogPage::Gone) };
        let mut changes = Vec::new();
        let mut next = after;
        while next < view.lsn
            && changes.len() < limit
            && next.get() - after.get() < LOG_PAGE_BYTES_MAX
        {
            let (location, record) = match scan.step() {
                Ok(Scanned::Record(location, record)) => (location, record),
                Ok(Scanned::Gone) => return Ok(LogPage::Gone),
                Ok(Scanned::End) => break,
                // Nothing begins here: not a position that this log gave out.
                Err(StoreError::Damaged { .. }) if next == after => return Ok(LogPage::Gone),
                Err(error) => return Err(error),
            };
            next = location.end();
            changes.extend(change(&view, space, location, &record)?);
        }
        Ok(LogPage::Changes { changes, next, more: next < view.lsn })
    }
}

/// The change that a record stands for, if it is one of `space`.
fn change(
    view: &View,
    space: SpaceIndex,
    location: Location,
    record: &Bytes,
) -> Result<Option<Change>, StoreError> {
    let lsn = location.end();
    match Entry::decode(record).ok_or_else(|| misplaced(location))? {
        Entry::Commit { space: of, replica, sequence, body, .. } if of == space => {
            let replica = view.replicas.id(replica).ok_or_else(|| misplaced(location))?;
            Ok(Some(Change::Commit { lsn, space, dot: Dot { replica, sequence }, body }))
        }
        Entry::Joined { space: of } if of == space => Ok(Some(Change::Joined { lsn, space })),
        _ => Ok(None),
    }
}

fn misplaced(location: Location) -> StoreError {
    StoreError::Damaged {
        file: "the log".to_owned(),
        position: location.lsn.get(),
        detail: "a record is not what the index says".to_owned(),
    }
}

/// The commits that a peer misses, by their place in the log: an order in which causes come first, because
/// this replica applied them in that order.
#[derive(Debug, Default)]
struct Missing {
    of_replicas: Vec<OfReplica>,
    /// The first commit missing of each replica: its place, and the position in `of_replicas`.
    firsts: BTreeMap<Lsn, usize>,
}

/// What is missing of one replica's commits.
#[derive(Debug)]
struct OfReplica {
    id: ReplicaId,
    space: SpaceIndex,
    index: ReplicaIndex,
    /// The next sequence number, and the last there is.
    next: u64,
    last: u64,
    /// Where the commits from `next` on are, as far as looked up.
    places: VecDeque<(u64, Location)>,
}

impl Missing {
    /// Finds what a peer at `theirs` misses, or the answer that makes that pointless.
    fn find(
        view: &Arc<View>,
        space: SpaceIndex,
        theirs: &VersionVector,
    ) -> Result<Result<Self, CommitsAfter>, StoreError> {
        let state = view.space(space)?;
        if let Err(fork) = state.version.check_fork(theirs) {
            return Ok(Err(CommitsAfter::Fork { replica: fork.replica, sequence: fork.sequence }));
        }
        let mut missing = Self::default();
        for (id, head) in state.version.iter() {
            let known = theirs.sequence(id);
            if known >= head.sequence {
                continue;
            }
            let next = known + 1;
            let index = view.replicas.index(id);
            let index = index.expect("a replica is numbered before it enters a version");
            let places = VecDeque::new();
            let mut of_replica = OfReplica { id, space, index, next, last: head.sequence, places };
            if !of_replica.fill(view)? {
                return Ok(Err(CommitsAfter::LogGone));
            }
            missing.enqueue(missing.of_replicas.len(), &of_replica);
            missing.of_replicas.push(of_replica);
        }
        Ok(Ok(missing))
    }

    fn enqueue(&mut self, position: usize, of_replica: &OfReplica) {
        if let Some((_, location)) = of_replica.places.front() {
            self.firsts.insert(location.lsn, position);
        }
    }

    /// The next commit missing.
    fn peek(&self) -> Option<(ReplicaId, u64, Location)> {
        let (_, position) = self.firsts.first_key_value()?;
        let of_replica = &self.of_replicas[*position];
        let (sequence, location) = of_replica.places.front()?;
        Some((of_replica.id, *sequence, *location))
    }

    /// Goes on to the one behind that; `false` if the log does not have it.
    fn advance(&mut self, view: &View) -> Result<bool, StoreError> {
        let Some((_, position)) = self.firsts.pop_first() else { return Ok(true) };
        let of_replica = &mut self.of_replicas[position];
        of_replica.places.pop_front();
        of_replica.next += 1;
        if of_replica.places.is_empty()
            && of_replica.next <= of_replica.last
            && !of_replica.fill(view)?
        {
            return Ok(false);
        }
        if let Some((_, location)) = of_replica.places.front() {
            self.firsts.insert(location.lsn, position);
        }
        Ok(true)
    }
}

impl OfReplica {
    /// Looks up where the next commits are; `false` if the log does not have them all.
    fn fill(&mut self, view: &View) -> Result<bool, StoreError> {
        let places = view.locations((self.space, self.index, self.next), LOCATIONS_PAGE)?;
        self.places =
            places.into_iter().take_while(|(sequence, _)| *sequence <= self.last).collect();
        let whole =
            self.places.iter().zip(self.next..).all(|((sequence, _), next)| *sequence == next);
        Ok((whole || planted::is(Bug::GapInLogUnnoticed)) && !self.places.is_empty())
    }
}

/// Gathers commits into runs.
#[derive(Debug, Default)]
struct Runs(Vec<CommitRun>);

impl Runs {
    fn push(&mut self, replica: ReplicaId, sequence: u64, previous: CommitHash, body: Bytes) {
        match self.0.last_mut() {
            Some(run) if run.replica == replica => run.bodies.push(body),
            _ => {
                self.0.push(CommitRun {
                    replica,
                    first_sequence: sequence,
                    previous,
                    bodies: vec![body],
                });
            }
        }
    }
}
