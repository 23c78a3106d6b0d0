//! Joining a whole state from a peer: staged on disk as it arrives, then joined at once.
//!
//! A stage is a file of its own, in the order in which rows came, which is that of their keys. It is never
//! synced, since it means nothing after a crash; an opening removes what is left. For each row it holds: length
//! and CRC-32 of the rest (4 bytes each, little-endian), then length of the key (varint), key, row (canonical).

use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rejoin_crdt::planted::{self, Bug};
use rejoin_crdt::{
    Dot, JoinError, MemoryRows, ReadRows, Row, RowKey, VersionVector, WriteRows, join,
};

use super::Store;
use crate::backend::{Backend, StorageFile};
use crate::entry::SpaceIndex;
use crate::error::{StageError, StoreError};
use crate::packing::{Unpacker, put_varint};
use crate::sync::lock;
use crate::tree::Tree;
use crate::view::{Buffer, BufferedRow, SpaceRows, StoredKey, View, row_key_of, space_prefix};

const STAGE_PREFIX: &str = "stage-";
/// How much is gathered before it is written to the file, and read from it at once, in bytes.
const STAGE_BUFFER_BYTES: usize = 256 << 10;
const ENTRY_HEADER_BYTES: usize = 8;
/// The most bytes of one row, which is gathered in memory from its parts.
const STAGED_ROW_BYTES_MAX: u64 = 64 << 20;

/// Whether a file of this name is a stage.
pub(super) fn is_stage(name: &str) -> bool {
    name.starts_with(STAGE_PREFIX)
}

/// Rows of a peer's state that wait to be joined; see [`Store::begin_state`]. Dropping it gives the join up.
#[derive(Debug)]
pub struct StateStage {
    space: SpaceIndex,
    version: VersionVector,
    file: StageFile,
    /// The row last pushed, of which more parts may follow.
    last: Option<(RowKey, Row)>,
    /// How many bytes the parts of that row took so far.
    last_bytes: u64,
    bytes_max: u64,
}

/// The file, which goes when its last user does.
#[derive(Debug)]
struct StageFile {
    backend: Arc<dyn Backend>,
    name: String,
    file: Arc<dyn StorageFile>,
    /// How much is in the file.
    written: u64,
    buffer: Vec<u8>,
}

impl Store {
    /// Begins to take in the state that a peer has at `version`: push its rows, then
    /// [commit](Store::commit_state) the stage.
    ///
    /// # Errors
    /// [`StageError::Fork`] or [`StageError::RolledBack`] if the version speaks of another history than the
    /// one known here, and whatever keeps the stage from being created.
    pub fn begin_state(
        &self,
        space: SpaceIndex,
        version: VersionVector,
    ) -> Result<StateStage, StageError> {
        lock(&self.head).check_poison()?;
        self.check_their_version(self.latest.load().space(space)?.version.as_ref(), &version)?;
        let name = format!("{STAGE_PREFIX}{}", self.stages.fetch_add(1, Ordering::Relaxed));
        let file = self.backend.create(&name).map_err(StoreError::io("creating a stage"))?;
        let backend = self.backend.clone();
        let file = StageFile { backend, name, file, written: 0, buffer: Vec::new() };
        let bytes_max = self.options.stage_bytes_max;
        Ok(StateStage { space, version, file, last: None, last_bytes: 0, bytes_max })
    }

    /// Joins the staged state into the space, all of it at once, durably; returns the joined version.
    ///
    /// Writers and readers go on meanwhile, except for a moment in proportion to what was written meanwhile.
    ///
    /// # Errors
    /// [`StageError`]; the space is as if nothing had been staged.
    pub fn commit_state(&self, mut stage: StateStage) -> Result<Arc<VersionVector>, StageError> {
        stage.finish()?;
        let StateStage { space, version: theirs, file, .. } = stage;
        let mut tree = lock(&self.tree);
        {
            let mut head = lock(&self.head);
            head.check_poison()?;
            self.check_their_version(&head.view.space(space)?.version, &theirs)?;
            theirs.iter().for_each(|(replica, _)| {
                head.intern(replica);
            });
        }
        self.checkpoint_held(&mut tree)?;
        let replicas = self.durable.load().replicas.clone();
        let mut state = tree.space(space).ok_or(StoreError::NoSuchSpace)?.clone();
        let mut joined = VersionVector::default();
        let result = tree.join(space, &replicas, |rows| {
            joined = join(rows, &state.version, file.read(), &theirs).map_err(refused)?;
            state.version = Arc::new(joined.clone());
            Ok(state)
        });
        match result {
            Err(StageError::Store(error @ StoreError::Io { .. })) => {
                return Err(self.poisoned("joining a state", &error).into());
            }
            other => other?,
        }
        let mut flusher = lock(&self.flusher);
        let mut version = Arc::default();
        self.flush(&mut flusher, |head| {
            let (rows, joined) = join_active(&head.view, space, tree.current(), &joined)?;
            head.view.rebase(tree.current());
            head.enter_joined(space, joined, rows)?;
            version = head.view.space(space)?.version.clone();
            Ok(())
        })?;
        Ok(version)
    }

