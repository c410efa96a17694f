//! TLS 1.3 with certificates on both sides, and the keys that make a restart known to the peers.

use std::sync::{Arc, OnceLock};

use quinn::ConnectionError;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::HashedConnectionIdGenerator;
use raft_core::transport::TransportError;
use raft_core::types::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::tls13::{Hkdf, OkmBlock};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    SupportedCipherSuite,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::credentials::Credentials;
use crate::fault::Fault;
use crate::identity::Identity;

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
compile_error!("raft-transport-quic needs one of the features `ring` and `aws-lc-rs`");

/// Keeps other users of QUIC away: not a version, which the hello agrees on.
const ALPN: &[u8] = b"raft";

/// The name that TLS asks for. Never sent, and not what is verified: see [`NodeVerifier`].
pub(crate) const SERVER_NAME: &str = "raft";

/// The cryptography, given explicitly everywhere: a process-wide default is the application's business.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc-rs"))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}

/// Why a verifier refused a certificate. TLS would send its reasons to the peer as well, so they take this way instead,
/// and the peer is told only that it was refused.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reason(Arc<OnceLock<String>>);

impl Reason {
    /// As [`Fault::from`], with the reason in place of what the peer was told.
    pub(crate) fn explain(&self, error: ConnectionError) -> Fault {
        match (Fault::from(error), self.0.get()) {
            (Fault::Refused(_), Some(reason)) => Fault::Refused(reason.clone()),
            (fault, _) => fault,
        }
    }

    fn refuse(&self, reason: impl std::fmt::Display) -> Error {
        // Filled already only if the handshake asked twice: the first reason stands.
        let _ = self.0.set(reason.to_string());
        CertificateError::ApplicationVerificationFailure.into()
    }
}

/// What a node takes one connection in with.
pub(crate) fn server_config(
    credentials: &Credentials,
    reason: &Reason,
) -> Result<QuicServerConfig, TransportError> {
    let provider = provider();
    let chain =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&credentials.roots), Arc::clone(&provider))
            .build()
            .map_err(tls_error)?;
    let verifier = ClusterVerifier { chain, local: own_identity(credentials), reason: reason.clone() };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())
        .map_err(tls_error)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session is not verified again, so a certificate that is refused by now would still open it.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(tls_error)
}

/// What a node dials `peer` with, once.
pub(crate) fn client_config(
    credentials: &Credentials,
    peer: NodeId,
    reason: &Reason,
) -> Result<QuicClientConfig, TransportError> {
    let provider = provider();
    let verifier = NodeVerifier {
        roots: Arc::clone(&credentials.roots),
        expected: Identity { node: peer, ..own_identity(credentials) },
        provider: Arc::clone(&provider),
        reason: reason.clone(),
    };
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())
        .map_err(tls_error)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    QuicClientConfig::try_from(config).map_err(tls_error)
}

fn own_identity(credentials: &Credentials) -> Identity {
    Identity { cluster: credentials.cluster(), node: credentials.node() }
}

fn tls_error(error: impl std::fmt::Display) -> TransportError {
    TransportError::new(format!("TLS cannot be set up: {error}"))
}

/// Verifies that a certificate is valid at `now` and issued under `roots`.
pub(crate) fn verify_chain(
    roots: &RootCertStore,
    certificate: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    provider: &CryptoProvider,
) -> Result<(), Error> {
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(certificate)?,
        roots,
        intermediates,
        now,
        provider.signature_verification_algorithms.all,
    )
}

fn tls12() -> Error {
    Error::General("TLS 1.2 is not spoken here".to_owned())
}

/// Verifies the node that was dialed: the certificate must be issued under our authorities and name that node of our
/// cluster. Addresses and host names play no part, so a node may move.
#[derive(Debug)]
struct NodeVerifier {
    roots: Arc<RootCertStore>,
    expected: Identity,
    provider: Arc<CryptoProvider>,
    reason: Reason,
}

impl NodeVerifier {
    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refuse = |error: &dyn std::fmt::Display| self.reason.refuse(format!("its certificate: {error}"));
        verify_chain(&self.roots, certificate, intermediates, now, &self.provider)
            .map_err(|error| refuse(&error))?;
        let found = Identity::of(certificate).map_err(|error| refuse(&error))?;
        if found != self.expected {
            return Err(self.reason.refuse(format!("dialed {}, found {}", self.expected.uri(), found.uri())));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

/// Verifies a node that dials us: the certificate must be issued under our authorities and name another node of our
/// cluster.
#[derive(Debug)]
struct ClusterVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    local: Identity,
    reason: Reason,
}

impl ClientCertVerifier for ClusterVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Does not tell strangers whom we trust: a node has one certificate, so there is nothing to choose by.
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let refuse = |error: &dyn std::fmt::Display| self.reason.refuse(format!("its certificate: {error}"));
        let verified =
            self.chain.verify_client_cert(certificate, intermediates, now).map_err(|error| refuse(&error))?;
        let found = Identity::of(certificate).map_err(|error| refuse(&error))?;
        if found.cluster != self.local.cluster {
            return Err(self.reason.refuse(format!("{} is of another cluster", found.uri())));
        }
        if found.node == self.local.node {
            return Err(self.reason.refuse(format!("{} is our own name", found.uri())));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The endpoint's keys, derived from the node's private key so that they outlive a restart: the restarted node then
/// knows its former connection ids and answers them with a reset that the peer believes, instead of staying silent
/// until the peer's idle timeout.
pub(crate) struct StableKeys {
    pub(crate) reset: Arc<ResetKey>,
    connection_id: u64,
}

impl StableKeys {
    pub(crate) fn derive(credentials: &Credentials) -> Result<Self, TransportError> {
        let hkdf = provider()
            .cipher_suites
            .iter()
            .find_map(SupportedCipherSuite::tls13)
            .map(|suite| suite.hkdf_provider)
            .ok_or_else(|| tls_error("no cipher suite of TLS 1.3"))?;
        let expander = hkdf.extract_from_secret(Some(b"raft-transport-quic"), credentials.key.secret_der());
        let mut connection_id = [0; 8];
        expander
            .expand_slice(&[b"connection id"], &mut connection_id)
            .map_err(|_| tls_error("a key cannot be derived"))?;
        let key = expander.expand_block(&[b"stateless reset"]);
        Ok(Self { reset: Arc::new(ResetKey { hkdf, key }), connection_id: u64::from_le_bytes(connection_id) })
    }

    pub(crate) fn connection_ids(&self) -> HashedConnectionIdGenerator {
        HashedConnectionIdGenerator::from_key(self.connection_id)
    }
}

/// Signs stateless resets.
pub(crate) struct ResetKey {
    hkdf: &'static dyn Hkdf,
    key: OkmBlock,
}

impl quinn_proto::crypto::HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let tag = self.hkdf.hmac_sign(&self.key, data);
        signature_out.copy_from_slice(&tag.as_ref()[..signature_out.len()]);
    }

    fn signature_len(&self) -> usize {
        self.key.as_ref().len()
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), quinn_proto::crypto::CryptoError> {
        let tag = self.hkdf.hmac_sign(&self.key, data);
        let difference =
            tag.as_ref().iter().zip(signature).fold(0, |difference, (a, b)| difference | (a ^ b));
        if difference == 0 && tag.as_ref().len() == signature.len() {
            Ok(())
        } else {
            Err(quinn_proto::crypto::CryptoError)
        }
    }
}
