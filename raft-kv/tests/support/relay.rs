//! A UDP relay between nodes: each node has an address here that stands for it, and what goes there, and what comes back,
//! passes a link that delays, loses, repeats, reorders, throttles or cuts, each direction by itself.
//!
//! Who sends is known by its socket: a QUIC node sends from the address that it listens on.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The largest datagram there is.
const MAX_DATAGRAM_BYTES: usize = 65_535;

/// What a throttled link holds, as time: beyond, it loses, as a router does.
const MAX_QUEUE: Duration = Duration::from_millis(200);

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Link {
    /// Nothing gets through.
    pub(crate) cut: bool,
    /// How long a datagram takes.
    pub(crate) delay: Duration,
    /// Up to so much longer, each by itself: so they overtake each other.
    pub(crate) jitter: Duration,
    /// The share that is lost, from 0 to 1.
    pub(crate) loss: f64,
    /// The share that comes twice.
    pub(crate) repeat: f64,
    /// How much it carries.
    pub(crate) bytes_per_second: Option<u32>,
}

impl Link {
    /// Nothing gets through.
    pub(crate) const CUT: Self = Self {
        cut: true,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0.0,
        repeat: 0.0,
        bytes_per_second: None,
    };
}

/// A datagram that is to go out at a time.
struct Delayed {
    due: Instant,
    /// Among those of the same time, the first first.
    number: u64,
    socket: Arc<UdpSocket>,
    /// Where to; `None` where the socket is connected.
    to: Option<SocketAddr>,
    bytes: Vec<u8>,
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.number) == (other.due, other.number)
    }
}

impl Eq for Delayed {}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

struct Links {
    links: BTreeMap<(u64, u64), Link>,
    /// When a throttled direction is free again.
    free: BTreeMap<(u64, u64), Instant>,
    random: fastrand::Rng,
    number: u64,
}

struct Shared {
    /// The nodes' own addresses.
    nodes: Vec<(u64, SocketAddr)>,
    links: Mutex<Links>,
    delayed: mpsc::UnboundedSender<Delayed>,
}

/// See above. Its tasks end with it.
pub(crate) struct Relay {
    shared: Arc<Shared>,
    fronts: Vec<(u64, SocketAddr)>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Stands between these nodes, each with its own address; at first every link is whole. `seed` decides what is lost.
    pub(crate) async fn start(nodes: Vec<(u64, SocketAddr)>, seed: u64) -> Self {
        let (delayed, receiver) = mpsc::unbounded_channel();
        let links = Links {
            links: BTreeMap::new(),
            free: BTreeMap::new(),
            random: fastrand::Rng::with_seed(seed),
            number: 0,
        };
        let shared = Arc::new(Shared { nodes, links: Mutex::new(links), delayed });
        let mut tasks = JoinSet::new();
        tasks.spawn(send_delayed(receiver));
        let mut fronts = Vec::new();
        for &(node, _) in &shared.nodes {
            let front = Arc::new(socket().await);
            fronts.push((node, front.local_addr().unwrap()));
            tasks.spawn(Arc::clone(&shared).serve(node, front));
        }
        Self { shared, fronts, _tasks: tasks }
    }

    /// Where the others reach this node.
    pub(crate) fn address(&self, node: u64) -> SocketAddr {
        self.fronts.iter().find(|(id, _)| *id == node).unwrap().1
    }

    /// Sets one direction.
    pub(crate) fn set_one_way(&self, from: u64, to: u64, link: Link) {
        self.shared.links.lock().unwrap().links.insert((from, to), link);
    }

    /// Sets both directions between two nodes.
    pub(crate) fn set(&self, a: u64, b: u64, link: Link) {
        self.set_one_way(a, b, link);
        self.set_one_way(b, a, link);
    }

    /// Sets every link.
    pub(crate) fn set_all(&self, link: Link) {
        for &(from, _) in &self.shared.nodes {
            for &(to, _) in self.shared.nodes.iter().filter(|(to, _)| *to != from) {
                self.set_one_way(from, to, link);
            }
        }
    }

