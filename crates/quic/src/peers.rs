//! The peers of a network: for each, what was configured, its one live connection, and when to dial it.
//!
//! Plain state behind one lock per peer; the tasks around it are in `network` and `dial`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use quinn::Connection;
use rejoin_crdt::SpaceId;
use rejoin_gossip::{DeviceId, Redial, RedialConfig, SpaceStatus};
use tokio::sync::Notify;

use crate::close::{LinkError, NetworkClose};
use crate::duplicates::{DialledBy, Verdict, resolve};
use crate::inbox::Inbox;

/// One expected device.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) device: DeviceId,
    pub(crate) traffic: Arc<Traffic>,
    /// Held by the one session that runs: a new one starts when the one it replaces has let go of storage.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Signalled on every change that the dialling task may have to act on.
    changed: Notify,
    state: Mutex<State>,
}

/// Application bytes of one peer over all its connections: stream preambles, frame headers and frame payloads as
/// handed to and taken from QUIC. Packet headers, encryption and retransmissions are not in it.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

/// What has happened with one peer since it was added. Counts only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCounters {
    /// Bytes of stream preambles and frames (header and payload) handed to QUIC. Packet headers, encryption and
    /// retransmissions are not in it.
    pub bytes_sent: u64,
    /// Bytes of stream preambles and frames received from QUIC, counted as `bytes_sent` is.
    pub bytes_received: u64,
    /// Sessions that were established: both ends had said hello.
    pub connects: u64,
    /// Of these, all but the first.
    pub reconnects: u64,
    /// Dials that came to nothing.
    pub dials_failed: u64,
    /// Connections of the peer's that were refused here, whatever for.
    pub refused: u64,
}

/// How it stands with one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Who it is.
    pub device: DeviceId,
    /// Where it is dialled, in this order. Empty: it is only waited for.
    pub addresses: Vec<SocketAddr>,
    /// Whether a connection is wanted; see [`QuicNetwork::set_link`](crate::QuicNetwork::set_link).
    pub link_up: bool,
    /// The live connection, once both ends have said hello.
    pub connection: Option<ConnectionStatus>,
    /// What has happened so far.
    pub counters: PeerCounters,
    /// Why the last connection ended or was not made.
    pub last_error: Option<LinkError>,
}

/// A live connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStatus {
    /// Where the peer's packets come from.
    pub address: SocketAddr,
    /// Whether this end dialled it.
    pub dialled_by_us: bool,
    /// QUIC's current estimate of the round trip.
    pub round_trip: Duration,
}

/// What the dialling task should do now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DialStep {
    Dial(SocketAddr),
    /// In milliseconds of the network's clock.
    WaitUntil(u64),
    /// Nothing to do until something changes.
    Wait,
    Stop,
}

/// A connection that was let in: the key to [`Peer::established`] and [`Peer::ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Serial(u64);

#[derive(Debug)]
struct State {
    addresses: Vec<SocketAddr>,
    /// Counts dials, so that each goes to the next address.
    dials: usize,
    up: bool,
    removed: bool,
    live: Option<Live>,
    last_serial: u64,
    redial: Redial,
    dial_at_ms: u64,
    connects: u64,
    dials_failed: u64,
    refused: u64,
    last_error: Option<LinkError>,
}

#[derive(Debug)]
struct Live {
    link: Arc<Link>,
    serial: Serial,
    since_ms: u64,
    established: bool,
}

/// One connection to a peer, shared by whoever may close it and the session that runs on it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) dialled_by: DialledBy,
    pub(crate) inbox: Inbox,
    /// How each shared space stands, as the session last said.
    spaces: Mutex<BTreeMap<SpaceId, SpaceStatus>>,
    /// Why this end closed it, which QUIC does not remember.
    closed: OnceLock<NetworkClose>,
}

impl Link {
    pub(crate) fn new(connection: Connection, dialled_by: DialledBy) -> Arc<Self> {
        Arc::new(Self {
            connection,
            dialled_by,
            inbox: Inbox::default(),
            spaces: Mutex::default(),
            closed: OnceLock::new(),
        })
    }

    pub(crate) fn spaces(&self) -> MutexGuard<'_, BTreeMap<SpaceId, SpaceStatus>> {
        // The map is whole after every step, so a panic elsewhere under the lock cannot have broken it.
        self.spaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection. Only the first reason counts.
    pub(crate) fn close(&self, reason: NetworkClose) {
        // It fails when there is a reason already.
        let _ = self.closed.set(reason);
        reason.close(&self.connection);
    }

    /// Completes with the reason when the connection has ended.
    pub(crate) async fn ended(&self) -> LinkError {
        self.error(LinkError::of_connection(&self.connection.closed().await))
    }

