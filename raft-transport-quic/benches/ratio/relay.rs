//! A slow link: datagrams pass at a rate, wait in a queue that is so long, and are lost where it is full.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// Between whoever sends to it and one address; ends when dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    pub(crate) fn new(to: &str, bytes_per_second: f64, queue: Duration) -> Self {
        let (near, far) = (socket(), socket());
        far.connect(to).unwrap();
        let address = near.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        // Whoever sent first is the other end.
        let mut first = [0];
        let (there, back) = ((near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near));
        let threads = vec![
            std::thread::spawn({
                let over = Arc::clone(&over);
                move || {
                    let (near, far) = there;
                    let from = loop {
                        match near.peek_from(&mut first) {
                            Ok((_, from)) => break from,
                            Err(_) if over.load(Ordering::Relaxed) => return,
                            Err(_) => {}
                        }
                    };
                    near.connect(from).unwrap();
                    pass(&near, &far, bytes_per_second, queue, &over);
                }
            }),
            std::thread::spawn({
                let over = Arc::clone(&over);
                move || pass(&back.0, &back.1, bytes_per_second, queue, &over)
            }),
        ];
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

fn pass(from: &UdpSocket, to: &UdpSocket, bytes_per_second: f64, queue: Duration, over: &AtomicBool) {
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    // When the last datagram in the queue has passed.
    let mut free = Instant::now();
    let mut buffer = [0; 65_536];
    while !over.load(Ordering::Relaxed) {
        let now = Instant::now();
        while waiting.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, datagram)) = waiting.pop_front() {
                let _ = to.send(&datagram);
            }
        }
        let patience = waiting.front().map_or(Duration::from_millis(20), |(due, _)| *due - now);
        if patience > Duration::from_micros(200) {
            let _ = from.set_read_timeout(Some(patience));
        } else {
            // Too short to sleep: the link is busy anyway.
            let _ = from.set_nonblocking(true);
        }
        let received = from.recv(&mut buffer);
        let _ = from.set_nonblocking(false);
        if let Ok(length) = received {
            let now = Instant::now();
            if free.saturating_duration_since(now) <= queue {
                free = free.max(now) + Duration::from_secs_f64(length as f64 / bytes_per_second);
                waiting.push_back((free, buffer[..length].to_vec()));
            }
        }
    }
}

fn socket() -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.set_recv_buffer_size(4 << 20).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket.into()
}
