//! The session: one replica's side of one connection.

mod config;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rejoin_crdt::codec::DecodeError;
use rejoin_crdt::planted::{self, Bug};
use rejoin_crdt::{ReplicaId, SpaceId, VersionVector};

use crate::DeviceId;
use crate::event::{CloseReason, Event, PeerFacts, SpaceStatus, StopReason};
use crate::host::{
    HostCall, HostError, HostReply, HostRequest, HostResponse, RequestId, SpaceCall,
};
use crate::space_sync::{Load, Now, SpaceInput, SpaceOutput, SpaceSync};
use crate::wire::{
    ControlMessage, FRAME_SPACE_BYTES_MAX, Hello, Lane, Preamble, SESSION_WINDOW_BYTES_MAX,
    SPACES_MAX, SpaceMessage,
};

pub use config::Config;

/// What a session tells its peer about this replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalFacts {
    /// The id under which this replica writes.
    pub replica: ReplicaId,
    /// The device's wall clock at the session's start, in milliseconds since 1970. Only reported,
    /// never acted on.
    pub wall_time_ms: u64,
}

/// What the driver has to do, in the order given.
#[derive(Debug)]
pub enum Output {
    /// Write these bytes to the lane's stream. The first on a lane opens the stream.
    Send {
        /// Which stream.
        lane: Lane,
        /// What to append to it, verbatim: preamble and frame headers are in it.
        bytes: Bytes,
    },
    /// Answer this with [`serve`](crate::serve) and hand the response to
    /// [`Session::handle_response`].
    Request(HostRequest),
    /// Tell the application.
    Event(Event),
    /// Close the connection with [`CloseReason::code`] and the reason's text. Nothing follows.
    Close(CloseReason),
}

/// One replica's side of one connection: the state machine that a driver runs.
///
/// # Driving contract
///
/// A session does nothing of itself. The driver owns the connection, the clock and the storage,
/// and:
///
/// - calls **`handle_*`** for whatever happens: [`handle_preamble`](Self::handle_preamble) and
///   [`handle_frame`](Self::handle_frame) for what a [`FrameReader`](crate::wire::FrameReader) cut
///   from an incoming stream, [`handle_response`](Self::handle_response) for an answered request,
///   [`handle_local_change`](Self::handle_local_change) and
///   [`handle_spaces_changed`](Self::handle_spaces_changed) for news of this replica,
///   [`handle_timeout`](Self::handle_timeout) when the time has come;
/// - after each of these, and after [`new`](Self::new), calls
///   **[`poll_output`](Self::poll_output)** until it returns `None`, and does what each [`Output`]
///   says, in that order;
/// - then calls **[`poll_timeout`](Self::poll_timeout)** for when to call `handle_timeout`;
/// - may ask the **getters** ([`peer`](Self::peer), [`is_established`](Self::is_established),
///   [`is_closed`](Self::is_closed), [`space_status`](Self::space_status)) at any time.
///
/// What it must keep to:
///
/// - `now_ms` is milliseconds of a monotonic clock of the driver's choice, and never goes back.
/// - Frames of one lane are handed in in their order, lanes in any order.
/// - The control stream is read at once. **Other incoming streams are read only once
///   [`is_established`](Self::is_established)**: the peer may open them before its hello is handled
///   here.
/// - The acceptor may have control frames to send before the dialler's stream has come; they wait.
/// - Requests are answered in any order, at any time, on any thread, each once. Dropping one, or
///   its response, is allowed once the connection is gone, and releases what it holds at the host.
/// - The durable version of every space is told with `handle_local_change` whenever it has grown,
///   by local writes or through other sessions; a session learns of its own writes from their
///   responses in any case. Versions may come late, doubled or out of order.
/// - When the connection breaks, the session is dropped. Nothing needs to be saved.
///
/// # Bounds
///
/// Unacknowledged data of a session, whether still in the driver's hands or under way, is at most
/// [`SESSION_WINDOW_BYTES_MAX`], and so is data received and not yet durable: a peer that sends
/// more is cut off. Beside data, a session sends small messages at a rate that follows its input; a
/// driver may cut off a peer that lets them pile up. At most three requests for each shared space
/// are under way, and one for the list of spaces.
#[derive(Debug)]
pub struct Session {
    config: Config,
    device: DeviceId,
    local: LocalFacts,
    started_ms: u64,
    stage: Stage,
    outbox: VecDeque<Output>,
    last_request: u64,
    /// Requests without an answer yet.
    requests: BTreeSet<RequestId>,
    control_heard: bool,
    /// What we offered, and what the peer offered.
    offered: BTreeSet<SpaceId>,
    their_offer: BTreeSet<SpaceId>,
    asking_spaces: bool,
    spaces_changed: bool,
    shared: BTreeMap<SpaceId, Shared>,
    /// When each space wants to be called again.
    timeouts: BTreeSet<(u64, SpaceId)>,
    /// The sum over `shared`.
    load: Load,
    /// Spaces that wait for room in the session's window, in the order in which they get it.
    hungry: VecDeque<SpaceId>,
    /// When the session ends because storage has failed a space: a new one may find it well again.
    retry_at_ms: Option<u64>,
}

