//! A store with a switch for each of many bugs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use async_trait::async_trait;
use raft_core::LogStore;
use raft_core::log_store::{Claim, LogState, StorageError, StorageErrorKind, Write};
use raft_core::mem::MemLogStore;
use raft_core::types::{
    ClusterId, Entry, GroupId, HardState, Incarnation, Index, NodeId, Outline, Payload, SnapshotMeta,
};

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    // Order.
    /// Entries come in the order of their indexes' digits.
    IndexAsText,
    /// A term is kept in a byte.
    TermInOneByte,
    /// A no-op comes back as an empty command.
    NoopIsCommand,
    // Atomicity.
    /// Rows are written before it is known whether the entries fit.
    RowsFirst,
    /// Writes after one that is refused are carried out all the same.
    SkipsTheRefused,
    /// A group is begun before its write is found not to fit.
    BeginsTheGroup,
    // Truncation.
    /// Without new entries, nothing is truncated.
    TruncatesOnlyToReplace,
    /// One entry too many stays.
    TruncatesOneLess,
    /// One entry too many goes.
    TruncatesOneMore,
    /// The hard state goes with the entries.
    TruncatesTheVote,
    // Compaction.
    /// One entry too many stays.
    CompactsOneLess,
    /// A mark beyond the end is taken for the end.
    MarkWithinTheLog,
    /// What is appended in the same write is not compacted.
    CompactsFirst,
    // Limits.
    /// The limit is not kept.
    NoLimit,
    /// One entry beyond the limit.
    OneBeyondTheLimit,
    /// Nothing where the first entry is beyond the limit.
    NothingBeyondTheLimit,
    /// Only commands count.
    NoOverhead,
    /// What does not fit is left out.
    SkipsTheLarge,
    // Groups.
    /// A group's number is kept in a byte.
    GroupInOneByte,
    /// Of a call, only the writes of the first group are carried out.
    OneGroupACall,
    /// A truncation reaches into the next group.
    TruncatesTheNextGroup,
    // Reopening.
    /// The last entry of each group is not on disk.
    LosesTheLastEntry,
    /// The hard state is not on disk.
    LosesTheVote,
    /// The outline is not on disk.
    LosesTheOutline,
    // Concurrency.
    /// A write that replaces entries drops the old ones first.
    InTwoSteps,
    /// Each thread keeps what it has read.
    ThreadsRemember,
    /// Of two reads at a time, one never ends.
    OneReadAtATime,
    // Sizes.
    /// A length is kept in two bytes.
    LengthInTwoBytes,
    /// An empty command comes back as a no-op.
    EmptyIsNoop,
    /// Zeros at a command's end go.
    TrailingZeros,
    // Rows.
    /// A vote for node 0 is none.
    NodeZeroIsNobody,
    /// Without an outline in a write, there is none.
    OutlineForgotten,
    /// The first snapshot stays.
    SnapshotKept,
    /// A term never goes back.
    Judges,
    // Identity.
    /// The store is anyone's.
    Anyones,
    /// Each claim brings its incarnation.
    AlwaysFresh,
    /// A boot lasts until the store is opened anew.
    BootsInMemory,
    /// Refused claims count.
    CountsTheRefused,
    // Errors.
    /// Writes go on after one that failed.
    GoesOn,
    /// A write that does not fit is ignored, and acknowledged.
    Swallows,
    /// A range is cut to what is there.
    CutsRanges,
    /// Every error is one of I/O.
    AllIsIo,
    /// A message of many lines.
    Talks,
}

/// What survives between two openings.
#[derive(Clone)]
pub(crate) struct Disk {
    bug: Bug,
    inner: MemLogStore,
    groups: Arc<Mutex<BTreeSet<GroupId>>>,
    extra_boots: Arc<Mutex<u64>>,
}

impl Disk {
    pub(crate) fn new(bug: Bug) -> Self {
        Self { bug, inner: MemLogStore::new(), groups: Arc::default(), extra_boots: Arc::default() }
    }
}

