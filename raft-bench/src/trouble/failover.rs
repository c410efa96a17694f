//! Kill -9 of the leader, as its clients see it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_kv::client::{Client, ClientError};

use super::Findings;
use super::nodes::Nodes;
use crate::backend::Failure;
use crate::cluster::percentile;

/// Enough that one of them always begins soon after the kill.
const WRITERS: u64 = 4;

/// An attempt that waits for longer is given up, so that another is begun meanwhile.
const ATTEMPT: Duration = Duration::from_millis(100);

/// The least election timeout of raft-kv's nodes, which is raft-core's default.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);

const PATIENCE: Duration = Duration::from_secs(30);

/// Writers that each set a key of their own again and again, to the next number.
#[derive(Default)]
struct Writers {
    stop: AtomicBool,
    /// When the earliest attempt that was begun after `killed` was confirmed.
    outage: Mutex<Option<(Instant, Option<Duration>)>>,
    confirmed: AtomicU64,
    unknown: AtomicU64,
}

/// The last number that was confirmed, and the last that was tried.
#[derive(Clone, Copy, Default)]
struct Written {
    confirmed: u64,
    tried: u64,
}

impl Writers {
    async fn write(self: Arc<Self>, client: Client, key: String) -> Result<Written, Failure> {
        let mut written = Written::default();
        while !self.stop.load(Ordering::Relaxed) {
            written.tried += 1;
            let begun = Instant::now();
            match client.put(&key, Bytes::from(written.tried.to_string())).await {
                Ok(_) => {
                    written.confirmed = written.tried;
                    self.confirmed.fetch_add(1, Ordering::Relaxed);
                    let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some((killed, over @ None)) = outage.as_mut()
                        && begun >= *killed
                    {
                        *over = Some(killed.elapsed());
                    }
                }
                Err(ClientError::Unknown(_)) => {
                    self.unknown.fetch_add(1, Ordering::Relaxed);
                }
                Err(ClientError::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(written)
    }

    fn killed(&self, at: Instant) {
        *self.outage.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, None));
    }

    fn over(&self) -> Option<Duration> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner).and_then(|(_, over)| over)
    }
}

pub(super) async fn run(kills: usize, progress: &(dyn Fn(&str) + Sync)) -> Result<Findings, Failure> {
    let mut nodes = Nodes::start(std::env::current_exe()?).await?;
    let writers = Arc::new(Writers::default());
    let key = |writer| format!("failover-{writer}");
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let client = nodes.client()?.with_timeout(ATTEMPT);
        tasks.push(tokio::spawn(Arc::clone(&writers).write(client, key(writer))));
    }
    let mut outages = Vec::new();
    for kill in 1..=kills {
        let leader = nodes.leader().await?;
        let before = writers.confirmed.load(Ordering::Relaxed);
        until(|| writers.confirmed.load(Ordering::Relaxed) >= before + 10 * WRITERS).await?;
        progress(&format!("kill {kill} of {kills}: node {leader}, which leads"));
        nodes.kill(leader)?;
        writers.killed(Instant::now());
        until(|| writers.over().is_some()).await?;
        outages.extend(writers.over());
        nodes.launch(leader)?;
        let next = nodes.leader().await?;
        let commit = nodes.status(next).await.map_or(0, |status| status.commit);
        nodes.until(leader, |status| status.applied >= commit).await?;
    }
    writers.stop.store(true, Ordering::Relaxed);
    let client = nodes.client()?.with_timeout(PATIENCE);
    let mut lost = 0;
    for (writer, task) in (0..WRITERS).zip(tasks) {
        let written = task.await??;
        let found = client.get(&key(writer), false).await?;
        let text = found.map(|pair| String::from_utf8_lossy(&pair.value).into_owned());
        let number: u64 = text.as_deref().unwrap_or("0").parse()?;
        // What was tried after the last that was confirmed may be there or not; nothing before it may be.
        if number < written.confirmed || number > written.tried {
            lost += 1;
        }
    }
    outages.sort_unstable();
    let mut findings = Findings::new(format!(
        "failover: raft-kv, quic+redb, 3 processes, kill -9 of the leader, {kills} times"
    ));
    let ms = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1e3;
    for (name, share) in [("least", 0.0), ("median", 0.5), ("p90", 0.9), ("most", 1.0)] {
        findings.add(
            format!("from the kill to the next confirmed write, {name}"),
            ms(percentile(&outages, share)),
            "ms",
        );
    }
    findings.add("for comparison: twice the least election timeout", ms(Some(2 * ELECTION_TIMEOUT)), "ms");
    findings.add("writes confirmed", writers.confirmed.load(Ordering::Relaxed) as f64, "");
    findings.add("writes of unknown outcome", writers.unknown.load(Ordering::Relaxed) as f64, "");
    findings.add("keys whose confirmed value is lost", f64::from(lost), "");
    if lost > 0 {
        return Err(format!("{findings}\na confirmed write is lost").into());
    }
    Ok(findings)
}

async fn until(mut wanted: impl FnMut() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while !wanted() {
        if Instant::now() > deadline {
            return Err("no write is confirmed any more".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
