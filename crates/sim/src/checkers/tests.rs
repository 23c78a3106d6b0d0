//! For each checker, a history to which it objects and the like of it to which nobody does.

mod histories;
mod stories;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::history::{Datum, Gauge, Wish};

/// Rows as a workload reads them.
type ReadRows = BTreeMap<(Key, RowKind), Seen>;

/// A world that is told by hand: space 0, and replica `n` writes as `writer(n)`.
struct Told {
    checkers: Checkers,
    now_ms: u64,
    verdict: Result<(), Violation>,
}

fn writer(node: NodeIndex) -> Writer {
    ((node as u128 + 1) << 120) + 7
}

fn dot(node: NodeIndex, sequence: u64) -> DotName {
    DotName { writer: writer(node), sequence }
}

/// How many commits of replica 0, 1, 2, .. are visible.
fn version(counts: &[u64]) -> Version {
    let all = counts.iter().enumerate().filter(|(_, count)| **count > 0);
    Version(all.map(|(node, count)| (writer(node), *count)).collect())
}

fn transaction(node: NodeIndex, past: &[u64], wishes: &[Wish]) -> Transaction {
    let past = version(past);
    let dot = dot(node, past.sequence(writer(node)) + 1);
    Transaction { dot, past, wall_time_ms: 5, wishes: wishes.to_vec() }
}

fn rows(rows: &[(&str, RowKind, Seen)]) -> ReadRows {
    rows.iter().map(|(key, kind, seen)| (((*key).to_owned(), *kind), seen.clone())).collect()
}

fn put(key: &str, value: i64) -> Wish {
    Wish::Put(key.to_owned(), Datum::Integer(value))
}

fn insert(key: &str) -> Wish {
    Wish::Insert(key.to_owned())
}

fn add(key: &str, amount: i64) -> Wish {
    Wish::Add(key.to_owned(), amount)
}

const ACKNOWLEDGED: WriteOutcome = WriteOutcome::Acknowledged { durable: true };
const IN_MEMORY: WriteOutcome = WriteOutcome::Acknowledged { durable: false };

fn unknown() -> WriteOutcome {
    WriteOutcome::Unknown("the process died".to_owned())
}

impl Told {
    /// Replicas that have all opened a new store.
    fn new(nodes: usize) -> Self {
        let checkers = Checkers::new(CheckerConfig { nodes, ..CheckerConfig::default() });
        let mut told = Self { checkers, now_ms: 0, verdict: Ok(()) };
        for node in 0..nodes {
            told.tell(
                node,
                &Observation::Opened { writer: writer(node), versions: &[], fresh: true },
            );
        }
        told
    }

    /// Tells one thing more, unless somebody has objected.
    fn tell(&mut self, node: NodeIndex, observation: &Observation<'_>) -> &mut Self {
        self.now_ms += 10;
        if self.verdict.is_ok() {
            self.verdict = self.checkers.observe(self.now_ms, node, observation);
        }
        self
    }

    fn write_as(
        &mut self,
        node: NodeIndex,
        transaction: &Transaction,
        outcome: &WriteOutcome,
    ) -> &mut Self {
        self.checkers.began_write(self.now_ms, node, 0);
        self.tell(node, &Observation::Wrote { space: 0, transaction, known: true, outcome })
    }

    fn write(&mut self, node: NodeIndex, past: &[u64], wishes: &[Wish]) -> &mut Self {
        self.write_as(node, &transaction(node, past, wishes), &ACKNOWLEDGED)
    }

    fn open(&mut self, node: NodeIndex, counts: &[u64]) -> &mut Self {
        let versions = [(0, version(counts))];
        self.tell(
            node,
            &Observation::Opened { writer: writer(node), versions: &versions, fresh: false },
        )
    }

    fn die(&mut self, node: NodeIndex, death: Death) -> &mut Self {
        self.tell(node, &Observation::Died(death))
    }

    fn damage(&mut self, node: NodeIndex, damage: Damage) -> &mut Self {
        self.tell(node, &Observation::Damaged(damage))
    }

    /// Only a version, where rows do not matter: the read fails no checker of rows, for none is asked.
    fn reread(&mut self, node: NodeIndex, counts: &[u64]) -> &mut Self {
        self.tell(node, &Observation::Reread { space: 0, version: &version(counts) })
    }

    /// The hash is made of the rows, as that of the bytes would be.
    fn read(
        &mut self,
        node: NodeIndex,
        counts: &[u64],
        seen: &[(&str, RowKind, Seen)],
    ) -> &mut Self {
        let rows = rows(seen);
        let bytes = *blake3::hash(format!("{rows:?}").as_bytes()).as_bytes();
        self.read_bytes(node, counts, &rows, bytes)
    }

    fn read_bytes(
        &mut self,
        node: NodeIndex,
        counts: &[u64],
        rows: &ReadRows,
        bytes: [u8; 32],
    ) -> &mut Self {
        let version = version(counts);
        self.tell(node, &Observation::Read { space: 0, version: &version, rows, bytes })
    }

    fn send(&mut self, node: NodeIndex, first: DotName, bodies: &[&'static str]) -> &mut Self {
        self.carry(node, first, bodies, true)
    }

    fn apply(&mut self, node: NodeIndex, first: DotName, bodies: &[&'static str]) -> &mut Self {
        self.carry(node, first, bodies, false)
    }

    fn carry(
        &mut self,
        node: NodeIndex,
        first: DotName,
        bodies: &[&'static str],
        sending: bool,
    ) -> &mut Self {
        let bodies: Vec<_> =
            bodies.iter().map(|body| Bytes::from_static(body.as_bytes())).collect();
        self.tell(node, &Observation::Carried { space: 0, first, bodies: &bodies, sending })
    }

    fn deliver(&mut self, node: NodeIndex, dot: DotName) -> &mut Self {
        self.tell(node, &Observation::Delivered { space: 0, dot })
    }

    /// Nobody has objected.
    #[track_caller]
    fn good(&self) {
        assert_eq!(self.verdict, Ok(()));
    }

    /// This checker was the first to object, in words that hold these.
    #[track_caller]
    fn bad(&self, checker: Checker, words: &str) {
        let violation = self.verdict.as_ref().expect_err("somebody must object");
        assert_eq!(violation.checker, checker, "{violation}");
        assert!(violation.what.contains(words), "{violation}");
    }
}
