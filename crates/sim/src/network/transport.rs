//! One end of a connection: a handshake, lanes, acknowledgements, windows and timers over datagrams.

mod config;
mod receiving;
mod recovery;
mod sending;
mod size;
mod transmit;

use std::collections::VecDeque;

use bytes::Bytes;
use rejoin_gossip::wire::{Lane, SPACES_MAX};

use super::packet::{ACK_RANGES_MAX, Frame, Header, Kind, NUMBER_BYTES, Reader, is_sealed, mix};
use super::ranges::Ranges;
use super::{CloseCause, End, NetworkEvent};
use crate::history::NodeIndex;
pub use config::{Reading, TransportConfig};
use receiving::Receiving;
use recovery::{Recovery, Sent};
use sending::Sending;
use size::{PACKET_BYTES_MIN, SizeSearch};
use transmit::PROVING_BYTES;

/// The most lanes in one direction: those of all spaces, and the control lane.
const LANES_MAX: usize = SPACES_MAX + 1;

/// An acknowledgement waits this long for company, unless two packets need one.
const ACK_DELAY_MS: u64 = 20;
const ACK_EVERY: u32 = 2;

/// The first repetition of a hello comes after a second; each further one after twice as long (RFC 9002, 6.2.2).
const HELLO_REPEAT_MS: u64 = 1_000;

/// How many times what came from an unproven address may be sent there (RFC 9000, 8.1).
const UNPROVEN_FACTOR: usize = 3;

/// The longest explanation of a close on the wire.
const REASON_BYTES_MAX: usize = 256;

/// What became of packets at the transport.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Packets whose tag did not fit.
    pub(super) refused: u64,
    /// Packets that had come before.
    pub(super) repeated: u64,
    /// Packets from or for an address that was given up.
    pub(super) wrong_address: u64,
    /// Connections that a reset ended.
    pub(super) resets: u64,
    /// Times that something had to wait because a slow node did not read.
    pub(super) held_back: u64,
    /// Connections that went back to smaller packets.
    pub(super) black_holes: u64,
    /// Bytes of lanes sent, each counted once, and bytes handed to the application.
    pub(super) data_sent: u64,
    pub(super) data_read: u64,
}

/// Where an end tells what happens.
#[derive(Debug)]
pub(super) struct Log<'a> {
    pub(super) events: &'a mut VecDeque<NetworkEvent>,
    pub(super) tally: &'a mut Tally,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Endpoint {
    end: End,
    peer: NodeIndex,
    is_dialler: bool,
    config: TransportConfig,
    /// The key of the handshake, and that of everything after it.
    hello_key: u64,
    key: u64,
    stage: Stage,
    /// Where packets for the peer go.
    pub(super) peer_address: u32,
    unproven: Option<Unproven>,
    reading: Reading,
    pub(super) is_slow: bool,
    /// When the queue of events wakes this end next, and whether it waits to send.
    pub(super) wakes_at_ms: u64,
    pub(super) is_dirty: bool,

    sending: Sending,
    receiving: Receiving,
    recovery: Recovery,

    /// Packet numbers that have arrived, and one more than the highest of all. Those below `numbers_from` are no longer
    /// told apart: whatever comes with one counts as repeated.
    numbers: Ranges,
    numbers_from: u64,
    numbers_to: u64,
    /// Packets that need an acknowledgement, when the first came, and until when it may wait.
    unacknowledged: u32,
    newest_came_ms: u64,
    ack_at_ms: Option<u64>,

    ping_due: bool,
    response_due: Option<u64>,
    /// Packets that may be sent although the congestion window is full, to find out whether the peer is there.
    probes: u32,

    idle_at_ms: u64,
    /// Whether something was sent since the last arrival that needs an acknowledgement.
    sent_since_heard: bool,
    active_ms: u64,

    size: SizeSearch,
}

#[derive(Debug)]
enum Stage {
    /// Hello is repeated until the answer comes.
    Dialling {
        until_ms: u64,
        repeat_at_ms: u64,
        repeat_ms: u64,
        hello_due: bool,
    },
    /// The dialler has said hello, and not yet proven that it has the answer.
    Answering {
        until_ms: u64,
        nonce: u64,
        answer_due: bool,
    },
    Open,
    /// Closed here: whatever comes is answered with the last packet.
    Closing {
        until_ms: u64,
        packet: Bytes,
        due: bool,
        came: u32,
    },
    /// Closed by the peer: whatever comes is late.
    Draining {
        until_ms: u64,
    },
    Gone,
}

