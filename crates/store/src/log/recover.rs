//! Opening a log after whatever happened to it; the rules are at the top of [`log`](crate::log).

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use rejoin_crdt::planted::{self, Bug};

use super::record::RECORD_HEADER_BYTES;
use super::segment::{
    SEGMENT_HEADER_BYTES, is_segment_header, parse_segment_name, segment_header, segment_name,
};
use super::{Framing, Location, Log, LogSizes, LogWriter, Lsn, Segment};
use crate::backend::{Backend, StorageFile};
use crate::error::{StoreError, TornTail};

/// A log that is open.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) log: Arc<Log>,
    pub(crate) writer: LogWriter,
    pub(crate) torn_tail: Option<TornTail>,
}

/// Opens the log of the store with `salt`, of which everything before `mark` is known to be durable.
///
/// Gives every record from `mark` on to `replay`, in order, cuts off a torn tail and refuses damage.
/// Segments wholly before the mark may be missing, and are not read. A log without any segment is
/// created if the mark is at its start.
pub(crate) fn recover(
    backend: &Arc<dyn Backend>,
    salt: [u8; 16],
    mark: Lsn,
    sizes: LogSizes,
    replay: &mut dyn FnMut(Location, Bytes) -> Result<(), StoreError>,
) -> Result<Recovered, StoreError> {
    let framing = Framing::new(&salt);
    let mut found = find_segments(backend, &salt)?;
    let mut torn_tail = None;
    if let Some(last) = found.pop_if(|last| !last.has_header) {
        torn_tail = Some(drop_torn_creation(backend.as_ref(), &framing, &last, mark)?);
    }
    check_order(&found)?;
    let creates = found.is_empty() && mark == Lsn::ZERO;
    if creates {
        found.push(create_first(backend.as_ref(), &salt)?);
    }
    let Some(last) = found.last() else {
        return Err(missing(mark, "the segment that the checkpoint names is missing"));
    };
    let (last_first, last_file) = (last.first, last.file.clone());
    let start = found.partition_point(|segment| segment.first <= mark);
    let Some(start) = start.checked_sub(1) else {
        return Err(missing(mark, "the segment that the checkpoint names is missing"));
    };

    let mut next = mark;
    let mut reserved = last.end;
    for (index, segment) in found.iter().enumerate().skip(start) {
        if next < segment.first || next > segment.end {
            return Err(
                segment.damaged(next.min(segment.end), "the log does not reach its checkpoint")
            );
        }
        let bytes = segment.read_from(next)?;
        let verified = replay_segment(&framing, next, &bytes, replay)?;
        next = next.after(verified);
        let sealed_at = found.get(index + 1).map(|behind| behind.first);
        if sealed_at.is_some_and(|end| end != next) || sealed_at.is_some() && next != segment.end {
            return Err(segment.damaged(next, "a record of a sealed segment does not verify"));
        }
        // What is zero to the end was reserved, and never written to.
        let torn = without_zeros(&bytes[verified..]);
        if !torn.is_empty() {
            if synced_later(&framing, next, &bytes[verified..]) && !planted::is(Bug::DamageCutOff) {
                return Err(segment.damaged(next, "a record does not verify, and later ones do"));
            }
            segment.cut(next)?;
            reserved = next;
            torn_tail = Some(TornTail { position: next, bytes: torn.len() as u64 });
        }
    }
    if !creates {
        // If the process died and not the machine, what was just read may be no further than the system's cache:
        // the last batch, the cut that seals a segment, the name of a new one. Peers are told of it from here on,
        // and what is written next rests on it, so it must not be lost to a power cut any more.
        last_file.sync().map_err(StoreError::io("syncing the log"))?;
        backend.sync_directory().map_err(StoreError::io("syncing the folder"))?;
    }

    let mut segments: BTreeMap<Lsn, Segment> =
        found.iter().map(|found| (found.first, Segment { end: found.end, file: None })).collect();
    segments.insert(last_first, Segment { end: next, file: Some(last_file.clone()) });
    let segments = RwLock::new(segments);
    let log = Arc::new(Log { backend: backend.clone(), framing, salt, segments });
    let writer = LogWriter {
        log: log.clone(),
        file: last_file,
        first: last_first,
        end: next,
        reserved,
        sizes,
    };
    Ok(Recovered { log, writer, torn_tail })
}

/// A segment as it lies in the folder; `end` is where the file ends, whatever is in it.
struct Found {
    first: Lsn,
    end: Lsn,
    has_header: bool,
    file: Arc<dyn StorageFile>,
}

impl Found {
    fn read_from(&self, lsn: Lsn) -> Result<Bytes, StoreError> {
        if lsn == self.end {
            return Ok(Bytes::new());
        }
        let mut bytes = vec![0; (self.end.0 - lsn.0) as usize];
        self.file
            .read_at(self.offset(lsn), &mut bytes)
            .map_err(StoreError::io("reading a segment"))?;
        Ok(bytes.into())
    }

    fn cut(&self, lsn: Lsn) -> Result<(), StoreError> {
        self.file
            .set_len(self.offset(lsn))
            .and_then(|()| self.file.sync())
            .map_err(StoreError::io("cutting off a torn tail"))
    }

