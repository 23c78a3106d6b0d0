//! The sync of one space with one peer.
//!
//! Both sides tell each other their durable version vectors, entry by entry as they grow. Whoever
//! is ahead sends what the other lacks ([`Sender`]); whoever receives makes it durable
//! ([`Receiver`]) and tells its new version, which is the acknowledgement.
//!
//! The machine is level-triggered: each input changes what is known, and [`SpaceSync::settle`] then
//! does whatever is possible and not yet under way. Nothing depends on which input came last.
//!
//! Invariants:
//! - `told` never exceeds what is on disk here: it is made of durable versions only.
//! - `theirs` never exceeds what the peer has claimed; a lie costs the liar its own commits.
//! - At most one read, one write and one confirmation are under way at the host.

mod batch;
mod receiver;
mod sender;

use std::sync::Arc;

use rejoin_crdt::planted::{self, Bug};
use rejoin_crdt::{ReplicaId, SpaceId, VersionVector};

use crate::event::{CloseReason, Event, SpaceStatus, StopReason, StoppedBy};
use crate::host::{ApplyError, HostError, SpaceCall, SpaceReply};
use crate::session::Config;
use crate::wire::{REPLICAS_MAX, SpaceMessage};
use receiver::Receiver;
use sender::Sender;

/// What can happen to the sync of a space.
#[derive(Debug)]
pub(crate) enum SpaceInput {
    /// The space has become shared.
    Start,
    /// Commits became durable here.
    LocalChange(Arc<VersionVector>),
    /// The peer said something.
    Message(SpaceMessage),
    /// The host answered.
    Reply(SpaceReply),
    /// Time has passed, or the session has room again.
    Tick,
}

/// What the sync of a space wants done.
#[derive(Debug)]
pub(crate) enum SpaceOutput {
    Send(SpaceMessage),
    Call(SpaceCall),
    Event(Event),
    Close(CloseReason),
}

/// The circumstances of an input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// The time, in milliseconds.
    pub(crate) ms: u64,
    /// Whether the session's window has room for one more batch.
    pub(crate) room: bool,
    /// What the session has in flight in all spaces, in bytes.
    pub(crate) flying: usize,
}

/// What data the sync of a space, or of all, keeps under way, as it counts against windows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    /// Sent and not acknowledged, in bytes.
    pub(crate) flying: usize,
    /// What is being read in order to be sent may come to this many bytes.
    pub(crate) reserved: usize,
    /// Received and not yet durable, in bytes.
    pub(crate) inbox: usize,
}

impl Load {
    /// The load once one part of it has changed.
    pub(crate) fn exchanged(self, before: Load, after: Load) -> Load {
        Load {
            flying: self.flying - before.flying + after.flying,
            reserved: self.reserved - before.reserved + after.reserved,
            inbox: self.inbox - before.inbox + after.inbox,
        }
    }
}

/// Why the sync of a space cannot go on.
#[derive(Debug)]
enum Halt {
    Stop(StopReason),
    Close(CloseReason),
}

#[derive(Debug)]
pub(crate) struct SpaceSync {
    space: SpaceId,
    own: ReplicaId,
    config: Config,
    /// What is on disk here, once the host has told.
    mine: Option<Arc<VersionVector>>,
    /// What the peer was told or shown to be on disk here, once the lane is open.
    told: Option<VersionVector>,
    /// How much of the peer's data it was told to be taken in.
    told_taken: u64,
    /// What the peer has told and shown to be on disk there.
    theirs: Arc<VersionVector>,
    /// Whether the peer has told its whole version.
    heard: bool,
    announce_at_ms: Option<u64>,
    /// How many of our own commits the host knows to be confirmed.
    confirmed: u64,
    confirming: bool,
    reading: bool,
    /// The highest of our own sequence numbers that the peer claims and that we are asking the host
    /// about.
    doubted: Option<u64>,
    sender: Sender,
    receiver: Receiver,
    in_sync: bool,
    stopped: bool,
}

impl SpaceSync {
    pub(crate) fn new(space: SpaceId, own: ReplicaId, config: Config) -> Self {
        Self {
            space,
            own,
            config,
            mine: None,
            told: None,
            told_taken: 0,
            theirs: Arc::default(),
            heard: false,
            announce_at_ms: None,
            confirmed: 0,
            confirming: false,
            reading: false,
            doubted: None,
            sender: Sender::new(space, own, config),
            receiver: Receiver::new(space, config),
            in_sync: false,
            stopped: false,
        }
    }

