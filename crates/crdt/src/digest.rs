//! A digest of a whole state, to show that two replicas are equal.

use std::fmt;

use crate::{PAGE_ROWS_MAX, Path, ReadRows, RowKey, VersionVector};

/// The BLAKE3 hash of a state in canonical encoding: equal digests mean equal states, byte for byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateDigest([u8; 32]);

impl StateDigest {
    /// The bytes of the digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateDigest({self})")
    }
}

/// The digest of the state `(rows, version)`.
///
/// Hashed are the version vector (for each replica its id, sequence number and head hash) and each
/// row in the order of keys (key and row, each with its length as 8 little-endian bytes). The cost is
/// linear in the rows.
///
/// # Errors
/// Whatever keeps the rows from being read.
pub fn state_digest<R: ReadRows + ?Sized>(
    rows: &R,
    version: &VersionVector,
) -> Result<StateDigest, R::Error> {
    let mut hasher = blake3::Hasher::new_derive_key("rejoin state digest v1");
    hasher.update(&(version.len() as u64).to_le_bytes());
    for (replica, head) in version.iter() {
        hasher.update(replica.as_bytes());
        hasher.update(&head.sequence.to_le_bytes());
        hasher.update(head.hash.as_bytes());
    }
    let mut after: Option<RowKey> = None;
    loop {
        let page = rows.page(&Path::root(), after.as_ref(), PAGE_ROWS_MAX)?;
        for (key, row) in &page {
            for part in [key.to_bytes(), row.to_bytes()] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(&part);
            }
        }
        if page.len() < PAGE_ROWS_MAX {
            return Ok(StateDigest(*hasher.finalize().as_bytes()));
        }
        after = page.into_iter().last().map(|(key, _)| key);
    }
}
