//! The simulated network: datagrams that are lost, doubled, held up, damaged and cut off, and on top of them a
//! transport that promises what QUIC promises, and no more.
//!
//! Everything that the transport does, it does with packets that pass through [links](LinkConditions); nothing is told
//! to the other end behind their back. What holds, therefore, and what does not, is what holds for QUIC:
//!
//! - Each lane is a stream of bytes that arrive in order and once. Lanes do not wait for each other.
//! - Nothing that was damaged on its way is delivered, as every packet bears a tag.
//! - Windows bound what is under way and unread, for each lane and for each connection.
//! - That bytes were sent says nothing: the connection may end before they arrive, or after that and before the sender
//!   knows of it. The two ends of a connection learn of its end at different times.
//! - Only the end that dialled can move to another address. If the other one does, the connection dies.
//!
//! QUIC itself is not run here: its cryptography would take most of the time, and find nothing in what is tested.

mod event;
mod link;
mod packet;
mod ranges;
mod transport;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use bytes::Bytes;
use rejoin_gossip::wire::Lane;

use crate::history::NodeIndex;
use crate::random::Random;
use link::{Faults, Link};
use packet::{Header, Kind, is_sealed, mix};
use transport::{Endpoint, Log, Tally, reset_key};

pub use event::{CloseCause, ConnectionId, End, NetworkEvent};
pub use link::{Bursts, Latency, LinkConditions};
pub use transport::{Reading, TransportConfig};

/// All nodes' links and transports.
///
/// # Driving contract
///
/// The world owns the clock, which never goes back, and:
///
/// - calls **[`next_at_ms`](Self::next_at_ms)** for when something happens next, which may be at once after any call;
/// - calls **[`poll`](Self::poll)** at that time until it returns `None`, and handles each event before it polls on: what
///   is sent in answer goes along with the acknowledgement;
/// - calls [`dial`](Self::dial), [`send`](Self::send), [`close`](Self::close) and
///   [`set_reading`](Self::set_reading) on behalf of nodes that are up and not paused, and everything else whenever it
///   likes;
/// - stops using an end once it has closed it, got [`NetworkEvent::Closed`] for it, or called
///   [`forget_node`](Self::forget_node) for its node. Calls for an end that is gone do nothing.
///
/// A new end reads what [`TransportConfig::reading`] says: at first only the control lane.
#[derive(Debug)]
pub struct Network {
    config: TransportConfig,
    random: Random,
    secret: u64,
    links: Vec<Link>,
    nodes: Vec<Node>,
    pairs: Vec<Pair>,
    queue: BinaryHeap<Reverse<Due>>,
    order: u64,
    /// Datagrams under way, and the places among them that are free.
    flying: Vec<Option<Datagram>>,
    free: Vec<u32>,
    /// Ends that may have something to send.
    dirty: VecDeque<u32>,
    events: VecDeque<NetworkEvent>,
    now_ms: u64,
    faults: Faults,
    tally: Tally,
    packets: u64,
    swallowed: u64,
    overflowed: u64,
    hash: u64,
}

#[derive(Debug)]
struct Node {
    up: bool,
    paused: bool,
    slow: bool,
    address: u32,
    /// Its ends, as numbers of [`Pair`]s doubled, and one more for the one that did not dial.
    ends: BTreeSet<u32>,
    /// What has come while it is paused.
    waiting: Vec<Datagram>,
    waiting_bytes: usize,
}

/// The two ends of a connection: the one that dialled, and the other.
#[derive(Debug)]
struct Pair {
    nodes: [NodeIndex; 2],
    ends: [Option<Box<Endpoint>>; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at_ms: u64,
    order: u64,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// The datagram in this place arrives.
    Arrive(u32),
    /// This end wants to be woken.
    Wake(u32),
}

#[derive(Debug)]
struct Datagram {
    from: NodeIndex,
    to: NodeIndex,
    from_address: u32,
    to_address: u32,
    bytes: Bytes,
}

impl Network {
    /// A network of so many nodes, all up, each with a link to every other that has the default
    /// [`LinkConditions`].
    pub fn new(mut random: Random, nodes: usize, config: TransportConfig) -> Self {
        let secret = random.next_u64();
        let links = (0..nodes * nodes).map(|_| Link::new(random.fork("link"))).collect();
        let node = || Node {
            up: true,
            paused: false,
            slow: false,
            address: 0,
            ends: BTreeSet::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
        };
        Self {
            config,
            random,
            secret,
            links,
            nodes: (0..nodes).map(|_| node()).collect(),
            pairs: Vec::new(),
            queue: BinaryHeap::new(),
            order: 0,
            flying: Vec::new(),
            free: Vec::new(),
            dirty: VecDeque::new(),
            events: VecDeque::new(),
            now_ms: 0,
            faults: Faults::default(),
            tally: Tally::default(),
            packets: 0,
            swallowed: 0,
            overflowed: 0,
            hash: 0,
        }
    }

