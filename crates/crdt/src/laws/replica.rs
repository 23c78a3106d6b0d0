//! A replica in memory, with a log that may forget.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use crate::laws::{Commit, Intent, State, Violation};
use crate::{
    CommitBody, Dot, Path, ReadRows, ReplicaId, RowPage, Transaction, TransactionContext,
    VersionVector,
};

/// What came of asking a peer's log for what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulled {
    /// So many commits were applied.
    Commits(usize),
    /// The log no longer has them all: only a state join can help.
    LogTooShort,
}

/// One replica: its state, its log, and what a peer may know of its own commits.
#[derive(Debug, Clone)]
pub struct Replica {
    id: ReplicaId,
    state: State,
    /// What its version vector must cover, counted commit by commit.
    visible: BTreeSet<Dot>,
    log: BTreeMap<Dot, Commit>,
    /// The replicas of the version vector in the order in which they first came in: the order in
    /// which peers are offered what they miss.
    arrival: Vec<ReplicaId>,
    /// The version vector after the latest own commit: what the next one need not name again.
    declared: VersionVector,
    sent: u64,
}

impl Replica {
    /// A new replica with nothing in it.
    pub fn new(id: ReplicaId) -> Self {
        Self {
            id,
            state: State::default(),
            visible: BTreeSet::new(),
            log: BTreeMap::new(),
            arrival: Vec::new(),
            declared: VersionVector::default(),
            sent: 0,
        }
    }

    /// Its name.
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// Its state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The commits that reached it, one by one or with a state.
    pub fn visible(&self) -> &BTreeSet<Dot> {
        &self.visible
    }

    /// The highest sequence number of its own commits that a peer may know.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The names of the commits in its log, in order.
    pub fn logged(&self) -> impl ExactSizeIterator<Item = Dot> + '_ {
        self.log.keys().copied()
    }

    /// Runs one transaction. One that changes nothing becomes a commit without operations, so that
    /// every transaction has a dot.
    ///
    /// # Errors
    /// If an intent cannot be prepared, or the transaction's own reads disagree with its effect. The
    /// replica is then of no more use.
    pub fn commit(&mut self, wall_time_ms: u64, intents: &[Intent]) -> Result<Commit, Violation> {
        let dependencies = self.dependencies();
        let context = TransactionContext {
            replica: self.id,
            wall_time_ms,
            sent: self.sent,
            dependencies: dependencies.clone(),
        };
        let mut transaction = Transaction::new(&self.state.rows, &self.state.version, context);
        for intent in intents {
            intent.prepare(&mut transaction)?;
        }
        let dot = transaction.dot();
        // Odd page sizes: what a transaction shows must not depend on how it is asked for.
        let seen = pages(&transaction, 1 + (dot.sequence % 3) as usize);
        let body = transaction.finish();
        let body = body.unwrap_or(CommitBody { dependencies, wall_time_ms, operations: vec![] });
        let commit = Commit::seal(dot, self.state.version.previous_hash(self.id), &body)?;
        self.take(&commit)?;
        if seen != pages(&self.state.rows, usize::MAX) {
            return Err(Violation::OwnWrites(dot));
        }
        self.declared = self.state.version.clone();
        Ok(commit)
    }

    /// Takes at most `limit` of the commits that `peer` has and this replica lacks, from its log.
    ///
    /// # Errors
    /// If what the peer offers cannot be applied in any order.
    pub fn pull(&mut self, peer: &mut Replica, limit: Option<usize>) -> Result<Pulled, Violation> {
        let Some(mut missing) = peer.missing_for(&self.state.version) else {
            return Ok(Pulled::LogTooShort);
        };
        peer.sent = peer.state.version.sequence(peer.id);
        let mut taken = 0;
        while !missing.is_empty() && limit.is_none_or(|limit| taken < limit) {
            let ready =
                |commit: &Commit| commit.body.ready(commit.dot, &self.state.version).is_ok();
            // A causally closed set always has a first one; if none is ready, the first says why not.
            let commit = missing.remove(missing.iter().position(ready).unwrap_or(0));
            self.take(&commit)?;
            taken += 1;
        }
        Ok(Pulled::Commits(taken))
    }

    /// Joins the whole state of `peer`. The log does not get what the join brings.
    ///
    /// # Errors
    /// If the two disagree about a commit.
    pub fn join(&mut self, peer: &mut Replica) -> Result<(), Violation> {
        peer.sent = peer.state.version.sequence(peer.id);
        self.state = self.state.join(&peer.state)?;
        self.visible.extend(&peer.visible);
        for replica in &peer.arrival {
            self.arrived(*replica);
        }
        Ok(())
    }

    /// Forgets the commits of the log that `keep` does not hold on to.
    pub fn truncate(&mut self, mut keep: impl FnMut(Dot) -> bool) {
        self.log.retain(|dot, _| keep(*dot));
    }

    /// What a peer at `version` lacks, or `None` where the log no longer has it all.
    fn missing_for(&self, version: &VersionVector) -> Option<Vec<Commit>> {
        let missing = self.arrival.iter().flat_map(|replica| {
            let (from, to) = (version.sequence(*replica), self.state.version.sequence(*replica));
            (from + 1..=to).map(|sequence| Dot { replica: *replica, sequence })
        });
        missing.map(|dot| self.log.get(&dot).cloned()).collect()
    }

    /// The other replicas' entries that advanced since the latest own commit.
    fn dependencies(&self) -> Vec<Dot> {
        let advanced = |dot: &Dot| dot.replica != self.id && !self.declared.covers(*dot);
        self.state.version.dots().filter(advanced).collect()
    }

    fn take(&mut self, commit: &Commit) -> Result<(), Violation> {
        self.state.apply(commit)?;
        self.visible.insert(commit.dot);
        self.arrived(commit.dot.replica);
        self.log.insert(commit.dot, commit.clone());
        Ok(())
    }

    fn arrived(&mut self, replica: ReplicaId) {
        if !self.arrival.contains(&replica) {
            self.arrival.push(replica);
        }
    }
}

/// All rows, read `limit` at a time.
fn pages(rows: &dyn ReadRows<Error = Infallible>, limit: usize) -> RowPage {
    let mut all = RowPage::new();
    loop {
        let after = all.last().map(|(key, _)| key.clone());
        let Ok(page) = rows.page(&Path::root(), after.as_ref(), limit);
        let ended = page.len() < limit;
        all.extend(page);
        if ended {
            return all;
        }
    }
}
