//! raft-core beside openraft and raft-rs in one run: the same commands, clients and runtime settings, alternately, several rounds, each
//! run in a process of its own.
//!
//!     cargo run --release --manifest-path raft-bench/peers/Cargo.toml
//!
//! `--durable` compares over redb with an fsync a commit instead of in memory. `--help` shows the rest.
#![forbid(unsafe_code)]

mod drive;
mod openraft_0_10;
mod openraft_0_9;
mod ours;
mod persist;
mod raft_rs;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::time::Duration;

use drive::{Failure, Load, Measured};

const HELP: &str = "raft-peers [--durable] [--clients N,..] [--rounds N] [--seconds S] [--only NAME,..]

  --durable      over redb, an fsync a commit, instead of in memory
  --clients N,.. default: 1,64,256,1024,4096; with --durable 1,64,1024
  --rounds N     how often each is run, in turn; default: 5
  --seconds S    how long each run is measured; default: 1.5
  --only NAME,.. of: raft-core, openraft-0.9, openraft-0.10, raft-rs (not with --durable)";

/// What is compared, the first one with the others.
const IN_MEMORY: [&str; 4] = ["raft-core", "openraft-0.9", "openraft-0.10", "raft-rs"];

/// raft-rs brings no log store but the one in memory, and no order of writing to be compared.
const DURABLE: [&str; 3] = ["raft-core", "openraft-0.9", "openraft-0.10"];

/// The argument of the process that does one run.
const ONE: &str = "--one";

struct Arguments {
    durable: bool,
    clients: Vec<usize>,
    rounds: usize,
    seconds: f64,
    subjects: Vec<String>,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut durable, mut clients, mut rounds, mut seconds, mut only) = (false, None, 5, 1.5, None);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            let wrong = |error: &dyn std::fmt::Display| format!("{argument}: {error}");
            match argument.as_str() {
                "--durable" => durable = true,
                "--clients" => {
                    let parsed: Result<Vec<usize>, _> = value()?.split(',').map(str::parse).collect();
                    clients = Some(parsed.map_err(|error| wrong(&error))?);
                }
                "--rounds" => rounds = value()?.parse().map_err(|error| wrong(&error))?,
                "--seconds" => seconds = value()?.parse().map_err(|error| wrong(&error))?,
                "--only" => only = Some(value()?.split(',').map(str::to_owned).collect::<Vec<_>>()),
                _ => return Err(HELP.to_owned()),
            }
        }
        let all: &[&str] = if durable { &DURABLE } else { &IN_MEMORY };
        let subjects = only.unwrap_or_else(|| all.iter().map(|&name| name.to_owned()).collect());
        if subjects.iter().any(|name| !all.contains(&name.as_str())) || rounds == 0 {
            return Err(HELP.to_owned());
        }
        let usual = || if durable { vec![1, 64, 1024] } else { vec![1, 64, 256, 1024, 4096] };
        Ok(Self { durable, clients: clients.unwrap_or_else(usual), rounds, seconds, subjects })
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let done = if arguments.next_if(|first| first == ONE).is_some() {
        one(&arguments.collect::<Vec<_>>())
    } else {
        Arguments::parse(arguments).map_err(Failure::from).and_then(|arguments| compare(&arguments))
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// One run in this process; what was measured goes to stdout.
fn one(arguments: &[String]) -> Result<(), Failure> {
    let [subject, clients, seconds, durable] = arguments else { return Err(HELP.into()) };
    let load = Load {
        clients: clients.parse()?,
        warm_up: Duration::from_millis(500),
        measure: Duration::try_from_secs_f64(seconds.parse()?)?,
        counted: if durable == "true" { 1 } else { 16 },
    };
    let folder = if durable == "true" { Some(tempfile::tempdir()?) } else { None };
    let folder = folder.as_ref().map(|folder| folder.path());
    // As many workers as processors, for nodes and clients together: everybody's default.
    let runtime = tokio::runtime::Runtime::new()?;
    let measured = runtime.block_on(async {
        match subject.as_str() {
            "raft-core" => ours::run(load, folder).await,
            "openraft-0.9" => openraft_0_9::run(load, folder).await,
            "openraft-0.10" => openraft_0_10::run(load, folder).await,
            "raft-rs" => raft_rs::run(load).await,
            _ => Err(HELP.into()),
        }
    })?;
    println!("{} {}", measured.rate, measured.cpu_us);
    // What still runs is of no interest any more.
    runtime.shutdown_background();
    Ok(())
}

fn run_apart(subject: &str, clients: usize, arguments: &Arguments) -> Result<Measured, Failure> {
    let output = Command::new(std::env::current_exe()?)
        .args([
            ONE,
            subject,
            &clients.to_string(),
            &arguments.seconds.to_string(),
            &arguments.durable.to_string(),
        ])
        .output()?;
    let (text, complaint) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(rate), Some(cpu_us)) => Ok(Measured { rate: rate?, cpu_us: cpu_us? }),
        _ => Err(format!("{subject} with {clients} clients: {complaint}").into()),
    }
}

fn compare(arguments: &Arguments) -> Result<(), Failure> {
    let kind = if arguments.durable { "over redb, an fsync a commit" } else { "in memory" };
    println!(
        "3 nodes {kind}, 64-byte commands, messages moved and not serialised; {} rounds of {} s, alternately",
        arguments.rounds, arguments.seconds
    );
    let mut all: BTreeMap<(usize, &str), Vec<Measured>> = BTreeMap::new();
    for round in 1..=arguments.rounds {
        for &clients in &arguments.clients {
            for subject in &arguments.subjects {
                eprintln!("round {round}: {subject}, {clients} clients");
                all.entry((clients, subject)).or_default().push(run_apart(subject, clients, arguments)?);
            }
        }
    }
    println!(
        "\n{:>8}  {:<14} {:>12} {:>12} {:>10} {:>14} {:>14}",
        "clients", "", "ops/s median", "best", "cpu us/op", "median: times", "best: times"
    );
    for &clients in &arguments.clients {
        let summary = |subject: &String| Some(Summary::of(all.get(&(clients, subject.as_str()))?));
        let first = arguments.subjects.first().and_then(summary);
        for subject in &arguments.subjects {
            let (Some(of), Some(ours)) = (summary(subject), first) else {
                continue;
            };
            println!(
                "{clients:>8}  {subject:<14} {:>12.0} {:>12.0} {:>10.2} {:>14.2} {:>14.2}",
                of.rate,
                of.best_rate,
                of.cpu_us,
                ours.rate / of.rate,
                ours.best_rate / of.best_rate,
            );
        }
    }
    println!("\ncpu us/op: the median; times: how many times as many operations the first one does");
    Ok(())
}

/// What is told of the rounds of one subject.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Summary {
    /// The median, as is the next.
    rate: f64,
    cpu_us: f64,
    best_rate: f64,
}

impl Summary {
    fn of(runs: &[Measured]) -> Self {
        Self {
            rate: median(runs.iter().map(|run| run.rate).collect()),
            cpu_us: median(runs.iter().map(|run| run.cpu_us).collect()),
            best_rate: runs.iter().map(|run| run.rate).fold(0.0, f64::max),
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_processor_time_are_those_of_the_middle_round() {
        let runs = [(10.0, 5.0), (30.0, 1.0), (20.0, 3.0)].map(|(rate, cpu_us)| Measured { rate, cpu_us });
        assert_eq!(Summary::of(&runs), Summary { rate: 20.0, cpu_us: 3.0, best_rate: 30.0 });
    }
}
