//! Taking in what the peer sends of a space, in order, one write at the host at a time.

use std::collections::VecDeque;

use rejoin_crdt::planted::{self, Bug};
use rejoin_crdt::{SpaceId, VersionVector};

use super::batch::{rows_weight, runs_weight};
use super::{Halt, Now, SpaceOutput, violation};
use crate::event::{CloseReason, Event};
use crate::host::{Run, SpaceCall, StateRow, StateStage};
use crate::session::Config;
use crate::wire::{SpaceMessage, WINDOW_BATCHES_MAX, WINDOW_BYTES_MAX};

/// What has arrived and waits for the host.
#[derive(Debug)]
enum Arrival {
    Commits { runs: Vec<Run>, weight: usize },
    StateBegin(VersionVector),
    Rows { rows: Vec<StateRow>, weight: usize },
    StateEnd { complete: bool },
}

/// A peer's state, as far as it was handed to the host.
#[derive(Debug)]
enum Incoming {
    None,
    /// All of it is here already, so its rows are dropped.
    Unneeded,
    /// It is put aside. The stage is away while the host works on it.
    Staging(Option<Box<dyn StateStage>>),
}

/// The write under way at the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    No,
    /// So many frames of commits or rows, of this weight; none for the beginning of a state.
    Batch {
        frames: u64,
        weight: usize,
    },
    /// The join of a state, which may take long; the peer is told so at this time.
    Join {
        tell_at_ms: u64,
    },
}

#[derive(Debug)]
pub(super) struct Receiver {
    space: SpaceId,
    config: Config,
    inbox: VecDeque<Arrival>,
    inbox_bytes: usize,
    /// How many frames of data were taken in since the connection began.
    taken: u64,
    /// Whether the peer is between the beginning and the end of a state.
    arriving: bool,
    incoming: Incoming,
    writing: Writing,
}

impl Receiver {
    pub(super) fn new(space: SpaceId, config: Config) -> Self {
        Self {
            space,
            config,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            taken: 0,
            arriving: false,
            incoming: Incoming::None,
            writing: Writing::No,
        }
    }

    /// What has arrived and is not yet durable, as it counts against the peer's window.
    pub(super) fn inbox_bytes(&self) -> usize {
        match self.writing {
            Writing::Batch { weight, .. } => self.inbox_bytes + weight,
            Writing::No | Writing::Join { .. } => self.inbox_bytes,
        }
    }

    pub(super) fn timeout_ms(&self) -> Option<u64> {
        match self.writing {
            Writing::Join { tell_at_ms } => Some(tell_at_ms),
            Writing::No | Writing::Batch { .. } => None,
        }
    }

    pub(super) fn take_commits(&mut self, runs: Vec<Run>) -> Result<(), Halt> {
        if self.arriving {
            return Err(violation("commits inside a state"));
        }
        let weight = runs_weight(&runs);
        self.take(Arrival::Commits { runs, weight }, weight)
    }

    pub(super) fn take_begin(&mut self, version: VersionVector) -> Result<(), Halt> {
        if std::mem::replace(&mut self.arriving, true) {
            return Err(violation("a state inside a state"));
        }
        self.take(Arrival::StateBegin(version), 0)
    }

    pub(super) fn take_rows(&mut self, rows: Vec<StateRow>) -> Result<(), Halt> {
        if !self.arriving {
            return Err(violation("rows outside a state"));
        }
        let weight = rows_weight(&rows);
        self.take(Arrival::Rows { rows, weight }, weight)
    }

    pub(super) fn take_end(&mut self, complete: bool) -> Result<(), Halt> {
        if !std::mem::replace(&mut self.arriving, false) {
            return Err(violation("the end of a state that did not begin"));
        }
        self.take(Arrival::StateEnd { complete }, 0)
    }

    /// Puts an arrival in line, unless a peer that keeps to its window could not have sent it: what
    /// it sends before is acknowledged weighs at most what is in line here.
    fn take(&mut self, arrival: Arrival, weight: usize) -> Result<(), Halt> {
        // The beginnings and ends of states have no window of their own, but each state has but one
        // of each, and its end waits for an acknowledgement.
        const LENGTH_MAX: usize = 2 * WINDOW_BATCHES_MAX;
        let full = self.inbox_bytes() >= WINDOW_BYTES_MAX || self.inbox.len() >= LENGTH_MAX;
        if full && !planted::is(Bug::InboxUnbounded) {
            return Err(Halt::Close(CloseReason::Overrun("window of a space")));
        }
        self.inbox_bytes += weight;
        self.inbox.push_back(arrival);
        Ok(())
    }

