//! What to send of a space, and when.
//!
//! Two questions are kept apart. *How far may be sent* is `goal`, a durable version of this
//! replica: it follows our own commits at once, and commits of third parties after the relay delay,
//! unless the peer turns out to have them. *What was sent* is `sent`: what the peer told joined
//! with what went out. Whenever `sent` does not include `goal` and the window is open, the
//! difference is read from the host and sent; if the log no longer holds it, the whole state is.

use std::collections::VecDeque;
use std::sync::Arc;

use rejoin_crdt::planted::{self, Bug};
use rejoin_crdt::{ReplicaId, SpaceId, VersionVector};

use super::batch::{part_to_send, rows_weight, runs_weight};
use super::{Halt, Now, SpaceOutput, violation};
use crate::event::{CloseReason, Event, StopReason};
use crate::host::{CommitsAfter, SpaceCall, StateRow, StateSource};
use crate::session::Config;
use crate::wire::{
    BATCH_BYTES_MAX, FRAME_SPACE_BYTES_MAX, REPLICAS_MAX, SpaceMessage, WINDOW_BATCHES_MAX,
    WINDOW_BYTES_MAX,
};

/// The most versions held back at once; news beyond joins the last of them.
const MARKS_MAX: usize = 64;

/// How long a peer is taken to need for an acknowledgement before it has sent any. A guess: a round
/// trip across a continent.
const ACKNOWLEDGE_FIRST_MS: u64 = 50;

/// The slowest link on which what is in flight still counts as moving, in bytes per millisecond.
const SLOWEST_BYTES_PER_MS: u64 = 4;

/// A durable version that may be sent from `ready_at_ms` on.
#[derive(Debug)]
struct Mark {
    made_at_ms: u64,
    ready_at_ms: u64,
    version: Arc<VersionVector>,
    /// Whether it has commits of our own that the mark before has not.
    with_own: bool,
}

/// A frame of data that the peer has not told to have taken.
///
/// That the peer covers the commits in it is not enough: it may have got them elsewhere while they
/// still wait for a slow link, and more would then be piled upon them.
#[derive(Debug)]
struct Flight {
    weight: usize,
    sent_at_ms: u64,
}

/// A state on its way out.
#[derive(Debug)]
enum Transfer {
    /// The log does not reach back; the state is to be opened, or being opened.
    Opening,
    /// The peer was told that this version comes. The source is away while a page is read.
    Open { version: VersionVector, source: Option<Box<dyn StateSource>> },
}

#[derive(Debug)]
pub(super) struct Sender {
    space: SpaceId,
    own: ReplicaId,
    config: Config,
    started: bool,
    sent: VersionVector,
    goal: Arc<VersionVector>,
    marks: VecDeque<Mark>,
    flights: VecDeque<Flight>,
    /// How many frames of data the peer has taken.
    taken: u64,
    flying: usize,
    /// What the read under way may turn out to weigh.
    reserved: usize,
    transfer: Option<Transfer>,
    hungry: bool,
    /// How long the peer takes to acknowledge: a moving average over about 8 batches.
    acknowledge_ms: u64,
    progress_by_ms: Option<u64>,
}

impl Sender {
    pub(super) fn new(space: SpaceId, own: ReplicaId, config: Config) -> Self {
        Self {
            space,
            own,
            config,
            started: false,
            sent: VersionVector::default(),
            goal: Arc::default(),
            marks: VecDeque::new(),
            flights: VecDeque::new(),
            taken: 0,
            flying: 0,
            reserved: 0,
            transfer: None,
            hungry: false,
            acknowledge_ms: ACKNOWLEDGE_FIRST_MS,
            progress_by_ms: None,
        }
    }

    pub(super) fn flying_bytes(&self) -> usize {
        self.flying
    }

    pub(super) fn reserved_bytes(&self) -> usize {
        self.reserved
    }

    pub(super) fn hungry(&self) -> bool {
        self.hungry
    }

    pub(super) fn timeout_ms(&self) -> Option<u64> {
        let ready_at_ms = self.marks.front().map(|mark| mark.ready_at_ms);
        [ready_at_ms, self.progress_by_ms].into_iter().flatten().min()
    }

    /// The peer has all of `version`.
    pub(super) fn learn(&mut self, version: &VersionVector) -> Result<(), Halt> {
        Ok(self.sent.join(version)?)
    }

    /// The peer has taken so many frames of data since the connection began.
    pub(super) fn acknowledge(&mut self, taken: u64, now: Now) -> Result<(), Halt> {
        let Some(new) = taken.checked_sub(self.taken) else {
            return Err(violation("less is acknowledged than before"));
        };
        for _ in 0..new {
            let Some(flight) = self.flights.pop_front() else {
                return Err(violation("more is acknowledged than was sent"));
            };
            let took_ms = now.ms.saturating_sub(flight.sent_at_ms);
            self.acknowledge_ms = (7 * self.acknowledge_ms + took_ms) / 8;
            self.flying -= flight.weight;
        }
        self.taken = taken;
        if new > 0 {
            self.expect_progress(now);
        }
        Ok(())
    }

