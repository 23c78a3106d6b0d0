//! How connections come, go and come back.

use std::sync::atomic::Ordering;

use super::*;
use crate::NetworkClose;
use crate::close::StreamError;

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_exchange_what_they_wrote_before_and_after_they_met() {
    let (a, b) = (Device::new(1, &[CART]), Device::new(2, &[CART]));
    a.write(CART, "before, at a");
    b.write(CART, "before, at b");
    b.expects(&a);
    a.dials(&b);
    converged(&[&a, &b], CART, 2).await;
    a.write(CART, "after, at a");
    b.write(CART, "after, at b");
    converged(&[&a, &b], CART, 4).await;

    let (at_a, at_b) = (a.status(&b), b.status(&a));
    assert!(at_a.connection.as_ref().unwrap().dialled_by_us);
    assert!(!at_b.connection.as_ref().unwrap().dialled_by_us);
    assert_eq!((at_a.counters.connects, at_a.counters.reconnects), (1, 0));
    assert!(at_a.counters.bytes_sent > 0 && at_a.counters.bytes_received > 0);
    eventually("what one sent the other received", || {
        a.status(&b).counters.bytes_sent == b.status(&a).counters.bytes_received
            && b.status(&a).counters.bytes_sent == a.status(&b).counters.bytes_received
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_larger_than_every_window_pass_both_ways_at_once() {
    let (a, b) = (Device::new(1, &[CART]), Device::new(2, &[CART]));
    for number in 0..4 {
        a.write(CART, vec![number; 4_000_000]);
        b.write(CART, vec![number; 3_000_000]);
    }
    b.expects(&a);
    a.dials(&b);
    converged(&[&a, &b], CART, 8).await;
    assert!(a.status(&b).counters.bytes_sent > 16_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_spaces_as_can_be_shared_sync_over_one_connection() {
    let spaces: Vec<SpaceId> = (0..rejoin_gossip::wire::SPACES_MAX as u32)
        .map(|number| {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            SpaceId::from_bytes(id)
        })
        .collect();
    let (a, b) = (Device::new(1, &spaces), Device::new(2, &spaces));
    for space in &spaces {
        a.write(*space, "from a");
        b.write(*space, "from b");
    }
    b.expects(&a);
    a.dials(&b);
    for space in &spaces {
        converged(&[&a, &b], *space, 2).await;
    }
    assert_eq!(a.status(&b).counters.connects, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_space_that_both_add_later_is_synced_over_the_same_connection() {
    let (a, b) = (Device::new(1, &[CART]), Device::new(2, &[CART]));
    b.expects(&a);
    a.dials(&b);
    connected(&a, &b).await;
    let late = SpaceId::from_bytes([0x1a; 32]);
    for device in [&a, &b] {
        device.host.add_space(late);
        device.write(late, "late");
        device.network.spaces_changed();
    }
    converged(&[&a, &b], late, 2).await;
    assert_eq!(a.status(&b).counters.connects, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_space_stands_with_a_peer_can_be_asked_at_any_time() {
    let (a, b) = (Device::new(1, &[CART]), Device::new(2, &[CART]));
    assert_eq!(a.network.space_status(b.id(), CART), None);
    b.expects(&a);
    a.dials(&b);
    let in_sync = |at: &Device, with: &Device| {
        let status = at.network.space_status(with.id(), CART);
        status.is_some_and(|status| status.in_sync && status.ahead == 0 && status.behind == 0)
    };
    eventually("both are in sync", || in_sync(&a, &b) && in_sync(&b, &a)).await;

    *b.host.apply_takes.lock().unwrap() = Duration::from_secs(1);
    a.write(CART, "one");
    a.write(CART, "two");
    eventually("a is ahead", || {
        a.network.space_status(b.id(), CART).is_some_and(|status| status.ahead == 2)
    })
    .await;
    eventually("a is in sync again", || in_sync(&a, &b)).await;
    a.network.set_link(b.id(), false).unwrap();
    eventually("nothing is known", || a.network.space_status(b.id(), CART).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_taken_down_at_one_end_stays_down_and_comes_back_at_once() {
    let (mut a, mut b) = (Device::new(1, &[CART]), Device::new(2, &[CART]));
    a.dials(&b);
    b.dials(&a);
    connected(&a, &b).await;

    a.network.set_link(b.id(), false).unwrap();
    let (id_a, id_b) = (a.id(), b.id());
    loop {
        let seen = b.disconnected(id_a).await;
        if let LinkError::ClosedByPeer { code, .. } = seen
            && NetworkClose::from_code(code) == Some(NetworkClose::LinkDown)
        {
            break;
        }
    }
    while a.disconnected(id_b).await != LinkError::Closed(NetworkClose::LinkDown) {}
    a.write(CART, "in the tunnel");
    b.write(CART, "outside");
    eventually("b is refused while it dials", || a.status(&b).counters.refused >= 2).await;
    assert!(a.status(&b).connection.is_none() && b.status(&a).connection.is_none());
    assert_eq!((a.host.commits(CART).len(), b.host.commits(CART).len()), (1, 1));

    a.network.set_link(b.id(), true).unwrap();
    converged(&[&a, &b], CART, 2).await;
    assert!(a.status(&b).counters.reconnects >= 1);
    assert!(a.status(&b).link_up);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_not_expected_is_refused_until_it_is() {
    let (a, b) = (Device::new(1, &[CART]), Device::new(2, &[CART]));
    a.write(CART, "hello?");
    a.dials(&b);
    eventually("a hears why", || a.status(&b).last_error == Some(LinkError::Unexpected)).await;
    assert!(b.network.listener().failed >= 1);
    assert!(b.host.commits(CART).is_empty());
    assert_eq!(a.status(&b).counters.connects, 0, "being connected is not being let in");

    b.expects(&a);
    converged(&[&a, &b], CART, 1).await;

    b.network.remove_peer(a.id()).unwrap();
    a.write(CART, "still there?");
    eventually("a is refused again", || {
        a.status(&b).connection.is_none() && a.status(&b).last_error == Some(LinkError::Unexpected)
    })
    .await;
    assert_eq!(b.host.commits(CART).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_device_at_the_address_is_not_taken_for_the_peer() {
    let (a, b, c) = (Device::new(1, &[CART]), Device::new(2, &[CART]), Device::new(3, &[CART]));
    c.expects(&a);
    a.network.set_peer(b.id(), vec![c.address()]).unwrap();
    // Not even when it is expected itself.
    a.expects(&c);
    eventually("a sees it", || a.status(&b).last_error == Some(LinkError::OtherDevice)).await;
    assert!(a.status(&c).connection.is_none());

    // The second address is the right one, and is tried in its turn.
    b.expects(&a);
    a.network.set_peer(b.id(), vec![c.address(), b.address()]).unwrap();
    connected(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_all_dial_each_other_settle_on_one_connection_per_pair() {
    let device = |number| Device::with(number, MemoryHost::new(number, &[CART]), 0, impatient());
    let devices: Vec<Device> = (1..=6).map(device).collect();
    let pairs: Vec<(&Device, &Device)> = devices
        .iter()
        .flat_map(|a| devices.iter().map(move |b| (a, b)))
        .filter(|(a, b)| a.id() != b.id())
        .collect();
    for (a, b) in &pairs {
        a.dials(b);
    }
    for (a, b) in &pairs {
        connected(a, b).await;
    }
    // Whatever was under way when they met has landed after a dial's longest time.
    tokio::time::sleep(impatient().handshake_timeout()).await;
    let connects = || pairs.iter().map(|(a, b)| a.status(b).counters.connects).collect::<Vec<_>>();
    let before = connects();
    tokio::time::sleep(impatient().handshake_timeout()).await;
    assert_eq!(before, connects(), "nothing flaps");
    for (a, b) in &pairs {
        let (at_a, at_b) = (a.status(b).connection.unwrap(), b.status(a).connection.unwrap());
        assert_ne!(at_a.dialled_by_us, at_b.dialled_by_us, "both ends keep the same one");
    }
    for device in &devices {
        device.write(CART, "to all");
    }
    let all: Vec<&Device> = devices.iter().collect();
    // The networks do not tell each other's sessions what peers brought: the mesh is complete.
    converged(&all, CART, devices.len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_restarts_is_noticed_long_before_the_idle_timeout() {
    let (mut a, b) = (Device::new(1, &[CART]), Device::new(2, &[CART]));
    b.expects(&a);
    a.dials(&b);
    connected(&a, &b).await;
    let (id_b, port, host) = (b.id(), b.address().port(), b.host.clone());
    crash(b).await;
    // It is back at the same address, and knows nothing of the connection that `a` holds.
    let b = Device::with(2, host, port, config());
    b.expects(&a);
    a.write(CART, "are you there?");
    assert_eq!(a.disconnected(id_b).await, LinkError::Restarted);
    converged(&[&a, &b], CART, 1).await;
}

/// Ends a device without a word to its peers, as a crash does.
async fn crash(device: Device) {
    let shared = Arc::clone(&device.network.shared);
    let dead = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // From here on it talks from a socket that nobody knows; its port is free.
    shared.endpoint.rebind(dead).unwrap();
    for peer in shared.peers().values() {
        peer.remove();
    }
    let address = device.address();
    drop((device, shared));
    eventually("the port is free", || std::net::UdpSocket::bind(address).is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn close_leaves_the_address_free() {
    let b = Device::new(2, &[CART]);
    let mut a = Device::new(1, &[CART]);
    b.expects(&a);
    for _ in 0..10 {
        a.dials(&b);
        connected(&a, &b).await;
        a.network.close().await;
        let (host, port) = (Arc::clone(&a.host), a.address().port());
        a = Device::with(1, host, port, config());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_moved_is_found_at_its_new_address() {
    let (a, b) = (Device::new(1, &[CART]), Device::new(2, &[CART]));
    b.expects(&a);
    a.dials(&b);
    connected(&a, &b).await;
    let host = b.host.clone();
    b.network.close().await;
    let b = Device::with(2, host, 0, config());
    b.expects(&a);
    a.dials(&b);
    a.write(CART, "there you are");
    converged(&[&a, &b], CART, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_start_over_when_told_to() {
    let (mut a, b) = (Device::new(1, &[CART]), Device::new(2, &[CART]));
    b.expects(&a);
    a.dials(&b);
    connected(&a, &b).await;
    a.network.reconnect();
    let id_b = b.id();
    assert_eq!(a.disconnected(id_b).await, LinkError::Closed(NetworkClose::Reconnect));
    eventually("it is back", || a.status(&b).counters.reconnects == 1).await;
    a.write(CART, "again");
    converged(&[&a, &b], CART, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_network_refuses_more_and_serves_those_it_has() {
    let hub = Device::with(
        9,
        MemoryHost::new(9, &[CART]),
        0,
        NetworkConfig { connections_max: 2, ..config() },
    );
    let (a, b, c) = (Device::new(1, &[CART]), Device::new(2, &[CART]), Device::new(3, &[CART]));
    for device in [&a, &b] {
        hub.expects(device);
        device.dials(&hub);
        connected(device, &hub).await;
    }
    hub.expects(&c);
    c.dials(&hub);
    let full = u64::from(NetworkClose::TooManyConnections.code());
    eventually("c hears that there is no place", || {
        matches!(c.status(&hub).last_error, Some(LinkError::ClosedByPeer { code, .. }) if code == full)
    })
    .await;
    a.write(CART, "from a");
    b.write(CART, "from b");
    eventually("the two are served", || hub.host.commits(CART).len() == 2).await;
    assert!(c.status(&hub).connection.is_none());

    hub.network.remove_peer(b.id()).unwrap();
    connected(&c, &hub).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn close_returns_when_no_call_to_the_host_is_under_way() {
    let (a, b) = (Device::new(1, &[CART]), Device::new(2, &[CART]));
    *b.host.apply_takes.lock().unwrap() = Duration::from_millis(300);
    b.expects(&a);
    a.dials(&b);
    connected(&a, &b).await;
    a.write(CART, "slow to take in");
    eventually("the host is at work", || b.host.busy.load(Ordering::SeqCst) > 0).await;
    b.network.close().await;
    assert_eq!(b.host.busy.load(Ordering::SeqCst), 0);
    assert!(b.network.peer_status(a.id()).is_some_and(|peer| peer.connection.is_none()));
    b.network.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_panics_costs_one_connection() {
    let (a, mut b) = (Device::new(1, &[CART]), Device::new(2, &[CART]));
    b.expects(&a);
    a.dials(&b);
    connected(&a, &b).await;
    b.host.panics.store(true, Ordering::SeqCst);
    a.write(CART, "ouch");
    let id_a = a.id();
    assert_eq!(b.disconnected(id_a).await, LinkError::HOST_PANICKED);
    converged(&[&a, &b], CART, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_events_that_lags_is_told_how_many_it_missed() {
    let a = Device::new(1, &[]);
    let mut events = a.network.events();
    let device = DeviceKey::from_seed([2; 32]).id();
    for _ in 0..crate::EVENTS_MAX + 7 {
        let error = LinkError::Stream(StreamError::Stalled);
        a.network.shared.emit(NetworkEvent::Disconnected { device, error });
    }
    assert_eq!(events.next().await, Some(NetworkEvent::Missed(7)));
    a.network.close().await;
    for _ in 0..crate::EVENTS_MAX {
        assert!(matches!(events.next().await, Some(NetworkEvent::Disconnected { .. })));
    }
    assert_eq!(events.next().await, None);
    assert_eq!(a.network.events().next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_host_does_not_hold_up_the_runtime() {
    let (a, b) = (Device::new(1, &[CART]), Device::new(2, &[CART]));
    *b.host.apply_takes.lock().unwrap() = Duration::from_millis(50);
    b.expects(&a);
    a.dials(&b);
    connected(&a, &b).await;
    for _ in 0..20 {
        a.write(CART, "slow");
    }
    let start = std::time::Instant::now();
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(start.elapsed() < Duration::from_millis(500));
    converged(&[&a, &b], CART, 20).await;
}

#[test]
fn without_a_runtime_or_with_senseless_timeouts_nothing_is_bound() {
    let bind = |config| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        QuicNetwork::bind(address, DeviceKey::from_seed([1; 32]), MemoryHost::new(1, &[]), config)
    };
    assert!(matches!(bind(config()), Err(crate::BindError::NoRuntime)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _in_runtime = runtime.enter();
    let senseless = NetworkConfig { keep_alive_ms: 20_000, ..config() };
    assert!(matches!(bind(senseless), Err(crate::BindError::Config)));
}

#[tokio::test]
async fn commands_on_strangers_and_on_itself_are_refused() {
    let a = Device::new(1, &[]);
    let stranger = DeviceKey::from_seed([2; 32]).id();
    assert_eq!(a.network.set_peer(a.id(), vec![]), Err(crate::PeerError::Own));
    assert_eq!(a.network.set_link(stranger, true), Err(crate::PeerError::Unknown(stranger)));
    assert_eq!(a.network.remove_peer(stranger), Err(crate::PeerError::Unknown(stranger)));
    assert!(a.network.peer_status(stranger).is_none());
    a.network.close().await;
    assert_eq!(a.network.set_peer(stranger, vec![]), Err(crate::PeerError::Closed));
}
