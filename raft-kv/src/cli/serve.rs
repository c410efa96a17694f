//! `raft-kv serve`

use std::io::{self, IsTerminal, Read};
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::serve::ListenerExt as _;
use clap::{Args, value_parser};
use raft_core::log_store::{StorageError, StorageErrorKind};
use raft_core::message::Dismissal;
use raft_core::runtime::SnapshotPlace;
use raft_core::{LogStore, NodeOptions, Raft, RaftError};
use raft_storage_redb::RedbLogStore;
use raft_transport_quic::{Credentials, QuicOptions, QuicTransport};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use super::join::join;
use super::{Failure, Output, parse_address};
use crate::api::{Api, MemberChange, RequestLimits, router};
use crate::client::Client;
use crate::store::Store;

/// The node's log within its data folder.
pub(super) const LOG_FILE: &str = "log.redb";

/// The node's snapshots within its data folder.
pub(super) const SNAPSHOT_FOLDER: &str = "snapshots";

/// How much memory the log's pages may take: the state is in memory, and the log is written and read at its end.
const LOG_CACHE_BYTES: usize = 16 << 20;

/// How long requests under way may take to end once the node is told to stop.
const DRAIN: Duration = Duration::from_secs(3);

/// How long the node may take to stop after that.
const STOP: Duration = Duration::from_secs(10);

/// What a parent writes to the stdin of a node that it lets live on.
pub(crate) const DETACH: &[u8] = b"detach\n";

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The node's data folder; made if it is not there.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The folder of the node's certificate, from `raft-kv certs`. It names cluster and node.
    #[arg(long, value_name = "DIR")]
    certs: PathBuf,
    /// The address to listen on for the other nodes (QUIC over UDP, encrypted).
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7001")]
    listen: SocketAddr,
    /// The address to listen on for clients (HTTP, not encrypted: keep it on loopback or behind a TLS proxy).
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8001", value_parser = parse_address)]
    http: String,
    /// The address that the other nodes reach this one at, if it is not the one listened on.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    advertise: Option<String>,
    /// The address that clients reach this node at, if it is not the one listened on.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    advertise_http: Option<String>,
    /// Ask a cluster to take this node in, at the HTTP addresses of one or more of its members, separated by commas. Where the node has
    /// a place already, nothing more is done: the same command starts it for the first time and ever after.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = parse_address)]
    join: Vec<String>,
    /// With --join: get the log and no vote.
    #[arg(long, requires = "join")]
    learner: bool,
    /// How much this node is wanted as leader, from 0 to 255: leadership goes to the node with the highest.
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    priority: u8,
    /// Where this node founds a cluster: the cluster has lease reads, for clocks that run at most so much faster or slower than true,
    /// in parts of a million, such as 1000. It stays with the cluster.
    #[arg(long, value_name = "PPM")]
    lease_clock_drift: Option<u32>,
    /// The most of snapshots to send to other nodes, in MiB a second; if not given, as fast as it goes.
    #[arg(long, value_name = "MIB")]
    snapshot_rate: Option<NonZero<u64>>,
    /// Take a snapshot and shorten the log after so many entries, beside what the bytes of the log ask for.
    #[arg(long, value_name = "COUNT")]
    snapshot_entries: Option<NonZero<u64>>,
    /// The most that the requests of clients may hold in memory at once, in MiB; beyond it they are refused.
    #[arg(long, value_name = "MIB", default_value = "64", value_parser = value_parser!(u16).range(1..))]
    max_request_mib: u16,
    /// Before each operation on the log's disk, look into this file for the trouble to make: stall, fail, fail-sync, fail-read,
    /// full, "full BYTES", or nothing.
    #[cfg(feature = "fault")]
    #[arg(long, value_name = "FILE")]
    fault_file: Option<PathBuf>,
    /// What to log to stderr, such as `info` or `raft_core=debug`; if not given, RUST_LOG, else `info`.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Ends with the process that started it: when stdin ends, unless it said `detach` before.
    #[arg(long, hide = true)]
    follow_stdin: bool,
}

#[derive(Serialize)]
struct ReadyBody {
    node: u64,
    cluster: String,
    address: String,
    http: String,
    data: String,
}