    /// The peer is busy with what it was sent.
    pub(super) fn peer_is_working(&mut self, now: Now) {
        self.expect_progress(now);
    }

    /// Fails if data is under way and the peer has acknowledged nothing for too long.
    pub(super) fn check_progress(&self, now: Now) -> Result<(), Halt> {
        if self.progress_by_ms.is_none_or(|by_ms| by_ms > now.ms) {
            return Ok(());
        }
        let timeout_ms = self.config.progress_timeout_ms;
        Err(Halt::Close(CloseReason::NoProgress { space: self.space, timeout_ms }))
    }

    /// Moves the goal: `mine` is on disk here.
    pub(super) fn plan(&mut self, mine: &Arc<VersionVector>, now: Now) {
        if !self.started {
            self.started = true;
            self.goal = Arc::clone(mine);
            return;
        }
        while let Some(mark) = self.marks.front() {
            if mark.ready_at_ms > now.ms && self.holds_back(&mark.version) {
                break;
            }
            self.goal = Arc::clone(&mark.version);
            self.marks.pop_front();
        }
        if planted::is(Bug::CausesNotAwaited)
            && let Some(head) = mine.head(self.own)
        {
            Arc::make_mut(&mut self.goal).set(self.own, head);
        }
        if self.goal.includes(mine) {
            return;
        }
        if !self.holds_back(mine) {
            self.goal = Arc::clone(mine);
            self.marks.clear();
            return;
        }
        if !planted::is(Bug::RelayOmitted) {
            self.mark(mine, now);
        }
    }

    /// Holds `mine` back until the peer has what third parties wrote of it, or the relay delay is
    /// over.
    ///
    /// A version with commits of our own gets a mark of its own: had it to wait for what came here
    /// after them, which their writers may hold back for the sake of our commits, all would wait
    /// for each other until the relay delay.
    fn mark(&mut self, mine: &Arc<VersionVector>, now: Now) {
        let delay_ms = self.relay_delay_ms();
        let own = |version: &VersionVector| version.sequence(self.own);
        let before = self.marks.back().map_or(&self.goal, |last| &last.version);
        let with_own = own(mine) > own(before);
        let same_others = same_others(before, mine, self.own);
        let crowded = self.marks.len() >= MARKS_MAX;
        match self.marks.back_mut() {
            Some(last) if last.version.includes(mine) => {}
            Some(last) if crowded || same_others => {
                last.version = Arc::clone(mine);
                last.with_own |= with_own;
            }
            Some(last)
                if !with_own && !last.with_own && now.ms < last.made_at_ms + delay_ms / 4 =>
            {
                last.version = Arc::clone(mine);
            }
            _ => self.marks.push_back(Mark {
                made_at_ms: now.ms,
                ready_at_ms: now.ms + delay_ms,
                version: Arc::clone(mine),
                with_own,
            }),
        }
    }

    /// The next thing to read from the host in order to send it, if the windows allow.
    pub(super) fn next_read(&mut self, now: Now, out: &mut Vec<SpaceOutput>) -> Option<SpaceCall> {
        self.hungry = false;
        if let Some(Transfer::Open { version, .. }) = &self.transfer
            && self.sent.includes(version)
        {
            // The peer has meanwhile got elsewhere what it lacked.
            self.transfer = None;
            self.fly(0, now);
            out.push(SpaceOutput::Send(SpaceMessage::StateEnd { complete: false }));
        }
        let as_many = || self.sent.commits() == self.goal.commits();
        let counted = planted::is(Bug::CountsCompared) && as_many();
        let idle = self.transfer.is_none() && (self.sent.includes(&self.goal) || counted);
        let endless = planted::is(Bug::WindowIgnored);
        let full = self.flying >= WINDOW_BYTES_MAX || self.flights.len() >= WINDOW_BATCHES_MAX;
        if idle || full && !endless {
            return None;
        }
        if !now.room && !endless {
            self.hungry = true;
            return None;
        }
        let bytes_max = BATCH_BYTES_MAX;
        let call = match &mut self.transfer {
            None => SpaceCall::CommitsAfter { version: self.sent.clone(), bytes_max },
            Some(Transfer::Opening) => SpaceCall::OpenState,
            Some(Transfer::Open { source, .. }) => {
                SpaceCall::NextPage { source: source.take()?, bytes_max }
            }
        };
        self.reserved = FRAME_SPACE_BYTES_MAX;
        Some(call)
    }