/// A [`MemLogStore`] with one [`Bug`].
pub(crate) struct Broken {
    disk: Disk,
    /// What this opening has been told by threads that do not notice writes.
    remembered: Mutex<HashMap<(ThreadId, GroupId), (LogState, u64)>>,
    reading: Mutex<bool>,
    first_boot: Mutex<Option<u64>>,
    failed: Mutex<bool>,
    first_snapshots: Mutex<BTreeMap<GroupId, SnapshotMeta>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Broken {
    pub(crate) fn open(disk: &Disk) -> Self {
        let store = Self {
            disk: Disk { inner: disk.inner.clone(), ..disk.clone() },
            remembered: Mutex::default(),
            reading: Mutex::default(),
            first_boot: Mutex::default(),
            failed: Mutex::default(),
            first_snapshots: Mutex::default(),
        };
        store.forget();
        store
    }

    fn is(&self, bug: Bug) -> bool {
        self.disk.bug == bug
    }

    /// What is not on disk is gone.
    fn forget(&self) {
        let groups = lock(&self.disk.groups).clone();
        for group in groups {
            let last = now(self.disk.inner.load(group)).map_or(0, |state| state.last);
            let blank = Write { group, ..Write::default() };
            let lost = match self.disk.bug {
                Bug::LosesTheLastEntry => Write { truncate_from: Some(last), ..blank },
                Bug::LosesTheVote => Write { hard_state: Some(HardState::default()), ..blank },
                Bug::LosesTheOutline => Write { outline: Some(Outline::default()), ..blank },
                _ => return,
            };
            // Where the last entry is compacted, nothing of it can be lost.
            let _lost_or_not = now(self.disk.inner.clone().write(&[lost]));
        }
    }

    /// Each write as the bug has it; several, where it is done in steps.
    fn twisted(&self, mut write: Write) -> Vec<Write> {
        let state = now(self.disk.inner.load(write.group)).unwrap_or_default();
        match self.disk.bug {
            Bug::TermInOneByte => {
                write.entries.iter_mut().for_each(|entry| entry.id.term &= 0xff);
            }
            Bug::NoopIsCommand => each_payload(&mut write, |payload| {
                if *payload == Payload::Noop {
                    *payload = Payload::Command(Vec::new().into());
                }
            }),
            Bug::EmptyIsNoop => each_command(&mut write, |command| {
                if command.is_empty() { Payload::Noop } else { Payload::Command(command) }
            }),
            Bug::LengthInTwoBytes => each_command(&mut write, |mut command| {
                command.truncate(command.len() & 0xffff);
                Payload::Command(command)
            }),
            Bug::TrailingZeros => each_command(&mut write, |mut command| {
                let kept = command.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
                command.truncate(kept);
                Payload::Command(command)
            }),
            Bug::RowsFirst => {
                let rows = Write {
                    group: write.group,
                    hard_state: write.hard_state.take(),
                    outline: write.outline.take(),
                    snapshot: write.snapshot.take(),
                    ..Write::default()
                };
                return vec![rows, write];
            }
            Bug::BeginsTheGroup if state == LogState::default() && write.hard_state.is_some() => {
                let begun = Write { hard_state: write.hard_state, group: write.group, ..Write::default() };
                return vec![begun, write];
            }
            Bug::InTwoSteps => {
                let first = Write {
                    group: write.group,
                    truncate_from: write.truncate_from.take(),
                    hard_state: write.hard_state.take(),
                    ..Write::default()
                };
                return vec![first, write];
            }
            Bug::TruncatesOnlyToReplace if write.entries.is_empty() => write.truncate_from = None,
            Bug::TruncatesOneLess if write.entries.is_empty() => {
                write.truncate_from = write.truncate_from.map(|from| from.saturating_add(1));
            }
            Bug::TruncatesOneMore if write.entries.is_empty() => {
                write.truncate_from = write.truncate_from.map(|from| if from > 1 { from - 1 } else { from });
            }
            Bug::TruncatesTheVote if write.truncate_from.is_some() => {
                write.hard_state = Some(write.hard_state.unwrap_or_default());
            }
            Bug::TruncatesTheNextGroup if write.truncate_from == Some(1) => {
                let group = GroupId(write.group.0.saturating_add(1));
                return vec![write, Write { group, truncate_from: Some(1), ..Write::default() }];
            }
            Bug::CompactsOneLess => write.compact_to = write.compact_to.map(|mark| mark.saturating_sub(1)),
            Bug::MarkWithinTheLog if write.entries.is_empty() && state.last > 0 => {
                write.compact_to = write.compact_to.map(|mark| mark.min(state.last));
            }
            Bug::CompactsFirst
                if state.last > 0
                    && write.compact_to > Some(state.last)
                    && !write.entries.is_empty()
                    && write.truncate_from.is_none() =>
            {
                write.compact_to = Some(state.last);
            }
            Bug::GroupInOneByte => write.group.0 &= 0xff,
            Bug::NodeZeroIsNobody => {
                if let Some(hard_state) = &mut write.hard_state {
                    hard_state.vote = hard_state.vote.filter(|node| node.0 != 0);
                }
            }
            Bug::OutlineForgotten => write.outline = Some(write.outline.unwrap_or_default()),
            Bug::SnapshotKept => {
                if let Some(snapshot) = write.snapshot {
                    let first = lock(&self.first_snapshots).entry(write.group).or_insert(snapshot).clone();
                    write.snapshot = Some(first);
                }
            }
            Bug::Judges => {
                write.hard_state = write.hard_state.filter(|next| next.term >= state.hard_state.term);
            }
            _ => {}
        }
        vec![write]
    }

    async fn carry_out(&self, writes: &[Write]) -> Result<(), StorageError> {
        if *lock(&self.failed) {
            return Err(StorageError::new(StorageErrorKind::Failed, "an earlier write failed"));
        }
        let first_group = writes.first().map(|write| write.group);
        let mut outcome = Ok(());
        for write in writes {
            if self.is(Bug::OneGroupACall) && Some(write.group) != first_group {
                continue;
            }
            lock(&self.disk.groups).insert(write.group);
            for part in self.twisted(write.clone()) {
                let written = match self.disk.bug {
                    // A store that never fails for good.
                    Bug::GoesOn | Bug::SkipsTheRefused | Bug::Swallows => {
                        self.disk.inner.clone().write(&[part]).await
                    }
                    _ => self.disk.inner.write(&[part]).await,
                };
                match (self.disk.bug, written) {
                    (_, Ok(())) | (Bug::Swallows, Err(_)) => {}
                    (Bug::SkipsTheRefused, Err(error)) => outcome = Err(error),
                    (_, Err(error)) => return Err(error),
                }
                if self.is(Bug::InTwoSteps) {
                    // Wide enough for a reader to see what is between.
                    thread::sleep(Duration::from_micros(200));
                }
            }
        }
        *lock(&self.failed) |= outcome.is_err();
        outcome
    }

    fn told(&self, error: StorageError) -> StorageError {
        match self.disk.bug {
            Bug::AllIsIo => StorageError::new(StorageErrorKind::Io, error.to_string()),
            Bug::Talks => StorageError::new(error.kind(), format!("an error!\n{error}")),
            _ => error,
        }
    }

    async fn read_all(
        &self,
        group: GroupId,
        range: RangeInclusive<Index>,
    ) -> Result<Vec<Entry>, StorageError> {
        let (mut first, mut last) = range.into_inner();
        if self.is(Bug::CutsRanges) {
            last = last.min(self.disk.inner.load(group).await?.last);
            if first > last {
                return Ok(Vec::new());
            }
            first = first.max(1);
        }
        let mut read = self.disk.inner.read(group, first..=last, usize::MAX).await?;
        if self.is(Bug::IndexAsText) {
            read.sort_by_key(|entry| entry.index().to_string());
        }
        Ok(read)
    }
}

/// What `MemLogStore` gives: it never waits.
fn now<T>(future: impl Future<Output = Result<T, StorageError>>) -> Result<T, StorageError> {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(result) => result,
        std::task::Poll::Pending => unreachable!("a store in memory does not wait"),
    }
}

