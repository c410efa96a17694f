//! `send` never blocks, and what waits is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::bench::{Bench, Check, Node, append, pattern};
use crate::types::{NodeId, Peer};

cases! { Queues:
    stranger "send drops what has no connection, and never blocks",
    unreachable_peer "send never blocks while a peer cannot be reached, and what waits for it is bounded",
    burst "send never blocks while a peer is slower than its sender, and what waits for it is bounded",
}

/// The longest that a call which does not block may take: many times what a busy machine takes a thread away for.
const AT_ONCE: Duration = Duration::from_secs(1);

const COMMAND_BYTES: usize = 64 << 10;

/// Commands that share their bytes, and count how many of themselves there are.
struct Counted {
    bytes: Bytes,
    alive: Arc<AtomicUsize>,
}

impl Counted {
    fn command(bytes: &Bytes, alive: &Arc<AtomicUsize>) -> Bytes {
        alive.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Self { bytes: bytes.clone(), alive: Arc::clone(alive) })
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends four times as many bytes as may wait, as fast as it goes, and some control messages between; gives how many
/// bytes of commands are still alive when the last is sent.
async fn flood(bench: &Bench, a: &Node, to: Peer) -> Result<usize, super::Failure> {
    let messages = 4 * bench.limits.queue_bytes / COMMAND_BYTES;
    bench.step(format!("node {} sends {messages} appends of 64 KiB to node {}", a.id(), to.node));
    let bytes = pattern(5, COMMAND_BYTES);
    let alive = Arc::new(AtomicUsize::new(0));
    let (transport, from, counter) = (Arc::clone(&a.transport), a.peer(), Arc::clone(&alive));
    let calls = (1..=messages as u64).map(move |number| {
        let (transport, bytes) = (Arc::clone(&transport), Counted::command(&bytes, &counter));
        let group = super::bench::GROUP;
        let envelope = crate::message::Envelope {
            group,
            lineage: super::bench::lineage_of(from.node),
            from,
            to,
            message: append(number, bytes),
        };
        Box::new(move || transport.send(to.node, vec![envelope])) as Box<dyn FnOnce() + Send>
    });
    let longest = bench.timed("sending", calls).await?;
    if longest > AT_ONCE {
        return Err(bench.failure("send returns at once", format!("a call took {longest:?}")));
    }
    Ok(alive.load(Ordering::Relaxed) * COMMAND_BYTES)
}

fn check_waiting(bench: &Bench, what: &str, bytes: usize) -> Check {
    let limit = bench.limits.queue_bytes;
    if bytes <= limit {
        return Ok(());
    }
    Err(bench.failure(
        format!("at most {limit} bytes {what} (the suite's `queue_bytes`)"),
        format!("{bytes} bytes"),
    ))
}

async fn stranger(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    let nobody = Peer { node: NodeId(77), incarnation: crate::types::Incarnation(1) };
    let waiting = flood(bench, &a, nobody).await?;
    check_waiting(bench, "wait for a node that was never named", waiting)?;
    bench.reach(&a, &b).await
}

async fn unreachable_peer(bench: &Bench) -> Check {
    let address = bench.dead_address(2).await?;
    let a = bench.start(1).await?;
    bench.step(format!("node 1 connects to node 2 at {address}, where nobody listens"));
    a.transport.connect(NodeId(2), &address);
    let to = Peer { node: NodeId(2), incarnation: crate::types::Incarnation(1002) };
    let waiting = flood(bench, &a, to).await?;
    check_waiting(bench, "wait for a peer that cannot be reached", waiting)?;
    let b = bench.start_run(2, 1002, 2).await?;
    b.inbox.only_counts.store(true, Ordering::Relaxed);
    bench.meet(&a, &b).await?;
    let came = bench.settled(|| b.inbox.bytes()).await;
    check_waiting(bench, "waited for a peer that could not be reached, and arrive when it can be", came)
}

async fn burst(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    b.inbox.only_counts.store(true, Ordering::Relaxed);
    let waiting = flood(bench, &a, b.peer()).await?;
    let before = b.inbox.bytes();
    check_waiting(bench, "wait while a burst is sent", waiting)?;
    let after = bench.settled(|| b.inbox.bytes()).await;
    check_waiting(bench, "arrive after the last call of send", after - before)?;
    bench.step("then one more message");
    bench.reach(&a, &b).await
}
