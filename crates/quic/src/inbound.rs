//! The reading side of a connection: its streams, cut into preambles and frames.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quinn::{ReadError, RecvStream};
use rejoin_gossip::wire::{FrameError, FrameReader, Incoming, Lane, SESSION_WINDOW_BYTES_MAX};
use tokio::task::JoinSet;

use crate::close::{LinkError, StreamError};
use crate::peers::Traffic;

/// The most bytes of unfinished frames that one connection may have us hold, over all its streams; whoever
/// exceeds it is cut off.
///
/// A session keeps the data that it has under way to [`SESSION_WINDOW_BYTES_MAX`]. On top comes what is not
/// data, version vectors above all: room for a hundred writers in each space.
pub(crate) const INBOUND_BYTES_MAX: usize = SESSION_WINDOW_BYTES_MAX + (8 << 20);

/// The most chunks taken from a stream at once. A chunk is what one packet carried, 1.2 to 1.5 KB.
const CHUNKS_MAX: usize = 32;

/// The header of a frame, as laid out in [`rejoin_gossip::wire`].
const FRAME_HEADER_BYTES: usize = size_of::<u32>();

/// All streams that are read from. Every one has one read under way, or is with the driver as an [`Arrival`]: what the
/// driver does not take stays in QUIC, whose flow control then holds the sender back.
#[derive(Debug)]
pub(crate) struct Inbound {
    reads: JoinSet<(Stream, Result<Vec<Bytes>, ReadError>)>,
    /// Bytes of unfinished frames over all streams.
    held: usize,
    traffic: Arc<Traffic>,
}

/// Which of the two kinds of streams one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The one that carries the control lane.
    TwoWay,
    /// One that carries the lane of a space.
    OneWay,
}

/// A stream from which something came. Take its parts, then give it back with [`Inbound::resume`].
#[derive(Debug)]
pub(crate) struct Arrival {
    stream: Stream,
    ended: bool,
}

#[derive(Debug)]
struct Stream {
    receive: RecvStream,
    kind: Kind,
    reader: FrameReader,
    /// Bytes pushed into the reader and not yet taken out.
    held: usize,
}

impl Inbound {
    pub(crate) fn new(traffic: Arc<Traffic>) -> Self {
        Self { reads: JoinSet::new(), held: 0, traffic }
    }

    /// Starts to read a stream that the peer opened, or the reading half of the control stream.
    pub(crate) fn add(&mut self, receive: RecvStream, kind: Kind) {
        self.read(Stream { receive, kind, reader: FrameReader::default(), held: 0 });
    }

    /// The next stream from which something came. Waits for ever while there is no stream. Cancel safe.
    ///
    /// # Errors
    ///
    /// When the connection is lost, or the peer broke the rules of streams.
    pub(crate) async fn next(&mut self) -> Result<Arrival, LinkError> {
        let Some(read) = self.reads.join_next().await else { return std::future::pending().await };
        let (mut stream, read) = read.map_err(|_| LinkError::STREAM_PANICKED)?;
        let chunks = match read {
            Ok(chunks) => chunks,
            Err(ReadError::ConnectionLost(error)) => return Err(LinkError::of_connection(&error)),
            Err(_) => return Err(StreamError::Reset.into()),
        };
        let bytes: usize = chunks.iter().map(Bytes::len).sum();
        self.traffic.received.fetch_add(bytes as u64, Ordering::Relaxed);
        for chunk in &chunks {
            stream.reader.push(chunk);
        }
        stream.held += bytes;
        self.held += bytes;
        Ok(Arrival { stream, ended: chunks.is_empty() })
    }

    /// Reads on, when all parts of an arrival are taken.
    ///
    /// # Errors
    ///
    /// When the peer has too many unfinished frames, or the stream has ended where it must not.
    pub(crate) fn resume(&mut self, arrival: Arrival) -> Result<(), LinkError> {
        let Arrival { stream, ended } = arrival;
        if ended {
            stream.reader.finish().map_err(StreamError::Frame)?;
            // Space lanes may end; without the control lane there is no session.
            return if stream.kind == Kind::TwoWay {
                Err(StreamError::ControlEnded.into())
            } else {
                Ok(())
            };
        }
        if self.held > INBOUND_BYTES_MAX {
            return Err(StreamError::TooMuchUnfinished.into());
        }
        self.read(stream);
        Ok(())
    }

    /// The next complete part of an arrival, with its lane.
    ///
    /// # Errors
    ///
    /// When the bytes are not a stream of ours.
    pub(crate) fn take_part(
        &mut self,
        arrival: &mut Arrival,
    ) -> Result<Option<(Lane, Incoming)>, LinkError> {
        let stream = &mut arrival.stream;
        let Some(part) = stream.reader.next().map_err(StreamError::Frame)? else { return Ok(None) };
        let lane = stream.reader.lane().ok_or(StreamError::Frame(FrameError::NotOurs))?;
        let bytes = match &part {
            Incoming::Preamble(preamble) if !stream.kind.carries(lane) => {
                return Err(StreamError::MisplacedLane(preamble.lane).into());
            }
            Incoming::Preamble(preamble) => preamble.to_bytes().len(),
            Incoming::Frame(payload) => FRAME_HEADER_BYTES + payload.len(),
        };
        stream.held -= bytes;
        self.held -= bytes;
        Ok(Some((lane, part)))
    }

    fn read(&mut self, mut stream: Stream) {
        self.reads.spawn(async move {
            let mut chunks = vec![Bytes::new(); CHUNKS_MAX];
            let read = stream.receive.read_chunks(&mut chunks).await;
            let read = read.map(|count| {
                chunks.truncate(count.unwrap_or(0));
                chunks
            });
            (stream, read)
        });
    }
}

impl Kind {
    fn carries(self, lane: Lane) -> bool {
        match self {
            Kind::TwoWay => lane == Lane::Control,
            Kind::OneWay => lane != Lane::Control,
        }
    }
}
