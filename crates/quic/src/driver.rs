//! Runs one session over one connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use quinn::VarInt;
use rejoin_crdt::SpaceId;
use rejoin_gossip::wire::Incoming;
use rejoin_gossip::{Event, HostRequest, HostResponse, LocalFacts, Output, Session, serve};
use tokio::task::JoinSet;

use crate::close::{LinkError, NetworkClose, StreamError};
use crate::duplicates::DialledBy;
use crate::inbound::{Arrival, Inbound, Kind};
use crate::network::{NetworkEvent, Shared};
use crate::outbound::Outbound;
use crate::peers::{Link, Peer, Serial};

/// The most host calls under way at a time over all sessions of a network; further ones wait. Several can
/// share one sync to disk, so there is more to gain than the disk has heads. A guess.
pub(crate) const HOST_CALLS_MAX: usize = 32;

/// Runs a session until its connection ends, and says why it did. No call to the host is under way any more then.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    peer: &Peer,
    link: &Arc<Link>,
    serial: Serial,
) -> LinkError {
    let host = Arc::clone(&shared.host);
    let Ok(replica) = tokio::task::spawn_blocking(move || host.replica()).await else {
        NetworkClose::Failed.close(&link.connection);
        return LinkError::HOST_PANICKED;
    };
    let facts = LocalFacts { replica, wall_time_ms: wall_time_ms() };
    let mut driver = Driver {
        shared,
        peer,
        link,
        serial,
        session: Session::new(shared.config.session, peer.device, facts, shared.clock.now_ms()),
        inbound: Inbound::new(Arc::clone(&peer.traffic)),
        outbound: Outbound::new(link.connection.clone(), Arc::clone(&peer.traffic)),
        calls: JoinSet::new(),
        has_control: false,
    };
    let Err(error) = driver.drive().await;
    let error = link.error(error);
    close(link, &error);
    while driver.calls.join_next().await.is_some() {}
    error
}

struct Driver<'a> {
    shared: &'a Arc<Shared>,
    peer: &'a Peer,
    link: &'a Arc<Link>,
    serial: Serial,
    session: Session,
    inbound: Inbound,
    outbound: Outbound,
    /// Host calls under way. `None` for one that was not made, because the connection ended first.
    calls: JoinSet<Option<HostResponse>>,
    has_control: bool,
}

impl Driver<'_> {
    async fn drive(&mut self) -> Result<Infallible, LinkError> {
        let connection = self.link.connection.clone();
        let accepts_control = self.link.dialled_by == DialledBy::Peer;
        if !accepts_control {
            let control = connection.open_bi().await;
            self.begin_control(control.map_err(|error| LinkError::of_connection(&error))?);
        }
        loop {
            self.carry_out()?;
            let timeout_ms = self.timeout_ms();
            tokio::select! {
                control = connection.accept_bi(), if accepts_control && !self.has_control => {
                    self.begin_control(control.map_err(|error| LinkError::of_connection(&error))?);
                }
                lane = connection.accept_uni(), if self.session.is_established() => {
                    let lane = lane.map_err(|error| LinkError::of_connection(&error))?;
                    self.inbound.add(lane, Kind::OneWay);
                }
                arrival = self.inbound.next() => self.take(arrival?)?,
                wrote = self.outbound.wrote() => wrote?,
                Some(response) = self.calls.join_next() => match response {
                    Ok(Some(response)) => self.session.handle_response(response, self.now_ms()),
                    Ok(None) => {}
                    Err(_) => return Err(LinkError::HOST_PANICKED),
                },
                () = self.link.inbox.arrived() => self.take_news(),
                () = self.shared.clock.sleep_until(timeout_ms) => self.take_timeout()?,
                error = self.link.ended() => return Err(error),
            }
        }
    }

    fn begin_control(&mut self, (send, receive): (quinn::SendStream, quinn::RecvStream)) {
        self.has_control = true;
        self.inbound.add(receive, Kind::TwoWay);
        self.outbound.set_control(send);
    }

    /// Does what the session asks for.
    fn carry_out(&mut self) -> Result<(), LinkError> {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send { lane, bytes } => self.outbound.send(lane, bytes)?,
                Output::Request(request) => self.call(request),
                Output::Event(event) => self.tell(event),
                Output::Close(reason) => return Err(LinkError::Session(reason)),
            }
        }
        Ok(())
    }

    fn call(&mut self, request: HostRequest) {
        let (shared, link) = (Arc::clone(self.shared), Arc::clone(self.link));
        self.calls.spawn(async move {
            let _place = shared.host_calls.acquire().await.ok()?;
            if !link.is_open() {
                return None;
            }
            let host = Arc::clone(&shared.host);
            let served = tokio::task::spawn_blocking(move || serve(&*host, request)).await;
            Some(served.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())))
        });
    }

    fn tell(&self, event: Event) {
        if matches!(event, Event::Established(_)) {
            self.peer.established(self.serial, self.now_ms());
        }
        if let Some(space) = space_of(&event) {
            self.note_space(space);
        }
        self.shared.emit(NetworkEvent::Session { device: self.peer.device, event });
    }

    /// Hands what came on a stream to the session.
    fn take(&mut self, mut arrival: Arrival) -> Result<(), LinkError> {
        while let Some((lane, part)) = self.inbound.take_part(&mut arrival)? {
            let now_ms = self.now_ms();
            match part {
                Incoming::Preamble(preamble) => self.session.handle_preamble(preamble, now_ms),
                Incoming::Frame(payload) => self.session.handle_frame(lane, &payload, now_ms),
            }
        }
        self.inbound.resume(arrival)
    }

    fn take_news(&mut self) {
        let (news, now_ms) = (self.link.inbox.take(), self.now_ms());
        if news.spaces_changed {
            self.session.handle_spaces_changed(now_ms);
        }
        for (space, version) in news.versions {
            self.session.handle_local_change(space, &version, now_ms);
            self.note_space(space);
        }
    }

    /// Keeps how a space stands where it can be asked for.
    fn note_space(&self, space: SpaceId) {
        if let Some(status) = self.session.space_status(space) {
            self.link.spaces().insert(space, status);
        }
    }

    fn take_timeout(&mut self) -> Result<(), LinkError> {
        let now_ms = self.now_ms();
        if self.outbound.is_stalled(now_ms) {
            return Err(StreamError::Stalled.into());
        }
        self.session.handle_timeout(now_ms);
        Ok(())
    }

    fn timeout_ms(&self) -> u64 {
        let timeouts = [self.session.poll_timeout(), self.outbound.stall_at_ms()];
        timeouts.into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    fn now_ms(&self) -> u64 {
        self.shared.clock.now_ms()
    }
}

/// The space that an event is about, if how it stands may have changed.
fn space_of(event: &Event) -> Option<SpaceId> {
    match event {
        Event::SpaceShared { space }
        | Event::PeerVersion { space, .. }
        | Event::InSync { space }
        | Event::SpaceStopped { space, .. } => Some(*space),
        _ => None,
    }
}

/// Tells the peer why, unless the connection is gone already.
fn close(link: &Link, error: &LinkError) {
    match error {
        LinkError::Session(reason) => {
            let code = VarInt::from_u32(reason.code());
            link.connection.close(code, reason.to_string().as_bytes());
        }
        LinkError::Stream(_) => NetworkClose::Framing.close(&link.connection),
        _ => NetworkClose::Failed.close(&link.connection),
    }
}

fn wall_time_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}
