//! What strangers and treacherous peers can do: end their own connection, and nothing else.

use std::collections::BTreeMap;
use std::net::UdpSocket;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rejoin_crdt::ReplicaId;
use rejoin_gossip::CloseReason;
use rejoin_gossip::wire::{
    ControlMessage, FrameError, FrameReader, Hello, Incoming, Lane, PROTOCOL_MAX, PROTOCOL_MIN,
    Preamble, SpaceMessage, Stop,
};

use super::*;
use crate::close::StreamError;
use crate::config::CONNECTION_WINDOW_BYTES;
use crate::inbound::INBOUND_BYTES_MAX;
use crate::outbound::{OUTBOUND_BYTES_MAX, Outbound, STALL_TIMEOUT_MS};
use crate::tls::{self, ExpectedPeers};
use crate::{DeviceKey, endpoint};

/// A device that keeps working for a friend while somebody with an expected key attacks it.
struct Scene {
    victim: Device,
    friend: Device,
    attacker: DeviceKey,
    written: usize,
}

impl Scene {
    async fn new(spaces: &[SpaceId]) -> Self {
        let victim = Device::with(1, MemoryHost::new(1, spaces), 0, impatient());
        let friend = Device::new(2, spaces);
        let attacker = DeviceKey::from_seed([66; 32]);
        victim.expects(&friend);
        victim.network.set_peer(attacker.id(), vec![]).unwrap();
        friend.dials(&victim);
        connected(&victim, &friend).await;
        Self { victim, friend, attacker, written: 0 }
    }

    /// A connection of the attacker's, which has passed the handshake.
    async fn attack(&self) -> Connection {
        dial(&self.attacker, &self.victim).await.unwrap()
    }

    /// Why the victim ended the attacker's connection.
    async fn outcome(&mut self) -> LinkError {
        self.victim.disconnected(self.attacker.id()).await
    }

    async fn still_serves(&mut self) {
        self.friend.write(CART, "all the same");
        self.written += 1;
        converged(&[&self.victim, &self.friend], CART, self.written).await;
        assert_eq!(self.victim.status(&self.friend).counters.reconnects, 0);
    }
}

async fn dial(key: &DeviceKey, to: &Device) -> Result<Connection, quinn::ConnectionError> {
    let config = endpoint::client_config(key, to.id(), &config()).unwrap();
    dial_with(config, to).await
}

async fn dial_with(
    config: quinn::ClientConfig,
    to: &Device,
) -> Result<Connection, quinn::ConnectionError> {
    let endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    endpoint.connect_with(config, to.address(), tls::SERVER_NAME).unwrap().await
}

fn preamble(lane: Lane, protocol: u16) -> Bytes {
    Preamble { lane, protocol }.to_bytes()
}

fn hello(replica: u8, versions: (u16, u16)) -> Bytes {
    let hello = Hello {
        protocol_min: versions.0,
        protocol_max: versions.1,
        replica: ReplicaId::from_bytes([replica; 16]),
        wall_time_ms: 0,
    };
    ControlMessage::Hello(hello).to_frame().unwrap()
}

/// What an honest dialler begins with.
fn greeting() -> Vec<u8> {
    [preamble(Lane::Control, 0), hello(66, (PROTOCOL_MIN, PROTOCOL_MAX))].concat()
}

