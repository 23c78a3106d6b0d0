//! The writing side of a connection: one queue and one stream per lane.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quinn::{Connection, SendStream, WriteError};
use rejoin_gossip::wire::{Lane, SESSION_WINDOW_BYTES_MAX};
use tokio::task::JoinSet;

use crate::close::{LinkError, StreamError};
use crate::peers::Traffic;

/// How many bytes may wait for QUIC to take them; a peer that lets more pile up is cut off.
///
/// A session keeps the data that it has under way to [`SESSION_WINDOW_BYTES_MAX`]. On top comes what is not
/// data, most of it at the beginning, when all version vectors are told: room for two hundred writers in each of
/// the most spaces that can be shared.
pub(crate) const OUTBOUND_BYTES_MAX: usize = SESSION_WINDOW_BYTES_MAX + (16 << 20);

/// The most space lanes written to at a time. The fewer there are, the fewer frames lie unfinished at the peer, which
/// bounds them by [`INBOUND_BYTES_MAX`](crate::inbound::INBOUND_BYTES_MAX). The control lane does not wait for any.
pub(crate) const WRITES_MAX: usize = 4;

/// How long nothing may be accepted of what waits to be written: the peer keeps its connection alive and reads nothing.
/// As long as a session waits for progress, 60 s.
pub(crate) const STALL_TIMEOUT_MS: u64 = 60_000;

/// The most queued pieces that one write takes along.
const PIECES_MAX: usize = 16;

/// The control stream goes before all others, which are equal and share what is left.
const CONTROL_PRIORITY: i32 = 1;

/// All lanes that are written to. A lane's stream is opened by its first write.
#[derive(Debug)]
pub(crate) struct Outbound {
    connection: Connection,
    lanes: BTreeMap<Lane, LaneQueue>,
    /// Space lanes with something queued and no write under way, in the order in which they got it.
    waiting: VecDeque<Lane>,
    writes: JoinSet<(Lane, usize, Result<SendStream, WriteError>)>,
    space_writes: usize,
    /// Bytes given to [`send`](Self::send) and not yet taken by QUIC.
    queued: usize,
    traffic: Arc<Traffic>,
    /// The bytes sent and the time when it was last seen that more had been sent, or that there was nothing to send.
    progress: (u64, u64),
}

#[derive(Debug, Default)]
struct LaneQueue {
    pieces: VecDeque<Bytes>,
    stream: Option<SendStream>,
    writing: bool,
}

impl Outbound {
    pub(crate) fn new(connection: Connection, traffic: Arc<Traffic>) -> Self {
        Self {
            connection,
            lanes: BTreeMap::new(),
            waiting: VecDeque::new(),
            writes: JoinSet::new(),
            space_writes: 0,
            queued: 0,
            traffic,
            progress: (0, 0),
        }
    }

    /// The stream of the control lane, once there is one. What was sent before is written now.
    pub(crate) fn set_control(&mut self, stream: SendStream) {
        // It fails when the stream was stopped, which the first write reports.
        let _ = stream.set_priority(CONTROL_PRIORITY);
        let lane = self.lanes.entry(Lane::Control).or_default();
        lane.stream = Some(stream);
        self.start(Lane::Control);
    }

    /// Queues `bytes` for `lane`.
    ///
    /// # Errors
    ///
    /// When too much waits already.
    pub(crate) fn send(&mut self, lane: Lane, bytes: Bytes) -> Result<(), LinkError> {
        self.queued += bytes.len();
        if self.queued > OUTBOUND_BYTES_MAX {
            return Err(StreamError::TooMuchUnread.into());
        }
        let queue = self.lanes.entry(lane).or_default();
        let idle = queue.pieces.is_empty() && !queue.writing;
        queue.pieces.push_back(bytes);
        match lane {
            Lane::Control => self.start(lane),
            Lane::Space(_) if idle => {
                self.waiting.push_back(lane);
                self.start_waiting();
            }
            Lane::Space(_) => {}
        }
        Ok(())
    }

    /// Completes when one write has. Waits for ever while none is under way. Cancel safe.
    ///
    /// # Errors
    ///
    /// When the connection is lost, or the peer refuses to read a lane.
    pub(crate) async fn wrote(&mut self) -> Result<(), LinkError> {
        let Some(write) = self.writes.join_next().await else {
            return std::future::pending().await;
        };
        let (lane, bytes, write) = write.map_err(|_| LinkError::STREAM_PANICKED)?;
        self.queued -= bytes;
        let stream = match write {
            Ok(stream) => stream,
            Err(WriteError::ConnectionLost(error)) => return Err(LinkError::of_connection(&error)),
            Err(_) => return Err(StreamError::Stopped.into()),
        };
        let queue = self.lanes.entry(lane).or_default();
        queue.stream = Some(stream);
        queue.writing = false;
        match lane {
            Lane::Control => self.start(lane),
            Lane::Space(_) => {
                self.space_writes -= 1;
                if !queue.pieces.is_empty() {
                    self.waiting.push_back(lane);
                }
                self.start_waiting();
            }
        }
        Ok(())
    }

    /// When to ask [`is_stalled`](Self::is_stalled), if anything is under way.
    pub(crate) fn stall_at_ms(&self) -> Option<u64> {
        (!self.writes.is_empty()).then(|| self.progress.1.saturating_add(STALL_TIMEOUT_MS))
    }

    /// Whether nothing that waits has moved for [`STALL_TIMEOUT_MS`].
    pub(crate) fn is_stalled(&mut self, now_ms: u64) -> bool {
        let sent = self.traffic.sent.load(Ordering::Relaxed);
        if self.writes.is_empty() || sent != self.progress.0 {
            self.progress = (sent, now_ms);
        }
        now_ms.saturating_sub(self.progress.1) >= STALL_TIMEOUT_MS
    }

    fn start_waiting(&mut self) {
        while self.space_writes < WRITES_MAX
            && let Some(lane) = self.waiting.pop_front()
        {
            self.space_writes += 1;
            self.start(lane);
        }
    }

    /// Writes what is queued for `lane`, unless it is being written to or its stream is not there yet.
    fn start(&mut self, lane: Lane) {
        let queue = self.lanes.entry(lane).or_default();
        let ready = lane != Lane::Control || queue.stream.is_some();
        if queue.writing || queue.pieces.is_empty() || !ready {
            return;
        }
        queue.writing = true;
        let count = queue.pieces.len().min(PIECES_MAX);
        let mut pieces: Vec<Bytes> = queue.pieces.drain(..count).collect();
        let bytes = pieces.iter().map(Bytes::len).sum();
        let (stream, connection) = (queue.stream.take(), self.connection.clone());
        let traffic = Arc::clone(&self.traffic);
        self.writes.spawn(async move {
            let written = async {
                let mut stream = match stream {
                    Some(stream) => stream,
                    None => connection.open_uni().await.map_err(WriteError::ConnectionLost)?,
                };
                write_all(&mut stream, &mut pieces, &traffic).await?;
                Ok(stream)
            };
            (lane, bytes, written.await)
        });
    }
}

/// Writes all pieces, counting as QUIC takes them.
async fn write_all(
    stream: &mut SendStream,
    pieces: &mut [Bytes],
    traffic: &Traffic,
) -> Result<(), WriteError> {
    let mut first = 0;
    while first < pieces.len() {
        let written = stream.write_chunks(&mut pieces[first..]).await?;
        traffic.sent.fetch_add(written.bytes as u64, Ordering::Relaxed);
        first += written.chunks;
    }
    Ok(())
}
