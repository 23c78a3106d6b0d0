//! Connections, and the sessions over them: what the QUIC driver does for a real replica.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rejoin_gossip::wire::{ControlMessage, FrameReader, Incoming, Lane, SpaceMessage};
use rejoin_gossip::{
    CloseReason, Config, Event as SessionEvent, HostResponse, LocalFacts, Output, Session,
    StopReason, serve,
};

use super::{Event, World};
use crate::history::{Checker, Gauge, NodeIndex, Observation, Violation};
use crate::network::{ConnectionId, End, NetworkEvent, Reading};
use crate::node::{Link, Overheard};
use crate::plan::Class;
use crate::trace::{Mark, TraceEvent};

/// The code with which a connection is closed because there are two.
const DUPLICATE: u32 = 0x101;

/// A dial takes at most this long: two connections whose ages differ by more cannot have crossed.
const DIAL_MS_MAX: u64 = 5_000;

/// The code for a stream that is not one of ours.
const FRAMING: u32 = 0x102;

impl World<'_> {
    /// Dials a peer.
    pub(super) fn dial(
        &mut self,
        node: NodeIndex,
        boot: u64,
        peer: NodeIndex,
    ) -> Result<(), Violation> {
        let Some(process) = self.running(node, boot) else { return Ok(()) };
        let linked = process.links.values().any(|link| link.peer == peer);
        let Some(state) = process.peers.get_mut(&peer) else { return Ok(()) };
        if linked || !state.wanted {
            state.dialling = false;
            return Ok(());
        }
        self.nodes[node].dials += 1;
        // Backing off from 50 ms on, a peer is dialled at most about every 25 ms, and less with each failure.
        let limit = 40 * self.nodes.len() as u64 * (1 + self.now_ms.min(3_600_000) / 1_000);
        let gauge = Gauge { name: "dials", value: self.nodes[node].dials, limit };
        self.observe(node, &Observation::Measured(gauge))?;
        self.network.dial(node, peer, self.now_ms);
        Ok(())
    }

    /// Something happened on the network.
    pub(super) fn take_network(&mut self, event: NetworkEvent) -> Result<(), Violation> {
        match event {
            NetworkEvent::Connected { end, peer } => self.connected(end, peer, true),
            NetworkEvent::Incoming { end, peer } => self.connected(end, peer, false),
            NetworkEvent::Received { end, lane, bytes, sent_ms } => {
                self.received(end, lane, &bytes, sent_ms)
            }
            NetworkEvent::Closed { end, peer, why } => {
                self.hasher.update(b"closed");
                self.note(end.node, Mark::Disconnected, || format!("loses r{peer}: {why:?}"));
                self.unlink(end.node, end.connection, peer);
                Ok(())
            }
        }
    }

    fn connected(&mut self, end: End, peer: NodeIndex, dialled: bool) -> Result<(), Violation> {
        let node = end.node;
        let boot = self.nodes[node].boot;
        let (now_ms, device) = (self.now_ms, self.nodes[peer].device());
        let config = self.session_config(node);
        let twin_served = self.nodes[node].is_liar() && !peer.is_multiple_of(2);
        // Of two connections between two replicas, the one that the lower of them dialled stays.
        let keeps_new = dialled == (node < peer);
        let Some(process) = self.running(node, boot) else {
            self.network.close(end, FRAMING, "nobody is here", now_ms);
            return Ok(());
        };
        let other = process.links.iter().find(|(_, link)| link.peer == peer);
        if let Some((other, link)) =
            other.map(|(connection, link)| (*connection, (link.dialled, link.since_ms)))
        {
            // A second one from the same side takes the place of the first, which the peer must have lost; and so
            // does one from the other side, if the two cannot have crossed.
            if keeps_new || link.0 == dialled || now_ms - link.1 > DIAL_MS_MAX {
                self.hang_up(node, other, DUPLICATE, "a second connection");
            } else {
                self.network.close(end, DUPLICATE, "a second connection", now_ms);
                return Ok(());
            }
        }
        let Some(process) = self.running(node, boot) else { return Ok(()) };
        let twin = twin_served && process.twin_host.is_some();
        let host = match (&process.twin_host, twin) {
            (Some(host), true) => host,
            _ => &process.host,
        };
        let wall_time_ms = rejoin::driven::Surroundings::wall_time_ms(&*process.side);
        let local = LocalFacts { replica: rejoin_gossip::Host::replica(&**host), wall_time_ms };
        if let Some(state) = process.peers.get_mut(&peer) {
            state.dialling = false;
            state.redial.connected(now_ms);
        }
        let link = Link {
            peer,
            dialled,
            since_ms: now_ms,
            session: Session::new(config, device, local, now_ms),
            readers: BTreeMap::new(),
            reads_spaces: false,
            requests: VecDeque::new(),
            open_requests: 0,
            timer_at_ms: None,
            twin,
            overheard: Overheard::default(),
        };
        process.links.insert(end.connection, link);
        self.note(node, Mark::Connected, || format!("is connected with r{peer}"));
        self.drain(node, end.connection)
    }

    fn session_config(&self, node: NodeIndex) -> Config {
        let (protocol_min, protocol_max) = self.nodes[node].protocol;
        Config {
            hello_timeout_ms: 4_000,
            progress_timeout_ms: 10_000,
            working_interval_ms: 2_000,
            retry_after_ms: 1_500,
            protocol_min,
            protocol_max,
            ..Config::default()
        }
    }

    fn received(
        &mut self,
        end: End,
        lane: Lane,
        bytes: &[u8],
        sent_ms: u64,
    ) -> Result<(), Violation> {
        let (node, now_ms) = (end.node, self.now_ms);
        let boot = self.nodes[node].boot;
        let Some(link) =
            self.running(node, boot).and_then(|process| process.links.get(&end.connection))
        else {
            return Ok(());
        };
        let from = link.peer;
        let floods = self.nodes[from].lies.contains(&Class::Flooding);
        let Some(link) = self.link(node, end.connection) else { return Ok(()) };
        let taken = Self::feed(link, lane, bytes, (sent_ms, now_ms), floods);
        self.hasher.update(&now_ms.to_le_bytes());
        self.hasher.update(&[node as u8, from as u8]);
        if self.trace.is_some() {
            self.tell_messages(node, from, &taken.told);
        }
        if floods {
            self.measure(node)?;
        }
        if let Some(error) = taken.error {
            if !self.nodes[from].is_liar() && !self.nodes[node].is_liar() {
                let what = format!("a stream from r{from}, which is honest, is not one: {error}");
                return Err(self.violation(Checker::Corruption, Some(node), what));
            }
            self.hang_up(node, end.connection, FRAMING, &error);
            return Ok(());
        }
        self.drain(node, end.connection)
    }

    fn link(&mut self, node: NodeIndex, connection: ConnectionId) -> Option<&mut Link> {
        self.nodes[node].process.as_mut()?.links.get_mut(&connection)
    }

    /// Hands what came on a lane to the session.
    fn feed(
        link: &mut Link,
        lane: Lane,
        bytes: &[u8],
        (sent_ms, now_ms): (u64, u64),
        floods: bool,
    ) -> Taken {
        let mut taken = Taken::default();
        let reader = link.readers.entry(lane).or_default();
        reader.push(bytes);
        loop {
            match next(reader) {
                Ok(Some(Incoming::Preamble(preamble))) => {
                    link.session.handle_preamble(preamble, now_ms);
                }
                Ok(Some(Incoming::Frame(payload))) => {
                    taken.told.push((sent_ms, payload.len(), lane));
                    link.session.handle_frame(lane, &payload, now_ms);
                    if floods && !link.session.is_closed() {
                        link.overheard.frame(lane, &payload);
                        let Lane::Space(space) = lane else { continue };
                        // What comes for a space that is no longer synced is not kept.
                        let status = link.session.space_status(space);
                        if status.is_none_or(|status| status.stopped) {
                            link.overheard.rows_waiting = 0;
                        }
                    }
                }
                Ok(None) => return taken,
                Err(error) => {
                    taken.error = Some(error);
                    return taken;
                }
            }
        }
    }

    fn tell_messages(&mut self, to: NodeIndex, from: NodeIndex, told: &[(u64, usize, Lane)]) {
        let arrived_ms = Some(self.now_ms);
        let Some(trace) = &mut self.trace else { return };
        for (sent_ms, bytes, lane) in told {
            let lane = match lane {
                Lane::Control => "control".to_owned(),
                Lane::Space(space) => {
                    let number = self.space_ids.iter().position(|known| known == space);
                    number.map_or("a space".to_owned(), |number| format!("space {number}"))
                }
            };
            let text = format!("{lane}, {bytes} bytes");
            let sent_ms = *sent_ms;
            trace.events.push(TraceEvent::Message { from, to, sent_ms, arrived_ms, text });
        }
    }

    /// Does what a session wants.
    pub(super) fn drain(
        &mut self,
        node: NodeIndex,
        connection: ConnectionId,
    ) -> Result<(), Violation> {
        let boot = self.nodes[node].boot;
        loop {
            let now_ms = self.now_ms;
            let Some(process) = self.running(node, boot) else { return Ok(()) };
            let Some(link) = process.links.get_mut(&connection) else { return Ok(()) };
            let Some(output) = link.session.poll_output() else { break };
            let peer = link.peer;
            match output {
                Output::Send { lane, bytes } => {
                    self.hasher.update(&(bytes.len() as u64).to_le_bytes());
                    let end = End { connection, node };
                    self.network.send(end, lane, bytes, now_ms);
                }
                Output::Request(request) => {
                    if request.space().is_some() {
                        let waiting = &mut link.overheard.rows_waiting;
                        *waiting = waiting.saturating_sub(1);
                    }
                    link.requests.push_back(request);
                    link.open_requests += 1;
                    let wait_ms = self.random.below(2);
                    self.after(wait_ms, Event::Serve { node, boot, connection });
                }
                Output::Event(event) => self.session_event(node, connection, peer, &event),
                Output::Close(reason) => {
                    self.session_closed(node, peer, &reason)?;
                    self.hang_up(node, connection, reason.code(), &reason.to_string());
                    return Ok(());
                }
            }
        }
        self.read_on(node, connection);
        self.plan_timeout(node, connection);
        Ok(())
    }

    /// Reads the lanes of spaces as soon as the session allows it.
    fn read_on(&mut self, node: NodeIndex, connection: ConnectionId) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let Some(link) = process.links.get_mut(&connection) else { return };
        if !link.reads_spaces && link.session.is_established() {
            link.reads_spaces = true;
            self.network.set_reading(End { connection, node }, Reading::All, self.now_ms);
        }
    }

    fn plan_timeout(&mut self, node: NodeIndex, connection: ConnectionId) {
        let boot = self.nodes[node].boot;
        let Some(process) = &mut self.nodes[node].process else { return };
        let Some(link) = process.links.get_mut(&connection) else { return };
        let Some(at_ms) = link.session.poll_timeout() else { return };
        if link.timer_at_ms.is_none_or(|planned_ms| at_ms < planned_ms) {
            link.timer_at_ms = Some(at_ms);
            self.at(at_ms, Event::Timeout { node, boot, connection });
        }
    }

    pub(super) fn timeout(
        &mut self,
        node: NodeIndex,
        boot: u64,
        connection: ConnectionId,
    ) -> Result<(), Violation> {
        let now_ms = self.now_ms;
        let Some(process) = self.running(node, boot) else { return Ok(()) };
        let Some(link) = process.links.get_mut(&connection) else { return Ok(()) };
        link.timer_at_ms = None;
        if link.session.poll_timeout().is_some_and(|due_ms| due_ms <= now_ms) {
            link.session.handle_timeout(now_ms);
        }
        self.drain(node, connection)
    }

    fn session_event(
        &mut self,
        node: NodeIndex,
        connection: ConnectionId,
        peer: NodeIndex,
        event: &SessionEvent,
    ) {
        if let SessionEvent::SpaceStopped { space, reason, .. } = event {
            let number = self.space_number(*space);
            if let (StopReason::Fork(_), Some(number)) = (reason, number)
                && self.plan.is_doubtful(number)
            {
                self.forked.insert(number);
                if let Some(link) = self.link(node, connection) {
                    link.overheard.forked.insert(number);
                }
            }
            self.note(node, Mark::Fault, || {
                format!("stops syncing space {number:?} with r{peer}: {reason}")
            });
        } else if let SessionEvent::StateTransfer { space, sending: true } = event {
            let number = self.space_number(*space);
            self.note(node, Mark::Applied, || {
                format!("sends r{peer} the whole state of space {number:?}")
            });
        }
    }

    /// A session closed its connection. Honest replicas must have no cause to accuse each other.
    fn session_closed(
        &mut self,
        node: NodeIndex,
        peer: NodeIndex,
        reason: &CloseReason,
    ) -> Result<(), Violation> {
        let accuses = matches!(
            reason,
            CloseReason::Malformed { .. } | CloseReason::Violation(_) | CloseReason::Overrun(_)
        );
        self.note(node, Mark::Disconnected, || format!("closes on r{peer}: {reason}"));
        if !accuses {
            return Ok(());
        }
        let why = reason.to_string();
        if !self.nodes[node].is_liar() {
            self.observe(node, &Observation::Blamed { peer, why: &why })?;
        }
        if self.nodes[peer].is_liar() || self.nodes[node].is_liar() {
            self.count_lie_found(peer);
            return Ok(());
        }
        let checker = match reason {
            CloseReason::Malformed { .. } => Checker::Corruption,
            CloseReason::Overrun(_) => Checker::Bounds,
            // Two that cannot talk to each other never converge.
            _ => Checker::Liveness,
        };
        let what = format!("r{node} accuses r{peer}, which is honest: {why}");
        Err(self.violation(checker, Some(node), what))
    }

    /// Serves a session's next request.
    pub(super) fn serve(
        &mut self,
        node: NodeIndex,
        boot: u64,
        connection: ConnectionId,
    ) -> Result<(), Violation> {
        let Some(process) = self.running(node, boot) else { return Ok(()) };
        let Some(link) = process.links.get_mut(&connection) else { return Ok(()) };
        let Some(request) = link.requests.pop_front() else { return Ok(()) };
        let host = match (&process.twin_host, link.twin) {
            (Some(twin), true) => Arc::clone(twin),
            _ => Arc::clone(&process.host),
        };
        // What the disk did for others before is not this request's to wait for.
        self.nodes[node].disk.take_busy_ms();
        let response: HostResponse = serve(&*host, request);
        let wait_ms = self.nodes[node].disk.take_busy_ms() + self.random.below(3);
        let response = Box::new(response);
        self.after(wait_ms, Event::Answer { node, boot, connection, response });
        self.pump(node)
    }

    pub(super) fn answer(
        &mut self,
        node: NodeIndex,
        boot: u64,
        connection: ConnectionId,
        response: HostResponse,
    ) -> Result<(), Violation> {
        let now_ms = self.now_ms;
        let Some(process) = self.running(node, boot) else { return Ok(()) };
        let Some(link) = process.links.get_mut(&connection) else { return Ok(()) };
        link.open_requests -= 1;
        link.session.handle_response(response, now_ms);
        self.pump(node)
    }

    /// Ends a connection from this side.
    pub(super) fn hang_up(
        &mut self,
        node: NodeIndex,
        connection: ConnectionId,
        code: u32,
        reason: &str,
    ) {
        let now_ms = self.now_ms;
        self.network.close(End { connection, node }, code, reason, now_ms);
        let Some(process) = &mut self.nodes[node].process else { return };
        let Some(link) = process.links.get(&connection) else { return };
        let peer = link.peer;
        self.unlink(node, connection, peer);
    }

    /// Forgets a connection, and plans to dial again if the peer is wanted.
    fn unlink(&mut self, node: NodeIndex, connection: ConnectionId, peer: NodeIndex) {
        let (now_ms, boot) = (self.now_ms, self.nodes[node].boot);
        let Some(process) = &mut self.nodes[node].process else { return };
        process.links.remove(&connection);
        let linked = process.links.values().any(|link| link.peer == peer);
        let Some(state) = process.peers.get_mut(&peer) else { return };
        state.dialling = state.wanted && !linked;
        // A dial that failed, and one that came from the peer, make one new dial and not two.
        if state.dialling && state.next_dial_ms <= now_ms {
            let wait_ms = state.redial.failed(now_ms);
            state.next_dial_ms = now_ms.saturating_add(wait_ms);
            self.after(wait_ms, Event::Dial { node, boot, peer });
        }
    }

    /// Counts that a liar was found out.
    fn count_lie_found(&mut self, peer: NodeIndex) {
        let lies: Vec<Class> = self.nodes[peer].lies.iter().copied().collect();
        for class in lies {
            self.count(class);
        }
    }
}

impl Overheard {
    /// A session has taken in a frame of a flooder.
    fn frame(&mut self, lane: Lane, payload: &[u8]) {
        match lane {
            Lane::Control => {
                if let Ok(ControlMessage::Spaces(spaces)) = ControlMessage::from_payload(payload) {
                    self.offered.extend(spaces);
                }
            }
            Lane::Space(_) => {
                if let Ok(SpaceMessage::StateRows(_)) = SpaceMessage::from_payload(payload) {
                    self.rows_waiting += 1;
                }
            }
        }
    }
}

/// What came of handing bytes to a session.
#[derive(Debug, Default)]
struct Taken {
    /// When each frame was sent, how long it is, and its lane.
    told: Vec<(u64, usize, Lane)>,
    error: Option<String>,
}

fn next(reader: &mut FrameReader) -> Result<Option<Incoming>, String> {
    reader.next().map_err(|error| error.to_string())
}