/// Says hello as an honest peer does, and waits for the victim's.
async fn greet(connection: &Connection) -> (SendStream, RecvStream) {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&greeting()).await.unwrap();
    let mut reader = FrameReader::default();
    loop {
        let chunk =
            receive.read_chunk(usize::MAX, true).await.unwrap().expect("the stream is open");
        reader.push(&chunk.bytes);
        while let Some(part) = reader.next().unwrap() {
            if matches!(part, Incoming::Frame(_)) {
                return (send, receive);
            }
        }
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lie_on_the_control_stream_ends_in_its_own_error() {
    let space = Lane::Space(CART);
    let control = preamble(Lane::Control, 0);
    let frame = |length: u32, payload: &[u8]| [&length.to_le_bytes()[..], payload].concat();
    let mut unknown_lane = control.to_vec();
    unknown_lane[4] = 7;
    let versions = (PROTOCOL_MAX + 1, PROTOCOL_MAX + 9);
    let twice = [greeting(), hello(66, (PROTOCOL_MIN, PROTOCOL_MAX)).to_vec()].concat();
    let lies: Vec<(&str, Vec<u8>, LinkError)> = vec![
        ("another protocol", b"GET / HTTP/1.1\r\n".to_vec(), broken(FrameError::NotOurs)),
        ("an unknown lane", unknown_lane, broken(FrameError::UnknownLane(7))),
        ("half a preamble", control[..5].to_vec(), broken(FrameError::Truncated)),
        ("half a header", [&control[..], &[9, 0]].concat(), broken(FrameError::Truncated)),
        (
            "half a frame",
            [&control[..], &frame(9, b"short")].concat(),
            broken(FrameError::Truncated),
        ),
        ("an empty frame", [&control[..], &frame(0, b"")].concat(), broken(FrameError::Empty)),
        (
            "a frame of 4 GiB",
            [&control[..], &frame(u32::MAX, b"")].concat(),
            broken(FrameError::TooLong {
                length: u32::MAX as usize,
                limit: Lane::Control.frame_bytes_max(),
            }),
        ),
        (
            "a space on the control stream",
            preamble(space, PROTOCOL_MAX).to_vec(),
            StreamError::MisplacedLane(space).into(),
        ),
        ("an end after the hello", greeting(), StreamError::ControlEnded.into()),
        (
            "versions that nobody speaks",
            [control.clone(), hello(66, versions)].concat(),
            LinkError::Session(CloseReason::VersionMismatch {
                ours: (PROTOCOL_MIN, PROTOCOL_MAX),
                theirs: versions,
            }),
        ),
        (
            "the victim's own replica id",
            [control.clone(), hello(1, (PROTOCOL_MIN, PROTOCOL_MAX))].concat(),
            LinkError::Session(CloseReason::SameReplica(ReplicaId::from_bytes([1; 16]))),
        ),
        ("a second hello", twice, LinkError::Session(CloseReason::Violation("a second hello"))),
    ];
    let mut scene = Scene::new(&[CART]).await;
    for (lie, bytes, error) in lies {
        let connection = scene.attack().await;
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        send.finish().unwrap();
        assert_eq!(scene.outcome().await, error, "{lie}");
        assert!(matches!(connection.closed().await, quinn::ConnectionError::ApplicationClosed(_)));
    }
    let connection = scene.attack().await;
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&[&control[..], &frame(3, &[0xff; 3])].concat()).await.unwrap();
    let outcome = scene.outcome().await;
    assert!(matches!(outcome, LinkError::Session(CloseReason::Malformed { .. })), "{outcome}");
    scene.still_serves().await;
}

