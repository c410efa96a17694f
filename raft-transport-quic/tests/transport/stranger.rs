//! A peer of the test's own making, which need not behave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, SendStream, ServerConfig, TransportConfig};
use raft_core::transport::LocalNode;
use raft_core::types::{ClusterId, Lineage, NodeId};
use raft_transport_quic::DevCa;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use tokio::sync::{Mutex, mpsc};

use crate::common::CLUSTER;

/// A certificate and its key as PEM, or none.
pub(crate) type Papers = Option<(String, String)>;

/// A certificate of `ca` with any name and validity.
pub(crate) fn papers(ca: &DevCa, name: &str, years: (i32, i32)) -> Papers {
    papers_of(ca, &[name], years)
}

/// The same with several names, or none.
pub(crate) fn papers_of(ca: &DevCa, names: &[&str], years: (i32, i32)) -> Papers {
    let issuer = Issuer::from_ca_cert_pem(ca.ca_pem(), KeyPair::from_pem(&ca.ca_key_pem()).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
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
        Self::dial_from(Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap(), papers, address).await
    }

    async fn dial_from(endpoint: Endpoint, papers: Papers, address: &str) -> Result<Self, ConnectionError> {
        let config = Self::config(papers, Resumption::disabled());
        let connection = endpoint.connect_with(config, address.parse().unwrap(), "anybody").unwrap().await?;
        Ok(Self { connection, _endpoint: endpoint })
    }

    pub(crate) async fn dial_with(config: ClientConfig, address: &str) -> Result<Self, ConnectionError> {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connection = endpoint.connect_with(config, address.parse().unwrap(), "anybody").unwrap().await?;
        Ok(Self { connection, _endpoint: endpoint })
    }

    /// A connection that is used before its handshake is over, which takes a ticket.
    pub(crate) fn early(config: ClientConfig, address: &str) -> Option<Connection> {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = endpoint.connect_with(config, address.parse().unwrap(), "anybody").unwrap();
        connecting.into_0rtt().ok().map(|(connection, _)| connection)
    }

    /// What it dials with; `resumption` is where it would keep tickets.
    pub(crate) fn config(papers: Papers, resumption: Resumption) -> ClientConfig {
        // It keeps little itself, so that a test can tell what the other end keeps.
        let mut transport = TransportConfig::default();
        transport.send_window(1 << 20);
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
        tls.resumption = resumption;
        tls.enable_early_data = true;
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        config.transport_config(Arc::new(transport));
        config
    }

    /// Dials, says `hello`, and is shown the door: how, and where it came from.
    pub(crate) async fn knock(papers: Papers, hello: &[u8], address: &str) -> (ConnectionError, SocketAddr) {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let from = endpoint.local_addr().unwrap();
        let error = match Self::dial_from(endpoint, papers, address).await {
            Ok(stranger) => {
                assert_eq!(stranger.hello(hello).await, None);
                stranger.closed().await
            }
            Err(error) => error,
        };
        (error, from)
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

    async fn closed(&self) -> ConnectionError {
        let closed = tokio::time::timeout(Duration::from_secs(20), self.connection.closed()).await;
        closed.expect("is closed in time")
    }

    /// The code that the node closes the connection with.
    pub(crate) async fn close_code(&self) -> u64 {
        match self.closed().await {
            ConnectionError::ApplicationClosed(close) => {
                assert!(close.reason.is_empty(), "the reason is nobody else's business");
                close.error_code.into_inner()
            }
            other => panic!("closed otherwise: {other}"),
        }
    }
}

/// A server of the test's own making, which takes anybody in and answers any hello with the same bytes.
pub(crate) struct Impostor {
    endpoint: Endpoint,
    met: Mutex<mpsc::UnboundedReceiver<Connection>>,
    told: Mutex<mpsc::UnboundedReceiver<ConnectionError>>,
}

impl Impostor {
    pub(crate) fn start(papers: Papers, answer: Vec<u8>) -> Self {
        let (certificate, key) = papers.unwrap();
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = provider();
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(Credulous(provider)))
            .with_single_cert(chain, key)
            .unwrap();
        tls.alpn_protocols = vec![b"raft".to_vec()];
        let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let (tell, told) = mpsc::unbounded_channel();
        let (meet, met) = mpsc::unbounded_channel();
        tokio::spawn({
            let endpoint = endpoint.clone();
            async move {
                while let Some(incoming) = endpoint.accept().await {
                    let (answer, tell, meet) = (answer.clone(), tell.clone(), meet.clone());
                    tokio::spawn(async move {
                        let error = match incoming.await {
                            Ok(connection) => {
                                if let Ok((mut send, _receive)) = connection.accept_bi().await {
                                    let _ = send.write_all(&answer).await;
                                    let _ = send.finish();
                                }
                                let _ = meet.send(connection.clone());
                                connection.closed().await
                            }
                            Err(error) => error,
                        };
                        let _ = tell.send(error);
                    });
                }
            }
        });
        Self { endpoint, met: Mutex::new(met), told: Mutex::new(told) }
    }

    /// The next connection, once it has answered.
    pub(crate) async fn dialed(&self) -> Connection {
        self.met.lock().await.recv().await.unwrap()
    }

    /// How the first connection ended.
    pub(crate) async fn told(&self) -> ConnectionError {
        self.told.lock().await.recv().await.unwrap()
    }

    pub(crate) fn address(&self) -> String {
        self.endpoint.local_addr().unwrap().to_string()
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

/// Takes any server, and any client that shows a certificate.
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

impl ClientCertVerifier for Credulous {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
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
