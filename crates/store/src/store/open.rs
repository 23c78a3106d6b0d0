//! Opening a store: the tree, then the log behind its mark.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use bytes::Bytes;
use rejoin_crdt::{CommitBody, Dot, commit_hash};

use super::stage::is_stage;
use super::{Flusher, Store};
use crate::backend::Backend;
use crate::entry::{Entry, SpaceIndex};
use crate::error::{StoreError, TornTail};
use crate::head::{Head, ReadyCommit};
use crate::log::{Framing, Location, LogSizes, is_segment, recover};
use crate::observer::Observer;
use crate::options::{FreshIds, StoreOptions};
use crate::tree::TreeStore;
use crate::view::{Buffer, View};

/// What an opening found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenReport {
    /// Whether the store was created.
    pub created: bool,
    /// How many commits were applied again, because they were in the log and not in the tree yet.
    pub replayed_commits: u64,
    /// What was cut off the log, if a crash had torn its tail: nothing of which anybody was told that it
    /// is durable.
    pub torn_tail: Option<TornTail>,
}

impl Store {
    /// Opens the store in `backend`, or creates one there.
    ///
    /// `fresh` is used only by a creation. What a crash left over is tidied up, and commits that are in the log
    /// and not in the tree take effect again; the report says what was done.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::Damaged`], [`StoreError::UnknownFormat`] or
    /// [`StoreError::Io`]; nothing was lost that was not lost before.
    pub fn open(
        backend: Arc<dyn Backend>,
        options: StoreOptions,
        fresh: FreshIds,
        observer: Box<dyn Observer>,
    ) -> Result<(Store, OpenReport), StoreError> {
        let held = backend.lock().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StoreError::Locked,
            _ => StoreError::Io { action: "locking the store", source: error },
        })?;
        let names = backend.list().map_err(StoreError::io("listing the folder"))?;
        for stage in names.iter().filter(|name| is_stage(name)) {
            backend.remove(stage).map_err(StoreError::io("removing a stage"))?;
        }
        let has_log = names.iter().any(|name| is_segment(name));
        let (tree, content, created) = TreeStore::open(
            backend.as_ref(),
            has_log,
            options.tree_cache_bytes,
            options.snapshot_checkpoints_max,
            &fresh,
        )?;
        let meta = *tree.meta();
        let view = View {
            active: Buffer::default(),
            frozen: None,
            tree: tree.current().clone(),
            space_ids: content
                .spaces
                .iter()
                .map(|(index, state)| (state.info.id, *index))
                .collect(),
            spaces: content.spaces,
            replicas: Arc::new(content.replicas),
            lsn: meta.mark,
        };
        let mut replay = Replay {
            head: Head::new(meta.replica, Framing::new(&meta.salt), view, tree.unreadable()),
            joined: content.joined,
            commits: 0,
        };
        let recovered = recover(
            &backend,
            meta.salt,
            meta.mark,
            LogSizes { segment_bytes: options.segment_bytes, reserve_bytes: options.reserve_bytes },
            &mut |location, record| replay.record(location, &record),
        )?;
        let Replay { mut head, joined, commits } = replay;
        head.reach(recovered.writer.end());
        joined.into_iter().for_each(|space| head.note_joined(space));
        head.assume_sent();

        let view = Arc::new(head.view.clone());
        let store = Store {
            tree: Mutex::new(tree),
            flusher: Mutex::new(Flusher { writer: recovered.writer, spare: Vec::new() }),
            head: Mutex::new(head),
            log: recovered.log,
            latest: ArcSwap::new(view.clone()),
            durable: ArcSwap::new(view),
            observer,
            backend,
            options,
            replica: meta.replica,
            stages: AtomicU64::new(0),
            _lock: held,
        };
        store.sync()?;
        let report =
            OpenReport { created, replayed_commits: commits, torn_tail: recovered.torn_tail };
        Ok((store, report))
    }
}

/// Applies the log to what the tree holds.
struct Replay {
    head: Head,
    /// Spaces into which a state was joined without a word of it in the log so far.
    joined: Vec<SpaceIndex>,
    commits: u64,
}

impl Replay {
    fn record(&mut self, location: Location, record: &Bytes) -> Result<(), StoreError> {
        let damaged = |detail: &str| StoreError::Damaged {
            file: "the log".to_owned(),
            position: location.lsn.get(),
            detail: detail.to_owned(),
        };
        let view = &self.head.view;
        match Entry::decode(record).ok_or_else(|| damaged("a record is of an unknown form"))? {
            Entry::DefineSpace { index, id, name } => match view.spaces.get(&index) {
                Some(known) if known.info.id == id => {}
                Some(_) => return Err(damaged("a space is defined twice")),
                None => self.head.enter_space(index, id, &name),
            },
            Entry::DefineReplica { index, id } => match view.replicas.id(index) {
                Some(known) if known == id => {}
                None if index == view.replicas.next() && view.replicas.index(id).is_none() => {
                    self.head.enter_replica(id);
                }
                _ => return Err(damaged("a replica is defined twice, or out of turn")),
            },
            Entry::Commit { space, replica, sequence, previous, body: bytes } => {
                let state =
                    view.spaces.get(&space).ok_or_else(|| damaged("a space is not defined"))?;
                let id =
                    view.replicas.id(replica).ok_or_else(|| damaged("a replica is not defined"))?;
                let dot = Dot { replica: id, sequence };
                if state.version.covers(dot) {
                    // A state that was joined had its effect already.
                    return Ok(());
                }
                if previous != state.version.previous_hash(id) {
                    return Err(damaged("a commit does not follow the one before it"));
                }
                let hash = commit_hash(state.info.id, dot, previous, &bytes);
                let body = CommitBody::from_bytes(dot, &bytes)
                    .map_err(|_| damaged("a commit is malformed"))?;
                body.ready(dot, &state.version).map_err(|_| damaged("a commit is out of order"))?;
                self.head.replay(
                    &ReadyCommit { space, dot, previous, hash, body: &body, bytes },
                    location,
                )?;
                self.commits += 1;
            }
            Entry::Joined { space } => self.joined.retain(|joined| *joined != space),
        }
        Ok(())
    }
}
