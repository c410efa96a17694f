//! quinn by itself: long-lived streams, sockets with large buffers, TLS 1.3, and nothing else.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig, TokioRuntime,
};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::PrivateKeyDer;
use socket2::{Domain, Socket, Type};
use tokio::runtime::Runtime;

const SOCKET_BUFFER_BYTES: usize = 4 << 20;
const CHUNK_BYTES: usize = 256 << 10;

/// Two ends with a connection.
pub(crate) struct Pair {
    here: Runtime,
    there: Runtime,
    dialed: Connection,
    accepted: Connection,
    _endpoints: [Endpoint; 2],
}

impl Pair {
    pub(crate) fn new([here, there]: [Runtime; 2]) -> Self {
        let (server, client) = tls();
        let server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).unwrap()));
        let client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).unwrap()));
        let listening = endpoint(&there, Some(server));
        let dialing = endpoint(&here, None);
        let address = listening.local_addr().unwrap();
        let accepting = there.spawn({
            let listening = listening.clone();
            async move { listening.accept().await.unwrap().await.unwrap() }
        });
        let dialed =
            here.block_on(async { dialing.connect_with(client, address, "bare").unwrap().await }).unwrap();
        let accepted = there.block_on(accepting).unwrap();
        Self { here, there, dialed, accepted, _endpoints: [listening, dialing] }
    }

    /// A message of 64 bytes there and back on one stream, again and again.
    pub(crate) fn round_trips(&self, count: usize) -> Vec<Duration> {
        let echo = self.there.spawn({
            let accepted = self.accepted.clone();
            async move {
                let (mut send, mut receive) = accepted.accept_bi().await.unwrap();
                let mut message = [0; 64];
                while receive.read_exact(&mut message).await.is_ok() {
                    send.write_all(&message).await.unwrap();
                }
            }
        });
        let dialed = self.dialed.clone();
        let pings = self.here.spawn(async move {
            let (mut send, mut receive): (SendStream, RecvStream) = dialed.open_bi().await.unwrap();
            let mut trips = Vec::with_capacity(count);
            let mut message = [7; 64];
            for _ in 0..count {
                let begin = Instant::now();
                send.write_all(&message).await.unwrap();
                receive.read_exact(&mut message).await.unwrap();
                trips.push(begin.elapsed());
            }
            trips
        });
        let trips = self.here.block_on(pings).unwrap();
        self.there.block_on(echo).unwrap();
        trips
    }

    /// Bytes one way on one stream, neither copied on the way in nor out.
    pub(crate) fn bulk(&self, bytes: usize) -> Duration {
        let begin = Instant::now();
        let reading = self.there.spawn({
            let accepted = self.accepted.clone();
            async move {
                let mut stream = accepted.accept_uni().await.unwrap();
                let mut count = 0;
                while let Some(chunk) = stream.read_chunk(usize::MAX, true).await.unwrap() {
                    count += chunk.bytes.len();
                }
                count
            }
        });
        let dialed = self.dialed.clone();
        self.here.spawn(async move {
            let chunk = Bytes::from(vec![7; CHUNK_BYTES]);
            let mut stream = dialed.open_uni().await.unwrap();
            for _ in 0..bytes / CHUNK_BYTES {
                stream.write_chunk(chunk.clone()).await.unwrap();
            }
            stream.finish().unwrap();
            stream.stopped().await.unwrap();
        });
        assert_eq!(self.there.block_on(reading).unwrap(), bytes);
        begin.elapsed()
    }
}

/// TLS 1.3 for both ends, for the name "bare".
pub(crate) fn tls() -> (rustls::ServerConfig, rustls::ClientConfig) {
    let provider = Arc::new(provider());
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["bare".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, client)
}

fn endpoint(runtime: &Runtime, server: Option<ServerConfig>) -> Endpoint {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&address.into()).unwrap();
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES).unwrap();
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES).unwrap();
    let _within = runtime.enter();
    Endpoint::new(EndpointConfig::default(), server, UdpSocket::from(socket), Arc::new(TokioRuntime)).unwrap()
}

#[cfg(feature = "ring")]
fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

#[cfg(not(feature = "ring"))]
fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}
