//! Durability: what was promised to be on disk is there whenever the store is opened again.
//!
//! A promise is an acknowledgement that says so, `Synced`, a commit that was sent (never before it is on
//! disk) or taken from a peer (acknowledged to it), and, unless acknowledgements are eventual, all that a
//! reader has seen.

use super::cut::{Cut, slot};
use super::ledger::Ledger;
use super::{Verdict, object};
use crate::history::{Checker, Death, NodeIndex, SpaceNumber};

/// What each replica has promised.
#[derive(Debug, Default)]
pub(super) struct Durability {
    nodes: Vec<Disk>,
}

#[derive(Debug, Default)]
struct Disk {
    eventual: bool,
    /// Whether an older copy took the place of what was there, since it was last opened.
    rolled_back: bool,
    spaces: Vec<Promises>,
}

#[derive(Debug, Default)]
struct Promises {
    /// By writer, the last that was promised.
    promised: Vec<Promise>,
    /// Acknowledged or seen in this life.
    visible: Cut,
}

#[derive(Debug, Clone, Copy, Default)]
struct Promise {
    sequence: u64,
    why: Why,
    at_ms: u64,
}

/// What the promise was.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Why {
    /// The call that wrote it said so.
    #[default]
    Acknowledged,
    /// `sync` came back.
    Synced,
    /// It was sent.
    Sent,
    /// It was taken from a peer.
    Applied,
    /// A reader saw it.
    Seen,
    /// The store was closed in good order.
    Closed,
}

impl Why {
    fn words(self) -> &'static str {
        match self {
            Why::Acknowledged => "acknowledged as durable",
            Why::Synced => "synced",
            Why::Sent => "sent to a peer",
            Why::Applied => "taken from a peer",
            Why::Seen => "shown to a reader",
            Why::Closed => "there when the store was closed",
        }
    }
}

impl Durability {
    /// Whether a replica acknowledges before it is durable.
    pub(super) fn set_eventual(&mut self, node: NodeIndex, eventual: bool) {
        slot(&mut self.nodes, node).eventual = eventual;
    }

    /// Whether a replica acknowledges before it is durable.
    pub(super) fn is_eventual(&self, node: NodeIndex) -> bool {
        self.nodes.get(node).is_some_and(|disk| disk.eventual)
    }

    /// From the next opening on, nothing is promised that is not there then.
    pub(super) fn rolled_back(&mut self, node: NodeIndex) {
        slot(&mut self.nodes, node).rolled_back = true;
    }

    /// A store was opened: all that was promised must be there. `spaces` are the ones that are.
    pub(super) fn opened(
        &mut self,
        ledger: &Ledger,
        node: NodeIndex,
        fresh: bool,
        spaces: &[(SpaceNumber, Cut)],
    ) -> Verdict {
        let disk = slot(&mut self.nodes, node);
        if std::mem::take(&mut disk.rolled_back) || fresh {
            disk.spaces.clear();
        }
        let nothing = Cut::default();
        for (space, promises) in disk.spaces.iter_mut().enumerate() {
            let found = spaces.iter().find(|(number, _)| *number == space);
            let cut = found.map_or(&nothing, |(_, cut)| cut);
            promises.kept(ledger, space, cut)?;
            promises.visible = cut.clone();
        }
        Ok(())
    }

    /// Commits of a writer, up to this one, are promised.
    pub(super) fn promise(
        &mut self,
        at_ms: u64,
        node: NodeIndex,
        space: SpaceNumber,
        (writer, sequence): (usize, u64),
        why: Why,
    ) {
        self.space(node, space).promise(writer, Promise { sequence, why, at_ms });
    }

    /// A reader saw this version. Returns whether that is a promise.
    pub(super) fn seen(
        &mut self,
        at_ms: u64,
        node: NodeIndex,
        space: SpaceNumber,
        cut: &Cut,
    ) -> bool {
        let promised = !self.is_eventual(node);
        let promises = self.space(node, space);
        promises.visible.join(cut);
        if promised {
            promises.promise_all(cut, Why::Seen, at_ms);
        }
        promised
    }

    /// A write was acknowledged, but not as durable.
    pub(super) fn acknowledged(
        &mut self,
        node: NodeIndex,
        space: SpaceNumber,
        (writer, sequence): (usize, u64),
    ) {
        self.space(node, space).visible.raise(writer, sequence);
    }

    /// All that is visible was promised at once. Returns what that is, by space.
    pub(super) fn synced(
        &mut self,
        at_ms: u64,
        node: NodeIndex,
        why: Why,
    ) -> Vec<(SpaceNumber, Cut)> {
        let spaces = slot(&mut self.nodes, node).spaces.iter_mut().enumerate();
        let promise_all = |(space, promises): (SpaceNumber, &mut Promises)| {
            let visible = promises.visible.clone();
            promises.promise_all(&visible, why, at_ms);
            (space, visible)
        };
        spaces.map(promise_all).collect()
    }

    /// A process ended. Returns what is promised by that, by space.
    pub(super) fn died(
        &mut self,
        at_ms: u64,
        node: NodeIndex,
        death: Death,
        disk_fails: bool,
    ) -> Vec<(SpaceNumber, Cut)> {
        match death {
            // Where the disk fails, closing may fail, and then it is as if killed.
            Death::Closed if !disk_fails => self.synced(at_ms, node, Why::Closed),
            _ => Vec::new(),
        }
    }

    /// All that a replica has promised of a space.
    pub(super) fn promised(&self, node: NodeIndex, space: SpaceNumber) -> Cut {
        let mut cut = Cut::default();
        let promises = self.nodes.get(node).and_then(|disk| disk.spaces.get(space));
        let all = promises.into_iter().flat_map(|promises| promises.promised.iter().enumerate());
        all.for_each(|(writer, promise)| cut.raise(writer, promise.sequence));
        cut
    }

    fn space(&mut self, node: NodeIndex, space: SpaceNumber) -> &mut Promises {
        slot(&mut slot(&mut self.nodes, node).spaces, space)
    }
}

impl Promises {
    fn promise(&mut self, writer: usize, promise: Promise) {
        let latest = slot(&mut self.promised, writer);
        if promise.sequence > latest.sequence {
            *latest = promise;
        }
    }

    fn promise_all(&mut self, cut: &Cut, why: Why, at_ms: u64) {
        for (writer, sequence) in cut.iter() {
            self.promise(writer, Promise { sequence, why, at_ms });
        }
    }

    fn kept(&self, ledger: &Ledger, space: SpaceNumber, cut: &Cut) -> Verdict {
        for (writer, promise) in self.promised.iter().enumerate() {
            let there = cut.of(writer);
            if promise.sequence > there {
                let dot = ledger.writers.dot(writer, promise.sequence);
                let (why, at_ms) = (promise.why.words(), promise.at_ms);
                return object(Checker::Durability, || {
                    format!(
                        "space {space}: {dot} was {why} at {at_ms} ms, and is gone after opening: of that writer {there} are left"
                    )
                });
            }
        }
        Ok(())
    }
}