    /// What really ended the connection, given what an operation on it came to.
    pub(crate) fn error(&self, error: LinkError) -> LinkError {
        match (error, self.closed.get()) {
            (LinkError::Closed(_), Some(reason)) => LinkError::Closed(*reason),
            (error, _) => error,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }
}

impl Peer {
    /// A peer with its link up, to be dialled at once where `addresses` are known.
    pub(crate) fn new(
        us: DeviceId,
        device: DeviceId,
        addresses: Vec<SocketAddr>,
        redial: RedialConfig,
    ) -> Self {
        Self {
            device,
            traffic: Arc::default(),
            turn: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            state: Mutex::new(State {
                addresses,
                dials: 0,
                up: true,
                removed: false,
                live: None,
                last_serial: 0,
                redial: Redial::new(redial, jitter_seed(us, device)),
                dial_at_ms: 0,
                connects: 0,
                dials_failed: 0,
                refused: 0,
                last_error: None,
            }),
        }
    }

    /// Takes the place of the addresses known so far. A dial under way ends, and the next starts at once.
    pub(crate) fn set_addresses(&self, addresses: Vec<SocketAddr>, now_ms: u64) {
        let mut state = self.state();
        if state.addresses != addresses {
            state.addresses = addresses;
            state.dials = 0;
            state.dial_now(now_ms);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Whether a connection is wanted. Down closes the live one; up dials at once.
    pub(crate) fn set_link(&self, up: bool, now_ms: u64) {
        let mut state = self.state();
        if state.up == up {
            return;
        }
        state.up = up;
        state.dial_now(now_ms);
        if !up {
            state.close_live(NetworkClose::LinkDown);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The peer is no longer expected: its connection closes and its dialling task stops.
    pub(crate) fn remove(&self) {
        let mut state = self.state();
        state.removed = true;
        state.close_live(NetworkClose::NotExpected);
        drop(state);
        self.changed.notify_one();
    }

    /// Completes when something changed since the last call: for one waiter, the dialling task.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn next_dial(&self, now_ms: u64) -> DialStep {
        let state = self.state();
        if state.removed {
            DialStep::Stop
        } else if !state.up || state.is_connected() || state.addresses.is_empty() {
            DialStep::Wait
        } else if state.dial_at_ms > now_ms {
            DialStep::WaitUntil(state.dial_at_ms)
        } else {
            DialStep::Dial(state.addresses[state.dials % state.addresses.len()])
        }
    }

    /// A dial came to nothing: the next one goes to the next address, later.
    pub(crate) fn dial_failed(&self, error: LinkError, now_ms: u64) {
        let mut state = self.state();
        state.dials = state.dials.wrapping_add(1);
        state.dials_failed += 1;
        state.last_error = Some(error);
        state.dial_later(now_ms);
    }

    /// Lets a connection in whose other end has proved to be this peer, or says why not; closes the one that it
    /// replaces. At most one connection is live at a time.
    pub(crate) fn admit(
        &self,
        us: DeviceId,
        link: &Arc<Link>,
        dial_timeout: Duration,
        now_ms: u64,
    ) -> Result<Serial, NetworkClose> {
        let mut state = self.state();
        state.may_admit(us, self.device, link.dialled_by, dial_timeout, now_ms)?;
        state.close_live(NetworkClose::Replaced);
        state.last_serial += 1;
        let serial = Serial(state.last_serial);
        state.live =
            Some(Live { link: Arc::clone(link), serial, since_ms: now_ms, established: false });
        drop(state);
        self.changed.notify_one();
        Ok(serial)
    }

    /// Counts a connection of the peer's that was not let in.
    pub(crate) fn count_refused(&self) {
        self.state().refused += 1;
    }

    /// Both ends of a connection have said hello.
    pub(crate) fn established(&self, serial: Serial, now_ms: u64) {
        let mut state = self.state();
        state.connects += 1;
        state.redial.connected(now_ms);
        if let Some(live) = state.live.as_mut().filter(|live| live.serial == serial) {
            live.established = true;
        }
    }

    /// A connection has ended. A dial is due after a while, unless another connection has taken its place.
    pub(crate) fn ended(&self, serial: Serial, error: LinkError, now_ms: u64) {
        let mut state = self.state();
        if state.live.as_ref().is_some_and(|live| live.serial == serial) {
            state.live = None;
            state.last_error = Some(error);
            // A link that was taken down comes back at once when it is put up, whatever happened before.
            if state.up {
                state.dial_later(now_ms);
            }
            drop(state);
            self.changed.notify_one();
        }
    }

    /// The live connection.
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        self.state().live.as_ref().map(|live| Arc::clone(&live.link))
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.state().is_connected()
    }

    pub(crate) fn status(&self) -> PeerStatus {
        let state = self.state();
        PeerStatus {
            device: self.device,
            addresses: state.addresses.clone(),
            link_up: state.up,
            connection: state.live.as_ref().filter(|live| live.established).map(Live::status),
            counters: PeerCounters {
                bytes_sent: self.traffic.sent.load(Ordering::Relaxed),
                bytes_received: self.traffic.received.load(Ordering::Relaxed),
                connects: state.connects,
                reconnects: state.connects.saturating_sub(1),
                dials_failed: state.dials_failed,
                refused: state.refused,
            },
            last_error: state.last_error.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every method leaves the state whole before anything in it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_connected(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.link.is_open())
    }

    fn may_admit(
        &self,
        us: DeviceId,
        peer: DeviceId,
        dialled_by: DialledBy,
        dial_timeout: Duration,
        now_ms: u64,
    ) -> Result<(), NetworkClose> {
        if self.removed {
            return Err(NetworkClose::NotExpected);
        }
        if !self.up {
            return Err(NetworkClose::LinkDown);
        }
        let age = |live: &Live| Duration::from_millis(now_ms.saturating_sub(live.since_ms));
        let existing = self.live.as_ref().filter(|live| live.link.is_open());
        let existing = existing.map(|live| (live.link.dialled_by, age(live)));
        match resolve(us, peer, existing, dialled_by, dial_timeout) {
            Verdict::Keep => Ok(()),
            Verdict::Refuse => Err(NetworkClose::Duplicate),
        }
    }

    fn close_live(&self, reason: NetworkClose) {
        if let Some(live) = &self.live {
            live.link.close(reason);
        }
    }

    fn dial_now(&mut self, now_ms: u64) {
        self.redial.reset();
        self.dial_at_ms = now_ms;
    }

    fn dial_later(&mut self, now_ms: u64) {
        self.dial_at_ms = now_ms.saturating_add(self.redial.failed(now_ms));
    }
}

impl Live {
    fn status(&self) -> ConnectionStatus {
        ConnectionStatus {
            address: self.link.connection.remote_address(),
            dialled_by_us: self.link.dialled_by == DialledBy::Us,
            round_trip: self.link.connection.rtt(),
        }
    }
}

/// Differs for every peer of a replica and every replica of a peer, as [`Redial`] asks, and needs no random source.
fn jitter_seed(us: DeviceId, peer: DeviceId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(us.as_bytes()).update(peer.as_bytes());
    let mut seed = [0; 8];
    hasher.finalize_xof().fill(&mut seed);
    u64::from_le_bytes(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: DeviceId = DeviceId::from_bytes([1; 32]);
    const PEER: DeviceId = DeviceId::from_bytes([2; 32]);

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn peer(ports: &[u16]) -> Peer {
        let addresses = ports.iter().map(|port| address(*port)).collect();
        Peer::new(US, PEER, addresses, RedialConfig::default())
    }

    /// Goes to the time of the next dial; where it goes to, and when.
    fn next(peer: &Peer, now_ms: u64) -> (SocketAddr, u64) {
        match peer.next_dial(now_ms) {
            DialStep::Dial(address) => (address, now_ms),
            DialStep::WaitUntil(at_ms) => {
                assert!(at_ms > now_ms);
                next(peer, at_ms)
            }
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn a_peer_that_does_not_answer_is_dialled_at_each_address_in_turn_and_ever_more_rarely() {
        let peer = peer(&[1, 2, 3]);
        let (mut now_ms, mut waits) = (0, vec![]);
        for dial in 0..60 {
            let (to, at_ms) = next(&peer, now_ms);
            assert_eq!(to, address([1, 2, 3][dial % 3]));
            waits.push(at_ms - now_ms);
            now_ms = at_ms;
            peer.dial_failed(LinkError::TimedOut, now_ms);
        }
        assert_eq!(waits[0], 0, "the first dial is made at once");
        assert!(waits[1..6].iter().sum::<u64>() < 5_000);
        assert!(waits[20..].iter().all(|wait| (15_000..45_000).contains(wait)));
        assert_eq!(peer.status().counters.dials_failed, 60);
        assert_eq!(peer.status().last_error, Some(LinkError::TimedOut));
    }

    #[test]
    fn a_link_put_up_and_a_new_address_are_dialled_at_once() {
        let peer = peer(&[1]);
        for _ in 0..20 {
            peer.dial_failed(LinkError::TimedOut, 0);
        }
        assert!(matches!(peer.next_dial(1), DialStep::WaitUntil(at_ms) if at_ms > 10_000));
        peer.set_link(false, 1);
        assert_eq!(peer.next_dial(u64::MAX), DialStep::Wait);
        peer.set_link(true, 2);
        assert_eq!(peer.next_dial(2), DialStep::Dial(address(1)));

        peer.dial_failed(LinkError::TimedOut, 2);
        peer.set_addresses(vec![address(1)], 3);
        assert!(matches!(peer.next_dial(3), DialStep::WaitUntil(_)), "nothing has changed");
        peer.set_addresses(vec![address(9)], 3);
        assert_eq!(peer.next_dial(3), DialStep::Dial(address(9)));
    }

    #[test]
    fn a_peer_without_addresses_is_waited_for_and_a_removed_one_is_not() {
        let peer = peer(&[]);
        assert_eq!(peer.next_dial(0), DialStep::Wait);
        peer.remove();
        assert_eq!(peer.next_dial(0), DialStep::Stop);
    }
}
