//! Several replicas in memory, every step of which is checked.

use crate::laws::order::same;
use crate::laws::{Commits, Event, Intent, Oracle, Pulled, Replica, State, Violation};
use crate::{Dot, ReplicaId};

/// One thing that happens in a [`Cluster`]. Replicas are named by numbers, modulo their count, so every
/// list of steps is a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A transaction.
    Commit {
        /// Whose.
        replica: usize,
        /// Its clock, in milliseconds since the Unix epoch; any value is a lawful one.
        wall_time_ms: u64,
        /// What it wants.
        intents: Vec<Intent>,
    },
    /// One replica takes what it misses from the log of another; if that no longer has it, it joins.
    Pull {
        /// The one that takes.
        to: usize,
        /// The one that gives.
        from: usize,
        /// How many commits to take at most, as if the link broke then.
        limit: Option<usize>,
    },
    /// One replica joins the whole state of another.
    Join {
        /// The one that joins.
        to: usize,
        /// The one that gives.
        from: usize,
    },
    /// A part of a replica's log is dropped.
    Truncate {
        /// Whose.
        replica: usize,
        /// The n-th commit of the log stays if bit n modulo 64 is set.
        keep: u64,
    },
}

/// Some replicas, all commits they ever made, and the oracle that watches them.
#[derive(Debug, Clone)]
pub struct Cluster {
    replicas: Vec<Replica>,
    commits: Commits,
    oracle: Oracle,
}

impl Cluster {
    /// A cluster of `count` replicas (at least one, at most 255), named in ascending order.
    pub fn new(count: u8) -> Self {
        let replicas = (1..=count.max(1)).map(|number| {
            // Unlike in every byte, so that a mixed-up order shows.
            let mut id = [0x40; ReplicaId::BYTES];
            (id[0], id[ReplicaId::BYTES - 1]) = (number, !number);
            Replica::new(ReplicaId::from_bytes(id))
        });
        Self {
            replicas: replicas.collect(),
            commits: Commits::default(),
            oracle: Oracle::default(),
        }
    }

    /// One of the replicas; the number is taken modulo their count.
    pub fn replica(&self, number: usize) -> &Replica {
        &self.replicas[number % self.replicas.len()]
    }

    /// The replicas, in the order of their names.
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// All commits ever made.
    pub fn commits(&self) -> &Commits {
        &self.commits
    }

    /// What the oracle knows.
    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    /// Takes one step and checks the replica that it changed.
    ///
    /// # Errors
    /// The first law that does not hold.
    pub fn run(&mut self, step: &Step) -> Result<(), Violation> {
        let changed = match step {
            Step::Commit { replica, wall_time_ms, intents } => {
                self.commit(*replica, *wall_time_ms, intents)?;
                *replica
            }
            Step::Pull { to, from, limit } => {
                if self.pull(*to, *from, *limit)? == Pulled::LogTooShort {
                    self.join(*to, *from)?;
                }
                *to
            }
            Step::Join { to, from } => {
                self.join(*to, *from)?;
                *to
            }
            Step::Truncate { replica, keep } => {
                let mut number = 0..;
                self.truncate(*replica, |_| keep >> (number.next().unwrap_or(0) % 64) & 1 == 1);
                *replica
            }
        };
        self.check(changed)
    }

    /// Runs one transaction, without checking; its dot.
    ///
    /// # Errors
    /// If the transaction fails, or its commit does not declare all that its writer had seen.
    pub fn commit(
        &mut self,
        number: usize,
        wall_time_ms: u64,
        intents: &[Intent],
    ) -> Result<Dot, Violation> {
        let replica = self.replica_mut(number);
        let (past, sent) = (replica.state().version.clone(), replica.sent());
        let commit = replica.commit(wall_time_ms, intents)?;
        let dot = commit.dot;
        self.commits.insert(commit)?;
        if self.commits.past(dot) != Some(&past) {
            return Err(Violation::Dependencies(dot));
        }
        let intents = intents.to_vec();
        self.oracle.record(&Event { dot, past, wall_time_ms, sent, intents });
        Ok(dot)
    }