/// How far the session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The peer's hello must come by this time.
    Greeting {
        until_ms: u64,
    },
    Established(PeerFacts),
    Closed,
}

/// A space that both sides offered, and what is kept about its machine to find it again.
#[derive(Debug)]
struct Shared {
    sync: SpaceSync,
    lane_opened: bool,
    lane_heard: bool,
    timeout_ms: Option<u64>,
    load: Load,
    queued: bool,
}

impl Session {
    /// A session with the device that the transport has proven to be at the other end. It begins by
    /// saying hello.
    pub fn new(config: Config, device: DeviceId, local: LocalFacts, now_ms: u64) -> Self {
        let mut session = Self {
            config,
            device,
            local,
            started_ms: now_ms,
            stage: Stage::Greeting { until_ms: now_ms + config.hello_timeout_ms },
            outbox: VecDeque::new(),
            last_request: 0,
            requests: BTreeSet::new(),
            control_heard: false,
            offered: BTreeSet::new(),
            their_offer: BTreeSet::new(),
            asking_spaces: false,
            spaces_changed: false,
            shared: BTreeMap::new(),
            timeouts: BTreeSet::new(),
            load: Load::default(),
            hungry: VecDeque::new(),
            retry_at_ms: None,
        };
        let preamble = Preamble { lane: Lane::Control, protocol: 0 };
        session.outbox.push_back(Output::Send { lane: Lane::Control, bytes: preamble.to_bytes() });
        session.send_control(&ControlMessage::Hello(Hello {
            protocol_min: config.protocol_min,
            protocol_max: config.protocol_max,
            replica: local.replica,
            wall_time_ms: local.wall_time_ms,
        }));
        session
    }

    /// What the peer's hello told, once it has come.
    pub fn peer(&self) -> Option<PeerFacts> {
        match self.stage {
            Stage::Established(facts) => Some(facts),
            Stage::Greeting { .. } | Stage::Closed => None,
        }
    }

    /// Whether the peer's hello is handled, so that space lanes may be read.
    pub fn is_established(&self) -> bool {
        matches!(self.stage, Stage::Established(_))
    }

    /// Whether the session has closed the connection. It then ignores everything.
    pub fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    /// How a space stands with the peer; `None` if the two do not share it.
    pub fn space_status(&self, space: SpaceId) -> Option<SpaceStatus> {
        self.shared.get(&space).map(|shared| shared.sync.status())
    }

    /// An incoming stream has begun.
    pub fn handle_preamble(&mut self, preamble: Preamble, now_ms: u64) {
        if self.is_closed() {
            return;
        }
        if let Err(reason) = self.take_preamble(preamble, now_ms) {
            self.close(reason);
        }
    }

    /// A frame has arrived on a lane whose preamble was handled; `payload` is without its header.
    pub fn handle_frame(&mut self, lane: Lane, payload: &[u8], now_ms: u64) {
        let taken = match (self.stage, lane) {
            (Stage::Closed, _) => Ok(()),
            (_, Lane::Control) => self.take_control(payload, now_ms),
            (_, Lane::Space(space)) => self.take_space(space, payload, now_ms),
        };
        if let Err(reason) = taken {
            self.close(reason);
        }
    }

