//! Keeps wanted peers connected.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Connection};
use raft_core::types::NodeId;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::fault::Fault;
use crate::hello::Hello;
use crate::link::Link;
use crate::shared::Shared;
use crate::tls::{self, Reason};

/// The first wait between two attempts.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// A connection that lived this long was a good one: the next attempt waits no longer than the first.
const GOOD_AGE: Duration = Duration::from_secs(1);
/// Addresses of one name that are tried in one attempt.
const MAX_ADDRESSES: usize = 8;

/// Who tells a name's addresses.
#[derive(Clone, Default)]
pub(crate) enum Resolver {
    #[default]
    System,
    #[cfg(test)]
    Book(tests::Book),
}

impl Resolver {
    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::System => Ok(lookup_host(address).await?.collect()),
            #[cfg(test)]
            Self::Book(book) => book.resolve(address),
        }
    }
}

/// Keeps `peer` connected at the address that is wanted. Ends by being aborted.
pub(crate) async fn keep_connected(shared: Arc<Shared>, peer: NodeId, mut address: watch::Receiver<String>) {
    let mut backoff = Backoff::new(shared.options.max_backoff);
    let mut warned = None;
    loop {
        let wanted = address.borrow_and_update().clone();
        let mut wait = None;
        if let Some(link) = serving(&shared, peer, &wanted) {
            tokio::select! {
                _ = link.connection.closed() => {}
                moved = address.changed() => match moved {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            if link.age() >= GOOD_AGE {
                backoff.reset();
            }
            wait = Some(backoff.next());
            warned = None;
        } else {
            let dialed = tokio::select! {
                dialed = dial(&shared, peer, &wanted) => dialed,
                moved = address.changed() => match moved {
                    Ok(()) => {
                        backoff.reset();
                        continue;
                    }
                    Err(_) => return,
                },
            };
            match dialed {
                Ok(()) => {}
                Err(fault) => {
                    shared.count(&fault);
                    let reason = fault.to_string();
                    if fault == Fault::Superseded || warned.as_ref() == Some(&reason) {
                        tracing::debug!(%peer, address = wanted, reason, "not connected");
                    } else {
                        tracing::warn!(%peer, address = wanted, reason, "not connected; trying again");
                        warned = Some(reason);
                    }
                    wait = Some(backoff.next());
                }
            }
        }
        if let Some(wait) = wait {
            tokio::select! {
                () = sleep(wait) => {}
                moved = address.changed() => match moved {
                    Ok(()) => backoff.reset(),
                    Err(_) => return,
                },
            }
        }
    }
}

/// The link to `peer`, if it makes dialing `wanted` needless: the peer is there, and not at an address that is no longer
/// the wanted one. (Until the new address answers, the old connection is kept.)
fn serving(shared: &Shared, peer: NodeId, wanted: &str) -> Option<Arc<Link>> {
    shared.peers.link(peer).filter(|link| link.dialed.as_deref().is_none_or(|dialed| dialed == wanted))
}

/// Connects to `peer` at `address`, whose name is resolved each time.
async fn dial(shared: &Arc<Shared>, peer: NodeId, address: &str) -> Result<(), Fault> {
    let limit = shared.options.connect_timeout;
    let found = timeout(limit, shared.resolver.resolve(address))
        .await
        .map_err(|_| Fault::timed_out("answer about the name"))?
        .map_err(|error| Fault::Lost(format!("the address is unknown: {error}")))?;
    let only_v4 = shared.endpoint.local_addr().is_ok_and(|local| local.is_ipv4());
    let mut fault = Fault::Lost("the name has no address that can be reached from ours".to_owned());
    for socket in found.into_iter().filter(|found| found.is_ipv4() || !only_v4).take(MAX_ADDRESSES) {
        let dialed = timeout(limit, dial_socket(shared, peer, address, socket)).await;
        match dialed.unwrap_or_else(|_| Err(Fault::timed_out("answer"))) {
            Ok(()) => return Ok(()),
            Err(last) => fault = last,
        }
    }
    Err(fault)
}

async fn dial_socket(
    shared: &Arc<Shared>,
    peer: NodeId,
    address: &str,
    socket: SocketAddr,
) -> Result<(), Fault> {
    let reason = Reason::default();
    let tls = tls::client_config(&shared.credentials(), peer, &reason)
        .map_err(|error| Fault::Lost(error.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::clone(shared.paths.to(socket)));
    let connection = shared
        .endpoint
        .connect_with(config, socket, tls::SERVER_NAME)
        .map_err(|error| Fault::Lost(error.to_string()))?
        .await
        .map_err(|error| reason.explain(error))?;
    let introduced = introduce(shared, &connection, peer, address).await;
    introduced.inspect_err(|fault| connection.close(fault.code(), fault.told()))
}

/// Says hello, and hears who answers.
async fn introduce(
    shared: &Arc<Shared>,
    connection: &Connection,
    peer: NodeId,
    address: &str,
) -> Result<(), Fault> {
    let authenticated = shared.authenticated(connection)?;
    // The peer has come to us meanwhile, as one does that was just restarted: what is under way there had better not break.
    if serving(shared, peer, address).is_some() {
        return Err(Fault::Superseded);
    }
    let (mut send, mut receive) = connection.open_bi().await?;
    Hello::offer(shared.local, shared.inbox.lineage(), peer).write(&mut send).await?;
    let answer = Hello::read(&mut receive).await?;
    answer.check_answer()?;
    answer.check_names(authenticated.node, shared.local)?;
    shared.admit(connection, &answer, answer.max_version, Some(address.to_owned()))
}

/// Waits that double, each drawn from its upper half so that nodes that lost each other do not meet in step.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    fn new(max: Duration) -> Self {
        Self { next: MIN_BACKOFF.min(max), max }
    }

    fn reset(&mut self) {
        *self = Self::new(self.max);
    }

    fn next(&mut self) -> Duration {
        let wait = self.next.mul_f64(0.5 + 0.5 * fastrand::f64());
        self.next = (self.next * 2).min(self.max);
        wait
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use raft_core::message::Envelope;
    use raft_core::transport::{Inbox, LocalNode, SnapshotStream, Transport};
    use raft_core::types::{ClusterId, Incarnation, Lineage, Peer};

    use super::*;
    use crate::sync::lock;
    use crate::{DevCa, QuicOptions, QuicTransport};

    /// A name's addresses as a test writes them down, and how often they were looked up.
    #[derive(Clone, Default)]
    pub(crate) struct Book(Arc<Mutex<(Vec<SocketAddr>, usize)>>);

    impl Book {
        pub(crate) fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
            assert_eq!(address, NAME);
            let (addresses, asked) = &mut *lock(&self.0);
            *asked += 1;
            if addresses.is_empty() { Err(io::Error::other("no such name")) } else { Ok(addresses.clone()) }
        }

        fn write(&self, addresses: &[SocketAddr]) {
            addresses.clone_into(&mut lock(&self.0).0);
        }

        fn asked(&self) -> usize {
            lock(&self.0).1
        }
    }

    const NAME: &str = "two.example:7000";

    /// Lets everybody in and takes nothing.
    struct Open;

    impl Inbox for Open {
        fn deliver(&self, _: NodeId, _: Vec<Envelope>) {}

        fn admit(&self, _: Peer, _: u64, _: Lineage) -> Result<(), String> {
            Ok(())
        }

        fn lineage(&self) -> Lineage {
            Lineage::UNKNOWN
        }

        fn snapshot(&self, _: NodeId, _: Box<dyn SnapshotStream>) {}
    }

    async fn start(ca: &DevCa, node: u64, boot: u64, resolver: Resolver) -> QuicTransport {
        let options = QuicOptions { max_backoff: Duration::from_millis(100), ..QuicOptions::default() };
        let credentials = ca.issue(NodeId(node)).expect("is issued");
        let mut transport = QuicTransport::bind("127.0.0.1:0", credentials, options).expect("has a port");
        transport.resolver = resolver;
        let peer = Peer { node: NodeId(node), incarnation: Incarnation(node) };
        let local = LocalNode { cluster: ca.cluster(), peer, boot };
        transport.start(local, Arc::new(Open)).await.expect("starts");
        transport
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let waited = timeout(Duration::from_secs(20), async {
            while !holds() {
                sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
    }

    fn address(transport: &QuicTransport) -> SocketAddr {
        transport.address().parse().expect("is an address")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_name_is_resolved_again_at_each_attempt() {
        let ca = DevCa::new(ClusterId(0x5eed)).expect("there is randomness");
        let book = Book::default();
        let one = start(&ca, 1, 1, Resolver::Book(book.clone())).await;
        one.connect(NodeId(2), NAME);
        until("it asks for a name that nobody knows yet, again and again", || book.asked() >= 3).await;
        let two = start(&ca, 2, 1, Resolver::System).await;
        // Of several addresses, those where nobody answers are passed over.
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        book.write(&[closed.expect("has a port"), address(&two)]);
        until("it finds the node", || one.stats().connected == 1 && two.stats().connected == 1).await;
        let asked = book.asked();
        two.stop().await;
        until("it sees the node go, and asks again", || one.stats().connected == 0 && book.asked() > asked)
            .await;
        let moved = start(&ca, 2, 2, Resolver::System).await;
        book.write(&[address(&moved)]);
        until("it finds the node where the name points now", || moved.stats().connected == 1).await;
        one.stop().await;
        moved.stop().await;
    }

    #[test]
    fn waits_double_up_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(300));
        for expected in [50, 100, 200, 300, 300] {
            let wait = backoff.next();
            let expected = Duration::from_millis(expected);
            assert!((expected / 2..=expected).contains(&wait), "{wait:?} for {expected:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= MIN_BACKOFF);
    }
}
