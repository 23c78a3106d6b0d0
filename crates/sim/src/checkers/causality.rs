//! Causality: every view is closed under it, and each process keeps the four session guarantees.
//!
//! Within one life of a process: monotonic reads, read your writes, writes follow reads, monotonic writes.
//! A watch tells each commit once, after its past, and passes none over without saying so.

use std::collections::VecDeque;

use super::cut::{Cut, slot};
use super::ledger::Ledger;
use super::{Verdict, object};
use crate::history::{Checker, DotName, NodeIndex, SpaceNumber};

/// What each process has been told.
#[derive(Debug, Default)]
pub(super) struct Causality {
    nodes: Vec<Vec<Session>>,
}

/// One space in one life of a process.
#[derive(Debug, Default)]
struct Session {
    /// All that it has seen, or written and had acknowledged.
    seen: Cut,
    /// What it had seen when each of the writes under way began.
    began: VecDeque<Cut>,
    watch: Watch,
}

/// Where the watch of a space stands.
#[derive(Debug, Default)]
struct Watch {
    /// The last commit of each writer that was delivered.
    given: Cut,
    /// What was visible when the watch began, or passed something over. It may still deliver some of that.
    start: Cut,
    /// The writers of whom it delivered something since then.
    settled: Vec<bool>,
}

impl Causality {
    /// A new life begins with these spaces.
    pub(super) fn opened(
        &mut self,
        ledger: &Ledger,
        node: NodeIndex,
        spaces: &[(SpaceNumber, Cut)],
    ) -> Verdict {
        let sessions = slot(&mut self.nodes, node);
        sessions.clear();
        for (space, cut) in spaces {
            closed(ledger, *space, cut)?;
            let session = slot(sessions, *space);
            session.seen = cut.clone();
            session.watch.start_at(cut);
        }
        Ok(())
    }

    /// A version was shown.
    pub(super) fn seen(
        &mut self,
        ledger: &Ledger,
        node: NodeIndex,
        space: SpaceNumber,
        cut: &Cut,
    ) -> Verdict {
        let session = slot(slot(&mut self.nodes, node), space);
        if let Some((writer, before)) = cut.first_missing(&session.seen) {
            let dot = ledger.writers.dot(writer, before);
            let now = cut.of(writer);
            return object(Checker::Causality, || {
                format!(
                    "space {space}: {dot} was visible in this life before, and is not any more: of that writer {now} are"
                )
            });
        }
        if *cut != session.seen {
            closed(ledger, space, cut)?;
            session.seen = cut.clone();
        }
        Ok(())
    }

    /// Commits of a writer up to this one took effect: the next view must show them.
    pub(super) fn took_effect(
        &mut self,
        node: NodeIndex,
        space: SpaceNumber,
        (writer, sequence): (usize, u64),
    ) {
        slot(slot(&mut self.nodes, node), space).seen.raise(writer, sequence);
    }

    /// A write begins.
    pub(super) fn began_write(&mut self, node: NodeIndex, space: SpaceNumber) {
        let session = slot(slot(&mut self.nodes, node), space);
        session.began.push_back(session.seen.clone());
    }

    /// A write has ended without having changed anything.
    pub(super) fn refused(&mut self, node: NodeIndex, space: SpaceNumber) {
        slot(slot(&mut self.nodes, node), space).began.pop_front();
    }

