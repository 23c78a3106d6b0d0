//! What an end puts into packets, and when.

use bytes::Bytes;

use super::recovery::Sent;
use super::sending::Chunk;
use super::size::PACKET_BYTES_MIN;
use super::{Endpoint, Log, Stage};
use crate::network::packet::{
    CHUNK_HEADER_BYTES, HEADER_BYTES, Kind, NUMBER_BYTES, TAG_BYTES, Writer,
};

/// Room for the packets that carry no data, most of them acknowledgements.
const SMALL_PACKET_BYTES: usize = 64;
/// Room for a challenge and an acknowledgement: what can be sent to an unproven address must be at least that.
pub(super) const PROVING_BYTES: usize =
    HEADER_BYTES + NUMBER_BYTES + 1 + TOKEN_BYTES + 32 + TAG_BYTES;
/// A challenge or a response.
const TOKEN_BYTES: usize = 1 + 8;
/// The longest announcement of a lane's window.
const MAX_LANE_BYTES: usize = 1 + 2 + 10;

impl Endpoint {
    /// The next packet to send, if any is due.
    pub(in crate::network) fn transmit(&mut self, now_ms: u64, log: &mut Log<'_>) -> Option<Bytes> {
        match &mut self.stage {
            Stage::Dialling { hello_due, .. } => {
                std::mem::take(hello_due).then(|| self.handshake_packet(Kind::Hello, 0))
            }
            Stage::Answering { answer_due, nonce, .. } => {
                let nonce = *nonce;
                std::mem::take(answer_due).then(|| self.handshake_packet(Kind::Answer, nonce))
            }
            Stage::Closing { packet, due, .. } => std::mem::take(due).then(|| packet.clone()),
            Stage::Open => self.transmit_open(now_ms, log),
            Stage::Draining { .. } | Stage::Gone => None,
        }
    }

    /// As large as the smallest packet that a path must carry.
    fn handshake_packet(&self, kind: Kind, nonce: u64) -> Bytes {
        let size = PACKET_BYTES_MIN;
        let mut writer = self.header(kind).begin(size);
        writer.word(nonce);
        writer.pad_to(size - TAG_BYTES);
        writer.seal(self.hello_key)
    }

    fn transmit_open(&mut self, now_ms: u64, log: &mut Log<'_>) -> Option<Bytes> {
        let size = self.size.bytes().min(self.allowance());
        if size < PROVING_BYTES {
            return None;
        }
        let roomy = size >= PACKET_BYTES_MIN;
        let data = roomy && (self.probes > 0 || self.recovery.may_send()) && self.sending.wants();
        let ack = self.ack_at_ms.is_some_and(|at_ms| now_ms >= at_ms);
        let control = self.ping_due
            || self.response_due.is_some()
            || self.receiving.limit_due
            || !self.receiving.lanes_due.is_empty();
        if data || ack || control {
            let packet = self.write_packet(size, data, now_ms, log);
            if let Some(unproven) = &mut self.unproven {
                unproven.allowance -= packet.len();
            }
            return Some(packet);
        }
        let probe = self.size.probe(now_ms).filter(|_| self.unproven.is_none())?;
        Some(self.write_size_probe(probe, now_ms))
    }

    /// How many bytes may be sent to where the peer seems to be, before it has proven to be there.
    pub(super) fn allowance(&self) -> usize {
        self.unproven.as_ref().map_or(usize::MAX, |unproven| unproven.allowance)
    }

    fn write_packet(&mut self, size: usize, data: bool, now_ms: u64, log: &mut Log<'_>) -> Bytes {
        let capacity = size - TAG_BYTES;
        let mut writer = self.begin_data(if data { size } else { SMALL_PACKET_BYTES });
        let mut sent = Sent {
            at_ms: now_ms,
            bytes: 0,
            chunk: None,
            more_chunks: Vec::new(),
            limit: false,
            lanes: Vec::new(),
            acked: None,
            is_probe: false,
        };
        let mut eliciting = std::mem::take(&mut self.ping_due);
        if eliciting {
            writer.ping();
        }
        if let Some(unproven) = &self.unproven {
            writer.challenge(unproven.token);
            eliciting = true;
        }
        if self.ack_at_ms.take().is_some() {
            self.unacknowledged = 0;
            let delay_ms = now_ms.saturating_sub(self.newest_came_ms);
            writer.ack(&self.numbers, delay_ms, capacity);
            sent.acked = self.numbers.last().map(|last| last.1);
        }
        if let Some(token) = self.response_due
            && writer.len() + TOKEN_BYTES <= capacity
        {
            self.response_due = None;
            writer.response(token);
            eliciting = true;
        }
        if self.receiving.limit_due && writer.len() + MAX_LANE_BYTES <= capacity {
            self.receiving.limit_due = false;
            sent.limit = true;
            writer.max_data(self.receiving.limit());
            eliciting = true;
        }
        while writer.len() + MAX_LANE_BYTES < capacity
            && let Some(number) = self.receiving.lanes_due.pop_first()
        {
            writer.max_lane(number, self.receiving.lane_limit(number));
            sent.lanes.push(number);
            eliciting = true;
        }
        if data {
            let before = self.sending.sent();
            self.sending.fill(&mut writer, capacity, |chunk: Chunk| {
                eliciting = true;
                match sent.chunk {
                    None => sent.chunk = Some(chunk),
                    Some(_) => sent.more_chunks.push(chunk),
                }
            });
            log.tally.data_sent += self.sending.sent() - before;
            self.size.wanted |= capacity <= writer.len() + CHUNK_HEADER_BYTES;
        }
        sent.bytes = writer.len() + TAG_BYTES;
        if eliciting {
            self.probes = self.probes.saturating_sub(1);
            self.on_sent_eliciting(now_ms);
        }
        self.recovery.on_sent(eliciting.then_some(sent));
        writer.seal(self.key)
    }

    fn write_size_probe(&mut self, size: usize, now_ms: u64) -> Bytes {
        let mut writer = self.begin_data(size);
        writer.ping();
        writer.pad_to(size - TAG_BYTES);
        self.size.probing = true;
        self.on_sent_eliciting(now_ms);
        self.recovery.on_sent(Some(Sent {
            at_ms: now_ms,
            bytes: size,
            chunk: None,
            more_chunks: Vec::new(),
            limit: false,
            lanes: Vec::new(),
            acked: None,
            is_probe: true,
        }));
        writer.seal(self.key)
    }

    fn on_sent_eliciting(&mut self, now_ms: u64) {
        self.active_ms = now_ms;
        // The first packet after an arrival gives the peer its time to answer (RFC 9000, 10.1).
        if !std::mem::replace(&mut self.sent_since_heard, true) {
            self.postpone_idle(now_ms);
        }
    }

    pub(super) fn begin_data(&self, capacity: usize) -> Writer {
        let mut writer = self.header(Kind::Data).begin(HEADER_BYTES + capacity + TAG_BYTES);
        writer.number(self.recovery.next_number());
        writer
    }
}
