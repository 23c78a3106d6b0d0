//! The identity of a device in the transport.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A device's Ed25519 public key: who is at the other end of a connection.
///
/// The transport proves it; sessions only carry it. It is not a
/// [`ReplicaId`](rejoin_crdt::ReplicaId), which names a writer in causality and is replaced when a
/// store may have been rolled back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceId([u8; 32]);

/// A text that is not a device id: it must be exactly 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a device id: expected 64 hexadecimal digits")]
pub struct DeviceIdError;

impl DeviceId {
    /// The number of bytes in a device id.
    pub const BYTES: usize = 32;

    /// Wraps the bytes of an Ed25519 public key. That they are a point on the curve is for the
    /// transport to check.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({}..)", hex::encode(&self.0[..4]))
    }
}

impl FromStr for DeviceId {
    type Err = DeviceIdError;

    fn from_str(text: &str) -> Result<Self, DeviceIdError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| DeviceIdError)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_refuses_anything_else() {
        let id = DeviceId::from_bytes(*b"0123456789abcdef0123456789ABCDEF");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64)] {
            assert_eq!(bad.parse::<DeviceId>(), Err(DeviceIdError), "{bad}");
        }
    }
}