    fn check_their_version(
        &self,
        mine: &VersionVector,
        theirs: &VersionVector,
    ) -> Result<(), StageError> {
        mine.check_fork(theirs)?;
        let (replica, sequence) = (self.replica, theirs.sequence(self.replica));
        if sequence > mine.sequence(replica) && !planted::is(Bug::OwnTakenFromPeers) {
            return Err(StageError::RolledBack { dot: Dot { replica, sequence } });
        }
        Ok(())
    }
}

impl StateStage {
    /// The space that the state is to be joined into.
    pub fn space(&self) -> SpaceIndex {
        self.space
    }

    /// Takes in a row: the encoding of its key, and its canonical bytes.
    ///
    /// Rows come in ascending order of keys; the parts into which a row was [split](Row::split) follow each other.
    ///
    /// # Errors
    /// [`StageError`]; the stage must then be dropped.
    pub fn push(&mut self, key: &[u8], row: &[u8]) -> Result<(), StageError> {
        let malformed =
            |error: rejoin_crdt::codec::DecodeError| StageError::Malformed(error.to_string());
        let part_bytes = row.len() as u64;
        let key = RowKey::from_bytes(key).map_err(malformed)?;
        let row = Row::from_bytes(key.kind, row).map_err(malformed)?;
        if row.is_empty() {
            return Err(StageError::Malformed("a row without dots".to_owned()));
        }
        if let Some(dot) = row.dots().find(|dot| !self.version.covers(*dot)) {
            return Err(StageError::NotCovered { dot });
        }
        match &mut self.last {
            Some((last, whole)) if *last == key => {
                self.last_bytes += part_bytes;
                if self.last_bytes > STAGED_ROW_BYTES_MAX {
                    return Err(StageError::TooLarge { limit: STAGED_ROW_BYTES_MAX });
                }
                for (dot, payload) in row.iter() {
                    if whole.get(dot).is_some() {
                        return Err(StageError::Malformed(format!("the dot {dot} comes twice")));
                    }
                    whole.insert(dot, payload.clone());
                }
                return Ok(());
            }
            Some((last, _)) if *last > key => return Err(StageError::Unordered),
            _ => {}
        }
        self.put_last()?;
        (self.last, self.last_bytes) = (Some((key, row)), part_bytes);
        Ok(())
    }

    /// Puts all that was pushed into the file.
    fn finish(&mut self) -> Result<(), StageError> {
        self.put_last()?;
        Ok(self.file.flush()?)
    }

    fn put_last(&mut self) -> Result<(), StageError> {
        let Some((key, row)) = self.last.take() else { return Ok(()) };
        self.file.put(&key.to_bytes(), &row.to_bytes())?;
        if self.file.written + self.file.buffer.len() as u64 > self.bytes_max {
            return Err(StageError::TooLarge { limit: self.bytes_max });
        }
        Ok(())
    }
}

impl StageFile {
    fn put(&mut self, key: &[u8], row: &[u8]) -> Result<(), StoreError> {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; ENTRY_HEADER_BYTES]);
        put_varint(&mut self.buffer, key.len() as u64);
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(row);
        let entry = &self.buffer[start + ENTRY_HEADER_BYTES..];
        let length = u32::try_from(entry.len()).expect("rows come in frames far below 4 GiB");
        let checksum = crc32fast::hash(entry);
        self.buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.buffer[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
        if self.buffer.len() >= STAGE_BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.file
            .write_at(self.written, &self.buffer)
            .map_err(StoreError::io("writing a stage"))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// The rows, in the order in which they were put.
    fn read(&self) -> StageReader<'_> {
        StageReader { stage: self, position: 0, ahead: Vec::new(), consumed: 0 }
    }
}

impl Drop for StageFile {
    fn drop(&mut self) {
        // If this fails, the next opening removes the file.
        let _removed_later = self.backend.remove(&self.name);
    }
}

/// Reads a stage from front to back.
struct StageReader<'a> {
    stage: &'a StageFile,
    /// Where in the file the unread part begins.
    position: u64,
    ahead: Vec<u8>,
    /// How much of `ahead` was given out.
    consumed: usize,
}

