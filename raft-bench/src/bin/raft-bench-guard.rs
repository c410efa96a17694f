//! Counts the instructions of engine and codec, and holds them against a baseline: a count does not depend on how busy the machine is, so it
//! shows a regression of a few percent. Needs valgrind.
//!
//!     cargo run --release -p raft-bench --bin raft-bench-guard -- check
//!     cargo run --release -p raft-bench --bin raft-bench-guard -- record
//!
//! `check` fails where a count is more than [`MARGIN_PERCENT`] above the baseline. After a change that is meant to be, or another compiler,
//! `record` writes the baseline anew.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use bytes::Bytes;
use raft_bench::backend::Failure;
use raft_bench::messages::{answer, append};
use raft_bench::trio::Trio;
use raft_core::codec::wire;
use raft_core::message::Envelope;

/// So much more may be an accident of how the compiler laid things out.
const MARGIN_PERCENT: f64 = 5.0;

/// The argument of the process that is counted.
const ONE: &str = "--one";

/// What is counted, and how many operations (proposals, messages, entries) it does.
const SCENARIOS: [(&str, u64); 7] = [
    ("engine/propose/window=1", 2_000),
    ("engine/propose/window=64", 64 * 100),
    ("engine/propose/window=4096", 4096 * 4),
    ("engine/heartbeat", 500),
    ("codec/encode/64x64B", 64 * 100),
    ("codec/decode/64x64B", 64 * 100),
    ("codec/answer", 1_000),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["check"] => check(),
        ["record"] => record(),
        [ONE, name] => run(name).map(|()| true),
        _ => Err("usage: raft-bench-guard check | record".into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("raft-bench-guard: {error}");
            ExitCode::from(2)
        }
    }
}

fn baseline_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guard/baseline.txt")
}

/// The instructions of one operation, by scenario.
fn count_all() -> Result<BTreeMap<&'static str, f64>, Failure> {
    let mut counts = BTreeMap::new();
    for (name, operations) in SCENARIOS {
        counts.insert(name, count(name)? as f64 / operations as f64);
    }
    Ok(counts)
}

/// The instructions of [`measured`] in a run of its own under callgrind.
fn count(name: &str) -> Result<u64, Failure> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=*raft_bench_guard*measured*")
        .arg(std::env::current_exe()?)
        .args([ONE, name])
        .output()
        .map_err(|error| {
            format!("valgrind cannot be run ({error}): install it, such as by apt-get install valgrind")
        })?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    match collected {
        Some(count) if count > 0 && output.status.success() => Ok(count),
        _ => Err(format!("{name}: valgrind counted nothing:\n{text}").into()),
    }
}

/// What the line of the baseline with the compiler begins with.
const COMPILER: &str = "# Recorded with ";

/// The compiler, as it calls itself; where cargo runs this program, the one that made it.
fn compiler() -> Result<String, Failure> {
    let output = Command::new("rustc").arg("--version").output();
    let output = output.map_err(|error| format!("rustc cannot be asked for its version: {error}"))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// What is to be known of the compilers where a count is too high.
fn about_compilers(baseline: &str, now: &str) -> String {
    match baseline.lines().find_map(|line| line.strip_prefix(COMPILER)) {
        Some(recorded) if recorded == now => format!("The compiler is the baseline's: {now}."),
        Some(recorded) => format!(
            "ANOTHER COMPILER: the baseline was recorded with {recorded}, this is {now}. What is above may be the compiler's work and no change \
             of the code: compare with the same compiler, or record the baseline anew with this one."
        ),
        None => format!("The baseline does not say which compiler it was recorded with; this is {now}."),
    }
}

fn record() -> Result<bool, Failure> {
    let mut text = String::from("# Instructions an operation: raft-bench-guard record\n");
    text += &format!("{COMPILER}{}\n", compiler()?);
    for (name, count) in count_all()? {
        text += &format!("{name} {count:.1}\n");
    }
    print!("{text}");
    fs::write(baseline_path(), text)?;
    Ok(true)
}

fn check() -> Result<bool, Failure> {
    let text = fs::read_to_string(baseline_path())?;
    let mut baseline = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, count) = line.rsplit_once(' ').ok_or("the baseline cannot be read")?;
        baseline.insert(name, count.parse::<f64>()?);
    }
    let mut right = true;
    println!("{:<30} {:>14} {:>14} {:>8}", "instructions an operation", "baseline", "now", "");
    for (name, now) in count_all()? {
        let before = *baseline.get(name).ok_or(format!("{name} is not in the baseline: record it"))?;
        let percent = (now / before - 1.0) * 100.0;
        let remark = if percent > MARGIN_PERCENT {
            right = false;
            "  TOO MANY"
        } else if percent < -MARGIN_PERCENT {
            "  fewer: record the baseline anew"
        } else {
            ""
        };
        println!("{name:<30} {before:>14.1} {now:>14.1} {percent:>+6.1} %{remark}");
    }
    if !right {
        eprintln!("{}\n{}", advice(), about_compilers(&text, &compiler()?));
    }
    Ok(right)
}