    /// How many frames of data were taken in since the connection began.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) fn is_writing(&self) -> bool {
        self.writing != Writing::No
    }

    /// The host has written what it was given.
    pub(super) fn written(&mut self) {
        self.taken += match std::mem::replace(&mut self.writing, Writing::No) {
            Writing::No => 0,
            Writing::Batch { frames, .. } => frames,
            Writing::Join { .. } => 1,
        };
    }

    /// The host has begun a stage, or put rows on it.
    pub(super) fn take_stage(&mut self, stage: Box<dyn StateStage>) {
        self.written();
        self.incoming = Incoming::Staging(Some(stage));
    }

    /// The next write for the host, if none is under way. `mine` is what is on disk here.
    pub(super) fn settle(
        &mut self,
        mine: &VersionVector,
        now: Now,
        out: &mut Vec<SpaceOutput>,
    ) -> Option<SpaceCall> {
        self.reassure(now, out);
        while self.writing == Writing::No
            && let Some(arrival) = self.inbox.pop_front()
        {
            if let Some(call) = self.turn(arrival, mine, now, out) {
                return Some(call);
            }
        }
        None
    }

    /// Turns one arrival into a write, or deals with it right here.
    fn turn(
        &mut self,
        arrival: Arrival,
        mine: &VersionVector,
        now: Now,
        out: &mut Vec<SpaceOutput>,
    ) -> Option<SpaceCall> {
        match arrival {
            Arrival::Commits { runs, weight } => Some(self.apply(runs, weight)),
            Arrival::StateBegin(version) if mine.includes(&version) => {
                self.incoming = Incoming::Unneeded;
                None
            }
            Arrival::StateBegin(theirs) => {
                self.writing = Writing::Batch { frames: 0, weight: 0 };
                let space = self.space;
                out.push(SpaceOutput::Event(Event::StateTransfer { space, sending: false }));
                Some(SpaceCall::BeginStage { theirs })
            }
            Arrival::Rows { rows, weight } => {
                self.inbox_bytes -= weight;
                let Some(stage) = self.take_out_stage() else {
                    self.taken += 1;
                    return None;
                };
                self.writing = Writing::Batch { frames: 1, weight };
                Some(SpaceCall::Stage { stage, rows })
            }
            Arrival::StateEnd { complete } => {
                let stage = self.take_out_stage();
                self.incoming = Incoming::None;
                let Some(stage) = stage.filter(|_| complete) else {
                    self.taken += 1;
                    return None;
                };
                let tell_at_ms = now.ms + self.config.working_interval_ms;
                self.writing = Writing::Join { tell_at_ms };
                Some(SpaceCall::CommitStage { stage })
            }
        }
    }

    /// One write, and so one sync of the disk, for all commits that are in line.
    fn apply(&mut self, mut runs: Vec<Run>, weight: usize) -> SpaceCall {
        let (mut frames, mut total) = (1, weight);
        while let Some(Arrival::Commits { .. }) = self.inbox.front()
            && let Some(Arrival::Commits { runs: more, weight }) = self.inbox.pop_front()
        {
            runs.extend(more);
            frames += 1;
            total += weight;
        }
        self.inbox_bytes -= total;
        self.writing = Writing::Batch { frames, weight: total };
        SpaceCall::Apply { runs }
    }

    fn take_out_stage(&mut self) -> Option<Box<dyn StateStage>> {
        match &mut self.incoming {
            Incoming::Staging(stage) => stage.take(),
            Incoming::None | Incoming::Unneeded => None,
        }
    }

    /// The join of a large state takes a while: tells the peer that it goes on.
    fn reassure(&mut self, now: Now, out: &mut Vec<SpaceOutput>) {
        if let Writing::Join { tell_at_ms } = &mut self.writing
            && *tell_at_ms <= now.ms
        {
            *tell_at_ms = now.ms + self.config.working_interval_ms;
            out.push(SpaceOutput::Send(SpaceMessage::StateWorking));
        }
    }
}
