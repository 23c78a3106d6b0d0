//! The dot ledger: one dot, one payload, for ever. And with it, what was written by whom.
//!
//! A commit that was never *exposed* may be lost in a crash, and its dot used again: nobody can tell. It is
//! exposed once it was promised to be on disk, was sent, or was seen by another replica. From then on its dot
//! must never name anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::cut::{Cut, Writers, slot};
use super::{Objection, Verdict, object};
use crate::history::{Checker, DotName, NodeIndex, SpaceNumber, Transaction, Version, Writer};

/// What every checker may look up: who is who, and who wrote what.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) writers: Writers,
    liars: BTreeSet<usize>,
    /// By writer, the replica that opened under its name.
    homes: Vec<Option<NodeIndex>>,
    spaces: Vec<SpaceLedger>,
}

#[derive(Debug, Default)]
struct SpaceLedger {
    /// By writer, its commits in sequence. Those that were lost unexposed are not among them.
    written: Vec<Vec<Written>>,
    /// By writer, up to which of its commits none can be taken back, and why not.
    exposed: Vec<Exposed>,
    /// Which commits have left their writer.
    shared: Cut,
    /// By writer, the bytes of its commits where they are known.
    bodies: Vec<Vec<Option<Body>>>,
    /// What each replica holds of those who may tell everybody something else.
    claims: BTreeMap<(NodeIndex, usize, u64), Box<[u8]>>,
}

/// One transaction that may be visible somewhere.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) transaction: Transaction,
    pub(super) past: Arc<Cut>,
    pub(super) node: NodeIndex,
    pub(super) acknowledged: bool,
    pub(super) at_ms: u64,
}

#[derive(Debug, Default)]
struct Exposed {
    sequence: u64,
    how: Option<Exposure>,
    at_ms: u64,
}

/// Why a commit cannot be taken back.
#[derive(Debug, Clone, Copy)]
pub(super) enum Exposure {
    /// It was promised to be on disk.
    Durable,
    /// A replica sent it, or applied it as it came from another.
    Carried(NodeIndex),
    /// It was visible at a replica.
    Seen(NodeIndex),
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exposure::Durable => f.write_str("was promised to be on disk"),
            Exposure::Carried(node) => write!(f, "went through the hands of replica {node}"),
            Exposure::Seen(node) => write!(f, "was visible at replica {node}"),
        }
    }
}

/// The bytes of a commit, and from whom they are known.
#[derive(Debug)]
struct Body {
    bytes: Box<[u8]>,
    node: NodeIndex,
    /// Whether the writer itself sent them.
    authentic: bool,
}

impl Ledger {
    /// Believes nothing that this writer says, and keeps it to nothing.
    pub(super) fn liar(&mut self, writer: Writer) {
        let writer = self.writers.number(writer);
        self.liars.insert(writer);
    }

    /// Whether a writer is known to lie.
    pub(super) fn is_liar(&self, writer: usize) -> bool {
        self.liars.contains(&writer)
    }

    /// Whether something of a known liar is visible.
    pub(super) fn shows_lies(&self, cut: &Cut) -> bool {
        self.liars.iter().any(|liar| cut.of(*liar) > 0)
    }

    /// The replica that opened under a writer's name.
    pub(super) fn home(&self, writer: usize) -> Option<NodeIndex> {
        self.homes.get(writer).copied().flatten()
    }

    /// Notes under whose name a replica opened.
    pub(super) fn opened(&mut self, node: NodeIndex, writer: Writer, cloned: bool) -> Verdict {
        let number = self.writers.number(writer);
        let home = slot(&mut self.homes, number);
        match *home {
            Some(other) if other != node && !cloned => object(Checker::DotLedger, || {
                format!("opened as {writer:032x}, which is the name of replica {other}")
            }),
            _ => {
                *home = Some(node);
                Ok(())
            }
        }
    }

    /// How many commits of a writer there are.
    pub(super) fn count(&self, space: SpaceNumber, writer: usize) -> u64 {
        self.commits(space, writer).len() as u64
    }

