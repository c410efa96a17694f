//! `raft-kv certs`

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use raft_core::types::{ClusterId, NodeId};
use raft_transport_quic::{CA_FILE, CERTIFICATE_FILE, CredentialsError, DevCa, KEY_FILE};
use serde::Serialize;

use super::{Failure, Output};

/// The development authority's private key, beside its certificate.
const CA_KEY_FILE: &str = "ca.key";

/// The most certificates to make at once.
const MAX_NODES: u64 = 99;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["nodes", "node"]))]
pub(super) struct CertsArgs {
    /// The folder to write to. An authority that is there already is used again.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Make certificates for the nodes 1 to N.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_NODES))]
    nodes: Option<u64>,
    /// Make a certificate for the node of this id; may be repeated.
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    node: Vec<u64>,
    /// Replace nodes' certificates that are there already. The authority is never replaced.
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct CertsBody {
    cluster: String,
    folder: String,
    nodes: Vec<NodeFolder>,
}

#[derive(Serialize)]
struct NodeFolder {
    id: u64,
    folder: String,
}

pub(super) fn run(args: &CertsArgs, output: Output) -> Result<(), Failure> {
    let mut ids = args.nodes.map_or_else(|| args.node.clone(), |count| (1..=count).collect());
    ids.sort_unstable();
    ids.dedup();
    if ids.len() as u64 > MAX_NODES {
        return Err(Failure::Usage(format!("at most {MAX_NODES} nodes at once")));
    }
    let folders = write_certs(&args.out, &ids, args.force)?;
    let mut text = format!("cluster {}\n", folders.cluster);
    for node in &folders.nodes {
        text += &format!("node {}: raft-kv serve --certs {} ..\n", node.id, node.folder);
    }
    text += &format!("keep {} secret: whoever has it can be any node", args.out.join(CA_KEY_FILE).display());
    output.result(&text, &folders)
}

fn write_certs(out: &Path, ids: &[u64], force: bool) -> Result<CertsBody, Failure> {
    let ca = authority(out)?;
    let folder_of = |id: u64| out.join(format!("node-{id}"));
    // First see that nothing is in the way, then write: all or nothing.
    if !force {
        for &id in ids {
            for name in [CERTIFICATE_FILE, KEY_FILE] {
                let path = folder_of(id).join(name);
                if path.try_exists().map_err(|e| cannot("look at", &path, &e))? {
                    let there = path.display();
                    return Err(Failure::refused(format!(
                        "{there} is there already, nothing was written: choose another folder, or replace it with --force"
                    )));
                }
            }
        }
    }
    let authority = match ca {
        Some(authority) => authority,
        None => found_authority(out)?,
    };
    let mut nodes = Vec::new();
    for &id in ids {
        let (certificate, key) = authority.issue_pem(NodeId(id)).map_err(|e| of_credentials(&e))?;
        let folder = folder_of(id);
        replace(&folder.join(CA_FILE), authority.ca_pem(), false)?;
        replace(&folder.join(KEY_FILE), &key, true)?;
        replace(&folder.join(CERTIFICATE_FILE), &certificate, false)?;
        nodes.push(NodeFolder { id, folder: folder.display().to_string() });
    }
    Ok(CertsBody { cluster: authority.cluster().to_string(), folder: out.display().to_string(), nodes })
}

/// The authority that is in the folder already.
fn authority(out: &Path) -> Result<Option<DevCa>, Failure> {
    let read = |name: &str| {
        let path = out.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(cannot("read", &path, &e)),
        }
    };
    match (read(CA_FILE)?, read(CA_KEY_FILE)?) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            DevCa::from_pem(&certificate, &key).map(Some).map_err(|e| of_credentials(&e))
        }
        (Some(_), None) | (None, Some(_)) => Err(Failure::refused(format!(
            "{} holds only one of {CA_FILE} and {CA_KEY_FILE}: bring the other back, or choose another folder",
            out.display()
        ))),
    }
}

fn found_authority(out: &Path) -> Result<DevCa, Failure> {
    let ca = DevCa::new(ClusterId(fastrand::u128(1..))).map_err(|e| of_credentials(&e))?;
    write_new(&out.join(CA_KEY_FILE), ca.ca_key_pem().as_bytes(), true)?;
    write_new(&out.join(CA_FILE), ca.ca_pem().as_bytes(), false)?;
    Ok(ca)
}

/// Writes a whole file in place of what may be there.
fn replace(path: &Path, text: &str, secret: bool) -> Result<(), Failure> {
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    write_new(&fresh, text.as_bytes(), secret)?;
    fs::rename(&fresh, path).map_err(|e| cannot("write", path, &e))
}

/// Writes a file that must not be there yet, and the folders above it; a secret one is its owner's alone.
pub(crate) fn write_new(path: &Path, bytes: &[u8], secret: bool) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let write = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mode = if secret { 0o600 } else { 0o644 };
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)
    };
    write().map_err(|e| cannot("write", path, &e))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::refused(format!("cannot {what} {}: {error}", path.display()))
}

fn of_credentials(error: &CredentialsError) -> Failure {
    Failure::refused(error.to_string())
}
