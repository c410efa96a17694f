//! What is sent arrives, and as it was.

use std::collections::BTreeSet;

use super::bench::{Bench, Check, GROUP, Node, append, pattern, vote};
use crate::membership::{Membership, NodeInfo};
use crate::message::{
    AppendOutcome, AppendRequest, AppendResponse, Envelope, Message, ReadRequest, ReadResponse, ReadTicket,
    TimeoutNow, VoteRequest, VoteResponse,
};
use crate::types::{Entry, EntryId, GroupId, NodeId, Payload};

cases! { Delivery:
    every_message "Never alters a message",
    both_ways "A connection serves both directions: whoever was dialed answers over it",
    batches "All messages of a batch arrive, in one piece or several",
    empty_batch "An empty batch is nothing",
    largest_entry "Every entry that the configuration allows gets through",
    mesh "Each node reaches each other one, and is known by its name",
    healthy_link "A connection that stands loses next to nothing",
}

async fn every_message(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    let mut messages = Vec::new();
    for group in [GroupId(0), GROUP, GroupId(1 << 40)] {
        for message in all_messages() {
            messages.push(a.envelope(&b, group, message));
        }
    }
    bench.step(format!("send {} messages of every kind", messages.len()));
    for envelope in &messages {
        let kind = format!("{:?}", envelope.message);
        bench
            .until_sent(
                &format!("this message arrives as it was sent: {:.200}", kind),
                || a.send(&b, vec![envelope.clone()]),
                || b.inbox.from(a.peer().node).contains(envelope),
            )
            .await?;
    }
    let sent = |envelope: &Envelope| messages.contains(envelope);
    match b.inbox.from(a.peer().node).into_iter().find(|envelope| !sent(envelope)) {
        Some(other) => Err(bench.failure("nothing arrives but what was sent", format!("{other:?}"))),
        None => Ok(()),
    }
}

/// One of each kind, with every field different from its default.
fn all_messages() -> Vec<Message> {
    let id = EntryId::new(0x0102_0304_0506, 0x0708_090a_0b0c);
    let membership = Membership::of_voters(
        (1..=3)
            .map(|node| {
                let address = format!("node-{node}.example:7000");
                (NodeId(node), NodeInfo { address, ..NodeInfo::default() })
            })
            .collect(),
    );
    let payloads = [
        Payload::Noop,
        Payload::Command(pattern(1, 1)),
        Payload::Command(pattern(2, 0)),
        Payload::Membership(Box::new(membership)),
        Payload::Command(pattern(3, 100_000)),
    ];
    let entries = (id.index + 1..).zip(payloads);
    let entries =
        entries.map(|(index, payload)| Entry { id: EntryId::new(id.term, index), payload }).collect();
    let heartbeat = AppendRequest { term: 7, prev: id, entries: Vec::new(), commit: 5, round: 1 << 50 };
    let answer = |outcome| {
        Message::AppendResponse(AppendResponse { term: 7, round: 9, priority: 3, level: 2, outcome })
    };
    let ticket = ReadTicket { boot: u64::MAX - 7, number: 1 << 33 };
    vec![
        Message::VoteRequest(VoteRequest { term: 8, last: id, pre_vote: true, transfer: false }),
        Message::VoteRequest(VoteRequest { term: 8, last: id, pre_vote: false, transfer: true }),
        Message::VoteResponse(VoteResponse { term: 8, granted: true, pre_vote: true }),
        Message::VoteResponse(vote(9)),
        Message::AppendRequest(AppendRequest { entries, ..heartbeat.clone() }),
        Message::AppendRequest(heartbeat),
        answer(AppendOutcome::Accepted { matched: 11, received: 12 }),
        answer(AppendOutcome::Conflict { prev: 13, hint: id, last: 14 }),
        answer(AppendOutcome::Stale),
        Message::IdentityRequest,
        Message::IdentityResponse { founded: true, last: EntryId::new(3, 9) },
        Message::TimeoutNow(TimeoutNow { term: 7, round: 9 }),
        Message::ReadRequest(ReadRequest { term: 7, ticket, lease: true }),
        Message::ReadResponse(ReadResponse { term: 7, ticket, index: 1 << 40 }),
    ]
}