    /// How the direction from one node to another treats datagrams.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn link(&self, from: NodeIndex, to: NodeIndex) -> &LinkConditions {
        &self.links[from * self.nodes.len() + to].conditions
    }

    /// Changes how the direction from one node to another treats datagrams.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn set_link(&mut self, from: NodeIndex, to: NodeIndex, conditions: LinkConditions) {
        let link = from * self.nodes.len() + to;
        self.links[link].set(conditions);
    }

    /// Gives a node another address: what is under way to the old one is lost, and so is what is sent there until the
    /// peer hears from the new one, which it does only over connections that the node dialled.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn change_address(&mut self, node: NodeIndex) {
        self.nodes[node].address += 1;
    }

    /// Switches a node on or off. One that is off neither sends nor hears, and its timers stand still; what it has in
    /// memory stays unless [`forget_node`](Self::forget_node) takes it.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn set_node_up(&mut self, node: NodeIndex, up: bool, now_ms: u64) {
        self.tick(now_ms);
        self.nodes[node].up = up;
        if !up {
            self.drop_waiting(node);
        }
        self.resume(node);
    }

    /// Holds a node still, or lets it go on: then it handles first what came meanwhile, as far as it was kept
    /// ([`TransportConfig::socket_bytes`]), and then its timers.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn pause(&mut self, node: NodeIndex, paused: bool, now_ms: u64) {
        self.tick(now_ms);
        self.nodes[node].paused = paused;
        self.resume(node);
    }

    /// Takes a node's connections away, as when its process dies: without a word to anyone. Whether it is up, paused or
    /// slow stays as it was.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn forget_node(&mut self, node: NodeIndex) {
        for index in std::mem::take(&mut self.nodes[node].ends) {
            self.pairs[index as usize / 2].ends[index as usize % 2] = None;
        }
        self.drop_waiting(node);
        self.events.retain(|event| event.end().node != node);
    }

    /// Makes a node read nothing on any connection, or as before.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn set_slow(&mut self, node: NodeIndex, slow: bool, now_ms: u64) {
        self.tick(now_ms);
        self.nodes[node].slow = slow;
        let ends: Vec<u32> = self.nodes[node].ends.iter().copied().collect();
        for index in ends {
            self.with_end(index, |endpoint, log| endpoint.read(None, slow, log));
        }
    }

    /// Begins a connection. [`NetworkEvent::Connected`] or [`NetworkEvent::Closed`] follows; what is sent before is sent
    /// then.
    ///
    /// # Panics
    ///
    /// If there is no such node, or it is the same.
    pub fn dial(&mut self, from: NodeIndex, to: NodeIndex, now_ms: u64) -> ConnectionId {
        assert!(from != to && to < self.nodes.len(), "no node {to} to dial from {from}");
        self.tick(now_ms);
        let connection = ConnectionId(self.pairs.len() as u32);
        let end = End { connection, node: from };
        let key = self.hello_key(connection);
        let mut endpoint = Endpoint::dial(end, to, &self.config, key, self.now_ms);
        endpoint.peer_address = self.nodes[to].address;
        self.pairs.push(Pair { nodes: [from, to], ends: [None, None] });
        self.install(connection.0 * 2, endpoint);
        connection
    }

    /// Queues bytes for a lane.
    pub fn send(&mut self, end: End, lane: Lane, bytes: Bytes, now_ms: u64) {
        self.tick(now_ms);
        if let Some(index) = self.index(end) {
            let now_ms = self.now_ms;
            self.with_end(index, |endpoint, _| endpoint.send(lane, bytes, now_ms));
        }
    }

    /// Ends a connection at once. What was not sent or read yet is gone. The peer hears of it by a packet, if that
    /// arrives; else when it gets no answer, or when it is told that nobody knows the connection.
    pub fn close(&mut self, end: End, code: u32, reason: &str, now_ms: u64) {
        self.tick(now_ms);
        if let Some(index) = self.index(end) {
            let now_ms = self.now_ms;
            self.with_end(index, |endpoint, _| endpoint.close(code, reason, now_ms));
            self.events.retain(|event| event.end() != end);
        }
    }

    /// Sets what an end reads.
    pub fn set_reading(&mut self, end: End, reading: Reading, now_ms: u64) {
        self.tick(now_ms);
        if let Some(index) = self.index(end) {
            let slow = self.nodes[end.node].slow;
            self.with_end(index, |endpoint, log| endpoint.read(Some(reading), slow, log));
        }
    }

    /// Whether bytes can be sent and received at this end now.
    pub fn is_open(&self, end: End) -> bool {
        self.endpoint(end).is_some_and(Endpoint::is_open)
    }

    /// How many bytes of this end wait to be sent, or to be acknowledged.
    pub fn buffered(&self, end: End) -> usize {
        self.endpoint(end).map_or(0, Endpoint::buffered)
    }

    /// How many bytes have arrived at this end and were not read.
    pub fn unread(&self, end: End) -> usize {
        self.endpoint(end).map_or(0, Endpoint::unread)
    }

    /// The ends that a node holds, closed ones that linger included.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn ends(&self, node: NodeIndex) -> impl Iterator<Item = End> + '_ {
        let connection = |index: &u32| ConnectionId(index / 2);
        self.nodes[node].ends.iter().map(move |index| End { connection: connection(index), node })
    }

    /// When to call [`poll`](Self::poll) next; `None` if nothing will ever happen by itself.
    pub fn next_at_ms(&self) -> Option<u64> {
        if self.events.is_empty() && self.dirty.is_empty() {
            self.queue.peek().map(|Reverse(due)| due.at_ms)
        } else {
            Some(self.now_ms)
        }
    }

    /// Lets time pass until a node learns something, at most until `now_ms`: what it learns, or `None` if nothing more
    /// happens by then.
    pub fn poll(&mut self, now_ms: u64) -> Option<NetworkEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                self.note(&event);
                return Some(event);
            }
            if let Some(index) = self.dirty.pop_front() {
                self.flush(index);
                continue;
            }
            if self.queue.peek().is_none_or(|Reverse(due)| due.at_ms > now_ms) {
                self.tick(now_ms);
                return None;
            }
            let Reverse(due) = self.queue.pop()?;
            self.tick(due.at_ms);
            match due.what {
                What::Arrive(place) => {
                    if let Some(datagram) = self.flying[place as usize].take() {
                        self.free.push(place);
                        self.arrive(datagram);
                    }
                }
                What::Wake(index) => self.wake(index, due.at_ms),
            }
        }
    }

    /// Everything that [`poll`](Self::poll) returns until there is nothing more by `now_ms`.
    pub fn advance(&mut self, now_ms: u64) -> Vec<NetworkEvent> {
        std::iter::from_fn(|| self.poll(now_ms)).collect()
    }

    /// How often faults of each class have taken effect.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let Self { faults, tally, .. } = self;
        BTreeMap::from([
            ("net: lost", faults.lost),
            ("net: duplicated", faults.duplicated),
            ("net: reordered", faults.reordered),
            ("net: corrupted", faults.corrupted),
            ("net: cut off", faults.cut_off),
            ("net: rate limited", faults.rate_limited),
            ("net: too large", faults.too_large),
            ("net: address change", tally.wrong_address),
            ("net: slow reader", tally.held_back),
            ("net: reset", tally.resets),
            ("net: node down", self.swallowed),
            ("net: socket full", self.overflowed),
        ])
    }

    /// How many datagrams were sent.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// How many datagrams are under way, or wait at paused nodes.
    pub fn in_flight(&self) -> usize {
        let waiting: usize = self.nodes.iter().map(|node| node.waiting.len()).sum();
        self.flying.len() - self.free.len() + waiting
    }

    /// How many packets were dropped because their tag did not fit.
    pub fn packets_refused(&self) -> u64 {
        self.tally.refused
    }

    /// How many packets were dropped because they had come before.
    pub fn packets_repeated(&self) -> u64 {
        self.tally.repeated
    }

    /// How many bytes of lanes were sent, repetitions not counted. It stands still once the nodes fall silent, and keeps
    /// to that whatever the transport does to keep its connections alive.
    pub fn data_bytes_sent(&self) -> u64 {
        self.tally.data_sent
    }

    /// How many bytes of lanes were handed to nodes.
    pub fn data_bytes_received(&self) -> u64 {
        self.tally.data_read
    }

    /// Whether nothing of any lane waits to be sent, acknowledged or read.
    pub fn is_silent(&self) -> bool {
        let mut ends = (0..self.nodes.len()).flat_map(|node| self.ends(node));
        ends.all(|end| self.buffered(end) == 0 && self.unread(end) == 0)
    }

    /// Adds to a hash what tells this run from any other: every datagram that arrived, every event, and when.
    pub fn trace_into(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&self.hash.to_le_bytes());
        for count in [self.packets, self.tally.data_sent, self.tally.data_read] {
            hasher.update(&count.to_le_bytes());
        }
        for (class, count) in self.counts() {
            hasher.update(class.as_bytes());
            hasher.update(&count.to_le_bytes());
        }
    }

    fn tick(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    fn hello_key(&self, connection: ConnectionId) -> u64 {
        mix(self.secret, u64::from(connection.0))
    }

    fn is_running(&self, node: NodeIndex) -> bool {
        self.nodes[node].up && !self.nodes[node].paused
    }

    fn index(&self, end: End) -> Option<u32> {
        let pair = self.pairs.get(end.connection.0 as usize)?;
        let side = pair.nodes.iter().position(|node| *node == end.node)?;
        Some(end.connection.0 * 2 + side as u32)
    }

    fn endpoint(&self, end: End) -> Option<&Endpoint> {
        let index = self.index(end)? as usize;
        self.pairs[index / 2].ends[index % 2].as_deref()
    }

    fn install(&mut self, index: u32, mut endpoint: Endpoint) {
        let node = endpoint.end().node;
        endpoint.is_slow = self.nodes[node].slow;
        self.nodes[node].ends.insert(index);
        self.pairs[index as usize / 2].ends[index as usize % 2] = Some(Box::new(endpoint));
        self.with_end(index, |_, _| {});
    }

    /// Does something with an end that is there, and lets it send what follows from that.
    fn with_end(&mut self, index: u32, act: impl FnOnce(&mut Endpoint, &mut Log<'_>)) {
        let Self { pairs, events, tally, dirty, nodes, .. } = self;
        let slot = &mut pairs[index as usize / 2].ends[index as usize % 2];
        let Some(endpoint) = slot else { return };
        act(endpoint, &mut Log { events, tally });
        if endpoint.is_gone() {
            nodes[endpoint.end().node].ends.remove(&index);
            *slot = None;
        } else if !std::mem::replace(&mut endpoint.is_dirty, true) {
            dirty.push_back(index);
        }
    }

    /// Sends what an end has to send, and sees that it is woken in time.
    fn flush(&mut self, index: u32) {
        loop {
            let Some(endpoint) = &mut self.pairs[index as usize / 2].ends[index as usize % 2]
            else {
                return;
            };
            endpoint.is_dirty = false;
            let (from, to) = (endpoint.end().node, endpoint.peer());
            if !self.nodes[from].up || self.nodes[from].paused {
                return;
            }
            let mut log = Log { events: &mut self.events, tally: &mut self.tally };
            let Some(bytes) = endpoint.transmit(self.now_ms, &mut log) else {
                let at_ms = endpoint.deadline_ms();
                if at_ms < endpoint.wakes_at_ms {
                    endpoint.wakes_at_ms = at_ms;
                    self.schedule(at_ms, What::Wake(index));
                }
                return;
            };
            let to_address = endpoint.peer_address;
            self.launch(from, to, to_address, bytes);
        }
    }

    fn schedule(&mut self, at_ms: u64, what: What) {
        self.order += 1;
        self.queue.push(Reverse(Due { at_ms, order: self.order, what }));
    }

    fn launch(&mut self, from: NodeIndex, to: NodeIndex, to_address: u32, bytes: Bytes) {
        self.packets += 1;
        let from_address = self.nodes[from].address;
        let Self { links, faults, flying, free, queue, order, nodes, .. } = self;
        links[from * nodes.len() + to].send(bytes, self.now_ms, faults, |bytes, at_ms| {
            let datagram = Datagram { from, to, from_address, to_address, bytes };
            let place = free.pop().unwrap_or_else(|| {
                flying.push(None);
                flying.len() as u32 - 1
            });
            flying[place as usize] = Some(datagram);
            *order += 1;
            queue.push(Reverse(Due { at_ms, order: *order, what: What::Arrive(place) }));
        });
    }

    fn wake(&mut self, index: u32, at_ms: u64) {
        let slot = &mut self.pairs[index as usize / 2].ends[index as usize % 2];
        let Some(endpoint) = slot else { return };
        // An earlier time may have been set since, and a connection of old may have gone.
        if endpoint.wakes_at_ms != at_ms {
            return;
        }
        endpoint.wakes_at_ms = u64::MAX;
        let node = endpoint.end().node;
        let is_due = endpoint.deadline_ms() <= at_ms;
        // A node that stands still wakes all its ends when it goes on.
        if self.is_running(node) {
            let now_ms = self.now_ms;
            self.with_end(index, |endpoint, log| {
                if is_due {
                    endpoint.wake(now_ms, log);
                }
            });
        }
    }

    /// Lets a node go on, if nothing holds it still any more.
    fn resume(&mut self, node: NodeIndex) {
        if !self.is_running(node) {
            return;
        }
        self.nodes[node].waiting_bytes = 0;
        for datagram in std::mem::take(&mut self.nodes[node].waiting) {
            self.handle(&datagram);
        }
        let ends: Vec<u32> = self.nodes[node].ends.iter().copied().collect();
        for index in ends {
            let now_ms = self.now_ms;
            self.with_end(index, |endpoint, log| {
                if endpoint.deadline_ms() <= now_ms {
                    endpoint.wake(now_ms, log);
                }
            });
        }
    }

    fn drop_waiting(&mut self, node: NodeIndex) {
        self.swallowed += self.nodes[node].waiting.len() as u64;
        self.nodes[node].waiting.clear();
        self.nodes[node].waiting_bytes = 0;
    }

    fn arrive(&mut self, datagram: Datagram) {
        let Datagram { from, to, to_address, .. } = datagram;
        let is_cut = !self.link(from, to).up;
        let node = &mut self.nodes[to];
        if is_cut {
            self.faults.cut_off += 1;
        } else if to_address != node.address {
            self.tally.wrong_address += 1;
        } else if !node.up {
            self.swallowed += 1;
        } else if node.paused {
            if node.waiting_bytes + datagram.bytes.len() > self.config.socket_bytes {
                self.overflowed += 1;
            } else {
                node.waiting_bytes += datagram.bytes.len();
                node.waiting.push(datagram);
            }
        } else {
            self.handle(&datagram);
        }
    }

    /// Gives a datagram to the end that it is for, or answers it without one.
    fn handle(&mut self, datagram: &Datagram) {
        let Datagram { from, to, from_address, bytes, .. } = datagram;
        let fingerprint = bytes.last_chunk().map_or(0, |tag| u64::from_le_bytes(*tag));
        self.hash = mix(self.hash ^ fingerprint, self.now_ms << 16 ^ (from << 8 ^ to) as u64);
        let Some(header) = Header::read(bytes) else { return };
        let connection = ConnectionId(header.connection);
        let nodes = if header.to_dialler { [*to, *from] } else { [*from, *to] };
        let side = usize::from(!header.to_dialler);
        let pair = self.pairs.get(header.connection as usize).filter(|pair| pair.nodes == nodes);
        let is_there = pair.is_some_and(|pair| pair.ends[side].is_some());
        let is_dialled = pair.is_some();
        if is_there {
            let (fresh, now_ms) = (mix(self.secret, self.order), self.now_ms);
            self.with_end(connection.0 * 2 + side as u32, |endpoint, log| {
                endpoint.receive(header.kind, bytes, *from_address, fresh, now_ms, log);
            });
            return;
        }
        let key = self.hello_key(connection);
        match header.kind {
            Kind::Hello if is_dialled && !header.to_dialler => {
                if self.config.verify_tags && !is_sealed(key, bytes) {
                    self.tally.refused += 1;
                    return;
                }
                let (end, nonce) = (End { connection, node: *to }, self.random.next_u64());
                let mut endpoint =
                    Endpoint::answer(end, *from, &self.config, key, nonce, self.now_ms);
                endpoint.peer_address = *from_address;
                self.install(connection.0 * 2 + 1, endpoint);
            }
            Kind::Answer | Kind::Data => {
                let header = Header {
                    kind: Kind::Reset,
                    to_dialler: !header.to_dialler,
                    connection: header.connection,
                };
                let packet = header.begin(RESET_BYTES).seal(reset_key(key, *to));
                self.launch(*to, *from, *from_address, packet);
            }
            Kind::Hello | Kind::Reset => {}
        }
    }

    /// Takes an event into the hash.
    fn note(&mut self, event: &NetworkEvent) {
        let End { connection, node } = event.end();
        let what = match event {
            NetworkEvent::Connected { .. } => 1,
            NetworkEvent::Incoming { .. } => 2,
            NetworkEvent::Received { bytes, .. } => 3 + ((bytes.len() as u64) << 8),
            NetworkEvent::Closed { .. } => 4,
        };
        let place = u64::from(connection.0) << 16 ^ node as u64;
        self.hash = mix(self.hash ^ what, self.now_ms << 32 ^ place);
    }
}

/// A packet of a header and a tag.
const RESET_BYTES: usize = packet::HEADER_BYTES + packet::TAG_BYTES;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
mod tests;
