//! Who is let in, and under which name.

use super::bench::{Bench, Check, lineage_of, pattern};
use crate::transport::LocalNode;
use crate::types::{ClusterId, Incarnation, NodeId, Peer};

cases! { Doors:
    hello "admit is asked about the peer's node, data folder and lineage",
    not_admitted "Nothing passes between two nodes one of which does not admit the other",
    not_admitted_by_the_dialed "Who dials is asked about before anything is delivered",
    admitted_later "A peer that is admitted by now is connected",
    removed "A node that is refused by now and disconnected stays outside, however it dials",
    another_name "start refuses to speak for another node than the transport is made for",
    another_node_at_the_address "What is sent to a node is delivered to no other, whoever is at its address",
    another_cluster "Nodes of two clusters never talk",
    forged_sender "from in deliver is who it says, whatever the messages say",
}

async fn hello(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    for (who, whom) in [(&a, &b), (&b, &a)] {
        let expected = (whom.peer(), lineage_of(whom.peer().node));
        let asked = who.inbox.asked();
        if let Some(other) = asked.iter().find(|asked| **asked != expected) {
            return Err(bench.failure(
                format!("node {}'s inbox is asked about {expected:?}", who.id()),
                format!("it is asked about {other:?}"),
            ));
        }
        if asked.is_empty() {
            return Err(
                bench.failure(format!("node {}'s inbox is asked at the hello", who.id()), "it is not")
            );
        }
    }
    Ok(())
}

async fn not_admitted(bench: &Bench) -> Check {
    let (a, b) = (bench.start(1).await?, bench.start(2).await?);
    bench.step("node 1 does not admit node 2");
    a.inbox.refuse(b.peer().node);
    bench.connect(&a, &b);
    bench.connect(&b, &a);
    bench.unheard(&a, &b, "that it does not admit").await?;
    bench.unheard(&b, &a, "that does not admit it").await
}

async fn not_admitted_by_the_dialed(bench: &Bench) -> Check {
    let (a, b) = (bench.start(1).await?, bench.start(2).await?);
    bench.step("node 2 does not admit node 1, which dials");
    b.inbox.refuse(a.peer().node);
    bench.connect(&a, &b);
    bench
        .until_sent(
            "node 2's inbox is asked about node 1",
            || a.send(&b, vec![a.control(&b, 1)]),
            || !b.inbox.asked().is_empty(),
        )
        .await?;
    bench.unheard(&a, &b, "that does not admit it").await?;
    bench.unheard(&b, &a, "that it does not admit").await
}

async fn admitted_later(bench: &Bench) -> Check {
    let (a, b) = (bench.start(1).await?, bench.start(2).await?);
    bench.step("node 1 does not admit node 2, and later does");
    a.inbox.refuse(b.peer().node);
    bench.connect(&a, &b);
    bench.connect(&b, &a);
    bench
        .until_sent(
            "node 1's inbox is asked about node 2",
            || b.send(&a, vec![b.control(&a, 1)]),
            || !a.inbox.asked().is_empty(),
        )
        .await?;
    a.inbox.allow(b.peer().node);
    bench.reach(&a, &b).await?;
    bench.reach(&b, &a).await
}

async fn removed(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    bench.step("node 1 refuses node 2 from now on and disconnects it; node 2 goes on dialing");
    a.inbox.refuse(b.peer().node);
    a.transport.disconnect(b.peer().node);
    bench.unheard(&b, &a, "that has removed it").await?;
    bench.unheard(&a, &b, "that it has removed").await
}

async fn another_name(bench: &Bench) -> Check {
    let peer = Peer { node: NodeId(9), incarnation: Incarnation(1009) };
    let local = LocalNode { cluster: super::bench::CLUSTER, peer, boot: 1 };
    bench.step("start node 1's transport as node 9");
    match bench.start_with(bench.transport(1), local).await? {
        Ok(_) => Err(bench.failure("start fails", "it succeeds")),
        Err(_) => Ok(()),
    }
}

async fn another_node_at_the_address(bench: &Bench) -> Check {
    let nodes = bench.start_all(3).await?;
    let [a, b, c] = nodes.as_slice() else { return Ok(()) };
    bench.step("node 1 connects to node 2 at the address of node 3");
    a.transport.connect(b.peer().node, &c.transport.address());
    // What reaches node 3 though it was sent to node 2 is a fault in every case: the inbox sees to that. A transport that
    // does not go by addresses may reach node 2.
    for number in 1..=20 {
        a.send(b, vec![a.control(b, number), a.append(b, number, pattern(number, 100))]);
        // Spread over the time in which a connection comes about: nothing says when it was tried, and nothing may arrive.
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    bench.unheard(a, c, "that it was not told of").await?;
    if c.inbox.count() > 0 {
        return Err(bench.failure("nothing for node 2 is delivered to node 3", "a message is"));
    }
    bench.connect(a, b);
    bench.reach(a, b).await
}

async fn another_cluster(bench: &Bench) -> Check {
    let a = bench.start(1).await?;
    let cluster = ClusterId(0x0bad);
    let elsewhere = bench.elsewhere(cluster);
    let peer = Peer { node: NodeId(2), incarnation: Incarnation(1002) };
    bench.step(format!("start node 2 of cluster {cluster}"));
    let started = bench.start_with(elsewhere(peer.node), LocalNode { cluster, peer, boot: 1 }).await?;
    let b =
        started.map_err(|error| bench.failure("node 2 of the other cluster starts", error.to_string()))?;
    bench.connect(&a, &b);
    bench.connect(&b, &a);
    bench.unheard(&a, &b, "of another cluster").await?;
    bench.unheard(&b, &a, "of another cluster").await
}

async fn forged_sender(bench: &Bench) -> Check {
    let nodes = bench.start_all(3).await?;
    let [a, b, c] = nodes.as_slice() else { return Ok(()) };
    bench.meet(a, b).await?;
    bench.step("node 1 sends messages in the name of node 3");
    for number in 1..=20 {
        a.send(b, vec![c.control(b, number), c.append(b, number, pattern(number, 100))]);
    }
    bench.reach(a, b).await?;
    if b.inbox.from(c.peer().node).is_empty() {
        return Ok(());
    }
    Err(bench.failure("nothing is delivered as from node 3, which sent nothing", "a message is"))
}