async fn both_ways(bench: &Bench) -> Check {
    let (a, b) = (bench.start(1).await?, bench.start(2).await?);
    bench.connect(&a, &b);
    bench.reach(&a, &b).await?;
    bench.step("node 2 was told no address, and answers");
    bench.reach(&b, &a).await
}

async fn batches(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    let mut next = 1;
    for length in [1, 2, 7, 100, 1000_u64] {
        bench.step(format!("send a batch of {length}"));
        let numbers = next..next + length;
        next += length;
        // Both lanes in one batch.
        let batch =
            || numbers.clone().flat_map(|n| [a.control(&b, n), a.append(&b, n, pattern(n, 10))]).collect();
        bench
            .until_sent(
                &format!("all messages of a batch of {} arrive", 2 * length),
                || a.send(&b, batch()),
                || {
                    let (control, entries) = arrived(&b, &a);
                    numbers.clone().all(|n| control.contains(&n) && entries.contains(&n))
                },
            )
            .await?;
    }
    Ok(())
}

/// The numbers of control messages and of entries that came to `to` from `from`.
fn arrived(to: &Node, from: &Node) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let received = to.inbox.from(from.peer().node);
    let control = received.iter().filter_map(|envelope| match &envelope.message {
        Message::VoteResponse(vote) => Some(vote.term),
        _ => None,
    });
    let entries = received.iter().filter_map(|envelope| match &envelope.message {
        Message::AppendRequest(append) => append.entries.first().map(Entry::index),
        _ => None,
    });
    (control.collect(), entries.collect())
}

async fn empty_batch(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    bench.step("send empty batches");
    (0..10).for_each(|_| a.send(&b, Vec::new()));
    bench.reach(&a, &b).await
}

async fn largest_entry(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    let length = bench.limits.largest_entry_bytes;
    let envelope = a.envelope(&b, GROUP, append(1, pattern(1, length)));
    bench.step(format!("send an entry of {length} bytes"));
    // Once only: at the limit, what is sent again waits behind what was sent before.
    a.send(&b, vec![envelope.clone()]);
    bench.until("the entry arrives", || b.inbox.bytes() >= length).await?;
    if b.inbox.from(a.peer().node).first() != Some(&envelope) {
        return Err(bench.failure("the entry arrives as it was", "other bytes"));
    }
    bench.reach(&a, &b).await
}

async fn mesh(bench: &Bench) -> Check {
    let nodes = bench.start_all(4).await?;
    for (place, a) in nodes.iter().enumerate() {
        for b in &nodes[place + 1..] {
            bench.meet(a, b).await?;
        }
    }
    for a in &nodes {
        for b in nodes.iter().filter(|b| b.id() != a.id()) {
            let number = 10 * a.id() + b.id();
            bench
                .until_sent(
                    &format!("node {} hears node {}, by its name", b.id(), a.id()),
                    || a.send(b, vec![a.control(b, number)]),
                    || b.inbox.from(a.peer().node).contains(&a.control(b, number)),
                )
                .await?;
        }
    }
    Ok(())
}

async fn healthy_link(bench: &Bench) -> Check {
    const MESSAGES: u64 = 1_000;
    let (a, b) = bench.pair().await?;
    bench.step(format!("send {MESSAGES} messages, ten at a time"));
    for first in (1..=MESSAGES).step_by(10) {
        a.send(&b, (first..first + 10).map(|number| a.control(&b, number)).collect());
        tokio::task::yield_now().await;
    }
    let enough = MESSAGES as usize / 100 * 99;
    let what = format!("at least {enough} of {MESSAGES} messages arrive");
    bench.until(&what, || b.inbox.count() >= enough).await
}
