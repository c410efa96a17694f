//! `raft-kv init`

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;

use super::{Failure, Output, parse_address, parse_seconds};
use crate::api::{Founder, InitBody, host_and_port};
use crate::client::Client;

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Each founding member as id=raft-address,http-address, such as 1=127.0.0.1:7001,127.0.0.1:8001.
    #[arg(required = true, value_name = "MEMBER", value_parser = parse_founder)]
    members: Vec<Founder>,
    /// The HTTP address of the member to ask; if not given, the first member's.
    #[arg(long, value_parser = parse_address)]
    node: Option<String>,
    /// The longest to wait, in seconds, at most 60.
    #[arg(long, default_value = "30", value_parser = parse_seconds)]
    timeout: Duration,
}

pub(super) async fn run(args: InitArgs, output: Output) -> Result<(), Failure> {
    let ids: BTreeSet<u64> = args.members.iter().map(|member| member.id).collect();
    if ids.len() != args.members.len() {
        return Err(Failure::Usage("two members have the same id: give each node once".to_owned()));
    }
    let Some(first) = args.members.first() else {
        return Err(Failure::Usage("give at least one member".to_owned()));
    };
    let node = args.node.unwrap_or_else(|| first.client_address.clone());
    let client = Client::new(&[node])?.with_timeout(args.timeout);
    let founded = client.init(&InitBody { members: args.members }).await?;
    output.result(&format!("OK a cluster of {} founded", founded.members.len()), &founded)
}

pub(super) fn parse_founder(text: &str) -> Result<Founder, String> {
    let form = "write id=raft-address,http-address, such as 1=127.0.0.1:7001,127.0.0.1:8001";
    let (id, addresses) = text.split_once('=').ok_or(form)?;
    let id = id.parse().map_err(|_| form)?;
    let (address, client_address) = addresses.split_once(',').ok_or(form)?;
    host_and_port(address)?;
    host_and_port(client_address)?;
    Ok(Founder { id, address: address.to_owned(), client_address: client_address.to_owned() })
}
