//! Reading the log from front to back.

use std::sync::Arc;

use bytes::Bytes;

use super::{Location, Log, Lsn, OpenSegment, READ_BYTES_MAX, RECORD_HEADER_BYTES};
use crate::error::StoreError;

/// Reads durable records one after the other.
#[derive(Debug)]
pub(crate) struct Scan {
    log: Arc<Log>,
    segment: OpenSegment,
    next: Lsn,
    /// What was read ahead, from `next` on.
    ahead: Bytes,
}

/// What a step of a [`Scan`] found.
#[derive(Debug)]
pub(crate) enum Scanned {
    /// A record, and its body.
    Record(Location, Bytes),
    /// The durable end of the log.
    End,
    /// A gap where segments were dropped.
    Gone,
}

impl Scan {
    pub(super) fn new(log: Arc<Log>, from: Lsn, segment: OpenSegment) -> Self {
        Self { log, segment, next: from, ahead: Bytes::new() }
    }

    /// The next record.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where a record does not verify, and if the scan did not start at a record.
    pub(crate) fn step(&mut self) -> Result<Scanned, StoreError> {
        if self.next == self.segment.end {
            // The end may have moved since, and the segment may have been sealed.
            let Some(segment) = self.log.segment_at(self.next) else { return Ok(Scanned::Gone) };
            self.segment = segment;
            if self.next == self.segment.end {
                return Ok(Scanned::End);
            }
        }
        self.fill(RECORD_HEADER_BYTES)?;
        let framing = self.log.framing();
        let header = framing.verify_header(self.next, &self.ahead);
        let header = header.ok_or_else(|| self.damaged())?;
        self.fill(header.len())?;
        let framing = self.log.framing();
        let record = framing.verify(self.next, &self.ahead).ok_or_else(|| self.damaged())?;
        let location = Location { lsn: self.next, body_bytes: record.body_bytes };
        let body = self.ahead.split_to(record.len()).slice(RECORD_HEADER_BYTES..);
        self.next = location.end();
        Ok(Scanned::Record(location, body))
    }

    /// Reads ahead until at least `bytes` are there.
    fn fill(&mut self, bytes: usize) -> Result<(), StoreError> {
        if self.ahead.len() >= bytes {
            return Ok(());
        }
        if self.next.after(bytes) > self.segment.end {
            return Err(self.damaged());
        }
        let end = self.next.after(bytes.max(READ_BYTES_MAX)).min(self.segment.end);
        self.ahead = self.segment.read(self.next, end)?;
        Ok(())
    }

    fn damaged(&self) -> StoreError {
        self.segment.damaged(self.next, "a record does not verify")
    }
}
