//! The sending half of one end: its lanes, what of them waits, and what is not acknowledged yet.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rejoin_gossip::wire::Lane;

use super::LANES_MAX;
use crate::network::packet::{CHUNK_HEADER_BYTES, ChunkHeader, Writer};
use crate::network::ranges::Ranges;

/// A part of a lane that went out in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) lane: usize,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// All lanes that one end sends on.
#[derive(Debug)]
pub(super) struct Sending {
    numbers: BTreeMap<Lane, usize>,
    lanes: Vec<SendLane>,
    /// Space lanes that have something to send and may, in the order of their turns.
    turns: VecDeque<usize>,
    /// The receiver's windows: for each lane at first, and for all lanes together.
    lane_limit: u64,
    limit: u64,
    /// How much was sent over all lanes, each byte counted once.
    sent: u64,
    buffered: usize,
}

#[derive(Debug)]
struct SendLane {
    lane: Lane,
    /// What is not acknowledged yet, by offset.
    pieces: VecDeque<Piece>,
    /// Up to where everything is acknowledged, and what is so beyond that.
    acked_to: u64,
    acked: Ranges,
    lost: Ranges,
    /// What begins here was never sent.
    next: u64,
    end: u64,
    limit: u64,
    has_turn: bool,
}

#[derive(Debug)]
struct Piece {
    offset: u64,
    bytes: Bytes,
    sent_ms: u64,
}

impl Sending {
    pub(super) fn new(lane_limit: u64, limit: u64) -> Self {
        Self {
            numbers: BTreeMap::new(),
            lanes: Vec::new(),
            turns: VecDeque::new(),
            lane_limit,
            limit,
            sent: 0,
            buffered: 0,
        }
    }

    /// Queues `bytes` behind what the lane already has.
    pub(super) fn push(&mut self, lane: Lane, bytes: Bytes, now_ms: u64) {
        if bytes.is_empty() {
            return;
        }
        let number = *self.numbers.entry(lane).or_insert_with(|| {
            self.lanes.push(SendLane::new(lane, self.lane_limit));
            self.lanes.len() - 1
        });
        self.buffered += bytes.len();
        let queue = &mut self.lanes[number];
        let offset = queue.end;
        queue.end += bytes.len() as u64;
        queue.pieces.push_back(Piece { offset, bytes, sent_ms: now_ms });
        self.give_turn(number);
    }

    /// Bytes not yet sent, or not yet acknowledged.
    pub(super) fn buffered(&self) -> usize {
        self.buffered
    }

    /// How many bytes were sent, each counted once.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether something can be sent now.
    pub(super) fn wants(&self) -> bool {
        let credit = self.limit > self.sent;
        self.control().into_iter().chain(self.turns.iter().copied()).any(|number| {
            let lane = &self.lanes[number];
            !lane.lost.is_empty() || (credit && lane.has_new())
        })
    }

    /// Writes what fits into a packet of `capacity` bytes, and calls `wrote` with each part.
    ///
    /// The control lane goes first; the others take turns, so that none holds up another.
    pub(super) fn fill(
        &mut self,
        writer: &mut Writer,
        capacity: usize,
        mut wrote: impl FnMut(Chunk),
    ) {
        let mut skipped = 0;
        let mut control = self.control();
        while let Some(room) =
            capacity.checked_sub(writer.len() + CHUNK_HEADER_BYTES).filter(|room| *room > 0)
        {
            let from_turns = control.is_none();
            let Some(number) = control.take().or_else(|| self.turns.pop_front()) else { return };
            let credit = self.limit.saturating_sub(self.sent);
            let lane = &mut self.lanes[number];
            let taken = lane.take(room as u64, credit);
            if let Some((offset, bytes, new)) = taken {
                self.sent += new;
                lane.write(writer, number, offset, bytes);
                wrote(Chunk { lane: number, offset, bytes });
            }
            if from_turns {
                lane.has_turn = false;
                self.give_turn(number);
                // What is left in the turns can be held back by the common window alone.
                skipped = if taken.is_some() { 0 } else { skipped + 1 };
                if skipped > self.turns.len() {
                    return;
                }
            }
        }
    }

