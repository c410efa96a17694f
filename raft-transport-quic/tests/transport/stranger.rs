//! A peer of the test's own making, which need not behave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, SendStream};
use raft_core::transport::LocalNode;
use raft_core::types::{ClusterId, Lineage, NodeId};
use raft_transport_quic::DevCa;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::common::CLUSTER;

/// A certificate and its key as PEM, or none.
pub(crate) type Papers = Option<(String, String)>;

/// A certificate of `ca` with any name and validity.
pub(crate) fn papers(ca: &DevCa, name: &str, years: (i32, i32)) -> Papers {
    let issuer = Issuer::from_ca_cert_pem(ca.ca_pem(), KeyPair::from_pem(&ca.ca_key_pem()).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    let certificate = params.signed_by(&key, &issuer).unwrap();
    Some((certificate.pem(), key.serialize_pem()))
}

pub(crate) fn name(cluster: ClusterId, node: u64) -> String {
    format!("raft://{cluster}/node/{node}")
}

fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "ring")]
    let provider = rustls::crypto::ring::default_provider();
    #[cfg(not(feature = "ring"))]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Arc::new(provider)
}

/// A connection to a node, as far as TLS on our own side says.
pub(crate) struct Stranger {
    pub(crate) connection: Connection,
    _endpoint: Endpoint,
}

impl Stranger {
    pub(crate) async fn dial(papers: Papers, address: &str) -> Result<Self, ConnectionError> {
        let provider = provider();
        let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(provider)));
        let mut tls = match papers {
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"raft".to_vec()];
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let address: SocketAddr = address.parse().unwrap();
        let connection = endpoint.connect_with(config, address, "anybody").unwrap().await?;
        Ok(Self { connection, _endpoint: endpoint })
    }

    /// Says `hello` and hears the answer.
    pub(crate) async fn hello(&self, hello: &[u8]) -> Option<Vec<u8>> {
        let (mut send, mut receive) = self.connection.open_bi().await.ok()?;
        send.write_all(hello).await.ok()?;
        send.finish().ok()?;
        receive.read_to_end(2000).await.ok()
    }

    /// Opens a stream that begins with `bytes`. Keep it: dropping it ends it.
    pub(crate) async fn lane(&self, bytes: &[u8]) -> SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    /// The code that the node closes the connection with.
    pub(crate) async fn close_code(&self) -> u64 {
        let closed = tokio::time::timeout(Duration::from_secs(20), self.connection.closed()).await;
        match closed.expect("is closed in time") {
            ConnectionError::ApplicationClosed(close) => {
                assert!(close.reason.is_empty(), "the reason is nobody else's business");
                close.error_code.into_inner()
            }
            other => panic!("closed otherwise: {other}"),
        }
    }
}

/// A hello of version 2, or of 1 where it says no lineage, field by field.
#[derive(Clone, Copy)]
pub(crate) struct RawHello {
    pub(crate) versions: (u16, u16),
    pub(crate) local: LocalNode,
    pub(crate) to: u64,
    pub(crate) lineage: Option<Lineage>,
}

impl RawHello {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let LocalNode { cluster, peer, boot } = self.local;
        let length: u8 = if self.lineage.is_some() { 60 } else { 52 };
        let mut out = b"RAFT".to_vec();
        out.extend([length, 0]);
        out.extend(self.versions.0.to_le_bytes());
        out.extend(self.versions.1.to_le_bytes());
        out.extend(cluster.0.to_le_bytes());
        for number in [peer.node.0, peer.incarnation.0, boot, NodeId(self.to).0] {
            out.extend(number.to_le_bytes());
        }
        if let Some(lineage) = self.lineage {
            out.extend(lineage.0.to_le_bytes());
        }
        out
    }
}

pub(crate) fn good_papers(ca: &DevCa, node: u64) -> Papers {
    papers(ca, &name(CLUSTER, node), (2020, 2090))
}

/// Takes any server.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
