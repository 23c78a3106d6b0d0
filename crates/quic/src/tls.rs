//! TLS 1.3 with raw public keys (RFC 7250): both ends prove an Ed25519 device key, and nothing else.
//!
//! Neither end resumes sessions: no tickets are sent, none are kept, and there is no early data. rustls does not
//! call verifiers on a resumed handshake, so [`peer_device`] must be checked against the expected peers on every
//! connection all the same.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rejoin_gossip::DeviceId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
};

use crate::identity::DeviceKey;

/// The application protocol in the TLS handshake. A peer that speaks anything else is refused there; versions
/// within it are negotiated by the session's hello.
pub(crate) const ALPN: &[u8] = b"rejoin/1";

/// The name that a dialler must pass and nobody reads: keys, not names, are what is verified.
pub(crate) const SERVER_NAME: &str = "rejoin.invalid";

/// What precedes the 32 key bytes in the SubjectPublicKeyInfo of an Ed25519 key (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The devices that may connect: the accepting side's list, shared with the verifier and changed at run time.
///
/// A change holds for the next handshake; connections that exist are the network's to close.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExpectedPeers(Arc<RwLock<BTreeSet<DeviceId>>>);

impl ExpectedPeers {
    pub(crate) fn insert(&self, device: DeviceId) {
        // The set is whole after every step, so a panic elsewhere under the lock cannot have broken it.
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(device);
    }

    pub(crate) fn remove(&self, device: &DeviceId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(device);
    }

    pub(crate) fn contains(&self, device: &DeviceId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(device)
    }
}

/// The accepting side's TLS: admits any device in `expected`.
///
/// # Errors
///
/// Only if the TLS library refuses the provider or the key: a defect of this build, not of the input.
pub(crate) fn accepting(
    key: &DeviceKey,
    expected: ExpectedPeers,
) -> Result<QuicServerConfig, Error> {
    let provider = provider();
    let verifier = Verifier::new(&provider, Accepted::AnyOf(expected));
    let resolver = AlwaysResolvesServerRawPublicKeys::new(certified(key)?);
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config)
        .map_err(|_| Error::General("no cipher suite for QUIC".into()))
}

/// The dialling side's TLS: accepts the one device that was dialled, whoever else may be expected.
///
/// # Errors
///
/// As [`accepting`].
pub(crate) fn dialling(key: &DeviceKey, peer: DeviceId) -> Result<QuicClientConfig, Error> {
    for_quic(dialling_config(key, peer)?)
}

fn dialling_config(key: &DeviceKey, peer: DeviceId) -> Result<rustls::ClientConfig, Error> {
    let provider = provider();
    let verifier = Verifier::new(&provider, Accepted::Only(peer));
    let resolver = AlwaysResolvesClientRawPublicKeys::new(certified(key)?);
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

fn for_quic(config: rustls::ClientConfig) -> Result<QuicClientConfig, Error> {
    QuicClientConfig::try_from(config)
        .map_err(|_| Error::General("no cipher suite for QUIC".into()))
}

/// The device key that the other end of an established connection proved.
pub(crate) fn peer_device(connection: &quinn::Connection) -> Option<DeviceId> {
    let identity = connection.peer_identity()?;
    match identity.downcast_ref::<Vec<CertificateDer<'static>>>()?.as_slice() {
        [key] => device_of(key),
        _ => None,
    }
}

/// The suites and groups both ends use. Passed explicitly, so that no other crate's choice of a process-wide default
/// matters. Hybrid key exchange comes first: what is recorded today stays closed to tomorrow's quantum computers.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

fn certified(key: &DeviceKey) -> Result<Arc<CertifiedKey>, Error> {
    let pkcs8 = key.to_pkcs8();
    let signing = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_bytes()))?;
    let public = signing
        .public_key()
        .ok_or(Error::General("the signing key shows no public half".into()))?;
    let public = CertificateDer::from(public.to_vec());
    Ok(Arc::new(CertifiedKey::new(vec![public], signing)))
}

fn device_of(spki: &[u8]) -> Option<DeviceId> {
    let key = spki.strip_prefix(&SPKI_PREFIX)?;
    Some(DeviceId::from_bytes(key.try_into().ok()?))
}

/// Accepts a raw Ed25519 key by itself, and a handshake signature made with it.
#[derive(Debug)]
struct Verifier {
    accepted: Accepted,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Accepted {
    Only(DeviceId),
    AnyOf(ExpectedPeers),
}

impl Verifier {
    fn new(provider: &CryptoProvider, accepted: Accepted) -> Self {
        Self { accepted, algorithms: provider.signature_verification_algorithms }
    }

    fn verify_key(
        &self,
        key: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let device =
            device_of(key).filter(|_| others.is_empty()).ok_or(CertificateError::BadEncoding)?;
        let accepted = match &self.accepted {
            Accepted::Only(peer) => *peer == device,
            Accepted::AnyOf(expected) => expected.contains(&device),
        };
        if accepted { Ok(()) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if signature.scheme != SignatureScheme::ED25519 {
            return Err(CertificateError::BadSignature.into());
        }
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_key(key, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify_key(key, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The dialling side's TLS, with something changed.
    pub(crate) fn dialling_with(
        key: &DeviceKey,
        peer: DeviceId,
        change: impl FnOnce(&mut rustls::ClientConfig),
    ) -> QuicClientConfig {
        let mut config = dialling_config(key, peer).unwrap();
        change(&mut config);
        for_quic(config).unwrap()
    }

    #[test]
    fn public_key_of_the_signer_is_the_device_id() {
        let key = DeviceKey::from_seed([3; 32]);
        let certified = certified(&key).unwrap();
        assert_eq!(device_of(&certified.cert[0]), Some(key.id()));
    }

    #[test]
    fn only_an_exact_ed25519_spki_names_a_device() {
        let key = DeviceKey::from_seed([3; 32]);
        let spki = certified(&key).unwrap().cert[0].to_vec();
        for length in 0..spki.len() {
            assert_eq!(device_of(&spki[..length]), None);
        }
        let mut longer = spki.clone();
        longer.push(0);
        assert_eq!(device_of(&longer), None);
        for position in 0..SPKI_PREFIX.len() {
            let mut other = spki.clone();
            other[position] ^= 1;
            assert_eq!(device_of(&other), None);
        }
    }

    #[test]
    fn verifier_knows_its_list_and_its_list_only() {
        let (known, unknown) = (DeviceKey::from_seed([1; 32]), DeviceKey::from_seed([2; 32]));
        let expected = ExpectedPeers::default();
        expected.insert(known.id());
        let any = Verifier::new(&provider(), Accepted::AnyOf(expected.clone()));
        let only = Verifier::new(&provider(), Accepted::Only(known.id()));
        let (known_key, unknown_key) = (certified(&known).unwrap(), certified(&unknown).unwrap());
        for verifier in [&any, &only] {
            assert!(verifier.verify_key(&known_key.cert[0], &[]).is_ok());
            assert!(verifier.verify_key(&unknown_key.cert[0], &[]).is_err());
            assert!(verifier.verify_key(&known_key.cert[0], &unknown_key.cert).is_err());
        }
        expected.remove(&known.id());
        assert!(any.verify_key(&known_key.cert[0], &[]).is_err());
    }
}
