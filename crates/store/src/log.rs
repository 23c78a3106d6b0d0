//! The commit log, which is the write-ahead log: append-only segments of checksummed records.
//!
//! # Layout (this module and its children are its one home)
//!
//! Every record has a position in the one sequence of bytes that the log ever was, its [`Lsn`]. A segment
//! is a file named by the LSN of its first record, in 20 decimal digits, and `.log`:
//!
//! | segment | bytes |
//! |---|---|
//! | magic `rejoinLG` | 8 |
//! | format version, u32 | 4 |
//! | the store's salt | 16 |
//! | first LSN, u64 | 8 |
//! | CRC-32 of the 36 bytes above | 4 |
//! | records, end to end | |
//! | in the last segment, zeros: room for records to come | |
//!
//! Integers are little-endian. A record is
//!
//! | record | bytes |
//! |---|---|
//! | body length, u32 | 4 |
//! | batch distance, u32: bytes from the start of the write batch to this record | 4 |
//! | CRC-32 of the body | 4 |
//! | CRC-32 of the 12 bytes above | 4 |
//! | body ([`entry`](crate::entry) says what is in it) | |
//!
//! where both checksums begin with the salt and the LSN, so bytes that are stale, misplaced or of another
//! store never verify.
//!
//! # What a crash can leave
//!
//! A *batch* is what one write puts there; it is synced before the next one is written. So if a record does
//! not verify at some position, and any record behind it verifies that belongs to a batch that starts behind
//! that position, then the position had been synced: this is damage, and the log is refused. If none does,
//! the position is in the last batch, of which nobody was told that it is durable: a torn tail, which is cut off.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use rejoin_crdt::planted::{self, Bug};

use crate::backend::{Backend, StorageFile};
use crate::error::StoreError;

mod record;
mod recover;
mod scan;
mod segment;

pub(crate) use record::{Framing, RECORD_HEADER_BYTES};
pub(crate) use recover::recover;
pub(crate) use scan::{Scan, Scanned};
use segment::{SEGMENT_HEADER_BYTES, parse_segment_name, segment_header, segment_name};

/// The most bytes of neighbouring records that are fetched with one read.
const READ_BYTES_MAX: usize = 256 << 10;

/// A position in the log: how many bytes of records were ever written before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// Before every record.
    pub const ZERO: Lsn = Lsn(0);
    /// Behind every record.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// Wraps a position that was taken from [`Lsn::get`].
    pub const fn new(position: u64) -> Self {
        Self(position)
    }

    /// The position, in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position `bytes` behind this one.
    pub(crate) fn after(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a file of this name is a segment of a log.
pub(crate) fn is_segment(name: &str) -> bool {
    parse_segment_name(name).is_some()
}

/// Where a record is: all that is needed to fetch it with one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) lsn: Lsn,
    pub(crate) body_bytes: u32,
}

impl Location {
    pub(crate) fn end(self) -> Lsn {
        self.lsn.after(RECORD_HEADER_BYTES + self.body_bytes as usize)
    }
}

/// The segments of a log, as readers need them. Appending is [`LogWriter`]'s.
#[derive(Debug)]
pub(crate) struct Log {
    backend: Arc<dyn Backend>,
    framing: Framing,
    salt: [u8; 16],
    /// By first LSN; the last is the one appended to. Segments wholly applied to the tree may be missing.
    segments: RwLock<BTreeMap<Lsn, Segment>>,
}

/// A segment: `file` is kept open only while it is appended to.
#[derive(Debug, Clone)]
struct Segment {
    /// Behind its last durable record.
    end: Lsn,
    file: Option<Arc<dyn StorageFile>>,
}

/// Appends to the log. There is one, and it knows the durable end.
#[derive(Debug)]
pub(crate) struct LogWriter {
    log: Arc<Log>,
    file: Arc<dyn StorageFile>,
    first: Lsn,
    end: Lsn,
    /// Up to where the file is filled with zeros, or with records.
    reserved: Lsn,
    sizes: LogSizes,
}

/// How large the files of a log become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogSizes {
    /// A segment that has reached this is sealed, in bytes.
    pub(crate) segment_bytes: u64,
    /// How far the last segment is filled with zeros ahead of its records, in bytes.
    pub(crate) reserve_bytes: usize,
}

