//! Links that were out of order, put together where they broke and healed as one: a partition is one line
//! for the reader, not one for each pair.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::NodeIndex;
use crate::trace::{Trace, TraceEvent};

/// How many names a label gives before it says how many more there are.
const NAMES_MAX: usize = 6;

/// Links that were out of order in the same way, for the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outage {
    /// From when.
    pub(super) from_ms: u64,
    /// Until when; `None` if to the end.
    pub(super) until_ms: Option<u64>,
    /// How.
    pub(super) text: String,
    /// The directions, each as sender and receiver.
    pub(super) pairs: BTreeSet<(NodeIndex, NodeIndex)>,
}

/// The outages of a story, by the time at which they begin, and otherwise as they were noted.
pub(super) fn outages(trace: &Trace) -> Vec<Outage> {
    let mut outages: Vec<Outage> = Vec::new();
    let mut places: BTreeMap<(u64, Option<u64>, &str), usize> = BTreeMap::new();
    for event in &trace.events {
        let TraceEvent::Link { from, to, from_ms, until_ms, text } = event else { continue };
        let place = *places.entry((*from_ms, *until_ms, text)).or_insert_with(|| {
            outages.push(Outage {
                from_ms: *from_ms,
                until_ms: *until_ms,
                text: text.clone(),
                pairs: BTreeSet::new(),
            });
            outages.len() - 1
        });
        outages[place].pairs.insert((*from, *to));
    }
    outages.sort_by_key(|outage| outage.from_ms);
    outages
}

impl Outage {
    /// Which links they are, in as few words as will do.
    pub(super) fn label(&self, nodes: &[String]) -> String {
        if let [(from, to)] = self.pairs.iter().copied().collect::<Vec<_>>()[..] {
            return format!("{} → {}", name(nodes, from), name(nodes, to));
        }
        if let Some(sides) = self.sides() {
            let involved: usize = sides.iter().map(BTreeSet::len).sum();
            let mut names: Vec<String> = sides.iter().map(|side| listed(nodes, side)).collect();
            if let (Some(last), Some(largest)) = (names.last_mut(), sides.last())
                && largest.len() > 2
                && involved == nodes.len()
            {
                "the rest".clone_into(last);
            }
            return names.join(" | ");
        }
        let senders: BTreeSet<_> = self.pairs.iter().map(|pair| pair.0).collect();
        let receivers: BTreeSet<_> = self.pairs.iter().map(|pair| pair.1).collect();
        if senders.is_disjoint(&receivers) && senders.len() * receivers.len() == self.pairs.len() {
            return format!("{} → {}", listed(nodes, &senders), listed(nodes, &receivers));
        }
        let involved = senders.union(&receivers).copied().collect();
        format!("{} links among {}", self.pairs.len(), listed(nodes, &involved))
    }

    /// The sides of a partition, the smallest first: every link between two of them is among the pairs, in
    /// both directions, and no link within one.
    fn sides(&self) -> Option<Vec<BTreeSet<NodeIndex>>> {
        let cut = |a, b| self.pairs.contains(&(a, b));
        if !self.pairs.iter().all(|(a, b)| cut(*b, *a)) {
            return None;
        }
        let involved: BTreeSet<NodeIndex> = self.pairs.iter().map(|pair| pair.0).collect();
        let side = |a: NodeIndex| -> BTreeSet<NodeIndex> {
            involved.iter().copied().filter(|b| !cut(a, *b)).collect()
        };
        let mut sides = Vec::new();
        for node in &involved {
            let theirs = side(*node);
            if theirs.iter().any(|other| side(*other) != theirs) {
                return None;
            }
            if theirs.first() == Some(node) {
                sides.push(theirs);
            }
        }
        sides.sort_by_key(BTreeSet::len);
        Some(sides)
    }
}

/// A replica's name, or its index if it has none.
pub(super) fn name(nodes: &[String], node: NodeIndex) -> String {
    nodes.get(node).cloned().unwrap_or_else(|| format!("#{node}"))
}

fn listed(nodes: &[String], some: &BTreeSet<NodeIndex>) -> String {
    let mut names: Vec<String> = some.iter().take(NAMES_MAX).map(|it| name(nodes, *it)).collect();
    if some.len() > NAMES_MAX {
        names.push(format!("{} more", some.len() - NAMES_MAX));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outage(pairs: &[(NodeIndex, NodeIndex)]) -> Outage {
        Outage {
            from_ms: 0,
            until_ms: None,
            text: "cut".to_owned(),
            pairs: pairs.iter().copied().collect(),
        }
    }

    fn label(pairs: &[(NodeIndex, NodeIndex)]) -> String {
        let nodes: Vec<String> = "abcdefgh".chars().map(String::from).collect();
        outage(pairs).label(&nodes)
    }

    fn both_ways(pairs: &[(NodeIndex, NodeIndex)]) -> Vec<(NodeIndex, NodeIndex)> {
        pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect()
    }

    #[test]
    fn links_that_break_together_have_one_label() {
        assert_eq!(label(&[(0, 1)]), "a → b");
        assert_eq!(label(&both_ways(&[(0, 1)])), "a | b");
        assert_eq!(
            label(&both_ways(&[(0, 2), (0, 3), (1, 2), (1, 3), (0, 4), (1, 4)])),
            "a, b | c, d, e"
        );
        assert_eq!(label(&both_ways(&[(0, 1), (0, 2), (1, 2)])), "a | b | c");
        assert_eq!(label(&[(0, 2), (1, 2)]), "a, b → c");
        assert_eq!(label(&both_ways(&[(0, 1), (2, 3)])), "4 links among a, b, c, d");
        let all_but_one: Vec<_> = (1..8).map(|other| (0, other)).collect();
        assert_eq!(label(&both_ways(&all_but_one)), "a | the rest");
        let hub: Vec<_> = (1..8).map(|other| (0, other)).collect();
        assert_eq!(label(&hub), "a → b, c, d, e, f, g, 1 more");
        assert_eq!(outage(&[(0, 9)]).label(&[]), "#0 → #9");
    }

    #[test]
    fn outages_are_told_apart_by_time_and_words() {
        let link = |from, from_ms, text: &str| TraceEvent::Link {
            from,
            to: 3,
            from_ms,
            until_ms: Some(50),
            text: text.to_owned(),
        };
        let events =
            vec![link(0, 20, "cut"), link(1, 10, "cut"), link(2, 20, "cut"), link(0, 20, "slow")];
        let outages = outages(&Trace { nodes: Vec::new(), events });
        let seen: Vec<_> =
            outages.iter().map(|it| (it.from_ms, it.text.as_str(), it.pairs.len())).collect();
        assert_eq!(seen, [(10, "cut", 1), (20, "cut", 2), (20, "slow", 1)]);
    }
}
