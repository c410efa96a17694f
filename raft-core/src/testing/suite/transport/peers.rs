//! Peers that come back, move and go.

use super::bench::{Bench, Check};
use crate::types::{Incarnation, NodeId, Peer};

cases! { Peers:
    both_at_once "Two nodes that dial each other at the same time come to be connected",
    restart "A peer that was stopped and started again is connected again",
    crash "A peer whose process ended without a word is connected again",
    wiped "A peer with a new data folder is asked about anew",
    moves "connect with another address moves the peer",
    repeated_connect "connect repeated with the same address changes nothing",
    disconnect "disconnect closes the connection in both directions",
    reconnect "After disconnect, connect connects again",
    restarts_in_a_row "Any number of restarts ends in a working connection",
}

async fn both_at_once(bench: &Bench) -> Check {
    let nodes = bench.start_all(5).await?;
    for (place, a) in nodes.iter().enumerate() {
        for b in &nodes[place + 1..] {
            bench.connect(a, b);
            bench.connect(b, a);
        }
    }
    for a in &nodes {
        for b in nodes.iter().filter(|b| b.id() != a.id()) {
            bench.reach(a, b).await?;
        }
    }
    Ok(())
}

async fn restart(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    bench.stop(&b).await?;
    drop(b);
    let b = bench.start_run(2, 1002, 2).await?;
    bench.meet(&a, &b).await
}

async fn crash(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    bench.step("node 2 is dropped, not stopped");
    drop(b);
    let b = bench.start_run(2, 1002, 2).await?;
    bench.meet(&a, &b).await
}

async fn wiped(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    bench.stop(&b).await?;
    drop(b);
    let b = bench.start_run(2, 2002, 1).await?;
    bench.meet(&a, &b).await?;
    let asked = a.inbox.asked();
    for incarnation in [1002, 2002] {
        let peer = Peer { node: NodeId(2), incarnation: Incarnation(incarnation) };
        if !asked.iter().any(|(asked, _)| *asked == peer) {
            return Err(bench.failure(
                format!("node 1's inbox is asked whether it admits node 2 with incarnation {incarnation}"),
                format!("it was asked about {asked:?}"),
            ));
        }
    }
    Ok(())
}

async fn moves(bench: &Bench) -> Check {
    let nowhere = bench.dead_address(2).await?;
    let (a, b) = (bench.start(1).await?, bench.start_run(2, 1002, 2).await?);
    bench.step(format!("node 1 connects to node 2 at {nowhere}, where nobody listens"));
    a.transport.connect(NodeId(2), &nowhere);
    // Whether an attempt is under way or waits: it is the new address that counts.
    bench.connect(&a, &b);
    bench.reach(&a, &b).await?;
    bench.step("node 2 stops and starts elsewhere");
    bench.stop(&b).await?;
    drop(b);
    let b = bench.start_run(2, 1002, 3).await?;
    bench.connect(&a, &b);
    bench.reach(&a, &b).await?;
    bench.reach(&b, &a).await
}

async fn repeated_connect(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    for number in 1..=50 {
        a.transport.connect(b.peer().node, &b.transport.address());
        b.transport.connect(a.peer().node, &a.transport.address());
        a.send(&b, vec![a.control(&b, number)]);
        tokio::task::yield_now().await;
    }
    bench.step("both connect 50 times, and send 50 messages between");
    bench.until("49 of 50 messages arrive", || b.inbox.count() >= 49).await
}

async fn disconnect(bench: &Bench) -> Check {
    let (a, b) = (bench.start(1).await?, bench.start(2).await?);
    bench.connect(&a, &b);
    bench.reach(&a, &b).await?;
    bench.reach(&b, &a).await?;
    bench.step("node 1 disconnects node 2");
    a.transport.disconnect(b.peer().node);
    bench.unheard(&a, &b, "after disconnect").await?;
    bench.unheard(&b, &a, "after disconnect").await
}

async fn reconnect(bench: &Bench) -> Check {
    let (a, b) = (bench.start(1).await?, bench.start(2).await?);
    bench.connect(&a, &b);
    bench.reach(&a, &b).await?;
    for _ in 0..5 {
        bench.step("node 1 disconnects node 2");
        a.transport.disconnect(b.peer().node);
        bench.connect(&a, &b);
        bench.reach(&a, &b).await?;
        bench.reach(&b, &a).await?;
    }
    Ok(())
}

async fn restarts_in_a_row(bench: &Bench) -> Check {
    let (a, mut b) = bench.pair().await?;
    for boot in 2..=6 {
        // By turns, without waiting for what the other one notices.
        if boot % 2 == 0 {
            bench.stop(&b).await?;
        }
        drop(b);
        b = bench.start_run(2, 1002, boot).await?;
        bench.connect(&a, &b);
        bench.connect(&b, &a);
    }
    bench.reach(&a, &b).await?;
    bench.reach(&b, &a).await
}