    pub(super) fn on_acked(&mut self, chunk: Chunk) {
        let Some(lane) = self.lanes.get_mut(chunk.lane) else { return };
        self.buffered -= lane.acknowledge(chunk.offset, chunk.offset + chunk.bytes);
    }

    /// Queues what was in a packet once more, as far as it has not arrived otherwise.
    pub(super) fn on_lost(&mut self, chunk: Chunk) {
        let Some(lane) = self.lanes.get_mut(chunk.lane) else { return };
        let start = chunk.offset.max(lane.acked_to);
        for gap in lane.acked.gaps(start, chunk.offset + chunk.bytes) {
            lane.lost.insert(gap.0, gap.1);
        }
        self.give_turn(chunk.lane);
    }

    pub(super) fn raise_limit(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    pub(super) fn raise_lane_limit(&mut self, number: u64, limit: u64) {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(lane) = self.lanes.get_mut(number) {
            lane.limit = lane.limit.max(limit);
            self.give_turn(number);
        }
    }

    fn control(&self) -> Option<usize> {
        self.numbers.get(&Lane::Control).copied()
    }

    /// Lines a lane up, if it has something that its own window allows. Lanes beyond the most that a peer allows wait
    /// for ever.
    fn give_turn(&mut self, number: usize) {
        let lane = &mut self.lanes[number];
        let may = lane.has_new() || !lane.lost.is_empty();
        if may && !lane.has_turn && lane.lane != Lane::Control && number < LANES_MAX {
            lane.has_turn = true;
            self.turns.push_back(number);
        }
    }
}

impl SendLane {
    fn new(lane: Lane, limit: u64) -> Self {
        Self {
            lane,
            pieces: VecDeque::new(),
            acked_to: 0,
            acked: Ranges::default(),
            lost: Ranges::default(),
            next: 0,
            end: 0,
            limit,
            has_turn: false,
        }
    }

    fn has_new(&self) -> bool {
        self.next < self.end.min(self.limit)
    }

    /// What goes into a packet next: its offset, its length, and how much of it is sent for the first time.
    fn take(&mut self, room: u64, credit: u64) -> Option<(u64, u64, u64)> {
        if let Some((start, end)) = self.lost.first() {
            let end = end.min(start + room);
            self.lost.remove(start, end);
            return Some((start, end - start, 0));
        }
        let start = self.next;
        let bytes = self.end.min(self.limit).saturating_sub(start).min(room).min(credit);
        self.next += bytes;
        (bytes > 0).then_some((start, bytes, bytes))
    }

    fn write(&self, writer: &mut Writer, number: usize, offset: u64, bytes: u64) {
        let first = self.piece_at(offset);
        let header = ChunkHeader {
            number: number as u64,
            offset,
            sent_ms: self.pieces.get(first).map_or(0, |piece| piece.sent_ms),
            name: (offset == 0).then_some(self.lane),
        };
        writer.chunk(&header, |out| {
            let end = offset + bytes;
            for piece in self.pieces.range(first..) {
                if piece.offset >= end {
                    break;
                }
                let from = offset.saturating_sub(piece.offset) as usize;
                let to = piece.bytes.len().min((end - piece.offset) as usize);
                out.extend_from_slice(&piece.bytes[from..to]);
            }
        });
    }

    /// The place of the piece with the byte at this offset, which is not below `acked_to`.
    fn piece_at(&self, offset: u64) -> usize {
        self.pieces.partition_point(|piece| piece.offset <= offset).saturating_sub(1)
    }

    /// Notes what has arrived: how many bytes need no longer be kept.
    fn acknowledge(&mut self, start: u64, end: u64) -> usize {
        self.lost.remove(start, end);
        if end <= self.acked_to {
            return 0;
        }
        self.acked.insert(start.max(self.acked_to), end);
        let before = self.acked_to;
        while let Some((start, end)) = self.acked.first()
            && start <= self.acked_to
        {
            self.acked_to = self.acked_to.max(end);
            self.acked.pop_first();
        }
        while let Some(piece) = self.pieces.front()
            && piece.offset + piece.bytes.len() as u64 <= self.acked_to
        {
            self.pieces.pop_front();
        }
        (self.acked_to - before) as usize
    }
}
