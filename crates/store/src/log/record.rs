//! The frame of a record; the layout is described at the top of [`log`](crate::log).

use super::Lsn;

pub(crate) const RECORD_HEADER_BYTES: usize = 16;

/// Seals and verifies the records of one store.
#[derive(Debug, Clone)]
pub(crate) struct Framing {
    /// Has consumed the salt.
    salted: crc32fast::Hasher,
}

/// What the header of a record that verifies says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) body_bytes: u32,
    pub(crate) batch_distance: u32,
}

impl Record {
    pub(crate) fn len(self) -> usize {
        RECORD_HEADER_BYTES + self.body_bytes as usize
    }
}

impl Framing {
    pub(crate) fn new(salt: &[u8; 16]) -> Self {
        let mut salted = crc32fast::Hasher::new();
        salted.update(salt);
        Self { salted }
    }

    /// Appends a record to a batch that starts at `batch_start`; `write_body` appends its body.
    ///
    /// Returns the length of the body, in bytes.
    pub(crate) fn seal(
        &self,
        batch: &mut Vec<u8>,
        batch_start: Lsn,
        write_body: impl FnOnce(&mut Vec<u8>),
    ) -> u32 {
        let distance = batch.len();
        batch.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        let body_start = batch.len();
        write_body(batch);
        let in_u32 = |bytes: usize| {
            u32::try_from(bytes).expect("records and batches are bounded far below 4 GiB")
        };
        let body_bytes = in_u32(batch.len() - body_start);
        let lsn = batch_start.after(distance);
        let body_checksum = self.checksum(lsn, &batch[body_start..]);
        let header = &mut batch[distance..body_start];
        header[..4].copy_from_slice(&body_bytes.to_le_bytes());
        header[4..8].copy_from_slice(&in_u32(distance).to_le_bytes());
        header[8..12].copy_from_slice(&body_checksum.to_le_bytes());
        let header_checksum = self.checksum(lsn, &header[..12]);
        header[12..].copy_from_slice(&header_checksum.to_le_bytes());
        body_bytes
    }

    /// The header of the record that `bytes` begin with, if it verifies; its body may be cut off.
    pub(crate) fn verify_header(&self, lsn: Lsn, bytes: &[u8]) -> Option<Record> {
        let header = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
        if self.checksum(lsn, &header[..12]) != word(header, 12) {
            return None;
        }
        Some(Record { body_bytes: word(header, 0), batch_distance: word(header, 4) })
    }

    /// The record that `bytes` begin with, if all of it is there and verifies.
    pub(crate) fn verify(&self, lsn: Lsn, bytes: &[u8]) -> Option<Record> {
        let record = self.verify_header(lsn, bytes)?;
        let body = bytes.get(RECORD_HEADER_BYTES..record.len())?;
        (self.checksum(lsn, body) == word(bytes.first_chunk()?, 8)).then_some(record)
    }

    fn checksum(&self, lsn: Lsn, bytes: &[u8]) -> u32 {
        let mut hasher = self.salted.clone();
        hasher.update(&lsn.0.to_le_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }
}

fn word(header: &[u8; RECORD_HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_verifies_only_whole_in_its_place_and_in_its_store() {
        let framing = Framing::new(&[1; 16]);
        let mut batch = Vec::new();
        framing.seal(&mut batch, Lsn(100), |out| out.extend_from_slice(b"first"));
        let second = batch.len();
        framing.seal(&mut batch, Lsn(100), |out| out.extend_from_slice(b"second"));
        let lsn = Lsn(100).after(second);
        let record = Record { body_bytes: 6, batch_distance: 21 };
        assert_eq!(framing.verify(lsn, &batch[second..]), Some(record));
        assert_eq!(framing.verify(Lsn(100), &batch[second..]), None);
        assert_eq!(Framing::new(&[2; 16]).verify(lsn, &batch[second..]), None);
        assert_eq!(framing.verify(lsn, &batch[second..batch.len() - 1]), None);
        for bit in 0..8 * (batch.len() - second) {
            let mut flipped = batch[second..].to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(framing.verify(lsn, &flipped), None, "bit {bit}");
        }
    }
}
