//! Reads beside a write.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use super::bench::*;
use super::topic;
use crate::log_store::{LogState, LogStore, StorageErrorKind, Write};
use crate::testing::{display, polled};
use crate::types::{Entry, GroupId, Index};

topic! { Concurrency:
    reads_see_what_returned_before "a read from any thread sees each write that returned before it began",
    many_readers "many threads read at once, each what is there",
    writes_are_seen_whole "a load beside a write sees all of it or nothing",
    replaced_entries_are_seen_whole "a read beside a truncation gives entries of before or of after, never of both",
    reads_beside_compaction "a read beside a compaction gives what was asked for, or is refused as invalid once it is gone",
    calls_are_seen_in_order "whoever sees a write of a call sees those before it",
    reads_of_another_group "writes to one group do not disturb reads of another",
    two_reads_of_one_task "reads may be begun before earlier ones have ended",
}

/// The writer goes on until it wrote this often and the readers have read as often ...
const ROUNDS: u64 = 150;
/// ... but no longer than this, where readers are slow.
const MAX_ROUNDS: u64 = 2_000;

/// What readers of the store get, in their own threads.
struct Reader<'a> {
    store: &'a dyn LogStore,
    patience: Duration,
}

impl<'a> Reader<'a> {
    fn of(bench: &'a Bench) -> Result<Self, Failure> {
        Ok(Self { store: bench.store()?, patience: bench.patience })
    }

    fn wait<T>(&self, call: impl Future<Output = T>) -> Result<T, Failure> {
        let late = || Failure::new("a call ends", format!("it still waits after {:?}", self.patience));
        polled::wait(call, self.patience).ok_or_else(late)
    }

    fn load(&self, group: GroupId) -> Result<LogState, Failure> {
        let loaded = self.wait(self.store.load(group))?;
        loaded.map_err(|error| Failure::new("load beside a write succeeds", error.to_string()))
    }

    /// `None` where the read is refused as invalid.
    fn read(&self, group: GroupId, first: Index, last: Index) -> Result<Option<Vec<Entry>>, Failure> {
        let read = self.wait(self.store.read(group, first..=last, usize::MAX))?;
        match read {
            Ok(entries) => Ok(Some(entries)),
            Err(error) if error.kind() == StorageErrorKind::Invalid => Ok(None),
            Err(error) => Err(Failure::new("read beside a write succeeds", error.to_string())),
        }
    }
}

/// Runs `write` round by round, and beside it two threads that call `read` all the time, at least once.
fn beside(
    bench: &Bench,
    write: impl Fn(u64) -> Vec<Write>,
    read: impl Fn(&Reader<'_>) -> Check + Sync,
) -> Result<u64, Failure> {
    let reader = Reader::of(bench)?;
    let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Barrier::new(3);
    let mut rounds = 0;
    let (written, readers) = thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    loop {
                        let outcome = read(&reader);
                        if outcome.is_err() {
                            done.store(true, Ordering::Release);
                            return outcome;
                        }
                        reads.fetch_add(1, Ordering::AcqRel);
                        if done.load(Ordering::Acquire) {
                            return Ok(());
                        }
                    }
                })
            })
            .collect();
        start.wait();
        let written = loop {
            rounds += 1;
            match reader.wait(reader.store.write(&write(rounds))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => break Err(Failure::new("write succeeds", error.to_string())),
                Err(late) => break Err(late),
            }
            let enough = rounds >= ROUNDS && reads.load(Ordering::Acquire) >= ROUNDS;
            if enough || rounds >= MAX_ROUNDS || done.load(Ordering::Acquire) {
                break Ok(());
            }
        };
        done.store(true, Ordering::Release);
        let readers: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        (written, readers)
    });
    let panic = |_| Err(Failure::new("reading beside writes ends", "a panic"));
    let readers = readers.into_iter().map(|reader| reader.unwrap_or_else(panic));
    [written].into_iter().chain(readers).collect::<Check>().map_err(|failure| failed(bench, &failure))?;
    Ok(rounds)
}

/// What came up in a thread, with the steps before.
fn failed(bench: &Bench, failure: &Failure) -> Failure {
    bench.failure(failure.expected(), failure.came())
}

fn reads_see_what_returned_before(bench: &mut Bench) -> Check {
    let reads = Reader::of(bench)?;
    let outcome = thread::scope(|scope| {
        // A small buffer, so that neither side is done before the other begins.
        let (written, returned) = sync_channel(2);
        let reader = scope.spawn(|| {
            for index in returned {
                let state = reads.load(GROUP)?;
                if state.last < index || state.hard_state.commit < index {
                    let came =
                        format!("last index {}, {}", state.last, display::hard_state(&state.hard_state));
                    return Err(Failure::new(format!("what write {index} wrote, which had returned"), came));
                }
                if reads.read(GROUP, index, index)? != Some(entries(1, index, index)) {
                    let expected = format!("entry {index}, whose write had returned");
                    return Err(Failure::new(expected, "another or none"));
                }
            }
            Ok(())
        });
        for index in 1..=ROUNDS {
            let hard_state = Some(hard_state(1, 1, index));
            let write = [Write { hard_state, ..append(entries(1, index, index)) }];
            let wrote = reads.wait(reads.store.write(&write))?;
            wrote.map_err(|error| Failure::new("write succeeds", error.to_string()))?;
            if written.send(index).is_err() {
                break;
            }
        }
        drop(written);
        reader.join().unwrap_or_else(|_| Err(Failure::new("reading beside writes ends", "a panic")))
    });
    outcome.map_err(|failure| failed(bench, &failure))
}

