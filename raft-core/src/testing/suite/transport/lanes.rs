//! Order within a lane, and one lane before the other.

use std::time::Duration;

use bytes::Bytes;

use super::bench::{Bench, Check, Node, pattern};
use crate::message::{Envelope, Message};
use crate::types::Entry;

cases! { Lanes:
    order_of_control "Keeps the order of what goes to one peer on the control lane",
    order_of_appends "Keeps the order of what goes to one peer on the append lane",
    control_overtakes "Control does not wait behind entries",
}

const MESSAGES: u64 = 3_000;

async fn order_of_control(bench: &Bench) -> Check {
    in_order(bench, |a, b, number| a.control(b, number)).await
}

async fn order_of_appends(bench: &Bench) -> Check {
    in_order(bench, |a, b, number| {
        a.append(b, number, pattern(number, if number % 10 == 0 { 5_000 } else { 10 }))
    })
    .await
}

async fn in_order(bench: &Bench, message: fn(&Node, &Node, u64) -> Envelope) -> Check {
    let (a, b) = bench.pair().await?;
    bench.step(format!("send {MESSAGES} messages in batches of 1 to 50"));
    let mut next = 1;
    while next <= MESSAGES {
        let end = (next + 1 + next * 7 % 50).min(MESSAGES + 1);
        a.send(&b, (next..end).map(|number| message(&a, &b, number)).collect());
        next = end;
        if next % 3 == 0 {
            tokio::task::yield_now().await;
        }
    }
    // The last one is sent until it is there: it may be lost as any other.
    bench
        .until_sent(
            "the last message arrives",
            || a.send(&b, vec![message(&a, &b, MESSAGES + 1)]),
            || numbers(&b, &a).last().is_some_and(|number| *number > MESSAGES),
        )
        .await?;
    let numbers = numbers(&b, &a);
    let mut highest = 0;
    let mut seen = std::collections::BTreeSet::new();
    for number in numbers {
        // A repetition is allowed and says nothing about order.
        if seen.insert(number) && number < highest {
            return Err(bench.failure(
                "messages of one lane arrive in the order in which they were sent",
                format!("number {number} after number {highest}"),
            ));
        }
        highest = highest.max(number);
    }
    Ok(())
}

fn numbers(to: &Node, from: &Node) -> Vec<u64> {
    let received = to.inbox.from(from.peer().node);
    received.iter().map(number).collect()
}

fn number(envelope: &Envelope) -> u64 {
    match &envelope.message {
        Message::VoteResponse(vote) => vote.term,
        Message::AppendRequest(append) => append.entries.first().map_or(0, Entry::index),
        _ => 0,
    }
}

/// A round is decided by what had arrived when the control message was sent and when it came. One lucky round is enough:
/// with one queue for both lanes there is none, and on a busy machine a transport that does well has unlucky ones.
async fn control_overtakes(bench: &Bench) -> Check {
    const ROUNDS: u64 = 10;
    let (a, b) = bench.pair().await?;
    let size = 64 << 10;
    let appends = (bench.limits.queue_bytes / 4 / size).clamp(8, 512) as u64;
    let command: Bytes = pattern(1, size);
    let mut best = 0;
    for round in 1..=ROUNDS {
        let before = b.inbox.from(a.peer().node).len();
        bench.step(format!("send {appends} appends of 64 KiB, then a control message"));
        let first = round * 100_000;
        a.send(&b, (first..first + appends).map(|n| a.append(&b, n, command.clone())).collect());
        let through = b.inbox.from(a.peer().node).len() - before;
        a.send(&b, vec![a.control(&b, first)]);
        if through as u64 >= appends {
            // Nothing waits: what could be overtaken was delivered within the call.
            return Ok(());
        }
        let place = || {
            let received = b.inbox.from(a.peer().node);
            received[before..]
                .iter()
                .position(|envelope| matches!(envelope.message, Message::VoteResponse(_)))
        };
        bench.until("the control message arrives", || place().is_some()).await?;
        // What there was no room for was dropped.
        let all = bench.settled(|| b.inbox.count()).await - before - 1;
        let behind = all - place().unwrap_or(all);
        if all >= 8 && behind >= all / 4 {
            return Ok(());
        }
        best = best.max(100 * behind / all.max(1));
        // Another round later, not the same moment of the scheduler again; what a round waits for are conditions.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(bench.failure(
        format!(
            "a control message overtakes a quarter of {appends} appends that wait, in one of {ROUNDS} rounds"
        ),
        format!("it overtook {best} at most"),
    ))
}
