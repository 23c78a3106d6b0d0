//! Commits: their operations, their canonical bytes, and when they may be applied.
//!
//! # Canonical bytes of a body
//!
//! A commit is named by its [`Dot`] and follows the previous commit of the same replica; both are
//! known from where the commit stands (a log record, a run of commits on the wire), so the *body*
//! repeats neither. In the following, an integer is in base 128, shortest form, and a *replica* is a
//! number: 0 is the author, n the n-th id of the table.
//!
//! | part | content |
//! |---|---|
//! | table | count, then ids of 16 bytes, ascending, each used below, the author not among them |
//! | dependencies | count, then (replica, sequence), ascending, the author not among them |
//! | wall time | milliseconds since the Unix epoch |
//! | operations | count, then each: removals of trees by path, then the others by row key, each once |
//!
//! An operation is a tag and: for a removal of a tree (2) the path (length, bytes) and its past (a
//! list of dots); for a set (0) and a removal (1) the row key (length, bytes) and the dots observed;
//! a set ends with its [`Payload`]. A list of dots is a count, then (replica, sequence), ascending.

use std::collections::BTreeSet;

use crate::codec::{DecodeError, Reader, put_sized, put_varint};
use crate::planted::{self, Bug};
use crate::{CommitHash, Dot, Path, Payload, ReplicaId, RowKey, SpaceId, VersionVector};

/// The longest canonical bytes of a commit's body.
pub const COMMIT_BYTES_MAX: usize = 4 << 20;
/// The most operations in one commit.
pub const OPERATIONS_MAX: usize = 65_536;
/// The most dots that one commit can name in all its operations.
pub const OBSERVED_MAX: usize = 262_144;
/// The most other replicas that one commit can name.
pub const DEPENDENCIES_MAX: usize = 16_384;

const TAG_SET: u64 = 0;
const TAG_REMOVE: u64 = 1;
const TAG_REMOVE_TREE: u64 = 2;

/// A change to one row or one subtree, with the dots that its writer saw there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Supersedes the observed dots of a row and adds the commit's dot with a payload.
    Set {
        /// The row.
        key: RowKey,
        /// The dots superseded, ascending.
        observed: Vec<Dot>,
        /// What the new dot carries; of the kind of the row.
        payload: Payload,
    },
    /// Removes the observed dots of a row.
    Remove {
        /// The row.
        key: RowKey,
        /// The dots removed, ascending; at least one.
        observed: Vec<Dot>,
    },
    /// Removes every dot at or under a path that the commit's causal past covers.
    RemoveTree {
        /// The root of the subtree.
        path: Path,
        /// The last dot of each replica in that past, ascending.
        past: Vec<Dot>,
    },
}

impl Operation {
    /// The path of the row or subtree that the operation changes.
    pub fn path(&self) -> &Path {
        match self {
            Operation::Set { key, .. } | Operation::Remove { key, .. } => &key.path,
            Operation::RemoveTree { path, .. } => path,
        }
    }

    /// The dots that the operation names.
    fn dots(&self) -> &[Dot] {
        match self {
            Operation::Set { observed, .. } | Operation::Remove { observed, .. } => observed,
            Operation::RemoveTree { past, .. } => past,
        }
    }
}

/// What a commit says: one transaction, without its place in the replica's chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitBody {
    /// The other replicas' entries that advanced since this replica's previous commit, ascending.
    pub dependencies: Vec<Dot>,
    /// When the transaction ran by its writer's clock, in milliseconds since the Unix epoch. It
    /// breaks ties between concurrent puts and does nothing else.
    pub wall_time_ms: u64,
    /// The changes: removals of trees by path, then the others by row key, each once.
    pub operations: Vec<Operation>,
}

/// Why a commit cannot be applied now. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// It is applied already.
    #[error("the commit is applied already")]
    Applied,
    /// Earlier commits of the same replica are missing.
    #[error("commits of the same replica after {applied} are missing")]
    Gap {
        /// The last one that is applied.
        applied: u64,
    },
    /// It depends on a commit that is not applied.
    #[error("the commit depends on {0}, which is missing")]
    Missing(Dot),
}

/// A transaction that is too large for one commit. The caller's fault; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The body would exceed [`COMMIT_BYTES_MAX`].
    #[error("the transaction takes {bytes} bytes, more than {COMMIT_BYTES_MAX}")]
    TooLong {
        /// Its size.
        bytes: usize,
    },
    /// There are more than [`OPERATIONS_MAX`] operations.
    #[error("the transaction has more than {OPERATIONS_MAX} operations")]
    TooManyOperations,
    /// More than [`OBSERVED_MAX`] dots, or more than [`DEPENDENCIES_MAX`] replicas, are named.
    #[error("the transaction names too many earlier commits")]
    TooManyDots,
}