    /// The host has answered a request of this session. Any other answer is ignored.
    pub fn handle_response(&mut self, response: HostResponse, now_ms: u64) {
        if !self.requests.remove(&response.id) || self.is_closed() {
            return;
        }
        match response.reply {
            HostReply::Spaces(Ok(spaces)) => self.offer(spaces, now_ms),
            HostReply::Spaces(Err(HostError(what))) => self.close(CloseReason::Storage(what)),
            HostReply::Space { space, reply } => {
                self.drive(space, SpaceInput::Reply(reply), now_ms);
                self.feed(now_ms);
            }
        }
    }

    /// `version` of `space` is on disk here.
    pub fn handle_local_change(
        &mut self,
        space: SpaceId,
        version: &Arc<VersionVector>,
        now_ms: u64,
    ) {
        if !self.is_closed() {
            self.drive(space, SpaceInput::LocalChange(Arc::clone(version)), now_ms);
        }
    }

    /// The host offers this peer more spaces than it did. Spaces that it no longer offers are
    /// synced on until the session ends: close the connection to stop that.
    pub fn handle_spaces_changed(&mut self, _now_ms: u64) {
        if self.is_established() {
            self.spaces_changed = true;
            self.ask_spaces();
        }
    }

    /// Time has passed: at least as much as [`poll_timeout`](Self::poll_timeout) asked for.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        if let Stage::Greeting { until_ms } = self.stage
            && until_ms <= now_ms
        {
            let timeout_ms = self.config.hello_timeout_ms;
            self.close(CloseReason::HelloTimeout { timeout_ms });
        }
        if self.retry_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            self.close(CloseReason::Retry);
        }
        let due: Vec<SpaceId> = self
            .timeouts
            .iter()
            .take_while(|(at_ms, _)| *at_ms <= now_ms)
            .map(|(_, space)| *space)
            .collect();
        for space in due {
            self.drive(space, SpaceInput::Tick, now_ms);
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<u64> {
        match self.stage {
            Stage::Greeting { until_ms } => Some(until_ms),
            Stage::Established(_) => {
                let first = self.timeouts.first().map(|(at_ms, _)| *at_ms);
                first.into_iter().chain(self.retry_at_ms).min()
            }
            Stage::Closed => None,
        }
    }

    fn take_preamble(&mut self, preamble: Preamble, now_ms: u64) -> Result<(), CloseReason> {
        let Preamble { lane, protocol } = preamble;
        let Lane::Space(space) = lane else {
            if protocol != 0 || std::mem::replace(&mut self.control_heard, true) {
                return Err(CloseReason::Violation("a second control lane, or one of a version"));
            }
            return Ok(());
        };
        let Some(peer) = self.peer() else {
            return Err(CloseReason::Violation("a space lane before the hello"));
        };
        if protocol != peer.protocol {
            return Err(CloseReason::Violation("a lane of a version that was not agreed on"));
        }
        if !self.offered.contains(&space) {
            return Err(CloseReason::Violation("a lane for a space that was not offered"));
        }
        // Between lanes there is no order: the lane may come before the offer that it follows from.
        self.take_offer(&[space], now_ms)?;
        let shared = self.shared.get_mut(&space);
        if shared.is_none_or(|shared| std::mem::replace(&mut shared.lane_heard, true)) {
            return Err(CloseReason::Violation("a second lane for one space"));
        }
        Ok(())
    }

    fn take_control(&mut self, payload: &[u8], now_ms: u64) -> Result<(), CloseReason> {
        if !self.control_heard {
            return Err(CloseReason::Violation("a frame before its preamble"));
        }
        let message = ControlMessage::from_payload(payload)
            .map_err(|error| malformed(Lane::Control, &error))?;
        match (self.stage, message) {
            (Stage::Greeting { .. }, ControlMessage::Hello(hello)) => self.greet(hello, now_ms),
            (Stage::Established(_), ControlMessage::Spaces(spaces)) => {
                self.take_offer(&spaces, now_ms)
            }
            (_, ControlMessage::Hello(_)) => Err(CloseReason::Violation("a second hello")),
            (_, ControlMessage::Spaces(_)) => {
                Err(CloseReason::Violation("spaces before the hello"))
            }
        }
    }

    fn take_space(
        &mut self,
        space: SpaceId,
        payload: &[u8],
        now_ms: u64,
    ) -> Result<(), CloseReason> {
        if !self.shared.get(&space).is_some_and(|shared| shared.lane_heard) {
            return Err(CloseReason::Violation("a frame before its preamble"));
        }
        let message = SpaceMessage::from_payload(payload)
            .map_err(|error| malformed(Lane::Space(space), &error))?;
        self.drive(space, SpaceInput::Message(message), now_ms);
        self.feed(now_ms);
        if self.load.inbox > SESSION_WINDOW_BYTES_MAX {
            return Err(CloseReason::Overrun("window of a session"));
        }
        Ok(())
    }

    /// Agrees on a version, or finds that there is none.
    fn greet(&mut self, hello: Hello, now_ms: u64) -> Result<(), CloseReason> {
        let ours = (self.config.protocol_min, self.config.protocol_max);
        let theirs = (hello.protocol_min, hello.protocol_max);
        let mut protocol = ours.1.min(theirs.1);
        if protocol < ours.0.max(theirs.0) {
            return Err(CloseReason::VersionMismatch { ours, theirs });
        }
        if planted::is(Bug::ProtocolOwnHighest) {
            protocol = ours.1;
        }
        if hello.replica == self.local.replica {
            return Err(CloseReason::SameReplica(hello.replica));
        }
        let wall_time_ms =
            self.local.wall_time_ms.saturating_add(now_ms.saturating_sub(self.started_ms));
        let facts = PeerFacts {
            device: self.device,
            replica: hello.replica,
            protocol,
            clock_skew_ms: difference(hello.wall_time_ms, wall_time_ms),
        };
        if planted::is(Bug::SkewRefused) && facts.clock_skew_ms.abs() > 60 * 60 {
            return Err(CloseReason::HelloTimeout { timeout_ms: self.config.hello_timeout_ms });
        }
        self.stage = Stage::Established(facts);
        self.outbox.push_back(Output::Event(Event::Established(facts)));
        self.spaces_changed = true;
        self.ask_spaces();
        Ok(())
    }

    fn ask_spaces(&mut self) {
        if self.spaces_changed && !self.asking_spaces {
            self.spaces_changed = false;
            self.asking_spaces = true;
            let peer = self.device;
            self.request(HostCall::Spaces { peer });
        }
    }

    /// Offers what the host offers and was not offered before.
    fn offer(&mut self, spaces: Vec<SpaceId>, now_ms: u64) {
        self.asking_spaces = false;
        let mut new: BTreeSet<SpaceId> = spaces.into_iter().collect();
        new.retain(|space| !self.offered.contains(space));
        let room = SPACES_MAX - self.offered.len();
        let dropped = new.len().saturating_sub(room);
        if dropped > 0 {
            self.outbox.push_back(Output::Event(Event::SpacesOverLimit { dropped }));
        }
        let new: Vec<SpaceId> = new.into_iter().take(room).collect();
        if !new.is_empty() {
            self.offered.extend(&new);
            self.send_control(&ControlMessage::Spaces(new.clone()));
            self.share(&new, now_ms);
        }
        self.ask_spaces();
    }

    fn take_offer(&mut self, spaces: &[SpaceId], now_ms: u64) -> Result<(), CloseReason> {
        self.their_offer.extend(spaces);
        if self.their_offer.len() > SPACES_MAX && !planted::is(Bug::OffersUnbounded) {
            return Err(CloseReason::Overrun("offered spaces"));
        }
        self.share(spaces, now_ms);
        Ok(())
    }

    /// Begins to sync those of `spaces` that both sides offer.
    fn share(&mut self, spaces: &[SpaceId], now_ms: u64) {
        for space in spaces {
            let both = self.offered.contains(space) && self.their_offer.contains(space);
            if !both || self.shared.contains_key(space) {
                continue;
            }
            let sync = SpaceSync::new(*space, self.local.replica, self.config);
            let shared = Shared {
                sync,
                lane_opened: false,
                lane_heard: false,
                timeout_ms: None,
                load: Load::default(),
                queued: false,
            };
            self.shared.insert(*space, shared);
            self.outbox.push_back(Output::Event(Event::SpaceShared { space: *space }));
            self.drive(*space, SpaceInput::Start, now_ms);
        }
    }

    /// Gives one space an input, carries out what it wants, and keeps the books about it.
    fn drive(&mut self, space: SpaceId, input: SpaceInput, now_ms: u64) {
        let now = Now { ms: now_ms, room: self.has_room(), flying: self.load.flying };
        let Some(shared) = self.shared.get_mut(&space) else { return };
        let mut outputs = Vec::new();
        shared.sync.handle(input, now, &mut outputs);
        let load = shared.sync.load();
        self.load = self.load.exchanged(shared.load, load);
        shared.load = load;
        if let Some(at_ms) = shared.timeout_ms.take() {
            self.timeouts.remove(&(at_ms, space));
        }
        shared.timeout_ms = shared.sync.timeout_ms();
        if let Some(at_ms) = shared.timeout_ms {
            self.timeouts.insert((at_ms, space));
        }
        if shared.sync.hungry() && !std::mem::replace(&mut shared.queued, true) {
            self.hungry.push_back(space);
        }
        for output in outputs {
            if !self.is_closed() {
                self.carry_out(space, output, now_ms);
            }
        }
    }

    /// Lets spaces that wait for room have what has become free, in turn.
    fn feed(&mut self, now_ms: u64) {
        while self.has_room()
            && let Some(space) = self.hungry.pop_front()
        {
            if let Some(shared) = self.shared.get_mut(&space) {
                shared.queued = false;
            }
            self.drive(space, SpaceInput::Tick, now_ms);
        }
    }

    /// Whether a batch of any size still fits in the session's window.
    fn has_room(&self) -> bool {
        let held = self.load.flying + self.load.reserved;
        held + FRAME_SPACE_BYTES_MAX <= SESSION_WINDOW_BYTES_MAX
    }

    fn carry_out(&mut self, space: SpaceId, output: SpaceOutput, now_ms: u64) {
        match output {
            SpaceOutput::Send(message) => self.send_space(space, &message),
            SpaceOutput::Call(call) => self.request_space(space, call),
            SpaceOutput::Event(event) => {
                if let Event::SpaceStopped { reason: StopReason::Storage(_), .. } = event {
                    let at_ms = now_ms.saturating_add(self.config.retry_after_ms);
                    self.retry_at_ms.get_or_insert(at_ms);
                }
                self.outbox.push_back(Output::Event(event));
            }
            SpaceOutput::Close(reason) => self.close(reason),
        }
    }

    fn request_space(&mut self, space: SpaceId, call: SpaceCall) {
        self.request(HostCall::Space { space, call });
    }

    fn request(&mut self, call: HostCall) {
        self.last_request += 1;
        let id = RequestId(self.last_request);
        self.requests.insert(id);
        self.outbox.push_back(Output::Request(HostRequest { id, call }));
    }

    fn send_control(&mut self, message: &ControlMessage) {
        let bytes = message.to_frame().expect(
            "lists on the control lane are kept below the limits that its frames are made for",
        );
        self.outbox.push_back(Output::Send { lane: Lane::Control, bytes });
    }

    fn send_space(&mut self, space: SpaceId, message: &SpaceMessage) {
        let lane = Lane::Space(space);
        let Stage::Established(PeerFacts { protocol, .. }) = self.stage else { return };
        let Some(shared) = self.shared.get_mut(&space) else { return };
        if !std::mem::replace(&mut shared.lane_opened, true) {
            let bytes = Preamble { lane, protocol }.to_bytes();
            self.outbox.push_back(Output::Send { lane, bytes });
        }
        match message.to_frame() {
            Ok(bytes) => self.outbox.push_back(Output::Send { lane, bytes }),
            // Only a host that disregards the sizes it is asked for can bring this about.
            Err(error) => self.close(CloseReason::Storage(error.to_string())),
        }
    }

    /// Ends the session: what is already in the outbox still goes out, nothing else does.
    fn close(&mut self, reason: CloseReason) {
        if self.is_closed() {
            return;
        }
        self.stage = Stage::Closed;
        self.retry_at_ms = None;
        self.shared.clear();
        self.timeouts.clear();
        self.hungry.clear();
        self.outbox.push_back(Output::Close(reason));
    }
}

fn malformed(lane: Lane, error: &DecodeError) -> CloseReason {
    CloseReason::Malformed { lane, error: error.to_string() }
}

/// `a - b`, as far as it fits.
fn difference(a: u64, b: u64) -> i64 {
    let apart = i64::try_from(a.abs_diff(b)).unwrap_or(i64::MAX);
    if a >= b { apart } else { -apart }
}
