//! TLS 1.3 with certificates on both sides, for a transport over a byte stream. The certificates are those of
//! `raft-transport-quic`: each names its cluster and node in a URI.

use std::io;
use std::sync::Arc;

use raft_core::transport::TransportError;
use raft_core::types::{ClusterId, NodeId};
use raft_transport_quic::DevCa;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// The name that TLS asks for. Not sent, and not what is verified: see [`Tls::connect`].
const SERVER_NAME: &str = "raft";

/// A node's credentials, ready for both ends of a handshake.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    cluster: ClusterId,
    node: NodeId,
}

impl Tls {
    /// Credentials that `ca` issues to `node`.
    ///
    /// # Errors
    /// Where it cannot issue them.
    pub fn issue(ca: &DevCa, node: NodeId) -> Result<Self, TransportError> {
        let (certificate, key) = ca.issue_pem(node).map_err(failed)?;
        Self::from_pem(ca.ca_pem(), &certificate, &key)
    }

    /// Reads credentials from PEM text: the trusted authorities, the node's certificate, its private key.
    ///
    /// # Errors
    /// Where a text does not hold what it should.
    pub fn from_pem(ca: &str, certificate: &str, key: &str) -> Result<Self, TransportError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(ca)? {
            roots.add(authority).map_err(failed)?;
        }
        let chain = certificates(certificate)?;
        let (cluster, node) = name(&chain).map_err(failed)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(failed)?;
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(failed)?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed)?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(failed)?;
        // A resumed session is not verified again: a certificate that is refused by now would still open it.
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyName(verifier)))
            .with_client_auth_cert(chain, key)
            .map_err(failed)?;
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        let (acceptor, connector) = (Arc::new(server).into(), Arc::new(client).into());
        Ok(Self { acceptor, connector, cluster, node })
    }

    /// The cluster and the node that the certificate names.
    pub const fn identity(&self) -> (ClusterId, NodeId) {
        (self.cluster, self.node)
    }

    /// The handshake with whoever dialed, and which node of our cluster it proved to be.
    ///
    /// # Errors
    /// Where it fails, or the other end is no node of our cluster.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<(TlsStream<TcpStream>, NodeId)> {
        self.named(self.acceptor.accept(socket).await?.into())
    }

    /// The handshake with whom we dialed, and which node of our cluster it proved to be: the address says nothing.
    ///
    /// # Errors
    /// Where it fails, or the other end is no node of our cluster.
    pub async fn connect(&self, socket: TcpStream) -> io::Result<(TlsStream<TcpStream>, NodeId)> {
        let server = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
        self.named(self.connector.connect(server, socket).await?.into())
    }

    fn named(&self, stream: TlsStream<TcpStream>) -> io::Result<(TlsStream<TcpStream>, NodeId)> {
        let (cluster, node) = name(stream.get_ref().1.peer_certificates().unwrap_or_default())?;
        if cluster != self.cluster {
            return Err(io::Error::other(format!("the certificate is of cluster {cluster}")));
        }
        Ok((stream, node))
    }
}

fn failed(error: impl std::fmt::Display) -> TransportError {
    TransportError::new(format!("TLS cannot be set up: {error}"))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(failed)
}

/// The cluster and the node in a certificate, as `raft://<cluster>/node/<id>`.
fn name(chain: &[CertificateDer<'_>]) -> io::Result<(ClusterId, NodeId)> {
    let certificate = chain.first().ok_or_else(|| io::Error::other("no certificate"))?;
    let certificate = webpki::EndEntityCert::try_from(certificate).map_err(io::Error::other)?;
    let mut names = certificate.valid_uri_names().filter_map(|uri| uri.strip_prefix("raft://"));
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err(io::Error::other("the certificate has not just one raft:// name"));
    };
    let parsed = name.split_once("/node/").and_then(|(cluster, node)| {
        let node = node.parse().ok().filter(|id: &u64| id.to_string() == node)?;
        Some((cluster.parse().ok()?, NodeId(node)))
    });
    parsed.ok_or_else(|| io::Error::other(format!("the certificate is not a node's: {name}")))
}

/// Verifies whoever was dialed as those who dial are verified: by its chain. Which node it is, is asked afterwards.
#[derive(Debug)]
struct AnyName(Arc<dyn ClientCertVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.verify_client_cert(certificate, intermediates, now).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
