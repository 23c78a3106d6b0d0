//! Names: of writers, spaces, commits. Opaque bytes; whoever mints them passes the randomness in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not an id: it must be exactly twice as many hexadecimal digits as the id has bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected {expected_digits} hexadecimal digits")]
pub struct IdError {
    /// How many digits the id has.
    pub expected_digits: usize,
}

/// Implements the common face of a fixed-size id: bytes in and out, lower-case hexadecimal text.
macro_rules! byte_id {
    ($name:ident, $bytes:literal) => {
        impl $name {
            /// The number of bytes in the id.
            pub const BYTES: usize = $bytes;

            /// Wraps bytes that are already an id.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The bytes of the id.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}..)"), hex::encode(&self.0[..4]))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| IdError { expected_digits: 2 * $bytes })?;
                Ok(Self(bytes))
            }
        }
    };
}

/// Names one writer in causality: 16 random bytes, minted when a store is created.
///
/// It belongs to one store and is not the device's key: a store that may have been rolled back
/// takes a new one, so that no dot is ever spent twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct ReplicaId([u8; 16]);
byte_id!(ReplicaId, 16);

/// Names a space: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SpaceId([u8; 32]);
byte_id!(SpaceId, 32);

/// The BLAKE3 hash of a commit; see [`commit_hash`](crate::commit_hash) for what it covers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CommitHash([u8; 32]);
byte_id!(CommitHash, 32);

impl CommitHash {
    /// What stands before a replica's first commit in its hash chain.
    pub const ZERO: CommitHash = CommitHash([0; 32]);
}

/// Names one commit: its writer, and its place in that writer's sequence, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Who wrote the commit.
    pub replica: ReplicaId,
    /// The commit's number among those of the replica in this space, from 1, without gaps.
    #[serde(deserialize_with = "crate::codec::deserialize_sequence")]
    pub sequence: u64,
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.replica, self.sequence)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.replica, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_refuses_anything_else() {
        let id = ReplicaId::from_bytes(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse::<ReplicaId>(), Ok(id));
        for bad in ["", "00", "zz", &"0".repeat(31), &"0".repeat(33), &"g".repeat(32)] {
            assert_eq!(bad.parse::<ReplicaId>(), Err(IdError { expected_digits: 32 }), "{bad}");
        }
    }
}