    /// A write has ended, which is in the ledger.
    pub(super) fn wrote(
        &mut self,
        ledger: &Ledger,
        node: NodeIndex,
        space: SpaceNumber,
        writer: usize,
        dot: DotName,
    ) -> Verdict {
        let session = slot(slot(&mut self.nodes, node), space);
        let began = session.began.pop_front();
        let Some(written) = ledger.get(space, writer, dot.sequence) else { return Ok(()) };
        let past = &written.past;
        if past.of(writer) + 1 != dot.sequence {
            let own = past.of(writer);
            return object(Checker::Causality, || {
                format!("space {space}: {dot} saw {own} commits of its own writer before it")
            });
        }
        let before = dot.sequence.checked_sub(1).and_then(|seq| ledger.get(space, writer, seq));
        let read = began.as_ref().unwrap_or(&session.seen);
        let missing = match before.and_then(|before| past.first_missing(&before.past)) {
            Some(missing) => Some((missing, "the commit before it had seen")),
            None => past.first_missing(read).map(|missing| (missing, "its process had seen")),
        };
        let Some(((writer, sequence), who)) = missing else { return Ok(()) };
        let missing = ledger.writers.dot(writer, sequence);
        object(Checker::Causality, || {
            format!("space {space}: {dot} did not see {missing}, which {who}")
        })
    }

    /// A watch delivered a commit.
    pub(super) fn delivered(
        &mut self,
        ledger: &Ledger,
        node: NodeIndex,
        space: SpaceNumber,
        writer: usize,
        dot: DotName,
    ) -> Verdict {
        let lies = ledger.is_liar(writer);
        let session = slot(slot(&mut self.nodes, node), space);
        let watch = &mut session.watch;
        let (given, start) = (watch.given.of(writer), watch.start.of(writer));
        let settled = slot(&mut watch.settled, writer);
        if dot.sequence <= given {
            return object(Checker::Causality, || {
                format!(
                    "space {space}: the watch delivered {dot} after {given} commits of that writer"
                )
            });
        }
        let at_most = if *settled { given + 1 } else { start.max(given) + 1 };
        if dot.sequence > at_most && !lies {
            return object(Checker::Causality, || {
                format!("space {space}: the watch delivered {dot} and passed over number {at_most}")
            });
        }
        *settled = true;
        let past = ledger.get(space, writer, dot.sequence).map(|written| &written.past);
        let missing = past.and_then(|past| {
            let known = |(writer, seq): &(usize, u64)| {
                *seq <= watch.given.of(*writer).max(watch.start.of(*writer))
            };
            past.iter().find(|dot| dot.0 != writer && !known(dot))
        });
        if let Some((earlier, sequence)) = missing {
            let earlier = ledger.writers.dot(earlier, sequence);
            return object(Checker::Causality, || {
                format!(
                    "space {space}: the watch delivered {dot} before {earlier}, which it had seen"
                )
            });
        }
        watch.given.raise(writer, dot.sequence);
        session.seen.raise(writer, dot.sequence);
        Ok(())
    }

    /// A watch begins, or goes on behind this version.
    pub(super) fn reread(&mut self, node: NodeIndex, space: SpaceNumber, cut: &Cut) {
        slot(slot(&mut self.nodes, node), space).watch.start_at(cut);
    }

    /// What the watch of a space has told in this life, with what was there when it began.
    pub(super) fn told(&self, node: NodeIndex, space: SpaceNumber) -> Cut {
        let session = self.nodes.get(node).and_then(|sessions| sessions.get(space));
        let Some(Session { watch, .. }) = session else { return Cut::default() };
        let mut told = watch.start.clone();
        told.join(&watch.given);
        told
    }
}

impl Watch {
    fn start_at(&mut self, cut: &Cut) {
        self.start.join(cut);
        self.settled.clear();
    }
}

/// Whether the past of all that is visible is visible too. The last commit of each writer stands for those
/// before it, whose pasts it includes.
fn closed(ledger: &Ledger, space: SpaceNumber, cut: &Cut) -> Verdict {
    for (writer, sequence) in cut.iter() {
        let Some(written) = ledger.get(space, writer, sequence) else { continue };
        if let Some((missing, number)) = cut.first_missing(&written.past) {
            let (dot, missing) = (written.transaction.dot, ledger.writers.dot(missing, number));
            return object(Checker::Causality, || {
                format!("space {space}: {dot} is visible, but not {missing}, which it had seen")
            });
        }
    }
    Ok(())
}