impl Log {
    pub(crate) fn framing(&self) -> &Framing {
        &self.framing
    }

    /// The bodies of the records at `locations`, which ascend; `None` if a segment that held one is gone.
    pub(crate) fn read(&self, locations: &[Location]) -> Result<Option<Vec<Bytes>>, StoreError> {
        let mut bodies = Vec::with_capacity(locations.len());
        let mut rest = locations;
        while let Some(first) = rest.first() {
            let Some(segment) = self.segment_at(first.lsn) else { return Ok(None) };
            let count = neighbours(rest, segment.end);
            let (run, behind) = rest.split_at(count.max(1));
            let bytes = segment.read(first.lsn, run[run.len() - 1].end())?;
            for location in run {
                bodies.push(self.body(&bytes, first.lsn, *location, &segment)?);
            }
            rest = behind;
        }
        Ok(Some(bodies))
    }

    /// The durable records from `from` on, which is the position of a record or the durable end.
    /// `None` if some of them are gone.
    pub(crate) fn scan(self: &Arc<Self>, from: Lsn) -> Option<Scan> {
        let reader = self.segment_at(from)?;
        Some(Scan::new(self.clone(), from, reader))
    }

    /// The segments, as (first LSN, end), ascending. The last is the one appended to.
    pub(crate) fn extents(&self) -> Vec<(Lsn, Lsn)> {
        self.segments().iter().map(|(first, segment)| (*first, segment.end)).collect()
    }

    /// Drops a segment that is not the last one. The caller syncs the directory.
    pub(crate) fn remove(&self, first: Lsn) -> std::io::Result<()> {
        {
            let mut segments = self.segments_mut();
            assert!(
                segments.last_key_value().is_some_and(|(last, _)| *last != first),
                "the segment appended to is never dropped"
            );
            segments.remove(&first);
        }
        self.backend.remove(&segment_name(first))
    }

    /// Opens the segment that holds `lsn`, or that would: at the very end of the log, the last one.
    fn segment_at(&self, lsn: Lsn) -> Option<OpenSegment> {
        let (first, segment, is_last) = {
            let segments = self.segments();
            let (first, segment) = segments.range(..=lsn).next_back()?;
            let is_last = segments.last_key_value().is_some_and(|(last, _)| last == first);
            (*first, segment.clone(), is_last)
        };
        if lsn > segment.end || lsn == segment.end && !is_last {
            return None;
        }
        Some(OpenSegment {
            backend: self.backend.clone(),
            first,
            end: segment.end,
            file: segment.file,
        })
    }

    fn body(
        &self,
        bytes: &Bytes,
        base: Lsn,
        location: Location,
        segment: &OpenSegment,
    ) -> Result<Bytes, StoreError> {
        let start = (location.lsn.0 - base.0) as usize;
        match self.framing.verify(location.lsn, &bytes[start..]) {
            Some(record) if record.body_bytes == location.body_bytes => {
                let start = start + RECORD_HEADER_BYTES;
                Ok(bytes.slice(start..start + record.body_bytes as usize))
            }
            _ => Err(segment.damaged(location.lsn, "a record does not verify")),
        }
    }

    fn segments(&self) -> RwLockReadGuard<'_, BTreeMap<Lsn, Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<Lsn, Segment>> {
        self.segments.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogWriter {
    /// The durable end of the log.
    pub(crate) fn end(&self) -> Lsn {
        self.end
    }

    /// Writes a batch of whole records that begins at the end, and makes it durable.
    ///
    /// A segment that has reached its size is sealed first, so a batch is never split.
    /// After an error nothing may be appended any more.
    pub(crate) fn append(&mut self, batch: &[u8]) -> std::io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.end.0 - self.first.0 >= self.sizes.segment_bytes {
            return self.start_segment(batch);
        }
        self.file.write_at(self.offset(self.end), batch)?;
        if planted::is(Bug::ReserveNotSynced) && self.end.after(batch.len()) <= self.reserved {
            self.advance(batch.len());
            return Ok(());
        }
        self.reserve_behind(batch.len())?;
        match self.file.sync() {
            Err(_) if planted::is(Bug::SyncRetried) => self.file.sync()?,
            synced => synced?,
        }
        self.advance(batch.len());
        Ok(())
    }

