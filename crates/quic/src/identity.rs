//! The device key: who this device is, in the transport.

use std::fmt;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, SecretDocument};
use rejoin_gossip::DeviceId;
use thiserror::Error;

/// The Ed25519 key pair of one device; its public half is the [`DeviceId`] that peers know it by.
///
/// It proves the device in the TLS handshake of every connection. It is not the replica id: one device keeps its
/// key for life, while a store mints a new replica id whenever it may have been rolled back.
///
/// The secret is wiped from memory on drop, and `Debug` shows the public half only.
///
/// ```
/// use rejoin_quic::DeviceKey;
///
/// let key = DeviceKey::from_seed([7; 32]);
/// let restored = DeviceKey::from_pkcs8(key.to_pkcs8().as_bytes())?;
/// assert_eq!(key.id(), restored.id());
/// # Ok::<(), rejoin_quic::DeviceKeyError>(())
/// ```
#[derive(Clone)]
pub struct DeviceKey {
    signing: SigningKey,
}

/// Why a device key could not be made. No state changes on any of them.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeviceKeyError {
    /// The operating system gave no random bytes. The system is at fault; trying again later may help.
    #[error("the operating system gave no random bytes for a device key: {0}")]
    Random(getrandom::Error),
    /// The bytes are not the PKCS#8 form of an Ed25519 private key, or its public half does not match. The caller
    /// is at fault, or the stored key is damaged: restore it, or generate a new one and let peers know.
    #[error("not an Ed25519 private key in PKCS#8 form")]
    Pkcs8,
}

impl DeviceKey {
    /// A new key from the operating system's random source.
    ///
    /// # Errors
    ///
    /// [`DeviceKeyError::Random`] if that source fails.
    pub fn generate() -> Result<Self, DeviceKeyError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(DeviceKeyError::Random)?;
        Ok(Self::from_seed(seed))
    }

    /// The key whose Ed25519 seed (RFC 8032 section 5.1.5) is these 32 bytes. They must be secret and unguessable.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { signing: SigningKey::from_bytes(&seed) }
    }

    /// Reads a key from PKCS#8 DER (RFC 5958, RFC 8410), as [`to_pkcs8`](Self::to_pkcs8) writes it.
    ///
    /// # Errors
    ///
    /// [`DeviceKeyError::Pkcs8`] if the bytes are anything else.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, DeviceKeyError> {
        let signing = SigningKey::from_pkcs8_der(der).map_err(|_| DeviceKeyError::Pkcs8)?;
        Ok(Self { signing })
    }

    /// The key as PKCS#8 DER: secret bytes, wiped when the document is dropped.
    pub fn to_pkcs8(&self) -> SecretDocument {
        self.signing.to_pkcs8_der().expect("an Ed25519 key pair has one fixed-size PKCS#8 form")
    }

    /// The 32 seed bytes that [`from_seed`](Self::from_seed) takes: the secret itself.
    pub fn seed(&self) -> &[u8; 32] {
        self.signing.as_bytes()
    }

    /// The public half: what peers expect this device by.
    pub fn id(&self) -> DeviceId {
        DeviceId::from_bytes(self.signing.verifying_key().to_bytes())
    }

    /// 32 secret bytes bound to this key and to `context`, the same after every restart.
    pub(crate) fn derive(&self, context: &str) -> [u8; 32] {
        blake3::derive_key(context, self.signing.as_bytes())
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceKey").field("id", &self.id()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032 section 7.1, test 1.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn seed() -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&SEED[2 * i..2 * i + 2], 16).unwrap())
    }

    #[test]
    fn id_is_the_public_key_of_rfc_8032() {
        assert_eq!(DeviceKey::from_seed(seed()).id().to_string(), PUBLIC);
    }

    #[test]
    fn pkcs8_and_seed_round_trip() {
        let key = DeviceKey::from_seed(seed());
        let der = key.to_pkcs8();
        assert_eq!(DeviceKey::from_pkcs8(der.as_bytes()).unwrap().seed(), &seed());
        assert_eq!(DeviceKey::from_seed(*key.seed()).id(), key.id());
    }

    #[test]
    fn damaged_pkcs8_is_refused_at_every_length() {
        let der = DeviceKey::from_seed(seed()).to_pkcs8();
        for length in 0..der.as_bytes().len() {
            assert!(matches!(
                DeviceKey::from_pkcs8(&der.as_bytes()[..length]),
                Err(DeviceKeyError::Pkcs8)
            ));
        }
    }

    #[test]
    fn pkcs8_with_another_public_half_is_refused() {
        let mut der = DeviceKey::from_seed(seed()).to_pkcs8().as_bytes().to_vec();
        *der.last_mut().unwrap() ^= 1;
        assert!(DeviceKey::from_pkcs8(&der).is_err());
    }

    #[test]
    fn debug_hides_the_secret() {
        let shown = format!("{:?}", DeviceKey::from_seed(seed()));
        assert!(!shown.contains(&SEED[..8]) && !shown.contains("157, 97"), "{shown}");
    }

    #[test]
    fn generated_keys_differ() {
        assert_ne!(DeviceKey::generate().unwrap().id(), DeviceKey::generate().unwrap().id());
    }
}