pub(super) async fn run(args: ServeArgs, output: Output) -> Result<(), Failure> {
    start_log(args.log.as_deref())?;
    if args.listen.ip().is_unspecified() && args.advertise.is_none() {
        let message =
            format!("--listen {}: also say with --advertise where the others reach it", args.listen);
        return Err(Failure::Usage(message));
    }
    if args.follow_stdin {
        std::thread::Builder::new().name("follow-stdin".to_owned()).spawn(follow_stdin)?;
    }
    let mut stop = StopSignals::new()?;
    let Started { raft, log, transport, http } = start(&args).await?;
    let local = raft.local();
    let http_address = http.local_addr().map_err(|e| cannot_listen("--http", &args.http, &e))?;
    if !http_address.ip().is_loopback() {
        warn!("{http_address} takes clients without encryption: put TLS in front of it");
    }
    let ready = ReadyBody {
        node: local.peer.node.0,
        cluster: local.cluster.to_string(),
        address: raft.address().to_owned(),
        http: http_address.to_string(),
        data: args.data.display().to_string(),
    };
    let text = format!(
        "node {} of cluster {} is ready: nodes at {}, clients at http://{}",
        ready.node, ready.cluster, ready.address, ready.http
    );
    let api = Api::new(raft.clone()).map_err(|e| Failure::refused(format!("no HTTP client: {e}")))?;
    let max_bytes = usize::from(args.max_request_mib) << 20;
    let limits = RequestLimits { max_bytes, ..RequestLimits::default() };
    let api = api.with_limits(limits).with_log(log).with_transport(transport);
    let (drain, drained) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(
        http.tap_io(|stream| {
            // An answer is one small write: waiting for more would only delay it. If it fails, it is slower.
            let _ = stream.set_nodelay(true);
        }),
        router(Arc::new(api)),
    )
    .with_graceful_shutdown(async {
        let _ = drained.await;
    });
    let mut server = tokio::spawn(server.into_future());
    match output.result(&text, &ready) {
        // Whoever started the node need not read on.
        Ok(()) | Err(Failure::ClosedPipe) => {}
        Err(failure) => return Err(failure),
    }
    let mut watches =
        vec![tokio::spawn(tell_fatal(raft.clone())), tokio::spawn(tell_dismissed(raft.clone()))];
    if !args.join.is_empty() {
        let change = MemberChange::Join {
            id: local.peer.node.0,
            address: raft.address().to_owned(),
            client_address: client_address(&args, http_address),
            learner: args.learner,
            incarnation: local.peer.incarnation.to_string(),
        };
        watches.push(tokio::spawn(join(raft.clone(), Client::new(&args.join)?, change)));
    }
    let result = tokio::select! {
        signal = stop.next() => {
            info!("stopping: told to by {signal}");
            Ok(())
        }
        _ = &mut server => Err(Failure::refused("the HTTP server ended by itself")),
    };
    let stopped = async {
        if result.is_ok() {
            hand_over(&raft).await;
        }
        let _ = drain.send(());
        if result.is_ok() && tokio::time::timeout(DRAIN, &mut server).await.is_err() {
            server.abort();
        }
        if tokio::time::timeout(STOP, raft.shutdown()).await.is_err() {
            warn!("the node did not stop in time: it ends as it is, which its log survives");
        }
    };
    tokio::select! {
        () = stopped => info!("stopped"),
        _ = stop.next() => return Err(Failure::refused("told to stop twice: ended at once")),
    }
    watches.iter().for_each(JoinHandle::abort);
    result
}

/// A node that runs, and what its interface looks at.
struct Started {
    raft: Raft<Store>,
    log: Weak<dyn LogStore>,
    transport: Weak<QuicTransport>,
    http: TcpListener,
}

/// Opens everything that can be in the way before anything is written: certificates, ports, then the data folder.
async fn start(args: &ServeArgs) -> Result<Started, Failure> {
    let credentials = Credentials::load(&args.certs).map_err(|e| {
        Failure::refused(format!("certificates in {}: {e}; see `raft-kv certs --help`", args.certs.display()))
    })?;
    let http = TcpListener::bind(&args.http).await.map_err(|e| cannot_listen("--http", &args.http, &e))?;
    let http_address = http.local_addr().map_err(|e| cannot_listen("--http", &args.http, &e))?;
    let mut quic = QuicOptions::default();
    quic.advertise.clone_from(&args.advertise);
    let mut options = NodeOptions::new(credentials.cluster(), credentials.node());
    options.config.priority = args.priority;
    options.config.lease_clock_drift_ppm = args.lease_clock_drift;
    options.snapshots = SnapshotPlace::folder(args.data.join(SNAPSHOT_FOLDER));
    options.snapshot_bytes_per_second = args.snapshot_rate.map(|megabytes| megabytes.get() << 20);
    if let Some(entries) = args.snapshot_entries {
        options.config.snapshot_entries = entries.get();
        options.config.keep_entries = options.config.keep_entries.min(entries.get());
    }
    options.client_address = client_address(args, http_address);
    let transport = QuicTransport::bind(&args.listen.to_string(), credentials, quic)
        .map_err(|e| Failure::refused(format!("--listen {}: {e}", args.listen)))?;
    let opened = tokio::task::spawn_blocking(opener(args)).await;
    let store = opened
        .map_err(|_| Failure::refused("opening the data folder failed: see the log above"))?
        .map_err(|e| {
            let more = match e.kind() {
                StorageErrorKind::Corrupt => {
                    "; see `raft-kv log verify --help` and `raft-kv log repair --help`"
                }
                _ => "",
            };
            Failure::refused(format!("data folder {}: {e}{more}", args.data.display()))
        })?;
    let store = Arc::new(store);
    let log = Arc::downgrade(&store);
    let quic = Arc::new(transport);
    let transport = Arc::downgrade(&quic);
    let raft = Raft::start(options, store, quic, Store::default())
        .await
        .map_err(|e| Failure::refused(format!("cannot start on data folder {}: {e}", args.data.display())))?;
    Ok(Started { raft, log, transport, http })
}