    /// Sends what the host has found beyond `sent`, and returns what the peer learns from that of
    /// us.
    pub(super) fn take_commits(
        &mut self,
        found: CommitsAfter,
        now: Now,
        out: &mut Vec<SpaceOutput>,
    ) -> Result<VersionVector, Halt> {
        self.reserved = 0;
        let runs = match found {
            CommitsAfter::Runs(runs) => runs,
            CommitsAfter::LogGone => {
                self.transfer = Some(Transfer::Opening);
                return Ok(VersionVector::default());
            }
            CommitsAfter::Fork(fork) => return Err(fork.into()),
        };
        let (mut part, mut ends) = part_to_send(self.space, &runs, &self.sent, &self.goal)?;
        if part.is_empty() && !self.sent.includes(&self.goal) {
            // The host's order puts commits beyond the goal first. Sending them too is always
            // right.
            let everything = super::batch::heads(self.space, &runs);
            (part, ends) = part_to_send(self.space, &runs, &self.sent, &everything)?;
        }
        if !part.is_empty() {
            self.sent.join(&ends)?;
            self.fly(runs_weight(&part), now);
            out.push(SpaceOutput::Send(SpaceMessage::Commits(part)));
        } else if runs.is_empty() && !self.sent.includes(&self.goal) {
            // It was asked because it was behind the goal, which was on disk by then. What was found, but
            // has meanwhile come to the peer from elsewhere, is no cause for alarm: the next read goes on.
            let what = "the log lacks commits that the version covers".to_owned();
            return Err(Halt::Stop(StopReason::Storage(what)));
        }
        Ok(ends)
    }

    /// Announces the state that `source` holds, and returns what the peer learns from that of us.
    pub(super) fn take_source(
        &mut self,
        source: Box<dyn StateSource>,
        out: &mut Vec<SpaceOutput>,
    ) -> Result<VersionVector, Halt> {
        self.reserved = 0;
        let version = source.version().clone();
        if version.len() > REPLICAS_MAX {
            return Err(Halt::Stop(StopReason::TooLarge("writers of a space".to_owned())));
        }
        self.transfer = Some(Transfer::Open { version: version.clone(), source: Some(source) });
        out.push(SpaceOutput::Send(SpaceMessage::StateBegin(version.clone())));
        let space = self.space;
        out.push(SpaceOutput::Event(Event::StateTransfer { space, sending: true }));
        Ok(version)
    }

    /// Sends a page of the state; an empty one is the end.
    pub(super) fn take_page(
        &mut self,
        returned: Box<dyn StateSource>,
        rows: Vec<StateRow>,
        now: Now,
        out: &mut Vec<SpaceOutput>,
    ) -> Result<(), Halt> {
        self.reserved = 0;
        let Some(Transfer::Open { version, source }) = &mut self.transfer else { return Ok(()) };
        if rows.is_empty() {
            let ends = std::mem::take(version);
            self.transfer = None;
            self.sent.join(&ends)?;
            self.fly(0, now);
            out.push(SpaceOutput::Send(SpaceMessage::StateEnd { complete: true }));
            return Ok(());
        }
        *source = Some(returned);
        self.fly(rows_weight(&rows), now);
        out.push(SpaceOutput::Send(SpaceMessage::StateRows(rows)));
        Ok(())
    }

    /// Whether `version` covers commits of third parties that the peer lacks and that wait for the
    /// relay delay.
    fn holds_back(&self, version: &VersionVector) -> bool {
        version.iter().any(|(replica, head)| {
            let open = self.sent.sequence(replica).max(self.goal.sequence(replica));
            replica != self.own && head.sequence > open
        })
    }

    /// Long enough for the peer to have got the commits from their writer and to have told us,
    /// going by how long it takes to acknowledge our own. Without this, peers under load would send
    /// each other everything twice, which adds to the load.
    fn relay_delay_ms(&self) -> u64 {
        let Config { relay_delay_ms, relay_delay_max_ms, .. } = self.config;
        (2 * self.acknowledge_ms).clamp(relay_delay_ms, relay_delay_max_ms.max(relay_delay_ms))
    }

    fn fly(&mut self, weight: usize, now: Now) {
        self.flights.push_back(Flight { weight, sent_at_ms: now.ms });
        self.flying += weight;
        if self.progress_by_ms.is_none() {
            self.expect_progress(now);
        }
    }

    /// Starts the clock on what is in flight now.
    fn expect_progress(&mut self, now: Now) {
        let idle = self.flights.is_empty();
        let moving_ms = now.flying.max(self.flying) as u64 / SLOWEST_BYTES_PER_MS;
        self.progress_by_ms =
            (!idle).then_some(now.ms + self.config.progress_timeout_ms + moving_ms);
    }
}

/// Whether two versions of one replica agree on what others than `own` wrote.
fn same_others(before: &VersionVector, after: &VersionVector, own: ReplicaId) -> bool {
    after.iter().all(|(replica, head)| replica == own || before.sequence(replica) == head.sequence)
}
