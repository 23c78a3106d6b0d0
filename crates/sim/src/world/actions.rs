//! What happens at a replica because somebody uses it: transactions, and reads that are checked.

use rejoin::{Error, StoreError};

use super::{Event, World};
use crate::history::{
    Checker, Death, DotName, NodeIndex, Observation, Transaction, Version, Violation, Wish,
    WriteOutcome,
};
use crate::side;
use crate::trace::Mark;

/// A replica is read and checked after about so many transactions.
const ACTIONS_PER_LOOK: u64 = 3;

impl World<'_> {
    /// The workload's next transaction.
    pub(super) fn act(&mut self, node: NodeIndex) -> Result<(), Violation> {
        self.actions_made += 1;
        if self.actions_made.is_multiple_of(ACTIONS_PER_LOOK) {
            let at = self.random.index(self.nodes.len());
            let wait_ms = self.random.below(200);
            self.after(wait_ms, Event::Look(at));
        }
        let boot = self.nodes[node].boot;
        if self.running(node, boot).is_none() {
            // The application does not run either.
            return Ok(());
        }
        if self.script.is_some() {
            return self.act_script(node);
        }
        let (space, wishes) = self.workload.transaction(node);
        if self.nodes[node].is_liar() && self.plan.is_doubtful(space) {
            return self.lie_write(node, space, &wishes);
        }
        self.transact(node, space, wishes)
    }

    /// Makes one transaction and tells the checkers how it ended.
    fn transact(
        &mut self,
        node: NodeIndex,
        space: usize,
        mut wishes: Vec<Wish>,
    ) -> Result<(), Violation> {
        // What need not be on disk at once must be known to be there all the same.
        let surely = !self.nodes[node].durable_writes;
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let handle = &process.spaces[space];
        let past = match handle.space.read() {
            Ok(snapshot) => side::version(snapshot.version()),
            Err(error) => return self.read_failed(node, space, &error),
        };
        let writer = side::writer(process.engine.replica().replica_id());
        let wall_time_ms = rejoin::driven::Surroundings::wall_time_ms(&*process.side);
        let dot = DotName { writer, sequence: past.sequence(writer) + 1 };
        let witnesses = self.workload.witnesses(dot, surely);
        let witnessed = !witnesses.is_empty();
        wishes.extend(witnesses);
        let doubtful = self.plan.is_doubtful(space);
        if !doubtful {
            self.checkers.began_write(self.now_ms, node, space);
        }
        let written = handle.space.write(|tx| {
            let given =
                DotName { writer: side::writer(tx.dot().replica), sequence: tx.dot().sequence };
            wishes.iter().try_for_each(|wish| side::grant(tx, wish)).map(|()| given)
        });
        let alive = !self.nodes[node].disk.is_dead();
        let outcome = match &written {
            Ok(_) if alive => {
                WriteOutcome::Acknowledged { durable: self.nodes[node].durable_writes }
            }
            Ok(_) => WriteOutcome::Unknown("the machine died meanwhile".to_owned()),
            Err(Error::Store(error @ StoreError::Poisoned { .. })) => {
                WriteOutcome::Unknown(error.to_string())
            }
            Err(error) if alive => WriteOutcome::Refused(error.to_string()),
            Err(error) => WriteOutcome::Unknown(error.to_string()),
        };
        let dot = *written.as_ref().unwrap_or(&dot);
        let acknowledged = matches!(outcome, WriteOutcome::Acknowledged { .. });
        let made = !acknowledged || witnessed || adds(&wishes) || self.is_visible(node, space, dot);
        if matches!(outcome, WriteOutcome::Unknown(_))
            && let Some(process) = &mut self.nodes[node].process
        {
            process.broken = true;
        }
        let mark = if acknowledged { Mark::Write } else { Mark::Refused };
        self.note(node, mark, || {
            let wishes: Vec<_> = wishes.iter().map(in_short).collect();
            let outcome = match &outcome {
                WriteOutcome::Acknowledged { .. } if made => String::new(),
                WriteOutcome::Acknowledged { .. } => ": changes nothing".to_owned(),
                WriteOutcome::Refused(why) => format!(": refused, {why}"),
                WriteOutcome::Unknown(why) => format!(": cut off, {why}"),
            };
            format!("{dot} in space {space}: {}{outcome}", wishes.join(", "))
        });
        let outcome =
            if made { outcome } else { WriteOutcome::Refused("it changes nothing".to_owned()) };
        let transaction = Transaction { dot, past, wall_time_ms, wishes };
        if !doubtful {
            let (transaction, outcome) = (&transaction, &outcome);
            let wrote = Observation::Wrote { space, transaction, known: true, outcome };
            self.observe(node, &wrote)?;
        }
        self.pump(node)
    }

    fn is_visible(&self, node: NodeIndex, space: usize, dot: DotName) -> bool {
        let process = self.nodes[node].process.as_ref();
        let snapshot = process.and_then(|process| process.spaces[space].space.read().ok());
        snapshot.is_some_and(|snapshot| side::version(snapshot.version()).covers(dot))
    }

    /// Lets the application under test act.
    fn act_script(&mut self, node: NodeIndex) -> Result<(), Violation> {
        let before = self.own_sequences(node);
        let Some(script) = self.script.as_mut() else { return Ok(()) };
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        let replica = process.engine.replica().clone();
        let acted = script.act(&replica, &mut self.random);
        let alive = !self.nodes[node].disk.is_dead();
        let text = match &acted {
            Ok(()) => "the application acts".to_owned(),
            Err(error) => format!("the application acts: {error}"),
        };
        self.note(node, if acted.is_ok() { Mark::Write } else { Mark::Refused }, || text);
        let certain = alive && !matches!(&acted, Err(Error::Store(StoreError::Poisoned { .. })));
        if !certain && let Some(process) = &mut self.nodes[node].process {
            process.broken = true;
        }
        let after = self.own_sequences(node);
        for (space, (old, new)) in before.iter().zip(&after).enumerate() {
            // A call that was cut off may have written more than is visible.
            let unknown = if certain { 0 } else { UNKNOWN_TRANSACTIONS_MAX };
            for sequence in old.1 + 1..=new.1 + unknown {
                let dot = DotName { writer: new.0, sequence };
                let (mut past, wishes) = (old.2.clone(), Vec::new());
                past.0.insert(new.0, sequence - 1);
                let transaction = Transaction { dot, past, wall_time_ms: 0, wishes };
                let outcome = match certain && sequence <= new.1 {
                    true => WriteOutcome::Acknowledged { durable: self.nodes[node].durable_writes },
                    false => WriteOutcome::Unknown("cut off".to_owned()),
                };
                let (transaction, outcome) = (&transaction, &outcome);
                let wrote = Observation::Wrote { space, transaction, known: false, outcome };
                self.observe(node, &wrote)?;
            }
        }
        self.pump(node)
    }

    /// For each space the replica's writer, how many commits it made, and what it saw.
    fn own_sequences(&self, node: NodeIndex) -> Vec<(u128, u64, Version)> {
        let Some(process) = &self.nodes[node].process else { return Vec::new() };
        let writer = side::writer(process.engine.replica().replica_id());
        let spaces = process.spaces.iter();
        spaces
            .map(|handle| {
                let snapshot = handle.space.read();
                let version = snapshot.map(|snapshot| side::version(snapshot.version()));
                let version = version.unwrap_or_default();
                (writer, version.sequence(writer), version)
            })
            .collect()
    }

    /// Reads everything at one replica and has it checked. Whether it could be read.
    pub(super) fn look(&mut self, node: NodeIndex) -> Result<bool, Violation> {
        let boot = self.nodes[node].boot;
        if self.nodes[node].is_liar() || self.running(node, boot).is_none() {
            return Ok(false);
        }
        for space in 0..self.space_ids.len() {
            if self.plan.is_doubtful(space) {
                continue;
            }
            let Some(process) = &self.nodes[node].process else { return Ok(false) };
            let read = process.spaces[space].space.read().and_then(|snapshot| {
                let rows = side::read_rows(&snapshot)?;
                let digest = snapshot.digest()?;
                Ok((side::version(snapshot.version()), rows, *digest.as_bytes()))
            });
            match read {
                Ok((version, rows, bytes)) => {
                    self.hasher.update(&bytes);
                    let (version, rows) = (&version, &rows);
                    self.observe(node, &Observation::Read { space, version, rows, bytes })?;
                }
                Err(error) => {
                    self.read_failed(node, space, &error)?;
                    return Ok(false);
                }
            }
        }
        self.note(node, Mark::Read, || "is read and checked".to_owned());
        self.check_script(node)?;
        Ok(true)
    }

    fn check_script(&mut self, node: NodeIndex) -> Result<(), Violation> {
        let Some(script) = self.script.as_mut() else { return Ok(()) };
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        match script.check(process.engine.replica()) {
            Ok(()) => Ok(()),
            Err(what) => Err(self.violation(Checker::Application, Some(node), what)),
        }
    }

    /// A read failed: that is allowed where the disk is at fault.
    fn read_failed(
        &mut self,
        node: NodeIndex,
        space: usize,
        error: &Error,
    ) -> Result<(), Violation> {
        if self.nodes[node].disk.is_dead() {
            return self.die(node, Death::PowerCut);
        }
        let damaged = matches!(error, Error::Store(StoreError::Damaged { .. }));
        let disk = damaged || matches!(error, Error::Store(StoreError::Io { .. }));
        let text = error.to_string();
        self.note(node, Mark::Fault, || format!("cannot be read: {text}"));
        self.observe(node, &Observation::ReadFailed { space, error: &text, disk })?;
        if damaged {
            self.nodes[node].harmed = true;
        }
        // A store that could not be read is opened again by its application.
        if let Some(process) = &mut self.nodes[node].process {
            process.broken = true;
        }
        self.pump(node)
    }
}

/// A call of the application that was cut off may have made so many transactions, at most.
const UNKNOWN_TRANSACTIONS_MAX: u64 = 8;

/// Whether there is a commit in any case: something is added, and nothing is taken back.
fn adds(wishes: &[Wish]) -> bool {
    wishes.iter().all(|wish| {
        matches!(wish, Wish::Put(..) | Wish::Add(..) | Wish::Enable(_) | Wish::Insert(_))
    })
}

fn in_short(wish: &Wish) -> String {
    match wish {
        Wish::Put(key, crate::history::Datum::Bytes(bytes)) => {
            format!("put {key} ({} bytes)", bytes.len())
        }
        Wish::Put(key, datum) => format!("put {key} {datum:?}"),
        Wish::Add(key, amount) => format!("add {key} {amount}"),
        Wish::Enable(key) => format!("enable {key}"),
        Wish::Insert(key) => format!("insert {key}"),
        Wish::RemoveRow(key, kind) => format!("remove {kind:?} {key}"),
        Wish::Remove(key) => format!("remove {key}"),
        Wish::RemoveTree(key) => format!("remove tree {key}"),
    }
}
