//! Commits as they travel, and the graph of their causality.

use std::collections::{BTreeMap, BTreeSet};

use crate::laws::{State, Violation};
use crate::{CommitBody, CommitHash, Dot, Head, ReplicaId, SpaceId, VersionVector, commit_hash};

/// The space that all histories of the laws are in.
const SPACE: SpaceId = SpaceId::from_bytes([0x5a; 32]);

/// A commit: its name, its place in its replica's chain, its canonical bytes and what they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The name.
    pub dot: Dot,
    /// The hash of the commit before it.
    pub previous: CommitHash,
    /// Its own hash.
    pub hash: CommitHash,
    /// The canonical bytes of the body.
    pub bytes: Vec<u8>,
    /// What the bytes decode to.
    pub body: CommitBody,
}

impl Commit {
    /// Encodes a body, chains it to `previous`, and reads it back from the bytes.
    ///
    /// # Errors
    /// If the body breaks a limit, or is not what its encoding decodes to.
    pub fn seal(dot: Dot, previous: CommitHash, body: &CommitBody) -> Result<Self, Violation> {
        let bytes = body.to_bytes(dot.replica)?;
        let hash = commit_hash(SPACE, dot, previous, &bytes);
        let decoded = CommitBody::from_bytes(dot, &bytes)?;
        if decoded != *body || decoded.to_bytes(dot.replica)? != bytes {
            return Err(Violation::RoundTrip(dot));
        }
        Ok(Self { dot, previous, hash, bytes, body: decoded })
    }

    /// The head that a version vector records once the commit is applied.
    pub fn head(&self) -> Head {
        Head { sequence: self.dot.sequence, hash: self.hash }
    }
}

/// A set of commits closed under causality, and what happened before each of them.
#[derive(Debug, Clone, Default)]
pub struct Commits {
    commits: BTreeMap<Dot, Commit>,
    replicas: BTreeSet<ReplicaId>,
    /// For each commit, the least version vector that covers its causal past.
    pasts: BTreeMap<Dot, VersionVector>,
}

impl Commits {
    /// Adds a commit, whose causal past is here already.
    ///
    /// # Errors
    /// [`Violation::Unknown`] names what of its past is missing.
    pub fn insert(&mut self, commit: Commit) -> Result<(), Violation> {
        let Dot { replica, sequence } = commit.dot;
        let before = (sequence > 1).then(|| Dot { replica, sequence: sequence - 1 });
        let mut past = VersionVector::default();
        for dot in before.iter().chain(&commit.body.dependencies) {
            let direct = self.commits.get(dot).ok_or(Violation::Unknown(*dot))?;
            past.join(&self.pasts[dot])?;
            if !past.covers(*dot) {
                past.set(dot.replica, direct.head());
            }
        }
        self.pasts.insert(commit.dot, past);
        self.replicas.insert(replica);
        self.commits.insert(commit.dot, commit);
        Ok(())
    }

    /// The commit with this name.
    pub fn get(&self, dot: Dot) -> Option<&Commit> {
        self.commits.get(&dot)
    }

    /// What happened before the commit, by the dependencies that commits declare.
    pub fn past(&self, dot: Dot) -> Option<&VersionVector> {
        self.pasts.get(&dot)
    }

    /// Who made them, in the order of names.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.replicas.iter().copied()
    }

    /// All commits, in the order of their dots.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Commit> {
        self.commits.values()
    }

    /// The number of commits.
    pub fn len(&self) -> usize {
        self.commits.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.commits.is_empty()
    }

    /// The commits that can be applied to a state at `version`, at most one of each replica.
    pub fn ready<'a>(&'a self, version: &'a VersionVector) -> impl Iterator<Item = &'a Commit> {
        self.replicas.iter().filter_map(move |replica| {
            let next = Dot { replica: *replica, sequence: version.sequence(*replica) + 1 };
            self.get(next).filter(|commit| commit.body.ready(next, version).is_ok())
        })
    }

    /// The state that the commits covered by `version` give, in one canonical causal order.
    ///
    /// # Errors
    /// If one of them is unknown or never becomes ready.
    pub fn state_at(&self, version: &VersionVector) -> Result<State, Violation> {
        let mut state = State::default();
        loop {
            let next = self.ready(&state.version).find(|commit| version.covers(commit.dot));
            let Some(commit) = next.cloned() else { break };
            state.apply(&commit)?;
        }
        match version.dots().find(|dot| !state.version.covers(*dot)) {
            Some(missing) => Err(Violation::Unknown(missing)),
            None => Ok(state),
        }
    }

    /// The state of exactly one commit and its causal past: the least state that has it.
    ///
    /// # Errors
    /// If the commit is unknown.
    pub fn least_state_with(&self, dot: Dot) -> Result<State, Violation> {
        let unknown = || Violation::Unknown(dot);
        let mut version = self.past(dot).ok_or_else(unknown)?.clone();
        version.set(dot.replica, self.get(dot).ok_or_else(unknown)?.head());
        self.state_at(&version)
    }
}
