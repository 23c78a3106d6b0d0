//! The receiving half of one end: lanes put together from what arrives, and the windows that bound them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Buf, Bytes};
use rejoin_gossip::wire::Lane;

use super::LANES_MAX;
use crate::network::packet::ChunkHeader;

/// All lanes that one end receives on.
#[derive(Debug)]
pub(super) struct Receiving {
    lanes: Vec<ReceiveLane>,
    lane_window: u64,
    window: u64,
    /// The sum of the highest offsets, how much of that was read, and what the sender was allowed.
    arrived: u64,
    read: u64,
    limit: u64,
    /// Bytes that are held and not read.
    held: usize,
    /// Windows that have moved and of which the sender must hear.
    pub(super) limit_due: bool,
    pub(super) lanes_due: BTreeSet<u64>,
}

#[derive(Debug)]
struct ReceiveLane {
    name: Option<Lane>,
    /// The highest offset that has arrived, and up to where there is no gap.
    highest: u64,
    next: u64,
    read: u64,
    limit: u64,
    ready: VecDeque<(Bytes, u64)>,
    /// What arrived behind a gap, by offset; none overlaps another.
    ahead: BTreeMap<u64, (Bytes, u64)>,
}

impl Receiving {
    pub(super) fn new(lane_window: u64, window: u64) -> Self {
        Self {
            lanes: Vec::new(),
            lane_window,
            window,
            arrived: 0,
            read: 0,
            limit: window,
            held: 0,
            limit_due: false,
            lanes_due: BTreeSet::new(),
        }
    }

    /// Bytes that have arrived and were not read.
    pub(super) fn unread(&self) -> usize {
        self.held
    }

    /// What the sender may send over all lanes.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// What the sender may send on a lane.
    pub(super) fn lane_limit(&self, number: u64) -> u64 {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        self.lanes.get(number).map_or(self.lane_window, |lane| lane.limit)
    }

    /// Takes in a part of a lane: the lane, if it is one that may be.
    ///
    /// What does not keep to the windows is ignored: a sender keeps to them, so it is damage that went unnoticed.
    pub(super) fn insert(&mut self, header: &ChunkHeader, bytes: Bytes) -> Option<usize> {
        let number = usize::try_from(header.number).ok().filter(|number| *number < LANES_MAX)?;
        while self.lanes.len() <= number {
            self.lanes.push(ReceiveLane::new(self.lane_window));
        }
        let lane = &mut self.lanes[number];
        let end = header.offset.checked_add(bytes.len() as u64)?;
        let grows = end.saturating_sub(lane.highest);
        if end > lane.limit || self.arrived + grows > self.limit {
            return None;
        }
        lane.name = lane.name.or(header.name);
        lane.highest += grows;
        self.arrived += grows;
        self.held += lane.insert(header.offset, bytes, header.sent_ms);
        Some(number)
    }

    /// Reads what is there next on a lane: which lane it is, the bytes, and when they were sent.
    pub(super) fn read(&mut self, number: usize) -> Option<(Lane, Bytes, u64)> {
        let lane = self.lanes.get_mut(number)?;
        let name = lane.name?;
        let (bytes, sent_ms) = lane.ready.pop_front()?;
        let count = bytes.len() as u64;
        self.held -= bytes.len();
        self.read += count;
        lane.read += count;
        // The sender hears of it once it is worth a packet.
        if lane.read + self.lane_window - lane.limit >= self.lane_window / 8 {
            lane.limit = lane.read + self.lane_window;
            self.lanes_due.insert(number as u64);
        }
        if self.read + self.window - self.limit >= self.window / 8 {
            self.limit = self.read + self.window;
            self.limit_due = true;
        }
        Some((name, bytes, sent_ms))
    }

    /// Which lane it is, if it has something to read.
    pub(super) fn readable(&self, number: usize) -> Option<Lane> {
        let lane = self.lanes.get(number)?;
        lane.name.filter(|_| !lane.ready.is_empty())
    }

    /// How many lanes there are.
    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }
}

impl ReceiveLane {
    fn new(limit: u64) -> Self {
        Self {
            name: None,
            highest: 0,
            next: 0,
            read: 0,
            limit,
            ready: VecDeque::new(),
            ahead: BTreeMap::new(),
        }
    }