fn broken(error: FrameError) -> LinkError {
    StreamError::Frame(error).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_of_any_length_ends_the_connection_and_nothing_else() {
    let mut scene = Scene::new(&[CART]).await;
    for seed in 0..100 {
        let connection = scene.attack().await;
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        // With and without an honest beginning.
        let honest = if seed % 2 == 0 { greeting() } else { vec![] };
        let noise = noise(seed, 1 + (seed as usize * 37) % 2_000);
        // The victim may have closed before all of it is written.
        let _ = send.write_all(&[honest, noise].concat()).await;
        let _ = send.finish();
        let outcome = scene.outcome().await;
        assert!(
            matches!(outcome, LinkError::Stream(_) | LinkError::Session(_)),
            "{seed}: {outcome}"
        );
    }
    scene.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_borne_for_the_hello_timeout() {
    let mut scene = Scene::new(&[CART]).await;
    let timeout_ms = impatient().session.hello_timeout_ms;
    let silent = LinkError::Session(CloseReason::HelloTimeout { timeout_ms });

    let nothing = scene.attack().await;
    assert_eq!(scene.outcome().await, silent, "no stream at all");
    drop(nothing);

    let connection = scene.attack().await;
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&greeting()[..20]).await.unwrap();
    assert_eq!(scene.outcome().await, silent, "half a hello");
    scene.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialled_peer_that_accepts_and_says_nothing_is_left_and_dialled_again() {
    let mut scene = Scene::new(&[CART]).await;
    let expected = ExpectedPeers::default();
    expected.insert(scene.victim.id());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let trap = endpoint::bind(address, &scene.attacker, expected, &config()).unwrap();
    let address = trap.local_addr().unwrap();
    scene.victim.network.set_peer(scene.attacker.id(), vec![address]).unwrap();
    let mut held = vec![];
    for _ in 0..3 {
        let incoming = tokio::time::timeout(PATIENCE, trap.accept()).await.unwrap().unwrap();
        held.push(incoming.await.unwrap());
        let outcome = scene.outcome().await;
        assert!(matches!(outcome, LinkError::Session(CloseReason::HelloTimeout { .. })));
    }
    scene.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_get_past_the_handshake() {
    let mut scene = Scene::new(&[CART]).await;
    let failed = |scene: &Scene| scene.victim.network.listener().failed;
    let victim = scene.victim.id();

    let stranger = DeviceKey::from_seed([99; 32]);
    let unknown_key = endpoint::client_config(&stranger, victim, &config()).unwrap();
    assert_refused(&scene, unknown_key).await;
    eventually("it is counted", || failed(&scene) == 1).await;

    let crypto = tls::tests::dialling_with(&scene.attacker, victim, |tls| {
        tls.alpn_protocols = vec![b"h3".to_vec()];
    });
    assert_refused(&scene, client_of(crypto)).await;
    eventually("another protocol is counted", || failed(&scene) == 2).await;

    let crypto = tls::tests::dialling_with(&scene.attacker, victim, |tls| {
        tls.client_auth_cert_resolver = Arc::new(NoKey);
    });
    assert_refused(&scene, client_of(crypto)).await;
    eventually("no key at all is counted", || failed(&scene) == 3).await;

    let status = scene.victim.network.peer_status(scene.attacker.id()).unwrap();
    assert_eq!((status.counters.connects, status.counters.bytes_received), (0, 0));
    scene.still_serves().await;
}

fn client_of(crypto: QuicClientConfig) -> quinn::ClientConfig {
    quinn::ClientConfig::new(Arc::new(crypto))
}

/// The dialler may be told that it is connected before it is refused; it is refused all the same.
async fn assert_refused(scene: &Scene, config: quinn::ClientConfig) {
    if let Ok(connection) = dial_with(config, &scene.victim).await {
        let closed = connection.closed().await;
        assert!(matches!(closed, quinn::ConnectionError::ConnectionClosed(_)), "{closed}");
    }
}

/// A client that proves nothing.
#[derive(Debug)]
struct NoKey;

impl rustls::client::ResolvesClientCert for NoKey {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_opened_before_the_hello_are_not_read() {
    let mut scene = Scene::new(&[CART]).await;
    let connection = scene.attack().await;
    let mut lanes = vec![];
    // Each brings as much as it can; together they are held to the connection's window.
    let flood = async {
        while let Ok(mut lane) = connection.open_uni().await {
            let _ = lane.write_all(&noise(1, 10_000)).await;
            lanes.push(lane);
        }
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        () = flood => unreachable!("it never ends"),
        outcome = scene.victim.disconnected(scene.attacker.id()) => outcome,
    };
    assert!(matches!(outcome, LinkError::Session(CloseReason::HelloTimeout { .. })), "{outcome}");
    let status = scene.victim.network.peer_status(scene.attacker.id()).unwrap();
    assert_eq!(status.counters.bytes_received, 0);
    scene.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_frames_on_many_lanes_are_held_to_a_limit() {
    let spaces: Vec<SpaceId> =
        (0..200).map(|number| SpaceId::from_bytes([number; 32])).chain([CART]).collect();
    let mut scene = Scene::new(&spaces).await;
    let connection = scene.attack().await;
    let _control = greet(&connection).await;
    // The spaces are offered a moment after the hello.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut lanes = vec![];
    let flood = async {
        for space in spaces {
            let lane = Lane::Space(space);
            let Ok(mut stream) = connection.open_uni().await else { break };
            let length = u32::try_from(lane.frame_bytes_max()).unwrap();
            let begun = [&preamble(lane, PROTOCOL_MAX)[..], &length.to_le_bytes()].concat();
            let _ = stream.write_all(&begun).await;
            let _ = stream.write_all(&vec![0; 1 << 20]).await;
            lanes.push(stream);
        }
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        () = flood => unreachable!("it never ends"),
        outcome = scene.victim.disconnected(scene.attacker.id()) => outcome,
    };
    assert_eq!(outcome, LinkError::Stream(StreamError::TooMuchUnfinished));
    let status = scene.victim.network.peer_status(scene.attacker.id()).unwrap();
    let most = INBOUND_BYTES_MAX as u64 + u64::from(CONNECTION_WINDOW_BYTES);
    assert!(status.counters.bytes_received <= most, "{}", status.counters.bytes_received);
    scene.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_held_to_what_the_protocol_needs() {
    let mut scene = Scene::new(&[CART]).await;

    let connection = scene.attack().await;
    let _control = greet(&connection).await;
    let second = tokio::time::timeout(Duration::from_millis(300), connection.open_bi()).await;
    assert!(second.is_err(), "there is one two-way stream");
    let mut lane = connection.open_uni().await.unwrap();
    lane.write_all(&preamble(Lane::Control, 0)).await.unwrap();
    let misplaced = StreamError::MisplacedLane(Lane::Control);
    assert_eq!(scene.outcome().await, LinkError::Stream(misplaced));

    let connection = scene.attack().await;
    let _control = greet(&connection).await;
    let nowhere = Lane::Space(SpaceId::from_bytes([0; 32]));
    let mut lane = connection.open_uni().await.unwrap();
    lane.write_all(&preamble(nowhere, PROTOCOL_MAX)).await.unwrap();
    assert!(matches!(scene.outcome().await, LinkError::Session(CloseReason::Violation(_))));

    let connection = scene.attack().await;
    let (mut send, _receive) = greet(&connection).await;
    send.reset(0u32.into()).unwrap();
    assert_eq!(scene.outcome().await, LinkError::Stream(StreamError::Reset));

    let connection = scene.attack().await;
    let mut lane = connection.open_uni().await.unwrap();
    lane.finish().unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&greeting()).await.unwrap();
    assert_eq!(scene.outcome().await, broken(FrameError::Truncated), "an empty lane");
    scene.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_may_end_but_not_come_twice() {
    let mut scene = Scene::new(&[CART]).await;
    let connection = scene.attack().await;
    let _control = greet(&connection).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begin = [
        preamble(Lane::Space(CART), PROTOCOL_MAX),
        SpaceMessage::Stop(Stop::Storage).to_frame().unwrap(),
    ]
    .concat();
    let mut lane = connection.open_uni().await.unwrap();
    lane.write_all(&begin).await.unwrap();
    lane.finish().unwrap();
    lane.stopped().await.unwrap();
    assert_eq!(connection.close_reason(), None);
    let mut again = connection.open_uni().await.unwrap();
    again.write_all(&begin).await.unwrap();
    assert!(matches!(scene.outcome().await, LinkError::Session(CloseReason::Violation(_))));
    scene.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_never_end_leave_room_for_others() {
    let mut scene = Scene::new(&[CART]).await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for datagram in first_flights(&scene, 200).await {
        socket.send_to(&datagram, scene.victim.address()).unwrap();
    }
    let handshakes = Arc::clone(&scene.victim.network.shared.handshakes);
    eventually("the flood arrives", || handshakes.in_progress() > 0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let let_in = handshakes.in_progress();
    assert!(let_in <= impatient().handshakes_max.div_ceil(4), "{let_in} of 200");
    let newcomer = Device::new(3, &[CART]);
    scene.victim.expects(&newcomer);
    newcomer.dials(&scene.victim);
    connected(&scene.victim, &newcomer).await;
    eventually("those that were let in time out", || {
        let listener = scene.victim.network.listener();
        listener.failed > 0 && handshakes.in_progress() == 0
    })
    .await;
    scene.still_serves().await;
}

/// What so many dials send before they hear anything.
async fn first_flights(scene: &Scene, dials: usize) -> Vec<Vec<u8>> {
    let ear = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = ear.local_addr().unwrap();
    let endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let mut buffer = vec![0; 65_536];
    // Dropped, a dial would tell that it is over.
    let (mut flights, mut pending) = (vec![], vec![]);
    for _ in 0..dials {
        let config = endpoint::client_config(&scene.attacker, scene.victim.id(), &config());
        let connecting = endpoint.connect_with(config.unwrap(), address, tls::SERVER_NAME).unwrap();
        // The keys of the hybrid exchange fill more than one datagram.
        for _ in 0..2 {
            let (length, _) = ear.recv_from(&mut buffer).await.unwrap();
            flights.push(buffer[..length].to_vec());
        }
        pending.push(connecting);
    }
    flights
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_noise_are_ignored() {
    let mut scene = Scene::new(&[CART]).await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for seed in 0..5_000 {
        socket.send_to(&noise(seed, 1 + seed as usize % 1_400), scene.victim.address()).unwrap();
    }
    let initial = first_flights(&scene, 10).await;
    for seed in 0..1_000usize {
        let mut datagram = initial[seed % initial.len()].clone();
        let bit = seed * 7_919 % (datagram.len() * 8);
        datagram[bit / 8] ^= 1 << (bit % 8);
        socket.send_to(&datagram, scene.victim.address()).unwrap();
    }
    scene.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_reads_nothing_is_cut_off_by_bytes_and_by_time() {
    let scene = Scene::new(&[CART]).await;
    let connection = scene.attack().await;
    let lane = Lane::Space(CART);
    let piece = Bytes::from(vec![0; 1 << 20]);

    // The other end reads no lane before a hello that never comes.
    let mut outbound = Outbound::new(connection.clone(), Arc::default());
    let sent = (0..1_000).take_while(|_| outbound.send(lane, piece.clone()).is_ok()).count();
    assert_eq!(sent, OUTBOUND_BYTES_MAX / piece.len());

    let traffic = Arc::default();
    let mut outbound = Outbound::new(connection, Arc::clone(&traffic));
    assert_eq!(outbound.stall_at_ms(), None, "nothing is under way");
    assert!(!outbound.is_stalled(10 * STALL_TIMEOUT_MS));
    for _ in 0..12 {
        outbound.send(lane, piece.clone()).unwrap();
    }
    let mut sent = 0;
    eventually("the windows are full", || {
        let before = std::mem::replace(&mut sent, traffic_sent(&traffic));
        std::thread::sleep(Duration::from_millis(50));
        sent > 0 && sent == before
    })
    .await;
    let start_ms = 20 * STALL_TIMEOUT_MS;
    assert!(!outbound.is_stalled(start_ms), "something has moved since it was last asked");
    assert_eq!(outbound.stall_at_ms(), Some(start_ms + STALL_TIMEOUT_MS));
    assert!(!outbound.is_stalled(start_ms + STALL_TIMEOUT_MS - 1));
    assert!(outbound.is_stalled(start_ms + STALL_TIMEOUT_MS));
}

fn traffic_sent(traffic: &crate::peers::Traffic) -> u64 {
    traffic.sent.load(std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expected_key_that_dials_without_end_holds_one_connection() {
    let mut scene = Scene::new(&[CART]).await;
    let mut connections = BTreeMap::new();
    for number in 0..50 {
        connections.insert(number, scene.attack().await);
    }
    eventually("all but the last are closed", || {
        let open = |connection: &&Connection| connection.close_reason().is_none();
        connections.values().filter(open).count() <= 1
    })
    .await;
    assert!(connections[&49].close_reason().is_none());
    scene.still_serves().await;
}