    pub(crate) fn load(&self) -> Load {
        Load {
            flying: self.sender.flying_bytes(),
            reserved: self.sender.reserved_bytes(),
            inbox: self.receiver.inbox_bytes(),
        }
    }

    /// Whether there is something to send for which the session had no room.
    pub(crate) fn hungry(&self) -> bool {
        self.sender.hungry()
    }

    pub(crate) fn status(&self) -> SpaceStatus {
        let mine = self.mine.as_deref();
        SpaceStatus {
            ahead: mine.map_or(0, |mine| commits_beyond(mine, &self.theirs)),
            behind: mine.map_or(0, |mine| commits_beyond(&self.theirs, mine)),
            in_sync: self.in_sync,
            stopped: self.stopped,
        }
    }

    pub(crate) fn timeout_ms(&self) -> Option<u64> {
        if self.stopped {
            return None;
        }
        [self.announce_at_ms, self.sender.timeout_ms(), self.receiver.timeout_ms()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(crate) fn handle(&mut self, input: SpaceInput, now: Now, out: &mut Vec<SpaceOutput>) {
        if self.stopped {
            return;
        }
        let result = self.take_in(input, now, out).and_then(|()| self.settle(now, out));
        match result {
            Ok(()) => {}
            Err(Halt::Close(reason)) => out.push(SpaceOutput::Close(reason)),
            Err(Halt::Stop(reason)) => {
                out.push(SpaceOutput::Send(SpaceMessage::Stop(reason.to_wire())));
                self.stop(StoppedBy::Us, reason, out);
            }
        }
    }

    fn take_in(
        &mut self,
        input: SpaceInput,
        now: Now,
        out: &mut Vec<SpaceOutput>,
    ) -> Result<(), Halt> {
        match input {
            SpaceInput::Start => {
                self.reading = true;
                out.push(SpaceOutput::Call(SpaceCall::DurableVersion));
                Ok(())
            }
            SpaceInput::LocalChange(version) => self.advance(&version),
            SpaceInput::Message(message) => self.take_message(message, now, out),
            SpaceInput::Reply(reply) => self.take_reply(reply, now, out),
            SpaceInput::Tick => Ok(()),
        }
    }

    fn take_message(
        &mut self,
        message: SpaceMessage,
        now: Now,
        out: &mut Vec<SpaceOutput>,
    ) -> Result<(), Halt> {
        if !self.heard && !matches!(message, SpaceMessage::Versions { .. } | SpaceMessage::Stop(_))
        {
            return Err(violation("data before versions"));
        }
        match message {
            SpaceMessage::Versions { version, taken } => {
                self.heard = true;
                if planted::is(Bug::AcknowledgesForEver) {
                    self.told_taken = 0;
                }
                self.sender.acknowledge(taken, now)?;
                self.learn(&version, out)
            }
            SpaceMessage::Commits(runs) => {
                let heads = batch::heads(self.space, &runs);
                self.receiver.take_commits(runs)?;
                self.learn(&heads, out)
            }
            SpaceMessage::StateBegin(version) => {
                self.receiver.take_begin(version.clone())?;
                self.learn(&version, out)
            }
            SpaceMessage::StateRows(rows) => self.receiver.take_rows(rows),
            SpaceMessage::StateEnd { complete } => self.receiver.take_end(complete),
            SpaceMessage::StateWorking => {
                self.sender.peer_is_working(now);
                Ok(())
            }
            SpaceMessage::Stop(stop) => {
                self.stop(StoppedBy::Peer, StopReason::from_wire(stop), out);
                Ok(())
            }
        }
    }

    fn take_reply(
        &mut self,
        reply: SpaceReply,
        now: Now,
        out: &mut Vec<SpaceOutput>,
    ) -> Result<(), Halt> {
        match reply {
            SpaceReply::DurableVersion(version) => {
                self.reading = false;
                self.advance(&version?)?;
                self.resolve_doubt()
            }
            SpaceReply::CommitsAfter(found) => {
                self.reading = false;
                let shown = self.sender.take_commits(found?, now, out)?;
                self.show(&shown);
                Ok(())
            }
            SpaceReply::OpenState(source) => {
                self.reading = false;
                let shown = self.sender.take_source(source?, out)?;
                self.show(&shown);
                Ok(())
            }
            SpaceReply::NextPage(page) => {
                self.reading = false;
                let (source, rows) = page?;
                self.sender.take_page(source, rows, now, out)
            }
            SpaceReply::Applied(version) | SpaceReply::StageCommitted(version) => {
                self.receiver.written();
                self.advance(&version?)
            }
            SpaceReply::BeginStage(stage) | SpaceReply::Stage(stage) => {
                self.receiver.take_stage(stage?);
                Ok(())
            }
            SpaceReply::MarkConfirmed(done) => {
                self.confirming = false;
                Ok(done?)
            }
        }
    }

    /// Does whatever is possible now.
    fn settle(&mut self, now: Now, out: &mut Vec<SpaceOutput>) -> Result<(), Halt> {
        let Some(mine) = self.mine.clone() else { return Ok(()) };
        if self.stopped {
            return Ok(());
        }
        if let Some(call) = self.receiver.settle(&mine, now, out) {
            out.push(SpaceOutput::Call(call));
        }
        self.announce(&mine, now, out)?;
        if !self.heard {
            return Ok(());
        }
        self.doubt(&mine, out);
        self.confirm(&mine, out);
        self.sender.plan(&mine, now);
        self.sender.check_progress(now)?;
        if !self.reading
            && let Some(call) = self.sender.next_read(now, out)
        {
            self.reading = true;
            out.push(SpaceOutput::Call(call));
        }
        self.notice_sync(&mine, out);
        Ok(())
    }

    /// The durable version here has grown to include `version`.
    fn advance(&mut self, version: &Arc<VersionVector>) -> Result<(), Halt> {
        version.check_fork(&self.theirs)?;
        match &mut self.mine {
            Some(mine) if mine.includes(version) => {}
            Some(mine) if !version.includes(mine) => Arc::make_mut(mine).join(version)?,
            mine => *mine = Some(Arc::clone(version)),
        }
        Ok(())
    }

    /// The peer has all of `version` on disk, or says so.
    fn learn(&mut self, version: &VersionVector, out: &mut Vec<SpaceOutput>) -> Result<(), Halt> {
        if let Some(mine) = &self.mine {
            mine.check_fork(version)?;
        }
        let grown = !self.theirs.includes(version);
        Arc::make_mut(&mut self.theirs).join(version)?;
        if self.theirs.len() > REPLICAS_MAX {
            return Err(Halt::Close(CloseReason::Overrun("writers of a space")));
        }
        self.sender.learn(version)?;
        if grown {
            let version = Arc::clone(&self.theirs);
            out.push(SpaceOutput::Event(Event::PeerVersion { space: self.space, version }));
        }
        Ok(())
    }

    /// The peer learns from what was sent that it is on disk here.
    fn show(&mut self, version: &VersionVector) {
        let Some(told) = &mut self.told else { return };
        for (replica, head) in version.iter() {
            if head.sequence > told.sequence(replica) {
                told.set(replica, head);
            }
        }
    }

    /// Tells the peer what is newly on disk here and what was taken of its data: at once what it
    /// waits for, and a little later what only keeps it from relaying to us. Our own commits need
    /// no announcement; they are sent.
    fn announce(
        &mut self,
        mine: &VersionVector,
        now: Now,
        out: &mut Vec<SpaceOutput>,
    ) -> Result<(), Halt> {
        if mine.len() > REPLICAS_MAX {
            return Err(Halt::Stop(StopReason::TooLarge("writers of a space".to_owned())));
        }
        let taken = self.receiver.taken();
        let Some(told) = &mut self.told else {
            self.told = Some(mine.clone());
            let version = mine.clone();
            out.push(SpaceOutput::Send(SpaceMessage::Versions { version, taken }));
            return Ok(());
        };
        let version: VersionVector =
            mine.iter().filter(|(id, head)| head.sequence > told.sequence(*id)).collect();
        let awaited = |id| self.theirs.sequence(id) > told.sequence(id);
        // While a write is under way its answer is near, and one message will do for both.
        let written = !self.receiver.is_writing() && version.iter().any(|(id, _)| awaited(id));
        let due_ms = if taken > self.told_taken || written {
            Some(now.ms)
        } else if version.iter().any(|(id, _)| id != self.own) {
            Some(self.announce_at_ms.unwrap_or(now.ms + self.config.announce_delay_ms))
        } else {
            None
        };
        if due_ms.is_none_or(|due_ms| due_ms > now.ms) {
            self.announce_at_ms = due_ms;
            return Ok(());
        }
        self.announce_at_ms = None;
        self.told_taken = taken;
        version.iter().for_each(|(replica, head)| told.set(replica, head));
        out.push(SpaceOutput::Send(SpaceMessage::Versions { version, taken }));
        Ok(())
    }

    /// If the peer claims more of our own commits than we know of, asks the host: the news of a
    /// commit can reach us later by the driver than by way of two peers.
    fn doubt(&mut self, mine: &VersionVector, out: &mut Vec<SpaceOutput>) {
        let claimed = self.theirs.sequence(self.own);
        if claimed > mine.sequence(self.own) && self.doubted.is_none() && !self.reading {
            self.doubted = Some(claimed);
            self.reading = true;
            out.push(SpaceOutput::Call(SpaceCall::DurableVersion));
        }
    }

    fn resolve_doubt(&mut self) -> Result<(), Halt> {
        let Some(theirs) = self.doubted.take() else { return Ok(()) };
        let ours = self.mine.as_ref().map_or(0, |mine| mine.sequence(self.own));
        if theirs > ours {
            return Err(Halt::Stop(StopReason::OwnReplicaAhead { theirs, ours }));
        }
        Ok(())
    }

    /// Tells the host which of our own commits the peer has on disk.
    fn confirm(&mut self, mine: &VersionVector, out: &mut Vec<SpaceOutput>) {
        let sequence = self.theirs.sequence(self.own).min(mine.sequence(self.own));
        if sequence > self.confirmed && !self.confirming {
            self.confirmed = sequence;
            self.confirming = true;
            out.push(SpaceOutput::Call(SpaceCall::MarkConfirmed { sequence }));
        }
    }

    fn notice_sync(&mut self, mine: &VersionVector, out: &mut Vec<SpaceOutput>) {
        let told = self.told.as_ref().is_some_and(|told| told == mine);
        let in_sync = told && mine == &*self.theirs;
        if in_sync && !self.in_sync {
            out.push(SpaceOutput::Event(Event::InSync { space: self.space }));
        }
        self.in_sync = in_sync;
    }

    /// Ends the sync of this space and releases all that it held.
    fn stop(&mut self, by: StoppedBy, reason: StopReason, out: &mut Vec<SpaceOutput>) {
        self.stopped = true;
        self.in_sync = false;
        self.sender = Sender::new(self.space, self.own, self.config);
        self.receiver = Receiver::new(self.space, self.config);
        out.push(SpaceOutput::Event(Event::SpaceStopped { space: self.space, by, reason }));
    }
}

/// How many commits `version` covers that `other` does not.
fn commits_beyond(version: &VersionVector, other: &VersionVector) -> u64 {
    version
        .iter()
        .map(|(replica, head)| head.sequence.saturating_sub(other.sequence(replica)))
        .fold(0, u64::saturating_add)
}

fn violation(what: &'static str) -> Halt {
    Halt::Close(CloseReason::Violation(what))
}

impl From<rejoin_crdt::Fork> for Halt {
    fn from(fork: rejoin_crdt::Fork) -> Self {
        Halt::Stop(StopReason::Fork(fork))
    }
}

impl From<HostError> for Halt {
    fn from(error: HostError) -> Self {
        Halt::Stop(StopReason::Storage(error.0))
    }
}

impl From<ApplyError> for Halt {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Fork(fork) => fork.into(),
            ApplyError::OwnReplicaAhead { theirs, ours } => {
                Halt::Stop(StopReason::OwnReplicaAhead { theirs, ours })
            }
            // Both sides start again from what is on disk, which heals a mistaken idea of the
            // other.
            ApplyError::Gap => violation("a commit before one that it depends on"),
            ApplyError::Malformed(what) => Halt::Stop(StopReason::Malformed(what)),
            ApplyError::Host(error) => error.into(),
        }
    }
}