/// An address from which the peer was heard, and at which it has not proven to be.
#[derive(Debug)]
struct Unproven {
    token: u64,
    /// How many bytes may still be sent there.
    allowance: usize,
}

impl Endpoint {
    /// The end that dials. It says hello until it is answered.
    pub(super) fn dial(
        end: End,
        peer: NodeIndex,
        config: &TransportConfig,
        hello_key: u64,
        now_ms: u64,
    ) -> Self {
        let stage = Stage::Dialling {
            until_ms: now_ms.saturating_add(config.handshake_timeout_ms),
            repeat_at_ms: now_ms.saturating_add(HELLO_REPEAT_MS),
            repeat_ms: HELLO_REPEAT_MS,
            hello_due: true,
        };
        Self::new(end, peer, config, (true, hello_key), stage, now_ms)
    }

    /// The end to which somebody says hello. `nonce` makes the connection another than any before it.
    pub(super) fn answer(
        end: End,
        peer: NodeIndex,
        config: &TransportConfig,
        hello_key: u64,
        nonce: u64,
        now_ms: u64,
    ) -> Self {
        let until_ms = now_ms.saturating_add(config.handshake_timeout_ms);
        let stage = Stage::Answering { until_ms, nonce, answer_due: true };
        let mut endpoint = Self::new(end, peer, config, (false, hello_key), stage, now_ms);
        endpoint.key = mix(hello_key, nonce);
        endpoint
    }

    fn new(
        end: End,
        peer: NodeIndex,
        config: &TransportConfig,
        (is_dialler, hello_key): (bool, u64),
        stage: Stage,
        now_ms: u64,
    ) -> Self {
        let (lane_window, window) = (config.lane_window_bytes, config.connection_window_bytes);
        Self {
            end,
            peer,
            is_dialler,
            config: config.clone(),
            hello_key,
            key: 0,
            stage,
            peer_address: 0,
            unproven: None,
            reading: config.reading,
            is_slow: false,
            wakes_at_ms: u64::MAX,
            is_dirty: false,
            sending: Sending::new(lane_window, window),
            receiving: Receiving::new(lane_window, window),
            recovery: Recovery::new(),
            numbers: Ranges::default(),
            numbers_from: 0,
            numbers_to: 0,
            unacknowledged: 0,
            newest_came_ms: now_ms,
            ack_at_ms: None,
            ping_due: false,
            response_due: None,
            probes: 0,
            idle_at_ms: u64::MAX,
            sent_since_heard: false,
            active_ms: now_ms,
            size: SizeSearch::new(now_ms),
        }
    }

    /// Which end it is.
    pub(super) fn end(&self) -> End {
        self.end
    }

    /// The node at the other end.
    pub(super) fn peer(&self) -> NodeIndex {
        self.peer
    }