impl StageReader<'_> {
    fn entry(&mut self) -> Result<Option<(RowKey, Row)>, StoreError> {
        if self.ahead.len() == self.consumed && self.position == self.stage.written {
            return Ok(None);
        }
        let header = self.take(ENTRY_HEADER_BYTES)?;
        let mut header = Unpacker::new(&header);
        let length = header.array().map_or(0, u32::from_le_bytes);
        let checksum = header.array().map_or(0, u32::from_le_bytes);
        let entry = self.take(length as usize)?;
        if crc32fast::hash(&entry) != checksum {
            return Err(self.damaged());
        }
        let mut unpacker = Unpacker::new(&entry);
        let key = unpacker.sized().and_then(|key| RowKey::from_bytes(key).ok());
        let key = key.ok_or_else(|| self.damaged())?;
        let row = Row::from_bytes(key.kind, unpacker.rest()).map_err(|_| self.damaged())?;
        Ok(Some((key, row)))
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>, StoreError> {
        if self.ahead.len() - self.consumed < count {
            self.ahead.drain(..self.consumed);
            self.consumed = 0;
            let kept = self.ahead.len();
            let left = self.stage.written - self.position;
            let wanted = (count - kept).max(STAGE_BUFFER_BYTES) as u64;
            let fetched = wanted.min(left) as usize;
            if kept + fetched < count {
                return Err(self.damaged());
            }
            self.ahead.resize(kept + fetched, 0);
            let read = self.stage.file.read_at(self.position, &mut self.ahead[kept..]);
            read.map_err(StoreError::io("reading a stage"))?;
            self.position += fetched as u64;
        }
        let taken = self.ahead[self.consumed..self.consumed + count].to_vec();
        self.consumed += count;
        Ok(taken)
    }

    fn damaged(&self) -> StoreError {
        StoreError::Damaged {
            file: self.stage.name.clone(),
            position: self.position,
            detail: "a staged row does not verify".to_owned(),
        }
    }
}

impl Iterator for StageReader<'_> {
    type Item = Result<(RowKey, Row), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entry().transpose()
    }
}

/// The rows that the active buffer is to hold of a space, and the version that they stand at.
type JoinedActive = (Vec<(StoredKey, BufferedRow)>, VersionVector);

/// Joins what was written since the checkpoint with the state that is now in the tree.
///
/// The tree's state is the join of the peer's with one that the head has moved on from, so joining it with
/// the head's gives the join of the peer's with the head's. Rows that the active buffer does not hold are
/// the same at the head as at the checkpoint, so for them the tree is right already.
fn join_active(
    head: &View,
    space: SpaceIndex,
    tree: &Arc<Tree>,
    tree_version: &VersionVector,
) -> Result<JoinedActive, StoreError> {
    let under_tree =
        View { active: Buffer::default(), frozen: None, tree: tree.clone(), ..head.clone() };
    let tree_rows = SpaceRows { view: &under_tree, space };
    let prefix = space_prefix(space);
    let held = head
        .active
        .rows
        .range::<_, [u8]>((Bound::Included(&prefix[..]), Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(&prefix));
    let mut mine = MemoryRows::default();
    let mut theirs = Vec::new();
    let mut keys = Vec::new();
    for (stored, row) in held {
        let key = row_key_of(stored).expect("a buffer holds only keys made from row keys");
        if let Some(row) = row {
            infallible(mine.set_row(&key, Row::clone(row)));
        }
        if let Some(row) = tree_rows.row(&key)? {
            theirs.push((key.clone(), row));
        }
        keys.push((stored.clone(), key));
    }
    let version = &head.space(space)?.version;
    let joined = join(&mut mine, version, theirs.into_iter().map(Ok), tree_version);
    let joined = joined.map_err(|error| contradiction(&error))?;
    let rows =
        keys.into_iter().map(|(stored, key)| (stored, infallible(mine.row(&key)).map(Arc::new)));
    Ok((rows.collect(), joined))
}

/// Two states of this very store cannot contradict each other, unless one is damaged.
fn contradiction(error: &JoinError<Infallible>) -> StoreError {
    StoreError::Damaged {
        file: crate::tree::TREE_FILE.to_owned(),
        position: 0,
        detail: error.to_string(),
    }
}

fn infallible<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

/// What a join that failed says of the peer's state.
fn refused(error: JoinError<StoreError>) -> StageError {
    match error {
        JoinError::Rows(error) => StageError::Store(error),
        JoinError::Fork(fork) => StageError::Fork(fork),
        JoinError::OutOfOrder => StageError::Unordered,
        JoinError::Uncovered(dot) => StageError::NotCovered { dot },
        other => StageError::Malformed(other.to_string()),
    }
}