fn each_payload(write: &mut Write, change: impl Fn(&mut Payload)) {
    write.entries.iter_mut().for_each(|entry| change(&mut entry.payload));
}

fn each_command(write: &mut Write, change: impl Fn(bytes::Bytes) -> Payload) {
    each_payload(write, |payload| {
        if let Payload::Command(command) = payload {
            *payload = change(command.clone());
        }
    });
}

#[async_trait]
impl LogStore for Broken {
    async fn claim(
        &self,
        cluster: ClusterId,
        node: NodeId,
        fresh: Incarnation,
    ) -> Result<Claim, StorageError> {
        let inner = &self.disk.inner;
        if *lock(&self.failed) {
            return Err(StorageError::new(StorageErrorKind::Failed, "an earlier write failed"));
        }
        let mut claim = match self.disk.bug {
            Bug::Anyones => inner.claim(ClusterId(1), NodeId(1), fresh).await?,
            Bug::CountsTheRefused => {
                let claimed = inner.claim(cluster, node, fresh).await;
                *lock(&self.disk.extra_boots) += u64::from(claimed.is_err());
                claimed?
            }
            _ => inner.claim(cluster, node, fresh).await.map_err(|error| self.told(error))?,
        };
        claim.boot += *lock(&self.disk.extra_boots);
        if self.is(Bug::AlwaysFresh) {
            claim.incarnation = fresh;
        }
        if self.is(Bug::BootsInMemory) {
            claim.boot = claim.boot - *lock(&self.first_boot).get_or_insert(claim.boot) + 1;
        }
        Ok(claim)
    }

