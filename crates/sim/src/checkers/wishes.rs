//! What a transaction comes to, once each wish has seen those before it.

use crate::history::{Datum, Key, RowKind, Wish};

/// What a transaction adds to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Added {
    /// A value.
    Value(Datum),
    /// An amount.
    Amount(i128),
    /// That it is on, or in.
    Presence,
}

/// Whose rows a removal takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// One row.
    Row(Key, RowKind),
    /// The rows of every kind at one path.
    Path(Key),
    /// All rows at and under a path.
    Tree(Key),
}

impl Scope {
    /// The path that it is about.
    pub(super) fn path(&self) -> &str {
        match self {
            Scope::Row(path, _) | Scope::Path(path) | Scope::Tree(path) => path,
        }
    }

    /// Whether a row is among them.
    pub(super) fn holds(&self, (path, kind): &(Key, RowKind)) -> bool {
        match self {
            Scope::Row(removed, of) => path == removed && kind == of,
            Scope::Path(removed) => path == removed,
            Scope::Tree(root) => is_under(path, root),
        }
    }
}

/// A transaction as one step: what it removes of its past, and what it adds.
#[derive(Debug, Default)]
pub(super) struct Net {
    pub(super) added: Vec<((Key, RowKind), Added)>,
    pub(super) removed: Vec<Scope>,
}

impl Net {
    /// The sum of some wishes.
    pub(super) fn of(wishes: &[Wish]) -> Self {
        let mut net = Net::default();
        for wish in wishes {
            match wish {
                Wish::Put(key, value) => {
                    net.set(key, RowKind::Register, Added::Value(value.clone()));
                }
                Wish::Add(key, amount) => net.add(key, i128::from(*amount)),
                Wish::Enable(key) => net.set(key, RowKind::Flag, Added::Presence),
                Wish::Insert(key) if is_witness(key) => {}
                Wish::Insert(key) => net.set(key, RowKind::Element, Added::Presence),
                Wish::RemoveRow(key, kind) => net.remove(Scope::Row(key.clone(), *kind)),
                Wish::Remove(key) => net.remove(Scope::Path(key.clone())),
                Wish::RemoveTree(key) => net.remove(Scope::Tree(key.clone())),
            }
        }
        net
    }

    fn set(&mut self, key: &str, kind: RowKind, added: Added) {
        match self.find(key, kind) {
            Some(before) => *before = added,
            None => self.added.push(((key.to_owned(), kind), added)),
        }
    }

    fn add(&mut self, key: &str, amount: i128) {
        match self.find(key, RowKind::Counter) {
            Some(Added::Amount(before)) => *before += amount,
            _ => self.set(key, RowKind::Counter, Added::Amount(amount)),
        }
    }

    fn remove(&mut self, scope: Scope) {
        self.added.retain(|(key, _)| !scope.holds(key));
        if !self.removed.contains(&scope) {
            self.removed.push(scope);
        }
    }

    fn find(&mut self, path: &str, of: RowKind) -> Option<&mut Added> {
        let mut added = self.added.iter_mut();
        added.find(|((key, kind), _)| *kind == of && key == path).map(|(_, added)| added)
    }
}

/// Whether a row is a witness of a transaction, which the [atomicity](super::atomicity) checker looks after.
pub(super) fn is_witness(key: &str) -> bool {
    key.starts_with("!a/") || key.starts_with("~b/")
}

fn is_under(path: &str, root: &str) -> bool {
    let below = path.strip_prefix(root);
    root.is_empty() || below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
}
