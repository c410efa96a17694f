//! The end.

use std::sync::Arc;
use std::time::Duration;

use super::bench::{Bench, Check, pattern};
use tokio::runtime::Handle;

cases! { Stopping:
    nothing_after "Delivers nothing any more once stop has returned",
    last_words "stop tries for a moment to send what is queued",
    repeated "Repeating stop does nothing",
    calls_after "Calls after stop do no harm",
    never_connected "stop ends with nobody connected, and while peers are dialed",
    nothing_left "After stop, no task runs and the inbox is let go",
}

async fn nothing_after(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    let (transport, message) = (Arc::clone(&a.transport), a.control(&b, 1));
    let to = b.peer().node;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    bench.step("node 1 sends all the time");
    let runtime = Handle::current();
    let sender = tokio::task::spawn_blocking(move || {
        let _entered = runtime.enter();
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            transport.send(to, vec![message.clone(); 10]);
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    let begun = bench.until("messages arrive", || b.inbox.count() > 100).await;
    let ended = bench.stop(&b).await;
    let count = b.inbox.count();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let later = b.inbox.count();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    // It cannot fail: it only sends.
    let _ = sender.await;
    begun?;
    ended?;
    if later != count {
        return Err(bench.failure(
            "nothing is delivered once stop has returned",
            format!("{} messages are", later - count),
        ));
    }
    Ok(())
}

/// A message may be lost, so one of some tries is enough.
async fn last_words(bench: &Bench) -> Check {
    const TRIES: u64 = 5;
    let a = bench.start(1).await?;
    for boot in 1..=TRIES {
        let b = bench.start_run(2, 1002, boot).await?;
        bench.meet(&a, &b).await?;
        bench.step("node 2 sends a message and stops");
        b.send(&a, vec![b.control(&a, boot), b.append(&a, boot, pattern(boot, 1000))]);
        bench.stop(&b).await?;
        bench.settled(|| a.inbox.count()).await;
        let received = a.inbox.from(b.peer().node);
        if received.contains(&b.control(&a, boot))
            && received.contains(&b.append(&a, boot, pattern(boot, 1000)))
        {
            return Ok(());
        }
    }
    let expected = format!("what was sent just before stop arrives, at least once in {TRIES} times");
    Err(bench.failure(expected, "it never does"))
}

async fn repeated(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    bench.step("node 1 is stopped twice at once, and again");
    bench.ends("stop", async { tokio::join!(a.transport.stop(), a.transport.stop()) }).await?;
    bench.stop(&a).await?;
    bench.stop(&b).await?;
    bench.stop(&a).await
}

async fn calls_after(bench: &Bench) -> Check {
    let (a, b) = bench.pair().await?;
    bench.stop(&a).await?;
    bench.step("node 1 is called as if it ran");
    a.send(&b, vec![a.control(&b, 1)]);
    bench.connect(&a, &b);
    a.transport.disconnect(b.peer().node);
    bench.connect(&a, &b);
    let opened = bench.ends("open_snapshot", a.transport.open_snapshot(b.peer().node)).await?;
    if opened.is_ok() {
        return Err(bench.failure("open_snapshot fails after stop", "it succeeds"));
    }
    bench.unheard(&a, &b, "once it is stopped").await?;
    bench.unheard(&b, &a, "that is stopped").await
}

async fn never_connected(bench: &Bench) -> Check {
    let nowhere = bench.dead_address(2).await?;
    let a = bench.start(1).await?;
    bench.stop(&a).await?;
    let a = bench.start_run(1, 1001, 2).await?;
    bench.step(format!("node 1 connects to node 2 at {nowhere}, where nobody listens"));
    a.transport.connect(crate::types::NodeId(2), &nowhere);
    tokio::time::sleep(Duration::from_millis(20)).await;
    bench.stop(&a).await
}

async fn nothing_left(bench: &Bench) -> Check {
    let before = Handle::current().metrics().num_alive_tasks();
    let nowhere = bench.dead_address(3).await?;
    let (a, b) = bench.pair().await?;
    a.transport.connect(crate::types::NodeId(3), &nowhere);
    let (sender, receiver) = bench.stream(&a, &b).await?;
    a.send(&b, vec![a.append(&b, 1, pattern(1, 100_000))]);
    bench.stop(&a).await?;
    bench.stop(&b).await?;
    drop((sender, receiver));
    let inboxes = [Arc::downgrade(&a.inbox), Arc::downgrade(&b.inbox)];
    bench.step("both transports are dropped");
    drop((a, b));
    bench.forget_inboxes();
    bench.until("no task is left", || Handle::current().metrics().num_alive_tasks() <= before).await?;
    bench.until("no inbox is held", || inboxes.iter().all(|inbox| inbox.strong_count() == 0)).await
}
