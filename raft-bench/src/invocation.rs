//! How a benchmark was called: our own flags beside criterion's.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use criterion::Criterion;

use crate::backend::Failure;

/// Set where the whole is to be measured; the flag `--whole` sets it.
const WHOLE: &str = "RAFT_BENCH_WHOLE";

/// The folder of the results; the flag `--results FOLDER` sets it.
const RESULTS: &str = "RAFT_BENCH_RESULTS";

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// A part that says most, in less than five minutes with [`parts`](crate::parts).
    Quick,
    /// Everything, with `--whole`: about three quarters of an hour, most of it replication.
    Whole,
}

/// What is measured, and where its results are kept.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// How much.
    pub preset: Preset,
    /// Keeps tables, and criterion's data, here; what is there already is not measured again.
    pub results: Option<PathBuf>,
    /// Only names are asked for.
    pub lists: bool,
}

impl Invocation {
    /// The quick preset, whose results are printed only.
    pub const fn quick() -> Self {
        Self { preset: Preset::Quick, results: None, lists: false }
    }

    /// What the arguments of this process say.
    ///
    /// Criterion reads the arguments of the process itself and knows no flag of ours, so the process is run again without them.
    fn of_process() -> Result<Self, ExitCode> {
        let mut others = Vec::new();
        let (mut whole, mut results) = (false, None);
        let mut arguments = std::env::args_os().skip(1);
        while let Some(argument) = arguments.next() {
            if argument == "--whole" {
                whole = true;
            } else if argument == "--results" {
                let Some(folder) = arguments.next() else {
                    eprintln!("--results wants a folder");
                    return Err(ExitCode::from(2));
                };
                results = Some(folder);
            } else {
                others.push(argument);
            }
        }
        if !whole && results.is_none() {
            let preset = if std::env::var_os(WHOLE).is_some() { Preset::Whole } else { Preset::Quick };
            let lists = others.iter().any(|argument| argument == "--list");
            return Ok(Self { preset, results: std::env::var_os(RESULTS).map(PathBuf::from), lists });
        }
        let again = std::env::current_exe().and_then(|program| {
            let mut command = Command::new(program);
            command.args(others);
            if whole {
                command.env(WHOLE, "1");
            }
            command.envs(results.map(|folder| (RESULTS, folder))).status()
        });
        match again {
            Ok(status) if status.success() => Err(ExitCode::SUCCESS),
            Ok(_) => Err(ExitCode::FAILURE),
            Err(error) => {
                eprintln!("cannot run again without the flags: {error}");
                Err(ExitCode::FAILURE)
            }
        }
    }

    /// Criterion as its arguments say, with times of ours where they say none.
    pub(crate) fn criterion(&self, quick: (Duration, Duration), whole: (Duration, Duration)) -> Criterion {
        let (warm_up, measurement) = match self.preset {
            Preset::Quick => quick,
            Preset::Whole => whole,
        };
        let criterion = Criterion::default()
            .sample_size(10)
            .warm_up_time(warm_up)
            .measurement_time(measurement)
            .nresamples(20_000)
            .without_plots()
            .configure_from_args();
        match &self.results {
            Some(folder) => criterion.output_directory(&criterion_data(folder)),
            None => criterion,
        }
    }
}

/// Where criterion keeps what belongs to the results in this folder.
pub(crate) fn criterion_data(results: &Path) -> PathBuf {
    results.join("criterion")
}

/// The whole `main` of a benchmark.
pub(crate) fn main(measure: impl FnOnce(&Invocation) -> Result<(), Failure>) -> ExitCode {
    let invocation = match Invocation::of_process() {
        Ok(invocation) => invocation,
        Err(done) => return done,
    };
    match measure(&invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot measure: {error}");
            ExitCode::FAILURE
        }
    }
}
