//! One process of the world: its disk, its clock, its engine while it runs, and its sessions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rejoin::driven::DrivenReplica;
use rejoin::{DeviceId, DeviceKey, Space, SpaceId, Watch};
use rejoin_gossip::wire::{FrameReader, Lane};
use rejoin_gossip::{HostRequest, Redial, Session};

use crate::disk::SimDisk;
use crate::history::{NodeIndex, Writer};
use crate::network::ConnectionId;
use crate::plan::Class;
use crate::side::{OverheardHost, Side};

/// The wall clock of a true clock at the beginning of every world, in milliseconds since 1970.
pub(crate) const EPOCH_MS: u64 = 1_800_000_000_000;

/// What a device's clock shows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WallClock {
    /// How far it is off, in milliseconds.
    pub(crate) offset_ms: i64,
    /// How much it gains, in parts of the time that passes; negative if it loses.
    pub(crate) drift: f64,
    /// Where it stands still, if it does.
    pub(crate) frozen_at_ms: Option<u64>,
}

impl WallClock {
    /// What it shows when so much time has passed in the world.
    pub(crate) fn read_ms(&self, now_ms: u64) -> u64 {
        if let Some(frozen_at_ms) = self.frozen_at_ms {
            return frozen_at_ms;
        }
        let drifted = (now_ms as f64 * self.drift) as i64;
        EPOCH_MS
            .saturating_add(now_ms)
            .saturating_add_signed(self.offset_ms)
            .saturating_add_signed(drifted)
    }
}

/// One process of the world, and the machine it runs on.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) disk: SimDisk,
    pub(crate) clock: WallClock,
    pub(crate) key: DeviceKey,
    /// What a new store on this machine takes its identity from.
    pub(crate) ids: [u8; 32],
    pub(crate) durable_writes: bool,
    /// The protocol versions that its build speaks.
    pub(crate) protocol: (u16, u16),
    /// How it lies, if it does.
    pub(crate) lies: BTreeSet<Class>,
    /// How often it was started.
    pub(crate) boot: u64,
    /// The engine and what belongs to it, while the process runs.
    pub(crate) process: Option<Process>,
    /// It stands still until then.
    pub(crate) paused_until_ms: u64,
    /// When it is to be started again, if that is planned.
    pub(crate) start_at_ms: Option<u64>,
    /// Its disk was harmed, or holds what cannot be opened.
    pub(crate) harmed: bool,
    /// Its store cannot be opened any more.
    pub(crate) ruined: bool,
    /// It is away until the heal.
    pub(crate) absent: bool,
    /// It is killed when its connections hold more than this many bytes.
    pub(crate) memory_limit: Option<usize>,
    /// The bytes of an earlier state of its disk.
    pub(crate) backup: Option<crate::disk::DiskImage>,
    /// Its replica id, once it had one.
    pub(crate) writer: Option<Writer>,
    /// Whether the store was opened before.
    pub(crate) founded: bool,
    /// Where its log ended, and where it ended before the last batch.
    pub(crate) log_end: (u64, u64),
    /// Places in the log that a misdirected write left as they were, in bytes from its start.
    pub(crate) holes: Vec<u64>,
    /// The last death was a clean close, so that nothing needs to be applied again.
    pub(crate) closed_cleanly: bool,
    /// When to dial whom: kept across restarts of the process as a bound on how often it dials.
    pub(crate) dials: u64,
}

/// A running engine.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) engine: DrivenReplica,
    /// What a liar shows to every second peer instead.
    pub(crate) twin: Option<DrivenReplica>,
    pub(crate) host: Arc<OverheardHost>,
    pub(crate) twin_host: Option<Arc<OverheardHost>>,
    pub(crate) side: Arc<Side>,
    pub(crate) spaces: Vec<SpaceHandle>,
    pub(crate) links: BTreeMap<ConnectionId, Link>,
    pub(crate) peers: BTreeMap<NodeIndex, PeerState>,
    /// A write or a session found the store unable to go on: the application opens it again.
    pub(crate) broken: bool,
}

/// A space as an application holds it.
pub(crate) struct SpaceHandle {
    pub(crate) id: SpaceId,
    pub(crate) space: Space,
    pub(crate) watch: Watch,
}

impl std::fmt::Debug for SpaceHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpaceHandle").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a process knows of a peer that it dials.
#[derive(Debug)]
pub(crate) struct PeerState {
    pub(crate) redial: Redial,
    /// A dial is planned or under way.
    pub(crate) dialling: bool,
    /// Whether it is to be kept connected.
    pub(crate) wanted: bool,
    /// When the dial that was planned last is due.
    pub(crate) next_dial_ms: u64,
}

/// One connection of a process, and the session over it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: NodeIndex,
    pub(crate) dialled: bool,
    pub(crate) since_ms: u64,
    pub(crate) session: Session,
    pub(crate) readers: BTreeMap<Lane, FrameReader>,
    /// Whether lanes of spaces are read: once the peer's hello is handled.
    pub(crate) reads_spaces: bool,
    pub(crate) requests: VecDeque<HostRequest>,
    /// Requests that are not answered yet.
    pub(crate) open_requests: usize,
    /// The timeout that is planned.
    pub(crate) timer_at_ms: Option<u64>,
    /// A liar's link that is served by the twin.
    pub(crate) twin: bool,
    pub(crate) overheard: Overheard,
}

/// What was seen to pass between a session and its surroundings.
#[derive(Debug, Default)]
pub(crate) struct Overheard {
    /// Spaces that the peer has offered.
    pub(crate) offered: BTreeSet<SpaceId>,
    /// Frames with rows that a flooder has sent, and the session has not handed on to storage.
    pub(crate) rows_waiting: u64,
    /// Spaces that are no longer synced because their histories differ.
    pub(crate) forked: BTreeSet<usize>,
}

impl Node {
    /// What peers know it by.
    pub(crate) fn device(&self) -> DeviceId {
        self.key.id()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn is_liar(&self) -> bool {
        !self.lies.is_empty()
    }
}
