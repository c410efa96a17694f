//! More requests than a node's HTTP interface has room for: they are refused at once, whoever looks after the node is
//! answered all the same, and a request that does not come whole keeps no place.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_core::mem::{ChannelNetwork, MemLogStore};
use raft_core::{ClusterId, NodeId, NodeOptions, Raft};
use raft_kv::api::{Api, ErrorBody, ErrorCode, HealthBody, RequestLimits, TIMEOUT_HEADER, router};
use raft_kv::command::MAX_VALUE_BYTES;
use raft_kv::store::Store;
use support::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// A node with an HTTP interface, in this process. It is cut off from the other member, so that requests wait for a leader.
struct Node {
    http: SocketAddr,
    client: reqwest::Client,
    server: JoinHandle<()>,
    network: ChannelNetwork,
    members: [Raft<Store>; 2],
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn member(network: &ChannelNetwork, id: u64) -> Raft<Store> {
    let mut options = NodeOptions::new(ClusterId(0xc0ffee), id);
    options.config.election_timeout = Duration::from_millis(200);
    options.config.heartbeat_interval = Duration::from_millis(20);
    Raft::start(options, MemLogStore::new(), network.transport(id), Store::default()).await.unwrap()
}

impl Node {
    async fn start(limits: RequestLimits) -> Self {
        let network = ChannelNetwork::new();
        let members = [member(&network, 1).await, member(&network, 2).await];
        members[0].bootstrap([(1, "mem:1"), (2, "mem:2")]).await.unwrap();
        network.cut(1, 2);
        let mut status = members[0].status();
        tokio::time::timeout(PATIENCE, status.wait_for(|status| status.leader.is_none()))
            .await
            .unwrap()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap();
        let api = Arc::new(Api::new(members[0].clone()).unwrap().with_limits(limits));
        let server = tokio::spawn(async move { axum::serve(listener, router(api)).await.unwrap() });
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { http, client, server, network, members }
    }

    fn put(&self, bytes: usize, timeout: Duration) -> reqwest::RequestBuilder {
        let put = self.client.put(format!("http://{}/kv/key", self.http));
        put.header(TIMEOUT_HEADER, timeout.as_millis() as u64).body(vec![b'x'; bytes])
    }

    /// What a put is refused with that no leader takes.
    async fn refusal(&self, bytes: usize, timeout: Duration) -> ErrorCode {
        self.put(bytes, timeout).send().await.unwrap().json::<ErrorBody>().await.unwrap().error
    }

    /// A put that waits until there is a leader; its deadline is far away. What is answered.
    fn waiting(&self, bytes: usize) -> JoinHandle<(u16, String)> {
        let put = self.put(bytes, PATIENCE);
        tokio::spawn(async move {
            let answer = put.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        })
    }

    /// The same, begun anew where a probe had the room first.
    fn insisting(&self, bytes: usize) -> JoinHandle<(u16, String)> {
        let put = self.put(bytes, PATIENCE);
        tokio::spawn(async move {
            loop {
                let answer = put.try_clone().unwrap().send().await.unwrap();
                let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
                if !text.contains("overloaded") {
                    return (status, text);
                }
            }
        })
    }

    async fn is_full_for(&self, bytes: usize) {
        let full = async || {
            let refused = self.refusal(bytes, Duration::from_millis(1)).await;
            (refused == ErrorCode::Overloaded).then_some(())
        };
        eventually("a put finds no room", full).await;
    }

    async fn has_room_for(&self, bytes: usize) {
        let room = async || {
            let refused = self.refusal(bytes, Duration::from_millis(1)).await;
            (refused == ErrorCode::Unavailable).then_some(())
        };
        eventually("a put finds room", room).await;
    }