    async fn load(&self, mut group: GroupId) -> Result<LogState, StorageError> {
        if self.is(Bug::GroupInOneByte) {
            group.0 &= 0xff;
        }
        let state = self.disk.inner.load(group).await?;
        if !self.is(Bug::ThreadsRemember) {
            return Ok(state);
        }
        let mut remembered = lock(&self.remembered);
        let (known, uses) =
            remembered.entry((thread::current().id(), group)).or_insert_with(|| (state.clone(), 0));
        *uses += 1;
        if *uses % 8 == 0 {
            *known = state;
        }
        Ok(known.clone())
    }

    async fn write(&self, writes: &[Write]) -> Result<(), StorageError> {
        lock(&self.remembered).retain(|(thread, _), _| *thread != thread::current().id());
        self.carry_out(writes).await.map_err(|error| self.told(error))
    }

    async fn read(
        &self,
        mut group: GroupId,
        range: RangeInclusive<Index>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        if self.is(Bug::GroupInOneByte) {
            group.0 &= 0xff;
        }
        if self.is(Bug::OneReadAtATime) {
            let before = std::mem::replace(&mut *lock(&self.reading), true);
            if before {
                std::future::pending::<()>().await;
            }
            yield_once().await;
            *lock(&self.reading) = false;
        }
        let read = self.read_all(group, range).await.map_err(|error| self.told(error))?;
        let (mut kept, mut bytes) = (Vec::new(), 0);
        for entry in read {
            bytes += match self.disk.bug {
                Bug::NoOverhead => entry.bytes() - Entry::OVERHEAD_BYTES,
                _ => entry.bytes(),
            };
            let full = bytes > max_bytes;
            match self.disk.bug {
                Bug::NoLimit => {}
                Bug::OneBeyondTheLimit if full => {
                    kept.push(entry);
                    break;
                }
                Bug::NothingBeyondTheLimit if full => break,
                Bug::SkipsTheLarge if full && !kept.is_empty() => {
                    bytes -= entry.bytes();
                    continue;
                }
                _ if full && !kept.is_empty() => break,
                _ => {}
            }
            kept.push(entry);
        }
        Ok(kept)
    }
}

async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