    /// Whether nothing of it is left.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.stage, Stage::Gone)
    }

    /// Whether the application may use it.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    pub(super) fn buffered(&self) -> usize {
        self.sending.buffered()
    }

    pub(super) fn unread(&self) -> usize {
        self.receiving.unread()
    }

    /// Queues bytes of a lane. Before the connection is open they wait; after its end they vanish.
    pub(super) fn send(&mut self, lane: Lane, bytes: Bytes, now_ms: u64) {
        if matches!(self.stage, Stage::Dialling { .. } | Stage::Open) {
            self.sending.push(lane, bytes, now_ms);
        }
    }

    /// Sets what is read from now on, and reads it.
    pub(super) fn read(&mut self, reading: Option<Reading>, slow: bool, log: &mut Log<'_>) {
        self.reading = reading.unwrap_or(self.reading);
        self.is_slow = slow;
        for number in 0..self.receiving.lanes() {
            self.deliver(number, log);
        }
    }

    /// Ends the connection. What is not sent yet never will be.
    pub(super) fn close(&mut self, code: u32, reason: &str, now_ms: u64) {
        self.stage = match self.stage {
            Stage::Open => {
                let mut cut = reason.len().min(REASON_BYTES_MAX);
                while !reason.is_char_boundary(cut) {
                    cut -= 1;
                }
                let mut writer = self.begin_data(NUMBER_BYTES + REASON_BYTES_MAX);
                writer.close(code, &reason[..cut]);
                let packet = writer.seal(self.key);
                let until_ms = now_ms.saturating_add(self.linger_ms());
                Stage::Closing { until_ms, packet, due: true, came: 0 }
            }
            _ => Stage::Gone,
        };
        self.release();
    }

    /// When to call [`wake`](Self::wake).
    pub(super) fn deadline_ms(&self) -> u64 {
        match &self.stage {
            Stage::Dialling { until_ms, repeat_at_ms, .. } => *until_ms.min(repeat_at_ms),
            Stage::Answering { until_ms, .. }
            | Stage::Closing { until_ms, .. }
            | Stage::Draining { until_ms } => *until_ms,
            Stage::Open => {
                let keep_alive_at = self.active_ms.saturating_add(self.config.keep_alive_ms);
                let first = self.idle_at_ms.min(keep_alive_at);
                if self.allowance() < PROVING_BYTES {
                    return first;
                }
                let timers = [
                    self.ack_at_ms,
                    self.recovery.loss_at_ms(),
                    self.recovery.probe_at_ms(ACK_DELAY_MS),
                ];
                timers.into_iter().flatten().fold(first, u64::min)
            }
            Stage::Gone => u64::MAX,
        }
    }

    /// Does what time demands.
    pub(super) fn wake(&mut self, now_ms: u64, log: &mut Log<'_>) {
        match &mut self.stage {
            Stage::Dialling { until_ms, repeat_at_ms, repeat_ms, hello_due } => {
                if now_ms >= *until_ms {
                    return self.end_with(CloseCause::HandshakeTimeout, log);
                }
                if now_ms >= *repeat_at_ms {
                    *repeat_ms *= 2;
                    *repeat_at_ms = now_ms.saturating_add(*repeat_ms);
                    *hello_due = true;
                }
            }
            Stage::Answering { until_ms, .. }
            | Stage::Closing { until_ms, .. }
            | Stage::Draining { until_ms } => {
                if now_ms >= *until_ms {
                    self.stage = Stage::Gone;
                }
            }
            Stage::Open => self.wake_open(now_ms, log),
            Stage::Gone => {}
        }
    }

    fn wake_open(&mut self, now_ms: u64, log: &mut Log<'_>) {
        if now_ms >= self.idle_at_ms {
            return self.end_with(CloseCause::IdleTimeout, log);
        }
        if self.recovery.loss_at_ms().is_some_and(|at_ms| now_ms >= at_ms) {
            let mut lost = Vec::new();
            self.recovery.detect(now_ms, &mut lost);
            self.on_lost(&lost, now_ms, log);
        }
        if self.recovery.probe_at_ms(ACK_DELAY_MS).is_some_and(|at_ms| now_ms >= at_ms) {
            self.on_silence(now_ms, log);
        }
        if now_ms >= self.active_ms.saturating_add(self.config.keep_alive_ms) {
            self.active_ms = now_ms;
            self.ping_due = true;
        }
    }

    /// Nothing has come back in time: sends the oldest that waits once more, as what asks for an answer.
    fn on_silence(&mut self, now_ms: u64, log: &mut Log<'_>) {
        self.recovery.on_silence();
        self.probes = 2;
        self.ping_due = true;
        let mut large = false;
        for sent in self.recovery.oldest().take(2) {
            large |= sent.bytes > PACKET_BYTES_MIN && !sent.is_probe;
            for chunk in sent.chunks() {
                self.sending.on_lost(chunk);
            }
            self.receiving.limit_due |= sent.limit;
            self.receiving.lanes_due.extend(&sent.lanes);
        }
        if large && self.recovery.tries() >= 2 && self.size.shrink(now_ms) {
            log.tally.black_holes += 1;
        }
    }

    /// Takes in a packet that came from `address` and whose header says that it is for this end.
    pub(super) fn receive(
        &mut self,
        kind: Kind,
        packet: &Bytes,
        address: u32,
        fresh: u64,
        now_ms: u64,
        log: &mut Log<'_>,
    ) {
        let key = match kind {
            Kind::Hello | Kind::Answer => self.hello_key,
            Kind::Data => self.key,
            Kind::Reset => reset_key(self.hello_key, self.peer),
        };
        if self.config.verify_tags && !is_sealed(key, packet) {
            log.tally.refused += 1;
            return;
        }
        match (kind, &mut self.stage) {
            (Kind::Hello, Stage::Answering { answer_due, .. }) => {
                *answer_due = true;
                self.peer_address = address;
            }
            (Kind::Answer, Stage::Dialling { .. }) => self.on_answer(packet, now_ms, log),
            (Kind::Data, Stage::Answering { .. } | Stage::Open) => {
                self.on_data(packet, address, fresh, now_ms, log);
            }
            (Kind::Data, Stage::Closing { due, came, .. }) => {
                *came += 1;
                *due |= came.is_power_of_two();
            }
            (Kind::Reset, Stage::Open) => {
                log.tally.resets += 1;
                self.end_with(CloseCause::Reset, log);
            }
            (Kind::Reset, Stage::Answering { .. } | Stage::Closing { .. }) => {
                self.stage = Stage::Gone;
            }
            _ => {}
        }
    }

    fn on_answer(&mut self, packet: &Bytes, now_ms: u64, log: &mut Log<'_>) {
        let Some(nonce) = Reader::new(packet).word() else { return };
        self.key = mix(self.hello_key, nonce);
        let said_ms = now_ms.saturating_sub(self.active_ms);
        let said_once = matches!(self.stage, Stage::Dialling { repeat_ms: HELLO_REPEAT_MS, .. });
        if said_once {
            self.recovery.measured(said_ms);
        }
        self.open(now_ms);
        // Even if there is nothing to say, the peer waits for a sign that its answer has come.
        self.ping_due = true;
        log.events.push_back(NetworkEvent::Connected { end: self.end, peer: self.peer });
    }

    fn open(&mut self, now_ms: u64) {
        self.stage = Stage::Open;
        self.active_ms = now_ms;
        self.size = SizeSearch::new(now_ms);
        self.postpone_idle(now_ms);
    }

    fn on_data(
        &mut self,
        packet: &Bytes,
        address: u32,
        fresh: u64,
        now_ms: u64,
        log: &mut Log<'_>,
    ) {
        let mut reader = Reader::new(packet);
        let Some(number) = reader.number() else { return };
        if address != self.peer_address && self.is_dialler {
            // As in QUIC, only the end that dialled may move.
            log.tally.wrong_address += 1;
            return;
        }
        if number < self.numbers_from || self.numbers.contains(number) {
            log.tally.repeated += 1;
            return;
        }
        if matches!(self.stage, Stage::Answering { .. }) {
            self.open(now_ms);
            log.events.push_back(NetworkEvent::Incoming { end: self.end, peer: self.peer });
        }
        let (newest, in_order) = (number >= self.numbers_to, number == self.numbers_to);
        self.numbers_to = self.numbers_to.max(number + 1);
        self.numbers.insert(number, number + 1);
        if self.numbers.len() > ACK_RANGES_MAX
            && let Some((_, end)) = self.numbers.pop_first()
        {
            self.numbers_from = self.numbers_from.max(end);
        }
        if newest {
            self.newest_came_ms = now_ms;
            if address != self.peer_address {
                self.peer_address = address;
                self.unproven = Some(Unproven { token: fresh, allowance: 0 });
                self.ping_due = true;
                self.recovery.on_new_path();
                self.size = SizeSearch::new(now_ms);
            }
        }
        if address == self.peer_address
            && let Some(unproven) = &mut self.unproven
        {
            unproven.allowance += UNPROVEN_FACTOR * packet.len();
        }
        self.active_ms = now_ms;
        self.sent_since_heard = false;
        self.postpone_idle(now_ms);
        let mut eliciting = false;
        while let Some(frame) = reader.frame() {
            eliciting |= !matches!(frame, Frame::Ack { .. } | Frame::Close(..));
            self.on_frame(frame, now_ms, log);
        }
        if eliciting && self.is_open() {
            self.unacknowledged += 1;
            let at_once = !in_order || self.unacknowledged >= ACK_EVERY;
            let at_ms = if at_once { now_ms } else { now_ms + ACK_DELAY_MS };
            self.ack_at_ms = Some(self.ack_at_ms.map_or(at_ms, |earlier| earlier.min(at_ms)));
        }
    }

    fn on_frame(&mut self, frame: Frame, now_ms: u64, log: &mut Log<'_>) {
        match frame {
            Frame::Ping => {}
            Frame::Ack { delay_ms, ranges } => self.on_ack(&ranges, delay_ms, now_ms, log),
            Frame::Chunk(header, bytes) => {
                if let Some(number) = self.receiving.insert(&header, bytes) {
                    self.deliver(number, log);
                }
            }
            Frame::MaxData(limit) => self.sending.raise_limit(limit),
            Frame::MaxLane(number, limit) => self.sending.raise_lane_limit(number, limit),
            Frame::Challenge(token) => self.response_due = Some(token),
            Frame::Response(token) => {
                if self.unproven.as_ref().is_some_and(|unproven| unproven.token == token) {
                    self.unproven = None;
                }
            }
            Frame::Close(code, reason) => {
                if self.is_open() {
                    let until_ms = now_ms.saturating_add(self.linger_ms());
                    self.end_with(CloseCause::Peer { code, reason }, log);
                    self.stage = Stage::Draining { until_ms };
                }
            }
        }
    }

    fn on_ack(&mut self, ranges: &[(u64, u64)], delay_ms: u64, now_ms: u64, log: &mut Log<'_>) {
        let (mut arrived, mut lost) = (Vec::new(), Vec::new());
        self.recovery.on_ack(ranges, delay_ms, now_ms, &mut arrived, &mut lost);
        for sent in &arrived {
            for chunk in sent.chunks() {
                self.sending.on_acked(chunk);
            }
            self.size.on_arrived(sent);
            // The peer knows of all numbers up to there: they need not be told again.
            if let Some(acked) = sent.acked {
                self.numbers.remove(0, acked);
                self.numbers_from = self.numbers_from.max(acked);
            }
        }
        self.on_lost(&lost, now_ms, log);
    }

    fn on_lost(&mut self, lost: &[Sent], now_ms: u64, log: &mut Log<'_>) {
        for sent in lost {
            for chunk in sent.chunks() {
                self.sending.on_lost(chunk);
            }
            self.receiving.limit_due |= sent.limit;
            self.receiving.lanes_due.extend(&sent.lanes);
            if self.size.on_lost(sent, now_ms) {
                log.tally.black_holes += 1;
            }
        }
    }

    /// Hands over what can be read of a lane.
    fn deliver(&mut self, number: usize, log: &mut Log<'_>) {
        if !self.is_open() {
            return;
        }
        while let Some(lane) = self.receiving.readable(number) {
            if !self.reading.includes(lane) {
                return;
            }
            if self.is_slow {
                log.tally.held_back += 1;
                return;
            }
            let Some((lane, bytes, sent_ms)) = self.receiving.read(number) else { return };
            log.tally.data_read += bytes.len() as u64;
            log.events.push_back(NetworkEvent::Received { end: self.end, lane, bytes, sent_ms });
        }
    }

    fn header(&self, kind: Kind) -> Header {
        Header { kind, to_dialler: !self.is_dialler, connection: self.end.connection.0 }
    }

    fn postpone_idle(&mut self, now_ms: u64) {
        let patience_ms = self.recovery.patience_ms(ACK_DELAY_MS).saturating_mul(3);
        self.idle_at_ms = now_ms.saturating_add(self.config.idle_timeout_ms.max(patience_ms));
    }

    /// How long to remember a closed connection (RFC 9000, 10.2).
    fn linger_ms(&self) -> u64 {
        self.recovery.patience_ms(ACK_DELAY_MS).saturating_mul(3)
    }

    fn end_with(&mut self, why: CloseCause, log: &mut Log<'_>) {
        self.stage = Stage::Gone;
        self.release();
        log.events.push_back(NetworkEvent::Closed { end: self.end, peer: self.peer, why });
    }

    /// Lets go of everything that is buffered.
    fn release(&mut self) {
        self.sending = Sending::new(0, 0);
        self.receiving = Receiving::new(0, 0);
        self.recovery = Recovery::new();
    }
}

/// The key that seals the resets of a node for one connection.
pub(super) fn reset_key(hello_key: u64, node: NodeIndex) -> u64 {
    mix(hello_key, !(node as u64))
}