impl CommitBody {
    /// Whether the commit named `dot` can be applied to a state at `version`: its predecessor and
    /// everything that it names are applied, and it is not.
    ///
    /// The dots that operations observed count as dependencies. An honest writer's are always covered
    /// by what it declares; a lying one's would otherwise take effect here and not there.
    ///
    /// # Errors
    /// [`NotReady`] says what is missing.
    pub fn ready(&self, dot: Dot, version: &VersionVector) -> Result<(), NotReady> {
        let applied = version.sequence(dot.replica);
        if dot.sequence <= applied {
            return Err(NotReady::Applied);
        }
        if dot.sequence != applied + 1 {
            return Err(NotReady::Gap { applied });
        }
        let observed = self.operations.iter().flat_map(Operation::dots);
        match self.dependencies.iter().chain(observed).find(|named| !version.covers(**named)) {
            Some(missing) if !planted::is(Bug::CausesNotAwaited) => {
                Err(NotReady::Missing(*missing))
            }
            _ => Ok(()),
        }
    }

    /// The canonical bytes of the body of a commit by `author`.
    ///
    /// # Errors
    /// [`CommitError`] if a limit is broken.
    pub fn to_bytes(&self, author: ReplicaId) -> Result<Vec<u8>, CommitError> {
        if self.operations.len() > OPERATIONS_MAX {
            return Err(CommitError::TooManyOperations);
        }
        let table = Table::of(self, author);
        let dots: usize = self.operations.iter().map(|operation| operation.dots().len()).sum();
        if table.ids.len() > DEPENDENCIES_MAX || dots > OBSERVED_MAX {
            return Err(CommitError::TooManyDots);
        }
        let mut out = Vec::with_capacity(64);
        put_varint(&mut out, table.ids.len() as u64);
        table.ids.iter().for_each(|id| out.extend_from_slice(id.as_bytes()));
        table.put_dots(&mut out, &self.dependencies);
        put_varint(&mut out, self.wall_time_ms);
        put_varint(&mut out, self.operations.len() as u64);
        for operation in &self.operations {
            table.put_operation(&mut out, operation);
            if out.len() > COMMIT_BYTES_MAX {
                return Err(CommitError::TooLong { bytes: out.len() });
            }
        }
        Ok(out)
    }

    /// Reads the canonical bytes of the body of the commit named `dot`.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are anything but the one encoding of a body within the limits.
    pub fn from_bytes(dot: Dot, bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > COMMIT_BYTES_MAX {
            return Err(DecodeError::TooLong { length: bytes.len(), limit: COMMIT_BYTES_MAX });
        }
        let mut decoder = BodyDecoder::new(dot, bytes)?;
        let dependencies = decoder.dots()?;
        if decoder.named_author {
            return Err(DecodeError::Invalid("a commit depends on its own replica"));
        }
        let distinct = dependencies.windows(2).all(|pair| pair[0].replica != pair[1].replica);
        let wall_time_ms = decoder.reader.varint()?;
        let count = decoder.reader.varint()?;
        if !distinct || count > OPERATIONS_MAX as u64 {
            return Err(DecodeError::Invalid("a commit breaks a limit"));
        }
        let mut body = Self { dependencies, wall_time_ms, operations: Vec::new() };
        for _ in 0..count {
            let operation = decoder.operation()?;
            if body.operations.last().is_some_and(|last| place(last) >= place(&operation)) {
                return Err(DecodeError::NotCanonical);
            }
            body.operations.push(operation);
        }
        decoder.finish()?;
        Ok(body)
    }
}

/// The hash of a commit, which its successor and the version vector carry.
///
/// BLAKE3, keyed for this purpose, over: space id, replica id, sequence number (8 little-endian
/// bytes), hash of the previous commit of the same replica, body. The body is hashed as received.
pub fn commit_hash(space: SpaceId, dot: Dot, previous: CommitHash, body: &[u8]) -> CommitHash {
    const KEY: &[u8; 32] = b"rejoin commit hash, version one.";
    let mut hasher = blake3::Hasher::new_keyed(KEY);
    hasher.update(space.as_bytes());
    hasher.update(dot.replica.as_bytes());
    hasher.update(&dot.sequence.to_le_bytes());
    hasher.update(previous.as_bytes());
    hasher.update(body);
    CommitHash::from_bytes(*hasher.finalize().as_bytes())
}

/// The place of an operation in the canonical order.
fn place(operation: &Operation) -> (bool, &Path, u8) {
    match operation {
        Operation::RemoveTree { path, .. } => (false, path, 0),
        Operation::Set { key, .. } | Operation::Remove { key, .. } => {
            (true, &key.path, key.kind as u8)
        }
    }
}

/// The replicas that a body names, which its dots refer to by number.
struct Table {
    author: ReplicaId,
    ids: Vec<ReplicaId>,
}

impl Table {
    fn of(body: &CommitBody, author: ReplicaId) -> Self {
        let observed = body.operations.iter().flat_map(Operation::dots);
        let named: BTreeSet<_> =
            body.dependencies.iter().chain(observed).map(|dot| dot.replica).collect();
        Self { author, ids: named.into_iter().filter(|id| *id != author).collect() }
    }

    fn number(&self, replica: ReplicaId) -> u64 {
        if replica == self.author {
            return 0;
        }
        let index = self.ids.binary_search(&replica);
        index.expect("the table was made of every replica that the body names") as u64 + 1
    }

