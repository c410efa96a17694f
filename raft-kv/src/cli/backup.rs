//! `raft-kv backup`

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use raft_core::runtime::SnapshotFile;
use serde::Serialize;

use super::{Failure, Output, parse_address};
use crate::client::Client;

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The file to write; it must not be there yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Take what the first of the nodes has, though it may lag behind: no leader is needed.
    #[arg(long)]
    stale: bool,
    /// HTTP addresses of one or more nodes, host:port, separated by commas.
    #[arg(long, visible_alias = "node", env = "RAFT_KV_NODES", value_delimiter = ',', value_parser = parse_address)]
    #[arg(default_value = "127.0.0.1:8001")]
    nodes: Vec<String>,
    /// The longest to wait for the snapshot to be taken, in seconds.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

#[derive(Serialize)]
struct BackupBody {
    file: String,
    cluster: String,
    term: u64,
    index: u64,
    size_bytes: u64,
    checksum: String,
}

/// Nothing stands under the final name but a whole backup whose checksum is right.
pub(super) async fn run(args: BackupArgs, output: Output) -> Result<(), Failure> {
    if fs::exists(&args.out)? {
        return Err(Failure::Usage(format!("{} is there already: name another file", args.out.display())));
    }
    let part = part_of(&args.out)?;
    let result = fetch(&args, &part).await;
    if result.is_err() {
        // What cannot be removed is of no harm: it is no backup by its name.
        let _ = fs::remove_file(&part);
    }
    let body = result?;
    let text = format!(
        "OK {}: cluster {} up to entry {}.{}, {} bytes",
        body.file, body.cluster, body.term, body.index, body.size_bytes
    );
    output.result(&text, &body)
}

async fn fetch(args: &BackupArgs, part: &Path) -> Result<BackupBody, Failure> {
    let told = |error: io::Error| Failure::refused(format!("{}: {error}", part.display()));
    // Before anything is asked for: whether it can be written at all.
    let mut file = fs::File::create(part).map_err(told)?;
    let client = Client::new(&args.nodes)?.with_timeout(Duration::from_secs(args.timeout));
    let mut backup = client.backup(args.stale).await?;
    while let Some(chunk) = backup.chunk().await? {
        file.write_all(&chunk).map_err(told)?;
    }
    file.sync_all().map_err(told)?;
    drop(file);
    let checked = SnapshotFile::open(part)
        .map_err(|e| Failure::refused(format!("what arrived is no backup: {e}; repeat it")))?;
    let meta = checked.meta();
    // Not over a file that came meanwhile.
    fs::hard_link(part, &args.out)
        .map_err(|e| Failure::refused(format!("cannot make {}: {e}", args.out.display())))?;
    fs::remove_file(part).map_err(told)?;
    let folder = args.out.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()).map_err(told)?;
    Ok(BackupBody {
        file: args.out.display().to_string(),
        cluster: checked.cluster().to_string(),
        term: meta.last.term,
        index: meta.last.index,
        size_bytes: meta.size_bytes,
        checksum: format!("{:08x}", meta.checksum),
    })
}

/// Where a backup grows: beside its final name, so that it only needs another one.
fn part_of(out: &Path) -> Result<PathBuf, Failure> {
    let name = out.file_name().ok_or_else(|| {
        Failure::Usage(format!("{} names no file: say where the backup goes", out.display()))
    })?;
    let mut part = name.to_owned();
    part.push(".part");
    Ok(out.with_file_name(part))
}
