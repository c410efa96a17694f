//! Streams for snapshots.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::bench::{Bench, Check, Stream, pattern};
use crate::transport::MAX_SNAPSHOT_FRAME_BYTES;
use crate::types::NodeId;

cases! { Streams:
    transfer "Frames arrive whole, in order and without loss, then the end",
    both_directions "Both ends send, and each direction ends by itself",
    finish_and_drop "After finish, dropping a stream loses nothing",
    frame_limits "A frame has 1 byte to 1 MiB",
    cancelled_receive "A frame is not lost where the future of receive is dropped",
    backpressure "Few frames are on the way at once; what more is sent waits",
    beside_messages "Messages go on beside a stream that stands still",
    several "Several streams at once, each way",
    no_connection "Without a connection, no stream opens",
    sender_drops "A stream dropped before finish breaks: the receiver gets an error, not the end",
    receiver_drops "A stream dropped before finish breaks: the sender gets an error",
    refused "Dropping a stream in the inbox refuses it",
    resume "After a break, another stream carries the rest",
    disconnected "disconnect breaks the streams of both ends",
    stopped "stop breaks the streams of both ends",
    restarted "A stream does not outlive a peer's process",
}

async fn transfer(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    let (mut sender, mut receiver) = bench.stream(&a, &b).await?;
    let lengths = [1, 2, 1000, MAX_SNAPSHOT_FRAME_BYTES, 1, 65_536, MAX_SNAPSHOT_FRAME_BYTES - 1, 77];
    bench.step(format!("send frames of {lengths:?} bytes, finish"));
    let frames: Vec<Bytes> = (1..).zip(lengths).map(|(number, length)| pattern(number, length)).collect();
    let send = async {
        for frame in &frames {
            sender.send(bench, frame.clone()).await?;
        }
        sender.finish(bench).await
    };
    let receive = async {
        for frame in &frames {
            receiver.expect(bench, frame).await?;
        }
        receiver.expect_end(bench).await?;
        // And no less at the end when asked again.
        receiver.expect_end(bench).await
    };
    tokio::try_join!(send, receive)?;
    Ok(())
}

async fn both_directions(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    let (mut sender, mut receiver) = bench.stream(&a, &b).await?;
    bench.step("question and answer, twenty times");
    for number in 1..=20 {
        let frame = pattern(number, 100 * number as usize);
        sender.send(bench, frame.clone()).await?;
        receiver.expect(bench, &frame).await?;
        receiver.send(bench, frame.clone()).await?;
        sender.expect(bench, &frame).await?;
    }
    bench.step("the sender finishes, and still receives");
    sender.finish(bench).await?;
    receiver.expect_end(bench).await?;
    let frame = pattern(99, 1000);
    receiver.send(bench, frame.clone()).await?;
    sender.expect(bench, &frame).await?;
    receiver.finish(bench).await?;
    sender.expect_end(bench).await
}

async fn finish_and_drop(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    for answered in [false, true] {
        let (mut sender, mut receiver) = bench.stream(&a, &b).await?;
        if answered {
            bench.step("a frame comes back that nobody takes");
            receiver.send(bench, pattern(8, 1000)).await?;
        }
        bench.step("the sender sends two frames, finishes and drops its end");
        sender.send(bench, pattern(1, 1000)).await?;
        sender.send(bench, pattern(2, 100_000)).await?;
        sender.finish(bench).await?;
        drop(sender);
        tokio::time::sleep(Duration::from_millis(50)).await;
        receiver.expect(bench, &pattern(1, 1000)).await?;
        receiver.expect(bench, &pattern(2, 100_000)).await?;
        receiver.expect_end(bench).await?;
    }
    Ok(())
}

async fn frame_limits(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    for length in [0, MAX_SNAPSHOT_FRAME_BYTES + 1] {
        let (mut sender, _receiver) = bench.stream(&a, &b).await?;
        bench.step(format!("send a frame of {length} bytes"));
        if bench.ends("send", sender.stream.send(pattern(1, length))).await?.is_ok() {
            return Err(bench.failure(format!("sending {length} bytes in one frame fails"), "it succeeds"));
        }
    }
    bench.reach(&a, &b).await
}

