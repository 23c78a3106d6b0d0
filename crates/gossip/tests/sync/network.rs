//! A network of hosts in virtual time: every choice it makes comes from its seed.
//!
//! Bytes of different lanes overtake each other, arrive in pieces, and a link can be cut between
//! any two deliveries. Time passes only when there is nothing else to do. Every run also checks
//! what must hold on any connection: own commits are marked before they leave, no commit is sent
//! twice over one connection, and what waits for a peer stays within the windows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rejoin_crdt::{Dot, SpaceId, VersionVector};
use rejoin_gossip::wire::{
    ControlMessage, FrameReader, Incoming, Lane, SESSION_WINDOW_BYTES_MAX, SpaceMessage,
};
use rejoin_gossip::{
    CloseReason, Config, DeviceId, Event, Host, HostRequest, LocalFacts, Output, Session, serve,
};

use crate::host::MemoryHost;

/// The one space of most stories.
pub(crate) const CART: SpaceId = SpaceId::from_bytes([0xca; 32]);

/// Names one end of a link: of host `.0`, towards host `.1`.
pub(crate) type EndId = (usize, usize);

/// One side of a connection.
#[derive(Debug)]
struct End {
    session: Session,
    requests: VecDeque<HostRequest>,
    /// What this side has sent and the other has not read, by lane, and when it can be read.
    outgoing: BTreeMap<Lane, VecDeque<(u64, VecDeque<u8>)>>,
    outgoing_readers: BTreeMap<Lane, FrameReader>,
    readers: BTreeMap<Lane, FrameReader>,
    commits_sent: BTreeSet<(SpaceId, Dot)>,
    /// If set, nothing that this side sends arrives.
    blocked: bool,
    /// If set, this side's storage does not answer.
    stalled: bool,
}

/// What may happen next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Deliver(EndId, Lane),
    Serve(EndId),
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) now_ms: u64,
    pub(crate) hosts: Vec<Arc<MemoryHost>>,
    pub(crate) config: Config,
    /// How long bytes travel.
    pub(crate) latency_ms: u64,
    /// The most bytes that arrive at once.
    pub(crate) chunk_bytes_max: usize,
    /// How many frames of each kind were sent.
    pub(crate) frames: BTreeMap<&'static str, u64>,
    /// What was sent over any connection, in order: which way, and which commits.
    pub(crate) commits_sent: Vec<(EndId, SpaceId, Dot)>,
    pub(crate) events: Vec<(EndId, Event)>,
    pub(crate) closes: Vec<(EndId, CloseReason)>,
    /// The most bytes that ever waited for one peer.
    pub(crate) waiting_bytes_max: usize,
    pub(crate) steps: u64,
    ends: BTreeMap<EndId, End>,
    told: Vec<BTreeMap<SpaceId, Arc<VersionVector>>>,
    random: u64,
}

pub(crate) fn device(host: usize) -> DeviceId {
    DeviceId::from_bytes([host as u8; 32])
}

impl Network {
    /// `count` hosts that replicate [`CART`], and no links.
    pub(crate) fn new(count: u8, seed: u64) -> Self {
        Self::of((0..count).map(|number| MemoryHost::new(number, &[CART])).collect(), seed)
    }

    pub(crate) fn of(hosts: Vec<Arc<MemoryHost>>, seed: u64) -> Self {
        let told = hosts.iter().map(|_| BTreeMap::new()).collect();
        Self {
            now_ms: 1_000,
            hosts,
            config: Config::default(),
            latency_ms: 0,
            chunk_bytes_max: 4 << 20,
            frames: BTreeMap::new(),
            commits_sent: Vec::new(),
            events: Vec::new(),
            closes: Vec::new(),
            waiting_bytes_max: 0,
            steps: 0,
            ends: BTreeMap::new(),
            told,
            random: seed,
        }
    }

    /// SplitMix64.
    fn choose(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    }