    /// Cuts a node off from all others, or back in.
    pub(crate) fn set_around(&self, node: u64, link: Link) {
        for &(other, _) in self.shared.nodes.iter().filter(|(other, _)| *other != node) {
            self.set(node, other, link);
        }
    }
}

async fn socket() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

impl Shared {
    /// Takes what others send to `node`.
    async fn serve(self: Arc<Self>, node: u64, front: Arc<UdpSocket>) {
        let (_, address) = *self.nodes.iter().find(|(id, _)| *id == node).unwrap();
        let mut senders: HashMap<SocketAddr, (u64, Arc<UdpSocket>)> = HashMap::new();
        let mut tasks = JoinSet::new();
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
        loop {
            // It fails where an earlier datagram met a closed port: that is the sender's affair.
            let Ok((length, sender)) = front.recv_from(&mut buffer).await else { continue };
            let (from, upstream) = match senders.entry(sender) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => {
                    let Some(&(from, _)) = self.nodes.iter().find(|(_, known)| *known == sender) else {
                        continue;
                    };
                    let upstream = Arc::new(socket().await);
                    upstream.connect(address).await.unwrap();
                    let back = (Arc::clone(&upstream), Arc::clone(&front));
                    tasks.spawn(Arc::clone(&self).answer(node, from, sender, back));
                    place.insert((from, upstream))
                }
            };
            self.pass((*from, node), upstream, None, &buffer[..length]);
        }
    }

    /// Takes what `node` answers to `peer`.
    async fn answer(
        self: Arc<Self>,
        node: u64,
        peer: u64,
        address: SocketAddr,
        (upstream, front): (Arc<UdpSocket>, Arc<UdpSocket>),
    ) {
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
        loop {
            match upstream.recv(&mut buffer).await {
                Ok(length) => self.pass((node, peer), &front, Some(address), &buffer[..length]),
                // The node's port is closed just now.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    /// Lets a datagram through as the link does.
    fn pass(&self, way: (u64, u64), socket: &Arc<UdpSocket>, to: Option<SocketAddr>, bytes: &[u8]) {
        let now = Instant::now();
        let mut guard = self.links.lock().unwrap();
        let links = &mut *guard;
        let link = links.links.get(&way).copied().unwrap_or_default();
        if link.cut || links.random.f64() < link.loss {
            return;
        }
        let mut due = now + link.delay;
        if let Some(rate) = link.bytes_per_second {
            let free = links.free.entry(way).or_insert(now);
            let start = (*free).max(now);
            if start > now + MAX_QUEUE {
                return;
            }
            *free = start + Duration::from_secs_f64(bytes.len() as f64 / f64::from(rate));
            due = *free + link.delay;
        }
        let copies = 1 + usize::from(links.random.f64() < link.repeat);
        for _ in 0..copies {
            let due = due + link.jitter.mul_f64(links.random.f64());
            if due > now {
                links.number += 1;
                let (number, socket, bytes) = (links.number, Arc::clone(socket), bytes.to_vec());
                // Fails only when all ends.
                let _ = self.delayed.send(Delayed { due, number, socket, to, bytes });
            } else {
                send(socket, to, bytes);
            }
        }
    }
}

/// As a network: what does not fit is lost.
fn send(socket: &UdpSocket, to: Option<SocketAddr>, bytes: &[u8]) {
    let _ = match to {
        Some(to) => socket.try_send_to(bytes, to),
        None => socket.try_send(bytes),
    };
}

async fn send_delayed(mut receiver: mpsc::UnboundedReceiver<Delayed>) {
    let mut waiting: BinaryHeap<Reverse<Delayed>> = BinaryHeap::new();
    loop {
        let due = waiting.peek().map(|Reverse(next)| next.due);
        let sleep = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            next = receiver.recv() => match next {
                Some(next) => waiting.push(Reverse(next)),
                None => return,
            },
            () = sleep => {}
        }
        while let Some(Reverse(next)) = waiting.pop() {
            if next.due > Instant::now() {
                waiting.push(Reverse(next));
                break;
            }
            send(&next.socket, next.to, &next.bytes);
        }
    }
}