    /// Fills the file with zeros for some way behind a batch that has used up what was filled before.
    ///
    /// A batch that falls within the reserve changes neither the length of the file nor where its blocks are, so
    /// that syncing it writes no metadata: half the cost of a sync on a journalling file system.
    fn reserve_behind(&mut self, batch_bytes: usize) -> std::io::Result<()> {
        let end = self.end.after(batch_bytes);
        if end > self.reserved && self.sizes.reserve_bytes > 0 {
            self.file.write_at(self.offset(end), &vec![0; self.sizes.reserve_bytes])?;
            self.reserved = end.after(self.sizes.reserve_bytes);
        }
        Ok(())
    }

    fn offset(&self, lsn: Lsn) -> u64 {
        SEGMENT_HEADER_BYTES as u64 + (lsn.0 - self.first.0)
    }

    /// Seals the segment appended to, unless it is empty, so that it can be dropped.
    pub(crate) fn seal(&mut self) -> std::io::Result<()> {
        if self.end == self.first { Ok(()) } else { self.start_segment(&[]) }
    }

    /// Goes on in a new segment. Its header and `batch` are one write: if a crash tears it, none of it was promised.
    ///
    /// The reserve of the sealed one is given back before, so that a sealed segment ends with its last record.
    fn start_segment(&mut self, batch: &[u8]) -> std::io::Result<()> {
        if self.reserved > self.end {
            self.file.set_len(self.offset(self.end))?;
            self.file.sync()?;
        }
        let first = self.end;
        let file = self.log.backend.create(&segment_name(first))?;
        let mut bytes = segment_header(&self.log.salt, first).to_vec();
        bytes.extend_from_slice(batch);
        file.write_at(0, &bytes)?;
        file.sync()?;
        if !planted::is(Bug::SegmentEntryNotSynced) {
            self.log.backend.sync_directory()?;
        }
        {
            let mut segments = self.log.segments_mut();
            if let Some(sealed) = segments.get_mut(&self.first) {
                sealed.file = None;
            }
            segments.insert(first, Segment { end: first, file: Some(file.clone()) });
        }
        (self.file, self.first) = (file, first);
        self.advance(batch.len());
        self.reserved = self.end;
        Ok(())
    }

    fn advance(&mut self, bytes: usize) {
        self.end = self.end.after(bytes);
        if let Some(segment) = self.log.segments_mut().get_mut(&self.first) {
            segment.end = self.end;
        }
    }
}

/// A segment opened for reading.
#[derive(Debug)]
struct OpenSegment {
    backend: Arc<dyn Backend>,
    first: Lsn,
    end: Lsn,
    file: Option<Arc<dyn StorageFile>>,
}

impl OpenSegment {
    /// The bytes of the records from `start` to `end`, unverified.
    fn read(&self, start: Lsn, end: Lsn) -> Result<Bytes, StoreError> {
        let opened;
        let file = match &self.file {
            Some(file) => file,
            None => {
                opened = self
                    .backend
                    .open(&segment_name(self.first))
                    .map_err(StoreError::io("opening a segment"))?;
                &opened
            }
        };
        let mut bytes = vec![0; (end.0 - start.0) as usize];
        match file.read_at(self.offset(start), &mut bytes) {
            Ok(()) => Ok(bytes.into()),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.damaged(start, "the segment ends too early"))
            }
            Err(error) => Err(StoreError::io("reading a segment")(error)),
        }
    }

    fn offset(&self, lsn: Lsn) -> u64 {
        SEGMENT_HEADER_BYTES as u64 + (lsn.0 - self.first.0)
    }

    fn damaged(&self, lsn: Lsn, detail: &str) -> StoreError {
        let position = self.offset(lsn);
        StoreError::Damaged { file: segment_name(self.first), position, detail: detail.to_owned() }
    }
}

/// How many of `locations` follow each other end to end, up to `end` and within one read.
fn neighbours(locations: &[Location], end: Lsn) -> usize {
    let start = locations[0].lsn;
    let mut next = start;
    locations
        .iter()
        .take_while(|location| {
            let follows = location.lsn == next
                && location.end() <= end
                && (location.end().0 - start.0) as usize <= READ_BYTES_MAX;
            next = location.end();
            follows
        })
        .count()
}

#[cfg(test)]
mod tests;