async fn cancelled_receive(bench: &Bench) -> Check {
    const FRAMES: u64 = 50;
    let (a, b) = bench.pair().await?;
    let (mut sender, mut receiver) = bench.stream(&a, &b).await?;
    bench.step(format!("send {FRAMES} frames, while receive is dropped and called again all the time"));
    let send = async {
        for number in 1..=FRAMES {
            sender.send(bench, pattern(number, 50_000)).await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        sender.finish(bench).await
    };
    let receive = async {
        let mut next = 1;
        loop {
            // At its first poll it is ready or dropped.
            let received = tokio::select! {
                biased;
                received = receiver.stream.receive() => received,
                () = tokio::task::yield_now() => continue,
            };
            let came = match received {
                Ok(Some(frame)) if frame == pattern(next, 50_000) => {
                    next += 1;
                    continue;
                }
                Ok(None) if next == FRAMES + 1 => return Ok(()),
                Ok(Some(frame)) => format!("another frame, of {} bytes", frame.len()),
                Ok(None) => "the end".to_owned(),
                Err(error) => format!("an error: {error}"),
            };
            return Err(bench.failure(format!("frame {next} of {FRAMES}"), came));
        }
    };
    bench.ends("the transfer", async { tokio::try_join!(send, receive) }).await??;
    Ok(())
}

/// Sends frames of 1 MiB until one has to wait; how many went before it.
async fn fill(bench: &Bench, sender: &mut Stream) -> Result<usize, super::Failure> {
    let limit = bench.limits.queue_bytes / MAX_SNAPSHOT_FRAME_BYTES;
    bench.step("send frames of 1 MiB that nobody takes, until one waits");
    for count in 0..=limit {
        let sent = sender.stream.send(pattern(count as u64, MAX_SNAPSHOT_FRAME_BYTES));
        match timeout(Duration::from_millis(500), sent).await {
            Err(_) => return Ok(count),
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Err(bench.failure("the frame is sent or waits", format!("an error: {error}")));
            }
        }
    }
    Err(bench.failure(
        format!("with at most {limit} MiB on the way (the suite's `queue_bytes`), the next frame waits"),
        "it is taken",
    ))
}

async fn backpressure(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    let (mut sender, mut receiver) = bench.stream(&a, &b).await?;
    let sent = fill(bench, &mut sender).await?;
    bench.step(format!("the receiver takes {sent} frames; then more are sent"));
    for number in 0..sent {
        receiver.expect(bench, &pattern(number as u64, MAX_SNAPSHOT_FRAME_BYTES)).await?;
    }
    // The frame whose future was dropped may or may not be on its way, or break the stream: `send` does not say.
    drop((sender, receiver));
    let (mut sender, mut receiver) = bench.stream(&a, &b).await?;
    bench.step("another stream: 32 frames of 1 MiB to a receiver that starts late");
    let send = async {
        for number in 0..32 {
            sender.send(bench, pattern(number, MAX_SNAPSHOT_FRAME_BYTES)).await?;
        }
        sender.finish(bench).await
    };
    let receive = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for number in 0..32 {
            receiver.expect(bench, &pattern(number, MAX_SNAPSHOT_FRAME_BYTES)).await?;
        }
        receiver.expect_end(bench).await
    };
    tokio::try_join!(send, receive)?;
    Ok(())
}

async fn beside_messages(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    let (mut sender, _receiver) = bench.stream(&a, &b).await?;
    fill(bench, &mut sender).await?;
    bench.step("messages of both lanes, both ways");
    for (from, to) in [(&a, &b), (&b, &a)] {
        for number in 1..=20 {
            let messages = [from.control(to, number), from.append(to, number, pattern(number, 10_000))];
            bench
                .until_sent(
                    &format!("node {}'s messages arrive while a stream stands still", from.id()),
                    || from.send(to, messages.to_vec()),
                    || {
                        let received = to.inbox.from(from.peer().node);
                        messages.iter().all(|message| received.contains(message))
                    },
                )
                .await?;
        }
    }
    Ok(())
}

async fn several(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    let mut streams = Vec::new();
    for (from, to) in [(&a, &b), (&b, &a), (&a, &b)] {
        streams.push(bench.stream(from, to).await?);
    }
    bench.step("frames on each stream by turns");
    for number in 0..20 {
        for (place, (sender, receiver)) in streams.iter_mut().enumerate() {
            let frame = pattern(100 * place as u64 + number, 30_000);
            sender.send(bench, frame.clone()).await?;
            receiver.expect(bench, &frame).await?;
        }
    }
    bench.step("the first breaks, the others go on");
    drop(streams.remove(0));
    for (sender, receiver) in &mut streams {
        let frame = pattern(7, 1000);
        sender.send(bench, frame.clone()).await?;
        sender.finish(bench).await?;
        receiver.expect(bench, &frame).await?;
        receiver.expect_end(bench).await?;
    }
    Ok(())
}

async fn no_connection(bench: &Bench) -> Check {
    let a = bench.start(1).await?;
    bench.step("node 1 opens a stream to a node that it was never told of");
    let opened = bench.ends("open_snapshot", a.transport.open_snapshot(NodeId(77))).await?;
    if opened.is_ok() {
        return Err(bench.failure("open_snapshot fails", "it succeeds"));
    }
    Ok(())
}

