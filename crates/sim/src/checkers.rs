//! The checkers: they hear all that happens in a world, and the first that objects ends it.
//!
//! They share no code with what they check. For each observation the most specific come first, so that a bug is
//! reported by the checker that is meant for it.

mod agreement;
mod atomicity;
mod authenticity;
mod bounds;
mod causality;
mod corruption;
mod cut;
mod durability;
mod ledger;
mod liveness;
mod oracle;
mod resurrection;
mod rows;
#[cfg(test)]
mod tests;
mod wishes;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use agreement::Agreement;
use atomicity::Atomicity;
use causality::Causality;
use corruption::Corruption;
use cut::{Cut, slot};
use durability::{Durability, Why};
use ledger::{Exposure, Ledger};
use liveness::Liveness;
use oracle::Oracle;
use resurrection::Resurrection;

use crate::history::{
    Checker, Damage, Death, DotName, Key, NodeIndex, Observation, RowKind, Seen, SpaceNumber,
    Transaction, Version, Violation, WriteOutcome, Writer,
};

/// What the checkers must know of a world from the start.
#[derive(Debug, Clone, Default)]
pub struct CheckerConfig {
    /// How many replicas there are.
    pub nodes: usize,
    /// The replicas that acknowledge a write before it is on disk. Also learnt from an acknowledgement that
    /// says so.
    pub eventual: Vec<NodeIndex>,
    /// The writers that lie.
    pub liars: Vec<Writer>,
}

/// All checkers of one world.
///
/// The world calls [`began_write`](Self::began_write) before a local write, [`observe`](Self::observe) for
/// everything that happens, in the order in which it does, and at the end
/// [`all_answered`](Self::all_answered) and [`converged`](Self::converged). What it must keep to:
///
/// - A transaction that makes no commit, because it changes nothing, is told as `Refused`.
/// - A write whose process dies is told as `Unknown`, before the process opens again.
/// - `Delivered` follows the version of `Opened`, or that of the last `Reread`; a watch that begins at another
///   moment is announced by a `Reread` with the version of that moment.
#[derive(Debug, Default)]
pub struct Checkers {
    ledger: Ledger,
    nodes: Vec<Option<Writer>>,
    causality: Causality,
    durability: Durability,
    atomicity: Atomicity,
    resurrection: Resurrection,
    agreement: Agreement,
    oracle: Oracle,
    corruption: Corruption,
    liveness: Liveness,
}

impl Checkers {
    /// Checkers that have heard nothing yet.
    pub fn new(config: CheckerConfig) -> Self {
        let mut checkers = Self::default();
        let CheckerConfig { nodes, eventual, liars } = config;
        checkers.nodes.resize(nodes, None);
        eventual.into_iter().for_each(|node| checkers.eventual(node, true));
        liars.into_iter().for_each(|writer| checkers.liar(writer));
        checkers
    }

    /// From now on nothing is believed that this writer says. Versions that show something of it are not
    /// compared with others, nor with what its transactions wanted.
    pub fn liar(&mut self, writer: Writer) {
        self.ledger.liar(writer);
    }

    /// Whether a disk may fail with errors from now on. That it once could is not forgotten.
    pub fn disk_faults(&mut self, node: NodeIndex, may_fail: bool) {
        self.corruption.disk_faults(node, may_fail);
    }

    /// Whether a replica acknowledges writes before they are on disk, from now on.
    pub fn eventual(&mut self, node: NodeIndex, eventual: bool) {
        self.durability.set_eventual(node, eventual);
    }

    /// A local write begins; a `Wrote` of the same replica and space must follow.
    pub fn began_write(&mut self, at_ms: u64, node: NodeIndex, space: SpaceNumber) {
        self.liveness.began_write(at_ms, node, space);
        self.causality.began_write(node, space);
    }

