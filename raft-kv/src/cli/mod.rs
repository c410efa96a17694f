//! The command line: one file a command. `docs/kv.md` describes it for users.

mod backup;
mod cas;
mod certs;
mod consistency;
mod del;
mod failure;
mod get;
mod init;
mod join;
mod lease;
mod log;
mod member;
mod put;
mod recover;
mod restore;
mod scan;
mod serve;
mod status;
mod table;
mod transfer;

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::Serialize;

use crate::api::host_and_port;
use crate::client::{Client, ClientError};
use crate::demo;

pub(crate) use certs::write_new;
pub(crate) use failure::Failure;
pub(crate) use serve::DETACH;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused or not found, 2 wrong usage, 3 outcome unknown \
                          (it may have happened).";

/// A replicated key-value store: every write is on a majority of disks before it is confirmed.
#[derive(Debug, Parser)]
#[command(name = "raft-kv", version, after_help = EXIT_CODES, max_term_width = 100, propagate_version = true)]
struct Cli {
    /// Print results as JSON on stdout, and errors as JSON on stderr.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See it work: three nodes, 28,298 real records, the leader killed on the way.
    Demo(demo::DemoArgs),
    /// Run one node.
    Serve(serve::ServeArgs),
    /// Make a development authority and the nodes' certificates.
    Certs(certs::CertsArgs),
    /// Found a cluster from running nodes.
    Init(init::InitArgs),
    /// Set a key.
    Put(put::PutArgs),
    /// Read a key.
    Get(get::GetArgs),
    /// Delete a key.
    Del(del::DelArgs),
    /// Set a key if it is as expected (compare-and-swap).
    Cas(cas::CasArgs),
    /// List keys in order.
    Scan(scan::ScanArgs),
    /// Show how the nodes are.
    Status(status::StatusArgs),
    /// Show and change who belongs to the cluster: add, remove, promote, demote, replace, readmit, move.
    Member(member::MemberArgs),
    /// Switch lease reads on or off, or change what they rest on.
    Lease(lease::LeaseArgs),
    /// Hand leadership to another node.
    Transfer(transfer::TransferArgs),
    /// Write the state of a running cluster into a file.
    Backup(backup::BackupArgs),
    /// Begin a new cluster's first node with the state of a backup.
    Restore(restore::RestoreArgs),
    /// Go on with one node alone when a majority is lost for good.
    Recover(recover::RecoverArgs),
    /// Look at a stopped node's log: what it holds, its entries, what is damaged; compact or repair it.
    Log(log::LogArgs),
}

/// How long a command tries to close its session.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How a command reaches the cluster.
#[derive(Debug, Args)]
struct ClientArgs {
    /// HTTP addresses of one or more nodes, host:port, separated by commas; any node will do.
    #[arg(long, visible_alias = "node", env = "RAFT_KV_NODES", value_delimiter = ',', value_parser = parse_address)]
    #[arg(default_value = "127.0.0.1:8001")]
    nodes: Vec<String>,
    /// The longest to wait, in seconds, at most 60.
    #[arg(long, default_value = "10", value_parser = parse_seconds)]
    timeout: Duration,
}

impl ClientArgs {
    fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(&self.nodes)?.with_timeout(self.timeout))
    }

    /// Makes a change in a session of its own, so that it happens once though it is repeated.
    async fn change<T>(
        &self,
        make: impl AsyncFnOnce(&Client) -> Result<T, ClientError>,
    ) -> Result<T, Failure> {
        let client = self.client()?.with_session();
        let made = make(&client).await;
        // What cannot be closed now expires later.
        let _open = client.with_timeout(CLOSE_TIMEOUT).close_session().await;
        Ok(made?)
    }
}

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints a result: `json` with `--json`, else `text`.
    pub(crate) fn result(self, text: &str, json: &impl Serialize) -> Result<(), Failure> {
        if self.json { self.line(&to_json(json)?) } else { self.line(text) }
    }

    pub(crate) fn line(self, line: &str) -> Result<(), Failure> {
        self.raw(line.as_bytes(), true)
    }

    pub(crate) fn raw(self, bytes: &[u8], end_line: bool) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        if end_line {
            stdout.write_all(b"\n")?;
        }
        Ok(stdout.flush()?)
    }
}

fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::refused(format!("the result cannot be written: {e}")))
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let json = args.iter().any(|arg| arg == "--json");
    let failure = match run(args) {
        Ok(()) => return ExitCode::SUCCESS,
        // Whoever reads the output has seen enough.
        Err(Failure::ClosedPipe) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    let line = if json { failure.json() } else { format!("raft-kv: {}", failure.line()) };
    // Nobody may be there to read it; the exit code tells too.
    let _ = writeln!(io::stderr(), "{line}");
    ExitCode::from(failure.exit_code())
}

fn run(args: Vec<OsString>) -> Result<(), Failure> {
    if args.len() <= 1 {
        let help = Cli::command().render_help();
        return Output { json: false }.raw(format!("try: raft-kv demo\n\n{help}").as_bytes(), false);
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return Err(Failure::usage_of(&error)),
        // Help and version, asked for.
        Err(error) => return Ok(error.print()?),
    };
    let output = Output { json: cli.json };
    match cli.command {
        Command::Demo(args) => on_all_cores(demo::run(args, output)),
        Command::Serve(args) => on_all_cores(serve::run(args, output)),
        Command::Certs(args) => certs::run(&args, output),
        Command::Init(args) => on_one_core(init::run(args, output)),
        Command::Put(args) => on_one_core(put::run(args, output)),
        Command::Get(args) => on_one_core(get::run(args, output)),
        Command::Del(args) => on_one_core(del::run(args, output)),
        Command::Cas(args) => on_one_core(cas::run(args, output)),
        Command::Scan(args) => on_one_core(scan::run(args, output)),
        Command::Status(args) => on_one_core(status::run(args, output)),
        Command::Member(args) => on_one_core(member::run(args, output)),
        Command::Lease(args) => on_one_core(lease::run(args, output)),
        Command::Transfer(args) => on_one_core(transfer::run(args, output)),
        Command::Backup(args) => on_one_core(backup::run(args, output)),
        Command::Restore(args) => on_one_core(restore::run(args, output)),
        Command::Recover(args) => on_one_core(recover::run(args, output)),
        Command::Log(args) => log::run(args, output),
    }
}

fn on_all_cores(task: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(task);
    // What still blocks (a read of stdin) must not hold the process.
    runtime.shutdown_background();
    result
}

fn on_one_core(task: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task)
}

fn parse_address(text: &str) -> Result<String, String> {
    host_and_port(text).map(|_| text.to_owned())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    seconds_up_to(60, text)
}

fn seconds_up_to(longest: u32, text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds, such as 10 or 0.5".to_owned())?;
    if (0.001..=f64::from(longest)).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("must be from 0.001 to {longest}"))
    }
}

/// A value from the command line, or, written as `-`, all of stdin.
fn value_of(argument: String) -> Result<Bytes, Failure> {
    use std::io::Read as _;

    if argument != "-" {
        return Ok(Bytes::from(argument));
    }
    let mut value = Vec::new();
    // One byte more than allowed is enough to refuse it.
    let limit = crate::command::MAX_VALUE_BYTES as u64 + 1;
    io::stdin()
        .lock()
        .take(limit)
        .read_to_end(&mut value)
        .map_err(|e| Failure::refused(format!("cannot read the value from stdin: {e}")))?;
    Ok(Bytes::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }
}