    fn put_dots(&self, out: &mut Vec<u8>, dots: &[Dot]) {
        put_varint(out, dots.len() as u64);
        let mut numbered: Vec<_> =
            dots.iter().map(|dot| (self.number(dot.replica), dot.sequence)).collect();
        numbered.sort_unstable();
        for (number, sequence) in numbered {
            put_varint(out, number);
            put_varint(out, sequence);
        }
    }

    fn put_operation(&self, out: &mut Vec<u8>, operation: &Operation) {
        match operation {
            Operation::Set { key, observed, payload } => {
                put_varint(out, TAG_SET);
                put_sized(out, &key.to_bytes());
                self.put_dots(out, observed);
                payload.encode_into(out);
            }
            Operation::Remove { key, observed } => {
                put_varint(out, TAG_REMOVE);
                put_sized(out, &key.to_bytes());
                self.put_dots(out, observed);
            }
            Operation::RemoveTree { path, past } => {
                put_varint(out, TAG_REMOVE_TREE);
                put_sized(out, path.as_bytes());
                self.put_dots(out, past);
            }
        }
    }
}

/// Reads a body part by part, and keeps what must hold over all of it.
struct BodyDecoder<'a> {
    dot: Dot,
    reader: Reader<'a>,
    ids: Vec<ReplicaId>,
    /// For each id of the table, whether a dot has named it.
    used: Vec<bool>,
    named_author: bool,
    /// How many more dots may be named.
    dots_left: usize,
}

impl<'a> BodyDecoder<'a> {
    fn new(dot: Dot, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let count = reader.varint()?;
        if count > DEPENDENCIES_MAX as u64 {
            return Err(DecodeError::Invalid("a commit names too many replicas"));
        }
        let mut ids: Vec<ReplicaId> = Vec::new();
        for _ in 0..count {
            let id = reader.take(ReplicaId::BYTES)?;
            let id = ReplicaId::from_bytes(id.try_into().expect("an id's bytes were taken"));
            if id == dot.replica || ids.last().is_some_and(|last| *last >= id) {
                return Err(DecodeError::NotCanonical);
            }
            ids.push(id);
        }
        let used = vec![false; ids.len()];
        let dots_left = OBSERVED_MAX + DEPENDENCIES_MAX;
        Ok(Self { dot, reader, ids, used, named_author: false, dots_left })
    }

    /// A list of dots, in ascending order of dots.
    fn dots(&mut self) -> Result<Vec<Dot>, DecodeError> {
        let count = self.reader.varint()?;
        self.dots_left = usize::try_from(count)
            .ok()
            .and_then(|count| self.dots_left.checked_sub(count))
            .ok_or(DecodeError::Invalid("a commit names too many dots"))?;
        let mut dots = Vec::new();
        let mut last = None;
        for _ in 0..count {
            let (number, sequence) = (self.reader.varint()?, self.reader.varint()?);
            if last.is_some_and(|last| last >= (number, sequence)) {
                return Err(DecodeError::NotCanonical);
            }
            last = Some((number, sequence));
            dots.push(Dot { replica: self.replica(number, sequence)?, sequence });
        }
        dots.sort_unstable();
        Ok(dots)
    }

    fn replica(&mut self, number: u64, sequence: u64) -> Result<ReplicaId, DecodeError> {
        if sequence == 0 {
            return Err(DecodeError::Invalid("a sequence number is zero"));
        }
        if number == 0 {
            self.named_author = true;
            return match sequence < self.dot.sequence {
                true => Ok(self.dot.replica),
                false => Err(DecodeError::Invalid("a commit observes its own future")),
            };
        }
        let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
        let id = self.ids.get(index).ok_or(DecodeError::Invalid("no such replica in the table"))?;
        self.used[index] = true;
        Ok(*id)
    }

    fn operation(&mut self) -> Result<Operation, DecodeError> {
        match self.reader.varint()? {
            TAG_SET => {
                let key = RowKey::from_bytes(self.reader.sized()?)?;
                let observed = self.dots()?;
                let payload = Payload::decode_from(key.kind, &mut self.reader)?;
                Ok(Operation::Set { key, observed, payload })
            }
            TAG_REMOVE => {
                let key = RowKey::from_bytes(self.reader.sized()?)?;
                let observed = self.dots()?;
                if observed.is_empty() {
                    return Err(DecodeError::Invalid("a removal removes nothing"));
                }
                Ok(Operation::Remove { key, observed })
            }
            TAG_REMOVE_TREE => {
                let path = Path::from_bytes(self.reader.sized()?)?;
                let past = self.dots()?;
                if past.windows(2).any(|pair| pair[0].replica == pair[1].replica) {
                    return Err(DecodeError::Invalid("a past names a replica twice"));
                }
                Ok(Operation::RemoveTree { path, past })
            }
            _ => Err(DecodeError::Invalid("unknown operation")),
        }
    }

    fn finish(self) -> Result<(), DecodeError> {
        if !self.used.iter().all(|used| *used) {
            return Err(DecodeError::NotCanonical);
        }
        self.reader.finish()
    }
}