    /// Hears of what happened at a replica.
    ///
    /// # Errors
    /// What the first checker that objects has to say. The checkers are then of no more use.
    pub fn observe(
        &mut self,
        at_ms: u64,
        node: NodeIndex,
        observation: &Observation<'_>,
    ) -> Result<(), Violation> {
        let verdict = match observation {
            Observation::Opened { writer, versions, fresh } => {
                self.opened(at_ms, node, *writer, versions, *fresh)
            }
            Observation::OpenFailed { error, damaged } => {
                self.corruption.open_failed(node, error, *damaged)
            }
            Observation::Died(death) => self.died(at_ms, node, *death),
            Observation::Damaged(damage) => self.damaged(node, *damage),
            Observation::Wrote { space, transaction, known, outcome } => {
                self.wrote(at_ms, node, *space, transaction, *known, outcome)
            }
            Observation::Synced => self.synced(at_ms, node),
            Observation::Carried { space, first, bodies, sending } => {
                self.carried(at_ms, node, *space, *first, bodies, *sending)
            }
            Observation::Delivered { space, dot } => self.delivered(at_ms, node, *space, *dot),
            Observation::Reread { space, version } => {
                let cut = self.ledger.writers.cut(version);
                self.seen(at_ms, node, *space, &cut)
                    .map(|()| self.causality.reread(node, *space, &cut))
            }
            Observation::Read { space, version, rows, bytes } => {
                let cut = self.ledger.writers.cut(version);
                self.seen(at_ms, node, *space, &cut)
                    .and_then(|()| self.read(at_ms, node, *space, &cut, rows, *bytes))
            }
            Observation::ReadFailed { space, error, disk } => {
                self.corruption.read_failed(node, *space, error, *disk)
            }
            Observation::Measured(gauge) => bounds::measured(*gauge),
            Observation::Blamed { .. } => Ok(()),
        };
        verdict.map_err(|objection| self.corruption.blame(node, objection).at(at_ms, Some(node)))
    }

    /// Under which name a replica opened last.
    pub fn writer_of(&self, node: NodeIndex) -> Option<Writer> {
        self.nodes.get(node).copied().flatten()
    }

    /// The transaction with this name, unless it was lost before anybody saw it.
    pub fn transaction(&self, space: SpaceNumber, dot: DotName) -> Option<&Transaction> {
        self.ledger.transaction(space, dot)
    }

    /// Everything in a space that a replica has promised to have on disk.
    pub fn promised(&self, node: NodeIndex, space: SpaceNumber) -> Version {
        self.ledger.version(&self.durability.promised(node, space))
    }

    /// Every write that began was answered.
    ///
    /// # Errors
    /// The first that was not.
    pub fn all_answered(&self, at_ms: u64) -> Result<(), Violation> {
        for node in 0..self.nodes.len() {
            let verdict = self.liveness.all_answered(node);
            verdict.map_err(|objection| objection.at(at_ms, Some(node)))?;
        }
        Ok(())
    }

    /// All members have the same version of each space that they hold, and that holds all that any of them
    /// ever promised to have on disk. `latest` has, for each member, what it shows now by space.
    ///
    /// # Errors
    /// The first thing that is missing somewhere.
    pub fn converged(
        &mut self,
        at_ms: u64,
        latest: &[(NodeIndex, Vec<(SpaceNumber, Version)>)],
    ) -> Result<(), Violation> {
        let mut shown = BTreeMap::<SpaceNumber, Cut>::new();
        let mut promised = BTreeMap::<SpaceNumber, Cut>::new();
        for (node, versions) in latest {
            for (space, version) in versions {
                let cut = self.ledger.writers.cut(version);
                shown.entry(*space).or_default().join(&cut);
                promised.entry(*space).or_default().join(&self.durability.promised(*node, *space));
            }
        }
        for (node, versions) in latest {
            for (space, version) in versions {
                let cut = self.ledger.writers.cut(version);
                let writers = &self.ledger.writers;
                let demands = [(&shown, "which others show"), (&promised, "which was promised")];
                for (all, whose) in demands {
                    let Some(all) = all.get(space) else { continue };
                    let verdict = liveness::complete(writers, *space, &cut, all, whose);
                    verdict.map_err(|objection| objection.at(at_ms, Some(*node)))?;
                }
            }
        }
        Ok(())
    }

    /// The watch of a space has told everything up to this version. For worlds that read their watches to
    /// the end.
    ///
    /// # Errors
    /// The first commit that it has not told.
    pub fn watch_told(
        &mut self,
        at_ms: u64,
        node: NodeIndex,
        space: SpaceNumber,
        version: &Version,
    ) -> Result<(), Violation> {
        let cut = self.ledger.writers.cut(version);
        let told = self.causality.told(node, space);
        let whose = "which the watch must have told";
        let verdict = liveness::complete(&self.ledger.writers, space, &told, &cut, whose);
        verdict.map_err(|objection| objection.at(at_ms, Some(node)))
    }