    /// Keeps what of `bytes` is new: how much that is.
    fn insert(&mut self, mut offset: u64, mut bytes: Bytes, sent_ms: u64) -> usize {
        let mut kept = 0;
        let known = self.next.max(self.ahead.range(..=offset).next_back().map_or(0, end_of));
        skip(&mut bytes, &mut offset, known);
        while !bytes.is_empty() {
            // Up to what is already there, then on behind it.
            let following = self.ahead.range(offset..).next();
            let (start, end) = following
                .map_or((u64::MAX, u64::MAX), |(start, held)| (*start, end_of((start, held))));
            let room = usize::try_from(start - offset).unwrap_or(usize::MAX);
            let part = bytes.split_to(room.min(bytes.len()));
            if !part.is_empty() {
                kept += part.len();
                let at = offset;
                offset += part.len() as u64;
                self.keep(at, part, sent_ms);
            }
            if !bytes.is_empty() {
                skip(&mut bytes, &mut offset, end);
            }
        }
        self.join();
        kept
    }

    fn keep(&mut self, offset: u64, bytes: Bytes, sent_ms: u64) {
        if offset == self.next {
            self.next += bytes.len() as u64;
            self.ready.push_back((bytes, sent_ms));
        } else {
            self.ahead.insert(offset, (bytes, sent_ms));
        }
    }

    /// Moves over what no longer lies behind a gap.
    fn join(&mut self) {
        while let Some(held) = self.ahead.first_entry()
            && *held.key() == self.next
        {
            let (bytes, sent_ms) = held.remove();
            self.next += bytes.len() as u64;
            self.ready.push_back((bytes, sent_ms));
        }
    }
}

fn end_of((start, held): (&u64, &(Bytes, u64))) -> u64 {
    start + held.0.len() as u64
}

fn skip(bytes: &mut Bytes, offset: &mut u64, to: u64) {
    let count = usize::try_from(to.saturating_sub(*offset)).unwrap_or(usize::MAX).min(bytes.len());
    bytes.advance(count);
    *offset += count as u64;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn parts_in_any_order_and_overlap_make_one_lane() {
        let mut random = Random::labelled(1, "parts");
        let whole: Vec<u8> = (0..3_000).map(|_| random.next_u64() as u8).collect();
        for _ in 0..50 {
            let mut receiving = Receiving::new(1 << 20, 4 << 20);
            let mut read = Vec::new();
            let mut tries = 0;
            while read.len() < whole.len() {
                tries += 1;
                let last_part = tries > 2_000;
                let start = if last_part { 0 } else { random.index(whole.len()) };
                let end = if last_part { whole.len() } else { start + random.index(200) };
                let bytes = Bytes::copy_from_slice(&whole[start..end.min(whole.len())]);
                let name = (start == 0).then_some(Lane::Control);
                let header = ChunkHeader { number: 0, offset: start as u64, sent_ms: 0, name };
                receiving.insert(&header, bytes);
                assert!(receiving.unread() <= whole.len() - read.len());
                while let Some((_, bytes, _)) = receiving.read(0) {
                    read.extend_from_slice(&bytes);
                }
            }
            assert!(read == whole);
            assert_eq!(receiving.unread(), 0);
        }
    }

    #[test]
    fn what_exceeds_a_window_is_not_kept() {
        let mut receiving = Receiving::new(10, 15);
        let header = |number, offset| ChunkHeader {
            number,
            offset,
            sent_ms: 0,
            name: (offset == 0).then_some(Lane::Control),
        };
        let ten = || Bytes::from(vec![7; 10]);
        assert_eq!(receiving.insert(&header(0, 1), ten()), None);
        assert_eq!(receiving.insert(&header(0, 0), ten()), Some(0));
        assert_eq!(receiving.insert(&header(1, 0), ten()), None, "the windows of all lanes");
        assert_eq!(receiving.insert(&header(u64::MAX, 0), ten()), None);
        assert_eq!(receiving.insert(&header(1, u64::MAX), ten()), None);
        assert_eq!(receiving.unread(), 10);
        receiving.read(0).unwrap();
        assert_eq!((receiving.lane_limit(0), receiving.limit()), (20, 25));
        assert_eq!(receiving.insert(&header(1, 0), ten()), Some(1));
    }
}