/// Where clients reach the node.
fn client_address(args: &ServeArgs, http_address: SocketAddr) -> String {
    args.advertise_http.clone().unwrap_or_else(|| http_address.to_string())
}

/// Opens the log, on a disk that can be put into trouble where that was asked for.
fn opener(args: &ServeArgs) -> impl FnOnce() -> Result<RedbLogStore, StorageError> + Send + 'static {
    let path = args.data.join(LOG_FILE);
    #[cfg(feature = "fault")]
    let fault_file = args.fault_file.clone();
    move || {
        let options = raft_storage_redb::Options::default().cache_bytes(LOG_CACHE_BYTES);
        #[cfg(feature = "fault")]
        if let Some(file) = fault_file {
            use raft_storage_redb::testing::{Faults, open_with_faults};

            return open_with_faults(path, &options, &Faults::control_file(file));
        }
        RedbLogStore::open_with(path, &options)
    }
}

fn cannot_listen(flag: &str, address: &str, error: &io::Error) -> Failure {
    Failure::refused(format!("cannot listen on {address}: {error}; choose another address with {flag}"))
}

fn start_log(filter: Option<&str>) -> Result<(), Failure> {
    let filter = match filter {
        Some(filter) => EnvFilter::try_new(filter).map_err(|e| {
            Failure::Usage(format!("--log {filter}: {e}; write such as info or raft_core=debug"))
        })?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
    log.map_err(|e| Failure::refused(format!("cannot log: {e}")))
}

/// Another node leads before this one refuses its clients: they wait for a round trip, not for an election.
async fn hand_over(raft: &Raft<Store>) {
    match raft.transfer_leadership(None).await {
        Ok(leader) => info!("node {leader} leads now"),
        Err(RaftError::NotLeader { .. }) => {}
        Err(error) => warn!("{error}"),
    }
}

/// A node that has stopped for good goes on to answer, refuses, and says why in its status.
async fn tell_fatal(raft: Raft<Store>) {
    let mut status = raft.status();
    if let Ok(status) = status.wait_for(|status| status.fatal.is_some()).await
        && let Some(reason) = &status.fatal
    {
        error!("the node takes no part any more: {reason}");
    }
}

/// A node that does not count any more goes on to run, in vain.
async fn tell_dismissed(raft: Raft<Store>) {
    let mut status = raft.status();
    let node = raft.local().peer.node;
    if let Ok(status) = status.wait_for(|status| status.dismissed.is_some()).await
        && let Some(dismissal) = status.dismissed
    {
        match dismissal {
            Dismissal::Removed => warn!("the cluster has removed this node: it can be stopped"),
            _ => warn!(
                "the cluster does not count this node any more, since it has forgotten what it had confirmed: stop it, empty its \
                 data folder, start it again, then `raft-kv member readmit {node}`"
            ),
        }
    }
}

/// SIGINT and SIGTERM.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for one; gives its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Ends the process at once when stdin ends: the parent is gone, however it went.
fn follow_stdin() {
    let mut heard = Vec::new();
    let mut buffer = [0; 16];
    let mut stdin = io::stdin().lock();
    while let Ok(count) = stdin.read(&mut buffer)
        && count > 0
    {
        heard.extend_from_slice(&buffer[..count]);
        if heard.starts_with(DETACH) {
            return;
        }
        heard.truncate(DETACH.len());
    }
    std::process::exit(1);
}