    /// The commit of a writer with this sequence number.
    pub(super) fn get(&self, space: SpaceNumber, writer: usize, sequence: u64) -> Option<&Written> {
        let index = usize::try_from(sequence.checked_sub(1)?).ok()?;
        self.commits(space, writer).get(index)
    }

    /// Whether every visible commit of those who do not lie is in the ledger.
    pub(super) fn knows(&self, space: SpaceNumber, cut: &Cut) -> bool {
        cut.iter().all(|(writer, sequence)| sequence <= self.count(space, writer))
    }

    /// The transaction with this name.
    pub(super) fn transaction(&self, space: SpaceNumber, dot: DotName) -> Option<&Transaction> {
        let writer = self.writers.find(dot.writer)?;
        self.get(space, writer, dot.sequence).map(|written| &written.transaction)
    }

    /// Which commits of a writer have left it, as far as anybody saw.
    pub(super) fn shared(&self, space: SpaceNumber, writer: usize) -> u64 {
        self.spaces.get(space).map_or(0, |ledger| ledger.shared.of(writer))
    }

    /// Version vectors as text, for objections.
    pub(super) fn version(&self, cut: &Cut) -> Version {
        Version(cut.iter().map(|(writer, seq)| (self.writers.name(writer), seq)).collect())
    }

    /// Notes a local transaction. Returns whether it takes the place of one whose outcome was left open, and
    /// which must be forgotten.
    pub(super) fn wrote(
        &mut self,
        at_ms: u64,
        node: NodeIndex,
        space: SpaceNumber,
        transaction: &Transaction,
        acknowledged: bool,
    ) -> Result<bool, Objection> {
        let dot = transaction.dot;
        let writer = self.writers.number(dot.writer);
        if self.home(writer) != Some(node) {
            return Err(Objection::new(Checker::DotLedger, || {
                format!("space {space}: wrote {dot}, under a name that is not its own")
            }));
        }
        let past = Arc::new(self.writers.cut(&transaction.past));
        let ledger = slot(&mut self.spaces, space);
        let exposed = slot(&mut ledger.exposed, writer);
        let written = slot(&mut ledger.written, writer);
        let replaces = is_again(space, dot, written, exposed)?;
        if replaces {
            written.pop();
        }
        let transaction = transaction.clone();
        written.push(Written { transaction, past, node, acknowledged, at_ms });
        Ok(replaces)
    }

    /// Forgets the unexposed commits of a writer behind `keep`, which were lost. Returns whether there were any.
    pub(super) fn lose(
        &mut self,
        node: NodeIndex,
        space: SpaceNumber,
        writer: usize,
        keep: u64,
    ) -> bool {
        let Some(ledger) = self.spaces.get_mut(space) else { return false };
        let keep = keep.max(slot(&mut ledger.exposed, writer).sequence);
        let written = slot(&mut ledger.written, writer);
        let before = written.len();
        while written.len() as u64 > keep && written.last().is_some_and(|last| last.node == node) {
            written.pop();
        }
        written.len() < before
    }

    /// Notes that commits of a writer can no longer be taken back.
    pub(super) fn expose(
        &mut self,
        at_ms: u64,
        space: SpaceNumber,
        writer: usize,
        sequence: u64,
        how: Exposure,
    ) {
        let ledger = slot(&mut self.spaces, space);
        let exposed = slot(&mut ledger.exposed, writer);
        if sequence > exposed.sequence {
            *exposed = Exposed { sequence, how: Some(how), at_ms };
        }
        let home = self.homes.get(writer).copied().flatten();
        match how {
            Exposure::Carried(_) => ledger.shared.raise(writer, sequence),
            Exposure::Seen(node) if home != Some(node) => ledger.shared.raise(writer, sequence),
            _ => {}
        }
    }