    /// Brings the other member back, and makes this one lead: the other has no clients.
    async fn lead(&self) {
        self.network.heal(1, 2);
        eventually("the node leads", async || {
            let _refused = self.members[1].transfer_leadership(Some(NodeId(1))).await;
            (self.members[0].status().borrow().leader == Some(NodeId(1))).then_some(())
        })
        .await;
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.client.get(format!("http://{}{path}", self.http)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Sends a part of a request.
    async fn begin(&self, head: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let bytes = format!("PUT /kv/key HTTP/1.1\r\nHost: node\r\n{head}\r\n\r\n{body}");
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream
    }
}

fn limits(max_requests: usize, max_bytes: usize) -> RequestLimits {
    let mut limits = RequestLimits::default();
    (limits.max_requests, limits.max_bytes) = (max_requests, max_bytes);
    limits
}

/// The head and the body of the answer that comes.
async fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    let mut buffer = [0; 4096];
    while !answer.contains('}') {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(read > 0, "closed after {answer:?}");
        answer.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_looks_after_a_node_is_answered_while_its_clients_fill_it() {
    const REQUESTS: usize = 3;
    let node = Node::start(limits(REQUESTS, 1 << 20)).await;
    let waiting: Vec<_> = (0..REQUESTS).map(|_| node.insisting(10)).collect();
    node.is_full_for(0).await;
    let (status, body) = node.get("/livez").await;
    assert_eq!(
        (status, serde_json::from_str(&body).unwrap()),
        (200, HealthBody { ok: true, reasons: vec![] })
    );
    for path in ["/readyz", "/health"] {
        let (status, body) = node.get(path).await;
        let body: HealthBody = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 503, "{path}: it serves no clients");
        assert!(!body.reasons.is_empty(), "{path} says why: {body:?}");
    }
    for (path, says) in [("/status", "\"node\":1"), ("/metrics", "# EOF")] {
        let (status, body) = node.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(body.contains(says), "{path}: {body}");
    }
    assert!(waiting.iter().all(|call| !call.is_finished()), "all that while they waited");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_hold_no_more_bytes_than_there_is_room_for() {
    let node = Node::start(limits(1000, 100_000)).await;
    node.has_room_for(90_000).await;
    let first = node.insisting(60_000);
    let began = Instant::now();
    node.is_full_for(60_000).await;
    node.has_room_for(10_000).await;
    assert!(!first.is_finished() && began.elapsed() < PATIENCE, "refused at once, not when there is room");
    // Who goes leaves its room.
    first.abort();
    node.has_room_for(60_000).await;
    // A body that is longer than the whole room never has any.
    assert_eq!(node.refusal(200_000, PATIENCE).await, ErrorCode::Overloaded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_unknown_length_counts_as_the_longest_until_it_is_read() {
    let node = Node::start(limits(1000, MAX_VALUE_BYTES + 10_000)).await;
    let chunked = format!("{TIMEOUT_HEADER}: 30000\r\nTransfer-Encoding: chunked");
    // A probe may come first and have the room: then the request is refused, and begun anew.
    let mut stream = eventually("a body of unknown length has its room", async || {
        let stream = node.begin(&chunked, "5\r\nwords\r\n").await;
        for _ in 0..20 {
            if node.refusal(10_000, Duration::from_millis(1)).await == ErrorCode::Overloaded {
                return Some(stream);
            }
        }
        None
    })
    .await;
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    // It waits for a leader now, and holds what it came with.
    node.has_room_for(MAX_VALUE_BYTES).await;
    drop(stream);
    // The limit holds without a length, too.
    let chunk = format!("{:x}\r\n{}\r\n", MAX_VALUE_BYTES + 1, "x".repeat(MAX_VALUE_BYTES + 1));
    let answer = eventually("a body without a length is read", async || {
        let mut stream = node.begin(&chunked, "").await;
        stream.write_all(chunk.as_bytes()).await.unwrap();
        let answer = answer(stream).await;
        (!answer.contains("overloaded")).then_some(answer)
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("too_large"), "{answer}");
    let too_large = node.put(MAX_VALUE_BYTES + 1, PATIENCE).send().await.unwrap();
    assert_eq!(too_large.json::<ErrorBody>().await.unwrap().error, ErrorCode::TooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_body_keeps_its_place_until_the_deadline_and_no_longer() {
    let node = Node::start(limits(1, 1 << 20)).await;
    let head = format!("{TIMEOUT_HEADER}: 30000\r\nContent-Length: 10");
    // A probe may come first and have the place: then half a request is refused, and begun anew.
    let half = eventually("half a request has the place", async || {
        let half = node.begin(&head, "words").await;
        for _ in 0..20 {
            if node.refusal(0, Duration::from_millis(1)).await == ErrorCode::Overloaded {
                return Some(half);
            }
        }
        None
    })
    .await;
    drop(half);
    node.has_room_for(0).await;
    let timeout = Duration::from_millis(500);
    let head = format!("{TIMEOUT_HEADER}: {}\r\nContent-Length: 10", timeout.as_millis());
    // The place of the probe before may be given back a moment after its answer.
    let (began, answer) = eventually("half a request is taken", async || {
        let began = Instant::now();
        let answer = answer(node.begin(&head, "words").await).await;
        (!answer.contains("overloaded")).then_some((began, answer))
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("did not come whole"), "{answer}");
    assert!(began.elapsed() >= timeout, "after {:?}", began.elapsed());
    node.has_room_for(0).await;
}

/// How many connections this process may have, both ends of each counted.
fn connections() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files = files.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or(1024);
    files.saturating_sub(200) / 2
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_taken_slowly_hold_their_bytes_until_they_are_gone() {
    let node = Node::start(limits(100, 10 << 20)).await;
    node.lead().await;
    for key in 0..8 {
        let value = vec![b'x'; MAX_VALUE_BYTES - 1000];
        let put = node.client.put(format!("http://{}/kv/{key}", node.http)).body(value);
        assert_eq!(put.send().await.unwrap().status().as_u16(), 200);
    }
    let (status, page) = node.get("/kv?prefix=").await;
    assert_eq!(status, 200);
    assert!(page.len() > 3 << 20, "{} bytes", page.len());
    // Two of them fit, and are not read.
    let mut slow = Vec::new();
    for _ in 0..2 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(node.http).await.unwrap();
        stream.write_all(b"GET /kv?prefix= HTTP/1.1\r\nHost: node\r\n\r\n").await.unwrap();
        stream.readable().await.unwrap();
        slow.push(stream);
    }
    let (status, refused) = node.get("/kv?prefix=").await;
    assert_eq!((status, refused.contains("overloaded")), (503, true), "{} bytes", refused.len());
    // What was carried out is told all the same.
    let put = node.client.put(format!("http://{}/kv/small", node.http)).body("x");
    assert_eq!(put.send().await.unwrap().status().as_u16(), 200);
    drop(slow);
    eventually("there is room again", async || (node.get("/kv?prefix=").await.0 == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_waiting_requests_are_answered() {
    let count = connections().min(2_000);
    assert!(count >= 100, "{count}");
    let node = Node::start(limits(count, 64 << 20)).await;
    let waiting: Vec<_> = (0..count).map(|_| node.waiting(10)).collect();
    node.is_full_for(0).await;
    assert!(waiting.iter().all(|call| !call.is_finished()), "{count} wait at once");
    node.lead().await;
    for call in waiting {
        let (status, body) = call.await.unwrap();
        assert_eq!(status, 200, "{body}");
    }
}