    /// Lets `to` take at most `limit` missing commits from the log of `from`, without checking.
    ///
    /// # Errors
    /// If what is offered cannot be applied.
    pub fn pull(
        &mut self,
        to: usize,
        from: usize,
        limit: Option<usize>,
    ) -> Result<Pulled, Violation> {
        self.between(to, from, |to, from| to.pull(from, limit)).unwrap_or(Ok(Pulled::Commits(0)))
    }

    /// Lets `to` join the state of `from`, without checking.
    ///
    /// # Errors
    /// If the states cannot be joined.
    pub fn join(&mut self, to: usize, from: usize) -> Result<(), Violation> {
        self.between(to, from, Replica::join).unwrap_or(Ok(()))
    }

    /// Forgets the commits of a log that `keep` does not hold on to.
    pub fn truncate(&mut self, number: usize, keep: impl FnMut(Dot) -> bool) {
        self.replica_mut(number).truncate(keep);
    }

    /// L1 and the oracle, for one replica as it is now: its version vector covers exactly the commits
    /// that reached it, its state is byte for byte what these give in another order, and it reads as
    /// the oracle says.
    ///
    /// # Errors
    /// The first law that does not hold.
    pub fn check(&self, number: usize) -> Result<(), Violation> {
        let (state, visible) = (self.replica(number).state(), self.replica(number).visible());
        // Without gaps, as many as there are and all of them are exactly them.
        let exact = state.version.commits() == visible.len() as u64
            && visible.iter().all(|dot| state.version.covers(*dot));
        if !exact {
            let (commits, state) = (visible.len(), Box::new(state.clone()));
            return Err(Violation::Version { commits, state });
        }
        let expected = self.commits.state_at(&state.version)?;
        same(&expected, state, || format!("replica {number}"))?;
        self.check_reads(state)
    }

    /// That a state reads as the oracle says.
    ///
    /// # Errors
    /// [`Violation::Read`] for the first row that does not.
    pub fn check_reads(&self, state: &State) -> Result<(), Violation> {
        let (expected, found) = (self.oracle.reads(&state.version), state.reads());
        let wrong = expected.keys().chain(found.keys()).find(|k| expected.get(k) != found.get(k));
        wrong.map_or(Ok(()), |key| {
            let (expected, found) = (expected.get(key).cloned(), found.get(key).cloned());
            Err(Violation::Read { key: Box::new(key.clone()), expected, found })
        })
    }

    /// Lets everyone meet everyone until all have everything, and checks that all are equal.
    ///
    /// # Errors
    /// The first law that does not hold, or [`Violation::NotConverged`].
    pub fn converge(&mut self) -> Result<(), Violation> {
        // The first comes to have everything, and the others take it from there.
        for to in 0..self.replicas.len() {
            for from in 0..self.replicas.len() {
                self.run(&Step::Pull { to, from, limit: None })?;
            }
        }
        let first = self.replica(0).state();
        for replica in &self.replicas {
            if !first.equals(replica.state())? {
                let (a, b) = (Box::new(first.clone()), Box::new(replica.state().clone()));
                return Err(Violation::NotConverged(a, b));
            }
        }
        Ok(())
    }

    fn replica_mut(&mut self, number: usize) -> &mut Replica {
        let count = self.replicas.len();
        &mut self.replicas[number % count]
    }

    /// Lets two replicas meet; `None` if they are one.
    fn between<T>(
        &mut self,
        to: usize,
        from: usize,
        meet: impl FnOnce(&mut Replica, &mut Replica) -> T,
    ) -> Option<T> {
        let count = self.replicas.len();
        let [to, from] = self.replicas.get_disjoint_mut([to % count, from % count]).ok()?;
        Some(meet(to, from))
    }
}