    /// Compares the bytes of commits with what is known of them.
    pub(super) fn carried(
        &mut self,
        node: NodeIndex,
        space: SpaceNumber,
        first: DotName,
        bodies: &[Bytes],
        sending: bool,
    ) -> Verdict {
        let writer = self.writers.number(first.writer);
        let lies = self.is_liar(writer);
        let own = self.home(writer) == Some(node);
        let ledger = slot(&mut self.spaces, space);
        for (bytes, sequence) in bodies.iter().zip(first.sequence..) {
            let dot = DotName { writer: first.writer, sequence };
            if lies {
                ledger.claimed(node, space, writer, dot, bytes)?;
            } else {
                ledger.carried(node, space, writer, dot, bytes, sending && own)?;
            }
        }
        Ok(())
    }

    /// How many spaces were heard of.
    pub(super) fn spaces(&self) -> usize {
        self.spaces.len()
    }

    fn commits(&self, space: SpaceNumber, writer: usize) -> &[Written] {
        let ledger = self.spaces.get(space);
        ledger.and_then(|ledger| ledger.written.get(writer)).map_or(&[], Vec::as_slice)
    }
}

impl SpaceLedger {
    fn carried(
        &mut self,
        node: NodeIndex,
        space: SpaceNumber,
        writer: usize,
        dot: DotName,
        bytes: &Bytes,
        authentic: bool,
    ) -> Verdict {
        let index = usize::try_from(dot.sequence.saturating_sub(1)).unwrap_or(usize::MAX);
        let known = slot(slot(&mut self.bodies, writer), index);
        let Some(known) = known else {
            *known = Some(Body { bytes: bytes.as_ref().into(), node, authentic });
            return Ok(());
        };
        if *known.bytes == **bytes {
            known.authentic |= authentic;
            return Ok(());
        }
        let checker = match known.authentic != authentic {
            true => Checker::Authenticity,
            false => Checker::DotLedger,
        };
        let origin = if known.authentic { "its writer sent" } else { "came by at" };
        object(checker, || {
            format!(
                "space {space}: {dot} has other bytes ({} long, {}) than {origin} replica {} ({} long, {})",
                bytes.len(),
                fingerprint(bytes),
                known.node,
                known.bytes.len(),
                fingerprint(&known.bytes),
            )
        })
    }

    /// A liar may tell everybody something else, but nobody may believe two things.
    fn claimed(
        &mut self,
        node: NodeIndex,
        space: SpaceNumber,
        writer: usize,
        dot: DotName,
        bytes: &Bytes,
    ) -> Verdict {
        let entry = self.claims.entry((node, writer, dot.sequence));
        let known = entry.or_insert_with(|| bytes.as_ref().into());
        if **known == **bytes {
            return Ok(());
        }
        let (known, found) = (fingerprint(known), fingerprint(bytes));
        object(Checker::DotLedger, || {
            format!("space {space}: holds two payloads for {dot} of a liar: {known} and {found}")
        })
    }
}

/// Whether a dot replaces one whose outcome was left open.
fn is_again(
    space: SpaceNumber,
    dot: DotName,
    written: &[Written],
    exposed: &Exposed,
) -> Result<bool, Objection> {
    let count = written.len() as u64;
    if dot.sequence == 0 || dot.sequence > count + 1 {
        return Err(Objection::new(Checker::DotLedger, || {
            format!("space {space}: wrote {dot}, but its latest commit before was number {count}")
        }));
    }
    let Some(before) = usize::try_from(dot.sequence - 1).ok().and_then(|at| written.get(at)) else {
        return Ok(false);
    };
    let Written { transaction, acknowledged, at_ms, .. } = before;
    if dot.sequence <= exposed.sequence {
        let how = exposed.how.unwrap_or(Exposure::Durable);
        return Err(Objection::new(Checker::DotLedger, || {
            format!(
                "space {space}: {dot} is used again, although what it named since {at_ms} ms ({:?}) {how} at {} ms",
                transaction.wishes, exposed.at_ms,
            )
        }));
    }
    if *acknowledged || dot.sequence < count {
        return Err(Objection::new(Checker::DotLedger, || {
            format!(
                "space {space}: {dot} is used again, although what it named since {at_ms} ms ({:?}) was not lost",
                transaction.wishes,
            )
        }));
    }
    Ok(true)
}

/// The beginning of a hash, to tell bytes apart in a message.
fn fingerprint(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().as_str()[..12].to_owned()
}
