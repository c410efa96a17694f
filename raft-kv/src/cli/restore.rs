//! `raft-kv restore`

use std::fs;
use std::path::PathBuf;

use clap::Args;
use raft_core::Membership;
use raft_core::offline::begin_from_snapshot;
use raft_core::runtime::{SnapshotFile, SnapshotPlace};
use raft_core::types::{GroupId, Incarnation};
use raft_storage_redb::RedbLogStore;
use raft_transport_quic::Credentials;
use serde::Serialize;

use super::serve::{LOG_FILE, SNAPSHOT_FOLDER};
use super::{Failure, Output};

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The file that `raft-kv backup` wrote.
    #[arg(long, value_name = "FILE")]
    backup: PathBuf,
    /// The new node's data folder; made if it is not there. It must not hold a log.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The folder of the new node's certificate, from `raft-kv certs`. It names the new cluster and the node.
    #[arg(long, value_name = "DIR")]
    certs: PathBuf,
}

#[derive(Serialize)]
struct RestoreBody {
    data: String,
    cluster: String,
    node: u64,
    from_cluster: String,
    term: u64,
    index: u64,
}

/// The snapshot first, the log that rests on it last: broken off in between, it can be repeated.
pub(super) async fn run(args: RestoreArgs, output: Output) -> Result<(), Failure> {
    let credentials = Credentials::load(&args.certs).map_err(|e| {
        Failure::refused(format!("certificates in {}: {e}; see `raft-kv certs --help`", args.certs.display()))
    })?;
    let (cluster, node) = (credentials.cluster(), credentials.node());
    let backup = SnapshotFile::open(&args.backup)
        .map_err(|e| Failure::refused(format!("backup {}: {e}", args.backup.display())))?;
    if backup.cluster() == cluster {
        return Err(Failure::refused(format!(
            "the backup is of this very cluster, {cluster}: its nodes could meet those of the restored one; make certificates \
             of a new one with `raft-kv certs`"
        )));
    }
    let log = args.data.join(LOG_FILE);
    if fs::exists(&log)? {
        return Err(Failure::refused(format!(
            "{} is there already: restore into a new data folder",
            log.display()
        )));
    }
    let told = |error: std::io::Error| Failure::refused(format!("{}: {error}", args.data.display()));
    fs::create_dir_all(&args.data).map_err(told)?;
    let from_cluster = backup.cluster();
    let last = backup.meta().last;
    let place = SnapshotPlace::folder(args.data.join(SNAPSHOT_FOLDER));
    let mut state = backup.state().map_err(told)?;
    let group = GroupId::default();
    let meta = place.write(cluster, group, last, &Membership::default(), &mut state).map_err(told)?;

    let refused = |error: &dyn std::fmt::Display| {
        Failure::refused(format!("data folder {}: {error}", args.data.display()))
    };
    let store = RedbLogStore::open(&log).map_err(|e| refused(&e))?;
    let fresh = Incarnation(fastrand::u64(1..));
    begin_from_snapshot(&store, cluster, node, fresh, group, meta).await.map_err(|e| refused(&e))?;
    let body = RestoreBody {
        data: args.data.display().to_string(),
        cluster: cluster.to_string(),
        node: node.0,
        from_cluster: from_cluster.to_string(),
        term: last.term,
        index: last.index,
    };
    let text = format!(
        "OK {} holds the state of cluster {} up to entry {}.{}, as node {} of cluster {}: serve it, then found the cluster with \
         `raft-kv init --node` and its HTTP address",
        body.data, body.from_cluster, body.term, body.index, body.node, body.cluster
    );
    output.result(&text, &body)
}
