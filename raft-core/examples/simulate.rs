//! Runs the simulator over many seeds:
//! `cargo run --release -p raft-core --example simulate --features testing -- --seeds 400`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use raft_core::testing::sim::{self, Options};

const HELP: &str = "\
Simulates Raft clusters with faults, one for each seed.

  --seeds N    how many seeds (400)
  --start S    the first seed (0)
  --events E   events with faults in each seed (20000)
  --jobs J     seeds at a time (one for each processor)
  --keep-going do not stop at the first seed that breaks something";

struct Arguments {
    seeds: u64,
    start: u64,
    events: u64,
    jobs: u64,
    keep_going: bool,
}

fn arguments() -> Result<Option<Arguments>, String> {
    let jobs = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let mut arguments = Arguments { seeds: 400, start: 0, events: 20_000, jobs, keep_going: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or_else(|| format!("{word} needs a number"))?;
            value.parse::<u64>().map_err(|_| format!("{word} {value}: not a number"))
        };
        match word.as_str() {
            "--seeds" => arguments.seeds = number()?,
            "--start" => arguments.start = number()?,
            "--events" => arguments.events = number()?,
            "--jobs" => arguments.jobs = number()?.max(1),
            "--keep-going" => arguments.keep_going = true,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("{other}: no such option; see --help")),
        }
    }
    Ok(Some(arguments))
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::from(2);
        }
    };
    if run(&arguments) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How many seeds broke something.
fn run(arguments: &Arguments) -> u64 {
    let Arguments { seeds, start, events, jobs, keep_going } = *arguments;
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let mut counters: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut done, mut failed) = (0_u64, 0);
    std::thread::scope(|scope| {
        let (results, finished) = mpsc::channel();
        for _ in 0..jobs {
            let (results, next, stop) = (results.clone(), &next, &stop);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= seeds || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    if results.send(sim::run(&Options::new(start + number).events(events))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        let mut told = Instant::now();
        for result in finished {
            done += 1;
            match result {
                Ok(report) => {
                    for (name, count) in report.counters {
                        *counters.entry(name).or_default() += count;
                    }
                }
                Err(failure) => {
                    failed += 1;
                    println!("{failure}\n");
                    if let Some(smallest) = sim::shrink(&Options::new(failure.seed).events(events)) {
                        println!("the smallest run that breaks the same:\n{smallest}\n");
                    }
                    stop.fetch_or(!keep_going, Ordering::Relaxed);
                }
            }
            if told.elapsed().as_secs() >= 5 {
                told = Instant::now();
                let rate = done as f64 / began.elapsed().as_secs_f64();
                eprintln!("{done} of {seeds} seeds, {rate:.1} a second, {failed} broke something");
            }
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    for (name, count) in &counters {
        println!("{count:>12} {name}");
    }
    println!(
        "seeds {start} to {}: {done} of {events} events in {seconds:.1} s ({:.0} a minute), {failed} broke something",
        (start + done).saturating_sub(1),
        done as f64 / seconds * 60.0
    );
    failed
}
