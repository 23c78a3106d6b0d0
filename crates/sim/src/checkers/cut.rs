//! Versions with numbered writers: what the checkers compare all the time, so it is a plain list.

use std::collections::BTreeMap;

use crate::history::{DotName, Version, Writer};

/// The writers that were ever heard of, numbered in the order in which they were.
#[derive(Debug, Default)]
pub(super) struct Writers {
    names: Vec<Writer>,
    numbers: BTreeMap<Writer, usize>,
}

impl Writers {
    /// The number of a writer, a new one if it has none.
    pub(super) fn number(&mut self, writer: Writer) -> usize {
        let next = self.names.len();
        let number = *self.numbers.entry(writer).or_insert(next);
        if number == next {
            self.names.push(writer);
        }
        number
    }

    /// The number of a writer, if it has one.
    pub(super) fn find(&self, writer: Writer) -> Option<usize> {
        self.numbers.get(&writer).copied()
    }

    /// The writer with a number.
    pub(super) fn name(&self, number: usize) -> Writer {
        self.names.get(number).copied().unwrap_or_default()
    }

    /// A dot in the words of the history.
    pub(super) fn dot(&self, number: usize, sequence: u64) -> DotName {
        DotName { writer: self.name(number), sequence }
    }

    /// A version with its writers numbered.
    pub(super) fn cut(&mut self, version: &Version) -> Cut {
        let mut cut = Cut::default();
        for (writer, sequence) in &version.0 {
            let number = self.number(*writer);
            cut.raise(number, *sequence);
        }
        cut
    }
}

/// How many commits of each writer are visible, by the writer's number. Never ends with a zero, so that
/// equal means equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Cut(Vec<u64>);

impl Cut {
    /// How many commits of a writer are visible.
    pub(super) fn of(&self, writer: usize) -> u64 {
        self.0.get(writer).copied().unwrap_or(0)
    }

    /// Every writer of whom something is visible, and how much.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.0.iter().copied().enumerate().filter(|(_, sequence)| *sequence > 0)
    }

    /// Makes at least so many commits of a writer visible.
    pub(super) fn raise(&mut self, writer: usize, sequence: u64) {
        if sequence > self.of(writer) {
            *slot(&mut self.0, writer) = sequence;
        }
    }

    /// Makes nothing visible.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds what is visible in `other`.
    pub(super) fn join(&mut self, other: &Cut) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (ours, theirs) in self.0.iter_mut().zip(&other.0) {
            *ours = (*ours).max(*theirs);
        }
    }

    /// Whether everything visible in `other` is visible here.
    pub(super) fn includes(&self, other: &Cut) -> bool {
        self.first_missing(other).is_none()
    }

    /// The first writer of whom more is visible in `other`, and how much.
    pub(super) fn first_missing(&self, other: &Cut) -> Option<(usize, u64)> {
        other.iter().find(|(writer, sequence)| self.of(*writer) < *sequence)
    }
}

/// The item at an index of a list that grows as it must.
pub(super) fn slot<T: Default>(items: &mut Vec<T>, index: usize) -> &mut T {
    if items.len() <= index {
        items.resize_with(index + 1, T::default);
    }
    &mut items[index]
}