fn many_readers(bench: &mut Bench) -> Check {
    let all = entries(1, 1, 300);
    for part in all.chunks(40) {
        bench.write(append(part.to_vec()))?;
    }
    let reads = Reader::of(bench)?;
    let outcome = thread::scope(|scope| {
        let readers: Vec<_> = (0..6_u64)
            .map(|reader| {
                let (all, reads) = (&all, &reads);
                scope.spawn(move || {
                    for round in 0..20 {
                        let first = 1 + (reader * 41 + round * 13) % 290;
                        let read = reads.read(GROUP, first, first + 9)?;
                        if read.as_deref() != Some(&all[first as usize - 1..first as usize + 9]) {
                            let came = display::entries(&read.unwrap_or_default());
                            return Err(Failure::new(format!("entries {first} to {}", first + 9), came));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let panic = |_| Err(Failure::new("reading ends", "a panic"));
        readers.into_iter().try_for_each(|reader| reader.join().unwrap_or_else(panic))
    });
    outcome.map_err(|failure| failed(bench, &failure))?;
    bench.check()
}

fn writes_are_seen_whole(bench: &mut Bench) -> Check {
    beside(
        bench,
        |round| {
            vec![Write {
                truncate_from: Some(1),
                hard_state: Some(hard_state(round, round, round % 7 + 1)),
                ..append(entries(round, 1, round % 7 + 1))
            }]
        },
        |reader| {
            let state = reader.load(GROUP)?;
            if state.last == state.hard_state.commit {
                return Ok(());
            }
            let expected = "a last index and a commit index that were written together";
            let came = format!("last index {}, {}", state.last, display::hard_state(&state.hard_state));
            Err(Failure::new(expected, came))
        },
    )?;
    Ok(())
}

fn replaced_entries_are_seen_whole(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 30)))?;
    beside(
        bench,
        |round| vec![Write { truncate_from: Some(5), ..append(entries(round + 1, 5, 30)) }],
        |reader| {
            let read = reader.read(GROUP, 5, 30)?.unwrap_or_default();
            if read.len() == 26 && read.iter().all(|entry| entry.term() == read[0].term()) {
                return Ok(());
            }
            Err(Failure::new("entries 5 to 30, all of one term", display::entries(&read)))
        },
    )?;
    Ok(())
}

fn reads_beside_compaction(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 10)))?;
    bench.write(Write { compact_to: Some(3), ..append(Vec::new()) })?;
    let rounds = beside(
        bench,
        |round| vec![Write { compact_to: Some(round), ..append(entries(1, round + 10, round + 10)) }],
        |reader| {
            // Whether the second read is overtaken is chance; the first is refused always.
            if let Some(read) = reader.read(GROUP, 1, 2)? {
                let expected = "kind Invalid for entries 1 to 2, which are compacted";
                return Err(Failure::new(expected, display::entries(&read)));
            }
            let last = reader.load(GROUP)?.last;
            let first = last.saturating_sub(8);
            match reader.read(GROUP, first, last)? {
                Some(read) if read != entries(1, first, last) => Err(Failure::new(
                    format!("entries {first} to {last}, or kind Invalid"),
                    display::entries(&read),
                )),
                _ => Ok(()),
            }
        },
    )?;
    let state = bench.load(GROUP)?;
    if state.last == rounds + 10 {
        return Ok(());
    }
    Err(bench.failure(format!("last index {}", rounds + 10), state.last.to_string()))
}

fn calls_are_seen_in_order(bench: &mut Bench) -> Check {
    let (first, second) = (GroupId(1), GroupId(2));
    let write = |group, round| Write {
        hard_state: Some(hard_state(round, 1, round)),
        ..append_to(group, Vec::new())
    };
    beside(
        bench,
        |round| vec![write(first, round), write(second, round)],
        |reader| {
            // The later write first: what is seen of the earlier can only be newer.
            let later = reader.load(second)?.hard_state.term;
            let earlier = reader.load(first)?.hard_state.term;
            if earlier >= later {
                return Ok(());
            }
            let expected = format!("term {later} or later in group 1, as group 2 has it by a later write");
            Err(Failure::new(expected, format!("term {earlier}")))
        },
    )?;
    Ok(())
}

fn reads_of_another_group(bench: &mut Bench) -> Check {
    let quiet = GroupId(2);
    bench.write(append_to(quiet, entries(7, 1, 25)))?;
    beside(
        bench,
        |round| vec![Write { truncate_from: Some(1), ..append(entries(round, 1, 25)) }],
        |reader| match reader.read(quiet, 1, 25)? {
            Some(read) if read == entries(7, 1, 25) => Ok(()),
            read => {
                let came = read.map_or("kind Invalid".to_owned(), |read| display::entries(&read));
                Err(Failure::new("entries 7.1 to 7.25 of group 2, as ever", came))
            }
        },
    )?;
    bench.check_group(quiet)
}

fn two_reads_of_one_task(bench: &mut Bench) -> Check {
    bench.write(append(entries(1, 1, 50)))?;
    let reads = Reader::of(bench)?;
    let mut early = reads.store.read(GROUP, 1..=50, usize::MAX);
    let begun = early.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    let late = reads.read(GROUP, 20, 30);
    let early = match begun {
        Poll::Ready(read) => {
            drop(early);
            Ok(read.ok())
        }
        Poll::Pending => reads.wait(early).map(Result::ok),
    };
    for (read, expected) in [(early, entries(1, 1, 50)), (late, entries(1, 20, 30))] {
        match read.map_err(|failure| failed(bench, &failure))? {
            Some(read) if read == expected => {}
            Some(read) => return Err(bench.failure(display::entries(&expected), display::entries(&read))),
            None => return Err(bench.failure("both reads succeed", "one fails")),
        }
    }
    bench.check()
}
