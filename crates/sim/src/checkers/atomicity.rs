//! Atomicity: a transaction is visible whole or not at all.
//!
//! By convention of the workloads, some transactions add two elements and nothing ever removes them:
//! `!a/<dot>` and `~b/<dot>`, where the dot is written as `<writer, 32 hexadecimal digits>.<sequence>`.

use std::collections::BTreeMap;

use super::cut::{Cut, slot};
use super::ledger::Ledger;
use super::{Verdict, object};
use crate::history::{Checker, Key, RowKind, Seen, SpaceNumber, Transaction, Wish};

/// The transactions that left witnesses.
#[derive(Debug, Default)]
pub(super) struct Atomicity {
    /// By space, from the text of the dot to the writer and the sequence number.
    spaces: Vec<BTreeMap<String, (usize, u64)>>,
}

impl Atomicity {
    /// Learns of a transaction.
    pub(super) fn record(&mut self, space: SpaceNumber, writer: usize, transaction: &Transaction) {
        let is_witness = |wish: &Wish| match wish {
            Wish::Insert(key) => super::wishes::is_witness(key),
            _ => false,
        };
        if transaction.wishes.iter().any(is_witness) {
            let dot = transaction.dot;
            let text = format!("{:032x}.{}", dot.writer, dot.sequence);
            slot(&mut self.spaces, space).insert(text, (writer, dot.sequence));
        }
    }

    /// Forgets the transactions of a writer behind `keep`.
    pub(super) fn lose(&mut self, space: SpaceNumber, writer: usize, keep: u64) {
        slot(&mut self.spaces, space).retain(|_, (by, seq)| *by != writer || *seq <= keep);
    }

    /// All rows were read.
    pub(super) fn read(
        &mut self,
        ledger: &Ledger,
        space: SpaceNumber,
        cut: &Cut,
        rows: &BTreeMap<(Key, RowKind), Seen>,
    ) -> Verdict {
        let witnesses = slot(&mut self.spaces, space);
        let visible =
            |(_, (writer, sequence)): &(&String, &(usize, u64))| *sequence <= cut.of(*writer);
        let mut first = below(rows, "!a/").peekable();
        let mut second = below(rows, "~b/").peekable();
        let mut expected = witnesses.iter().filter(visible).map(|(text, _)| text).peekable();
        loop {
            let next = [
                first.peek().copied(),
                second.peek().copied(),
                expected.peek().map(|t| t.as_str()),
            ];
            if next[0] != next[1] || next[1] != next[2] {
                let text = next.into_iter().flatten().min().unwrap_or_default();
                let there = next.map(|next| next == Some(text));
                return object(Checker::Atomicity, || explain(ledger, space, cut, text, there));
            }
            if next[0].is_none() {
                return Ok(());
            }
            first.next();
            second.next();
            expected.next();
        }
    }
}

/// What stands below a path that ends with a slash, without it.
fn below<'a>(
    rows: &'a BTreeMap<(Key, RowKind), Seen>,
    prefix: &'static str,
) -> impl Iterator<Item = &'a str> {
    let rows = rows.range((prefix.to_owned(), RowKind::Register)..);
    rows.map_while(move |((path, _), _)| path.strip_prefix(prefix))
}

fn explain(
    ledger: &Ledger,
    space: SpaceNumber,
    cut: &Cut,
    text: &str,
    [a, b, visible]: [bool; 3],
) -> String {
    let there = match (a, b) {
        (true, true) => "both its witnesses are there",
        (true, false) => "only its witness under !a is there",
        (false, true) => "only its witness under ~b is there",
        (false, false) => "neither of its witnesses is there",
    };
    let visible = if visible { "is visible" } else { "is not visible" };
    let version = super::words(&ledger.version(cut));
    format!("space {space}: the transaction {text} {visible}, and {there}; version {version}")
}
