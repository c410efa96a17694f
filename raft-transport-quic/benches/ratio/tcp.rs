//! TCP with TLS 1.3 by itself: one connection, small writes at once, and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

const CHUNK_BYTES: usize = 256 << 10;

type Stream = Arc<Mutex<TlsStream<TcpStream>>>;

/// Two ends with a connection.
pub(crate) struct Pair {
    here: Runtime,
    there: Runtime,
    dialed: Stream,
    accepted: Stream,
}

impl Pair {
    pub(crate) fn new([here, there]: [Runtime; 2]) -> Self {
        let (server, client) = super::bare::tls();
        let (acceptor, connector) =
            (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)));
        let listening = there.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listening.local_addr().unwrap();
        let accepting = there.spawn(async move {
            let (socket, _) = listening.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            acceptor.accept(socket).await.unwrap()
        });
        let dialed = here.block_on(async {
            let socket = TcpStream::connect(address).await.unwrap();
            socket.set_nodelay(true).unwrap();
            connector.connect(ServerName::try_from("bare").unwrap(), socket).await.unwrap()
        });
        let accepted = there.block_on(accepting).unwrap();
        let shared = |stream| Arc::new(Mutex::new(stream));
        Self { here, there, dialed: shared(dialed.into()), accepted: shared(accepted.into()) }
    }

    /// A message of 64 bytes there and back, again and again.
    pub(crate) fn round_trips(&self, count: usize) -> Vec<Duration> {
        let accepted = Arc::clone(&self.accepted);
        let echo = self.there.spawn(async move {
            let mut stream = accepted.lock().await;
            let mut message = [0; 64];
            for _ in 0..count {
                stream.read_exact(&mut message).await.unwrap();
                stream.write_all(&message).await.unwrap();
                stream.flush().await.unwrap();
            }
        });
        let dialed = Arc::clone(&self.dialed);
        let pings = self.here.spawn(async move {
            let mut stream = dialed.lock().await;
            let mut trips = Vec::with_capacity(count);
            let mut message = [7; 64];
            for _ in 0..count {
                let begin = Instant::now();
                stream.write_all(&message).await.unwrap();
                stream.flush().await.unwrap();
                stream.read_exact(&mut message).await.unwrap();
                trips.push(begin.elapsed());
            }
            trips
        });
        let trips = self.here.block_on(pings).unwrap();
        self.there.block_on(echo).unwrap();
        trips
    }

    /// Bytes one way.
    pub(crate) fn bulk(&self, bytes: usize) -> Duration {
        let begin = Instant::now();
        let accepted = Arc::clone(&self.accepted);
        let reading = self.there.spawn(async move {
            let mut stream = accepted.lock().await;
            let mut chunk = vec![0; CHUNK_BYTES];
            let mut count = 0;
            while count < bytes {
                count += stream.read(&mut chunk).await.unwrap();
            }
        });
        let dialed = Arc::clone(&self.dialed);
        self.here.spawn(async move {
            let mut stream = dialed.lock().await;
            let chunk = vec![7; CHUNK_BYTES];
            for _ in 0..bytes / CHUNK_BYTES {
                stream.write_all(&chunk).await.unwrap();
            }
            stream.flush().await.unwrap();
        });
        self.there.block_on(reading).unwrap();
        begin.elapsed()
    }
}