    fn offset(&self, lsn: Lsn) -> u64 {
        SEGMENT_HEADER_BYTES as u64 + (lsn.0 - self.first.0)
    }

    fn damaged(&self, lsn: Lsn, detail: &str) -> StoreError {
        let position = self.offset(lsn.max(self.first));
        StoreError::Damaged { file: segment_name(self.first), position, detail: detail.to_owned() }
    }
}

fn missing(mark: Lsn, detail: &str) -> StoreError {
    StoreError::Damaged { file: segment_name(mark), position: 0, detail: detail.to_owned() }
}

/// All segments by first LSN; only the last may lack its header.
fn find_segments(backend: &Arc<dyn Backend>, salt: &[u8; 16]) -> Result<Vec<Found>, StoreError> {
    let names = backend.list().map_err(StoreError::io("listing the folder"))?;
    let mut found: Vec<Found> = Vec::new();
    for (name, first) in names.iter().filter_map(|name| Some((name, parse_segment_name(name)?))) {
        let file = backend.open(name).map_err(StoreError::io("opening a segment"))?;
        let len = file.len().map_err(StoreError::io("opening a segment"))?;
        let mut header = vec![0; len.min(SEGMENT_HEADER_BYTES as u64) as usize];
        file.read_at(0, &mut header).map_err(StoreError::io("reading a segment"))?;
        let has_header = is_segment_header(&header, salt, first)?;
        let records = len.saturating_sub(SEGMENT_HEADER_BYTES as u64);
        let end = first
            .0
            .checked_add(records)
            .map(Lsn)
            .ok_or_else(|| missing(first, "the segment's name is out of range"))?;
        found.push(Found { first, end, has_header, file });
    }
    // Names are in byte order, which is that of positions.
    match found.split_last() {
        Some((_, sealed)) if sealed.iter().any(|segment| !segment.has_header) => {
            let damaged = sealed.iter().find(|segment| !segment.has_header);
            let first = damaged.map_or(Lsn::ZERO, |segment| segment.first);
            Err(missing(first, "the header of a sealed segment does not verify"))
        }
        _ => Ok(found),
    }
}

fn check_order(found: &[Found]) -> Result<(), StoreError> {
    match found.windows(2).find(|pair| pair[0].end > pair[1].first) {
        Some(pair) => Err(pair[0].damaged(pair[1].first, "the segment runs into the next one")),
        None => Ok(()),
    }
}

/// Removes a last segment whose header never reached the disk, together with the batch behind it.
fn drop_torn_creation(
    backend: &dyn Backend,
    framing: &Framing,
    last: &Found,
    mark: Lsn,
) -> Result<TornTail, StoreError> {
    if mark > last.first || synced_later(framing, last.first, &last.read_from(last.first)?) {
        return Err(missing(
            last.first,
            "the header does not verify, and records behind it were durable",
        ));
    }
    backend.remove(&segment_name(last.first)).map_err(StoreError::io("removing a torn segment"))?;
    let bytes = last.file.len().map_err(StoreError::io("reading a segment"))?;
    Ok(TornTail { position: last.first, bytes })
}

fn create_first(backend: &dyn Backend, salt: &[u8; 16]) -> Result<Found, StoreError> {
    let first = Lsn::ZERO;
    let create = || {
        let file = backend.create(&segment_name(first))?;
        file.write_at(0, &segment_header(salt, first))?;
        file.sync()?;
        backend.sync_directory()?;
        Ok(file)
    };
    let file = create().map_err(StoreError::io("creating the log"))?;
    Ok(Found { first, end: first, has_header: true, file })
}

/// Replays the records at the front of `bytes`, up to the first that does not verify; returns their length.
fn replay_segment(
    framing: &Framing,
    start: Lsn,
    bytes: &Bytes,
    replay: &mut dyn FnMut(Location, Bytes) -> Result<(), StoreError>,
) -> Result<usize, StoreError> {
    let mut at = 0;
    let whole = |at: usize| {
        let header = framing.verify_header(start.after(at), &bytes[at..]);
        header
            .filter(|record| planted::is(Bug::TornTailAccepted) && record.len() <= bytes.len() - at)
    };
    while let Some(record) = framing.verify(start.after(at), &bytes[at..]).or_else(|| whole(at)) {
        let body = bytes.slice(at + RECORD_HEADER_BYTES..at + record.len());
        replay(Location { lsn: start.after(at), body_bytes: record.body_bytes }, body)?;
        at += record.len();
    }
    Ok(at)
}

/// The bytes up to the last one that is not zero.
fn without_zeros(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

/// Whether `bytes`, which lie at `position`, where no record verifies, hold one of a batch that was
/// written later than that: then what was at the position had been durable.
///
/// Zeros at the end may belong to a record, but none begins with them.
fn synced_later(framing: &Framing, position: Lsn, bytes: &[u8]) -> bool {
    let mut behind = (1..without_zeros(bytes).len()).map(|at| (position.after(at), &bytes[at..]));
    behind.any(|(lsn, bytes)| {
        let record = framing.verify(lsn, bytes);
        record.is_some_and(|record| lsn.0.saturating_sub(record.batch_distance.into()) > position.0)
    })
}