    fn opened(
        &mut self,
        at_ms: u64,
        node: NodeIndex,
        writer: Writer,
        versions: &[(SpaceNumber, Version)],
        fresh: bool,
    ) -> Verdict {
        let cloned = self.corruption.is_cloned(node)
            || self
                .ledger
                .writers
                .find(writer)
                .and_then(|number| self.ledger.home(number))
                .is_some_and(|home| self.corruption.is_cloned(home));
        self.ledger.opened(node, writer, cloned)?;
        *slot(&mut self.nodes, node) = Some(writer);
        if fresh {
            self.corruption.fresh(node);
        }
        let writers = &mut self.ledger.writers;
        let cuts: Vec<_> =
            versions.iter().map(|(space, version)| (*space, writers.cut(version))).collect();
        for (space, cut) in &cuts {
            self.authentic(*space, cut)?;
        }
        self.durability.opened(&self.ledger, node, fresh, &cuts)?;
        self.causality.opened(&self.ledger, node, &cuts)?;
        self.resurrection.opened(node);
        self.forget_lost(node, writer, &cuts);
        for (space, cut) in &cuts {
            self.note_seen(at_ms, node, *space, cut);
        }
        Ok(())
    }

    /// What a replica wrote and does not find again was lost, if nobody else ever saw it.
    fn forget_lost(&mut self, node: NodeIndex, writer: Writer, cuts: &[(SpaceNumber, Cut)]) {
        let writer = self.ledger.writers.number(writer);
        for space in 0..self.ledger.spaces() {
            let found = cuts.iter().find(|(number, _)| *number == space);
            let keep = found.map_or(0, |(_, cut)| cut.of(writer));
            if self.ledger.lose(node, space, writer, keep) {
                let keep = self.ledger.count(space, writer);
                self.forget(space, writer, keep);
            }
        }
    }

    /// Forgets the transactions of a writer behind `keep`.
    fn forget(&mut self, space: SpaceNumber, writer: usize, keep: u64) {
        self.atomicity.lose(space, writer, keep);
        self.agreement.lose(space, writer, keep);
        self.oracle.space(space).lose(writer, keep);
    }

    fn died(&mut self, at_ms: u64, node: NodeIndex, death: Death) -> Verdict {
        let disk_fails = self.corruption.may_fail(node);
        let promised = self.durability.died(at_ms, node, death, disk_fails);
        self.expose_durable(at_ms, node, &promised);
        Ok(())
    }

    fn damaged(&mut self, node: NodeIndex, damage: Damage) -> Verdict {
        self.corruption.damaged(node, damage);
        if damage == Damage::RolledBack {
            self.durability.rolled_back(node);
        }
        Ok(())
    }

    fn synced(&mut self, at_ms: u64, node: NodeIndex) -> Verdict {
        let promised = self.durability.synced(at_ms, node, Why::Synced);
        self.expose_durable(at_ms, node, &promised);
        Ok(())
    }

    /// What a replica promised of its own commits cannot be taken back.
    fn expose_durable(&mut self, at_ms: u64, node: NodeIndex, promised: &[(SpaceNumber, Cut)]) {
        let writer = self.writer_of(node).and_then(|writer| self.ledger.writers.find(writer));
        let Some(writer) = writer else { return };
        for (space, cut) in promised {
            self.ledger.expose(at_ms, *space, writer, cut.of(writer), Exposure::Durable);
        }
    }

    fn wrote(
        &mut self,
        at_ms: u64,
        node: NodeIndex,
        space: SpaceNumber,
        transaction: &Transaction,
        known: bool,
        outcome: &WriteOutcome,
    ) -> Verdict {
        self.liveness.answered(node, space);
        let durable = match outcome {
            WriteOutcome::Refused(_) => {
                self.causality.refused(node, space);
                return Ok(());
            }
            WriteOutcome::Acknowledged { durable } => Some(*durable),
            WriteOutcome::Unknown(_) => None,
        };
        let dot = transaction.dot;
        let replaces = self.ledger.wrote(at_ms, node, space, transaction, durable.is_some())?;
        let writer = self.ledger.writers.number(dot.writer);
        if replaces {
            self.forget(space, writer, dot.sequence.saturating_sub(1));
        }
        self.causality.wrote(&self.ledger, node, space, writer, dot)?;
        self.record(space, writer, dot.sequence, known);
        let own = (writer, dot.sequence);
        if durable == Some(false) {
            self.durability.set_eventual(node, true);
        }
        if durable.is_some() {
            self.durability.acknowledged(node, space, own);
            self.causality.took_effect(node, space, own);
        }
        if durable == Some(true) {
            self.durability.promise(at_ms, node, space, own, Why::Acknowledged);
            self.ledger.expose(at_ms, space, writer, dot.sequence, Exposure::Durable);
        }
        Ok(())
    }

    /// Tells the checkers of what rows read about a transaction of the ledger.
    fn record(&mut self, space: SpaceNumber, writer: usize, sequence: u64, known: bool) {
        let oracle = self.oracle.space(space);
        oracle.opaque |= !known;
        let Some(written) = self.ledger.get(space, writer, sequence) else { return };
        if !oracle.opaque {
            let shared = self.ledger.shared(space, writer);
            oracle.rows.record(writer, &written.transaction, &written.past, shared);
            self.atomicity.record(space, writer, &written.transaction);
        }
    }

