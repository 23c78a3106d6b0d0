//! The state of one replica in memory.

use std::collections::BTreeMap;
use std::fmt;

use crate::laws::{Commit, Read, Violation};
use crate::{
    Head, Kind, MemoryRows, Row, RowKey, StateDigest, VersionVector, apply, codec, join, kind,
    state_digest,
};

/// Rows, and the version vector at which they stand.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct State {
    /// The rows.
    pub rows: MemoryRows,
    /// Which commits they reflect.
    pub version: VersionVector,
}

impl State {
    /// Applies one commit: effect, then version vector.
    ///
    /// # Errors
    /// [`Violation::NotReady`] if its causal past is not here, [`Violation::Chain`] if it follows
    /// another commit than the head of its replica. The state is then as it was.
    pub fn apply(&mut self, commit: &Commit) -> Result<(), Violation> {
        let dot = commit.dot;
        let ready = commit.body.ready(dot, &self.version);
        ready.map_err(|source| Violation::NotReady { dot, source })?;
        if self.version.previous_hash(dot.replica) != commit.previous {
            return Err(Violation::Chain(dot));
        }
        let Ok(()) = apply(&mut self.rows, dot, &commit.body);
        self.version.set(dot.replica, Head { sequence: dot.sequence, hash: commit.hash });
        Ok(())
    }

    /// The join of this state and `other`.
    ///
    /// # Errors
    /// If the two disagree about a commit.
    pub fn join(&self, other: &State) -> Result<State, Violation> {
        let mut rows = self.rows.clone();
        let theirs = other.rows.iter().map(|(key, row)| Ok((key.clone(), row.clone())));
        let version = join(&mut rows, &self.version, theirs, &other.version)?;
        Ok(State { rows, version })
    }

    /// The canonical bytes: the version vector, then each row in the order of keys, every part with
    /// its length before it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let rows = self.rows.iter().flat_map(|(key, row)| [key.to_bytes(), row.to_bytes()]);
        let mut bytes = Vec::new();
        for part in std::iter::once(codec::encode(&self.version)).chain(rows) {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&part);
        }
        bytes
    }

    /// The digest of the state.
    pub fn digest(&self) -> StateDigest {
        let Ok(digest) = state_digest(&self.rows, &self.version);
        digest
    }

    /// Whether both states are the same, byte for byte.
    ///
    /// # Errors
    /// [`Violation::Digest`] if bytes and digests do not agree on that.
    pub fn equals(&self, other: &State) -> Result<bool, Violation> {
        let equal = self.to_bytes() == other.to_bytes();
        if equal != (self.digest() == other.digest()) {
            return Err(Violation::Digest(Box::new(self.clone())));
        }
        Ok(equal)
    }

    /// What a reader sees: each row through the reads of its kind.
    pub fn reads(&self) -> BTreeMap<RowKey, Read> {
        self.rows.iter().map(|(key, row)| (key.clone(), read(key.kind, row))).collect()
    }
}

fn read(kind: Kind, row: &Row) -> Read {
    let row = Some(row);
    match kind {
        Kind::Register => {
            // The two reads of a register must agree on the winner, so each gives its part.
            let winner = kind::register::latest(row).into_iter();
            let all = winner.chain(kind::register::siblings(row).into_iter().skip(1));
            let values = all.map(|s| (s.wall_time_ms, s.dot.replica, s.value.clone()));
            Read::Register(values.collect())
        }
        Kind::Counter => Read::Counter(kind::counter::value(row)),
        Kind::Flag => Read::Flag(kind::flag::is_enabled(row)),
        Kind::Element => Read::Element(kind::element::is_present(row)),
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("at [")?;
        for (index, dot) in self.version.dots().enumerate() {
            write!(f, "{}{dot:?}", if index > 0 { ", " } else { "" })?;
        }
        f.write_str("]")?;
        for (key, row) in self.rows.iter() {
            write!(f, " {}:{:?}=", key.path, key.kind)?;
            f.debug_map().entries(row.iter()).finish()?;
        }
        Ok(())
    }
}
