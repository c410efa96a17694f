//! Somebody on the way records what passes, and sends it again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use raft_core::transport::Transport;
use raft_core::types::NodeId;
use raft_transport_quic::DevCa;
use tokio::net::UdpSocket;

use crate::common::{CLUSTER, Node, append, lanes, until, vote};

const MESSAGES: u64 = 200;

/// Stands between a node and those who dial it: what they send, it sends twice, and keeps.
struct Recorder {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Vec<u8>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Recorder {
    async fn start(to: &str) -> Self {
        let (near, far) = (socket().await, socket().await);
        far.connect(to).await.unwrap();
        let address = near.local_addr().unwrap();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let taken = Arc::clone(&taken);
            async move {
                let (mut out, mut back) = (vec![0; 65_536], vec![0; 65_536]);
                let mut dialer = None;
                loop {
                    tokio::select! {
                        Ok((length, from)) = near.recv_from(&mut out) => {
                            dialer = Some(from);
                            taken.lock().unwrap().push(out[..length].to_vec());
                            for _ in 0..2 {
                                let _ = far.send(&out[..length]).await;
                            }
                        }
                        Ok(length) = far.recv(&mut back) => {
                            if let Some(dialer) = dialer {
                                let _ = near.send_to(&back[..length], dialer).await;
                            }
                        }
                    }
                }
            }
        });
        Self { address, taken, task }
    }
}

async fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_and_is_sent_again_is_heard_once() {
    let ca = DevCa::new(CLUSTER).unwrap();
    let (one, two) = (Node::start(&ca, 1).await, Node::start(&ca, 2).await);
    let three = Node::start(&ca, 3).await;
    three.meet(&one).await;
    let recorder = Recorder::start(&one.transport.address()).await;
    two.transport.connect(NodeId(1), &recorder.address.to_string());
    two.reach(&one).await;
    for number in 1..=MESSAGES {
        two.send(1, vec![vote(2, 1, number), append(2, 1, number, 500)]);
    }
    let heard = || one.inbox.from(2).len() as u64;
    until("all is heard", || heard() >= 2 * MESSAGES).await;
    two.reach(&one).await;
    let all: Vec<u64> = (1..=MESSAGES).collect();
    assert_eq!(lanes(&one.inbox.from(2)), (all.clone(), all), "each once, though each packet came twice");

    // The whole conversation again: while it goes on, and when the node is gone; from where it came, and from elsewhere.
    let taken = recorder.taken.lock().unwrap().clone();
    assert!(taken.len() > 20, "{} packets", taken.len());
    let replay = async || {
        let elsewhere = socket().await;
        for packet in &taken {
            elsewhere.send_to(packet, one.transport.address()).await.unwrap();
        }
    };
    replay().await;
    two.reach(&one).await;
    assert_eq!(one.stats().connected, 2, "the node and its connection are not disturbed");
    recorder.task.abort();
    two.transport.stop().await;
    one.transport.disconnect(NodeId(2));
    until("it is gone", || one.stats().connected == 1).await;
    replay().await;
    replay().await;
    three.reach(&one).await;
    assert_eq!(heard(), 2 * MESSAGES, "nothing is heard again");
    let stats = one.stats();
    assert_eq!((stats.connected, stats.reconnects, stats.malformed), (1, 0, 0), "and nobody is let in by it");
    assert_eq!(three.stats().reconnects, 0);
}
