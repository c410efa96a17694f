//! `raft-kv lease`

use clap::{Args, Subcommand};

use super::{ClientArgs, Failure, Output};
use crate::api::LeaseBody;

#[derive(Debug, Args)]
pub(super) struct LeaseArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Lease reads, from now on with these numbers.
    On {
        /// How much faster or slower than true the nodes' clocks run at most, in parts of a million.
        #[arg(long, value_name = "PPM", default_value_t = 1_000)]
        clock_drift: u32,
        /// The election timeout that all nodes keep to, in milliseconds.
        #[arg(long, value_name = "MS", default_value_t = 500)]
        election_timeout: u64,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// No lease reads: those who ask for one get a linearizable read by a round.
    Off {
        #[command(flatten)]
        client: ClientArgs,
    },
}

pub(super) async fn run(args: LeaseArgs, output: Output) -> Result<(), Failure> {
    let (lease, client) = match args.what {
        What::On { clock_drift, election_timeout, client } => {
            let lease = LeaseBody { election_timeout_ms: election_timeout, clock_drift_ppm: clock_drift };
            (Some(lease), client)
        }
        What::Off { client } => (None, client),
    };
    let changed = client.client()?.set_lease(lease).await?;
    let so = if lease.is_some() { "on" } else { "off" };
    let text = if changed.changed {
        format!("OK lease reads are {so}")
    } else {
        format!("OK lease reads were {so}, with the same numbers")
    };
    output.result(&text, &changed)
}
