//! Register: holds a value; concurrent puts are kept side by side until one of them is overwritten.
//!
//! A put supersedes the puts that its writer had seen, and nothing else (a multi-value register:
//! Shapiro et al. 2011, section 3.2.2). So the live dots are exactly the visible puts that no visible
//! put or removal has seen. A read that wants one value takes the one with the latest wall time, then
//! the greatest replica id: wall time decides only among *concurrent* puts, so a wrong clock can
//! never lock a key.
//!
//! Cost: a put writes one dot and names the siblings it saw; a read is linear in the siblings.

use crate::{Dot, Payload, Row, Value};

/// One of the values that a register holds at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sibling<'a> {
    /// The commit that put it.
    pub dot: Dot,
    /// The wall time of that commit, in milliseconds since the Unix epoch.
    pub wall_time_ms: u64,
    /// The value.
    pub value: &'a Value,
}

/// The values that no visible put or removal has superseded, winner first.
pub fn siblings(row: Option<&Row>) -> Vec<Sibling<'_>> {
    let mut siblings: Vec<_> = row.into_iter().flat_map(Row::iter).filter_map(sibling).collect();
    siblings.sort_by_key(|sibling| std::cmp::Reverse(precedence(sibling)));
    siblings
}

/// The value that a plain read returns: the sibling with the latest wall time, then the greatest replica id.
pub fn latest(row: Option<&Row>) -> Option<Sibling<'_>> {
    row.into_iter().flat_map(Row::iter).filter_map(sibling).max_by_key(precedence)
}

fn sibling(entry: (Dot, &Payload)) -> Option<Sibling<'_>> {
    match entry {
        (dot, Payload::Register { value, wall_time_ms }) => {
            Some(Sibling { dot, wall_time_ms: *wall_time_ms, value })
        }
        _ => None,
    }
}

fn precedence(sibling: &Sibling<'_>) -> (u64, Dot) {
    (sibling.wall_time_ms, sibling.dot)
}
