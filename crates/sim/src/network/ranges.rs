//! Sets of numbers that come in runs.

use std::collections::VecDeque;

/// A set of numbers as ascending ranges, ends excluded, no two of which touch.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranges {
    ranges: VecDeque<(u64, u64)>,
}

impl Ranges {
    /// Whether there is no number in the set.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ranges the set falls into.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The lowest range.
    pub(super) fn first(&self) -> Option<(u64, u64)> {
        self.ranges.front().copied()
    }

    /// The highest range.
    pub(super) fn last(&self) -> Option<(u64, u64)> {
        self.ranges.back().copied()
    }

    /// All ranges, the highest first.
    pub(super) fn descending(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().rev().copied()
    }

    /// Whether a number is in the set.
    pub(super) fn contains(&self, number: u64) -> bool {
        let at = self.ranges.partition_point(|range| range.1 <= number);
        self.ranges.get(at).is_some_and(|range| range.0 <= number)
    }

    /// Adds the numbers from `start` to before `end`.
    pub(super) fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // Nearly always something is added behind the highest.
        match self.ranges.back_mut() {
            Some(last) if last.1 == start => {
                last.1 = end;
                return;
            }
            Some(last) if last.1 > start => {}
            _ => {
                self.ranges.push_back((start, end));
                return;
            }
        }
        let from = self.ranges.partition_point(|range| range.1 < start);
        let to = self.ranges.partition_point(|range| range.0 <= end);
        if from == to {
            self.ranges.insert(from, (start, end));
            return;
        }
        self.ranges[from] = (self.ranges[from].0.min(start), self.ranges[to - 1].1.max(end));
        self.ranges.drain(from + 1..to);
    }

    /// Takes the numbers from `start` to before `end` out.
    pub(super) fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let from = self.ranges.partition_point(|range| range.1 <= start);
        let to = self.ranges.partition_point(|range| range.0 < end);
        if from >= to {
            return;
        }
        let (head, tail) = ((self.ranges[from].0, start), (end, self.ranges[to - 1].1));
        self.ranges.drain(from..to);
        for kept in [tail, head] {
            if kept.0 < kept.1 {
                self.ranges.insert(from, kept);
            }
        }
    }

    /// Takes the lowest range out.
    pub(super) fn pop_first(&mut self) -> Option<(u64, u64)> {
        self.ranges.pop_front()
    }

    /// The parts of `start..end` that are not in the set, lowest first.
    pub(super) fn gaps(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let from = self.ranges.partition_point(|range| range.1 <= start);
        let inside = self.ranges.range(from..).take_while(move |range| range.0 < end).copied();
        let mut at = start;
        inside.chain(std::iter::once((end, end))).filter_map(move |(from, to)| {
            let gap = (at, from);
            at = to;
            (gap.0 < gap.1).then_some(gap)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::random::Random;

    #[test]
    fn ranges_behave_as_a_set_of_numbers() {
        let mut random = Random::labelled(1, "ranges");
        for _ in 0..200 {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for _ in 0..60 {
                let start = random.below(100);
                let end = start + random.below(12);
                if random.chance(0.6) {
                    ranges.insert(start, end);
                    model.extend(start..end);
                } else {
                    ranges.remove(start, end);
                    model.retain(|number| !(start..end).contains(number));
                }
                let all: Vec<(u64, u64)> = ranges.ranges.iter().copied().collect();
                assert!(all.windows(2).all(|pair| pair[0].1 < pair[1].0), "{all:?}");
                let numbers: Vec<u64> = all.iter().flat_map(|range| range.0..range.1).collect();
                assert_eq!(numbers, model.iter().copied().collect::<Vec<_>>());
                assert!((0..120).all(|number| ranges.contains(number) == model.contains(&number)));
                let gaps: Vec<u64> = ranges.gaps(20, 70).flat_map(|gap| gap.0..gap.1).collect();
                let missing = (20..70).filter(|number| !model.contains(number));
                assert_eq!(gaps, missing.collect::<Vec<_>>());
            }
        }
    }
}
