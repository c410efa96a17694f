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

/// Writers that each set one key after another, no key twice: what was confirmed can be looked for until the end.
#[derive(Default)]
struct Writers {
    stop: AtomicBool,
    /// When the earliest attempt that was begun after `killed` was confirmed.
    outage: Mutex<Option<(Instant, Option<Duration>)>>,
    confirmed: AtomicU64,
    unknown: AtomicU64,
}

/// The key and the value of a writer's write of this number.
fn pair(writer: u64, number: u64) -> (String, String) {
    (format!("failover-{writer}-{number}"), format!("{number} of {writer}"))
}

/// How many of the confirmed writes, each a writer and a number, are missing or have another value.
async fn lost(
    confirmed: &[(u64, u64)],
    mut read: impl AsyncFnMut(&str) -> Result<Option<Bytes>, Failure>,
) -> Result<usize, Failure> {
    let mut lost = 0;
    for &(writer, number) in confirmed {
        let (key, value) = pair(writer, number);
        if read(&key).await?.is_none_or(|found| found != value) {
            lost += 1;
        }
    }
    Ok(lost)
}

impl Writers {
    /// Writes until it is to stop; what was confirmed.
    async fn write(self: Arc<Self>, client: Client, writer: u64) -> Result<Vec<(u64, u64)>, Failure> {
        let mut confirmed = Vec::new();
        for number in 1.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let (key, value) = pair(writer, number);
            let begun = Instant::now();
            match client.put(&key, Bytes::from(value)).await {
                Ok(_) => {
                    confirmed.push((writer, number));
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
        Ok(confirmed)
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
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let client = nodes.client()?.with_timeout(ATTEMPT);
        tasks.push(tokio::spawn(Arc::clone(&writers).write(client, writer)));
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
    let mut confirmed = Vec::new();
    for task in tasks {
        confirmed.extend(task.await??);
    }
    progress(&format!("reading the {} writes that were confirmed", confirmed.len()));
    let client = nodes.client()?.with_timeout(PATIENCE);
    let lost = lost(&confirmed, async |key| Ok(client.get(key, false).await?.map(|pair| pair.value))).await?;
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
    findings.add("writes confirmed", confirmed.len() as f64, "");
    findings.add("writes of unknown outcome", writers.unknown.load(Ordering::Relaxed) as f64, "");
    findings.add("confirmed writes that are missing or different", lost as f64, "");
    if lost > 0 {
        return Err(format!("{findings}\nconfirmed writes are lost").into());
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[tokio::test]
    async fn a_confirmed_write_that_is_missing_or_different_is_counted() {
        let confirmed: Vec<(u64, u64)> =
            (0..WRITERS).flat_map(|writer| (1..=25).map(move |number| (writer, number))).collect();
        let mut kept: BTreeMap<String, String> =
            confirmed.iter().map(|&(writer, number)| pair(writer, number)).collect();
        assert_eq!(kept.len(), 100);
        // One of unknown outcome may be there as well.
        kept.extend([pair(0, 26)]);
        let count = async |kept: &BTreeMap<String, String>| {
            lost(&confirmed, async |key| Ok(kept.get(key).map(|value| Bytes::from(value.clone())))).await
        };
        assert_eq!(count(&kept).await.unwrap(), 0);
        // Amid later writes of the same writer.
        kept.remove(&pair(1, 7).0);
        assert_eq!(count(&kept).await.unwrap(), 1);
        kept.insert(pair(2, 9).0, pair(2, 8).1);
        assert_eq!(count(&kept).await.unwrap(), 2);
        kept.clear();
        assert_eq!(count(&kept).await.unwrap(), 100);
    }
}