    /// Connects two hosts.
    pub(crate) fn link(&mut self, a: usize, b: usize) {
        for (here, there) in [(a, b), (b, a)] {
            let replica = self.hosts[here].replica();
            let local = LocalFacts { replica, wall_time_ms: 1_700_000_000_000 + here as u64 };
            let session = Session::new(self.config, device(there), local, self.now_ms);
            let end = End {
                session,
                requests: VecDeque::new(),
                outgoing: BTreeMap::new(),
                outgoing_readers: BTreeMap::new(),
                readers: BTreeMap::new(),
                commits_sent: BTreeSet::new(),
                blocked: false,
                stalled: false,
            };
            self.ends.insert((here, there), end);
        }
        self.drain((a, b));
        self.drain((b, a));
    }

    /// Connects every pair.
    pub(crate) fn link_all(&mut self) {
        for a in 0..self.hosts.len() {
            for b in 0..a {
                self.link(a, b);
            }
        }
    }

    /// Breaks a connection: all that is under way on it is lost.
    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        self.ends.remove(&(a, b));
        self.ends.remove(&(b, a));
    }

    pub(crate) fn is_linked(&self, a: usize, b: usize) -> bool {
        self.ends.contains_key(&(a, b))
    }

    /// Lets nothing arrive that `from` sends to `to`, or lets it arrive again.
    pub(crate) fn block(&mut self, from: usize, to: usize, blocked: bool) {
        self.ends.get_mut(&(from, to)).unwrap().blocked = blocked;
    }

    /// Lets the storage of `here` leave the session with `there` without answers, or answer again.
    pub(crate) fn stall(&mut self, here: usize, there: usize, stalled: bool) {
        self.ends.get_mut(&(here, there)).unwrap().stalled = stalled;
    }

    /// Whether the storage of `here` has yet to answer a request of this name.
    pub(crate) fn is_asked(&self, here: usize, there: usize, name: &str) -> bool {
        let requests = &self.ends[&(here, there)].requests;
        requests.iter().any(|request| format!("{request:?}").contains(name))
    }

    pub(crate) fn session(&self, here: usize, there: usize) -> &Session {
        &self.ends[&(here, there)].session
    }

    /// Runs until nothing happens any more, for at most a virtual hour.
    pub(crate) fn run_until_quiescent(&mut self) {
        let until_ms = self.now_ms + 3_600_000;
        self.run_until(until_ms);
    }

    /// Runs until nothing happens before `until_ms`, which is then the time.
    pub(crate) fn run_until(&mut self, until_ms: u64) {
        loop {
            while self.step() {}
            let timeouts = self.ends.values().filter_map(|end| end.session.poll_timeout());
            let travelling = self.ends.values().filter(|end| !end.blocked);
            let arrivals = travelling
                .flat_map(|end| end.outgoing.values())
                .filter_map(|queue| queue.front().map(|(at_ms, _)| *at_ms))
                .filter(|at_ms| *at_ms > self.now_ms);
            match timeouts.chain(arrivals).min() {
                Some(at_ms) if at_ms <= until_ms => self.pass_time(at_ms),
                _ => break,
            }
        }
        self.now_ms = until_ms;
    }

    /// Runs `steps` deliveries or answers, or until none is left; returns whether there was enough
    /// to do.
    pub(crate) fn run_steps(&mut self, steps: usize) -> bool {
        (0..steps).all(|_| self.step())
    }

    fn pass_time(&mut self, at_ms: u64) {
        assert!(at_ms >= self.now_ms, "a session asked for a time that has passed");
        self.now_ms = at_ms;
        let due: Vec<EndId> = self
            .ends
            .iter()
            .filter(|(_, end)| end.session.poll_timeout().is_some_and(|due_ms| due_ms <= at_ms))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            // The other end may have closed the connection in this very moment.
            let Some(end) = self.ends.get_mut(&id) else { continue };
            end.session.handle_timeout(at_ms);
            let again = end.session.poll_timeout();
            assert!(
                again.is_none_or(|again_ms| again_ms > at_ms),
                "a timeout that stays due spins"
            );
            self.drain(id);
        }
    }

    /// Does one thing that can happen now.
    fn step(&mut self) -> bool {
        self.tell_local_changes();
        let mut steps = Vec::new();
        for (id, end) in &self.ends {
            if !end.requests.is_empty() && !end.stalled {
                steps.push(Step::Serve(*id));
            }
            let Some(peer) = self.ends.get(&(id.1, id.0)) else { continue };
            let lanes = end.outgoing.iter().filter(|(lane, queue)| {
                // The driving contract: space lanes are read only once the session is established.
                let readable = **lane == Lane::Control || peer.session.is_established();
                let here = queue.front().is_some_and(|(at_ms, _)| *at_ms <= self.now_ms);
                !end.blocked && readable && here
            });
            steps.extend(lanes.map(|(lane, _)| Step::Deliver(*id, *lane)));
        }
        if steps.is_empty() {
            return false;
        }
        self.steps += 1;
        let chosen = self.choose(steps.len());
        match steps[chosen] {
            Step::Serve(id) => self.serve_one(id),
            Step::Deliver(id, lane) => self.deliver(id, lane),
        }
        true
    }

    fn serve_one(&mut self, id: EndId) {
        let count = self.ends[&id].requests.len();
        let index = self.choose(count);
        let end = self.ends.get_mut(&id).unwrap();
        let request = end.requests.remove(index).unwrap();
        let response = serve(&*self.hosts[id.0], request);
        // The news of what was written may come before or after the answer.
        if self.choose(2) == 0 {
            self.tell_local_changes();
        }
        let end = self.ends.get_mut(&id).unwrap();
        end.session.handle_response(response, self.now_ms);
        self.drain(id);
    }

    fn deliver(&mut self, from: EndId, lane: Lane) {
        let available = self.ends[&from].outgoing[&lane][0].1.len().min(self.chunk_bytes_max);
        let count = 1 + self.choose(available);
        let queue = self.ends.get_mut(&from).unwrap().outgoing.get_mut(&lane).unwrap();
        let bytes: Vec<u8> = queue[0].1.drain(..count).collect();
        if queue[0].1.is_empty() {
            queue.pop_front();
        }
        let to = (from.1, from.0);
        let now_ms = self.now_ms;
        let end = self.ends.get_mut(&to).unwrap();
        let reader = end.readers.entry(lane).or_default();
        reader.push(&bytes);
        while let Some(incoming) = reader.next().expect("sessions send well-formed streams") {
            match incoming {
                Incoming::Preamble(preamble) => end.session.handle_preamble(preamble, now_ms),
                Incoming::Frame(payload) => end.session.handle_frame(lane, &payload, now_ms),
            }
        }
        self.drain(to);
    }

    fn tell_local_changes(&mut self) {
        for host in 0..self.hosts.len() {
            for space in self.hosts[host].spaces_held() {
                let version = self.hosts[host].version(space);
                if self.told[host].get(&space).is_some_and(|told| Arc::ptr_eq(told, &version)) {
                    continue;
                }
                self.told[host].insert(space, Arc::clone(&version));
                let ids: Vec<EndId> = self.ends.keys().filter(|id| id.0 == host).copied().collect();
                for id in ids {
                    let end = self.ends.get_mut(&id).unwrap();
                    end.session.handle_local_change(space, &version, self.now_ms);
                    self.drain(id);
                }
            }
        }
    }

    /// Carries out what a session wants.
    fn drain(&mut self, id: EndId) {
        let mut closed = false;
        while let Some(end) = self.ends.get_mut(&id)
            && let Some(output) = end.session.poll_output()
        {
            assert!(!closed, "nothing follows a close");
            match output {
                Output::Send { lane, bytes } => self.send(id, lane, &bytes),
                Output::Request(request) => {
                    end.requests.push_back(request);
                    assert!(end.requests.len() <= 3 * 1_024 + 1, "requests are bounded");
                }
                Output::Event(event) => self.events.push((id, event)),
                Output::Close(reason) => {
                    let honest = !matches!(
                        reason,
                        CloseReason::Malformed { .. }
                            | CloseReason::Violation(_)
                            | CloseReason::Overrun(_)
                    );
                    assert!(honest, "{id:?} accuses an honest peer: {reason}");
                    closed = true;
                    self.closes.push((id, reason));
                }
            }
        }
        if closed {
            self.cut(id.0, id.1);
        }
    }

    fn send(&mut self, id: EndId, lane: Lane, bytes: &[u8]) {
        let end = self.ends.get_mut(&id).unwrap();
        let reader = end.outgoing_readers.entry(lane).or_default();
        reader.push(bytes);
        while let Some(incoming) = reader.next().unwrap() {
            let Incoming::Frame(payload) = incoming else { continue };
            let kind = match lane {
                Lane::Control => match ControlMessage::from_payload(&payload).unwrap() {
                    ControlMessage::Hello(_) => "hello",
                    ControlMessage::Spaces(_) => "spaces",
                },
                Lane::Space(space) => {
                    let message = SpaceMessage::from_payload(&payload).unwrap();
                    if let SpaceMessage::Commits(runs) = &message {
                        let host = &self.hosts[id.0];
                        for run in runs {
                            assert!(
                                run.replica != host.replica()
                                    || run.last_sequence() <= host.sent(space),
                                "own commits are marked as sent before they leave"
                            );
                            for sequence in run.first_sequence..=run.last_sequence() {
                                let dot = Dot { replica: run.replica, sequence };
                                self.commits_sent.push((id, space, dot));
                                let fresh = end.commits_sent.insert((space, dot));
                                assert!(fresh, "{dot} was sent twice over one connection");
                            }
                        }
                    }
                    if let SpaceMessage::StateBegin(version) = &message {
                        let host = &self.hosts[id.0];
                        assert!(
                            version.sequence(host.replica()) <= host.sent(space),
                            "own commits are marked as sent before a state with them leaves"
                        );
                    }
                    kind_of(&message)
                }
            };
            *self.frames.entry(kind).or_default() += 1;
        }
        let arrival = (self.now_ms + self.latency_ms, bytes.iter().copied().collect());
        end.outgoing.entry(lane).or_default().push_back(arrival);
        let waiting = end.outgoing.values().flatten().map(|(_, bytes)| bytes.len()).sum();
        self.waiting_bytes_max = self.waiting_bytes_max.max(waiting);
        assert!(waiting < SESSION_WINDOW_BYTES_MAX + (1 << 20), "what waits for a peer is bounded");
    }

    pub(crate) fn frame_count(&self) -> u64 {
        self.frames.values().sum()
    }

    pub(crate) fn count(&self, kind: &str) -> u64 {
        self.frames.get(kind).copied().unwrap_or(0)
    }

    /// Panics unless all hosts hold the same space, byte for byte.
    pub(crate) fn assert_converged(&self, space: SpaceId) {
        let first = self.hosts[0].digest(space);
        for (number, host) in self.hosts.iter().enumerate() {
            assert_eq!(host.digest(space), first, "host {number} differs from host 0");
        }
    }

    /// Panics unless every session says that the space is in sync.
    pub(crate) fn assert_in_sync(&self, space: SpaceId) {
        for (id, end) in &self.ends {
            let status = end.session.space_status(space).unwrap();
            assert!(
                status.in_sync && status.ahead == 0 && status.behind == 0,
                "{id:?}: {status:?}"
            );
        }
    }
}

fn kind_of(message: &SpaceMessage) -> &'static str {
    match message {
        SpaceMessage::Versions { .. } => "versions",
        SpaceMessage::Commits(_) => "commits",
        SpaceMessage::StateBegin(_) => "state begin",
        SpaceMessage::StateRows(_) => "state rows",
        SpaceMessage::StateEnd { complete: true } => "state end",
        SpaceMessage::StateEnd { complete: false } => "state given up",
        SpaceMessage::StateWorking => "state working",
        SpaceMessage::Stop(_) => "stop",
    }
}

impl Network {
    /// Tells all sessions of a host that it offers more.
    pub(crate) fn offer_changed(&mut self, host: usize) {
        let ids: Vec<EndId> = self.ends.keys().filter(|id| id.0 == host).copied().collect();
        for id in ids {
            self.ends.get_mut(&id).unwrap().session.handle_spaces_changed(self.now_ms);
            self.drain(id);
        }
    }

    /// A session of a host with nobody at the other end.
    pub(crate) fn lone_session(&self, host: usize) -> Session {
        let replica = self.hosts[host].replica();
        let local = LocalFacts { replica, wall_time_ms: 0 };
        Session::new(self.config, device(200), local, self.now_ms)
    }
}
