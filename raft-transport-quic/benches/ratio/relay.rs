//! A slow link: datagrams pass at a rate, wait in a queue that is so long, and are lost where it is full.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// Between whoever sends to it and one address; ends when dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// One way of the link.
struct Way {
    from: UdpSocket,
    to: UdpSocket,
    bytes_per_second: f64,
    queue: Duration,
    over: Arc<AtomicBool>,
    /// Who dialed us: the first to send.
    near: Arc<OnceLock<SocketAddr>>,
    /// Datagrams come from there; otherwise they go there.
    outward: bool,
}

impl Relay {
    pub(crate) fn new(to: &str, bytes_per_second: f64, queue: Duration) -> Self {
        let (near, far) = (socket(), socket());
        far.connect(to).unwrap();
        let address = near.local_addr().unwrap();
        let (over, dialer) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut threads = Vec::new();
        for (from, to, outward) in [(&near, &far, true), (&far, &near, false)] {
            let way = Way {
                from: from.try_clone().unwrap(),
                to: to.try_clone().unwrap(),
                bytes_per_second,
                queue,
                over: Arc::clone(&over),
                near: Arc::clone(&dialer),
                outward,
            };
            threads.extend(way.start());
        }
        Self { address, over, threads }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Way {
    fn start(self) -> [JoinHandle<()>; 2] {
        let (queue, queued) = channel();
        let (to, near, outward) = (self.to.try_clone().unwrap(), Arc::clone(&self.near), self.outward);
        [
            std::thread::spawn(move || self.take(&queue)),
            std::thread::spawn(move || pass(&queued, &to, (!outward).then_some(&near))),
        ]
    }

    fn take(&self, queue: &Sender<(Instant, Vec<u8>)>) {
        // When the last datagram in the queue has passed.
        let mut free = Instant::now();
        let mut buffer = [0; 65_536];
        while !self.over.load(Ordering::Relaxed) {
            let Ok((length, from)) = self.from.recv_from(&mut buffer) else { continue };
            if self.outward {
                let _ = self.near.set(from);
            }
            let now = Instant::now();
            if free.saturating_duration_since(now) <= self.queue {
                free = free.max(now) + Duration::from_secs_f64(length as f64 / self.bytes_per_second);
                let _ = queue.send((free, buffer[..length].to_vec()));
            }
        }
    }
}

fn pass(queued: &Receiver<(Instant, Vec<u8>)>, to: &UdpSocket, near: Option<&Arc<OnceLock<SocketAddr>>>) {
    for (due, datagram) in queued {
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        let _ = match near.and_then(|near| near.get()) {
            Some(near) => to.send_to(&datagram, near),
            None => to.send(&datagram),
        };
    }
}

fn socket() -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.set_recv_buffer_size(4 << 20).unwrap();
    // So that a thread sees that it is over.
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket.into()
}