/// What to do where there are too many.
fn advice() -> String {
    format!(
        "raft-bench-guard: more than {MARGIN_PERCENT} % above the baseline in {}.\n\
         Where the change is not meant to cost that, find what costs it: valgrind --tool=callgrind, with --collect-atstart=no\n\
         --toggle-collect='*raft_bench_guard*measured*', on: raft-bench-guard {ONE} <scenario>; then callgrind_annotate.\n\
         Where it is, or the compiler is another: raft-bench-guard record, and commit the baseline with the reason.",
        baseline_path().display()
    )
}

/// Only what happens in here is counted.
#[inline(never)]
fn measured(work: &mut dyn FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
    black_box(work())
}

fn run(name: &str) -> Result<(), Failure> {
    let operations = SCENARIOS.iter().find(|(known, _)| *known == name).ok_or("no such scenario")?.1;
    match name {
        "engine/propose/window=1" => propose(1, operations),
        "engine/propose/window=64" => propose(64, operations),
        "engine/propose/window=4096" => propose(4096, operations),
        "engine/heartbeat" => {
            let mut trio = Trio::found(3)?;
            trio.propose(vec![command()])?;
            measured(&mut || {
                (0..operations).for_each(|_| trio.heartbeat());
                Ok(())
            })
        }
        "codec/encode/64x64B" => encode(&append(10, 64, 64), operations / 64),
        "codec/decode/64x64B" => decode(&append(10, 64, 64), operations / 64),
        _ => {
            encode(&answer(7), operations)?;
            decode(&answer(7), operations)
        }
    }
}

fn command() -> Bytes {
    Bytes::from(vec![7; 64])
}

/// What the batches are made of is made before: it is the client's.
fn propose(window: u64, operations: u64) -> Result<(), Failure> {
    let mut trio = Trio::found(3)?;
    let batch = || -> Vec<Bytes> { (0..window).map(|_| command()).collect() };
    for _ in 0..3 {
        trio.propose(batch())?;
    }
    let batches: Vec<Vec<Bytes>> = (0..operations / window).map(|_| batch()).collect();
    let mut batches = batches.into_iter();
    measured(&mut || batches.by_ref().try_for_each(|batch| trio.propose(batch)))
}

const VERSION: u16 = *wire::VERSIONS.end();

fn encode(envelope: &Envelope, times: u64) -> Result<(), Failure> {
    let mut frame = Vec::with_capacity(1 << 16);
    measured(&mut || {
        for _ in 0..times {
            frame.clear();
            wire::encode_frame(VERSION, [black_box(envelope)], &mut frame)?;
        }
        Ok(())
    })
}

fn decode(envelope: &Envelope, times: u64) -> Result<(), Failure> {
    let mut frame = Vec::new();
    wire::encode_frame(VERSION, [envelope], &mut frame)?;
    let (header, body) = frame.split_first_chunk().ok_or("a frame has a header")?;
    let (header, body) = (*header, Bytes::copy_from_slice(body));
    measured(&mut || {
        for _ in 0..times {
            black_box(wire::decode_frame(VERSION, header, black_box(body.clone()))?);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_compiler_is_told_and_the_baseline_says_which_was_its_own() {
        let baseline = format!("# Instructions\n{COMPILER}rustc 1.95.0 (abc)\ncodec/answer 1.0\n");
        assert!(about_compilers(&baseline, "rustc 1.96.0 (def)").starts_with("ANOTHER COMPILER"));
        assert_eq!(
            about_compilers(&baseline, "rustc 1.95.0 (abc)"),
            "The compiler is the baseline's: rustc 1.95.0 (abc)."
        );
        assert!(about_compilers("codec/answer 1.0\n", "rustc 1.95.0 (abc)").contains("does not say"));
        let kept = fs::read_to_string(baseline_path()).unwrap();
        assert!(kept.lines().any(|line| line.starts_with(COMPILER)), "{kept}");
        assert!(compiler().unwrap().starts_with("rustc "));
    }
}