async fn sender_drops(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    let (mut sender, mut receiver) = bench.stream(&a, &b).await?;
    bench.step("the sender sends a frame and drops its end");
    sender.send(bench, pattern(1, 1000)).await?;
    drop(sender);
    receiver.expect_broken(bench).await?;
    let (sender, mut receiver) = bench.stream(&a, &b).await?;
    bench.step("the receiver waits, and the sender drops its end");
    let broken = async { receiver.expect_broken(bench).await };
    let dropped = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(sender);
        Ok(())
    };
    tokio::try_join!(broken, dropped)?;
    Ok(())
}

async fn receiver_drops(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    let (mut sender, receiver) = bench.stream(&a, &b).await?;
    bench.step("the receiver drops its end, the sender sends");
    drop(receiver);
    sender.expect_send_broken(bench).await?;
    let (mut sender, receiver) = bench.stream(&a, &b).await?;
    bench.step("the receiver drops its end, the sender waits for an answer");
    drop(receiver);
    sender.expect_broken(bench).await
}

async fn refused(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    b.inbox.refuses_streams.store(true, Ordering::Relaxed);
    bench.step("node 2's inbox drops every stream; node 1 opens one");
    // Refused at once or at the first frames, as the transport can.
    if let Ok(stream) = bench.ends("open_snapshot", a.transport.open_snapshot(b.peer().node)).await? {
        let mut sender = Stream::new(stream, "node 1's end");
        sender.expect_send_broken(bench).await?;
    }
    b.inbox.refuses_streams.store(false, Ordering::Relaxed);
    bench.step("node 2 takes streams again");
    let (mut sender, mut receiver) = bench.stream(&a, &b).await?;
    sender.finish(bench).await?;
    receiver.expect_end(bench).await
}

async fn resume(bench: &Bench) -> Check {
    const FRAMES: u64 = 30;
    let (a, b) = bench.pair().await?;
    let mut next = 0;
    let mut breaks = 0;
    while next < FRAMES {
        let (mut sender, mut receiver) = bench.stream(&a, &b).await?;
        bench.step(format!("the receiver says where to go on: frame {next}"));
        receiver.send(bench, Bytes::copy_from_slice(&next.to_le_bytes())).await?;
        sender.expect(bench, &Bytes::copy_from_slice(&next.to_le_bytes())).await?;
        let end = (next + 11).min(FRAMES);
        for number in next..end {
            sender.send(bench, pattern(number, 20_000)).await?;
            receiver.expect(bench, &pattern(number, 20_000)).await?;
        }
        next = end;
        if next < FRAMES {
            breaks += 1;
            bench.step(if breaks % 2 == 1 {
                "the sender's end is lost"
            } else {
                "the receiver's end is lost"
            });
            if breaks % 2 == 1 {
                drop(sender);
                receiver.expect_broken(bench).await?;
            } else {
                drop(receiver);
                sender.expect_send_broken(bench).await?;
            }
        } else {
            sender.finish(bench).await?;
            receiver.expect_end(bench).await?;
        }
    }
    Ok(())
}

async fn disconnected(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    let (mut here, mut there) = bench.stream(&a, &b).await?;
    let (mut back, mut forth) = bench.stream(&b, &a).await?;
    bench.step("node 1 disconnects node 2");
    a.transport.disconnect(b.peer().node);
    for end in [&mut here, &mut there, &mut back, &mut forth] {
        end.expect_broken(bench).await?;
    }
    Ok(())
}

async fn stopped(bench: &Bench) -> Check {
    for stopper in [1, 2] {
        let (a, b) = (bench.start_run(1, 1001, stopper).await?, bench.start_run(2, 1002, stopper).await?);
        bench.meet(&a, &b).await?;
        let (mut sender, mut receiver) = bench.stream(&a, &b).await?;
        bench.stop(if stopper == 1 { &a } else { &b }).await?;
        sender.expect_broken(bench).await?;
        receiver.expect_broken(bench).await?;
        bench.stop(&a).await?;
        bench.stop(&b).await?;
    }
    Ok(())
}

async fn restarted(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    let (mut sender, receiver) = bench.stream(&a, &b).await?;
    bench.step("node 2 ends without a word, and comes back");
    drop((receiver, b));
    let b = bench.start_run(2, 1002, 2).await?;
    bench.meet(&a, &b).await?;
    sender.expect_send_broken(bench).await?;
    let (mut sender, mut receiver) = bench.stream(&a, &b).await?;
    sender.finish(bench).await?;
    receiver.expect_end(bench).await
}