    fn carried(
        &mut self,
        at_ms: u64,
        node: NodeIndex,
        space: SpaceNumber,
        first: DotName,
        bodies: &[bytes::Bytes],
        sending: bool,
    ) -> Verdict {
        let Some(last) = (bodies.len() as u64).checked_sub(1) else { return Ok(()) };
        let writer = self.ledger.writers.number(first.writer);
        let last = first.sequence.saturating_add(last);
        let mut cut = Cut::default();
        cut.raise(writer, last);
        self.authentic(space, &cut)?;
        self.ledger.carried(node, space, first, bodies, sending)?;
        self.ledger.expose(at_ms, space, writer, last, Exposure::Carried(node));
        let why = if sending { Why::Sent } else { Why::Applied };
        self.durability.promise(at_ms, node, space, (writer, last), why);
        if !sending {
            self.durability.acknowledged(node, space, (writer, last));
            self.causality.took_effect(node, space, (writer, last));
        }
        Ok(())
    }

    fn delivered(
        &mut self,
        at_ms: u64,
        node: NodeIndex,
        space: SpaceNumber,
        dot: DotName,
    ) -> Verdict {
        let writer = self.ledger.writers.number(dot.writer);
        let mut cut = Cut::default();
        cut.raise(writer, dot.sequence);
        self.authentic(space, &cut)?;
        self.causality.delivered(&self.ledger, node, space, writer, dot)?;
        self.note_seen(at_ms, node, space, &cut);
        Ok(())
    }

    /// A version was shown.
    fn seen(&mut self, at_ms: u64, node: NodeIndex, space: SpaceNumber, cut: &Cut) -> Verdict {
        self.authentic(space, cut)?;
        self.causality.seen(&self.ledger, node, space, cut)?;
        self.note_seen(at_ms, node, space, cut);
        Ok(())
    }

    /// What was seen is promised, and its dots mean what they mean for ever.
    fn note_seen(&mut self, at_ms: u64, node: NodeIndex, space: SpaceNumber, cut: &Cut) {
        let promised = self.durability.seen(at_ms, node, space, cut);
        for (writer, sequence) in cut.iter() {
            if promised || self.ledger.home(writer) != Some(node) {
                self.ledger.expose(at_ms, space, writer, sequence, Exposure::Seen(node));
            }
        }
    }

    fn authentic(&self, space: SpaceNumber, cut: &Cut) -> Verdict {
        let writing = |writer| {
            let home = self.ledger.home(writer);
            home.map_or(0, |home| self.liveness.writing(home, space))
        };
        authenticity::visible(&self.ledger, space, cut, writing)
    }

    fn read(
        &mut self,
        at_ms: u64,
        node: NodeIndex,
        space: SpaceNumber,
        cut: &Cut,
        rows: &BTreeMap<(Key, RowKind), Seen>,
        bytes: [u8; 32],
    ) -> Verdict {
        if self.ledger.shows_lies(cut) {
            return Ok(());
        }
        if self.oracle.is_opaque(space) || !self.ledger.knows(space, cut) {
            return self.agreement.read(at_ms, node, space, cut, bytes);
        }
        let ledger = &self.ledger;
        self.atomicity.read(ledger, space, cut, rows)?;
        let sight = self.oracle.space(space).look(ledger, space, node, cut, rows);
        self.resurrection.read(node, &sight)?;
        // Agreement is for what cannot be read off the values.
        oracle::read(&sight)?;
        self.agreement.read(at_ms, node, space, cut, bytes)
    }
}

/// What one checker has to say against a world.
#[derive(Debug)]
struct Objection {
    checker: Checker,
    what: String,
}

/// Whether a checker objects.
type Verdict = Result<(), Objection>;

impl Objection {
    #[cold]
    fn new(checker: Checker, what: impl FnOnce() -> String) -> Self {
        Self { checker, what: what() }
    }

    fn at(self, at_ms: u64, node: Option<NodeIndex>) -> Violation {
        Violation { checker: self.checker, at_ms, node, what: self.what }
    }
}

#[cold]
fn object(checker: Checker, what: impl FnOnce() -> String) -> Verdict {
    Err(Objection::new(checker, what))
}

/// A version in few words.
fn words(version: &Version) -> String {
    let mut text = String::from("{");
    for (index, (writer, sequence)) in version.0.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}{}", DotName { writer: *writer, sequence: *sequence });
    }
    text.push('}');
    text
}
